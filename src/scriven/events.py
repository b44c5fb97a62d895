"""What happens while a model is trained: typed events, which the training loop yields and reports handle."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from scriven.loss import Loss


@dataclass(frozen=True)
class Started:
    """Training is about to begin; all settings are chosen."""

    run: str  # folder of the run
    name: str  # short name of the model's shape, such as "lstm 2x192"
    parameters: int  # number of trained parameters
    training_characters: int
    validation_characters: int
    characters_per_step: int
    workers: int
    device: str
    precision: str
    expected_seconds: float  # of the whole command; nan when unknown
    expected_bytes: int  # of memory, over all workers
    step: int  # steps done before, if the run is resumed
    progress: float  # 0..1 of the budget, used before
    notes: tuple[str, ...] = ()  # sentences for the user: what was chosen, counted or shortened
    epoch_steps: float = 0.0  # steps of one pass over the training text; 0 if unknown
    start: str = ""  # what the first weights are from: the start NAME, a run's folder, or random weights
    details: tuple[str, ...] = ()  # those of the notes that only some people want to know
    flops_per_character: float = 0.0  # floating-point operations of training on one symbol; see `training_flops`
    peak_flops: float = 0.0  # per second, that products of matrices reach on all machines; 0 if unknown
    counts: bool = False  # whether evaluations are of the network alone, since counts of the text stand beside it
    unit: str = "character"  # what the model reads at each step: all "characters" of events are these


@dataclass(frozen=True)
class Stepped:
    """One optimizer step. `loss` is the loss of this step's batch, before the update."""

    step: int  # 1 for the first
    progress: float  # 0..1 of the budget, after this step
    loss: Loss
    learning_rate: float
    gradient_norm: float  # per character, before clipping
    characters: int  # read since the start of the run
    seconds: float  # wall time, over all commands that trained this run
    fingerprint: str  # short hash of the step's loss and gradient norm, to compare two runs bit by bit
    waited: float = 0.0  # seconds until the step's batch was ready
    epochs: float = 0.0  # passes over the training text since the start of the run
    flops_per_second: float = 0.0  # floating-point operations of this step, of all workers, by the time that it took
    peak_share: float = math.nan  # `flops_per_second` as a share of the measured peak; nan if that is unknown
    schedule: float = 0.0  # the progress that gave the learning rate; without a time budget, that in mid-step


@dataclass(frozen=True)
class Skipped:
    """A step that changed nothing, since its loss or gradient was not finite. Its text was read."""

    step: int
    progress: float
    nats_per_char: float
    gradient_norm: float  # nan if the loss was not finite
    in_a_row: int
    in_all: int  # since the start of the run
    seconds: float


@dataclass(frozen=True)
class RolledBack:
    """Training diverged and rolled back to its last checkpoint, or to its start (step 0), at a lower learning rate."""

    step: int  # training continues from here
    left: int  # the step at which it diverged
    learning_rate_factor: float  # of all learning rates from now on
    reason: str  # a sentence on what was not finite


@dataclass(frozen=True)
class Evaluated:
    """The validation loss at a step. `protocol` says how the text was read."""

    step: int
    progress: float
    protocol: str
    loss: Loss
    best: bool  # whether this is the model to keep so far, by monitor.choose
    seconds: float
    final: bool = False  # of the best model, after the training


@dataclass(frozen=True)
class Compared:
    """The validation loss of a rival of the network: the counts alone, or their mixture with the network."""

    step: int
    model: Literal["counts", "mixture"]
    protocol: str
    loss: Loss
    seconds: float
    final: bool = False  # of the model that is kept, after the training


@dataclass(frozen=True)
class Sampled:
    """Text written by the model at an evaluation."""

    step: int
    prompt: str
    text: str
    temperature: float
    seed: int
    went_on: str = ""  # the real continuation, if the prompt is a place of the text


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk, whole."""

    step: int
    path: str
    evaluation: bool = True  # whether an evaluation saved it, not the clock, a stop or a rollback


@dataclass(frozen=True)
class Finished:
    """Training has ended; the best model is kept."""

    step: int
    reason: str  # "budget" or "interrupted"
    best_step: int
    best: Loss  # of the kept model as it is used, on validation text; see `network_alone`
    seconds: float
    notes: tuple[str, ...] = ()  # sentences for the user: what went wrong, what to do next
    signal: int = 0  # number of the signal that interrupted it, sent to any worker
    advice: str = ""  # a sentence on what would give a better model, with the command
    network_alone: bool = False  # whether `best` is without the counts of the model, as their mixture was not measured


Event = Started | Stepped | Skipped | RolledBack | Evaluated | Compared | Sampled | Saved | Finished


def event_name(event: Event) -> str:
    """The name of an event in files and in JSON, such as `rolled_back`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
