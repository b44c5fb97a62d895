"""What time decided is written down for every step, so that a timed training can be done again to the same bits."""

import contextlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_divergence import spoilt

from scriven.errors import InputError, UsageError
from scriven.events import Event, Finished, Stepped
from scriven.report import consume, files
from scriven.report.files import FilesReport
from scriven.runs import open_run
from scriven.runs.journal import (
    LOGS,
    METRICS_FILE,
    PROGRESS_FILE,
    PROGRESS_LINE_BYTES,
    ProgressLog,
    read_lines,
    read_replay_log,
)
from scriven.settings_values import merge_settings, validate
from scriven.training.budget import TimeBudget
from scriven.training.request import Request
from scriven.training.start import train

SMALL: dict[str, Any] = {
    "model": {"width": 8, "dropout": 0.1},
    "reader": {"batch": 4, "length": 8},
    "training": {"workers": 1, "groups": 2, "threads": 1, "averaging": "nonmonotonic", "patience": 1, "evaluations": 5},
    "monitor": {"sample_length": 0, "save_minutes": 0},  # at evaluations alone, however slow the machine is
}
BUDGET = {"minutes": 10.0}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that goes by chance, about 50 steps from start to end; and logs as thin as those of long trainings."""
    chance = random.Random(1)

    def _goes_on(self: TimeBudget, step: int) -> float:
        self._from = min(1.0, self._from + chance.random() / 25)
        return self._from

    monkeypatch.setattr(TimeBudget, "progress_of", _goes_on)
    monkeypatch.setattr(files, "DETAIL", 20)


def follow(request: Request) -> Finished:
    """How a training ended, whose files were written."""
    *_, last = consume(train(request), [FilesReport()])
    assert isinstance(last, Finished)
    return last


def train_run(
    book: Path, output: Path, budget: dict[str, float], over: dict[str, Any] | None = None, **more: Any
) -> None:
    texts = () if "resume" in more else (str(book),)
    given = {} if "resume" in more else merge_settings(SMALL, over or {})
    follow(Request(texts, validate(merge_settings(given, {"budget": budget})), output, **more))


def replay(run: Path, output: Path) -> str:
    """What the replay says at its end."""
    return " ".join(follow(Request(output=output, replay=run)).notes)


def same_end(one: Path, other: Path) -> bool:
    """Whether two runs' last checkpoints have the same weights, optimizer, averages and states, and the best is one."""
    runs = [open_run(path) for path in (one, other)]
    if runs[0].index().best != runs[1].index().best:
        return False
    last = [{**(at := run.checkpoint("last")).weights(), **at.training()} for run in runs]
    return last[0].keys() == last[1].keys() and all(
        torch.equal(last[1][name], value) for name, value in last[0].items()
    )


def test_a_timed_training_is_done_again(book: Path, tmp_path: Path) -> None:
    """After a stop, and another budget; evaluations and averaging fall where they fell."""
    first, again = tmp_path / "first", tmp_path / "again"
    train_run(book, first, BUDGET, until=30)
    train_run(book, first, {}, resume="last")
    train_run(book, first, {"minutes": 20}, resume="last")
    story = read_replay_log(first)
    assert story.progress.count(1.0) == 2  # at the ends of the first budget and of the second
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "stepped" for line in lines) < story.steps  # these alone would not do
    assert "steps were compared with those of" in replay(first, again)
    assert same_end(first, again)
    assert read_replay_log(again) == story


def test_a_replay_that_was_stopped_goes_on(book: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    train_run(book, first, BUDGET)
    follow(Request(output=again, replay=first, until=25))
    assert open_run(again).checkpoint("last").step == 25
    assert "all have the same bits" in " ".join(follow(Request(output=again, resume="last")).notes)
    assert same_end(first, again)


def test_what_was_cut_short_is_done_again_as_far_as_it_came(book: Path, tmp_path: Path) -> None:
    train_run(book, tmp_path / "first", BUDGET, until=12)
    replay(tmp_path / "first", tmp_path / "again")
    assert open_run(tmp_path / "again").checkpoint("last").step == 12
    assert same_end(tmp_path / "first", tmp_path / "again")


def test_what_was_cut_short_without_a_validation_text_has_the_same_best_model(book: Path, tmp_path: Path) -> None:
    """Its saves tell when evaluations were made, but that at the stop belongs to none: the replay took it for one."""
    first, again = tmp_path / "first", tmp_path / "again"
    over = {"corpus": {"validation": 0.0}, "training": {"averaging": "none"}, "monitor": {"every_steps": 5}}
    train_run(book, first, {"steps": 20}, over, until=12)
    assert open_run(first).index().best == 10
    replay(first, again)
    assert same_end(first, again)
    assert read_replay_log(again).evaluated == [5, 10]


def test_saves_of_logs_that_do_not_tell_are_taken_for_evaluations(tmp_path: Path) -> None:
    """As all logs that were written before saves told."""
    (tmp_path / METRICS_FILE).write_text('{"event":"started","step":0}\n{"event":"saved","step":1,"path":"p"}\n')
    (tmp_path / PROGRESS_FILE).write_text(f"{1.0!r:<23}\n")
    assert read_replay_log(tmp_path).evaluated == [1]


def branch_and_kill(run: Path, step: int, last: int) -> None:
    """Goes on from a step, and is killed after another one, before anything was saved."""
    report = FilesReport()
    with contextlib.closing(train(Request((), validate({}), run, resume=step))) as events:
        for event in events:
            report.handle(event)
            if isinstance(event, Stepped) and event.step == last:
                break
    report.close()


def test_a_way_that_was_left_before_its_first_save_loses_nothing_of_the_run(book: Path, tmp_path: Path) -> None:
    """Going on from a step took back the lines after it at once, though the newer checkpoints were there still."""
    first, again = tmp_path / "first", tmp_path / "again"
    train_run(book, first, {"steps": 12}, {"monitor": {"every_steps": 4, "keep": "all"}})
    for step in (8, 4):
        branch_and_kill(first, step, step + 2)
        assert max(line["step"] for line in read_lines(first / METRICS_FILE)) == step + 2
    train_run(book, first, {"steps": 16}, resume="last")
    assert "16 steps were compared" in replay(first, again)
    assert same_end(first, again)


def test_a_way_that_was_saved_takes_the_place_of_the_one_before(book: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    train_run(book, first, {"steps": 12}, {"monitor": {"every_steps": 4, "keep": "all"}})
    train_run(book, first, {"steps": 12}, resume=4, until=9)
    assert {path.name for path in first.iterdir() if "jsonl" in path.name or "logs" in path.name} == {*LOGS}
    assert open_run(first).steps() == [4, 8, 9]
    assert max(line["step"] for line in read_lines(first / METRICS_FILE)) == 9
    train_run(book, first, {}, resume="last")
    assert "12 steps were compared" in replay(first, again)
    assert same_end(first, again)


def test_counted_budgets_and_returns_are_done_again(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    over = {"training": {"max_skipped_steps": 2}, "monitor": {"every_steps": 4}}
    with monkeypatch.context() as patch:
        spoilt(patch, {6, 7}, "loss")  # after which it rolls back to step 4
        train_run(book, first, {"steps": 12}, over)
    train_run(book, first, {"steps": 20}, resume="last")
    assert read_replay_log(first).rollbacks == [[4, 1]]
    metrics = first / METRICS_FILE
    metrics.write_text(metrics.read_text().replace('"rolled_back"', '"returned"'))  # as earlier versions wrote it
    assert read_replay_log(first).rollbacks == [[4, 1]]
    assert "all have the same bits" in replay(first, again)
    assert same_end(first, again)


def test_a_step_that_is_another_one_is_told(book: Path, tmp_path: Path) -> None:
    train_run(book, tmp_path / "first", {"steps": 6})
    metrics = tmp_path / "first" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"fingerprint":"', '"fingerprint":"x'))
    assert "Step 1 differs from that of" in replay(tmp_path / "first", tmp_path / "again")


def test_a_replay_that_could_compare_nothing_says_so(book: Path, tmp_path: Path) -> None:
    """It claimed that all of 0 steps were the same."""
    train_run(book, tmp_path / "first", {"steps": 6})
    metrics = tmp_path / "first" / METRICS_FILE
    metrics.write_text(metrics.read_text().replace("fingerprint", "mark"))
    said = replay(tmp_path / "first", tmp_path / "again")
    assert "No step was compared" in said
    assert "same bits" not in said


def test_a_run_whose_corpus_is_gone_is_done_again_from_its_text(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a move to another machine, where the corpora of texts are kept elsewhere."""
    with monkeypatch.context() as patch:
        patch.setenv("SCRIVEN_CACHE", str(tmp_path / "cache"))
        train_run(book, tmp_path / "first", {"steps": 3})
    shutil.rmtree(tmp_path / "cache")
    assert "all have the same bits" in replay(tmp_path / "first", tmp_path / "again")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files of descriptors are told by Linux")
def test_no_checkpoint_is_on_the_disk_before_the_log_of_its_steps(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that lost its power between them had a run that could never be done again."""
    log, fsync, rename = tmp_path / "first" / PROGRESS_FILE, os.fsync, os.rename
    flushed, saved = [0], list[tuple[str, int]]()

    def _fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == log:
            flushed.append(log.stat().st_size // PROGRESS_LINE_BYTES)
        fsync(descriptor)

    def _rename(before: Path, after: Path) -> None:
        saved.append((Path(after).name, flushed[-1]))
        rename(before, after)

    monkeypatch.setattr(os, "fsync", _fsync)
    monkeypatch.setattr(os, "rename", _rename)
    train_run(book, tmp_path / "first", {"steps": 4}, {"monitor": {"every_steps": 2}})
    steps = {name: count for name, count in saved if name.startswith("step-")}
    assert steps.keys() == {"step-00000002", "step-00000004"}
    assert all(count >= int(name.removeprefix("step-")) for name, count in steps.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"nonsense" * PROGRESS_LINE_BYTES), "lacks the progress of step 1;"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:PROGRESS_LINE_BYTES] + bytes(2 * PROGRESS_LINE_BYTES)),
            "progress of step 2;",
        ),
        (lambda path: path.write_text(f"{math.inf:<23}\n"), "progress of step 1;"),
        (lambda path: path.write_bytes(b""), "has done no steps"),
        (lambda path: path.with_name(METRICS_FILE).unlink(), "does not say when evaluations were made"),
    ],
)
def test_a_log_that_is_not_whole_is_refused(
    book: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    train_run(book, tmp_path / "first", {"steps": 3})
    damage(tmp_path / "first" / PROGRESS_FILE)
    with pytest.raises(InputError, match=message):
        replay(tmp_path / "first", tmp_path / "again")


def test_a_replay_takes_nothing_else(book: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes the text and all settings from"):
        list[Event](train(Request((str(book),), replay=tmp_path / "first")))


def test_the_log_is_exact_and_takes_back_steps(tmp_path: Path) -> None:
    path, values = tmp_path / PROGRESS_FILE, [0.1 + 0.2, 1 / 3, 2.2250738585072014e-308, 1.0]
    for stand, written in ((0, values), (2, values[:1])):
        log = ProgressLog(path, stand)
        for step, value in enumerate(written, stand + 1):
            log.write(step, value)
        log.close()
    assert path.stat().st_size == 3 * PROGRESS_LINE_BYTES
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*values[:2], values[0]]
    (tmp_path / METRICS_FILE).write_text('{"event":"started","step":0}\n')
    path.write_bytes(path.read_bytes()[: 2 * PROGRESS_LINE_BYTES + 5])  # a crash cut the last line short
    assert read_replay_log(tmp_path).progress == values[:2]
