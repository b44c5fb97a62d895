"""Packs the weights of a network in the layout that native code reads: groups of outputs, in words of 32 bits.

Weights are in one of PRECISIONS. In `int8` every output of a matrix has a scale, and so has every vector that is
multiplied with it, at every step; sums are exact integers. In `bf16` only weights are rounded. All values between two
products are fp32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from ctypes import POINTER, c_int64, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s, Float64s
from scriven.kernels.native_library import NativeStruct, fields
from scriven.settings import ModelSettings

PRECISIONS = ("fp32", "bf16", "int8")
TABLE_BYTES = 1 << 25  # of a table of the first layer's products with every symbol; larger ones are not made
ALIGNMENT = 64  # bytes: a line of the cache, a row of a tile
CELLS_PER_BLOCK, MOST_BLOCKS = 16, 4  # as in native/sampler.h
INPUTS = {"fp32": 1, "bf16": 2, "int8": 4}  # in a word of 32 bits
CELLS = {"rnn": 1, "gru": 3, "lstm": 4, "mingru": 2}  # their gates, in the order of native/sampler.h
LAYER_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
NORMS = ("none", "rms", "layer")


class _PackedMatrix(NativeStruct):
    _fields_ = (*fields(c_void_p, "data scale offset"), *fields(c_int64, "groups width chunks"))


class _PackedLayer(NativeStruct):
    _fields_ = (
        *fields(_PackedMatrix, "input hidden"),
        *fields(c_void_p, "sums apart norm shift embedding"),
        ("cells", c_int64),
    )


class _PackedModel(NativeStruct):
    _fields_ = (
        *fields(c_int64, "symbols boundary cell relu residual norm precision layers stacks"),
        ("layer", POINTER(_PackedLayer)),
        ("heads", POINTER(_PackedMatrix)),
        ("head_bias", c_void_p),
    )


class Packer:
    """Packs the weights of a model, and keeps the arrays alive that the structures point to."""

    @np.errstate(over="ignore", invalid="ignore")  # weights may be too large: the results are checked
    def __init__(self, settings: ModelSettings, weights: Mapping[str, Float32s], precision: str) -> None:
        self.settings, self.stacks, self.precision = settings, settings.split_weights(weights), precision
        self.gates = CELLS[settings.cell]
        self.arrays: list[npt.NDArray[Any]] = []
        self.bytes = 0  # of the matrices, which are read at every step
        self.layers = [self._layer(stack, depth) for stack in self.stacks for depth in range(settings.layers)]

    @property
    def sha256(self) -> str:
        """A hash of the packed arrays, and so of all that native code computes with, and of the kind of network."""
        settings = self.settings
        kind = (settings.cell, settings.activations, settings.residual, settings.norm, settings.head, self.precision)
        digest = hashlib.sha256(repr(kind if settings.members == 1 else (*kind, settings.members)).encode())
        for array in self.arrays:
            digest.update(array.tobytes())
        return digest.hexdigest()

    def model(self, boundary: int) -> _PackedModel:
        """The structure that the library reads; it must not outlive this object."""
        settings, stacks, bias = self.settings, self.stacks, None
        self.heads = (_PackedMatrix * len(stacks))() if settings.head != "none" else None
        symbols = self.layers[-1].cells if self.heads is None else len(stacks[0]["head.bias"])
        if self.heads is not None:
            groups, share = _grouping(symbols, 1), np.float32(1 / len(stacks))
            for number, weights in enumerate(stacks):
                self.heads[number] = self._matrix(_group(share * weights["head.weight"], 1, groups))
            biases = [share * weights["head.bias"] for weights in stacks]
            bias = self._keep(_group(np.add.reduce(biases), 1, groups))
        self.table = (_PackedLayer * len(self.layers))(*self.layers)
        return _PackedModel(
            symbols=symbols,
            boundary=boundary,
            cell=list(CELLS).index(settings.cell),
            relu=sum(1 << depth for depth, name in enumerate(settings.activations) if name == "relu"),
            residual=settings.residual,
            norm=NORMS.index(settings.norm),
            precision=PRECISIONS.index(self.precision),
            layers=len(self.layers),
            stacks=len(stacks),
            layer=self.table,
            heads=self.heads,
            head_bias=bias,
        )

    def _layer(self, weights: Mapping[str, Float32s], depth: int) -> _PackedLayer:
        names = {name: f"layers.{depth}.rnn.{name}_l0" for name in LAYER_WEIGHTS}
        of = {name: weights[full] for name, full in names.items() if full in weights}  # mingru has no hidden
        cells = len(of["bias_ih"]) // self.gates
        groups = _grouping(cells, self.gates)
        bias, own = gate_biases(self.settings.cell, of)
        apart = None if own is None else self._keep(_group(own, 1, (groups[0], 1)))
        vectors = weights.get("embedding.weight")  # (V, D)
        sums, matrix, embedding = (
            self._later(of["weight_ih"], bias, groups) if depth else self._first(vectors, of["weight_ih"], bias, groups)
        )
        hidden = _PackedMatrix(data=None, scale=None, offset=None, groups=groups[0], width=groups[1], chunks=0)
        if "weight_hh" in of:
            hidden = self._matrix(_group(of["weight_hh"], self.gates, groups))
        norm, shift = (
            self._norm(weights.get(f"norms.{depth}.{name}"), (groups[0], groups[1] // self.gates))
            for name in ("weight", "bias")
        )
        return _PackedLayer(
            input=matrix,
            hidden=hidden,
            sums=sums,
            apart=apart,
            norm=norm,
            shift=shift,
            embedding=embedding,
            cells=cells,
        )

    def _later(
        self, weight: Float32s, bias: Float32s, groups: tuple[int, int], embedding: int | None = None
    ) -> tuple[int, _PackedMatrix, int | None]:
        """The biases and the matrix of the input, of any layer, and the embedding that it reads, if any."""
        return self._keep(_group(bias, self.gates, groups)), self._matrix(_group(weight, self.gates, groups)), embedding

    def _first(
        self, vectors: Float32s | None, weight: Float32s, bias: Float32s, groups: tuple[int, int]
    ) -> tuple[int, _PackedMatrix, int | None]:
        """A table (V, outputs) of each symbol's sums in the first layer; or, if that is too large, as `_later`."""
        outputs = groups[0] * groups[1] * CELLS_PER_BLOCK
        if vectors is not None and len(vectors) * outputs * 4 > TABLE_BYTES:
            return self._later(weight, bias, groups, self._keep(self._pad(_with_mean(vectors))))
        sums = symbol_sums(vectors, weight, bias)
        return self._keep(_group(sums.T, self.gates, groups).reshape(outputs, -1).T), _PackedMatrix(), None

    def _norm(self, weight: Float32s | None, groups: tuple[int, int]) -> int | None:
        return None if weight is None else self._keep(_group(weight, 1, groups))

    def _matrix(self, weight: npt.NDArray[Any]) -> _PackedMatrix:
        """Packs weights (groups, outputs of a group, K) into words (groups, chunks, outputs of a group)."""
        scale = offset = None
        if self.precision == "int8":
            weight, scales = round_to_int8(weight)
            scale, offset = self._keep(scales), self._keep(128 * weight.sum(-1, dtype=np.int32), np.int32)
        elif self.precision == "bf16":
            weight = _round_to_bf16(weight)
        inputs = INPUTS[self.precision]
        words = self._pad(weight)
        groups, outputs, length = words.shape
        words = words.reshape(groups, outputs, length // inputs, inputs).swapaxes(1, 2)
        data = self._keep(words, words.dtype)
        self.bytes += words.nbytes
        return _PackedMatrix(
            data=data,
            scale=scale,
            offset=offset,
            groups=groups,
            width=outputs // CELLS_PER_BLOCK,
            chunks=length // inputs,
        )

    def _pad(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pads the last dimension with zeros to an even number of chunks and, in int8, a whole number of tiles."""
        missing = -array.shape[-1] % (64 if self.precision == "int8" else 16)
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])

    def _keep(self, array: npt.NDArray[Any], kind: npt.DTypeLike = np.float32) -> int:
        """Copies an array to the start of a cache line; returns the copy's address."""
        self.arrays.append(_empty_aligned(array.shape, kind))
        self.arrays[-1][...] = array
        return self.arrays[-1].ctypes.data


def gate_biases(cell: str, of: Mapping[str, Float32s]) -> tuple[Float32s, Float32s | None]:
    """Returns a layer's biases (G*H,), of the input and the state together; and of a gru, those (H,) that stay apart.

    The reset gate of a gru comes between the candidate's two biases.
    """
    bias = of["bias_ih"] + of.get("bias_hh", np.float32(0))  # a mingru has one
    if cell != "gru":
        return bias, None
    candidate = slice(2 * len(bias) // 3, None)
    bias[candidate] = of["bias_ih"][candidate]
    return bias, of["bias_hh"][candidate]


def symbol_sums(vectors: Float32s | None, weight: Float32s, bias: Float32s) -> Float64s:
    """Returns what each symbol adds to the first layer's sums (V, G*H), biases included: rounded, they are its table.

    Without embeddings (V, D), the input is one-hot, and `weight` (G*H, V) has the sums.
    """
    if vectors is None:
        return _with_mean(weight.T) + bias
    return _with_mean(vectors) @ weight.T.astype(np.float64) + bias  # in doubles: alike on every machine, almost always


def _with_mean(vectors: Float32s) -> Float64s:
    """Returns vectors (V, D) whose last one, of `<unk>`, is the mean of all others."""
    return np.concatenate((vectors[:-1], vectors[:-1].mean(0, keepdims=True, dtype=np.float64)))


def round_to_int8(weight: Float32s) -> tuple[npt.NDArray[np.int8], Float32s]:
    """Returns a matrix (..., K) in int8, from -127 to 127, and the scale of each of its rows (..., 1)."""
    scales = np.abs(weight).max(-1, keepdims=True) / np.float32(127)
    return np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0)).astype(np.int8), scales


def _empty_aligned(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised array that starts at a cache line."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + size].view(kind).reshape(shape)


def _grouping(cells: int, gates: int) -> tuple[int, int]:
    """The number of groups, and of blocks per group, for the sums of `cells` cells: see native/calls.h."""
    blocks = -(-cells // CELLS_PER_BLOCK)
    if gates > 1:
        return blocks, gates
    groups = -(-blocks // MOST_BLOCKS)
    return groups, -(-blocks // groups)


def _group(array: npt.NDArray[Any], gates: int, grouping: tuple[int, int]) -> npt.NDArray[Any]:
    """Rearranges sums (gates * cells, ...) into groups (groups, outputs of a group, ...), padded with zeros."""
    (groups, width), cells = grouping, len(array) // gates
    at_once = CELLS_PER_BLOCK * (width // gates)
    parts = array.reshape(gates, cells, *array.shape[1:])
    parts = np.pad(parts, [(0, 0), (0, groups * at_once - cells), *[(0, 0)] * (array.ndim - 1)])
    parts = parts.reshape(gates, groups, at_once, *array.shape[1:]).swapaxes(0, 1)
    return np.ascontiguousarray(parts.reshape(groups, gates * at_once, *array.shape[1:]))


def _round_to_bf16(weight: Float32s) -> npt.NDArray[np.uint16]:
    """The upper halves of the numbers that are nearest in bf16, of two the even one, as torch rounds."""
    bits = np.ascontiguousarray(weight).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(weight), np.uint32(0x7FC0), rounded).astype(np.uint16)
