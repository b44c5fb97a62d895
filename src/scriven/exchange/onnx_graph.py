"""Writes an export as a graph of ONNX, in fp32 or with weights in int8, and checks it with onnxruntime.

Inputs: `ids` (T, N) and the state before them, an array (N, H) for each of `h0`, `c0`, `h1` and so on. Outputs:
`logits` (T, N, V) and the state after them, `h0_after` and so on. T and N are free. The layers of several members are
numbered one member after the other. The metadata has `config` and `vocabulary`, the content of an export's config.json
and vocabulary.json.

A matrix in int8 has a scale for each of its rows and is read through DequantizeLinear. All is computed in fp32, so that
every runtime gives the same results; the file has about a quarter of the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s, Ids
from scriven.errors import UsageError
from scriven.exchange.exported import Compute, ExportedModel, check_cell_is_own
from scriven.inference.numpy_network import NORM_EPS
from scriven.model.shapes import GATES
from scriven.safe_files import check_free, create_file

Precision = Literal["fp32", "int8"]
EXTRA = "pip install 'scriven[onnx]'"
OPSET, IR_VERSION = 17, 8  # of 2022: every operator here is in it, and newer runtimes read it
MOST_BYTES = (1 << 31) - (1 << 20)  # of one file, which is a protobuf
GATES_OF_ONNX = {"lstm": ("input", "output", "forget", "new"), "gru": ("keep", "reset", "new"), "rnn": ("new",)}
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}
Array = npt.NDArray[Any]


def write_onnx(model: ExportedModel, path: Path, precision: Precision) -> float:
    """Writes a graph to a new file. Returns how far the logits that onnxruntime computes with it are from the run's.

    In int8, they are compared with those of the network with rounded weights. Raises UsageError if ONNX has no operator
    for the cell, if the name is taken, or if onnx is not installed; InputError if the logits differ.
    """
    check_cell_is_own(model, "onnx")
    if model.settings.cell not in GATES_OF_ONNX:
        raise UsageError(
            f"onnx has no operator for the cell {model.settings.cell}; use --to safetensors: docs/format.md has its "
            "equations"
        )
    if sum(each.nbytes for each in model.weights.values()) // (4 if precision == "int8" else 1) > MOST_BYTES:
        raise UsageError("the model has over 2 GB, too much for one file of onnx; use --precision int8 or --to torch")
    check_free(path, replace=False)
    weights = {name: Matrix.of(each, precision) for name, each in model.weights.items()}
    try:
        data = _Graph(model, weights).serialize()
        compute = _computed_by_runtime(data)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"scriven export --to onnx needs {error.name}, which is not installed; install it with: {EXTRA}"
        ) from None
    rounded = {name: each.values for name, each in weights.items()} if precision == "int8" else None
    difference = model.largest_difference(compute, rounded)
    with create_file(path, replace=False) as file:
        file.write(data)
    return difference


class Matrix:
    """A weight as it is stored: fp32, or whole numbers in int8 with a scale (fp32) for each row."""

    def __init__(self, stored: Array, scales: Float32s | None = None) -> None:
        """Takes the array, and the scales of its rows in int8."""
        self.stored, self.scales = stored, scales

    @classmethod
    def of(cls, weight: Float32s, precision: Precision) -> Matrix:
        """Returns a weight as it is stored. Vectors, such as biases, stay in fp32."""
        if precision == "fp32" or weight.ndim < 2:
            return cls(weight)
        scales = np.abs(weight).max(-1) / np.float32(127)
        scales[scales == 0] = 1
        return cls(np.rint(weight / scales[:, None]).astype(np.int8), scales)

    @property
    def values(self) -> Float32s:
        """The values that are computed with."""
        return self.stored if self.scales is None else self.stored * self.scales[:, None]

    def take(self, rows: Ids) -> Matrix:
        """Returns these rows, in this order."""
        return Matrix(self.stored[rows], None if self.scales is None else self.scales[rows])


class _Graph:
    """The nodes, constants, inputs and outputs of a graph, as they are added. A value is known by its name."""

    def __init__(self, model: ExportedModel, weights: dict[str, Matrix]) -> None:
        """Adds all of the model."""
        self.model, self.settings, self.weights = model, model.settings, weights
        self.nodes, self.constants, self.inputs, self.outputs = list[Any](), list[Any](), list[Any](), list[Any]()
        self._declare(self.inputs, "ids", ["T", "N"], whole=True)
        self.zero, self.one = (self.constant(np.array([axis])) for axis in (0, 1))
        size = model.vocabulary.size
        self._declare(self.outputs, "logits", ["T", "N", size])
        found = [self._member(number, prefix) for number, prefix in enumerate(self.settings.prefixes)]
        self.add("Mean", found, outputs=["logits"])

    def serialize(self) -> bytes:
        """Returns the file's content, after a check of the types and shapes in it."""
        from onnx import checker, helper  # noqa: PLC0415 - other exports do not need it

        graph = helper.make_graph(self.nodes, "scriven", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="scriven")
        texts = {"config": json.dumps(self.model.config), "vocabulary": self.model.vocabulary.to_json()}
        helper.set_model_props(made, texts)
        checker.check_model(made, full_check=True)
        return bytes(made.SerializeToString())

    def add(self, kind: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> str:
        """Adds a node. Returns the name of its first output."""
        from onnx import helper  # noqa: PLC0415

        outputs = outputs or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def constant(self, values: Array) -> str:
        """Adds an array. Returns its name."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _declare(self, among: list[Any], name: str, shape: list[str | int], *, whole: bool = False) -> None:
        from onnx import TensorProto, helper  # noqa: PLC0415

        kind = TensorProto.INT64 if whole else TensorProto.FLOAT
        among.append(helper.make_tensor_value_info(name, kind, shape))

    def _matrix(self, weight: Matrix, arrange: Callable[[Array], Array], axis: int) -> str:
        """Adds a matrix, arranged as an operator needs it, with its rows along `axis`."""
        stored = self.constant(arrange(weight.stored))
        if weight.scales is None:
            return stored
        return self.add("DequantizeLinear", [stored, self.constant(weight.scales)], axis=axis)

    def _member(self, number: int, prefix: str) -> str:
        """Adds a member. Returns the name of its logits."""
        settings, x = self.settings, self._embed(prefix)
        for depth, width in enumerate(self.model.widths[1:]):
            normed = self._normalize(f"{prefix}norms.{depth - 1}", x) if depth else x
            y = self._layer(f"{prefix}layers.{depth}", normed, number * settings.layers + depth, width)
            x = self.add("Add", [x, y]) if settings.residual and depth else y
        if settings.head == "none":
            return x
        normed = self._normalize(f"{prefix}norms.{settings.layers - 1}", x)
        # Transposed in the graph, or onnxruntime puts a less exact product of its own in place of this one.
        head = self.add("Transpose", [self._matrix(self.weights[f"{prefix}head.weight"], np.asarray, axis=0)])  # (H, V)
        bias = self.constant(self.weights[f"{prefix}head.bias"].stored)
        return self.add("Add", [self.add("MatMul", [normed, head]), bias])

    def _embed(self, prefix: str) -> str:
        """Adds the input of the first layer: embeddings (T, N, D), or one-hot vectors (T, N, V)."""
        if self.settings.input == "onehot":
            size = self.constant(np.array(self.model.vocabulary.size))
            return self.add("OneHot", ["ids", size, self.constant(np.array([0, 1], np.float32))], axis=-1)
        table = self._matrix(self.weights[f"{prefix}embedding.weight"], np.asarray, axis=0)
        return self.add("Gather", [table, "ids"])

    def _normalize(self, name: str, x: str) -> str:
        kind = self.settings.norm
        if kind == "none":
            return x
        weight = self.constant(self.weights[f"{name}.weight"].stored)
        if kind == "layer":
            bias = self.constant(self.weights[f"{name}.bias"].stored)
            return self.add("LayerNormalization", [x, weight, bias], epsilon=NORM_EPS[kind])
        mean = self.add("ReduceMean", [self.add("Mul", [x, x])], axes=[-1])
        root = self.add("Sqrt", [self.add("Add", [mean, self.constant(np.array(NORM_EPS[kind], np.float32))])])
        return self.add("Mul", [self.add("Div", [x, root]), weight])

    def _layer(self, name: str, x: str, number: int, width: int) -> str:
        """Adds a recurrent layer that reads x (T, N, D), with its state in and out. Returns y (T, N, H)."""
        cell = self.settings.cell
        order = [GATES[cell].index(gate) for gate in GATES_OF_ONNX[cell]]
        rows = np.concatenate([np.arange(width) + gate * width for gate in order])  # (G*H,)
        parts = {part: self.weights[f"{name}.{part}_l0"].take(rows) for part in ("weight_ih", "weight_hh")}
        biases = [self.weights[f"{name}.bias_{part}_l0"].stored[rows] for part in ("ih", "hh")]
        inputs = [x, *(self._matrix(each, lambda rows: rows[None], axis=1) for each in parts.values())]
        inputs += [self.constant(np.concatenate(biases)[None]), ""]  # (1, 2*G*H), and no lengths of rows
        states = [f"{part}{number}" for part in ("h", "c")[: self.settings.state_arrays]]
        for state in states:
            self._declare(self.inputs, state, ["N", width])
            self._declare(self.outputs, f"{state}_after", ["N", width])
            inputs.append(self.add("Unsqueeze", [state, self.zero]))  # (1, N, H)
        kind = ACTIVATIONS[self.settings.activations[number % self.settings.layers]]
        activations = {"lstm": ["Sigmoid", kind, kind], "gru": ["Sigmoid", kind], "rnn": [kind]}[cell]
        own = {"linear_before_reset": 1} if cell == "gru" else {}
        lasts = [f"{name}_{state}" for state in states]
        y = f"{name}_y"
        self.add(cell.upper(), inputs, [y, *lasts], hidden_size=width, activations=activations, **own)
        for state, last in zip(states, lasts, strict=True):
            self.add("Squeeze", [last, self.zero], [f"{state}_after"])
        return self.add("Squeeze", [y, self.one])  # of directions, of which there is one


def _computed_by_runtime(data: bytes) -> Compute:
    """Returns a function that computes with a graph in onnxruntime."""
    import onnxruntime  # noqa: PLC0415 - other exports do not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    shapes = {each.name: each.shape for each in session.get_inputs() if each.name != "ids"}

    def _compute(ids: Ids, state: Any) -> tuple[Float32s, Any]:
        if state is None:
            state = {name: np.zeros((ids.shape[1], shape[1]), np.float32) for name, shape in shapes.items()}
        logits, *after = session.run(None, {"ids": ids, **state})
        names = [each.name.removesuffix("_after") for each in session.get_outputs()[1:]]
        return logits, dict(zip(names, after, strict=True))

    return _compute
