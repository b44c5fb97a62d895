"""What every export has: the weights by plain names, and a description of the model. docs/format.md is its manual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from scriven.arrays import Float32s, Ids, State
from scriven.corpus.decoding import replaced_punctuation
from scriven.errors import InputError, UsageError
from scriven.inference.loading import weights_hash
from scriven.inference.numpy_network import NORM_EPS, NumpyNetwork
from scriven.inference.predictor import Predictor
from scriven.model.shapes import GATES, layer_widths
from scriven.runs.checkpoints import Checkpoint
from scriven.runs.folder import Run, Which, open_run
from scriven.settings import ModelSettings, reader_window
from scriven.vocabulary import Vocabulary

FORMAT = "scriven-export"
VERSION = 1
CHECKED_STEPS, CHECKED_ROWS = 24, 3  # characters and rows of a check, read in two pieces
LARGEST_DIFFERENCE = 1e-4  # of logits, relative to the largest one if that is above 1

Compute = Callable[[Ids, Any], tuple[Float32s, Any]]  # (ids (T, N), state or None) -> logits (T, N, V), state after


@dataclass(frozen=True)
class ExportedModel:
    """The network of a run for other programs. Its counts, if any, are not in it; `notes` says what is not."""

    run: Run
    checkpoint: Checkpoint
    original: dict[str, Float32s]  # the weights, named as in a checkpoint

    @property
    def settings(self) -> ModelSettings:
        """The settings of the network."""
        return self.run.settings.model

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that it knows."""
        return self.run.vocabulary

    @cached_property
    def network(self) -> NumpyNetwork:
        """The network as Scriven computes it, which an export is compared with."""
        return NumpyNetwork(self.settings, self.vocabulary.size, self.original)

    @cached_property
    def weights(self) -> dict[str, Float32s]:
        """The weights by the names of an export.

        The embedding of `<unk>`, or its column of one-hot weights, is the mean of all others, as Scriven reads it.
        """
        onehot = self.settings.input == "onehot"
        folded = "layers.0.weight_ih_l0" if onehot else "embedding.weight"
        found = {name.replace(".rnn.", "."): each for name, each in self.original.items()}
        for name in (prefix + folded for prefix in self.settings.prefixes):
            table = np.array(found[name].T if onehot else found[name])  # (V, D), or (V, G*H)
            table[-1] = table[:-1].mean(0)
            found[name] = np.ascontiguousarray(table.T if onehot else table)
        return found

    @property
    def widths(self) -> list[int]:
        """The L + 1 widths of the first layer's input and of each layer's output."""
        return layer_widths(self.settings, self.vocabulary.size)

    @property
    def config(self) -> dict[str, Any]:
        """The description of the model: all that is needed to compute it, to give it text, and to count its costs."""
        settings, vocabulary, corpus = self.settings, self.vocabulary, self.run.settings.corpus
        predictor = Predictor(self.network, vocabulary, "fp32")
        return {
            "format": FORMAT,
            "version": VERSION,
            "scriven": version("scriven"),
            "step": self.checkpoint.step,
            "run_weights_sha256": weights_hash(self.run, self.checkpoint),
            "cell": settings.cell,
            "activations": settings.activations,
            "members": settings.members,
            "input": settings.input,
            "widths": self.widths,
            "residual": settings.residual,
            "norm": settings.norm,
            "norm_epsilon": NORM_EPS.get(settings.norm, 0.0),
            "head": settings.head,
            "tied": settings.tied,
            "vocabulary_size": vocabulary.size,
            "unknown": vocabulary.unknown,
            "unknown_nats": 0.0 if vocabulary.unit == "byte" else vocabulary.unseen_nats,
            "boundary": vocabulary.boundary,
            "opening": predictor.opening.tolist(),
            "documents": corpus.documents,
            "window": reader_window(self.run.settings.reader),
            "text": {
                "lowercase": corpus.lowercase,
                "replaced": replaced_punctuation(corpus),
                "normalize": corpus.normalize,
            },
        }

    @property
    def notes(self) -> list[str]:
        """What the run has and an export has not, each with the way out."""
        found = []
        if self.checkpoint.mixture is not None:
            found.append(
                "the run mixes its network with counts of the training text, which stay behind: the export is the "
                "network alone, and scores as --counts none does. To send both, use scriven pack"
            )
        if window := reader_window(self.run.settings.reader):
            found.append(
                f"the model was trained on windows of {window:,} characters: to write with it, give it the last "
                f"{window:,} ones from a zero state, for each character"
            )
        return found

    def largest_difference(
        self, compute: Compute, rounded: Mapping[str, Float32s] | None = None, *, forgets: bool = False
    ) -> float:
        """Returns how far logits that `compute` gives are from Scriven's, for random symbols read in two pieces.

        The difference is divided by the largest logit, if that is above 1. With weights that were `rounded`, by the
        names of an export, they are compared with a network of these. `forgets` says that `compute` reads a boundary
        from a zero state by itself. Raises InputError if the logits differ by more than rounding does, so that no wrong
        export is left behind.
        """
        network, symbols = self.network, self.vocabulary.size
        if rounded is not None:
            weights = {name: rounded[name.replace(".rnn.", ".")] for name in self.original}
            network = NumpyNetwork(self.settings, self.vocabulary.size, weights)
            symbols -= 1  # the row of `<unk>`, the mean of all others, is rounded too
        drawn = np.random.default_rng(0).integers(symbols, size=(CHECKED_STEPS, CHECKED_ROWS))
        drawn[0] = symbols - 1
        state: State | None = None
        other: Any = None
        largest = 0.0
        for ids in np.split(drawn, [CHECKED_STEPS // 3]):
            wanted, state = network.read(ids, state, ids == self.vocabulary.boundary if forgets else None)
            found, other = compute(ids, other)
            scale = max(1.0, float(np.abs(wanted).max()))
            largest = max(largest, float(np.abs(wanted - found).max()) / scale)
        if not largest <= LARGEST_DIFFERENCE:  # also if it is not a number
            raise InputError(
                f"the export does not compute what the run does: logits are {largest:.1g} apart, so it was not kept; "
                "please report this with the run's settings.toml"
            )
        return largest


def read_exported(name: str, which: Which = "best") -> ExportedModel:
    """Reads the network of a run to be exported.

    Raises InputError if the run is damaged; UsageError if it has no network.
    """
    run = open_run(name)
    if run.settings.model.kind == "counts":
        raise UsageError(
            f"{name} is a model of counts alone, and an export has only networks; to send it, use scriven pack"
        )
    checkpoint = run.checkpoint(which)
    return ExportedModel(run, checkpoint, checkpoint.arrays(run.shapes()))


def check_cell_is_own(model: ExportedModel, target: str) -> None:
    """Raises UsageError if the cell is a registered one, whose code only its own module has."""
    if model.settings.cell not in GATES:
        raise UsageError(
            f"the cell {model.settings.cell} is registered by a module of your own, which {target} does not have; use "
            "--to safetensors, and compute it with that module"
        )
