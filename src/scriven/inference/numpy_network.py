"""A network as arrays of numpy, without torch: it keeps the weights for native code, and reads by itself, slowly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scriven.arrays import Bools, Float32s, Float64s, Ids, State
from scriven.model.shapes import GATES, layer_widths
from scriven.settings import ModelSettings

NORM_EPS = {"rms": float(np.finfo(np.float32).eps), "layer": 1e-5}  # as in torch


class NumpyNetwork:
    """A network of fp32 weights, named as in a checkpoint. Without weights, all symbols are equally likely to it."""

    def __init__(self, settings: ModelSettings, vocabulary_size: int, weights: Mapping[str, Float32s]) -> None:
        """Keeps the weights, which must fit the settings."""
        self.settings, self.vocabulary_size, self.weights = settings, vocabulary_size, dict(weights)
        self.is_empty = not self.weights
        self._members = [self]
        if settings.members > 1 and weights:
            shares = settings.split_weights(weights)
            self._members = [NumpyNetwork(settings.of_member, vocabulary_size, each) for each in shares]

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        if self.is_empty:
            return ()
        settings = self.settings
        widths = layer_widths(settings, self.vocabulary_size)[1:] * settings.members
        return tuple((np.zeros((rows, width), np.float32),) * settings.state_arrays for width in widths)

    @np.errstate(over="ignore", invalid="ignore")  # weights may be too large: the results are checked
    def read(self, ids: Ids, state: State | None, fresh: Bools | None, since: int = 0) -> tuple[Float32s, State]:
        """Reads known ids (T, N) from `state` on (None means zeros).

        Returns the logits (t, N, V) after the ids from number `since` on, and the state at the end. Where `fresh`
        (T, N) is true, the state of that row is zeroed before that step.
        """
        if self.is_empty:
            return np.zeros((*ids[since:].shape, self.vocabulary_size), np.float32), ()
        state = self.zero_state(ids.shape[1]) if state is None else state
        layers = self.settings.layers
        found = [
            each._read(ids, state[number * layers : (number + 1) * layers], fresh, since)
            for number, each in enumerate(self._members)
        ]
        logits = np.mean([each for each, _ in found], 0) if len(found) > 1 else found[0][0]
        return logits, tuple(layer for _, after in found for layer in after)

    def _read(self, ids: Ids, state: State, fresh: Bools | None, since: int) -> tuple[Float32s, State]:
        """Reads like `read`, as a member."""
        x, after = self._embed(ids), []
        for depth, before in enumerate(state):
            y, last = self._layer(depth, x if depth == 0 else self._normalize(depth - 1, x), before, fresh)
            x = x + y if self.settings.residual and depth else y
            after.append(last)
        x = x[since:]
        if self.settings.head == "none":
            return x, tuple(after)
        normed = self._normalize(len(state) - 1, x)
        return normed @ self.weights["head.weight"].T + self.weights["head.bias"], tuple(after)

    def costs(self, logits: Float32s, targets: Ids, first: Float32s | None = None) -> tuple[Float64s, Bools]:
        """Returns the nats (T, N) of known targets (T, N) by logits (T, N, V), and which were the likeliest symbols.

        With `first` (N, V), these predict the first targets, and logits the targets after them.
        """
        values = (logits if first is None else np.concatenate((first[None], logits[:-1]))).astype(np.float64)
        values -= values.max(-1, keepdims=True)
        totals = np.log(np.exp(values).sum(-1))
        nats = totals - np.take_along_axis(values, targets[..., None], -1)[..., 0]
        return nats, values.argmax(-1) == targets

    def _embed(self, ids: Ids) -> Float32s:
        """The embeddings (T, N, D) of ids, or, of a one-hot input, what each adds to the sums of all gates."""
        onehot = self.settings.input == "onehot"
        table = self.weights["layers.0.rnn.weight_ih_l0"].T if onehot else self.weights["embedding.weight"]
        known = table[: self.vocabulary_size - 1]
        found: Float32s = np.concatenate((known, known.mean(0, keepdims=True)))[ids]
        return found

    def _normalize(self, depth: int, x: Float32s) -> Float32s:
        kind = self.settings.norm
        if kind == "none":
            return x
        if kind == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(NORM_EPS[kind]))
        return x * self.weights[f"norms.{depth}.weight"] + self.weights.get(f"norms.{depth}.bias", np.float32(0))

    def _layer(
        self, depth: int, x: Float32s, state: tuple[Float32s, ...], fresh: Bools | None
    ) -> tuple[Float32s, tuple[Float32s, ...]]:
        """Reads x (T, N, D): the output y (T, N, H), and the state (N, H) after the last step."""
        name, cell = f"layers.{depth}.rnn", self.settings.cell
        weight, bias = self.weights[f"{name}.weight_ih_l0"], self.weights[f"{name}.bias_ih_l0"]
        sums = x + bias if depth == 0 and self.settings.input == "onehot" else x @ weight.T + bias  # (T, N, G*H)
        relu = self.settings.activations[depth] == "relu"
        hidden = self.weights.get(f"{name}.weight_hh_l0")  # a mingru has none
        hidden_bias = self.weights.get(f"{name}.bias_hh_l0", np.float32(0))
        outputs = []
        for step, here in enumerate(sums):
            if fresh is not None and fresh[step].any():
                state = tuple(np.where(fresh[step][:, None], np.float32(0), part) for part in state)
            from_hidden = None if hidden is None else state[0] @ hidden.T + hidden_bias
            state = _step(cell, here, from_hidden, state, relu)
            outputs.append(state[0])
        return np.stack(outputs), state


def _step(
    cell: str, sums: Float32s, from_hidden: Float32s | None, state: tuple[Float32s, ...], relu: bool
) -> tuple[Float32s, ...]:
    """One step of a cell, from the sums (N, G*H) of the input and of the state, with their biases."""
    parts, bound = np.split(sums, len(GATES[cell]), -1), _relu if relu else _tanh
    if from_hidden is None:  # minGRU
        keep, x = _sigmoid(parts[0]), parts[1]
        new: Float32s = np.where(x >= 0, x + np.float32(0.5), _sigmoid(x))
        return (state[0] + keep * (new - state[0]),)
    others = np.split(from_hidden, len(GATES[cell]), -1)
    if cell == "gru":
        reset, keep = (_sigmoid(one + other) for one, other in zip(parts[:2], others[:2], strict=True))
        new = bound(parts[2] + reset * others[2])
        return (new + keep * (state[0] - new),)
    together = [one + other for one, other in zip(parts, others, strict=True)]
    if cell == "rnn":
        return (bound(together[0]),)
    i, f, g, o = together
    c = _sigmoid(f) * state[1] + _sigmoid(i) * bound(g)
    return _sigmoid(o) * bound(c), c


def _sigmoid(x: Float32s) -> Float32s:
    values: Float32s = np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x)
    return values


def _tanh(x: Float32s) -> Float32s:
    values: Float32s = np.tanh(x)
    return values


def _relu(x: Float32s) -> Float32s:
    values: Float32s = np.maximum(x, np.float32(0))
    return values
