"""For experiments: cells and optimizers of your own; and for loops of your own, a corpus, its batches and a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from scriven.arguments import check_path, check_whole, python_words
from scriven.batches import Batch, Cursor, next_batch
from scriven.corpus.build import build, name_texts, settings_for_text
from scriven.corpus.store import Corpus
from scriven.errors import UsageError
from scriven.loss import Loss
from scriven.model import CharLM
from scriven.model.shapes import weight_shapes
from scriven.runs import create_run, open_run, writing
from scriven.runs.claim import check_new_run, describe_origin
from scriven.runs.folder import has_checkpoints
from scriven.runs.tensors import check_arrays, finite
from scriven.runtime import MAIN, Registered
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS, CorpusSettings, ReaderSettings, Settings
from scriven.settings_values import validate

HIGHEST_RATE = 100  # of a training


def register_cell(name: str, factory: Callable[[int, int], torch.nn.Module]) -> None:
    """Makes `model.cell` NAME mean a recurrent layer of your own.

    `factory(inputs, width)` returns a new layer, a `torch.nn.Module`; a class is such a factory. The layer is called
    as `y, state = layer(x, state)`, with x (T, N, inputs) for T steps of N rows, and returns y (T, N, width). It keeps
    nothing between calls: its state is a tuple of arrays (N, K), zeros at the beginning of a text, whose widths K are
    the layer's `state_widths`, by default `(width,)`. The first array should be the hidden values, y[-1].

    A name may be registered again, except for Scriven's own. A run stores the name alone, so the module that registers
    it must be imported before the run is opened: see docs/python.md.
    Raises UsageError for a name that cannot be registered.
    """
    REGISTERED_CELLS.add(name, Registered(factory, _calling_module()))


def register_optimizer(name: str, factory: Callable[..., torch.optim.Optimizer], *, learning_rate: float) -> None:
    """Makes `training.optimizer` NAME mean an optimizer of your own, of torch's kind.

    `factory(parameters, lr=...)` returns a `torch.optim.Optimizer` of a list of parameters; a class is such a factory.
    `learning_rate` is its peak learning rate where a training is given none. At each step Scriven clips the gradients,
    which are means over the predicted characters, and sets each group's rate by the schedule; then it calls `step()`.

    Names are as in `register_cell`. Raises UsageError for a name or a rate that cannot be registered.
    """
    if not (isinstance(learning_rate, int | float) and 0 < learning_rate <= HIGHEST_RATE):
        raise UsageError(f"learning_rate {learning_rate!r}: give a number above 0 and up to {HIGHEST_RATE}")
    REGISTERED_OPTIMIZERS.add(name, Registered(factory, _calling_module(), float(learning_rate)))


def _calling_module() -> str:
    """Returns the name of the module that called a function of this one."""
    return str(sys._getframe(2).f_globals.get("__name__") or MAIN)


def build_corpus(
    *texts: str | Path,
    text: str | Iterable[str] | None = None,
    settings: CorpusSettings | Mapping[str, Any] | None = None,
    output: str | Path | None = None,
) -> Corpus:
    """Returns the corpus of texts: their ids on the disk. It is built unless it exists.

    `texts` and `text` are as in `scriven.train`. `settings` are those of the corpus, such as `{"unit": "byte"}`.
    `output` is the folder, by default one in the user's cache. Raises InputError if a text cannot be read, UsageError
    for wrong settings.
    """
    if (text is None) == (not texts):
        raise UsageError("name texts, or give a text in memory as `text`, but not both")
    given = settings.model_dump(exclude_unset=True) if isinstance(settings, CorpusSettings) else dict(settings or {})
    chosen = settings_for_text(text) | given
    names = name_texts(texts, text)
    with python_words():
        return Corpus.open(build(names, validate({"corpus": chosen}).corpus, check_path("output", output)))


def iterate_batches(
    corpus: Corpus,
    reader: ReaderSettings | Mapping[str, Any] | None = None,
    cursor: Cursor = 0,
    *,
    validation: bool = False,
) -> Iterator[tuple[Batch, Cursor]]:
    """Yields batches of a corpus without end, each with the cursor after it.

    `reader` has the settings of the reader, such as `{"batch": 32, "length": 64}`. Unless given, its kind is
    `documents` for a corpus of documents and `stream` for any other. A batch depends only on the corpus, the reader and
    the cursor: give the last cursor to continue later, and 0 to start. With `validation`, the validation text is read.
    Raises InputError if the text is too short for the reader.
    """
    settings, part = _reader(corpus, reader), corpus.validation if validation else corpus.training
    while True:
        with python_words():
            batch, cursor = next_batch(part, corpus.vocabulary, settings, cursor)
        yield batch, cursor


def _reader(corpus: Corpus, reader: ReaderSettings | Mapping[str, Any] | None) -> ReaderSettings:
    given = reader.model_dump(exclude_unset=True) if isinstance(reader, ReaderSettings) else dict(reader or {})
    kind = "stream" if corpus.settings.documents == "none" else "documents"
    with python_words():
        return validate({"reader": {"kind": kind} | given}).reader


def save_run(
    model: CharLM,
    corpus: Corpus,
    output: str | Path,
    *,
    step: int,
    loss: Loss | None = None,
    best: bool = True,
    reader: ReaderSettings | Mapping[str, Any] | None = None,
) -> Path:
    """Saves a model as a checkpoint of a run. Returns the run's folder, for `load` and `scriven serve`.

    `output` is a new folder, or one that this function made for the same model and corpus; a later `step` is then its
    next checkpoint. `loss` is the validation loss, if it was measured. `best` says that this checkpoint is the one to
    use; otherwise the earlier best one stays the best. `reader` has the reader's settings: a model that was trained on
    windows must be used through windows. Raises UsageError for a model that does not belong to the corpus, or whose
    weights are not finite numbers in fp32, InputError if the folder cannot be written.
    """
    path, step = check_path("output", output), check_whole("step", step, 0, "0 or a positive number")
    if path is None:
        raise UsageError("output is None; give the folder of the run, a str or a Path")
    weights = _weights(model, corpus)
    parts = {"model": model.settings, "corpus": corpus.settings, "reader": _reader(corpus, reader)}
    settings = validate({name: part.model_dump() for name, part in parts.items()})
    with python_words():
        seals = _seals(path, settings)
        with writing(path):
            origin = describe_origin(corpus.texts, corpus.text_hash, corpus.name)
            run = create_run(path, settings, corpus.vocabulary, origin, seals)
            before = run.index().best
            manifest = {"step": step, "validation": vars((loss or Loss(0.0, 0)) + Loss(0.0, 0))}
            run.save(weights, {}, manifest, best=step if best or before is None else before)
    return path


def _weights(model: CharLM, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Returns the model's weights on the CPU. Raises UsageError if they do not fit the corpus."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        check_arrays(weights, weight_shapes(model.settings, corpus.vocabulary.size))
    except ValueError as error:
        raise UsageError(
            f"the model does not fit its own settings and the vocabulary of this corpus: {error}"
        ) from None
    if not all(map(finite, weights.values())):
        raise UsageError("the model's weights are not finite numbers; a lower learning rate may help")
    return weights


def _seals(path: Path, settings: Settings) -> tuple[str, ...]:
    """Returns the seals of the run in the folder, if any. Raises UsageError if it is another run."""
    if not (path.exists() and has_checkpoints(path)):
        check_new_run(path)
        return ()
    run = open_run(path)
    if run.settings != settings:
        raise UsageError(f"output {str(path)!r} is a run with other settings; choose a new folder")
    return run.setting_seals
