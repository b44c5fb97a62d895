"""Trains the model of Keras' text generation example on one-hot windows, as its author wrote it; prints JSON.

    python benchmarks/keras_windows.py TEXT [--characters 200000] [--seconds 20]

It needs Keras. Only the first characters are made into arrays. For the whole text these would take
(characters / 3) x 40 x V bytes, which the result contains too.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import StepClock, versions

LENGTH, STRIDE, ROWS, WIDTH = 40, 3, 128, 128


def main() -> None:
    """Trains for a while; the speed is that of the median step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--characters", type=int, default=200_000, help="of which arrays are made")
    parser.add_argument("--seconds", type=float, default=20)
    asked = parser.parse_args()
    data = asked.text.read_bytes()
    text = (lzma.decompress(data) if asked.text.suffix == ".xz" else data).decode()
    symbols, ids = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    whole = (len(ids) - LENGTH) // STRIDE * LENGTH * len(symbols)
    ids = ids[: asked.characters]
    starts = np.arange(0, len(ids) - LENGTH, STRIDE)
    x = np.zeros((len(starts), LENGTH, len(symbols)), dtype=bool)
    y = np.zeros((len(starts), len(symbols)), dtype=bool)
    for row, start in enumerate(starts):
        x[row, np.arange(LENGTH), ids[start : start + LENGTH]] = True
        y[row, ids[start + LENGTH]] = True
    clock = StepClock(asked.seconds)
    fit(x, y, clock)
    steps = clock.step_seconds()
    used = versions("keras", "tensorflow", "tensorflow-cpu", "numpy")
    print(json.dumps({"step_seconds": steps, "arrays_of_the_whole_text_bytes": whole, "versions": used}))


def fit(x: Any, y: Any, clock: StepClock) -> None:
    """As the example does."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras  # type: ignore[import-not-found, unused-ignore]

    class Stop(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = clock.enough(time.perf_counter())

    model = keras.Sequential(
        [
            keras.Input(shape=x.shape[1:]),
            keras.layers.LSTM(WIDTH),
            keras.layers.Dense(x.shape[2], activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.RMSprop(learning_rate=0.01))
    model.fit(x, y, batch_size=ROWS, epochs=1_000_000, verbose=0, callbacks=[Stop()])


if __name__ == "__main__":
    main()
