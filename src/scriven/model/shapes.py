"""The names and shapes of a model's weights by its settings, without making the model and without torch."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from scriven.errors import UsageError
from scriven.settings import ModelSettings
from scriven.settings_checks import check_cell

# The gates in the order of torch's weights and biases. "new" is the candidate of every cell.
GATES: dict[str, tuple[str, ...]] = {
    "rnn": ("new",),
    "gru": ("reset", "keep", "new"),
    "lstm": ("input", "forget", "new", "output"),
    "mingru": ("update", "new"),
}


FIRST_MATRIX = "layers.0.rnn.weight_ih_l0"  # multiplies the input of the first layer


def layer_widths(settings: ModelSettings, vocabulary_size: int) -> list[int]:
    """The L + 1 widths of the first layer's input and of each layer's output.

    Raises UsageError if the settings contradict each other.
    """
    if isinstance(settings.embedding, str):
        raise UsageError(f"model.embedding must be a width by the time a model is made, not {settings.embedding!r}")
    check_cell(settings)
    inputs = vocabulary_size if settings.input == "onehot" else settings.embedding or settings.width
    widths = [settings.width] * settings.layers
    if settings.head == "none":
        widths[-1] = vocabulary_size
        if settings.residual and settings.layers > 1:
            raise UsageError(
                f"model.residual needs layers of one width, but with model.head none the last one is {vocabulary_size} "
                f"wide, not {settings.width}; drop one of them"
            )
    if settings.tied and (settings.input == "onehot" or settings.head == "none" or inputs != widths[-1]):
        raise UsageError(
            f"model.tied needs an output layer and an embedding as wide as the layers, {settings.width}; not "
            f"input {settings.input}, head {settings.head} and embedding {settings.embedding}"
        )
    return [inputs, *widths]


def weight_shapes(settings: ModelSettings, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the arrays in a model's `state_dict`, without making the model.

    Raises UsageError if the settings contradict each other.
    """
    if settings.kind == "counts":
        return {}
    shapes = _network_shapes(settings, vocabulary_size)
    return {prefix + name: shape for prefix in settings.prefixes for name, shape in shapes.items()}


def _network_shapes(settings: ModelSettings, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes for one member."""
    inputs, *widths = layer_widths(settings, vocabulary_size)
    gates, headless = GATES.get(settings.cell), settings.head == "none"
    shapes: dict[str, tuple[int, ...]] = {}
    if settings.input != "onehot":
        shapes["embedding.weight"] = (vocabulary_size, inputs)
    for depth, (before, width) in enumerate(pairwise((inputs, *widths))):
        if gates is None:
            weights, _ = _describe_cell(settings.cell, before, width)
            shapes |= {f"layers.{depth}.rnn.{name}": shape for name, shape in weights.items()}
            continue
        for part, columns in ({"ih": before} | ({} if settings.cell == "mingru" else {"hh": width})).items():
            shapes[f"layers.{depth}.rnn.weight_{part}_l0"] = (len(gates) * width, columns)
            shapes[f"layers.{depth}.rnn.bias_{part}_l0"] = (len(gates) * width,)
    for depth, width in enumerate(widths[: len(widths) - headless]):
        for name in {"none": (), "rms": ("weight",), "layer": ("weight", "bias")}[settings.norm]:
            shapes[f"norms.{depth}.{name}"] = (width,)
    if not headless:
        shapes |= {"head.weight": (vocabulary_size, widths[-1]), "head.bias": (vocabulary_size,)}
    return shapes


def state_size(settings: ModelSettings, vocabulary_size: int) -> int:
    """Returns the number of values in the state of one row, over all layers, without making the model."""
    if settings.kind == "counts":
        return 0
    widths = layer_widths(settings, vocabulary_size)
    if settings.cell in GATES:
        return settings.members * settings.state_arrays * sum(widths[1:])
    sizes = (sum(_describe_cell(settings.cell, before, width)[1]) for before, width in pairwise(widths))
    return settings.members * sum(sizes)


def parameter_count(settings: ModelSettings, vocabulary_size: int) -> int:
    """The number of the model's parameters, without making the model. Tied ones count once, frozen ones too.

    A second bias that is not learned stays 0 and does not count.
    """
    return settings.members * sum(parameters_by_layer(settings, vocabulary_size).values())


def parameters_by_layer(settings: ModelSettings, vocabulary_size: int) -> dict[str, int]:
    """The number of parameters of each part of a member, by names such as `layer 1`; a tied embedding has 0."""
    counts: dict[str, int] = {}
    for name, shape in weight_shapes(settings.of_member, vocabulary_size).items():
        part, depth, *_ = name.split(".")
        label = f"{part.removesuffix('s')} {int(depth) + 1}" if part in {"layers", "norms"} else part
        own = not (settings.tied and part == "embedding") and (settings.hidden_bias or "bias_hh" not in name)
        counts[label] = counts.get(label, 0) + own * prod(shape)
    return counts


def training_flops(settings: ModelSettings, vocabulary_size: int, predicted: float = 1.0) -> float:
    """Returns the floating-point operations of training on one symbol, forwards and backwards: those of its products.

    The product of a matrix (rows, columns) and a vector has rows * columns multiplications and as many additions.
    Backwards there are two more such products, for the gradients of the matrix and of the vector. Looking up a symbol's
    embedding, or its column of a one-hot input, has none. The first layer's input needs no gradient if the embedding is
    frozen. The output layer computes only the share `predicted` of all symbols. Activations, the loss and the optimizer
    are not counted.
    """
    flops = 0.0
    for name, shape in weight_shapes(settings, vocabulary_size).items():
        part = name.removeprefix(next((each for each in settings.prefixes if name.startswith(each)), ""))
        looked_up = part == "embedding.weight" or (settings.input == "onehot" and part == FIRST_MATRIX)
        if len(shape) != 2 or looked_up:
            continue
        products = 2 if settings.freeze_embedding and part == FIRST_MATRIX else 3
        flops += 2 * products * prod(shape) * (predicted if part == "head.weight" else 1.0)
    return flops


def _describe_cell(name: str, inputs: int, width: int) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Returns what `describe_cell` does, of a registered cell, which is torch's."""
    from scriven.model.reference_cells import describe_cell  # noqa: PLC0415 - it imports torch

    return describe_cell(name, inputs, width)
