"""The native sampler: one call draws and reads many characters, for several texts side by side.

`Sampler` packs a model's weights in one of PRECISIONS. In `int8` every output of a matrix has a scale, and so has
every vector that is multiplied with it, at every step; sums are exact integers. In `bf16` weights alone are rounded.
What lies between two products is fp32 throughout. The same numbers give the same ids: in int8 on every processor, in
fp32 and bf16 on every processor with fused multiply-add; and whatever rows are beside a row.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scriven.arrays import Float32s, Float64s, Ids
from scriven.kernels import native_library
from scriven.settings import ModelSettings, SamplingSettings

PRECISIONS = ("fp32", "bf16", "int8")
TABLE_BYTES = 1 << 25  # of a first layer's products with every symbol; where there would be more they are computed
ALIGNMENT = 64  # bytes: a line of the cache, a row of a tile
BLOCK, WIDEST = 16, 4  # as in native/sampler.h
INPUTS = {"fp32": 1, "bf16": 2, "int8": 4}  # in a word of 32 bits
CELLS = {"rnn": 1, "gru": 3, "lstm": 4, "mingru": 2}  # their gates, in the order of native/sampler.h
CACHE = 1 << 20  # bytes of a core's second cache, where the system does not tell
LAYER_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
NORMS = ("none", "rms", "layer")

ARGUMENTS = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
SHARE = 16  # rows that a thread takes, or a multiple: as in native/sampler.h

State = tuple[tuple[Tensor, ...], ...]  # h, and an lstm's c, (N, H), of each layer


class _MatrixStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "scale", "offset")),
        *((name, ctypes.c_int64) for name in ("groups", "width", "chunks")),
    )


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *((name, _MatrixStruct) for name in ("input", "hidden")),
        *((name, ctypes.c_void_p) for name in ("sums", "apart", "norm", "shift")),
        ("cells", ctypes.c_int64),
    )


class _ModelStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("symbols", "boundary", "cell", "relu", "residual", "norm", "precision", "layers")
        ),
        ("embedding", ctypes.c_void_p),
        ("layer", ctypes.POINTER(_LayerStruct)),
        ("head", _MatrixStruct),
        ("head_bias", ctypes.c_void_p),
    )


class _Writing(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "count")),
        *((name, ctypes.c_void_p) for name in ("uniforms", "drawing")),
        ("state", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("logits", "ids")),
        *((name, ctypes.c_int64) for name in ("window", "seen")),
        ("recent", ctypes.c_void_p),
    )


class Sampler:
    """A model, packed for writing; it keeps nothing of what it has written."""

    def __init__(
        self,
        settings: ModelSettings,
        weights: Mapping[str, Tensor],
        precision: str,
        boundary: int | None = None,
    ) -> None:
        """Packs the weights, named as in a checkpoint; `boundary` begins a document and zeroes the state.

        Later changes of the weights change nothing here. RuntimeError where there is no library.
        """
        self._write = native_library.declare("scriven_sampler_write", ARGUMENTS)
        arrays = {name: weight.detach().cpu().float().numpy() for name, weight in weights.items()}
        self._packer = _Packer(settings, arrays, precision)  # which keeps the packed arrays alive
        self._model = self._packer.model(-1 if boundary is None else boundary)
        self._symbols = int(self._model.symbols)
        self.widths = [layer.cells for layer in self._packer.layers]
        self.state_size = 2 if settings.cell == "lstm" else 1
        cache = native_library.declare("scriven_cache", [], ctypes.c_int64)() or CACHE
        self._caches = -(-self._packer.bytes // cache)  # how many cores' caches it takes to hold the weights

    @property
    def packed(self) -> int:
        """The address of the packed model, for native functions."""
        return ctypes.addressof(self._model)

    @property
    def symbols(self) -> int:
        """V."""
        return self._symbols

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        return tuple((torch.zeros(rows, width),) * self.state_size for width in self.widths)

    def copies(
        self, logits: Tensor, state: State, reuse: bool = False
    ) -> tuple[Tensor, State, ctypes.Array[ctypes.c_void_p]]:
        """Copies of logits (N, V) and a state for native code to change, and the addresses of the state's arrays.

        With `reuse` they are the arrays themselves where native code can change those. ValueError where they have other
        shapes than this model's.
        """
        rows = logits.shape[0]
        logits = _copy(logits, (rows, self.symbols), reuse)
        after = []
        addresses = (ctypes.c_void_p * (2 * len(self.widths)))()
        for depth, (layer, width) in enumerate(zip(state, self.widths, strict=True)):
            parts = [_copy(part, (rows, width), reuse) for part in layer]
            for number, part in enumerate(parts):
                addresses[2 * depth + number] = part.data_ptr()
            after.append(tuple(parts))
        return logits, tuple(after), addresses

    def write(
        self,
        logits: Tensor,
        state: State | None,
        settings: SamplingSettings | Sequence[SamplingSettings],
        uniforms: Float64s,
        window: int = 0,
        recent: Ids | None = None,
        reuse: bool = False,
    ) -> tuple[Ids, Tensor, State]:
        """Draw as many ids a row as `uniforms` (count, N) has, each from the logits (N, V) after those before it.

        Gives ids (count, N), and the logits and the state after reading the last of them. A state has a tuple of
        arrays (N, H) for each layer; None is the one before anything was read. The settings are those of all rows, or
        one for each. `<unk>`, the last symbol, is never drawn. Arguments stay as they are; with `reuse` the logits
        and the state given may become those after, which saves a short block a tenth of its time.
        At most as many threads as torch has share the work.

        With a `window` above 0 the logits are from its last ids alone, read from a zero state at every id anew; those
        before are `recent` (at most window, N). The state then stays as it is.
        """
        uniforms = np.ascontiguousarray(uniforms, np.float64)
        (count, rows), ids = uniforms.shape, np.empty(uniforms.shape, np.int64)
        drawing = np.array([_drawing(each) for each in _each(settings, rows)], np.float64)  # (N, 4)
        reuse = reuse and state is not None  # the arrays of a zero state are one and the same
        logits, after, addresses = self.copies(logits, self.zero_state(rows) if state is None else state, reuse)
        if logits.shape[0] != rows:
            raise ValueError(f"logits of {logits.shape[0]} rows, and random numbers for {rows}")
        before = self._recent(recent, rows, window)
        writing = _Writing(
            *(rows, count, uniforms.ctypes.data, drawing.ctypes.data, addresses, logits.data_ptr(), ids.ctypes.data),
            *((window, 0, None) if before is None else (window, len(before), before.ctypes.data)),
        )
        self._write(self.packed, ctypes.byref(writing), self._threads(rows))
        return ids, logits, after

    def _recent(self, recent: Ids | None, rows: int, window: int) -> Ids | None:
        """What was seen of a window before, for native code. ValueError where it cannot be that."""
        if recent is None:
            return None
        before = np.ascontiguousarray(recent, np.int64)
        if len(before) > window or before.shape[1:] != (rows,):
            raise ValueError(f"recent ids {before.shape} for {rows} rows and a window of {window}")
        if before.size and not 0 <= before.min() <= before.max() < self.symbols:
            raise ValueError(f"recent ids from {before.min()} to {before.max()}, of {self.symbols} symbols")
        return before

    def _threads(self, rows: int) -> int:
        """That share the rows; or, of a few rows, the weights, where that keeps these in the cache.

        In an LSTM 2x512 two threads then write one text 3.7 times as fast as one does, and 0.7 times as fast where
        another program keeps one of two cores busy; in smaller models they gain less, and lose more where it is busy.
        """
        useful = -(-rows // SHARE) if rows > SHARE else self._caches
        return min(native_library.threads(), useful)


class _Packer:
    """Packs the weights of a model, and keeps the arrays that the structures point to."""

    @np.errstate(over="ignore", invalid="ignore")  # of weights that are too large: what is computed is looked at
    def __init__(self, settings: ModelSettings, weights: Mapping[str, Float32s], precision: str) -> None:
        self.settings, self.weights, self.precision = settings, weights, precision
        self.gates = CELLS[settings.cell]
        self.arrays: list[npt.NDArray[Any]] = []
        self.bytes = 0  # of the matrices: what is read at every step
        self.embedding: int | None = None
        self.layers = [self._layer(depth) for depth in range(settings.layers)]

    def model(self, boundary: int) -> _ModelStruct:
        """The structure that the library reads; it lives as long as this object does."""
        settings, head = self.settings, _MatrixStruct()
        bias, headless = None, settings.head == "none"
        if not headless:
            groups = _grouping(len(self.weights["head.bias"]), 1)
            head = self._matrix(_group(self.weights["head.weight"], 1, groups))
            bias = self._keep(_group(self.weights["head.bias"], 1, groups))
        self.table = (_LayerStruct * settings.layers)(*self.layers)
        return _ModelStruct(
            symbols=self.layers[-1].cells if headless else len(self.weights["head.bias"]),
            boundary=boundary,
            cell=list(CELLS).index(settings.cell),
            relu=sum(1 << depth for depth, name in enumerate(settings.activations) if name == "relu"),
            residual=settings.residual,
            norm=NORMS.index(settings.norm),
            precision=PRECISIONS.index(self.precision),
            layers=settings.layers,
            embedding=self.embedding,
            layer=self.table,
            head=head,
            head_bias=bias,
        )

    def _layer(self, depth: int) -> _LayerStruct:
        names = {name: f"layers.{depth}.rnn.{name}_l0" for name in LAYER_WEIGHTS}
        of = {name: self.weights[full] for name, full in names.items() if full in self.weights}  # mingru has no hidden
        cells = len(of["bias_ih"]) // self.gates
        groups = _grouping(cells, self.gates)
        bias, apart = of["bias_ih"] + of.get("bias_hh", np.float32(0)), None
        if self.settings.cell == "gru":  # the reset gate comes between the candidate's two biases
            bias[2 * cells :] = of["bias_ih"][2 * cells :]
            apart = self._keep(_group(of["bias_hh"][2 * cells :], 1, (groups[0], 1)))
        sums, matrix = (self._first if depth == 0 else self._later)(of["weight_ih"], bias, groups)
        hidden = _MatrixStruct(groups=groups[0], width=groups[1])
        if "weight_hh" in of:
            hidden = self._matrix(_group(of["weight_hh"], self.gates, groups))
        norm, shift = (self._norm(depth, name, (groups[0], groups[1] // self.gates)) for name in ("weight", "bias"))
        return _LayerStruct(input=matrix, hidden=hidden, sums=sums, apart=apart, norm=norm, shift=shift, cells=cells)

    def _later(self, weight: Float32s, bias: Float32s, groups: tuple[int, int]) -> tuple[int, _MatrixStruct]:
        """The biases, and the matrix of the input."""
        return self._keep(_group(bias, self.gates, groups)), self._matrix(_group(weight, self.gates, groups))

    def _first(self, weight: Float32s, bias: Float32s, groups: tuple[int, int]) -> tuple[int, _MatrixStruct]:
        """A table (V, outputs) of all the sums that a symbol can give; or, where it is too large, as `_later`."""
        vectors = self.weights.get("embedding.weight")  # (V, D)
        inputs = weight.T if vectors is None else vectors
        inputs = np.concatenate((inputs[:-1], inputs[:-1].mean(0, keepdims=True, dtype=np.float64)))  # <unk>: the mean
        outputs = groups[0] * groups[1] * BLOCK
        if vectors is not None:
            if len(inputs) * outputs * 4 > TABLE_BYTES:
                self.embedding = self._keep(self._pad(inputs))
                return self._later(weight, bias, groups)
            inputs = inputs @ weight.T.astype(np.float64)  # in doubles: rounded alike on every machine, almost always
        return self._keep(_group((inputs + bias).T, self.gates, groups).reshape(outputs, -1).T), _MatrixStruct()

    def _norm(self, depth: int, name: str, groups: tuple[int, int]) -> int | None:
        weight = self.weights.get(f"norms.{depth}.{name}")
        return None if weight is None else self._keep(_group(weight, 1, groups))

    def _matrix(self, weight: Float32s) -> _MatrixStruct:
        """From weights (groups, outputs of a group, K), the words (groups, chunks, outputs of a group)."""
        scale = offset = None
        if self.precision == "int8":
            scales = np.abs(weight).max(-1, keepdims=True) / np.float32(127)
            weight = np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0)).astype(np.int8)
            scale, offset = self._keep(scales), self._keep(128 * weight.sum(-1, dtype=np.int32), np.int32)
        elif self.precision == "bf16":
            weight = torch.from_numpy(weight).bfloat16().view(torch.int16).numpy()
        inputs = INPUTS[self.precision]
        words = self._pad(weight)
        groups, outputs, length = words.shape
        words = words.reshape(groups, outputs, length // inputs, inputs).swapaxes(1, 2)
        data = self._keep(words, words.dtype)
        self.bytes += words.nbytes
        return _MatrixStruct(data, scale, offset, groups, outputs // BLOCK, length // inputs)

    def _pad(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """With zeros behind the last dimension, up to a whole number of chunks (an even one) and, in int8, of tiles."""
        missing = -array.shape[-1] % (64 if self.precision == "int8" else 16)
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])

    def _keep(self, array: npt.NDArray[Any], kind: npt.DTypeLike = np.float32) -> int:
        """The address of a copy of the array that begins a line of the cache."""
        self.arrays.append(_empty_aligned(array.shape, kind))
        self.arrays[-1][...] = array
        return self.arrays[-1].ctypes.data


def _empty_aligned(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An empty array that begins a line of the cache."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + size].view(kind).reshape(shape)


def _grouping(cells: int, gates: int) -> tuple[int, int]:
    """How many groups of how many blocks the sums of so many cells make: see Matrix in native/sampler.h."""
    blocks = -(-cells // BLOCK)
    if gates > 1:
        return blocks, gates
    groups = -(-blocks // WIDEST)
    return groups, -(-blocks // groups)


def _group(array: Float32s, gates: int, grouping: tuple[int, int]) -> Float32s:
    """From sums (gates * cells, ...) to groups (groups, outputs of a group, ...), padded with zeros."""
    (groups, width), cells = grouping, len(array) // gates
    at_once = BLOCK * (width // gates)
    parts = array.reshape(gates, cells, *array.shape[1:])
    parts = np.pad(parts, [(0, 0), (0, groups * at_once - cells), *[(0, 0)] * (array.ndim - 1)])
    parts = parts.reshape(gates, groups, at_once, *array.shape[1:]).swapaxes(0, 1)
    return np.ascontiguousarray(parts.reshape(groups, gates * at_once, *array.shape[1:]))


def _copy(array: Tensor, shape: tuple[int, ...], reuse: bool) -> Tensor:
    """A copy to write to, or with `reuse` the array itself. ValueError where the array has another shape."""
    if array.shape != shape:
        raise ValueError(f"an array {tuple(array.shape)} where one {shape} belongs")
    if array.dtype is torch.float32 and array.is_cpu:
        if reuse and array.is_contiguous():
            return array
        return array.clone(memory_format=torch.contiguous_format)  # faster than `to`, and a block of one text has five
    return array.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)


def _each(settings: SamplingSettings | Sequence[SamplingSettings], rows: int) -> Sequence[SamplingSettings]:
    each = [settings] * rows if isinstance(settings, SamplingSettings) else settings
    if len(each) != rows:
        raise ValueError(f"settings for {len(each)} rows, and random numbers for {rows}")
    return each


def _drawing(settings: SamplingSettings) -> tuple[float, ...]:
    """As `Drawing` in native/sampler.h."""
    return settings.temperature, settings.top_k, settings.top_p, settings.min_p


SCORER_ARGUMENTS = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 5]


def score(
    model: Sampler, logits: Tensor, state: State, ids: Ids, targets: Ids, threads: int = 1
) -> tuple[Float64s, Tensor, State]:
    """Read ids (T, N); gives the nats (T, N) that targets (T, N) cost, and the logits and the state after the last id.

    The logits (N, V) and the state before foretell the first targets; what is read the next ones. A state has a tuple
    of arrays (N, H) for each layer. Arguments stay as they are. ValueError for arrays of shapes that do not fit,
    RuntimeError for ids that the model does not have.
    """
    if ids.shape != targets.shape or ids.shape[1:] != (len(logits),):
        raise ValueError(f"ids {ids.shape} and targets {targets.shape} of {len(logits)} rows; give them all one shape")
    ids, targets = (np.ascontiguousarray(each, np.int64) for each in (ids, targets))
    nats, (logits, after, addresses) = np.empty(ids.shape), model.copies(logits, state)
    if ids.size:
        native_library.declare("scriven_scorer_read", SCORER_ARGUMENTS)(
            model.packed,
            threads,
            *reversed(ids.shape),
            ids.ctypes.data,
            targets.ctypes.data,
            addresses,
            logits.data_ptr(),
            nats.ctypes.data,
        )
    return nats, logits, after
