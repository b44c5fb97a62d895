"""Opens the model of a run for use: what computes it on which device, and whether counts of its text are mixed in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from scriven.errors import InputError, UsageError
from scriven.inference.chunks import StoredText
from scriven.inference.numpy_network import NumpyNetwork
from scriven.inference.predictor import Predictor, in_torch, writing_precision
from scriven.kernels import native_library
from scriven.kernels.counts import NgramMixture
from scriven.runs.checkpoints import MODEL_FILE, Checkpoint
from scriven.runs.folder import Run
from scriven.runtime import explain_torch, has_torch, may_have_gpu, needing_torch
from scriven.settings import reader_window

if TYPE_CHECKING:
    from scriven.model import CharLM

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
Counts = Literal["auto", "none"]


def open_predictor(
    run: Run, checkpoint: Checkpoint, place: str, *, precision: str, counts: str, order: int | None
) -> Predictor:
    """Returns a predictor with the weights of a checkpoint, on a type of device; mixed with counts if that is better.

    `order` bounds the contexts that counts look at when they write. Raises InputError if the checkpoint is damaged,
    UsageError for a precision that this machine does not have.
    """
    weights, settings = checkpoint.arrays(run.shapes()), run.settings.model
    writing = writing_precision(precision, place, settings.cell)
    network, number_format = _choose_network(NumpyNetwork(settings, run.vocabulary.size, weights), place, precision)
    predictor = Predictor(
        network,
        run.vocabulary,
        number_format,
        reader_window(run.settings.reader),
        writing,
        training_text=partial(training_text, run),
    )
    if settings.kind == "counts":
        return _counts_alone(predictor, run, order)
    return _mix_counts(predictor, run, checkpoint, order) if counts == "auto" else predictor


def weights_hash(run: Run, checkpoint: Checkpoint) -> str:
    """Returns the SHA-256 of the file that a model is: weights, or the counts of a model of counts alone."""
    if run.settings.model.kind == "counts":
        return str(run.origin["counts"]["sha256"])
    return str(checkpoint.manifest["files"][MODEL_FILE]["sha256"])


def device_type(name: str) -> str:
    """Returns the type of the device to compute on: for `auto`, torch is asked only if there may be a GPU.

    Raises UsageError if this machine does not have the device.
    """
    if name == "cpu" or (name == "auto" and not (may_have_gpu() and has_torch())):
        return "cpu"
    with needing_torch(f"device {name}"):
        from scriven.model.backends import choose_device  # noqa: PLC0415 - it imports torch
    return choose_device(name).type


def _choose_network(network: NumpyNetwork, place: str, precision: str) -> tuple[NumpyNetwork | CharLM, str]:
    """Returns what computes a network on a device, besides native code, and its number format.

    Torch does if it is there. In int8, native code reads and writes, so torch is not even imported. On a CPU without
    native code, `auto` is fp32: what is fastest there is measured, and a score must not depend on that.
    """
    native = writing_precision(precision, place, network.settings.cell) == "int8"
    if native or network.is_empty:
        return network, "fp32"
    if not has_torch():
        if precision == "bf16":
            raise UsageError(explain_torch("reading in bf16"))
        return network, "fp32"
    import torch  # noqa: PLC0415 - it is there

    from scriven.model.precision import choose_precision  # noqa: PLC0415 - it imports torch

    device, asked = torch.device(place), "fp32" if (place, precision) == ("cpu", "auto") else precision
    return in_torch(network).to(device), choose_precision(asked, device, network.settings.cell)


def training_text(run: Run, *, build: bool = True) -> StoredText:
    """Returns the training text of a run; if its corpus is missing, it is built again first, if it may be.

    Raises InputError, with the way out, if there is none.
    """
    from scriven.runs.recovery import open_run_corpus  # noqa: PLC0415 - most uses of a model need no corpus

    try:
        return open_run_corpus(run, build=build).training
    except InputError as error:
        raise InputError(
            f"{error}. Ongoing counts need the training text; without it, adapt the network alone: --counts none, or "
            'load(run, counts="none")'
        ) from None


def _counts_alone(predictor: Predictor, run: Run, order: int | None) -> Predictor:
    table = run.counts()
    assert table is not None  # or it would have raised
    return predictor.with_counts(NgramMixture.alone(table), NgramMixture.alone(table, order))


def _mix_counts(predictor: Predictor, run: Run, checkpoint: Checkpoint, order: int | None) -> Predictor:
    """Returns the predictor with the run's counts, if its training has found that they help."""
    weights = checkpoint.mixture
    if weights is None:
        return predictor
    table = run.counts()
    if table is None:
        return predictor.without_counts(native_library.why())
    return predictor.with_counts(*weights.mixtures(table, order))
