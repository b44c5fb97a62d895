"""A checkpoint that says what no training can have left is refused in a sentence, whatever it says."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_training import run

from scriven.errors import InputError, UsageError
from scriven.events import Skipped, Stepped
from scriven.runs import open_run
from scriven.settings_values import merge_settings, validate
from scriven.training.request import Request
from scriven.training.start import train
from scriven.training.state import NOTHING_MEASURED, TrainingState

KINDS: dict[str, dict[str, Any]] = {
    "stream": {  # whose losses swing widely with any kernels, so that averaging begins
        "training": {"averaging": "nonmonotonic", "patience": 1, "learning_rate": 100.0, "schedule": "constant"},
        "monitor": {"every_steps": 1},
    },
    "documents": {
        "reader": {"kind": "documents"},
        "corpus": {"documents": "lines"},
        "training": {"optimizer": "rmsprop"},
    },
    "windows": {"reader": {"kind": "windows"}, "training": {"optimizer": "sgd", "momentum": 0.5}},
}
MORE = validate({"budget": {"steps": 9}})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained run for every reader, each with another optimizer."""
    folder = tmp_path_factory.mktemp("kept")
    book = folder / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    for kind, over in KINDS.items():
        run(book, folder / kind, merge_settings(over, {"budget": {"steps": 8}, "monitor": {"sample_length": 0}}))
    assert "average.mean" in open_run(folder / "stream").checkpoint("last").training()
    return {kind: folder / kind for kind in KINDS}


@contextlib.contextmanager
def copy_last_checkpoint(good: Path, to: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of a run with its last checkpoint alone, and the folder of that."""
    shutil.copytree(good, to)
    last = open_run(to).checkpoint("last").path
    for other in last.parent.glob("step-*"):
        if other != last:
            shutil.rmtree(other)
    try:
        yield to, last
    finally:
        shutil.rmtree(to)


def edit_manifest(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = checkpoint / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_arrays(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changes the arrays of the training state, in a manifest that vouches for them."""
    path = checkpoint / "training.safetensors"
    arrays = load(path.read_bytes())
    change(arrays)
    data = save(arrays)
    path.write_bytes(data)
    mark = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(checkpoint, lambda values: values["files"].update({"training.safetensors": mark}))


def goes_on(path: Path) -> bool:
    """Whether the run makes a step more, or skips one. Raises nothing but one of our errors, which says why not."""
    try:
        events = train(Request(output=path, resume="last", settings=MORE))
        step = next(event for event in events if isinstance(event, Stepped | Skipped))
    except (InputError, UsageError) as error:
        assert str(error) and "\n" not in str(error)
        return False
    return step.step > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_left_is_gone_on_with(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    with copy_last_checkpoint(runs[kind], tmp_path / "run") as (path, _):
        assert goes_on(path)


OLD_LOSS = {"nats": 873.5, "characters": 264, "bytes": 264, "ends": 0, "end_nats": 0.0, "right": 27, "judged": 264}
OLD_MANIFEST: dict[str, Any] = {  # as version 0.1 wrote it before its states had one type
    "step": 4, "cursor": 4, "characters": 256, "predictions": 256, "epochs": 0.125, "progress": 1.0, "evaluated": 2,
    "seconds": 2.5, "budget": {"minutes": 0.0, "epochs": 0.0, "steps": 4, "characters": 0}, "interval": [0, 0.0, 2],
    "owed": True, "evaluation": True, "clock": False, "went_back": True, "skipped": 3, "returns": 1,
    "validation": OLD_LOSS, "last_validation": OLD_LOSS,
    "losses": {
        "first": 3.25, "recent": 3.125, "lowest": 3.125, "steps": 4, "validated": [3.5, 3.25],
        "lowest_validated": 3.25, "chosen_by": 3.5,
    },
    "best": {"step": 4, "loss": OLD_LOSS},
}  # fmt: skip
RENAMED = {
    "evaluated": "evaluations",
    "owed": "evaluation_pending",
    "went_back": "rolled_back",
    "skipped": "skipped_steps",
    "returns": "rollbacks",
}


def test_a_manifest_of_an_earlier_version_is_read_whole() -> None:
    """Every fact of it has its place in what is saved now."""
    state = TrainingState.model_validate(OLD_MANIFEST | {"format": 1, "number": 2})
    expected = {RENAMED.get(name, name): value for name, value in OLD_MANIFEST.items()}
    added = {"consecutive_skips": 0, "mixture": None, "counts": asdict(NOTHING_MEASURED)}
    assert state.model_dump() == expected | added
    assert TrainingState.model_validate(json.loads(json.dumps(state.model_dump()))) == state


def test_a_beginning_is_an_empty_state_and_a_checkpoint_never_is(runs: dict[str, Path], tmp_path: Path) -> None:
    """What is missing is named, so that nobody continues from step 0 by mistake."""
    assert TrainingState.model_validate(TrainingState().model_dump()) == TrainingState()
    with copy_last_checkpoint(runs["stream"], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, lambda values: [values.pop(name) for name in ("seconds", "cursor")])
        with pytest.raises(InputError, match="cursor, seconds missing"):
            next(train(Request(output=path, resume="last", settings=MORE)))


def test_a_run_that_an_earlier_version_saved_is_resumed(runs: dict[str, Path], tmp_path: Path) -> None:
    def _rename_back(values: dict[str, Any]) -> None:
        values.update({old: values.pop(new) for old, new in RENAMED.items()})
        del values["consecutive_skips"]

    with copy_last_checkpoint(runs["stream"], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, _rename_back)
        assert goes_on(path)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a cursor of text": lambda values: values.update(cursor="3"),
    "a cursor below 0": lambda values: values.update(cursor=-1),
    "a cursor beyond 64 bits": lambda values: values.update(cursor=1 << 62),
    "a cursor of truth": lambda values: values.update(cursor=True),
    "characters of text": lambda values: values.update(characters="3"),
    "a progress of 2": lambda values: values.update(progress=2.0),
    "epochs of 1e300": lambda values: values.update(epochs=1e300),
    "no seconds": lambda values: values.pop("seconds"),
    "a budget that is a list": lambda values: values.update(budget=[3]),
    "an interval of text": lambda values: values.update(interval="often"),
    "a billion rollbacks": lambda values: values.update(rollbacks=10**9),
    "a loss of text": lambda values: values.update(last_validation={"nats": "1", "characters": 3}),
    "a loss of others": lambda values: values.update(last_validation={"nats": 1.0, "characters": 3, "x": 1}),
    "a best of nothing": lambda values: values.update(best={}),
    "a step of 10**17": lambda values: values.update(step=10**17),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_of_no_training_is_refused(runs: dict[str, Path], tmp_path: Path, change: str) -> None:
    with copy_last_checkpoint(runs["stream"], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, MANIFESTS[change])
        with pytest.raises(InputError):
            next(train(Request(output=path, resume="last", settings=MORE)))


ARRAYS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any]]] = {
    "a state of fewer rows": ("stream", lambda a: a.update({"state.0.0": a["state.0.0"][:2].clone()})),
    "a state of other width": ("stream", lambda a: a.update({"state.0.0": torch.zeros(4, 5)})),
    "a state of one number": ("stream", lambda a: a.update({"state.0.0": torch.zeros(())})),
    "a state of whole numbers": ("stream", lambda a: a.update({"state.0.0": torch.zeros(4, 16, dtype=torch.int32)})),
    "a state that is missing": ("stream", lambda a: a.pop("state.0.1")),
    "a layer more": ("stream", lambda a: a.update({"state.9.0": torch.zeros(4, 16)})),
    "a state of infinity": ("stream", lambda a: a["state.0.0"].fill_(torch.inf)),
    "a momentum of one number": ("stream", lambda a: a.update({"optimizer.muon.momentum": torch.zeros(())})),
    "a mean of one number": ("stream", lambda a: a.update({"optimizer.mean": torch.zeros(())})),
    "minus one steps": ("stream", lambda a: a["optimizer.steps"].fill_(-1)),
    "a square below 0": ("stream", lambda a: a["optimizer.square"].fill_(-1)),
    "an array of no optimizer": ("stream", lambda a: a.update({"optimizer.x": torch.zeros(3)})),
    "losses that are one": ("stream", lambda a: a.update({"average.losses": torch.zeros((), dtype=torch.float64)})),
    "an average of no steps": ("stream", lambda a: a["average.count"].fill_(0)),
    "an average of one weight": ("stream", lambda a: a.update({"average.mean": torch.zeros(1)})),
    "an average without raw weights": ("stream", lambda a: [a.pop(name) for name in [*a] if name.startswith("raw.")]),
    "raw weights of another shape": ("stream", lambda a: a.update({"raw.head.bias": torch.zeros(3)})),
    "a square_avg of one number": ("documents", lambda a: a.update({"optimizer.square_avg": torch.zeros(1)})),
    "a square_avg that is missing": ("documents", lambda a: a.pop("optimizer.square_avg")),
    "a momentum_buffer of one number": ("windows", lambda a: a.update({"optimizer.momentum_buffer": torch.zeros(1)})),
    "a momentum_buffer of another name": ("windows", lambda a: a.update(
        {"optimizer.square_avg": a.pop("optimizer.momentum_buffer")})),
}  # fmt: skip


@pytest.mark.parametrize("change", ARRAYS)
def test_arrays_of_no_training_are_refused(runs: dict[str, Path], tmp_path: Path, change: str) -> None:
    kind, make = ARRAYS[change]
    with copy_last_checkpoint(runs[kind], tmp_path / "run") as (path, checkpoint):
        edit_arrays(checkpoint, make)
        with pytest.raises(InputError):
            next(train(Request(output=path, resume="last", settings=MORE)))


CURSORS: dict[str, dict[str, Any]] = {
    "documents that are not there": {"documents": [10**6] * 4},
    "documents below -1": {"documents": [-2] * 4},
    "documents of text": {"documents": ["1"] * 4},
    "documents of fractions": {"documents": [0.5] * 4},
    "documents of 2**70": {"documents": [1 << 70] * 4},
    "too few documents": {"documents": [1]},
    "documents in documents": {"documents": [[1], [2], [3, 4], []]},
    "one that is read beyond its end": {"documents": [0] * 4, "read": [10**6] * 4},
    "what comes next is read": {"documents": [-1] * 4, "read": [1] * 4},
    "read below 0": {"read": [-1] * 4},
    "taken of text": {"taken": "1"},
    "taken below 0": {"taken": -1},
    "taken beyond 64 bits": {"taken": 1 << 80},
    "another order": {"order": 1},
}


@pytest.mark.parametrize("change", CURSORS)
def test_a_place_in_no_document_is_refused(runs: dict[str, Path], tmp_path: Path, change: str) -> None:
    with copy_last_checkpoint(runs["documents"], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, lambda values: values["cursor"].update(CURSORS[change]))
        with pytest.raises(InputError, match=r"cursor|order of another"):
            next(train(Request(output=path, resume="last", settings=MORE)))


def test_a_place_in_the_order_of_an_older_version_is_told_as_that(runs: dict[str, Path], tmp_path: Path) -> None:
    with copy_last_checkpoint(runs["documents"], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, lambda values: values["cursor"].pop("order"))
        with pytest.raises(InputError, match=r"order of another version of Scriven.* --from"):
            next(train(Request(output=path, resume="last", settings=MORE)))


NUMBERS = (
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1 << 52, 1 << 64, 10**400])
)
NAMES = st.sampled_from(["step", "loss", "nats", "taken", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from([*KINDS]))
def test_any_value_in_a_manifest_is_refused_or_gone_on_with(
    runs: dict[str, Path], tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    def _change(values: dict[str, Any]) -> None:
        name = data.draw(st.sampled_from(sorted(values)))
        inner = values[name] if isinstance(values[name], dict) and values[name] and data.draw(st.booleans()) else values
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(VALUES)

    with copy_last_checkpoint(runs[kind], tmp_path / "run") as (path, checkpoint):
        edit_manifest(checkpoint, _change)
        goes_on(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from([*KINDS]))
def test_any_array_in_a_training_state_is_refused_or_gone_on_with(
    runs: dict[str, Path], tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    def _change(arrays: dict[str, torch.Tensor]) -> None:
        name = data.draw(st.sampled_from(sorted(arrays)))
        shape = data.draw(st.just(tuple(arrays[name].shape)) | st.lists(st.integers(0, 20), max_size=3).map(tuple))
        kind = data.draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.bool]))
        number = data.draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, float("nan"), float("inf"), -3e38]))
        arrays[name] = torch.full(shape, 1 if kind is torch.bool else 7 if kind is torch.int64 else number, dtype=kind)

    with copy_last_checkpoint(runs[kind], tmp_path / "run") as (path, checkpoint):
        edit_arrays(checkpoint, _change)
        goes_on(path)
