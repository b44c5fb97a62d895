"""Makes the model that a training starts from: random, from a run or a start, or with pretrained embeddings."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from scriven import starts
from scriven.corpus.decoding import fold_punctuation
from scriven.errors import InputError, UsageError
from scriven.model import CharLM
from scriven.model.backends import single_threaded
from scriven.model.language_model import make_model
from scriven.model.pretrained import Embeddings, from_rows, place, read_embeddings
from scriven.model.shapes import weight_shapes
from scriven.runs import load_weights, open_run
from scriven.runs.folder import locate_run
from scriven.runs.start_model import StartModel
from scriven.runs.tensors import Shapes
from scriven.settings import ModelSettings, Settings
from scriven.vocabulary import Vocabulary

PER_SYMBOL = ("embedding.weight", "head.weight", "head.bias")  # arrays with one row per symbol
LINE_ENDS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # that are not a line feed
ONEHOT = "layers.0.rnn.weight_ih_l0"  # one column per symbol if the input is one-hot


def warm_started_model(
    settings: Settings, vocabulary: Vocabulary, initial: str = "", embeddings: Embeddings | None = None
) -> tuple[CharLM, list[int]]:
    """Returns a new model, and the symbols that the embeddings lack.

    Its weights are drawn from the seed, then replaced by those of `initial` (a run's folder or a start's reference) and
    by `embeddings`, if any. They are drawn in one thread, since the last bits of orthogonal matrices depend on the
    number of threads. Raises InputError or UsageError as `transplant` and `place` do.
    """
    with single_threaded(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = make_model(settings.model, vocabulary.size)
    if starts.is_reference(initial):
        transplant_start(model, vocabulary, StartModel(starts.from_reference(initial)))
    elif initial:
        transplant(model, vocabulary, initial)
    missing = [place(each, vocabulary, embeddings) for each in model.networks] if embeddings else [[]]
    return model, missing[0]


def new_symbols(known: Vocabulary, vocabulary: Vocabulary) -> list[str]:
    """Returns the symbols of `vocabulary` that are not in `known`."""
    return sorted(set(vocabulary.names).difference(known.names))


def transplant(model: CharLM, vocabulary: Vocabulary, run: str) -> None:
    """Copies the best weights of `run` into `model`. Arrays with one row per symbol are copied row by row.

    Symbols that the other model does not know keep their random rows. Raises UsageError if the models differ in shape,
    InputError if they differ in unit, or have no output layer with one row per symbol.
    """
    other = open_run(run)
    if model.settings.head == "none" and other.vocabulary != vocabulary:
        raise InputError(
            f"{run} has no output layer (model.head none), and knows other characters; start from another run"
        )
    _check_unit(vocabulary, other.vocabulary, run)
    _check_shape(model.settings, other.settings.model, run, other_embedding=run)
    theirs = {name: row for row, name in enumerate(other.vocabulary.names)}
    shared = [(row, theirs[name]) for row, name in enumerate(vocabulary.names) if name in theirs]
    shared.append((vocabulary.unknown, other.vocabulary.unknown))
    if vocabulary.boundary is not None and other.vocabulary.boundary is not None:
        shared.append((vocabulary.boundary, other.vocabulary.boundary))
    checkpoint, weights = other.checkpoint("best"), model.state_dict()
    for name, value in checkpoint.weights().items():
        if name.endswith(ONEHOT) and model.settings.input == "onehot":
            weights[name] = _rows(weights[name].T, value.T, shared).T
        else:
            by_rows = name.endswith(PER_SYMBOL) and name in weights
            weights[name] = _rows(weights[name], value, shared) if by_rows else value
    load_weights(model, checkpoint, weights)


def transplant_start(model: CharLM, vocabulary: Vocabulary, start: StartModel) -> None:
    """Copies the weights of a start into `model`; each symbol gets those of the symbol that `similar_rows` finds.

    A symbol without one gets the mean of all known ones. Raises UsageError if the models differ in shape, InputError if
    they differ in unit or the start is damaged.
    """
    _check_unit(vocabulary, start.vocabulary, str(start))
    _check_shape(model.settings, start.settings, str(start))
    known, mean = len(start.vocabulary.symbols), start.vocabulary.size
    rows = [mean if row is None else row for row in similar_rows(start.vocabulary, vocabulary)]  # (V,)
    weights = start.read_weights()
    for name in PER_SYMBOL:
        value = weights[name]  # (V, ...) of the start
        weights[name] = torch.cat((value, value[:known].mean(0, keepdim=True)))[rows]
    model.load_state_dict(weights)


def similar_rows(known: Vocabulary, vocabulary: Vocabulary) -> list[int | None]:
    """Returns for each of the V symbols of `vocabulary` the row of the most similar symbol in `known`, or None.

    That is the symbol itself; its other case; its base letter, without accents; the plain form of a punctuation mark;
    or a plain line end or space. The boundary between documents counts as a line feed if the other model knows no
    documents.
    """
    theirs = {chr(symbol): row for row, symbol in enumerate(known.symbols)}
    if vocabulary.unit == "byte":
        rows: list[int | None] = [*range(len(vocabulary.symbols))]
    else:
        like = (next(filter(theirs.__contains__, _alike(chr(symbol))), None) for symbol in vocabulary.symbols)
        rows = [None if each is None else theirs[each] for each in like]
    if vocabulary.boundary is not None:
        rows.append(theirs.get("\n") if known.boundary is None else known.boundary)
    return [*rows, known.unknown]


def _alike(symbol: str) -> Iterator[str]:
    """Yields a symbol and those that may replace it, the most similar first."""
    base = unicodedata.normalize("NFKD", symbol)[0]
    plain = fold_punctuation(symbol)[:1]
    yield from (symbol, symbol.swapcase(), base, base.swapcase(), plain)
    if symbol.isspace():
        yield "\n" if symbol in LINE_ENDS else " "


def _check_unit(vocabulary: Vocabulary, theirs: Vocabulary, source: str) -> None:
    """Raises InputError if the models read different units."""
    if theirs.unit != vocabulary.unit:
        raise InputError(
            f"{source} reads {theirs.unit}s and this text is read as {vocabulary.unit}s; "
            f"add --corpus.unit {theirs.unit}"
        )


def _check_shape(mine: ModelSettings, theirs: ModelSettings, source: str, other_embedding: str = "") -> None:
    """Raises UsageError with the settings that differ if the weights of the two models differ in shape.

    `source` names the other model, and `other_embedding` is the run whose embedding alone may fit, if any.
    """
    shapes = weight_shapes(theirs, 1)
    if weight_shapes(mine, 1) == shapes:
        return
    differing = [name for name, value in theirs if value != getattr(mine, name)]
    shaping = [name for name in differing if _shapes(theirs, name, getattr(mine, name)) != shapes] or differing
    values = " and ".join(f"model.{name} {getattr(theirs, name)}, not {getattr(mine, name)}" for name in shaping)
    alone = other_embedding and mine.input == theirs.input == "embedding" and not mine.tied
    way = f", or start with only its embedding: --model.embedding {other_embedding} instead of --from" if alone else ""
    raise UsageError(
        f"{source} has {values}, and its weights fit no other model; drop "
        f"{' and '.join('model.' + name for name in shaping)}{way}, or give --from none"
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
    if Path(path).is_file() or not locate_run(path):
        return read_embeddings(path)
    run = open_run(path)
    weights = run.checkpoint("best").weights()
    if "embedding.weight" not in weights:
        raise InputError(
            f"the model of {path} has no embedding, since its model.input is onehot; name another run or file"
        )
    return from_rows(run.vocabulary, weights["embedding.weight"], source=str(run.path))


def _rows(mine: Tensor, theirs: Tensor, shared: list[tuple[int, int]]) -> Tensor:
    """Returns `mine` with the rows of shared symbols taken from `theirs`."""
    if mine.shape[1:] != theirs.shape[1:]:
        return theirs  # loading it fails, with its name and shape
    here, there = zip(*shared, strict=True)
    result = mine.clone()
    result[list(here)] = theirs[list(there)]
    return result
