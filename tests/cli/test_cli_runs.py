"""Runs by their names: `book` is runs/book for every command and function, and what there is instead is listed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scriven
from conftest import Command
from fake_run import make_compared, make_evaluated
from page_server import make_run
from scriven import strict_json
from scriven.cli.common import name_runs
from scriven.cli.runs import choose_heads, draw_sparkline, summary_words
from scriven.errors import InputError
from scriven.report import as_dict
from scriven.runs import open_run
from scriven.runs.folder import find_run, locate_run
from scriven.runs.summary import summarize
from scriven.settings_values import validate
from scriven.training.request import Request, resolve_resume

SMALL = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.workers=1", "--training.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs in runs/, and a text."""
    folder = tmp_path_factory.mktemp("folder")
    make_run(folder / "runs" / "book")
    make_run(folder / "runs" / "letters")
    (folder / "text.txt").write_text("a bad cab\n" * 40)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "RUN", "--length", "5", "--seed", "1"],
        ["score", "RUN", "text.txt"],
        ["info", "RUN"],
        ["info", "RUN", "--layers", "--json"],
        ["doctor", "RUN"],
        ["evaluate", "RUN", "text.txt", "--protocol", "window-8"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_is_found_by_its_name(words: list[str], command: Command) -> None:
    by_name = command(*["book" if word == "RUN" else word for word in words])
    by_path = command(*["runs/book" if word == "RUN" else word for word in words])
    assert by_name.code == 0, by_name.err
    assert by_name.out.replace("of book", "of runs/book") == by_path.out


def test_training_starts_from_a_run_by_its_name(tmp_path: Path, command: Command) -> None:
    words = ["train", "text.txt", "--steps", "1", "-o", str(tmp_path / "new"), "--from", "book", "--counts", "none"]
    words = [word for word in words if word not in ("--counts", "none")]
    done = command(*words, "--reader.batch=4", "--reader.length=8", "--training.workers=1")
    assert done.code == 0, done.err
    assert open_run(tmp_path / "new").origin["initial"] == str(Path("runs/book").resolve())


def test_a_training_is_resumed_by_its_name_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "book")
    monkeypatch.chdir(tmp_path)
    request = Request(("text.txt",), validate({}), Path("book"), resume="auto")
    assert resolve_resume(request, None).output == Path("runs/book")
    missing = resolve_resume(replace(request, output=Path("other")), None)
    assert (missing.output, missing.resume) == (Path("other"), None)


def test_python_finds_it_too() -> None:
    assert scriven.load("book").sample(length=9, seed=1) == scriven.load("runs/book").sample(length=9, seed=1)


def test_a_path_is_found_before_a_name(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert (find_run("book"), find_run("./runs/letters")) == (Path("runs/book"), Path("runs/letters"))
    monkeypatch.chdir(folder / "runs")
    assert find_run("book") == Path("book")
    assert locate_run("nothing") is None and locate_run(folder) is None


@pytest.mark.parametrize("words", [["sample", "bok"], ["info", "bok"], ["doctor", "bok"], ["score", "bok", "text.txt"]])
def test_what_there_is_instead_is_listed(words: list[str], command: Command) -> None:
    done = command(*words)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "bok does not exist; did you mean runs/book? there are runs/book, runs/letters" in done.err


def test_without_runs_the_way_to_make_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="book does not exist; a run folder is what scriven train makes"):
        find_run("book")


def test_the_shell_completes_names_of_runs(command: Command) -> None:
    assert name_runs() == ["book", "letters"]
    done = command("__complete", "sample", "")
    assert [line for line in done.out.splitlines() if line][1:] == ["book", "letters"]


def test_json_of_a_run_names_its_folder(command: Command) -> None:
    assert json.loads(command("info", "book", "--json").out)["run"] == "runs/book"


# --- runs and info


@pytest.mark.parametrize(
    ("units", "counted", "loss"),
    [
        ({"character", "byte"}, "characters", "bits/char"),
        ({"token"}, "tokens", "bits/token"),
        ({"token", "byte"}, "symbols", "bits/symbol"),
        (set[str](), "characters", "bits/char"),
    ],
)
def test_heads_are_right_for_all_runs_of_a_list(units: set[str], counted: str, loss: str) -> None:
    assert list(choose_heads(units)) == ["run", "trained", "text", counted, "model", loss, "minutes"]


def test_runs_are_listed_the_newest_first(folder: Path, command: Command) -> None:
    head, *lines = command("runs").out.splitlines()
    assert head.split() == ["run", "trained", "text", "characters", "model", "bits/char", "minutes"]
    assert [line.split()[0] for line in lines] == ["letters", "book"]
    assert re.fullmatch(r"book +\d{4}-\d\d-\d\d \d\d:\d\d +book.txt +10,000 +lstm 1x8 +2\.020 +1\.5", lines[1])
    assert command("runs", str(folder / "runs")).out == command("runs").out
    rows = [json.loads(line) for line in command("runs", "--json").out.splitlines()]
    assert [row["run"] for row in rows] == ["runs/letters", "runs/book"]
    assert (rows[0]["minutes"], rows[0]["ended"], rows[0]["bits_per_char"]) == (
        1.5,
        "budget",
        pytest.approx(2.0198, abs=1e-4),
    )


def test_a_damaged_run_is_listed_as_such(tmp_path: Path, command: Command) -> None:
    make_run(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "settings.toml").write_text("[run]")
    done = command("runs", str(tmp_path))
    assert done.code == 0
    assert re.search(r"^bad +\S*settings.toml is damaged", done.out, re.MULTILINE)
    assert re.search(r"^good ", done.out, re.MULTILINE)


def test_the_name_of_a_damaged_run_is_no_mark(tmp_path: Path, command: Command) -> None:
    for name in ("bad+", "bad*"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.toml").write_text("[run]")
    done = command("runs", str(tmp_path))
    assert (done.code, done.err) == (0, "")


def test_without_runs_there_is_a_note(tmp_path: Path, command: Command) -> None:
    done = command("runs", str(tmp_path))
    assert (done.code, done.out) == (0, "")
    assert "scriven train book.txt --minutes 5 makes one" in done.err
    assert command("runs", str(tmp_path / "nothing"), "--json") == (0, "", "")


def test_info_begins_with_what_a_person_asks(command: Command) -> None:
    lines = command("info", "book").out.splitlines()
    names = [line[:18].strip() for line in lines]
    assert names[: names.index("")] == ["run", "text", "model", "loss", "losses", "trained", "sample"]
    said = dict(zip(names, (line[18:] for line in lines), strict=True))
    assert said["text"] == "book.txt: 9,000 characters, and 1,000 for validation"
    assert said["loss"].startswith("2.020 bits/char, like guessing among 4.1 characters")
    assert set(said["losses"].split()[0]) <= set("▁▂▃▄▅▆▇█")
    assert said["sample"] == "It was a dark night."
    assert names.index("corpus") > names.index("sample")


def test_the_loss_of_the_mixture_is_the_models(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for event in (
        make_evaluated(100, 1.4, final=True),
        make_compared(100, "mixture", 1.2),
        make_compared(100, "counts", 1.6),
    ):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(strict_json.write(as_dict(event)).replace('": ', '":').replace(', "', ',"') + "\n")
    summary = summarize(open_run(run))
    assert summary.loss and summary.mixed
    assert summary.loss.nats_per_char == pytest.approx(1.2)
    assert "mixed with counts" in summary_words(open_run(run), summary)["model"]


def test_a_resumed_training_keeps_the_mixtures_loss_until_a_new_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (path,) = run.glob("checkpoints/step-*/manifest.json")
    weights = {"reading": [[0.5, 0.5]] * 2, "writing": [[0.5, 0.5]] * 2, "order": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mixture": weights}))

    def losses(*events: dict[str, Any]) -> tuple[float, bool]:
        with (run / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
        summary = summarize(open_run(run))
        assert summary.loss
        return round(summary.loss.nats_per_char, 3), summary.network_alone

    mixture = as_dict(make_compared(100, "mixture", 1.2))
    finished = {"event": "finished", "step": 100, "reason": "done", "best": mixture["loss"]}
    assert losses(as_dict(make_evaluated(100, 1.4, final=True)), mixture, finished) == (1.2, False)
    assert losses({"event": "started", "step": 100}) == (1.2, False)
    worse = as_dict(make_evaluated(120, 1.5)) | {"best": False}
    assert losses(worse) == (1.2, False)
    assert losses(worse | {"step": 140, "best": True}) == (1.5, True)


def test_a_loss_of_the_network_alone_is_named_so(tmp_path: Path, command: Command) -> None:
    """Training ended before the mixture, which is used, was measured."""
    run = make_run(tmp_path / "run")
    (path,) = run.glob("checkpoints/step-*/manifest.json")
    weights = {"reading": [[0.5, 0.5]] * 2, "writing": [[0.5, 0.5]] * 2, "order": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mixture": weights}))
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"counts":false', '"counts":true'))
    listed = command("runs", str(tmp_path))
    assert re.search(r" 2\.020\* +1\.5$", listed.out, re.MULTILINE)
    assert "* is the loss of the network alone" in listed.err and "+ means" not in listed.err
    (row,) = [json.loads(line) for line in command("runs", str(tmp_path), "--json").out.splitlines()]
    told = json.loads(command("info", str(run), "--json").out)
    names = ("bits_per_char", "nats_per_char", "network_alone")
    assert [row[name] for name in names] == [told[name] for name in names]
    assert row["network_alone"] and told["checkpoints"][0]["network_alone"]
    said = command("info", str(run)).out
    assert re.search(r"^loss +2\.020 bits/char.* \(network alone\)$", said, re.MULTILINE)
    assert re.search(r"^losses .* to 2\.034, of the network alone$", said, re.MULTILINE)
    assert re.search(r"^checkpoints .*network alone \d", said, re.MULTILINE)
    assert "validation loss" not in said


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True) if "finished" not in line]
    (run / "metrics.jsonl").write_text("".join(kept))
    summary = summarize(open_run(run))
    assert (summary.reason, summary.seconds) == ("", 100.0)
    assert "without an end so far" in summary_words(open_run(run), summary)["trained"]


def test_a_log_of_a_stranger_is_no_error(tmp_path: Path, command: Command) -> None:
    run = make_run(tmp_path / "run")
    strange = ['{"step":1,"event":"evaluated","loss":{"nats":"x"}}', '{"step":1,"event":"started","parameters":"many"}']
    strange += [
        '{"step":1,"event":["evaluated"],"loss":{"nats":1,"characters":[]}}',
        '{"step":2,"seconds":true}',
        f'{{"step":3,"event":"evaluated","loss":{{"nats":1,"characters":1{"0" * 400}}}}}',
        '{"step":4,"event":"evaluated","loss":{"nats":1,"characters":-3}}',
        f'{{"step":5,"event":"started","parameters":1{"0" * 400}}}',
        "\x1b[2J",
    ]
    (run / "metrics.jsonl").write_text("\n".join(strange) + "\n")
    (run / "samples.jsonl").write_text(
        '{"step":1,"prompt":1,"text":"a"}\n{"step":1,"prompt":"\\u001b[2J","text":"b"}\n'
    )
    done = command("info", str(run))
    assert done.code == 0, done.err
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([2.0, 1.0], "█▁"), ([3.0, 2.0, 1.0, math.nan], "█▅▁"), ([1.0] * 99, "▁" * 40)],
)
def test_losses_are_drawn_as_bars(values: list[float], drawn: str) -> None:
    assert draw_sparkline(values) == drawn


@given(st.lists(st.floats()))
def test_any_losses_can_be_drawn(values: list[float]) -> None:
    assert len(draw_sparkline(values)) <= min(len(values), 40)
