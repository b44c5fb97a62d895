"""The command line: one file per command; errors become one sentence and an exit code here."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

BEGUN = time.monotonic()  # a time budget counts the whole command

from collections.abc import Sequence  # noqa: E402 - after the clock is started
from typing import Any  # noqa: E402

from cyclopts import App, CycloptsError  # noqa: E402

from scriven.cli.mistakes import UnknownOption, explain_usage, join_values, split_at_end, with_resume_value  # noqa: E402  # noqa: E402
from scriven.cli.streams import end_output, prepare_streams  # noqa: E402
from scriven.errors import Interrupted, ScrivenError, UsageError, shortage  # noqa: E402

INTERRUPTED = 130
INTERNAL = 1

COMMANDS = {  # module:function, imported only when the command is called, and one line of help
    "train": ("scriven.cli.train:train", "Train a model on your text."),
    "sample": ("scriven.cli.sample:sample", "Write text with a trained model."),
    "score": ("scriven.cli.score:score", "Measure how surprising a text is to a model."),
    "serve": ("scriven.cli.serve:serve", "Serve models on a web page and over an HTTP API."),
    "evaluate": ("scriven.cli.evaluate:evaluate", "Measure a model's loss on a text, by a protocol you choose."),
    "info": ("scriven.cli.info:info", "Describe a run, or show what Scriven uses on this machine."),
    "doctor": ("scriven.cli.doctor:doctor", "Check a run or corpus for damage."),
    "recipe": ("scriven.cli.recipe:app", "Show the recipes: settings that train the way a known system did."),
    "verify-resume": (
        "scriven.cli.verify_resume:verify_resume",
        "Check that resuming gives identical results on this machine.",
    ),
    "corpus": ("scriven.cli.corpus:app", "Turn text into a corpus (ids on disk), and show what is in one."),
}

SHORTAGES = {  # by what is short, as `shortage` names it; {} is a way out
    "memory": "there is not enough memory; {}, or raise the limit if one is set (ulimit -v)",
    "threads": "the system cannot start more threads or processes; {}, or raise the limit on them (ulimit -u)",
}
LESS = {  # what makes a command need less
    "train": "try a smaller --model.width or --reader.batch, or fewer --training.workers",
    "sample": "try a smaller --count, or close other programs",
    "verify-resume": "try fewer --workers, or close other programs",
}


class _FilledHelp:
    """Shows help with lines as wide as the terminal. Docstrings have lines as wide as the code."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Prints a table of commands or parameters."""
        from cyclopts.help import DefaultFormatter

        for entry in panel.entries:
            _join_lines(entry.description)
        DefaultFormatter()(console, options, panel)

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Prints the line of usage."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Prints the text above the tables."""
        _join_lines(description)
        console.print(description)


def _join_lines(help_text: Any) -> None:
    """Joins the lines of each paragraph."""
    from rich.text import Text

    text = getattr(help_text, "primary_renderable", None)
    if isinstance(text, Text):
        help_text.primary_renderable = Text(re.sub(r"(?<!\n)\n(?!\n)", " ", text.plain))


def make_app(words: Sequence[str]) -> App:
    """Makes the cyclopts app for these arguments. Only the command that they name is imported."""
    app = App(
        name="scriven",
        help="Small recurrent language models, trained on your own text, character by character.",
        help_format="plaintext",
        help_formatter=_FilledHelp(),
        version="scriven " + _version() if "--version" in words else None,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=None if name in words[:1] else line)
    app.command(
        "scriven.cli.train:worker", name="worker", help="Join a training run that another process leads.", show=False
    )
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 success, 2 usage, 3 bad input, 4 diverged, 130/143 interrupted or terminated."""
    traceback, words, app = False, [""], None
    try:
        options, rest = split_at_end(sys.argv[1:] if arguments is None else arguments)
        traceback = "--traceback" in options
        words = with_resume_value([*(word for word in options if word != "--traceback"), *rest]) or ["--help"]
        prepare_streams()
        if not traceback:  # otherwise torch prints pages of its own stack for an error of one sentence
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        _notice_termination()
        app = make_app(words)
        app(join_values(app, words), exit_on_error=False, print_error=False, help_on_error=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough and has left, as `head` does
        end_output()
    except (CycloptsError, UnknownOption) as error:
        _fail(explain_usage(error, app or make_app(words), words), UsageError.exit_code)
    except KeyboardInterrupt as error:
        _fail(*_describe_error(error, words[0]))
    except Exception as error:
        if traceback:
            raise
        _fail(*_describe_error(error, words[0]))


def _notice_termination() -> None:
    """Makes SIGTERM end a command as Ctrl-C does, with a code of its own. Training has handlers of its own."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise_terminated)


def _raise_terminated(number: int, frame: object) -> None:
    raise Interrupted("stopped", number)


def _describe_error(error: BaseException, command: str) -> tuple[str, int]:
    """Returns one sentence on what went wrong, and the exit code."""
    if isinstance(error, ScrivenError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped", INTERRUPTED
    if lacking := shortage(error):
        return SHORTAGES[lacking].format(LESS.get(command, "close other programs")), ScrivenError.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", ScrivenError.exit_code
    return f"this is a bug in Scriven ({type(error).__name__}: {error}); --traceback shows where", INTERNAL


def _fail(message: str, code: int) -> None:
    """Prints one sentence on standard error and exits. It is escaped, since names in it may be hostile."""
    end_output()
    sys.stderr.write(f"scriven: {_make_harmless(' '.join(message.splitlines()))}\n")
    sys.stderr.flush()
    if _others_are_waited_for():  # they may never answer, and Python would not exit before they do
        os._exit(code)
    sys.exit(code)


def _make_harmless(message: str) -> str:
    """Returns the message without control characters, or in plain ASCII if memory is too short for that check."""
    try:
        from scriven.report import visible

        return visible(message)
    except (ImportError, MemoryError, OSError):
        return ascii(message)[1:-1]


def _others_are_waited_for() -> bool:
    """Whether this process waits for others that train with it. False when that code was never imported."""
    collectives = sys.modules.get("scriven.distributed.collectives")
    return collectives is not None and bool(collectives.has_abandoned_calls())


def _version() -> str:
    from importlib.metadata import version

    return version("scriven")


__all__ = ["BEGUN", "main", "make_app"]
