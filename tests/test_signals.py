"""Being asked to stop: noticed soon wherever a command is, with nothing lost, and a second time at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_training import evaluations, fingerprints, request, run, same

from conftest import Command
from fork_server import PYTHON
from scriven.errors import InputError, Interrupted
from scriven.events import Evaluated, Event, Finished, Sampled, Stepped
from scriven.runs import Run, open_run, writing
from scriven.signals import StopFlag
from scriven.training.request import Request
from scriven.training.start import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")


class StopWithin:
    """Asks to stop from the moment on when so many of its questions were asked after `armed` was set."""

    def __init__(self, questions: int) -> None:
        self.left, self.armed = questions, False

    def __call__(self) -> int:
        self.left -= self.armed
        return signal.SIGTERM if self.left < 0 else 0


def interrupted_in_evaluation(text: Path, output: Path, over: dict[str, Any], step: int) -> list[Event]:
    """A training that is asked to stop in the midst of the evaluation after a step."""
    stop, events = StopWithin(1), list[Event]()
    for event in train(request(text, output, over), stop):
        events.append(event)
        stop.armed |= getattr(event, "step", 0) == step
    return events


@pytest.fixture
def long_book(book: Path) -> Path:
    """Its validation text is read in many chunks by a model of windows."""
    book.write_text(book.read_text() * 20)
    return book


@pytest.mark.parametrize("step", [6, 12], ids=["in the midst", "at the end"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_evaluation_that_was_left_is_made_when_training_goes_on(
    long_book: Path, tmp_path: Path, step: int, workers: int
) -> None:
    """And everything is as if nobody had asked to stop, nor to share; also where the last evaluation was left."""
    over: dict[str, Any] = {"budget": {"steps": 12}, "training": {"groups": 2}}
    over |= {"monitor": {"sample_length": 0}, "reader": {"kind": "windows", "stride": 16}}
    whole = run(long_book, tmp_path / "whole", over)
    over["training"]["workers"] = workers
    first = interrupted_in_evaluation(long_book, tmp_path / "cut", over, step)
    assert isinstance(first[-1], Finished) and first[-1].reason == "interrupted"
    assert first[-1].step == step
    assert step not in [event.step for event in first if isinstance(event, Evaluated)]
    rest = list(train(Request(output=tmp_path / "cut", resume="last")))
    assert fingerprints(first) + fingerprints(rest) == fingerprints(whole)
    assert evaluations(first) + evaluations(rest) == evaluations(whole)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_signal_before_the_first_step_ends_the_start(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "before", {"budget": {"steps": 1}})  # so that the corpus is there
    with pytest.raises(Interrupted, match="before the first step"):
        run(book, tmp_path / "run", {"budget": {"steps": 3}, "training": {"workers": 2, "groups": 2}}, stop=lambda: 15)


def test_the_second_signal_is_an_error_and_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    flag = StopFlag(lambda: told.append(1))
    with flag.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert (flag(), told) == (signal.SIGTERM, [1])
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # which does not interrupt what is done while it ends
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_what_a_launcher_and_its_job_are_sent_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    flag, clock = StopFlag(once_for=0.3), SimpleNamespace(monotonic=lambda: 5.0)
    monkeypatch.setattr("scriven.signals.time", clock)
    with flag.listening():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        clock.monotonic = lambda: 5.4
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_who_asks_late_is_told_too() -> None:
    flag, told = StopFlag(), list[int]()
    with flag.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        flag.add_callback(told.append)
    assert told == [signal.SIGTERM]


STUCK = """
import ctypes
from scriven import signals as stop

stop.SERVED_SECONDS = 0.3
flag = stop.StopFlag(lambda: print("noticed", flush=True))
flag.last = lambda: print("last", flush=True)
lock, system = ctypes.create_string_buffer(256), ctypes.CDLL(None)
system.pthread_mutex_lock(lock)
with flag.listening():
    print("ready", flush=True)
    system.pthread_mutex_lock(lock)  # for ever; no signal ends it
"""


def test_a_process_that_is_stuck_in_foreign_code_ends_all_the_same() -> None:
    """Python runs no handler there: the first signal was not noticed, and no later one either."""
    with subprocess.Popen([*PYTHON, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "noticed\n"
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "last\n"
        assert process.wait(60) == 130


def test_samples_are_left_within_a_character(book: Path, tmp_path: Path) -> None:
    """Those of an evaluation may be long, and many; they were looked at only between one and the next."""
    over: dict[str, Any] = {"budget": {"steps": 12}, "monitor": {"sample_length": 10**6, "every_steps": 6}}
    stop, events = StopWithin(300), list[Event]()
    for event in train(request(book, tmp_path / "run", over), stop):
        events.append(event)
        stop.armed |= isinstance(event, Evaluated)
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].signal) == ("interrupted", signal.SIGTERM)
    assert not [event for event in events if isinstance(event, Sampled)]


def test_the_right_to_write_is_kept_while_something_is_written(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second signal the disk is not waited for, and another training could have begun to write beside it."""
    let_go, save, stops = threading.Event(), Run.save, [False]

    def slowly(*arguments: Any, **more: Any) -> Any:
        let_go.wait(20)
        return save(*arguments, **more)

    def stop() -> int:
        if stops[0]:
            raise Interrupted("stopped at once", signal.SIGTERM)
        return 0

    monkeypatch.setattr(Run, "save", slowly)
    over: dict[str, Any] = {"budget": {"steps": 12}, "monitor": {"every_steps": 6, "sample_length": 0}}
    with pytest.raises(Interrupted, match="at once"):
        for event in train(request(book, tmp_path / "run", over), stop):
            stops[0] = isinstance(event, Stepped) and event.step == 7  # that of step 6 is being written
    with pytest.raises(InputError, match="in use by another training"), writing(tmp_path / "run"):
        pass
    let_go.set()
    until = time.monotonic() + 20
    while not open_run(tmp_path / "run").steps() or not free(tmp_path / "run"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert open_run(tmp_path / "run").checkpoint("last").step == 6


def free(path: Path) -> bool:
    with contextlib.suppress(InputError), writing(path):
        return True
    return False


# --- processes


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scriven", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def line_with(process: subprocess.Popen[str], word: str) -> str:
    """Waits for a line of standard output."""
    assert process.stdout
    return next(line for line in process.stdout if word in line)


SLOW = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.workers=1", "--training.threads=1"]


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_signal_within_a_long_evaluation(tmp_path: Path, times: int) -> None:
    """The evaluation would take long: 8 million characters. Once saves, twice does not even wait for that."""
    (tmp_path / "book.txt").write_text("one two three four\n" * 30)
    (tmp_path / "long.txt").write_text("one two three four\n" * 420_000)
    words = ["--steps", "100", "--monitor.every-steps", "3", "--json", "--corpus.validation-file", "long.txt"]
    exact = ["--training.evaluation-characters", "7900000"]
    process = start(tmp_path, "train", "book.txt", *SLOW, *words, *exact)
    line_with(process, '"step": 3')
    time.sleep(0.7)  # the evaluation has begun
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    if times == 2:
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if times == 1:
        assert process.returncode == 143, told
        manifest = json.loads((tmp_path / "runs/book/checkpoints/step-00000003/manifest.json").read_text())
        assert manifest["evaluation_pending"] is True
        assert "--resume" in told
    else:
        assert process.returncode in {130, 143}, told
    assert "Traceback" not in told


def test_a_second_training_leaves_the_first_ones_run_alone(
    book: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new training of the folder, and one that would go on with it, beside the process that has it."""
    monkeypatch.chdir(tmp_path)
    first = start(tmp_path, "train", str(book), *SLOW, "--steps", "1000000", "--json", "-o", "run")
    line_with(first, '"step": 1')
    for words in (["train", str(book), *SLOW, "--steps", "1", "-o", "run"], ["train", "--resume", "-o", "run"]):
        second = command(*words)
        assert second.code == 3, second.err
        assert len(second.err.strip().splitlines()) == 1
        assert "in use by another training" in second.err
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_writing_ends_with_a_code_of_its_own(book: Path, tmp_path: Path, number: int, code: int) -> None:
    run(book, tmp_path / "run", {"budget": {"steps": 1}})
    process = start(tmp_path, "sample", "run", "--length", "100000000")
    assert process.stdout
    assert process.stdout.read(50)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) <= 1
