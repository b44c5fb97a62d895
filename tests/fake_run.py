"""The events of a made-up training, for tests of what tells about one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from scriven.events import Compared, Evaluated, Event, Finished, Sampled, Saved, Started, Stepped
from scriven.loss import Loss

PER_STEP = 128  # characters


def make_started(
    run: Path | str = "runs/book", step: int = 0, notes: tuple[str, ...] = (), *, unit: str = "character"
) -> Started:
    return Started(
        run=str(run),
        name="lstm 2x192",
        parameters=500_000,
        training_characters=9_000,
        validation_characters=1_000,
        characters_per_step=PER_STEP,
        workers=2,
        device="cpu",
        precision="bf16",
        expected_seconds=300.0,
        expected_bytes=600_000_000,
        step=step,
        progress=step / 100,
        notes=notes,
        unit=unit,
    )


def make_stepped(step: int, steps: int = 100, seconds: float | None = None) -> Stepped:
    nats = PER_STEP * (1 + 1 / step)
    at = float(step) if seconds is None else seconds
    return Stepped(step, step / steps, Loss(nats, PER_STEP), 0.04, 0.5, step * PER_STEP, at, f"{step:08x}")


def make_evaluated(step: int, nats_per_char: float = 1.5, *, best: bool = True, final: bool = False) -> Evaluated:
    return Evaluated(step, step / 100, "stream", Loss(1000 * nats_per_char, 1000), best, float(step), final)


def make_compared(
    step: int, model: Literal["counts", "mixture"], nats_per_char: float, *, final: bool = True
) -> Compared:
    return Compared(step, model, "stream", Loss(1000 * nats_per_char, 1000), float(step), final)


def make_sampled(step: int, text: str = "It was a dark night.\n") -> Sampled:
    return Sampled(step, "", text, 0.8, 1)


def make_finished(step: int, reason: str = "budget", notes: tuple[str, ...] = ()) -> Finished:
    return Finished(step, reason, step, Loss(1400.0, 1000), 90.0, notes)


def training(
    run: Path | str, *, first: int = 1, last: int = 100, every: int = 20, unit: str = "character"
) -> Iterator[Event]:
    """Steps `first` to `last`, an evaluation every so many of them."""
    yield make_started(run, first - 1, unit=unit)
    for step in range(first, last + 1):
        yield make_stepped(step, last)
        if step % every == 0:
            yield make_evaluated(step, 1.4 + 1 / step)
            yield make_sampled(step)
            yield Saved(step, f"{run}/checkpoints/step-{step:08d}")
    yield make_finished(last)
