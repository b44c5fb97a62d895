"""Checks that settings fit each other: of the corpus, the reader, the model and the training."""

from __future__ import annotations

from scriven.errors import UsageError, shorten
from scriven.settings import REGISTERED_CELLS, ModelSettings, Settings

OF_OWN_CELLS = (  # settings of the model that only Scriven's own cells have
    "activation",
    "weight_drop",
    "initial",
    "initial_scale",
    "input_scale",
    "hidden_bias",
    "forget_bias",
    "gate_bias",
)


def check_complete(settings: Settings) -> Settings:
    """Returns the settings, which are all resolved.

    Raises UsageError if they contradict each other. In addition to the checks of `check_partial`, the batch must divide
    into groups, and a tied embedding must be as wide as the layers.
    """
    check_partial(settings)
    model = settings.model
    if model.tied and model.embedding not in (0, model.width):
        raise UsageError(
            f"model.tied needs an embedding as wide as the layers: give model.embedding {model.embedding} and "
            f"model.width {model.width} the same value"
        )
    batch, groups, workers = settings.reader.batch, settings.training.groups, settings.training.workers
    if groups < workers:
        raise UsageError(
            f"training.groups ({groups}) must be at least training.workers ({workers}), so that each worker has a group"
        )
    if batch % groups:
        raise UsageError(f"reader.batch ({batch}) must be a multiple of training.groups ({groups})")
    return settings


def check_partial(settings: Settings) -> Settings:
    """Returns the settings, some of which may still be chosen automatically.

    Raises UsageError if the settings of the reader or of the model contradict each other.
    """
    _check_reader(settings)
    _check_model(settings.model)
    return settings


def _check_reader(settings: Settings) -> None:
    kind, documents = settings.reader.kind, settings.corpus.documents != "none"
    if kind == "documents" and not documents:
        raise UsageError(
            "reader.kind documents: say what counts as one document with --corpus.documents lines, files or separator"
        )
    if kind != "documents" and documents:
        raise UsageError(f"reader.kind {kind} cannot read documents; drop it, or drop --corpus.documents")
    if settings.reader.loss == "last" and kind != "windows":
        raise UsageError(
            f"reader.loss last works only with reader.kind windows, and reader.kind is {kind}; drop one of them"
        )
    if settings.training.mean == "document" and not documents:
        raise UsageError(
            "training.mean document: the text has no documents; say what counts as one with --corpus.documents"
        )
    if settings.training.mean == "document" and settings.reader.pack and "pack" in settings.reader.model_fields_set:
        raise UsageError(
            "training.mean document needs whole documents in each step, and reader.pack cuts them up; drop one of them"
        )


def check_cell(model: ModelSettings) -> None:
    """Raises UsageError for settings that the cell does not have, and for a wrong number of activations."""
    if len(model.activations) != model.layers:
        raise UsageError(
            f"model.activation {shorten(model.activation)} names {len(model.activations)} activations "
            f"and model.layers is {model.layers}; give one for all layers, or one per layer"
        )
    unused = [name for name in OF_OWN_CELLS if getattr(model, name) != type(model).model_fields[name].default]
    if unused and REGISTERED_CELLS.find(model.cell):
        raise UsageError(
            f"model.cell {model.cell} is registered and decides by itself how it computes and starts; drop "
            f"{', '.join(f'model.{name}' for name in unused)}"
        )
    if model.cell == "mingru" and (set(model.activations) != {"tanh"} or model.weight_drop or not model.hidden_bias):
        raise UsageError(
            "model.cell mingru has no recurrent weights, no second bias and an activation of its own; drop "
            "model.weight_drop, model.hidden_bias and model.activation"
        )


def _check_model(model: ModelSettings) -> None:
    check_cell(model)
    drawn = (model.embedding_initial, model.embedding_scale) != ("normal", 1.0)  # they differ from the defaults
    if model.input == "onehot" and (model.embedding or model.tied or model.freeze_embedding or drawn):
        raise UsageError(
            "model.input onehot has no embedding; drop model.embedding, tied, freeze_embedding, embedding_initial and "
            "embedding_scale"
        )
    if model.tied and drawn:
        raise UsageError(
            "model.tied starts the embedding with the output layer's weights; drop model.embedding_initial and "
            "embedding_scale, or give model.output_scale instead"
        )
    if model.head == "none" and model.output_scale != 1:
        raise UsageError("model.head none has no output layer; drop model.output_scale")
    if model.residual and model.head == "none" and model.layers > 1:
        raise UsageError(
            "model.residual needs layers of equal width; with model.head none the last one differs, so drop one of them"
        )
    if model.tied and (model.head == "none" or model.freeze_embedding):
        other = "model.head none" if model.head == "none" else "model.freeze_embedding"
        raise UsageError(f"model.tied needs an output layer that is trained; drop it, or drop {other}")
