"""When texts become readable: the share of known words that models write, by text and budget.

    python benchmarks/readable.py --text TEXT... --first 50000 150000 --read 0.5 1 2 4 --from none auto

A budget is the millions of characters that the model of reference (LSTM 2x192) could read in it; all settings are those
that `--minutes` chooses for a machine that is just so fast. So the speed of this machine does not matter. Shown is how
many of the words of ten samples of 2,000 characters stand in the training text, and the lowest and the highest of the
ten shares: of the model as it is used, mixed with counts, and of the network alone; and how many of the words of the
validation text do.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import arguments_parser, save, table
from starts import Piece

import scriven
from scriven.corpus.build import open_or_build
from scriven.corpus.store import Corpus
from scriven.settings import Settings
from scriven.settings_values import merge_settings, validate
from scriven.training.auto_settings import (
    STEP_EFFICIENCY,
    _relative_cost,
    choose_settings,
)
from scriven.training.auto_start import choose_initial, inherited_settings, named_initial
from scriven.training.evaluation import READ_SAMPLE, known_share, words_of
from scriven.training.workload import Workload, choose_compute, describe_workload

SPEED = 50_000.0  # characters/s of the model of reference with all that a step does, on two cores
SAMPLES = 10


def fitted(corpus: Corpus, workload: Workload, initial: str, read: float) -> Settings:
    """The settings of a time budget in which the model of reference could read so many characters."""
    given = validate({"budget": {"minutes": read / SPEED / 60}, "corpus": corpus.settings.model_dump()})
    given = inherited_settings(initial, given, corpus.training.characters)
    settings, _ = choose_settings(given, workload)
    cost = _relative_cost(settings.model.layers, settings.model.width, settings.model.members)
    values = merge_settings(
        settings.model_dump(exclude={"budget"}),
        {"training": {"evaluations": 1}, "budget": {"characters": round(read / cost)}},
    )
    return validate(values)


def measure(text: Path, name: str, initial: str, asked: Namespace) -> Iterator[dict[str, Any]]:
    """Trains on a text for every budget and seed, and yields what its models write."""
    corpus = open_or_build((str(text),), Settings().corpus)
    compute = choose_compute(Settings())
    workload = describe_workload(corpus, Settings(), compute, 1, 0.0, measured=False)
    workload = Workload(**{**vars(workload), "speed": SPEED / STEP_EFFICIENCY, "overhead_seconds": 0.0, "cores": 2})
    chosen = choose_initial(named_initial(initial), Settings(), corpus, workload).initial
    known = set(words_of(corpus.vocabulary.decode(corpus.training.read(0, corpus.training.characters))))
    held_out = corpus.vocabulary.decode(corpus.validation.read(0, corpus.validation.characters))
    for read, seed in itertools.product(asked.read, asked.seeds):
        settings = fitted(corpus, workload, chosen, 1e6 * read)
        settings = validate(merge_settings(settings.model_dump(exclude_unset=True), {"training": {"seed": seed}}))
        folder = asked.output / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        run = folder / f"readable-{len(list(folder.iterdir())):04d}"
        done = scriven.train(
            str(text), settings=compute.apply(settings), initial=chosen or "none", output=run, reports=[]
        )
        models = {"shares": done.load(), "alone": scriven.load(run, counts="none")}
        shares = {
            of: [known_share(each, known) for each in model.samples(SAMPLES, length=READ_SAMPLE, seed=1)]
            for of, model in models.items()
        }
        yield {
            "text": name,
            "characters": corpus.training.characters,
            "from": chosen or "none",
            "read": read,
            "seed": seed,
            "model": settings.model.name,
            "passes": settings.budget.characters / corpus.training.characters,
            "bits": done.best.bits_per_char,
            "seconds": done.finished.seconds,
            **shares,
            "held_out": known_share(held_out, known),
        }


def row(each: dict[str, Any]) -> list[str]:
    """A row of the table."""
    return [
        f"{each['text']}",
        each["from"].split("@")[0],
        f"{each['read']:g}",
        f"{each['model']}, {each['passes']:.1f} passes",
        str(each["seed"]),
        f"{each['bits']:.3f}",
        *(
            f"{statistics.mean(each[of]):.1%} ({min(each[of]):.1%} to {max(each[of]):.1%})"
            for of in ("shares", "alone")
        ),
        f"{each['held_out']:.1%}",
    ]


def main() -> None:
    """Trains them one after another and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="texts to train on")
    parser.add_argument("--first", type=int, nargs="*", default=[], help="characters of each text; all unless given")
    parser.add_argument("--read", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4], help="budgets, in millions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--from", dest="initial", nargs="+", default=["none", "auto"], help="as scriven train --from")
    asked = parser.parse_args()
    results = []
    asked.output.mkdir(parents=True, exist_ok=True)
    for text, first, initial in itertools.product(asked.text, asked.first or [0], asked.initial):
        piece = Piece(text, first, 0)
        name = f"{text.name}, first {first:,}" if first else text.name
        for result in measure(piece.file(asked.output), name, initial, asked):
            results.append(result)
            print(" | ".join(row(result)), file=sys.stderr, flush=True)
    header = [
        "text",
        "from",
        "budget, million",
        "model",
        "seed",
        "bits/char",
        "known words",
        "network alone",
        "held-out text",
    ]
    print(table(header, map(row, results)))
    save(asked, "readable", results)


if __name__ == "__main__":
    main()
