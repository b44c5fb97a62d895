"""The command line: one file per command. Errors become one sentence and an exit code here; streams are made safe."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import select
import signal
import sys
import threading
import time

BEGUN = time.monotonic()  # a time budget counts the whole command

from collections.abc import Sequence  # noqa: E402 - after the clock is started
from importlib import import_module  # noqa: E402
from typing import Any, TextIO  # noqa: E402

from cyclopts import App, CycloptsError  # noqa: E402

from scriven import runtime  # noqa: E402
from scriven.cli.help import ALL, HELP, HELP_FLAGS, CommandApp, CommandHelp, expand_help  # noqa: E402
from scriven.cli.mistakes import (  # noqa: E402
    UnknownOption,
    explain_usage,
    join_values,
    split_at_end,
    split_imports,
    with_resume_value,
)
from scriven.errors import Interrupted, ScrivenError, UsageError, shortage  # noqa: E402
from scriven.runtime import WRITTEN  # noqa: E402

INTERRUPTED = 130
INTERNAL = 1
OBJECTS_BEFORE_COLLECTION = 10_000
COMPLETE = "__complete"  # with which the scripts that cyclopts makes for shells begin
VERSION_FLAGS = {"--version", "-V"}

COMMANDS = {  # module:function, imported only when the command is called, and one line of help
    "train": ("scriven.cli.train:train", "Train a model on your text."),
    "sample": ("scriven.cli.sample:sample", "Write text with a trained model."),
    "score": ("scriven.cli.score:score", "Measure how surprising a text is to a model."),
    "serve": ("scriven.cli.serve:serve", "Serve models on a web page and over an HTTP API."),
    "evaluate": ("scriven.cli.evaluate:evaluate", "Measure a model's loss on a text, by a protocol you choose."),
    "compare": ("scriven.cli.compare:compare", "Say which of two models expects a text more, and how sure that is."),
    "rank": ("scriven.cli.rank:rank", "Say how many guesses it takes to come to a name or another text."),
    "proofread": (
        "scriven.cli.proofread:proofread",
        "Name places of a text where another spelling is far likelier.",
    ),
    "novelty": ("scriven.cli.novelty:novelty", "Say what of a text is copied from the training text, and what is new."),
    "runs": ("scriven.cli.runs:runs", "List the runs in a folder: text, model, loss and minutes of each."),
    "info": ("scriven.cli.info:info", "Describe a run, or show what Scriven uses on this machine."),
    "doctor": ("scriven.cli.doctor:doctor", "Check a run or corpus for damage."),
    "recipe": ("scriven.cli.packaged:recipe_app", "Show the recipes: settings that train the way a known system did."),
    "starts": ("scriven.cli.packaged:starts_app", "Show the general models that training can start from."),
    "verify-resume": (
        "scriven.cli.verify_resume:verify_resume",
        "Check that resuming gives identical results on this machine.",
    ),
    "export": ("scriven.cli.exchange:export", "Write a trained model for other programs, or as a page for a browser."),
    "import": ("scriven.cli.exchange:import_model", "Make a run of a model that Keras, torch or torch-rnn trained."),
    "pack": ("scriven.cli.exchange:pack", "Pack a trained model into one file to send."),
    "unpack": ("scriven.cli.exchange:unpack", "Make a run of a packed file."),
    "push": ("scriven.cli.exchange:push", "Send a trained model to the Hugging Face Hub."),
    "pull": ("scriven.cli.exchange:pull", "Make a run of a model on the Hugging Face Hub."),
    "card": ("scriven.cli.exchange:card", "Print the card of a model: its losses, what it was made from, its use."),
    "compress": ("scriven.cli.compress:compress", "Compress a file without loss."),
    "decompress": ("scriven.cli.compress:decompress", "Restore a compressed file."),
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


def make_app(words: Sequence[str]) -> App:
    """Makes the cyclopts app for these arguments. Only the command that they name is imported."""
    app = CommandApp(
        name="scriven",
        help="Small recurrent language models, trained on your own text, character by character.\n\n"
        "Begin with: scriven train book.txt --minutes 5\n\n"
        "--import MODULE, with any command, first imports a Python module that registers cells or optimizers.",
        help_flags=HELP_FLAGS,
        help_format="plaintext",
        help_formatter=CommandHelp(words[0] if words else "", whole=ALL in words),
        version_flags=VERSION_FLAGS,
        version="scriven " + _version() if VERSION_FLAGS & {*words} else None,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for place, (name, (target, line)) in enumerate(COMMANDS.items()):
        if name in words[:1]:
            app.command(_import_command(target), name=name)
        else:
            app.command(target, name=name, help=line, sort_key=place)
    app.command(_show_help, name="help", help="Show the help of a command.", sort_key=len(COMMANDS))
    app.command(
        "scriven.cli.train:worker", name="worker", help="Join a training run that another process leads.", show=False
    )
    if not words or words[0] not in COMMANDS:  # it takes a while to import, and no command needs it
        app.register_install_completion_command(help="Make the shell complete commands and options with the Tab key.")
    return app


def _import_command(target: str) -> Any:
    """Returns the function or the app of a command."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _show_help(*command: str) -> None:
    """Makes `help` appear in lists of commands; `expand_help` replaces it on a command line."""


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 success, 2 usage, 3 bad input, 4 diverged, 130/143 interrupted or terminated."""
    traceback, words, app = False, [""], None
    _collect_less()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        if given[:1] == [COMPLETE]:  # the shell asks, with words as they are typed
            make_app([""])(given, exit_on_error=False)
            return
        options, rest = split_at_end(given)
        traceback = "--traceback" in options
        options, modules = split_imports([word for word in options if word != "--traceback"])
        words = with_resume_value(expand_help([*options, *rest])) or [HELP]
        prepare_streams()
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to find some, it would look at every package
        if not traceback:  # otherwise torch prints pages of its own stack for an error of one sentence
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        _notice_termination()
        if modules:
            runtime.name_imports(modules)
            runtime.import_modules()
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


def _collect_less() -> None:
    """Makes Python look for garbage less often, and not at its end: imports make many objects, but no garbage."""
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    atexit.register(gc.freeze)


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
    if runtime.lacks_torch(error):
        return runtime.explain_torch(f"scriven {command}"), UsageError.exit_code
    where = " or in what was imported with --import" if os.environ.get(runtime.IMPORTS) else ""
    return f"this is a bug in Scriven{where} ({type(error).__name__}: {error}); --traceback shows where", INTERNAL


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
    signals = sys.modules.get("scriven.signals")
    return signals is not None and bool(signals.has_abandoned_calls())


def _version() -> str:
    from importlib.metadata import version

    return version("scriven")


# --- standard streams that are safe to use, even if they are closed, full or without a reader

STREAM_NAMES = "standard input", "standard output", "standard error"


class StandardFile(io.FileIO):
    """A standard stream's descriptor, whose errors name the stream. Standard error ignores all errors.

    Raises OSError: ENOSPC on a full disk, EBADF if the stream was closed from the start, EPIPE without a reader.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "r" if number == 0 else "w", closefd=False)

    def write(self, data: Any, /) -> int:
        """Writes to the stream. On standard error, text that cannot be written is dropped.

        It waits for the stream even if another program made it non-blocking.
        """
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
            return count
        except OSError as error:
            if self.fileno() == 2:
                return len(data)
            raise _name_stream(error, self.fileno()) from None

    def readinto(self, buffer: Any, /) -> int:
        """Reads from the stream."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _name_stream(error, self.fileno()) from None


def prepare_streams() -> None:
    """Makes sys.stdin, sys.stdout and sys.stderr usable in UTF-8 with any bytes, even if the caller closed them.

    A stream that was closed (`>&-`, a service) gets a descriptor of its own. Otherwise the next file opened would get
    its number, and printing would write into that file. Output to a closed stream fails only when it is written.
    Streams that other code has replaced stay as they are.
    """
    if sys.stdin is sys.__stdin__:
        sys.stdin = _prepare_stream(0, sys.stdin)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _prepare_stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _prepare_stream(2, sys.stderr)
    # In any locale, bytes that are not UTF-8 are read and written as lone surrogates, as in corpora that keep them.
    # A model of bytes may also write other half characters.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, WRITTEN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def end_output() -> None:
    """Writes the rest of our output. What cannot be written is dropped silently."""
    try:
        sys.stdout.flush()
    except OSError:  # else the interpreter would try again at exit, complain, and end with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_stream(number: int, stream: TextIO | None) -> TextIO:
    if stream is None:
        _reopen_stream(number)
    elif os.name == "nt" and stream.isatty():  # a console, which takes more than bytes
        return stream
    raw = StandardFile(number)
    buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="strict" if number < 2 else "backslashreplace",
        line_buffering=number == 2 or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _reopen_stream(number: int) -> None:
    """Opens the descriptor so that it can be neither read nor written; standard error takes everything."""
    descriptor = os.open(os.devnull, os.O_WRONLY if number != 1 else os.O_RDONLY)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


def _name_stream(error: OSError, number: int) -> OSError:
    code = error.errno or errno.EIO
    return OSError(code, "it is closed" if code == errno.EBADF else os.strerror(code), STREAM_NAMES[number])


__all__ = ["BEGUN", "end_output", "main", "make_app"]
