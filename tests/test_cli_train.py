"""The command line as a user runs it: new processes, an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ["--model.width", "16", "--reader.batch", "4", "--reader.length", "16", "--training.workers", "1"]


def scriven(*words: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scriven", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | more,
        check=False,
    )


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


def test_a_book_is_trained_on_sampled_scored_and_gone_on_with(book: Path, tmp_path: Path) -> None:
    done = scriven("train", "book.txt", "--steps", "20", *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for words in ("lstm 2x16", "4,500 characters", "validation", "bits/char", "scriven sample runs/book"):
        assert words in done.stderr
    names = {path.name for path in (tmp_path / "runs" / "book").iterdir()}
    assert names >= {"settings.toml", "vocabulary.json", "metrics.jsonl", "samples.jsonl", "loss.png", "checkpoints"}
    again = scriven("sample", "runs/book", "--prompt", "the ", "--length", "30", "--seed", "3", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("the ")
    more = scriven("train", "--resume", "--steps", "24", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    steps = [json.loads(line).get("step") for line in (tmp_path / "runs/book/metrics.jsonl").read_text().splitlines()]
    assert max(step for step in steps if step) == 24


def test_json_is_one_event_a_line(book: Path, tmp_path: Path) -> None:
    done = scriven("train", "book.txt", "--steps", "3", "--json", *SMALL, folder=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"].lower() == "started"
    assert events[-1]["event"].lower() == "finished"
    assert all("nats_per_char" in event for event in events if event["event"].lower() == "stepped")


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_saves_and_says_how_to_go_on(book: Path, tmp_path: Path, number: int, code: int) -> None:
    words = [sys.executable, "-m", "scriven", "train", "book.txt", "--steps", "1000000", *SMALL, "--training.threads=1"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "book" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "scriven train --resume -o runs/book" in told
    assert list((tmp_path / "runs/book/checkpoints").glob("step-*"))


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
        (["train", "one.txt", "--steps", "1"], 3, "2 at least"),
        (["train", "binary.bin", "--steps", "1"], 3, "binary.bin"),
        (["train", "latin1.txt", "--steps", "1"], 3, "byte 3"),
        (["train", "--resume", "-o", "empty-folder"], 3, "is not a run folder"),
        (["sample", "empty-folder"], 3, "is not a run folder"),
        (["sample"], 2, "RUN"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    book: Path, tmp_path: Path, words: list[str], code: int, told: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "latin1.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    (tmp_path / "empty-folder").mkdir()
    done = scriven(*words, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "x", "--no-such-flag"], ["nonsense"]])
def test_help_and_usage_errors_do_not_import_torch(words: list[str]) -> None:
    _, imported = modules(*words)
    assert "scriven.cli" in imported
    assert not imported & {"torch", "numpy"}


def test_the_same_run_folder_is_not_used_twice(book: Path, tmp_path: Path) -> None:
    for expected in ("runs/book", "runs/book-2"):
        done = scriven("train", "book.txt", "--steps", "1", *SMALL, folder=tmp_path)
        assert expected in done.stderr, done.stderr
        assert (tmp_path / expected).is_dir()


def test_settings_come_from_a_file_and_flags_win(book: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[model]\nwidth = 24\nlayers = 1\n[budget]\nsteps = 2\n")
    done = scriven("train", "book.txt", "--settings", "my.toml", "--model.layers", "3", folder=tmp_path)
    assert "lstm 3x24" in done.stderr, done.stderr
    done = scriven("train", "book.txt", "--settings", "runs/book/settings.toml", "--steps", "1", folder=tmp_path)
    assert "lstm 3x24" in done.stderr, done.stderr


def test_text_comes_from_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scriven", "train", "-", "--steps", "2", *SMALL],
        cwd=tmp_path,
        input="hello, hello\n" * 200,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "stdin" / "settings.toml").exists()


def test_training_is_refused_where_nothing_can_be_written(book: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = scriven("train", "book.txt", "--steps", "1", "-o", "file/run", *SMALL, folder=tmp_path)
    assert done.returncode == 3
    assert "file" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
