"""What is measured of the machine: once, kept in the cache folder, for what it depends on."""

import json
from pathlib import Path

import pytest
import torch

from scriven.errors import UsageError
from scriven.kernels import library, recurrent, recurrent_fp32, scan
from scriven.model import machine
from scriven.settings import Cell

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing remembered."""
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path))
    machine.bf16_speedup.cache_clear()
    return tmp_path / machine.FILE


def test_a_measurement_is_made_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speedup = machine.bf16_speedup("gru")
    assert speedup >= 0 and list(json.loads(cache.read_text()).values()) == [speedup]
    machine.bf16_speedup.cache_clear()
    monkeypatch.setattr(machine, "_measured", lambda cell: pytest.fail("measured again"))
    assert machine.bf16_speedup("gru") == speedup


def test_other_kernels_are_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured", lambda cell: 1.0)
    machine.bf16_speedup("lstm")
    machine.bf16_speedup.cache_clear()
    monkeypatch.setattr(library, "level", lambda: "another")
    monkeypatch.setattr(machine, "_measured", lambda cell: 2.0)
    assert machine.bf16_speedup("lstm") == 2.0 and len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', "\x00"])
def test_a_damaged_cache_is_none(cache: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text(content)
    monkeypatch.setattr(machine, "_measured", lambda cell: 1.5)
    assert machine.bf16_speedup("rnn") == 1.5


@pytest.mark.parametrize(
    ("speedup", "native", "chosen"), [(3.0, False, "bf16"), (1.0, False, "fp32"), (0.0, True, "bf16")]
)
def test_auto_takes_what_is_faster(speedup: float, native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured", lambda cell: speedup)
    assert machine.choose_precision("auto", CPU, "lstm", native) == chosen
    assert machine.choose_precision("fp32", CPU, "lstm", native) == "fp32"


def test_bf16_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured", lambda cell: 0.0)
    with pytest.raises(UsageError, match="use fp32"):
        machine.choose_precision("bf16", CPU)


@pytest.mark.parametrize("cell", machine.CELLS)
@pytest.mark.parametrize(
    ("amx", "fp32", "speedup"), [(True, True, 3.0), (False, True, 1.0), (False, False, 1.0), (False, False, 2.0)]
)
def test_the_path_is_told(cell: Cell, amx: bool, fp32: bool, speedup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured", lambda cell: speedup)
    monkeypatch.setattr(recurrent, "usable", lambda: amx)
    monkeypatch.setattr(recurrent_fp32, "usable", lambda: fp32)
    monkeypatch.setattr(scan, "usable", lambda: fp32)
    number = "bf16" if speedup > 1 else "fp32"
    assert machine.training_path(cell) == f"{number}, by {'native code' if fp32 else 'torch'}"
