"""What all commands have in common: output, errors in one sentence, exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scriven.cli import main
from scriven.cli.mistakes import with_resume_value
from scriven.errors import shortage


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("☃ and snow\n" * 20, "utf-8")
    return path


@pytest.mark.parametrize("words", [["corpus", "info", "{text}"], ["train", "{text}"]])
def test_a_reader_that_was_never_there_is_no_error(text: Path, words: list[str]) -> None:
    """A short output is written only at the end, when nobody listens any more; the exit code stays what it is."""
    command = [sys.executable, "-m", "scriven", *(word.format(text=text) for word in words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == (2 if words[0] == "train" else 0), said
    assert said.count("\n") == (1 if words[0] == "train" else 0)


def test_output_is_utf8_whatever_the_locale(text: Path) -> None:
    command = [sys.executable, "-m", "scriven", "corpus", "info", str(text)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "'☃'" in done.stdout.decode("utf-8")


MEMORY, THREADS = "not enough memory", "cannot start more threads"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (RuntimeError("can't start new thread"), THREADS),
        (RuntimeError("Resource temporarily unavailable"), THREADS),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), THREADS),
    ],
)
def test_what_the_system_lacks_is_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("scriven.trained_model.load", greedy)
    with pytest.raises(SystemExit) as ended:
        main(["sample", "run"])
    assert ended.value.code == 3
    told = capsys.readouterr().err
    assert said in told and "--count" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EAGAIN, "again", "pipe"), RuntimeError("recv: Resource temporarily unavailable"), ValueError()],
)
def test_other_errors_are_not_told_as_that(error: Exception) -> None:
    assert shortage(error) == ""


def test_a_sentence_needs_no_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where memory is out, nothing more can be imported: it once ended in rich's table of emoji."""
    monkeypatch.setattr("scriven.trained_model.load", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    monkeypatch.setitem(sys.modules, "scriven.report", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(SystemExit) as ended:
        main(["sample", "\x1b]run"])
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("scriven: there is not enough memory")


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--resume"], ["--resume=last"]),
        (["--resume", "last", "-o", "x"], ["--resume", "last", "-o", "x"]),
        (["--resume", "12"], ["--resume", "12"]),
        (["--resume", "epoch:17", "-o", "x"], ["--resume", "epoch:17", "-o", "x"]),
        (["--resume", "-o", "x"], ["--resume=last", "-o", "x"]),
        (["--resume", "book.txt"], ["--resume=last", "book.txt"]),
        ([], []),
    ],
)
def test_resume_may_stand_alone(words: list[str], seen: list[str]) -> None:
    assert with_resume_value(words) == seen


def test_without_a_word_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    told = capsys.readouterr()
    assert told.out.startswith("Usage: scriven")
    assert all(command in told.out for command in ("train", "sample", "score"))
    assert told.err == ""


def test_what_was_interrupted_says_that_it_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scriven.trained_model.load", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["sample", "run"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "scriven: stopped\n"
