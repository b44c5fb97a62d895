"""The comparison of measured speeds with those that were recorded for the same kind of processor."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from scriven.kernels import native_library

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
records: Any = importlib.import_module("speed_records")
common: Any = importlib.import_module("common")
speed: Any = importlib.import_module("speed")


def measurement(own: float, kind: str = "Maker family 1 model 2") -> dict[str, Any]:
    """Three rounds in which torch makes 100 characters a second."""
    contestants = {
        "scriven": {"speeds": [own, own + 10, own - 10]},
        "torch fp32": {"speeds": [100.0, 100.0, 100.0]},
        "Keras, JAX": {"speeds": [], "failure": "no module"},
        "products": {"speeds": [1e9, 1e9, 1e9]},
        "products, avx2": {"speeds": [5e8, 5e8, 5e8]},
    }
    machine = {"time": "2026-11-30T00:00:00+00:00", "commit": "abc", "versions": {}, "kind": kind}
    return {"machine": machine, "results": {"training": [{"case": "LSTM", "contestants": contestants}]}}


def test_only_those_that_ran_in_turns_are_compared() -> None:
    assert records.ratios(measurement(200)["results"]) == {"LSTM: scriven / torch fp32": 2.0}


@pytest.mark.parametrize(("now", "slower"), [(200, 0), (191, 0), (189, 1), (400, 0)])
def test_a_ratio_over_five_percent_lower_is_found(now: float, slower: int, tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    records.record(measurement(200), file)
    assert records.compare(measurement(now), file) == slower


def test_another_kind_of_processor_has_records_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "records.json"
    records.record(measurement(200), file)
    assert records.compare(measurement(100, kind="Other family 3 model 4"), file) == 0
    assert "Nothing is recorded for Other family 3 model 4" in capsys.readouterr().out
    records.record(measurement(100, kind="Other family 3 model 4"), file)
    assert records.compare(measurement(200), file) == 0
    assert records.compare(measurement(90), file) == 1


def test_cases_that_were_not_measured_again_stay_recorded(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    records.record(measurement(200), file)
    other = measurement(300)
    other["results"]["training"][0]["case"] = "GRU"
    records.record(other, file)
    assert records.compare(measurement(150), file) == 1


def test_each_ratio_keeps_its_own_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "records.json"
    records.record(measurement(200), file)
    later = measurement(300)
    later["machine"] |= {"time": "2027-01-01T00:00:00+00:00", "commit": "def"}
    later["results"]["training"][0]["case"] = "GRU"
    records.record(later, file)
    both = {"training": [*measurement(200)["results"]["training"], *later["results"]["training"]]}
    records.compare(later | {"results": both}, file)
    said = capsys.readouterr().out
    assert "2.00 (2026-11-30, abc)" in said and "3.00 (2027-01-01, def)" in said


def test_what_linux_says_of_processors_is_read() -> None:
    """Those of x86-64, and those of arm64, which have other names for the same."""
    maker = "vendor_id\t: Maker\ncpu family\t: 1\nmodel\t\t: 2\nmodel name\t: Fast 3\n"
    found = common.processor(maker + "flags\t\t: fpu avx2 avx512_bf16 sse4_1\n")
    assert found == {"processor": "Fast 3", "kind": "Maker family 1 model 2", "flags": ["avx2", "avx512_bf16"]}
    arm = "Features\t: fp asimd asimddp bf16 svebf16\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd4f\n"
    found = common.processor(arm)
    assert (found["kind"], found["flags"]) == ("0x41 family 0x0 model 0xd4f", ["asimddp", "bf16"])


@pytest.mark.parametrize("level", native_library.LEVELS)
def test_torch_is_kept_to_the_instructions_of_a_level(level: str) -> None:
    if level != "amx":  # the highest, which nothing has to be kept below
        assert speed.limited_to(level)["SCRIVEN_KERNELS"] == level
