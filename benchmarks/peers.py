"""Trains a character model in Keras or torch, as their users write it, and prints a line of JSON for each step.

    python benchmarks/peers.py keras|torch-fp32|torch-bf16|products|products-fp32 [TEXT]

Embedding, two recurrent layers, a linear output, cross-entropy from logits, Adam; the state is carried from batch to
batch. Keras runs on the backend that KERAS_BACKEND names. `products` is not a model, but torch's matrix products of
2048 x 2048 in one thread, in bf16 where the processor has instructions for it, else in fp32, with operations counted
instead of characters; `products-fp32` makes them in fp32. It runs until it is killed; see turns.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import machine, versions

LEARNING_RATE = 0.004
PRODUCT = 2048
Chunks = npt.NDArray[np.int32]


class Steps:
    """Tells of each step, of so many characters."""

    def __init__(self, characters: int, precision: str) -> None:
        self._each, self._total = characters, 0
        used = versions("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")
        print(json.dumps({"event": "started", "precision": precision, "versions": used}), flush=True)

    def done(self) -> None:
        """One more."""
        self._total += self._each
        told = {"event": "stepped", "characters": self._total, "seconds": time.perf_counter()}
        print(json.dumps(told), flush=True)


def read(text: str, rows: int, length: int) -> tuple[Chunks, Chunks, int]:
    """The text as inputs and targets (C, N, T), each row going on where it ended in the chunk before; and V."""
    symbols, ids = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    chunks = (len(ids) - 1) // (rows * length)
    inputs, targets = (
        ids[first : first + chunks * rows * length].astype(np.int32).reshape(rows, chunks, length).swapaxes(0, 1)
        for first in (0, 1)
    )
    return inputs, targets, len(symbols)


def train_keras(inputs: Chunks, targets: Chunks, vocabulary: int, asked: argparse.Namespace) -> None:
    """Keras 3 on the backend that KERAS_BACKEND names, TensorFlow by default."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras  # type: ignore[import-not-found, unused-ignore]

    if keras.backend.backend() == "tensorflow":
        import tensorflow  # type: ignore[import-not-found, import-untyped, unused-ignore]

        tensorflow.config.threading.set_intra_op_parallelism_threads(asked.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(asked.threads)
    _, rows, length = inputs.shape
    steps = Steps(rows * length, "fp32")

    class Tell(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # which waits until the step is done, as a bar that shows it does
            steps.done()

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[asked.cell]
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(rows, length), dtype="int32"),
            keras.layers.Embedding(vocabulary, asked.width),
            layer(asked.width, return_sequences=True, stateful=True),
            layer(asked.width, return_sequences=True, stateful=True),
            keras.layers.Dense(vocabulary),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss)
    x, y = inputs.reshape(-1, length), targets.reshape(-1, length)  # (C * N, T)
    model.fit(x, y, batch_size=rows, epochs=1_000_000, shuffle=False, verbose=0, callbacks=[Tell()])


def train_torch(inputs: Chunks, targets: Chunks, vocabulary: int, asked: argparse.Namespace, bf16: bool) -> None:
    """torch's own layers, plain or under autocast to bf16."""
    import torch

    torch.set_num_threads(asked.threads)
    _, rows, length = inputs.shape
    embedding, output = torch.nn.Embedding(vocabulary, asked.width), torch.nn.Linear(asked.width, vocabulary)
    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[asked.cell](asked.width, asked.width, num_layers=2)
    for module in (embedding, layers, output):
        module.to(asked.device)
    optimizer = torch.optim.Adam([*embedding.parameters(), *layers.parameters(), *output.parameters()], LEARNING_RATE)
    chunks = (torch.from_numpy(array).long().transpose(1, 2).contiguous() for array in (inputs, targets))
    x, y = (each.to(asked.device) for each in chunks)  # (C, T, N)
    state, chunk, steps = None, 0, Steps(rows * length, "bf16" if bf16 else "fp32")
    while True:
        optimizer.zero_grad()
        with torch.autocast(asked.device, torch.bfloat16, enabled=bf16):
            hidden, state = layers(embedding(x[chunk]), state)  # (T, N, D)
            logits = output(hidden)  # (T, N, V)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[chunk].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        chunk = (chunk + 1) % len(x)
        steps.done()


def multiply(*, rounded: bool) -> None:
    """What a core can do at most, in fp32, or if `rounded` in bf16, if it has instructions for that."""
    import torch

    torch.set_num_threads(1)
    precision = "bf16" if rounded and {"avx512_bf16", "amx_bf16"} & set(machine()["flags"]) else "fp32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.rand(PRODUCT, PRODUCT, dtype=kind) - 0.5 for _ in range(2))
    c, steps = torch.empty_like(a), Steps(2 * PRODUCT**3, precision)
    with torch.inference_mode():
        while True:
            torch.mm(a, b, out=c)
            steps.done()


def main() -> None:
    """Trains one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["keras", "torch-fp32", "torch-bf16", "products", "products-fp32"])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--cell", choices=["lstm", "gru"], default="lstm")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of torch")
    asked = parser.parse_args()
    if asked.peer.startswith("products"):
        return multiply(rounded=asked.peer == "products")
    text = asked.text.read_text(encoding="utf-8")
    inputs, targets, vocabulary = read(text[: len(text) * 9 // 10], asked.rows, asked.length)
    if asked.peer == "keras":
        return train_keras(inputs, targets, vocabulary, asked)
    return train_torch(inputs, targets, vocabulary, asked, bf16=asked.peer == "torch-bf16")


if __name__ == "__main__":
    main()
