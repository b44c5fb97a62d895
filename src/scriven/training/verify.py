"""Proves that a training resumes exactly, even on fewer cores: k steps and k more have the bits of 2k steps."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scriven import starts
from scriven.events import Compared, Evaluated, Stepped
from scriven.model.backends import torch_threads
from scriven.runs import open_run
from scriven.runtime import available_cores
from scriven.settings import Settings
from scriven.settings_values import overlay_settings, validate
from scriven.training.request import Request
from scriven.training.resume import request_from_run
from scriven.training.start import train

EVALUATION_CHARACTERS = 20_000  # read at each evaluation, at most
EVALUATIONS = 4  # of the 2k steps


@dataclass
class Trail:
    """All results of a training: step by step, and in its last checkpoint."""

    steps: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # fingerprint, loss, gradient norm, progress
    evaluations: dict[tuple[int, str], float] = field(default_factory=dict)  # nats, by step and protocol
    arrays: dict[str, Tensor] = field(default_factory=dict)  # weights, optimizer, recurrent state, averages
    final: dict[tuple[int, str], float] = field(default_factory=dict)  # of the best model, if there was time


@dataclass(frozen=True)
class Verdict:
    """Whether two trails are the same, and where they differ."""

    steps: int
    evaluations: int
    arrays: int
    differences: list[str]  # the first step, the first evaluation and all arrays that differ
    cores: tuple[int, ...] = ()  # of the whole training, and of the resumed half

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def verify_resume(request: Request, steps: int) -> tuple[Verdict, Settings]:
    """Trains for 2 `steps` steps, and again with a stop and a resume in the middle, and compares all results.

    The resumed half has one core if the system allows it, since the number of cores must change no bit either. The
    request's budget, output and samples do not count, and its runs are removed afterwards. Also returns the resolved
    settings. Raises as `train` does.
    """
    with tempfile.TemporaryDirectory(prefix="scriven-verify-") as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        expected, found = Trail(), Trail()
        follow(replace(for_trial(request, 2 * steps), output=whole), expected)
        again = request_from_run(
            open_run(whole)
        )  # with the settings that depend on a measured speed, which may be another now
        initial = open_run(whole).origin.get("initial", starts.NONE)
        follow(replace(again, output=cut, until=steps, initial=initial), found)
        with use_cores(1) as cores:
            follow(Request(output=cut, resume="last"), found)
        verdict = replace(compare_trails(expected, found), cores=(available_cores(), cores))
        return verdict, open_run(whole).settings


@contextlib.contextmanager
def use_cores(count: int) -> Iterator[int]:
    """Limits the calling thread, and what it starts, to `count` cores in this context; yields how many they have.

    Torch starts with the same number of threads, as in a process on these cores. On systems that cannot limit a program
    to fewer cores (macOS, Windows), it has all of them.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield available_cores()
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        with torch_threads(available_cores()):
            yield available_cores()
    finally:
        os.sched_setaffinity(0, before)


def for_trial(request: Request, steps: int) -> Request:
    """Returns the request with a budget of `steps` steps, and short evaluations at some of them."""
    given = request.settings.explicit()
    monitor = {"every_steps": max(1, steps // EVALUATIONS), "sample_length": 0}
    training = {"evaluation_characters": EVALUATION_CHARACTERS, "patience": 1}  # so that averaging starts
    settings = overlay_settings(given, {"budget": {"steps": steps}, "monitor": monitor, "training": training})
    return replace(request, settings=validate(settings), resume=None)


def follow(request: Request, trail: Trail) -> None:
    """Trains, and notes all results."""
    path = request.output
    for event in train(request):
        if isinstance(event, Stepped):
            trail.steps[event.step] = (event.fingerprint, event.loss, event.gradient_norm, event.progress)
        elif isinstance(event, Evaluated | Compared):
            evaluations, when = (trail.final, " at the end") if event.final else (trail.evaluations, "")
            model = f" of the {event.model}" if isinstance(event, Compared) else ""
            evaluations[event.step, f"{event.protocol}{model}{when}"] = event.loss.total_nats
    assert path is not None
    trail.arrays = last_arrays(path)


def last_arrays(path: Path) -> dict[str, Tensor]:
    """Returns all arrays of a run's last checkpoint by name."""
    last = open_run(path).checkpoint("last")
    return {f"model.{name}": value for name, value in last.weights().items()} | last.training()


def compare_trails(expected: Trail, found: Trail) -> Verdict:
    """Yields where the second trail differs from the first one, even by one bit.

    The exact losses of the best model are measured only if there is time. They are compared if both trainings have
    them.
    """
    differences = [*_find_difference(expected.steps, found.steps, "step {}: {} became {}")][:1]
    one, other = expected.evaluations, found.evaluations
    if expected.final and found.final:
        one, other = one | expected.final, other | found.final
    differences += [*_find_difference(one, other, "evaluation {}: {} nats became {}")][:1]
    for name in sorted(expected.arrays.keys() | found.arrays.keys()):
        before, after = expected.arrays.get(name), found.arrays.get(name)
        if before is None or after is None or not _have_same_bits(before, after):
            distance = "" if before is None else f" by up to {_largest_difference(before, after):g}"
            differences.append(f"{name} differs{distance}")
    return Verdict(len(expected.steps), len(one), len(expected.arrays), differences)


def _find_difference(expected: dict[Any, Any], found: dict[Any, Any], words: str) -> Iterator[str]:
    for key in [*expected, *(key for key in found if key not in expected)]:
        if expected.get(key) != found.get(key):
            yield words.format(key, expected.get(key), found.get(key))


def _have_same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))


def _largest_difference(one: Tensor, other: Tensor | None) -> float:
    same = other is not None and one.shape == other.shape
    return float((one.double() - other.double()).abs().max()) if same and other is not None and one.numel() else 0.0
