"""Trains the LSTM of training_speed.py in Keras or torch, as their users write it, and prints its step times as JSON.

    python benchmarks/peers.py keras|torch-fp32|torch-bf16 TEXT [--seconds 15]

Embedding, two LSTM layers, a linear output, cross-entropy from logits, Adam; the state is carried from batch to batch.
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
from common import StepClock, versions

LEARNING_RATE = 0.004
Chunks = npt.NDArray[np.int32]


def read(text: str, rows: int, length: int) -> tuple[Chunks, Chunks, int]:
    """The text as inputs and targets (C, N, T), each row going on where it ended in the chunk before; and V."""
    symbols, ids = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    chunks = (len(ids) - 1) // (rows * length)
    inputs, targets = (
        ids[first : first + chunks * rows * length].astype(np.int32).reshape(rows, chunks, length).swapaxes(0, 1)
        for first in (0, 1)
    )
    return inputs, targets, len(symbols)


def train_keras(inputs: Chunks, targets: Chunks, vocabulary: int, width: int, threads: int, clock: StepClock) -> None:
    """Keras 3 on the backend that KERAS_BACKEND names, TensorFlow by default."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras  # type: ignore[import-not-found, unused-ignore]

    if keras.backend.backend() == "tensorflow":
        import tensorflow  # type: ignore[import-not-found, import-untyped, unused-ignore]

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)

    class Stop(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = clock.enough(time.perf_counter())

    _, rows, length = inputs.shape
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(rows, length), dtype="int32"),
            keras.layers.Embedding(vocabulary, width),
            keras.layers.LSTM(width, return_sequences=True, stateful=True),
            keras.layers.LSTM(width, return_sequences=True, stateful=True),
            keras.layers.Dense(vocabulary),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss)
    x, y = inputs.reshape(-1, length), targets.reshape(-1, length)  # (C * N, T)
    model.fit(x, y, batch_size=rows, epochs=1_000_000, shuffle=False, verbose=0, callbacks=[Stop()])


def train_torch(
    inputs: Chunks, targets: Chunks, vocabulary: int, width: int, threads: int, clock: StepClock, bf16: bool
) -> None:
    """torch's own LSTM, plain or under autocast to bf16."""
    import torch

    torch.set_num_threads(threads)
    embedding, output = torch.nn.Embedding(vocabulary, width), torch.nn.Linear(width, vocabulary)
    lstm = torch.nn.LSTM(width, width, num_layers=2)
    optimizer = torch.optim.Adam([*embedding.parameters(), *lstm.parameters(), *output.parameters()], LEARNING_RATE)
    x, y = (torch.from_numpy(array).long().transpose(1, 2).contiguous() for array in (inputs, targets))  # (C, T, N)
    state, chunk, done = None, 0, False
    while not done:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden, state = lstm(embedding(x[chunk]), state)  # (T, N, D)
            logits = output(hidden)  # (T, N, V)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[chunk].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state = tuple(part.detach() for part in state)
        chunk = (chunk + 1) % len(x)
        done = clock.enough(time.perf_counter())


def main() -> None:
    """Trains one of them for a while."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["keras", "torch-fp32", "torch-bf16"])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=15, help="to measure, after the warm-up")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    text = asked.text.read_text(encoding="utf-8")
    inputs, targets, vocabulary = read(text[: len(text) * 9 // 10], asked.rows, asked.length)
    clock = StepClock(asked.seconds)
    if asked.peer == "keras":
        train_keras(inputs, targets, vocabulary, asked.width, asked.threads, clock)
    else:
        bf16 = asked.peer == "torch-bf16"
        train_torch(inputs, targets, vocabulary, asked.width, asked.threads, clock, bf16)
    used = versions("keras", "tensorflow", "tensorflow-cpu", "torch", "numpy")
    print(json.dumps({"step_seconds": clock.step_seconds(), "versions": used}))


if __name__ == "__main__":
    main()
