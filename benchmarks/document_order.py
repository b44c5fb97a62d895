"""Compares how the order of documents affects learning: two versions of Scriven on the same lines.

    python benchmarks/document_order.py --old CHECKOUT [--cut BOOK] TEXT [TEXT ...] [--seeds 1 2 3]
        [--budgets '--characters 2500000' '--minutes 1'] [--old-flags '--reader.batch 512'] [--flags ...]

The version in this checkout and the one in another checkout, whose native kernels were built, train on each text. The
two run at the same time, one on each core, and change cores from seed to seed, so equal minutes are equal whatever else
the machine does. For each it shows the validation loss of the best model (nats per character, with the ends of
documents), the largest difference between the nats/end of successive evaluations after a tenth of the run, predictions
per second, and padding. `--cut BOOK` makes 30,000 sentences of a book instead of a text: FILE.sentences in --output.
The picture, document-order.png, has the curves of the first budget.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

SENTENCES = 30_000
SHORTEST, LONGEST = 20, 300  # characters of a sentence
EVALUATIONS = 20
WARM_SHARE = 0.1  # of a run, after which evaluations should agree
VERSIONS = ("old", "new")


def sentences(book: Path, folder: Path) -> Path:
    """A file of 30,000 sentences, spread evenly over a book in which each paragraph is a line or several."""
    found = []
    for paragraph in book.read_text(encoding="utf-8").split("\n\n"):
        pieces = re.split(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(A-Z])", " ".join(paragraph.split()))
        found += [piece for piece in pieces if SHORTEST <= len(piece) <= LONGEST]
    chosen = [found[number * len(found) // SENTENCES] for number in range(SENTENCES)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{book.stem}.sentences"
    path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return path


def start(version: str, text: Path, budget: str, seed: int, core: int, asked: Namespace) -> tuple[Path, Any]:
    """A training that has begun, on one core, and its folder."""
    name = re.sub(r"[^\w]+", "-", f"{text.stem} {budget} {version} {seed}").strip("-")
    run, checkout = asked.output / name, asked.old if version == "old" else Path(__file__).parents[1]
    if any(run.glob("loss.*")):  # drawn at the end; older versions draw a .png
        return run, None  # made before
    flags = [*shlex.split(asked.flags), *shlex.split(asked.old_flags if version == "old" else asked.new_flags)]
    words = [scriven(), "train", str(text), "--corpus.documents", "lines", *shlex.split(budget), *flags]
    words += ["--training.evaluations", str(EVALUATIONS), "--monitor.sample-length", "0", "-o", str(run), "--quiet"]
    words += ["--training.seed", str(seed), "--reader.seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    pinned = ["taskset", "-c", str(core)]
    return run, subprocess.Popen([*pinned, *words], env=environment, stderr=subprocess.PIPE, text=True)


def result(run: Path) -> dict[str, Any]:
    """What a run came to, from its log."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    steps = [event for event in events if event["event"] == "stepped"]
    course = [event for event in events if event["event"] == "evaluated" and not event["final"]]
    ends = [event["loss"]["end_nats"] / event["loss"]["ends"] for event in course if event["progress"] > WARM_SHARE]
    first, last = steps[len(steps) // 10], steps[-1]
    return {
        "best": min(map(nats, course)),
        "last": nats(course[-1]),
        "swing": max((abs(after - before) for before, after in itertools.pairwise(ends)), default=math.nan),
        "steps": last["step"],
        "predictions": last["characters"],
        "predictions_per_second": (last["characters"] - first["characters"]) / (last["seconds"] - first["seconds"]),
        "course": [
            (event["step"], nats(event), event["loss"]["end_nats"] / event["loss"]["ends"], event["progress"])
            for event in course
        ],
    }


def nats(event: dict[str, Any]) -> float:
    """The loss of an evaluation, a character, the ends of documents included."""
    loss = event["loss"]
    return float((loss["nats"] + loss["end_nats"]) / loss["characters"])


def shown(value: Any) -> str:
    """A value of the table."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value > 1000 else f"{value:.4f}"
    return str(value)


def pair(text: Path, budget: str, seed: int, asked: Namespace) -> list[dict[str, Any]]:
    """Both versions trained at the same time."""
    begun = [start(name, text, budget, seed, (seed + number) % 2, asked) for number, name in enumerate(VERSIONS)]
    for _, process in begun:
        if process and process.wait():
            sys.exit(process.stderr.read())
    told = {"text": text.stem, "budget": budget, "seed": seed}
    return [told | {"version": name} | result(run) for name, (run, _) in zip(VERSIONS, begun, strict=True)]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The courses of nats/char and nats/end, a column a text."""
    from matplotlib.figure import Figure

    texts = list(dict.fromkeys(each["text"] for each in results))
    figure = Figure(figsize=(4.2 * len(texts), 6), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(texts), squeeze=False, sharex="col")
    for each in results:
        column, old = texts.index(each["text"]), each["version"] == "old"
        _, losses, ends, progress = zip(*each["course"], strict=True)
        style = {"color": "C1" if old else "C0", "linewidth": 1, "label": "before" if old else "now"}
        style["label"] = style["label"] if each["seed"] == results[0]["seed"] else None
        for row, values in enumerate((losses, ends)):
            axes[row][column].plot(progress, values, **style)
    for column, text in enumerate(texts):
        axes[0][column].set_title(text)
        axes[1][column].set_xlabel("share of the run")
        for row in (0, 1):
            values = [point[row + 1] for each in results if each["text"] == text for point in each["course"][1:]]
            axes[row][column].set_ylim(min(values) - 0.02, statistics.quantiles(values, n=50)[-1] + 0.1)
            axes[row][column].grid(alpha=0.25)
    axes[0][0].set_ylabel("validation, nats/char")
    axes[1][0].set_ylabel("validation, nats/end")
    axes[0][-1].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Trains all pairs, one after another, and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("texts", type=Path, nargs="*", help="files of one document a line")
    parser.add_argument("--cut", type=Path, help="a book of which 30,000 sentences are made")
    parser.add_argument("--old", type=Path, required=True, help="the checkout of the other version")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--budgets", nargs="+", default=["--characters 2500000", "--minutes 1"])
    parser.add_argument("--flags", default="--model.layers 1 --model.width 96", help="for both versions")
    parser.add_argument("--old-flags", default="", help="for the other version alone")
    parser.add_argument("--new-flags", default="", help="for this version alone")
    asked = parser.parse_args()
    texts = [*asked.texts, *([sentences(asked.cut, asked.output)] if asked.cut else [])]
    results = [
        each
        for budget, text, seed in itertools.product(asked.budgets, texts, asked.seeds)
        for each in pair(text, budget, seed, asked)
    ]
    header = {name: name for name in ("text", "budget", "seed", "version", "steps")}
    header |= {"best": "best nats/char", "last": "at the end", "swing": "swing of nats/end"}
    header |= {"predictions_per_second": "predictions/s"}
    rows = [[shown(each[name]) for name in header] for each in results]
    print(table([*header.values()], rows))
    draw([each for each in results if each["budget"] == asked.budgets[0]], asked.output / "document-order.png")
    save(asked, "document-order", results)


if __name__ == "__main__":
    main()
