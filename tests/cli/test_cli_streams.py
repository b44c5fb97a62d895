"""Standard streams that are closed, full, or without a reader: the exit code says what happened to the work."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import Command
from scriven.cli import StandardFile
from scriven.report import consume
from scriven.report.terminal import JsonReport, TerminalReport

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="streams are closed by a Unix shell here")
FULL = Path("/dev/full")


def shell(words: str, redirected: str) -> subprocess.CompletedProcess[str]:
    """A Python program's arguments, run with streams as a shell redirects them."""
    line = f'exec "{sys.executable}" {words} {redirected}'
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("words", "redirected", "code", "said"),
    [
        ("recipe list", ">&-", 3, "scriven: standard output: it is closed"),  # it ended in an AttributeError
        pytest.param(
            "recipe list", "> /dev/full", 3, "scriven: standard output: No space left on device",
            marks=pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full"),
        ),
        ("recipe show nothing", "<&- >&- 2>&-", 2, ""),
    ],
)  # fmt: skip
def test_output_that_is_lost_is_said_and_nothing_else(words: str, redirected: str, code: int, said: str) -> None:
    done = shell(f"-m scriven {words}", redirected)
    assert (done.returncode, done.stderr.strip()) == (code, said)


def test_a_file_never_takes_the_place_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What prints next would write into it, as libraries in C do."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from scriven.cli import end_output, prepare_streams\n"
        "prepare_streams()\n"
        f"assert os.open({str(tmp_path / 'model')!r}, os.O_CREAT | os.O_WRONLY) > 2\n"
        "sys.stderr.write('nobody hears it')\n"
        "sys.stdout.flush()\n"  # of nothing, which is no failure
        "sys.stdout.write('nor that')\n"
        "end_output()\n"
    )
    assert shell(str(program), "<&- >&- 2>&-").returncode == 0


def test_a_stream_that_would_not_wait_is_waited_for() -> None:
    """It is another program's doing, as of a parent that shares its terminal; output was lost."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text, read = b"x" * 1_000_000, list[bytes]()
    with os.fdopen(reading, "rb") as pipe:
        reader = threading.Thread(target=lambda: read.append(pipe.read()))
        with StandardFile(writing) as file:
            assert (file.write(text) or 0) < len(text)  # the pipe is full now
            reader.start()
            with io.BufferedWriter(file) as stream:
                stream.write(text)
        os.close(writing)
        reader.join()
    assert len(read[0]) > len(text)


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_training_whose_events_cannot_be_printed_ends_well(
    book: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--model.width=8", "--reader.batch=4", "--reader.length=8", "--training.workers=1"]
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = command("train", str(book), "--steps=1", "-o", str(tmp_path / "run"), "--json", *small)
        monkeypatch.undo()
    assert done.code == 0, done.err
    assert "No space left on device" in done.err and "training continues" in done.err
    assert (tmp_path / "run" / "checkpoints" / "index.json").exists()


def test_reports_do_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has no console, where Python has no streams at all."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert list(consume([], [TerminalReport(), JsonReport()])) == []
