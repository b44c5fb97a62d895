"""What is measured of the machine: at several starts, kept in the cache folder, for what it depends on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from random_run import make_random_run
from scriven.errors import UsageError
from scriven.kernels import native_library, recurrent, scan
from scriven.model import precision
from scriven.model.backends import Backend, torch_threads
from scriven.model.precision import Measurement
from scriven.settings import Cell
from scriven.trained_model import load
from scriven.training.workload import REFERENCE_LENGTH
from scriven.vocabulary import Vocabulary

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing remembered."""
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path))
    precision.measurements.cache_clear()
    return tmp_path / precision.FILE


class Starts:
    """Starts of the command one after another, each at a time and on a machine of its own speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seconds, self.measured = 1e9, (0.2, 0.1), 0
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr(precision, "_measure", self._measured)

    def _measured(self, cell: Cell) -> Measurement:
        self.measured += 1
        return Measurement(self.now, *self.seconds)

    def begin(self, fp32: float, bf16: float, after: float = 3600.0) -> str:
        """The precision that a start chooses, `after` seconds after the one before, where steps take these times."""
        self.now, self.seconds = self.now + after, (fp32, bf16)
        precision.measurements.cache_clear()
        return precision.choose_precision("auto", CPU, "gru")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(monkeypatch)


QUIET, BUSY = (0.130, 0.100), (0.200, 0.400)  # bf16 is 1.3 times as fast, and half as fast


def test_a_busy_moment_does_not_stick(starts: Starts) -> None:
    """It did: 0.50 was measured once, and every later training was in fp32."""
    assert starts.begin(*BUSY) == "fp32"
    assert [starts.begin(*QUIET) for _ in range(5)] == ["bf16"] * 5


def test_a_busy_moment_later_changes_nothing(starts: Starts) -> None:
    assert [starts.begin(*each) for each in (QUIET, QUIET, BUSY, BUSY, QUIET)] == ["bf16"] * 5
    assert [starts.begin(*BUSY, after=precision.OLD_SECONDS * 2) for _ in range(3)] == ["bf16"] * 3


def test_a_processor_that_changed_is_believed_in_the_end(starts: Starts) -> None:
    for _ in range(5):
        starts.begin(*QUIET)
    assert [starts.begin(0.1, 0.1, after=precision.OLD_SECONDS * 2) for _ in range(precision.KEPT_MEASUREMENTS)][
        -1
    ] == "fp32"


def test_it_is_measured_again_where_little_is_known_or_it_is_old(starts: Starts) -> None:
    counts = []
    for after in [0, 5, *[61] * 6, precision.OLD_SECONDS - 200, 300, 1, -precision.OLD_SECONDS]:
        starts.begin(*QUIET, after=after)
        counts.append(starts.measured)
    # At once, not within a minute, until there are enough, when the newest is old, when the clock was set back.
    assert counts == [1, 1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 7]


def test_whether_bf16_works_is_measured_once(starts: Starts) -> None:
    for _ in range(2):
        precision.choose_precision("bf16", CPU, "gru")
        precision.measurements.cache_clear()
        starts.now += 3600
    assert starts.measured == 1


def test_what_a_text_costs_depends_on_no_measurement(
    monkeypatch: pytest.MonkeyPatch, starts: Starts, tmp_path: Path
) -> None:
    """Torch in bf16 gives other last digits, and was chosen for reading where it was faster at the moment."""
    run = make_random_run(tmp_path / "run", Vocabulary.of("abc"))
    monkeypatch.setattr("scriven.inference.predictor.kernels.level", lambda: "off")
    assert load(run).predictor.reading == "fp32"
    assert starts.measured == 0


def test_only_the_newest_measurements_are_kept(starts: Starts, cache: Path) -> None:
    for _ in range(precision.KEPT_MEASUREMENTS + 3):
        starts.begin(*QUIET, after=precision.OLD_SECONDS * 2)
    (kept,) = json.loads(cache.read_text()).values()
    assert len(kept) == precision.KEPT_MEASUREMENTS and kept[-1] == {"at": starts.now, "fp32": 0.13, "bf16": 0.1}


def test_a_measurement_is_of_a_whole_chunk_on_all_cores_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    busy = iter([9.0, 9.0, 0.2, 0.1, 0.3, 7.0, 0.4, 0.15])

    def seconds(layer: Any, x: torch.Tensor, backend: Backend) -> float:
        seen.append((x.shape[0], torch.get_num_threads(), native_library.threads(), backend.autocast))
        return next(busy)

    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(precision, "available_cores", lambda: 3)
    monkeypatch.setattr(precision, "ROUNDS", 4)
    monkeypatch.setattr(precision, "ROUNDS_SECONDS", 1e9)
    (found,) = precision.measurements("gru")
    assert (found.fp32, found.bf16) == (0.2, 0.1)
    assert seen == [(REFERENCE_LENGTH, 3, 3, None), (REFERENCE_LENGTH, 3, 3, torch.bfloat16)] * 4


def test_a_real_measurement_is_kept(cache: Path) -> None:
    speedup = precision.bf16_speedup("gru")
    ((found,),) = json.loads(cache.read_text()).values()
    assert speedup == pytest.approx(found["fp32"] / found["bf16"] if found["bf16"] else 0.0)


def test_bf16_that_fails_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(layer: Any, x: torch.Tensor, backend: Backend) -> float:
        if backend.autocast:
            raise RuntimeError("could not create a primitive descriptor")
        return 0.1

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.bf16_speedup("gru") == 0.0 and precision.choose_precision("auto", CPU, "gru") == "fp32"


def test_other_kernels_are_measured_anew(starts: Starts, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts.begin(*QUIET)
    monkeypatch.setattr(native_library, "level", lambda: "another")
    starts.begin(*QUIET)
    monkeypatch.setattr(precision, "version", lambda name: "0.0.1")
    starts.begin(*QUIET)
    assert [len(rows) for rows in json.loads(cache.read_text()).values()] == [1, 1, 1]


def test_how_many_threads_a_process_begins_with_changes_no_choice(starts: Starts, cache: Path) -> None:
    """One under torchrun has one thread, or two; they measured apart, and chose two number formats for one training."""
    for count in (1, 2):
        with torch_threads(count):
            starts.begin(*QUIET)
    assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"KEY": [{"at": 1' + "0" * 400 + ', "fp32": 1, "bf16": 1}]}',
        '{"a": "b"}',
        "\x00",
        '{"KEY": 1.3}',
        '{"KEY": [{}]}',
        '{"KEY": [{"at": 0, "fp32": -1, "bf16": 1}]}',
    ],
)
def test_a_damaged_cache_is_none(cache: Path, content: str, starts: Starts) -> None:
    cache.write_text(content.replace("KEY", f"{precision._machine()}, gru"))
    assert starts.begin(*QUIET) == "bf16" and starts.measured == 1


@pytest.mark.parametrize(
    ("speedup", "native", "chosen"), [(3.0, False, "bf16"), (1.0, False, "fp32"), (0.0, True, "bf16")]
)
def test_auto_takes_what_is_faster(speedup: float, native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_measure", lambda cell: Measurement(0.0, speedup, float(speedup > 0)))
    assert precision.choose_precision("auto", CPU, "lstm", native=native) == chosen
    assert precision.choose_precision("fp32", CPU, "lstm", native=native) == "fp32"


@pytest.mark.parametrize(("speedup", "chosen"), [(1.6, "bf16"), (0.8, "fp32")])
def test_native_code_that_nobody_timed_is_measured(
    speedup: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "level", lambda: "neonbf16")
    monkeypatch.setattr(precision, "_measure", lambda cell: Measurement(0.0, speedup, 1.0))
    assert precision.choose_precision("auto", CPU, "lstm", native=True) == chosen


def test_bf16_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_measure", lambda cell: Measurement(0.0, 0.1, 0.0))
    with pytest.raises(UsageError, match="use fp32"):
        precision.choose_precision("bf16", CPU)


@pytest.mark.parametrize("cell", precision.CELLS)
@pytest.mark.parametrize(
    ("bf16", "fp32", "speedup"), [(True, True, 3.0), (False, True, 1.0), (False, False, 1.0), (False, False, 2.0)]
)
def test_the_path_is_told(cell: Cell, bf16: bool, fp32: bool, speedup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_measure", lambda cell: Measurement(0.0, speedup, float(speedup > 0)))
    monkeypatch.setattr(recurrent, "usable", lambda dtype: bf16 if dtype == torch.bfloat16 else fp32)
    monkeypatch.setattr(scan, "usable", lambda: fp32)
    number = "bf16" if speedup > 1 else "fp32"
    assert precision.training_path(cell) == f"{number}, by {'native code' if fp32 else 'torch'}"
