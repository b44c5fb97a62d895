"""Checks what is asked of `scriven sample`, before a model is read and once it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from scriven.cli.common import unescape
from scriven.errors import UsageError
from scriven.settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.session import Model


def check_novelty(novelty: bool, copied: bool, interactive: bool, until_end: bool) -> None:
    """Raises UsageError when texts would not be whole documents, or not whole."""
    if copied and interactive:
        raise UsageError("--copied is about a text as a whole, and --interactive writes lines; drop one of them")
    if novelty and (interactive or not until_end):
        flag = "--interactive" if interactive else "--no-until-end"
        raise UsageError(f"--novelty compares whole documents; drop {flag}")


def check_choosing(given: Mapping[str, bool]) -> None:
    """Raises UsageError when other flags are given that would do nothing, or without a terminal."""
    from scriven.cli.choose import check_terminal

    unused = [flag for flag, is_given in given.items() if is_given and flag != "--choose"]
    if unused:
        raise UsageError(f"with --choose you pick what comes next, so {', '.join(unused)} would do nothing; drop one")
    check_terminal()


def check_flags(sampling: SamplingSettings, greedy: bool, count: int | None, interactive: bool, as_json: bool) -> None:
    """Raises UsageError when flags contradict each other."""
    flags = ["--" + name.replace("_", "-") for name in sorted(sampling.model_fields_set - {"novel"})]
    if greedy and flags:
        raise UsageError(
            f"--greedy always picks the most likely character, so {', '.join(flags)} would do nothing; drop one"
        )
    count = 1 if count is None else count
    if count < 1:
        raise UsageError(f"--count {count}: give 1 or more")
    if count > 1 and (greedy or sampling.temperature == 0):
        raise UsageError(f"--count {count}: at temperature 0 all texts are the same; drop it, or raise --temperature")
    if interactive and (count > 1 or as_json):
        raise UsageError(f"--interactive shows one text at a time; drop {'--json' if as_json else '--count'}")


def choose_length(length: int | None, before_suffix: bool) -> int:
    """Returns how many characters a text has at most."""
    from scriven.inference.generation import LENGTH
    from scriven.inference.search import MIDDLE

    return (MIDDLE if before_suffix else LENGTH) if length is None else length


def check_numbers(length: int | None, seed: int | None) -> None:
    """Raises UsageError when one is below 0."""
    for flag, value in (("--length", length or 0), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: give 0 or more")


def check_prompt(prompt: str, file: str | None, choices: Mapping[str, str | None], *, interactive: bool) -> None:
    """Raises UsageError when flags contradict each other, or do not fit the prompt."""
    if prompt and file is not None:
        raise UsageError("--prompt and --prompt-file both give the text to continue; drop one")
    if file == "":
        raise UsageError("--prompt-file is empty, perhaps from an unset variable; name a file, or drop the flag")
    if any(choices.values()) and file is None and prompt != "-":
        raise UsageError(
            "--corpus.encoding and --corpus.invalid say how to read a prompt from a file; give --prompt-file FILE, or "
            "drop them"
        )
    if interactive and (prompt == "-" or file == "-"):
        raise UsageError("--interactive reads lines from standard input; give the prompt itself, or --prompt-file FILE")


def check_end(model: Model, flag: str) -> None:
    """Raises UsageError for a flag, if any, when the model has no documents, whose ends it could write."""
    if flag and not model.ends_texts:
        way_out = "give --length instead" if flag == "--until-end" else "drop it"
        raise UsageError(
            f"{flag}: this model has no documents, so its text never ends by itself; {way_out}, or train a model with "
            "--corpus.documents"
        )


def read_stops(stop: list[str]) -> list[str]:
    """Returns the stop strings with their escapes replaced. Raises UsageError when one is empty."""
    if not all(stop):
        raise UsageError("--stop is empty; give a stop string, or drop the flag")
    return [unescape("--stop", each) for each in stop]
