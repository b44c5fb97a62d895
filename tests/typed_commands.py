"""Commands that the documents tell people to type, with budgets cut to a few steps and models to a few weights.

Programs of tests import it, so that it imports nothing that is slow to start.
"""

import re
import shlex

SHELL_SYNTAX = {"|", ">", ">>", "<", "&&", ";"}

# What stands in place of what is written: any budget, and additions to every new training that does not give them.
BUDGET = re.compile(r"--(?:minutes|epochs|steps|characters)[ =]\S+")
STEPS, MORE_STEPS = "--steps 4", "--steps 8"  # of a new run, of a resumed one
CHECKPOINT = re.compile(r"(--(?:resume|checkpoint))[ =](?:epoch:)?\d+")
LAST = r"\1 4"  # the only checkpoint of a new run
SMALL = {
    "--model.width": "16",
    "--reader.batch": "4",
    "--reader.length": "16",
    "--training.workers": "1",
    "--training.threads": "1",
    "--training.evaluations": "1",
    "--training.evaluation-characters": "500",
    "--monitor.sample-length": "10",
}


def rewritten(line: str) -> list[str]:
    """The words of a `scriven` line as they are run here, up to where the shell takes over."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in SHELL_SYNTAX), len(words))]
    words = shlex.split(CHECKPOINT.sub(LAST, shlex.join(words)))
    if words[0] == "serve" and "--port" not in words:
        return [*words, "--port", "0"]
    if words[0] != "train":
        return words
    resumes = "--resume" in words and "auto" not in words  # which begins where there is nothing to resume
    words = shlex.split(BUDGET.sub("", shlex.join(words)) + " " + (MORE_STEPS if resumes else STEPS))
    given = {*words, *(["--reader.length"] if "theano-sentences" in words else [])}  # which reads whole sentences
    flags = SMALL | ({"--reader.batch": "32"} if "--training.groups" in given else {})
    small = [] if resumes else [word for flag, value in flags.items() if flag not in given for word in (flag, value)]
    return words + small
