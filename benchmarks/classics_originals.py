"""Compares the first steps of classic systems with their originals: Keras itself, or the notebook's code in torch.

    python benchmarks/classics_originals.py keras-text-generation tinyshakespeare.txt
    python benchmarks/classics_originals.py english-major shakespeare.txt --seeds 5
    python benchmarks/classics_originals.py stateful-tbptt sequences.txt --steps 20 --every 1
    python benchmarks/classics_originals.py theano-sentences sentences.txt --validation held-out.txt --steps 160

Original and recipe train on the same text for the same steps, each from its own random weights. Shown are their mean
training losses over stretches of --every steps, in nats per character, and for sentences the validation losses. The
Keras ones need Keras 3, which computes with torch here. Writes JSON and a picture into --output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments_parser, save, scriven, table
from torch import Tensor, nn
from torch.nn import functional

os.environ.setdefault("KERAS_BACKEND", "torch")
WINDOWS = {"keras-text-generation": (40, 3, 128), "english-major": (32, 1, 32)}  # length, stride, batch
SENTENCES, WIDTH, RATE, DEVIATION = 100, 50, 0.1, 0.005  # of the notebook
ROWS, CHUNK = 50, 25  # of stateful sequences
NAMES = (*WINDOWS, "stateful-tbptt", "theano-sentences")


def encoded(text: str) -> tuple[Any, list[str]]:
    """The ids of a text, and its characters, sorted."""
    symbols = sorted(set(text))
    number = {symbol: n for n, symbol in enumerate(symbols)}
    return np.array([number[symbol] for symbol in text]), symbols


# --- Keras, as the authors wrote it


def keras_model(name: str, size: int) -> Any:
    """The model; its outputs are probabilities, or with `english-major` logits."""
    import keras  # type: ignore[import-not-found, unused-ignore]

    layers = keras.layers
    if name == "keras-text-generation":
        return keras.Sequential([keras.Input((40, size)), layers.LSTM(128), layers.Dense(size, activation="softmax")])
    if name == "english-major":
        second = layers.LSTM(size, activation="relu")
        return keras.Sequential([keras.Input((32, size)), layers.LSTM(62, return_sequences=True), second])
    x, h, c = keras.Input(batch_shape=(ROWS, CHUNK)), keras.Input((512,)), keras.Input((512,))
    read = layers.Dropout(0.5)(layers.Embedding(size, 200)(x))
    recurrent = layers.LSTM(512, activation="relu", return_sequences=True, return_state=True)
    y, *after = recurrent(read, initial_state=[h, c])
    return keras.Model([x, h, c], [layers.Dense(size, activation="softmax")(layers.Dropout(0.5)(y)), *after])


def by_keras(name: str, text: str, steps: int, seed: int) -> list[float]:
    """The losses of the original's first steps."""
    import keras

    keras.utils.set_random_seed(seed)
    ids, symbols = encoded(text.replace("\n", "") if name == "stateful-tbptt" else text)
    model, size = keras_model(name, len(symbols)), len(symbols)
    rate = keras.optimizers.RMSprop(0.01) if name == "keras-text-generation" else keras.optimizers.Adam(0.001)
    rate.build(model.trainable_variables)
    lengths = [len(line) for line in text.splitlines()]
    batches = sequences(ids, lengths[0]) if name == "stateful-tbptt" else windows(name, ids, size, seed)
    losses, state = [], list[Tensor]()
    for _ in range(steps):
        x, y, begins = next(batches)
        if name == "stateful-tbptt":  # the state goes from chunk to chunk by hand: `stateful` fails with torch
            state = [torch.zeros(ROWS, 512)] * 2 if begins else [each.detach() for each in state]
            outputs, *state = model([torch.from_numpy(x), *state], training=True)
        else:
            outputs = model(x, training=True)
        logits = name == "english-major"
        cost = keras.losses.sparse_categorical_crossentropy(torch.from_numpy(y), outputs, from_logits=logits).mean()
        model.zero_grad()
        cost.backward()
        with torch.no_grad():
            rate.apply([weight.value.grad for weight in model.trainable_variables], model.trainable_variables)
        losses.append(float(cost.detach()))
    return losses


def windows(name: str, ids: Any, size: int, seed: int) -> Iterator[tuple[Any, Any, bool]]:
    """One-hot windows in a shuffled order, and the character after each of them."""
    length, stride, rows = WINDOWS[name]
    random = np.random.default_rng(seed)
    starts = np.arange(0, len(ids) - length, stride)
    while True:
        order = random.permutation(starts)
        for first in range(0, len(order), rows):
            at = order[first : first + rows, None]
            yield np.eye(size, dtype=np.float32)[ids[at + np.arange(length)]], ids[at[:, 0] + length], False


def sequences(ids: Any, length: int) -> Iterator[tuple[Any, Any, bool]]:
    """Chunks of sequences side by side, the characters after each of theirs, and whether they begin."""
    whole = ids[: len(ids) // length * length].reshape(-1, length)
    while True:
        for first in range(0, len(whole) - ROWS + 1, ROWS):
            rows = whole[first : first + ROWS]
            for start in range(0, length - CHUNK, CHUNK):
                yield rows[:, start : start + CHUNK], rows[:, start + 1 : start + CHUNK + 1], start == 0


# --- the notebook


class Notebook(nn.Module):
    """One LSTM of 50 on one-hot characters, all weights nearly 0, and an output layer that begins at 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.lstm, self.head = size, nn.LSTM(size, WIDTH), nn.Linear(WIDTH, size)
        for weight in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
            nn.init.normal_(weight, std=DEVIATION)
        for weight in (self.lstm.bias_ih_l0, self.lstm.bias_hh_l0, self.head.weight, self.head.bias):
            nn.init.zeros_(weight)
        self.lstm.bias_hh_l0.requires_grad = False

    def forward(self, sentences: list[Any]) -> tuple[Tensor, int]:
        """The nats of all characters but the first of each sentence, summed, and how many there are."""
        x = nn.utils.rnn.pad_sequence([torch.from_numpy(each) for each in sentences])  # (T, N)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(each)) for each in sentences])[1:]
        y, _ = self.lstm(functional.one_hot(x[:-1], self.size).float())
        nats = functional.cross_entropy(self.head(y).flatten(0, 1), x[1:].flatten(), reduction="none")
        return (nats * mask.flatten()).sum(), int(mask.sum())


def by_notebook(text: str, held_out: str, steps: int, seed: int) -> tuple[list[float], dict[int, float]]:
    """The losses of its first steps, and its validation losses, nats per character."""
    torch.manual_seed(seed)
    ids, symbols = encoded(text.lower().replace("\n", "") + held_out.lower().replace("\n", ""))
    ends = np.cumsum([len(line) for line in (text + held_out).splitlines()])
    sentences = [each for each in np.split(ids, ends[:-1]) if len(each)]
    count = len(text.splitlines())
    held = sentences[count:]
    model = Notebook(len(symbols))
    rule = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=RATE)
    losses, measured = [], {}
    for step in range(1, steps + 1):
        first = (step - 1) * SENTENCES % count
        nats, characters = model(sentences[first : first + SENTENCES])  # in the order of the file
        rule.zero_grad()
        (nats / SENTENCES).backward()
        rule.step()
        losses.append(float(nats.detach()) / characters)
        if step % 40 == 0:
            with torch.inference_mode():
                found = [model(held[start : start + SENTENCES]) for start in range(0, len(held), SENTENCES)]
            measured[step] = sum(float(nats) for nats, _ in found) / sum(number for _, number in found)
    return losses, measured


# --- the recipe, and both


def by_recipe(asked: Namespace, seed: int) -> tuple[list[float], dict[int, float]]:
    """The same of the recipe."""
    run = asked.output / f"{asked.name}-{seed}"
    held = ["--corpus.validation-file", str(asked.validation)] if asked.validation else ["--corpus.validation", "0"]
    seeds = ["--training.seed", str(seed), "--reader.seed", str(seed), "--monitor.sample-length", "0", "--quiet"]
    words = ["--recipe", asked.name, "--steps", str(asked.steps), *held, *seeds, *asked.flags.split()]
    done = subprocess.run([scriven(), "train", str(asked.text), *words, "-o", str(run)], check=False)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if done.returncode in (0, 4) else []
    events = list(map(json.loads, lines)) or sys.exit(f"{asked.name} ended with exit code {done.returncode}")
    losses = [(each["loss"], each["step"]) for each in events if each["event"] == "stepped"]
    measured = [each for each in events if each["event"] == "evaluated" and not each["final"]]
    told = [loss["nats"] / loss["characters"] for loss, _ in losses]
    return told, {each["step"]: each["nats_per_char"] for each in measured}


def stretches(losses: list[float], every: int) -> list[str]:
    """Mean losses over stretches of so many steps; what comes after one that is not a number is none either."""
    means = [float(np.mean(losses[start : start + every])) for start in range(0, len(losses), every)]
    return [f"{mean:.3f}" if abs(mean) < 1e4 else f"{mean:.2g}" for mean in means]


def draw(results: list[dict[str, Any]], path: Path, every: int) -> None:
    """All courses, the originals dashed."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4), dpi=120, layout="constrained")).add_subplot()
    for each in results:
        kernel = np.ones(every) / every if len(each["losses"]) > 2 * every else np.ones(1)
        means = np.convolve(each["losses"], kernel, mode="valid")
        color, style = ("tab:orange", "--") if each["who"] == "original" else ("tab:blue", "-")
        label = each["who"] if each["seed"] == 1 else None
        axes.plot(np.arange(len(means)) + len(kernel), means, style, color=color, linewidth=1, label=label)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"training loss, nats per character, mean of {every} steps")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Trains both with every seed, and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("text", type=Path)
    parser.add_argument("--validation", type=Path, help="file of the validation text")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=100, help="steps that a loss is a mean over")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flags", default="", help="more flags for the recipe")
    asked = parser.parse_args()
    text = asked.text.read_text(encoding="utf-8")
    results: list[dict[str, Any]] = []
    for seed in range(1, asked.seeds + 1):
        if asked.name == "theano-sentences":
            held = asked.validation.read_text(encoding="utf-8") if asked.validation else ""
            losses, measured = by_notebook(text, held, asked.steps, seed)
        else:
            losses, measured = by_keras(asked.name, text, asked.steps, seed), {}
        results.append({"who": "original", "seed": seed, "losses": losses, "validation": measured})
        losses, measured = by_recipe(asked, seed)
        results.append({"who": "recipe", "seed": seed, "losses": losses, "validation": measured})
    header = [
        "",
        "seed",
        *(f"{end - asked.every + 1}-{end}" for end in range(asked.every, asked.steps + 1, asked.every)),
    ]
    held_at = sorted({step for each in results for step in each["validation"]})
    rows = [
        [each["who"], each["seed"], *stretches(each["losses"][: asked.steps], asked.every)]
        + [f"{each['validation'].get(step, float('nan')):.3f}" for step in held_at]
        for each in sorted(results, key=lambda each: each["who"])
    ]
    print(table([*header, *(f"validation at {step}" for step in held_at)], rows))
    asked.output.mkdir(parents=True, exist_ok=True)
    draw(results, asked.output / f"originals-{asked.name}.png", min(asked.every, 20))
    save(asked, f"originals-{asked.name}", results)


if __name__ == "__main__":
    main()
