"""`metrics.jsonl` and `samples.jsonl` tell one consistent story, however often a run was killed and resumed."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_run import PER_STEP, make_sampled, make_started, make_stepped, training
from scriven.errors import InputError
from scriven.events import Event, Stepped
from scriven.report import files
from scriven.report.files import FilesReport
from scriven.runs.journal import read_lines


def write_events(run: Path, events: Iterable[Event]) -> list[dict[str, Any]]:
    report = FilesReport()
    with contextlib.closing(report):
        for event in events:
            report.handle(event)
    return list(read_lines(run / "metrics.jsonl"))


def steps(records: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in records if record["event"] == "stepped"]


def test_all_events_are_there_samples_in_a_file_of_their_own(tmp_path: Path) -> None:
    records = write_events(tmp_path, training(tmp_path, last=40))
    assert steps(records) == list(range(1, 41))
    others = [record["event"] for record in records if record["event"] != "stepped"]
    assert others == ["started", "evaluated", "saved", "evaluated", "saved", "finished"]
    assert [record["step"] for record in read_lines(tmp_path / "samples.jsonl")] == [20, 40]


def test_a_line_is_on_the_disk_at_once(tmp_path: Path) -> None:
    report = FilesReport()
    for event in (make_started(tmp_path), make_stepped(1), make_sampled(1)):
        report.handle(event)
    assert [record["event"] for record in read_lines(tmp_path / "metrics.jsonl")] == ["started", "stepped"]
    assert len(list(read_lines(tmp_path / "samples.jsonl"))) == 1
    report.close()


def test_a_resumed_run_takes_back_the_steps_that_it_does_again(tmp_path: Path) -> None:
    write_events(tmp_path, training(tmp_path, last=50))
    records = write_events(tmp_path, training(tmp_path, first=41, last=60))
    assert steps(records) == list(range(1, 61))
    assert [record["step"] for record in records if record["event"] == "evaluated"] == [20, 40, 60]
    assert [record["step"] for record in records if record["event"] == "finished"] == [60]
    assert [record["step"] for record in records if record["event"] == "started"] == [0, 40]
    assert [record["step"] for record in read_lines(tmp_path / "samples.jsonl")] == [20, 40, 60]


def test_an_extended_run_keeps_all_of_its_first_part(tmp_path: Path) -> None:
    first = write_events(tmp_path, training(tmp_path, last=40))
    assert write_events(tmp_path, training(tmp_path, first=41, last=60))[: len(first)] == first


def test_a_run_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    first = write_events(tmp_path, training(tmp_path, last=40))
    assert write_events(tmp_path, training(tmp_path, last=40)) == first


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 10_000), resumed=st.integers(0, 3))
def test_a_file_cut_anywhere_is_repaired(tmp_path_factory: pytest.TempPathFactory, cut: int, resumed: int) -> None:
    run = tmp_path_factory.mktemp("run")
    write_events(run, training(run, last=6, every=2))
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    left = len(steps(list(read_lines(path))))
    records = write_events(run, training(run, first=2 * resumed + 1, last=8, every=2))
    assert steps(records) == [*range(1, min(left, 2 * resumed) + 1), *range(2 * resumed + 1, 9)]
    assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())


def test_lines_that_are_not_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event":"stepped","step":1}\n\xff\xfe\n[1]\n7\n{"other":2}\n{"event":"stepped","step":2}\n{"ev')
    assert [record["step"] for record in read_lines(path)] == [1, 2]
    assert list(read_lines(tmp_path / "missing.jsonl")) == []


def test_a_long_run_is_thinned_and_no_loss_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DETAIL", 50)
    events = list(training(tmp_path, last=5_000, every=1_000))
    records = [record for record in write_events(tmp_path, events) if record["event"] == "stepped"]
    assert steps(records)[:50] == list(range(1, 51))
    assert len(records) < 50 * (2 + math.log(5_000 / 50))
    sums = [record["loss"]["nats"] for record in records]
    assert sum(sums) == pytest.approx(sum(event.loss.nats for event in events if isinstance(event, Stepped)))
    assert sum(record["loss"]["characters"] for record in records) == 5_000 * PER_STEP
    for step in (1_000, 5_000):  # a line ends at every checkpoint, so that it can be resumed from
        assert step in steps(records)
    assert records[-1]["fingerprint"] == f"{5_000:08x}"


def test_a_million_steps_take_some_twenty_thousand_lines() -> None:
    assert files.DETAIL * (1 + math.log(1_000_000 / files.DETAIL)) < 21_000


@pytest.mark.parametrize("text", ["naïve \u2028 café", "half a character: \ud83d", "\x00\x1b[31m\n"])
def test_any_sample_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    write_events(tmp_path, [make_started(tmp_path), make_sampled(1, text)])
    (record,) = read_lines(tmp_path / "samples.jsonl")
    assert record["text"] == text
    write_events(tmp_path, [make_started(tmp_path, step=1)])
    assert list(read_lines(tmp_path / "samples.jsonl")) == [record]


KINDS: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to(path.parent.parent / "outside"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "progress.jsonl"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_refused_and_nothing_beyond_it_touched(tmp_path: Path, kind: str, name: str) -> None:
    """Links out of the run's folder, pipes, and folders, in the place of every file that is written."""
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.write_text("mine")
    run.mkdir()
    KINDS[kind](run / name)
    with pytest.raises(InputError, match=rf"{name} is not a plain file"):
        write_events(run, training(run, last=1))
    assert outside.read_text() == "mine"
    assert not (run / name).is_file() or (run / name).is_symlink()


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_temporary_files_are_in_nobodys_way(tmp_path: Path, kind: str) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.write_text("mine")
    run.mkdir()
    for name in (".metrics.jsonl.tmp", ".samples.jsonl.tmp"):
        KINDS[kind](run / name)
    assert steps(write_events(run, training(run, last=3))) == [1, 2, 3]
    assert outside.read_text() == "mine"
    assert not list(run.glob(".*"))


def test_lines_made_to_do_harm_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "x": ' + "[" * 100_000 + '\n{"step": 1, "step": 2}\n{"step": 3}\n')
    assert [record["step"] for record in read_lines(path)] == [3]
    with path.open("ab") as file:
        file.truncate(10_000_000_000)
    assert [record["step"] for record in read_lines(path)] == [3]
