"""`scriven evaluate`: the loss of a trained model on a text, by a named protocol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Normalize,
    ReadingPrecision,
    RunFolder,
    Switch,
    Text,
    Which,
    note,
    show,
)
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.corpus import Corpus
    from scriven.inference.surprisal import SurprisalSum
    from scriven.session import Model


def evaluate(
    run: RunFolder,
    file: Text | None = None,
    /,
    *,
    protocol: str | None = None,
    accuracy: Switch = False,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
) -> None:
    """The loss of a trained model on a text, by a named protocol: numbers to compare models by.

    stream reads the whole text once, in order, remembering all before, and counts every character once.
    documents reads each document (line, file, piece) alone; what their ends cost is shown beside the characters' cost.
    window-L, as window-256, reads windows of L characters, remembering nothing between them, each given one character:
    comparable with transformers of that context. last-L predicts each character from exactly the L before it.
    Where the model's unit is the byte, bytes are counted as characters.

    Parameters
    ----------
    file
        text to read, or - for standard input; the validation text of the run's own corpus where not given
    protocol
        how the text is read and what is counted: documents, stream, window-LENGTH or last-LENGTH; where not given, as
        the model was trained
    accuracy
        count too which characters were the likeliest ones by the model; read by torch, in bf16 or fp32, which is slower
    """
    from scriven.inference.protocols import own_protocol, parse_protocol
    from scriven.inference.surprisal import check_finite
    from scriven.session import load

    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    _check_file(file, choices)
    if protocol:
        parse_protocol(protocol)
    if accuracy and precision == "int8":
        raise UsageError("--accuracy is counted by torch, which has no int8; give --precision bf16 or fp32, or neither")
    model = load(run, which=checkpoint, device=device, precision=precision)
    if accuracy:
        model.predictor = model.predictor.by_torch()
    protocol = protocol or own_protocol(model.settings.reader)
    total = _of_file(model, file, protocol, **choices) if file else _of_validation(model, run, protocol)
    text = file or f"validation text of {run}"
    if not total.loss.characters:
        raise InputError(f"{text} is too short for {protocol}: there is no character to predict")
    if not math.isfinite(total.loss.total_nats) and protocol != own_protocol(model.settings.reader):
        raise InputError(
            f"by protocol {protocol} the values of {run} grow beyond all bounds and the loss is no number; give "
            f"--protocol {own_protocol(model.settings.reader)}, as it was trained"
        )
    check_finite([total.loss.nats, total.loss.end_nats])
    documents = {"nats_per_document": total.loss.nats_per_document} if total.loss.ends else {}
    judged = {"accuracy": total.loss.accuracy} if total.loss.judged else {}
    computed = {"step": model.step, "precision": model.predictor.reading}
    show(
        [{"text": text, "protocol": protocol, **total.values(), **documents, **judged, **computed}],
        "json" if as_json else "words",
    )


def _check_file(file: str | None, choices: dict[str, str | None]) -> None:
    """Raises UsageError where the file is not named, or flags say how to read it and there is none."""
    if file == "":
        raise UsageError("the file is named '', as by a variable that was not set; name it, or leave it out")
    given = [f"--corpus.{name}" for name, value in choices.items() if value]
    if given and file is None:
        raise UsageError(f"{', '.join(given)}: a text is needed that is read so; name its FILE, or drop the flag")


def _of_file(model: Model, file: str, protocol: str, **choices: str | None) -> SurprisalSum:
    from scriven.cli.texts import read_sources
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.corpus.sources import find
    from scriven.inference import protocols

    chunks = read_sources(model, find([file]).sources, Counts(), choices)
    return protocols.protocol(protocol)(model.predictor, chunks)


def _of_validation(model: Model, run: str, protocol: str) -> SurprisalSum:
    from scriven.inference.protocols import measure

    text = corpus_of(run).validation
    if not text.characters:
        raise InputError(f"{run} was trained without validation text; name a file to evaluate on")
    return measure(protocol, model.predictor, text, lanes_at_most=1)


def corpus_of(run: str) -> Corpus:
    """The corpus that a run was trained on; says so where it had to be built again.

    Raises InputError when it is gone and cannot be.
    """
    from scriven.runs import open_run, run_corpus

    opened = open_run(run)
    corpus = run_corpus(opened)
    if corpus.path != opened.corpus_path:
        note(f"the corpus of {run} was gone, and was built again of its text as that is now")
    return corpus
