"""What a start gains: the validation loss of texts after equal minutes, from random weights and from a start.

    SCRIVEN_STARTS=build/starts/made python benchmarks/starts.py --text TEXT... --minutes 1 2 --from none general auto
    ... --first 50000 150000 --try "--training.learning-rate 0.02" --try "--model.dropout 0.2 --training.warmup 0.05"

Each text, or its first characters, is trained for each number of minutes and each seed: from random weights with the
rules' own settings, and from each start with those and with each set of flags to try. Losses are nats a character of
the best model on the last tenth of the text. `gain` is the mean of the differences to random weights, seed by seed.
"""

from __future__ import annotations

import gzip
import json
import lzma
import shlex
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
NOTHING = "none"


@dataclass(frozen=True)
class Way:
    """How the trainings of one row begin and learn."""

    initial: str  # --from
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the table shows it."""
        return " ".join(["--from", self.initial, *self.flags])


@dataclass(frozen=True)
class Piece:
    """A text, or its first characters, and how long it is trained."""

    text: Path
    characters: int  # 0: all
    minutes: float

    @property
    def name(self) -> str:
        """As the table shows it."""
        first = f", first {self.characters:,}" if self.characters else ""
        return f"{self.text.name}{first}, {self.minutes:g} min"

    def file(self, folder: Path) -> Path:
        """The file to train on; one with the first characters is made."""
        if not self.characters:
            return self.text
        path = folder / f"{self.text.name.split('.')[0]}-{self.characters}.txt"
        opener = OPENERS.get(self.text.suffix, open)
        with opener(self.text, "rt", encoding="utf-8", newline="") as file:
            path.write_text(file.read(self.characters), encoding="utf-8", newline="")
        return path


def pieces(asked: Namespace) -> Iterator[Piece]:
    """All texts and budgets asked for."""
    for text in asked.text:
        for first in asked.first or [0]:
            for minutes in asked.minutes:
                yield Piece(text, first, minutes)


def ways(asked: Namespace) -> list[Way]:
    """All beginnings asked for; flags are tried from starts only."""
    tried = [(), *(tuple(shlex.split(flags)) for flags in asked.flags)]
    return [Way(initial, flags) for initial in asked.initial for flags in (tried if initial != NOTHING else [()])]


def measure(piece: Piece, way: Way, seed: int, asked: Namespace) -> dict[str, Any]:
    """Trains once, and returns its losses and what it began with."""
    folder = asked.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / f"{len(list(folder.iterdir())):04d}"
    command = [
        scriven(),
        "train",
        str(piece.file(folder)),
        "--minutes",
        f"{piece.minutes:g}",
        "--quiet",
        "-o",
        str(run),
    ]
    command += ["--from", way.initial, "--training.seed", str(seed), *way.flags, *shlex.split(asked.all)]
    subprocess.run(command, check=True)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {event["protocol"]: event["nats_per_char"] for event in events if event.get("final")}
    if not losses:
        sys.exit(f"{run / 'metrics.jsonl'} has no final losses: the budget was too short for them")
    last = {event["event"]: event for event in events}
    about = {"model": last["started"]["name"], "notes": last["started"]["notes"], "run": str(run)}
    read = last["stepped"]["characters"] / last["started"]["training_characters"]
    return {"piece": piece.name, "way": way.name, "seed": seed, "losses": losses, "passes": read, **about}


def rows(results: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The rows of the table: one for each piece, way and protocol."""
    groups: dict[tuple[str, str, str], dict[int, float]] = {}
    for result in results:
        for protocol, loss in result["losses"].items():
            groups.setdefault((result["piece"], protocol, result["way"]), {})[result["seed"]] = loss
    for (piece, protocol, way), losses in groups.items():
        plain = groups.get((piece, protocol, Way(NOTHING).name), {})
        gains = [plain[seed] - loss for seed, loss in losses.items() if seed in plain]
        spread = f" ± {statistics.stdev(losses.values()):.4f}" if len(losses) > 1 else ""
        about = next(each for each in results if (each["piece"], each["way"]) == (piece, way))
        model = f"{about['model']}, {about['passes']:.1f} passes"
        gain = f"{statistics.mean(gains):+.4f}" if gains else "-"
        yield [piece, protocol, way, model, f"{statistics.mean(losses.values()):.4f}{spread}", gain]


def main() -> None:
    """Trains them one after another and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="texts to train on")
    parser.add_argument("--first", type=int, nargs="*", default=[], help="characters of each text; all unless given")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0], help="time budgets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--from", dest="initial", nargs="+", default=[NOTHING, "auto"], help="as scriven train --from")
    parser.add_argument("--try", dest="flags", action="append", default=[], help="flags to try from starts, in quotes")
    parser.add_argument("--all", default="", help="flags of all trainings, in quotes")
    asked = parser.parse_args()
    results = []
    for piece in pieces(asked):
        for seed in asked.seeds:
            for way in ways(asked):
                results.append(measure(piece, way, seed, asked))
                losses = ", ".join(f"{name} {loss:.4f}" for name, loss in results[-1]["losses"].items())
                print(f"{piece.name}, seed {seed}, {way.name}: {losses}", file=sys.stderr, flush=True)
    print(table(["text", "protocol", "from", "model", "nats/char", "gain"], rows(results)))
    save(asked, "starts", results)


if __name__ == "__main__":
    main()
