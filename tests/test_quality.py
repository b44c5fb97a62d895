"""The comparison of benchmarks/quality.py on a tiny row: what it measures, keeps and shows."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import WORDS
from scriven import starts
from scriven.kernels import native_library

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
quality: Any = importlib.import_module("quality")
quality_rows: Any = importlib.import_module("quality_rows")

Aim = quality_rows.Aim
TINY = quality_rows.Training(
    "tiny", "words.txt", 0.1, ("stream",), {"stream": Aim(9.0)}, arguments=("--model.width", "8"), by_bytes=True
)
SPEED = quality_rows.Other(
    "speed", "how fast", lambda data, run: {"pages/s": 3.0}, {"pages/s": Aim(4.0, at_least=True)}
)
RUN = ["quality.py", "--seeds", "1"]


def counted(name: str, taken: list[str]) -> Any:
    """A row that notes each time it is measured."""

    def take(data: Path, run: Path) -> dict[str, float]:
        taken.append(name)
        return {"n": 1.0}

    return replace(SPEED, name=name, take=take)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a text; the comparison has two rows, and writes there."""
    (tmp_path / "words.txt").write_text(WORDS * 200, encoding="utf-8")
    monkeypatch.setattr(quality, "ROWS", [TINY, SPEED])
    monkeypatch.setattr(sys, "argv", [*RUN, "--data", str(tmp_path), "--output", str(tmp_path / "made")])
    return tmp_path


@pytest.mark.skipif(native_library.level() == "off", reason="counts need native code")
def test_a_row_is_trained_measured_and_judged_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality.main()
    entries = json.loads((folder / "made" / "quality.json").read_text("utf-8"))
    values = entries["tiny seed 1"]["values"]
    assert 0 < values["stream"] <= min(values["stream network"], values["stream counts"]) + 0.01
    assert entries["tiny seed 1"]["passes"] > 0
    shown = capsys.readouterr().out
    assert f"| {values['stream']:.4f} |" in shown
    assert "| <= 9.0000 | yes |" in shown
    assert "| pages/s | 3.0000 | >= 4.0000 | **no** |" in shown

    runs = list((folder / "made" / "runs").iterdir())
    quality.main()
    assert list((folder / "made" / "runs").iterdir()) == runs
    assert capsys.readouterr().out == shown


def test_an_interrupted_comparison_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(data: Path, run: Path) -> dict[str, float]:
        raise KeyboardInterrupt

    taken = list[str]()
    rows = [counted("first", taken), counted("second", taken)]
    monkeypatch.setattr(quality, "ROWS", [rows[0], replace(rows[1], take=stop)])
    with pytest.raises(KeyboardInterrupt):
        quality.main()
    monkeypatch.setattr(quality, "ROWS", rows)
    quality.main()
    assert taken == ["first", "second"]


def test_a_row_that_is_described_otherwise_is_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[str]()
    for words in ("how fast", "how fast", "how slow"):
        monkeypatch.setattr(quality, "ROWS", [replace(counted("row", taken), words=words)])
        quality.main()
    assert taken == ["row"] * 2


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    results = quality.Results(tmp_path / "made.json")
    start = replace(TINY, name="start", against="tiny", difference=Aim(0.005))
    for row, losses in ((TINY, (1.5, 1.6)), (start, (1.4, 1.75))):
        for seed, loss in enumerate(losses, 1):
            results.add(row, seed, {"values": {"stream": loss}})
    results.add(start, 3, {"values": {"stream": 9.0}})  # the other one lacks this seed
    (line,) = quality.difference_rows([TINY, start], quality.Results(tmp_path / "made.json"))
    assert line == ["start - tiny", "stream", "0.0250 ± 0.1768 (-0.1000, 0.1500)", "<= 0.0050", "**no**"]


@pytest.mark.parametrize(("amx", "shown"), [(["amx_tile"], ["<= 1.3000", "yes"]), ([], ["<= 1.2000", "**no**"])])
def test_a_number_is_judged_by_what_was_asked_for_on_its_processor(amx: list[str], shown: list[str]) -> None:
    entries = [{"machine": {"flags": amx}}]
    assert quality._judge(quality_rows.by_kind(1.3, 1.2), [1.25], entries) == shown
    assert quality._judge(quality_rows.by_kind(1.3), [1.25], entries) == (shown if amx else ["-", "-"])


@pytest.mark.skipif(native_library.level() == "off", reason="archives need native code")
def test_an_archive_is_shown_with_and_without_the_start_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_rows.compress, "PROGRAMS", {})
    (tmp_path / "words.txt").write_text(WORDS, encoding="utf-8")
    found = quality_rows.archive_sizes(tmp_path, tmp_path, text="words.txt", networks=("english",))
    alone = found["scriven compress --with english, bits/byte"]
    whole = found["scriven compress --with english and its own bytes, bits/byte"]
    assert whole - alone == pytest.approx(8 * starts.find("english").size / len(WORDS.encode()))
    assert alone > 0 and found["scriven compress, decompressing, bytes/s"] > 0


def test_all_rows_are_listed_and_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--list"])
    quality.main()
    names = [row.name for row in quality.ROWS]
    assert len(set(names)) == len(names)
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in names)
    assert {row.against for row in quality.ROWS} <= {"", *names}
