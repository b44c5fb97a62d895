"""Training from the command line, in an empty folder; in new processes where these are the subject."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from conftest import Command

SMALL = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.workers=1", "--training.threads=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def process(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scriven", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def modules(*words: str) -> tuple[str, set[str]]:
    """Standard error, and the modules that a command imported."""
    code = (
        "import sys, atexit; from scriven.cli import main; "
        "atexit.register(lambda: print('\\n' + ' '.join(sys.modules), file=sys.stderr)); "
        f"sys.argv[1:] = {list(words)!r}; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    *shown, names = done.stderr.strip().splitlines()
    return "\n".join(shown), set(names.split())


def steps_logged(run: Path) -> list[int]:
    records = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [record["step"] for record in records if record["event"] == "stepped"]


def test_a_book_is_trained_on_sampled_scored_and_gone_on_with(book: Path, folder: Path, command: Command) -> None:
    done = process("train", "book.txt", "--steps", "20", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for words in ("lstm 2x16", "4,500 characters", "validation", "bits/char", "scriven sample runs/book"):
        assert words in done.stderr
    run = folder / "runs" / "book"
    names = {path.name for path in run.iterdir()}
    assert names >= {"settings.toml", "vocabulary.json", "metrics.jsonl", "samples.jsonl", "loss.svg", "checkpoints"}
    again = process("sample", "runs/book", "--prompt", "the ", "--length", "30", "--seed", "3")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("the ")
    more = command("train", "--resume", "--steps", "24")
    assert more.code == 0, more.err
    assert steps_logged(run) == list(range(1, 25))


def test_what_was_chosen_is_in_the_settings_and_for_who_asks(book: Path, command: Command) -> None:
    words = ["train", "book.txt", "--steps", "2", "--model.width=16", "--training.workers=1"]
    short, whole = command(*words).err, command(*words, "--verbose").err
    first = short.splitlines()[0]
    assert first.startswith("Training lstm 2x16 (") and first.endswith(", from random weights, into runs/book.")
    assert "Chosen automatically" not in short
    (listed,) = re.findall(r"note: Chosen automatically: (.*)\.\n", whole)
    chosen = tomllib.loads(Path("runs/book/settings.toml").read_text())["run"]["chosen"]
    assert chosen == [each.split()[0] for each in listed.split(", ")]
    assert "reader.batch" in chosen and not {"model.width", "training.workers"} & {*chosen}
    assert f"chosen            {', '.join(chosen)}" in command("info", "book").out
    assert re.search(
        r"\nFor a better model, train for longer: scriven train --resume -o runs/book --minutes \d+\n", short
    )


def test_json_is_one_event_a_line(book: Path, command: Command) -> None:
    done = command("train", "book.txt", "--steps", "3", "--json", *SMALL)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0]["event"].lower() == "started"
    assert events[-1]["event"].lower() == "finished"
    assert all("nats_per_char" in event for event in events if event["event"].lower() == "stepped")


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_saves_and_says_how_to_go_on(book: Path, folder: Path, number: int, code: int) -> None:
    words = [sys.executable, "-m", "scriven", "train", "book.txt", "--steps", "1000000", *SMALL]
    training = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    metrics = folder / "runs" / "book" / "metrics.jsonl"
    for _ in range(3000):
        if metrics.exists() and metrics.read_text().count("\n") > 2:
            break
        time.sleep(0.02)
    training.send_signal(number)
    _, told = training.communicate(timeout=60)
    assert training.returncode == code, told
    assert "scriven train --resume -o runs/book" in told
    assert list((folder / "runs/book/checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["train", "nowhere.txt", "--steps", "1"], 3, "nowhere.txt"),
        (["train", "book.txt"], 2, "--minutes"),
        (["train", "--steps", "1"], 2, "no text"),
        (["train", "book.txt", "--steps", "1", "--minutes", "1"], 2, "one budget"),
        (["train", "book.txt", "--steps", "1", "--model.width", "0"], 2, "model.width"),
        (["train", "book.txt", "--steps", "1", "--model.widht", "3"], 2, "--model.widht"),
        (["train", "book.txt", "--steps", "1", "--training.device", "cuda"], 2, "cuda"),
        (["train", "empty.txt", "--steps", "1"], 3, "empty.txt"),
        (["train", "one.txt", "--steps", "1"], 3, "at least 2 are needed"),
        (["train", "binary.bin", "--steps", "1"], 3, "binary.bin"),
        (["train", "latin1.txt", "--steps", "1"], 3, "byte 3"),
        (["train", "--resume", "-o", "empty-folder"], 3, "is not a run folder"),
        (["sample", "empty-folder"], 3, "is not a run folder"),
        (["sample"], 2, "RUN"),
        (["train", "book.txt", "--minutes", "0"], 2, "a budget of 0 trains nothing"),
        (["train", "book.txt", "--minutes", "5m"], 2, "minutes '5m': give a number"),
        (["train", "page.pdf", "--steps", "1"], 3, "page.pdf is not UTF-8 text but looks like a PDF; convert it"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    book: Path, command: Command, words: list[str], code: int, told: str
) -> None:
    Path("empty.txt").write_text("")
    Path("page.pdf").write_text("%PDF-1.4")
    Path("one.txt").write_text("x")
    Path("binary.bin").write_bytes(bytes(range(256)) * 20)
    Path("latin1.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    Path("empty-folder").mkdir()
    done = command(*words)
    assert done.code == code, done.err
    assert told in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


@pytest.mark.parametrize(("words", "code"), [(["train", "book.txt"], 2), (["train", "nowhere.txt", "--steps", "1"], 3)])
def test_a_process_ends_with_the_code_and_the_sentence(book: Path, words: list[str], code: int) -> None:
    done = process(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "x", "--no-such-flag"], ["nonsense"]])
def test_help_and_usage_errors_do_not_import_torch(words: list[str]) -> None:
    _, imported = modules(*words)
    assert "scriven.cli" in imported
    assert not imported & {"torch", "numpy"}


def test_the_same_run_folder_is_not_used_twice(book: Path, command: Command) -> None:
    for expected in ("runs/book", "runs/book-2"):
        done = command("train", "book.txt", "--steps", "1", *SMALL)
        assert expected in done.err, done.err
        assert Path(expected).is_dir()


def test_settings_come_from_a_file_and_flags_win(book: Path, command: Command) -> None:
    Path("my.toml").write_text("[model]\nwidth = 24\nlayers = 1\n[budget]\nsteps = 2\n")
    done = command("train", "book.txt", "--settings", "my.toml", "--model.layers", "3", "--training.workers", "1")
    assert "lstm 3x24" in done.err, done.err
    done = command("train", "book.txt", "--settings", "runs/book/settings.toml", "--steps", "1")
    assert "lstm 3x24" in done.err, done.err


def test_text_comes_from_standard_input(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello, hello\n" * 200)))
    done = command("train", "-", "--steps", "2", *SMALL)
    assert done.code == 0, done.err
    assert Path("runs", "stdin", "settings.toml").exists()


def test_training_is_refused_where_nothing_can_be_written(book: Path, command: Command) -> None:
    Path("file").write_text("in the way")
    done = command("train", "book.txt", "--steps", "1", "-o", "file/run", *SMALL)
    assert done.code == 3
    assert "file" in done.err
    assert len(done.err.strip().splitlines()) == 1
