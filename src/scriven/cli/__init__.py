"""The command line: one file per command; errors become one sentence and an exit code here."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time

BEGUN = time.monotonic()  # a time budget counts the whole command

from collections.abc import Sequence  # noqa: E402 - after the clock is started

from cyclopts import App, CycloptsError  # noqa: E402
from rich.console import Console  # noqa: E402

from scriven.errors import Interrupted, ScrivenError, UsageError  # noqa: E402
from scriven.surrogates import WRITTEN  # noqa: E402

INTERRUPTED = 130
INTERNAL = 1
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")  # words of torch's

COMMANDS = {  # module:function, imported only when the command is called; and one line of help
    "train": ("scriven.cli.train:train", "Train a model of your text."),
    "sample": ("scriven.cli.sample:sample", "Write text with a trained model."),
    "score": ("scriven.cli.score:score", "Measure how surprising a text is to a model."),
    "serve": ("scriven.cli.serve:serve", "Serve models over HTTP."),
    "evaluate": ("scriven.cli.evaluate:evaluate", "Measure a model's loss on a text, by a named protocol."),
    "info": ("scriven.cli.info:info", "Show what a run is, or how this machine would compute."),
    "doctor": ("scriven.cli.doctor:doctor", "Look whether a run or a corpus is whole."),
    "recipe": ("scriven.cli.recipe:app", "Show the recipes: files of settings that train as a known system did."),
    "verify-resume": ("scriven.cli.verify_resume:verify_resume", "Prove that a training resumes exactly here."),
    "corpus": ("scriven.cli.corpus:app", "Turn text into a corpus (ids on disk), and tell what is in one."),
}


def make_app(words: Sequence[str]) -> App:
    """The command line as cyclopts sees it, for these arguments. Only the command that they name is imported."""
    app = App(
        name="scriven",
        help="Small recurrent language models, trained on your own text, character by character.",
        help_format="plaintext",
        version="scriven " + _version() if "--version" in words else None,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=None if name in words[:1] else line)
    app.command(
        "scriven.cli.train:worker", name="worker", help="Join a training that another process leads.", show=False
    )
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 success, 2 usage, 3 bad input, 4 diverged, 130/143 interrupted or terminated."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in words
    words = with_resume_value([word for word in words if word != "--traceback"]) or ["--help"]
    _accept_any_text()
    if not traceback:  # torch writes pages of its own source's places on standard error, for what is told in a sentence
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        _notice_termination()
        make_app(words)(words, exit_on_error=False, print_error=False, help_on_error=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _end_output()
    except (CycloptsError, KeyboardInterrupt) as error:
        _fail(*_told(error))
    except Exception as error:
        if traceback:
            raise
        _fail(*_told(error))


def _notice_termination() -> None:
    """Being terminated ends a command as Ctrl-C does, with a code of its own; a training listens itself."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: object) -> None:
    raise Interrupted("stopped", number)


def _accept_any_text() -> None:
    """Bytes that are not UTF-8 come and go as lone surrogates, as in corpora that keep them; whatever the locale.

    A model of bytes may write other half characters too.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, WRITTEN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _told(error: BaseException) -> tuple[str, int]:
    """The sentence for what went wrong, and the exit code."""
    if isinstance(error, CycloptsError):
        return _one_line(error), UsageError.exit_code
    if isinstance(error, ScrivenError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped", INTERRUPTED
    if _out_of_memory(error):
        return "there is not enough memory; try a smaller --model.width or --reader.batch", ScrivenError.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", ScrivenError.exit_code
    return f"a mistake in scriven itself ({type(error).__name__}: {error}); --traceback shows where", INTERNAL


def _out_of_memory(error: BaseException) -> bool:
    """Whether it says that there is not enough memory; torch has no type for that on a CPU."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return said or isinstance(error, MemoryError)


def with_resume_value(words: list[str]) -> list[str]:
    """`--resume` may stand alone: its value is then `last`."""
    result = []
    for word, after in zip(words, [*words, ""][1:], strict=True):
        result.append(
            "--resume=last" if word == "--resume" and not (after in {"last", "auto"} or after.isdecimal()) else word
        )
    return result


def _one_line(error: CycloptsError) -> str:
    """What cyclopts has to say, without boxes, in the words of our settings where they refuse a value."""
    from pydantic import ValidationError

    from scriven.settings import explain

    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        argument = getattr(error, "argument", None)
        prefix = argument.name.lstrip("-") if argument is not None and argument.name.startswith("--") else ""
        return explain(cause, prefix if prefix != "*" else "")
    return " ".join(str(error).split())


def _fail(message: str, code: int) -> None:
    """One sentence on standard error, and the end. Names in it may be anybody's: nothing commands the terminal."""
    from scriven.report import visible
    from scriven.training.attendant import waiting

    _end_output()
    message = visible(" ".join(message.splitlines()))
    Console(stderr=True, soft_wrap=True, highlight=False).print("scriven: " + message, markup=False)
    if waiting():  # for another process, which may never answer; the interpreter would not end before
        os._exit(code)
    sys.exit(code)


def _end_output() -> None:
    """Writes what is left of our output; where its reader went away, as `head` does, drops it without a word."""
    try:
        sys.stdout.flush()
    except OSError:  # else the interpreter would try again at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib.metadata import version

    return version("scriven")


__all__ = ["BEGUN", "main", "make_app"]
