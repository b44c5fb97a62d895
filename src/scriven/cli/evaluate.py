"""`scriven evaluate`: measures the loss of a trained model on a text, by a chosen protocol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    Normalize,
    ReadingPrecision,
    Row,
    RunFolder,
    Text,
    Which,
    bits_name,
    in_bits,
    note,
    note_slowness,
    read_sources,
    show,
)
from scriven.errors import InputError, UsageError

if TYPE_CHECKING:
    from scriven.corpus import Corpus
    from scriven.inference.predictor import Predictor
    from scriven.inference.surprisal import SurprisalSum
    from scriven.loss import Loss
    from scriven.trained_model import Model


File = Annotated[
    Text | None,
    Parameter(help="text to read, or - for standard input; unless given, the validation text of the run's own corpus"),
]
Protocol = Annotated[
    str | None,
    Parameter(
        help="documents, stream, window-LENGTH, last-LENGTH, adaptive or adaptive-documents; unless given, the one "
        "that matches the model's training"
    ),
]


def evaluate(
    run: RunFolder,
    file: File = None,
    /,
    *,
    protocol: Protocol = None,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: ReadingPrecision = "auto",
    counts: Mixing = "auto",
) -> None:
    """Measure the loss of a trained model on a text, by a protocol you choose; for comparing models.

    If the model is a mixture of a network and counts, the losses of the network alone and of the counts alone are
    shown, too.

    The accuracy is how often the model's most likely character was the right one.

    stream reads the whole text once, in order, and remembers all of it. Every character counts once.

    documents reads each document (line, file or piece) alone. The cost of their ends is shown separately.

    window-L, such as window-256, reads independent windows of L characters, each with one character given at its start.
    Use it to compare with transformers of that context length.

    last-L, such as last-40, predicts each character from exactly the L before it.

    adaptive reads like stream (or documents), but the model keeps learning: it scores a few characters, then learns
    from them. If the model is mixed with counts, these learn, too; they first read the training text, of a long one the
    last 4 million characters. adaptive-documents forgets what it learned at each document's end, and uses the network
    alone. Both losses depend on the order of the text, and cannot be compared with those of the other protocols. The
    run does not change.

    For a model of bytes, each byte counts as a character.
    """
    from scriven.inference.protocols import own_protocol, parse_protocol
    from scriven.trained_model import load

    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    _check_file(file, choices)
    if protocol:
        parse_protocol(protocol)
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts)
    note_slowness(model)
    protocol = protocol or own_protocol(model.settings.reader)
    row = _measure_all(model, run, file, protocol, choices, in_nats=as_json)
    show([row], "json" if as_json else "words")


def _measure_all(
    model: Model, run: str, file: str | None, protocol: str, choices: dict[str, str | None], *, in_nats: bool
) -> Row:
    """Returns the loss by a protocol, the accuracy, and the losses of the model's parts, in nats or in bits."""
    from scriven.inference.protocols import ADAPTIVE_DOCUMENTS, reading_precision

    def _measure(predictor: Predictor) -> SurprisalSum:
        if file:
            return _measure_file(model, predictor, file, protocol, **choices)
        return _measure_validation(predictor, run, protocol)

    total, text = _measure(model.predictor), file or f"validation text of {run}"
    _check_loss(total.loss, model, run, text, protocol)
    computed: dict[str, Any] = {
        **({"accuracy": total.loss.accuracy} if total.loss.judged else {}),
        "step": model.step,
        "precision": reading_precision(protocol, model.predictor),
    }
    if file != "-" and protocol != ADAPTIVE_DOCUMENTS:  # standard input can be read only once; that is of the network
        computed |= {
            f"{part}_alone_nats_per_char": _measure(predictor).loss.nats_per_char
            for part, predictor in model.predictor.parts().items()
        }
    name = {"text": text, "protocol": protocol}
    if in_nats:
        documents = {"nats_per_document": total.loss.nats_per_document} if total.loss.ends else {}
        return name | total.values() | documents | computed
    per_symbol = bits_name(model.vocabulary.unit)
    bits = {
        name.replace("nats_per_char", per_symbol): value / math.log(2) if "nats" in name else value
        for name, value in computed.items()
    }
    return name | in_bits(total, model.vocabulary.unit) | bits


def _check_loss(loss: Loss, model: Model, run: str, text: str, protocol: str) -> None:
    """Raises InputError if nothing was measured, or if the loss is not a finite number."""
    from scriven.inference.protocols import own_protocol
    from scriven.inference.surprisal import check_finite

    own = own_protocol(model.settings.reader)
    if not loss.characters:
        raise InputError(f"{text} is too short for {protocol}, which finds no character to predict; give a longer text")
    if not math.isfinite(loss.total_nats) and protocol != own:
        raise InputError(
            f"by protocol {protocol} the model of {run} overflows, so its loss is not a number; give --protocol {own}, "
            "which matches its training"
        )
    check_finite([loss.nats, loss.end_nats])


def _check_file(file: str | None, choices: dict[str, str | None]) -> None:
    """Raises UsageError when the file's name is empty, or when flags say how to read it and there is no file."""
    if file == "":
        raise UsageError("the file's name is empty, perhaps from an unset variable; name a file, or leave it out")
    given = [f"--corpus.{name}" for name, value in choices.items() if value]
    if given and file is None:
        raise UsageError(
            f"{', '.join(given)} says how to read a text, but there is none; name a FILE, or drop the flag"
        )


def _measure_file(model: Model, predictor: Predictor, file: str, protocol: str, **choices: str | None) -> SurprisalSum:
    from scriven.corpus.decoding import ReadCounts as Counts
    from scriven.corpus.sources import find
    from scriven.inference import protocols

    chunks = read_sources(model, find([file]).sources, Counts(), choices)
    return protocols.protocol(protocol)(predictor, chunks)


def _measure_validation(predictor: Predictor, run: str, protocol: str) -> SurprisalSum:
    from scriven.inference.protocols import measure

    text = corpus_of(run).validation
    if not text.characters:
        raise InputError(f"{run} was trained without validation text; name a file to evaluate")
    return measure(protocol, predictor, text, lanes_at_most=1)


def corpus_of(run: str) -> Corpus:
    """Returns the corpus that a run was trained on, with a note when it had to be built again.

    Raises InputError when it is gone and cannot be built again.
    """
    from scriven.runs import open_run
    from scriven.runs.recovery import open_run_corpus

    opened = open_run(run)
    corpus = open_run_corpus(opened)
    if corpus.path != opened.corpus_path:
        note(f"the corpus of {run} was gone, so it was built again from its texts as they are now")
    return corpus
