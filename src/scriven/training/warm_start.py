"""Makes the model that a training starts from: random, from another run, or with pretrained embeddings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scriven.errors import InputError, UsageError
from scriven.model import CharLM
from scriven.model.backends import single_threaded
from scriven.model.language_model import weight_shapes
from scriven.model.pretrained import Embeddings, from_rows, place, read_embeddings
from scriven.runs import load_weights, open_run
from scriven.runs.folder import SETTINGS_FILE
from scriven.runs.tensors import Shapes
from scriven.settings import ModelSettings, Settings
from scriven.vocabulary import Vocabulary

PER_SYMBOL = ("embedding.weight", "head.weight", "head.bias")  # arrays with one row per symbol
ONEHOT = "layers.0.rnn.weight_ih_l0"  # one column per symbol if the input is one-hot


def warm_started_model(
    settings: Settings, vocabulary: Vocabulary, run: str = "", embeddings: Embeddings | None = None
) -> tuple[CharLM, list[int]]:
    """Returns a new model, and the symbols that the embeddings lack.

    Its weights are drawn from the seed, then replaced by those of `run` and by `embeddings`, if any. They are drawn in
    one thread, since the last bits of orthogonal matrices depend on the number of threads. Raises InputError or
    UsageError as `transplant` and `place` do.
    """
    with single_threaded(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = CharLM(settings.model, vocabulary.size)
    if run:
        transplant(model, vocabulary, run)
    return model, place(model, vocabulary, embeddings) if embeddings else []


def new_symbols(known: Vocabulary, vocabulary: Vocabulary) -> list[str]:
    """Returns the symbols of `vocabulary` that are not in `known`."""
    return [chr(symbol) for symbol in sorted(set(vocabulary.symbols) - set(known.symbols))]


def transplant(model: CharLM, vocabulary: Vocabulary, run: str) -> None:
    """Copies the best weights of `run` into `model`. Arrays with one row per symbol are copied row by row.

    Symbols that the other model does not know keep their random rows. Raises UsageError if the models differ in shape,
    InputError if they differ in unit, or have no output layer with one row per symbol.
    """
    other = open_run(run)
    if model.head is None and other.vocabulary != vocabulary:
        raise InputError(
            f"{run} has no output layer (model.head none), and knows other characters; start from another run"
        )
    if other.vocabulary.unit != vocabulary.unit:
        raise InputError(
            f"{run} reads {other.vocabulary.unit}s and this text is read as {vocabulary.unit}s; "
            f"add --corpus.unit {other.vocabulary.unit}"
        )
    _check_shape(model.settings, other.settings.model, run)
    theirs = {symbol: row for row, symbol in enumerate(other.vocabulary.symbols)}
    shared = [(row, theirs[symbol]) for row, symbol in enumerate(vocabulary.symbols) if symbol in theirs]
    shared.append((vocabulary.unknown, other.vocabulary.unknown))
    if vocabulary.boundary is not None and other.vocabulary.boundary is not None:
        shared.append((vocabulary.boundary, other.vocabulary.boundary))
    checkpoint, weights = other.checkpoint("best"), model.state_dict()
    for name, value in checkpoint.weights().items():
        if name == ONEHOT and model.settings.input == "onehot":
            weights[name] = _rows(weights[name].T, value.T, shared).T
        else:
            weights[name] = _rows(weights[name], value, shared) if name in PER_SYMBOL and name in weights else value
    load_weights(model, checkpoint, weights)


def _check_shape(mine: ModelSettings, theirs: ModelSettings, run: str) -> None:
    """Raises UsageError with the settings that differ if the weights of the two models differ in shape."""
    shapes = weight_shapes(theirs, 1)
    if weight_shapes(mine, 1) == shapes:
        return
    differing = [name for name, value in theirs if value != getattr(mine, name)]
    shaping = [name for name in differing if _shapes(theirs, name, getattr(mine, name)) != shapes] or differing
    values = " and ".join(f"model.{name} {getattr(theirs, name)}, not {getattr(mine, name)}" for name in shaping)
    alone = mine.input == theirs.input == "embedding" and not mine.tied
    raise UsageError(
        f"{run} has {values}, and its weights fit no other model; drop {' and '.join('model.' + n for n in shaping)}"
        + (f", or start with only its embedding: --model.embedding {run} instead of --from" if alone else "")
    )


def _shapes(model: ModelSettings, name: str, value: object) -> Shapes | None:
    """Returns the weights' shapes with another value of one setting, or None if that value is impossible alone."""
    try:
        return weight_shapes(model.model_copy(update={name: value}), 1)
    except UsageError:
        return None


def load_embeddings(path: str) -> Embeddings:
    """Reads the embeddings in a file or in a run's best model.

    Raises InputError if there are none.
    """
    if not (Path(path) / SETTINGS_FILE).is_file():
        return read_embeddings(path)
    run = open_run(path)
    weights = run.checkpoint("best").weights()
    if "embedding.weight" not in weights:
        raise InputError(
            f"the model of {path} has no embedding, since its model.input is onehot; name another run or file"
        )
    return from_rows(run.vocabulary, weights["embedding.weight"], source=path)


def _rows(mine: Tensor, theirs: Tensor, shared: list[tuple[int, int]]) -> Tensor:
    """Returns `mine` with the rows of shared symbols taken from `theirs`."""
    if mine.shape[1:] != theirs.shape[1:]:
        return theirs  # loading it fails, with its name and shape
    here, there = zip(*shared, strict=True)
    result = mine.clone()
    result[list(here)] = theirs[list(there)]
    return result
