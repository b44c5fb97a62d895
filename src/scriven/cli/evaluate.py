"""`scriven evaluate`: the loss of a trained model on a text, by a named protocol."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scriven.cli.flags import Device, Invalid, Json, Precision, RunFolder, Text, Which
from scriven.cli.rows import show
from scriven.errors import InputError
from scriven.settings import Protocol

if TYPE_CHECKING:
    from scriven.corpus import Part


def evaluate(
    run: RunFolder,
    file: Text | None = None,
    /,
    *,
    protocol: Protocol = "stream",
    as_json: Json = False,
    invalid: Invalid = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """The loss of a trained model on a text, by a named protocol: numbers to compare models by.

    stream reads the whole text once, in order, remembering all before, and counts every character once.
    window-256 reads windows of 256 characters, remembering nothing between them, each given one character: comparable
    with transformers of that context. Where the model's unit is the byte, bytes are counted as characters.

    Parameters
    ----------
    file
        text to read, or - for standard input; the validation text of the run's own corpus where not given
    protocol
        how the text is read and what is counted
    """
    from scriven.corpus.sources import find, read
    from scriven.inference.score import PROTOCOLS, chunks_of
    from scriven.session import load

    sources = find([file]).sources if file else ()
    model = load(run, which=checkpoint, device=device, precision=precision)
    pieces = read(sources, model.settings.corpus.model_copy(update={"invalid": invalid} if invalid else {}))
    chunks = map(model.vocabulary.encode_read, pieces) if file else chunks_of(_validation(run))
    tally = PROTOCOLS[protocol](model.predictor, chunks)
    text = file or f"validation text of {run}"
    if not tally.loss.characters:
        raise InputError(f"{text} is too short for {protocol}: there is no character to foretell")
    computed = {"step": model.step, "precision": model.predictor.precision}
    show([{"text": text, "protocol": protocol, **tally.values(), **computed}], "json" if as_json else "words")


def _validation(run: str) -> Part:
    """The validation part of the corpus that a run was trained on."""
    from scriven.runs import open_run, run_corpus

    opened = open_run(run)
    corpus = run_corpus(opened)
    if corpus.path != opened.corpus_path:
        sys.stderr.write(f"note: the corpus of {run} was gone, and was built again of its text as that is now\n")
    if not corpus.validation.characters:
        raise InputError(f"{run} was trained without validation text; name a file to evaluate on")
    return corpus.validation
