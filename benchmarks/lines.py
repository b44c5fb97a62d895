"""How well surprisal tells lines of one kind from others: the area under the ROC curve (AUC).

    python benchmarks/lines.py NORMAL OTHERS [--epochs 20] [--width 64] [--held-out 2000] [--seed 1]

NORMAL and OTHERS are files with an item on each line. A model of lines is trained on NORMAL without `--held-out` lines
of it, which are drawn by the seed. These and all lines of OTHERS are then scored: lines that are in both files, or
several times, count once, as OTHERS only if NORMAL does not have them. Scores are the bits of a whole line with its end
(total), and these per character with the end counted as one (mean); by the network, the counts of the training text,
and the mixture of both. The AUC is the probability that a line of OTHERS gets a higher score than a held-out one. Its
standard error is that of Hanley and McNeil (1982). `caught` is the share of OTHERS above the 0.99 quantile of the
validation lines, and `false` that of the held-out lines: what `scriven score --by line --above 0.99` would print.
"""

from __future__ import annotations

import math
import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import arguments_parser, save, table

import scriven
from scriven.api import TrainedRun
from scriven.inference.boundaries import LineRule
from scriven.inference.chunks import documents_of
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import surprisals_of_text
from scriven.inference.units import units
from scriven.runs import open_run
from scriven.runs.recovery import open_run_corpus

Values = npt.NDArray[np.float64]
QUANTILE = 0.99


def main() -> None:
    """Trains, scores and prints a table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("normal", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--epochs", type=float, default=20.0, help="of training: the same on a busy machine")
    parser.add_argument("--width", type=int, default=64, help="cells in a layer")
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    training, held_out, others = split(asked)
    asked.output.mkdir(parents=True, exist_ok=True)
    text = asked.output / "lines-training.txt"
    text.write_text("".join(f"{line}\n" for line in training), "utf-8")
    run = train(text, asked)
    model = scriven.load(run)
    predictors = {"mixture": model.predictor} | model.predictor.parts()
    if len(predictors) == 1:
        sys.exit("the training mixed no counts with the network, so there is nothing to compare; train for longer")
    rows = [row for name, predictor in predictors.items() for row in measure(name, predictor, run, held_out, others)]
    print(f"{len(training):,} lines to train on, {len(held_out):,} held out, {len(others):,} others; {model}")
    shown = [[f"{value:.4f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    print(table(list(rows[0]), shown))
    save(asked, "lines", {"model": repr(model), "sizes": [len(training), len(held_out), len(others)], "rows": rows})


def split(asked: Namespace) -> tuple[list[str], list[str], list[str]]:
    """The lines to train on, those held out, and the others."""
    normal, others = (
        list(dict.fromkeys(filter(None, path.read_text("utf-8").splitlines()))) for path in (asked.normal, asked.others)
    )
    if len(normal) <= asked.held_out:
        sys.exit(f"{asked.normal} has {len(normal):,} distinct lines; hold out fewer than --held-out {asked.held_out}")
    random.Random(asked.seed).shuffle(normal)
    return normal[asked.held_out :], normal[: asked.held_out], [line for line in others if line not in set(normal)]


def train(text: Path, asked: Namespace) -> Path:
    """Trains a model of lines."""
    done: TrainedRun = scriven.train(
        str(text),
        settings={
            "corpus": {"documents": "lines"},
            "model": {"width": asked.width},
            "training": {"seed": asked.seed},
        },
        epochs=asked.epochs,
        output=asked.output / "lines-run",
    )
    return done.path


def measure(name: str, predictor: Predictor, run: Path, held_out: list[str], others: list[str]) -> list[dict[str, Any]]:
    """A row for each kind of score."""
    validation = open_run_corpus(open_run(str(run))).validation
    boundary = predictor.vocabulary.boundary
    assert boundary is not None
    usual = scores(predictor, documents_of(validation, boundary))
    low, high = (
        scores(predictor, [np.append(predictor.vocabulary.encode(line), boundary) for line in lines])
        for lines in (held_out, others)
    )
    rows = []
    for kind, of_usual in usual.items():
        least = np.quantile(of_usual, QUANTILE)
        area = auc(low[kind], high[kind])
        rows.append(
            {
                "model": name,
                "score": kind,
                "auc": area,
                "error": auc_error(area, len(low[kind]), len(high[kind])),
                "caught": float((high[kind] > least).mean()),
                "false": float((low[kind] > least).mean()),
            }
        )
    return rows


def scores(predictor: Predictor, chunks: Any) -> dict[str, Values]:
    """The total bits (N,) of each line, and the mean per character, of which its end is one."""
    sums = [
        each.sums
        for each in units(predictor.vocabulary, surprisals_of_text(predictor, chunks), LineRule(predictor.vocabulary))
    ]
    total = np.concatenate([each.nats + each.end_nats for each in sums]) / math.log(2)
    symbols = np.concatenate([each.characters + each.ends for each in sums])
    return {"total": total, "mean": total / symbols}


def auc(low: Values, high: Values) -> float:
    """The probability that a value of `high` is above one of `low`; equal ones count half."""
    order = np.sort(low)
    below = np.searchsorted(order, high, "left") + np.searchsorted(order, high, "right")
    return float(below.sum() / (2 * len(low) * len(high)))


def auc_error(area: float, low: int, high: int) -> float:
    """The standard error of an AUC of so many values."""
    both, twice = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (high - 1) * (both - area**2) + (low - 1) * (twice - area**2)
    return math.sqrt(variance / (low * high))


if __name__ == "__main__":
    main()
