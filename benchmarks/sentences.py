"""Runs the experiments that the author of theano-sentences listed, one change at a time: a table and a picture.

    python benchmarks/sentences.py SENTENCES [SENTENCES ...] [--steps 600]

Every run is `scriven train --recipe theano-sentences` on the same lines with one change. The validation loss is that of
the best model, in nats per sentence (with the end of the sentence) and per character. The picture, sentences.png, has
the curve of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

EXPERIMENTS: dict[str, list[str]] = {
    "as it is": [],
    "momentum 0.9": ["--training.momentum", "0.9"],
    "recurrent weights normal, sd 0.1": ["--model.initial-scale", "0.1"],
    "recurrent weights orthogonal": ["--model.initial", "orthogonal", "--model.initial-scale", "1.0"],
    "recurrent weights orthogonal x 1.5": ["--model.initial", "orthogonal", "--model.initial-scale", "1.5"],
    "input weights normal, sd 0.1": ["--model.input-scale", "0.1"],
    "input weights normal, sd 1": ["--model.input-scale", "1.0"],
    "forget gate's bias 1": ["--model.forget-bias", "1.0"],
    "forget gate's bias 5": ["--model.forget-bias", "5.0"],
    "input and output gates' biases -1": ["--model.gate-bias=-1.0"],
    "Adam 0.004": ["--training.optimizer", "adamw", "--training.learning-rate", "0.004"],
    "RMSprop 0.002": ["--training.optimizer", "rmsprop", "--training.learning-rate", "0.002"],
    "Muon, its own settings": [
        "--training.optimizer",
        "muon",
        "--training.learning-rate",
        "0.04",
        "--training.clip",
        "1",
    ],
}


def train(name: str, words: list[str], asked: Namespace) -> dict[str, Any]:
    """Trains once; the course of the validation loss and the best of it."""
    run = asked.output / ("sentences-" + name.replace(" ", "-").replace("'", "").replace(",", ""))
    command = [scriven(), "train", *map(str, asked.texts), "--recipe", "theano-sentences", "--steps", str(asked.steps)]
    done = subprocess.run([*command, *words, "-o", str(run), "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()}")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    course = [event for event in map(json.loads, lines) if event["event"] == "evaluated" and not event["final"]]
    best = min(course, key=nats_per_sentence)
    return {
        "name": name,
        "words": words,
        "nats_per_sentence": nats_per_sentence(best),
        "nats_per_char": best["nats_per_char"],
        "step": best["step"],
        "course": [(event["step"], nats_per_sentence(event)) for event in course],
    }


def nats_per_sentence(event: dict[str, Any]) -> float:
    """The loss of an evaluation, a sentence, its end included."""
    loss = event["loss"]
    return float((loss["nats"] + loss["end_nats"]) / loss["ends"])


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """All courses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        style = {"color": "black", "linewidth": 2.5} if not result["words"] else {"color": f"C{number % 10}"}
        axes.plot(*zip(*result["course"], strict=True), label=result["name"], **style)
    axes.set_xlabel("steps")
    axes.set_ylabel("validation loss, nats per sentence")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path)


def main() -> None:
    """Trains them one after another and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("texts", type=Path, nargs="+", help="files of one sentence a line")
    parser.add_argument("--steps", type=int, default=600)
    asked = parser.parse_args()
    results = [train(name, words, asked) for name, words in EXPERIMENTS.items()]
    rows = [
        [each["name"], f"{each['nats_per_sentence']:.2f}", f"{each['nats_per_char']:.3f}", each["step"]]
        for each in sorted(results, key=lambda each: each["nats_per_sentence"])
    ]
    print(table(["change", "nats/sentence", "nats/char", "at step"], rows))
    draw(results, asked.output / "sentences.png")
    save(asked, "sentences", results)


if __name__ == "__main__":
    main()
