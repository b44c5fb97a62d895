"""`scriven score --above` and `--follow`: rows above a quantile of the usual ones, printed as their text comes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scriven
from conftest import Command

LINES = [
    f"{first}{second} had a {third} day" for first in "abc" for second in "abc" for third in ("bad", "good", "dull")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("\n".join(LINES * 8) + "\n")
    scriven.train(
        folder / "text.txt",
        steps=8,
        output=folder / "run",
        settings={"corpus": {"documents": "lines"}, "model": {"width": 8}},
        reports=[],
    )
    return str(folder / "run")


def test_rows_above_a_quantile_of_the_usual_ones(run: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "new.txt"
    path.write_text("\n".join([*LINES, "zzzz" * 9, LINES[0], "q"]) + "\n")
    every = [json.loads(line) for line in command("score", run, str(path), "--by", "line", "--json").out.splitlines()]
    for words, column in (("0.9", "total_bits"), ("bits_per_char:0.9", "bits_per_char")):
        done = command(
            "score", run, str(path), "--by", "line", "--above", words, "--columns", f"line,{column}", "--json"
        )
        found = [json.loads(line) for line in done.out.splitlines()]
        least = float(done.err.split("more than ")[1].split()[0])
        values = command(
            "score", run, str(path), "--by", "line", "--columns", f"line,{column}", "--json"
        ).out.splitlines()
        expected = [row for row in map(json.loads, values) if row[column] > least + 1e-3]
        assert [row["line"] for row in found] == [row["line"] for row in expected]
        assert len(LINES) + 1 in [row["line"] for row in found] and len(found) < len(every)
        assert "the 0.9 quantile of" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--above 1.5 --by line", "--above 1.5: give a quantile"),
        ("--above much --by line", "--above much: give a quantile"),
        ("--above 0.9", "--above 0.9: give a quantile"),
        ("--above bit:0.9 --by line", "--above bit: there is no such column"),
    ],
)
def test_other_quantiles_are_refused(words: str, said: str, run: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "new.txt").write_text("a\n")
    done = command("score", run, str(tmp_path / "new.txt"), *words.split())
    assert (done.code, done.out) == (2, "") and said in done.err


def test_each_line_is_answered_before_the_next_is_read(run: str) -> None:
    """The answer is read before the next line is written; at the end of the input the command ends."""
    words = [
        sys.executable,
        "-m",
        "scriven",
        "score",
        run,
        "-",
        "--by",
        "line",
        "--above",
        "0",
        "--columns",
        "line,text",
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        for number, line in enumerate(("zzzz zzzz zzzz zzzz zzzz", "qqqq qqqq qqqq qqqq qqqq"), 1):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            if number == 1:
                assert process.stdout.readline() == "line\ttext\n"
            assert process.stdout.readline() == f"{number}\t{line}\n"
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_file_is_followed_until_it_is_stopped(run: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n")
    words = [sys.executable, "-m", "scriven", "score", run, "--follow", str(path), "--by", "line", "--columns", "text"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert [process.stdout.readline() for _ in range(2)] == ["text\n", "first\n"]
        with path.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == "second\n"
        path.write_text("3\n")
        assert process.stdout.readline() == "3\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().splitlines()[-2:] == [
            f"note: {path} was truncated; it is read from its start again",
            "scriven: stopped",
        ]


@pytest.mark.parametrize("by", ["line", "word"])
def test_a_live_text_costs_what_a_file_does(by: str, run: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "new.txt"
    path.write_text("\n".join(LINES) + "\nno end")
    words = ["--by", by, "--above", "0", "--columns", "line,text,total_bits", "--csv", "--precision", "fp32"]
    from_file = command("score", run, str(path), *words).out
    command_line = [sys.executable, "-m", "scriven", "score", run, "-", *words]
    done = subprocess.run(command_line, input=path.read_bytes(), capture_output=True, check=True)
    found, expected = (list(csv.reader(text.splitlines())) for text in (done.stdout.decode(), from_file))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    bits = [[float(row[2]) for row in rows[1:]] for rows in (found, expected)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6) and bits[0]


def test_what_does_not_go_with_a_text_without_an_end(run: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "log").write_text("a\n")
    log = str(tmp_path / "log")
    for words, said in (
        (["--by", "total"], "so there is no row --by total"),
        (["--by", "line", "--top", "3"], "drop --sort"),
        (["--by", "line", "--columns", "entropy"], "there is no entropy"),
        ([log, "--by", "line"], "alone; drop"),
    ):
        done = command("score", run, "--follow", log, *words)
        assert (done.code, done.out) == (2, "") and said in done.err


def test_quantiles_are_numpys(run: str) -> None:
    from scriven.cli.scoring import ModelRows

    rows = ModelRows(scriven.load(run), "line")
    least, count = rows.quantile("total_bits", 0.5)
    assert count > 1 and np.isfinite(least)
