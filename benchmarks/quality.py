"""Measures the models that `scriven train` makes in a budget: exact validation losses, and the time of the command.

    python benchmarks/quality.py --text TEXT --minutes 2 10 --epochs 6 --width 192 --seeds 1 2 3

Each number of minutes is a run with default settings. Each number of epochs is one run per seed, with the given width.
Losses are nats per character of the best model on the whole validation text (the last tenth), by the protocols `stream`
and `window-256`. The limits are for tinyshakespeare on two quiet cores. The runs stay in --output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

PROTOCOLS = ("window-256", "stream")
LIMITS = {  # of tinyshakespeare: nats a character by each protocol
    ("minutes", 2.0): (1.44, 1.415),
    ("minutes", 10.0): (1.405, 1.38),
    ("epochs", 6.0): (1.445, 1.42),
}
SECONDS_OVER = 10.0  # that a command may take beyond its minutes


@dataclass(frozen=True)
class Case:
    """One training."""

    unit: str  # minutes or epochs
    amount: float
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is shown, and as its run folder is called."""
        return " ".join([f"--{self.unit} {self.amount:g}", *self.flags])


def cases(asked: Namespace) -> list[Case]:
    """The trainings asked for."""
    timed = [Case("minutes", amount) for amount in asked.minutes]
    width = ("--model.width", str(asked.width))
    counted = [
        Case("epochs", amount, (*width, "--training.seed", str(seed)))
        for amount in asked.epochs
        for seed in asked.seeds
    ]
    return timed + counted


def measure(case: Case, text: Path, runs: Path) -> dict[str, Any]:
    """Trains once, in a new run folder."""
    run = runs / f"{case.name.replace(' ', '').lstrip('-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    command = [scriven(), "train", str(text), f"--{case.unit}", f"{case.amount:g}", *case.flags, "-o", str(run)]
    begun = time.perf_counter()
    result = subprocess.run([*command, "--quiet"], check=False)
    seconds = time.perf_counter() - begun
    if result.returncode:
        sys.exit(f"scriven train {case.name} ended with exit code {result.returncode}")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {event["protocol"]: event["nats_per_char"] for event in events if event.get("final")}
    if set(losses) != set(PROTOCOLS):
        sys.exit(f"{run / 'metrics.jsonl'} has no final losses: the budget was too short for them")
    last = {event["event"]: event for event in events}
    started, stepped = last["started"], last["stepped"]
    kept = {"model": started["name"], "precision": started["precision"], "workers": started["workers"]}
    kept |= {"characters": stepped["characters"], "passes": stepped["characters"] / started["training_characters"]}
    return {"command": case.name, "seconds": seconds, "losses": losses, **kept}


def row(case: Case, result: dict[str, Any]) -> list[str]:
    """What was reached / the limit, for one training."""
    limits = LIMITS.get((case.unit, case.amount))
    cells = [f"{case.name} ({result['model']}, {result['passes']:.1f} passes)"]
    for number, protocol in enumerate(PROTOCOLS):
        cells.append(f"{result['losses'][protocol]:.4f} / {limits[number] if limits else '-'}")
    allowed = f"{case.amount * 60 + SECONDS_OVER:g}" if case.unit == "minutes" else "-"
    return [*cells, f"{result['seconds']:.1f} / {allowed}"]


def main() -> None:
    """Trains them one after another and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare, for the limits to mean something")
    parser.add_argument("--minutes", type=float, nargs="*", default=[], help="time budgets")
    parser.add_argument("--epochs", type=float, nargs="*", default=[], help="budgets free of the machine's noise")
    parser.add_argument("--width", type=int, default=192, help="of the models trained for --epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the models trained for --epochs")
    asked = parser.parse_args()
    results = [(case, measure(case, asked.text, asked.output)) for case in cases(asked)]
    header = ["command", *(f"{protocol}, reached / limit" for protocol in PROTOCOLS), "seconds, reached / limit"]
    print(table(header, [row(case, result) for case, result in results]))
    save(asked, "quality", [result for _, result in results])


if __name__ == "__main__":
    main()
