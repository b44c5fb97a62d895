"""Compares architectures by equal minutes: a transformer, minGRU, and Scriven's LSTM, each on one core.

    python benchmarks/architectures.py tinyshakespeare.txt names.txt dickens_austen_17mb.txt.xz --minutes 1 2
    python benchmarks/architectures.py tinyshakespeare.txt --grid --minutes 0.5

A minute is a minute of processor time, of all threads of the process, so that a busy machine changes less. It pays
for the training alone: for batches, both passes and the optimizer, not for imports, setting up or evaluation. The
transformer and minGRU are trained by plain torch in one thread, until the time is over. Scriven, with one worker and
one thread, is trained for the number of steps that a timed probe finds; the last column says what they took.

Losses are nats per character on the last tenth of a text, of at most 200,000 characters of it, after training on the
rest; line feeds are characters like others. With --grid, the designs of the grid are judged on the tenth before that,
by at most 50,000 characters, after training on what stands before; the winners are written down in CHOSEN.
"""

from __future__ import annotations

import gzip
import lzma
import math
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from architecture_models import CharacterModel, Design, measure_stream, measure_windows, train
from common import arguments_parser, save, table
from quality_rows import BOTH, losses

import scriven
from scriven.model.precision import bf16_speedup

OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
JUDGED, JUDGED_IN_GRID = 200_000, 50_000  # characters
PROBED_STEPS, FIRST_STEPS = 50, 10  # the first ones are slower and do not count
# bf16 was faster for all three in short probes on the processor of docs/architectures.md.
PRECISION = "bf16" if bf16_speedup() else "fp32"

CHOSEN = [
    Design("transformer", 2, 128, 16, 64, 0.02),
    Design("mingru", 2, 128, 16, 64, 0.02),
    Design("lstm", 2, 192, 32, 64, 0.04),
]
GRID = [
    *CHOSEN,
    Design("transformer", 2, 128, 16, 64, 0.01),
    Design("transformer", 2, 128, 16, 64, 0.04),
    Design("transformer", 2, 128, 8, 128, 0.02),
    Design("transformer", 2, 96, 16, 64, 0.02),
    Design("transformer", 4, 128, 16, 64, 0.02),
    Design("mingru", 2, 128, 16, 64, 0.04),
    Design("mingru", 2, 96, 16, 64, 0.02),
    Design("mingru", 2, 192, 16, 64, 0.02),
    Design("mingru", 3, 128, 16, 64, 0.02),
]


@dataclass(frozen=True)
class Text:
    """What is trained on, and what losses are measured on."""

    name: str
    training: str
    validation: str

    @property
    def characters(self) -> list[str]:
        """The known characters; one more symbol stands for all others, as in Scriven."""
        return sorted(set(self.training))

    def ids(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both parts as numbers."""
        known = {character: number for number, character in enumerate(self.characters)}
        training, validation = (
            torch.tensor([known.get(each, len(known)) for each in part]) for part in (self.training, self.validation)
        )
        return training, validation

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Both parts as files for Scriven."""
        paths = folder / "training.txt", folder / "validation.txt"
        for path, part in zip(paths, (self.training, self.validation), strict=True):
            path.write_text(part, encoding="utf-8", newline="")
        return paths


def read_text(path: Path, *, grid: bool) -> Text:
    """Reads a text and cuts it: its last tenth, or for the grid the tenth before it, is for validation."""
    with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="") as file:
        content = file.read()
    cut, judged = len(content) * (8 if grid else 9) // 10, JUDGED_IN_GRID if grid else JUDGED
    end = len(content) * 9 // 10 if grid else len(content)
    return Text(path.name.split(".")[0], content[:cut], content[cut : min(end, cut + judged)])


@dataclass(frozen=True)
class Outcome:
    """One training: its losses in nats per character, and what it took."""

    text: str
    kind: str
    design: str
    minutes: float
    seed: int
    window: float  # by the protocol window-256
    stream: float | None  # None for a transformer, which has no state to carry
    passes: float
    parameters: int
    seconds: float  # of processor time


def describe(text: Text, design: Design, steps: int) -> Callable[..., Outcome]:
    """Returns what makes the outcome of these steps from what was measured."""
    passes = steps * design.rows * design.length / len(text.training)
    return partial(Outcome, text=text.name, kind=design.kind, design=design.name, passes=passes)


def measure_torch(text: Text, design: Design, minutes: float, seed: int) -> Outcome:
    """Trains and measures a model of plain torch."""
    torch.manual_seed(seed)
    training, validation = text.ids()
    model = CharacterModel(design, len(text.characters) + 1)
    begun = time.process_time()
    steps = len(train(model, training, minutes * 60, bf16=PRECISION == "bf16"))
    seconds = time.process_time() - begun
    return describe(text, design, steps)(
        minutes=minutes,
        seed=seed,
        window=measure_windows(model, validation),
        stream=None if design.kind == "transformer" else measure_stream(model, validation),
        parameters=sum(each.numel() for each in model.parameters()),
        seconds=seconds,
    )


def measure_scriven(text: Text, design: Design, minutes: float, seed: int) -> Outcome:
    """Trains Scriven's model for as many steps as fit, and measures it."""
    with tempfile.TemporaryDirectory() as folder:
        training, validation = text.files(Path(folder))
        settings = {
            "corpus": {"validation_file": str(validation)},
            "model": {"cell": design.kind, "layers": design.layers, "width": design.width, "counts": "none"},
            "reader": {"batch": design.rows, "length": design.length},
            "training": {"workers": 1, "threads": 1, "learning_rate": design.rate, "seed": seed, "evaluations": 1},
            "monitor": {"choose": "last", "sample_length": 0},
        }
        settings["training"]["precision"] = PRECISION

        def run(steps: int, name: str) -> tuple[dict[int, float], list[scriven.Event]]:
            """Trains; returns the processor time at the end of each step (0: at the start), and all events."""
            ends, events = {}, []
            for event in scriven.train_events(
                training, steps=steps, output=Path(folder) / name, initial="none", settings=settings
            ):
                events.append(event)
                if isinstance(event, scriven.Started | scriven.Stepped):
                    ends[event.step] = time.process_time()
            return ends, events

        probed, _ = run(PROBED_STEPS, "probe")
        step_seconds = (probed[PROBED_STEPS] - probed[FIRST_STEPS]) / (PROBED_STEPS - FIRST_STEPS)
        steps = max(1, round(minutes * 60 / step_seconds))
        ends, events = run(steps, "run")
        found = {protocol: losses(Path(folder) / "run", protocol)[protocol] or math.nan for protocol in BOTH}
    started = next(event for event in events if isinstance(event, scriven.Started))
    return describe(text, design, steps)(
        minutes=minutes,
        seed=seed,
        window=found["window-256"],
        stream=found["stream"],
        parameters=started.parameters,
        seconds=ends[steps] - ends[0],
    )


def rows(outcomes: list[Outcome]) -> Iterator[list[str]]:
    """The rows of the table: one for each text, number of minutes and design, over seeds."""
    groups: dict[tuple[str, float, str, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.text, each.minutes, each.kind, each.design), []).append(each)
    for (text, minutes, kind, design), group in groups.items():
        streams = [each.stream for each in group if each.stream is not None]
        yield [
            text,
            f"{minutes:g}",
            kind,
            f"{design}; {group[0].parameters:,} weights",
            f"{statistics.mean(each.passes for each in group):.1f}",
            show_losses([each.window for each in group]),
            show_losses(streams) if streams else "-",
            ", ".join(f"{each.seconds:.0f}" for each in group),
        ]


def show_losses(losses: list[float]) -> str:
    """The mean of losses, and from three on their standard deviation."""
    spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 2 else ""
    return f"{statistics.mean(losses):.3f}{spread}"


def main() -> None:
    """Trains them one after another and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0], help="of processor time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--kinds", nargs="+", default=[design.kind for design in CHOSEN])
    parser.add_argument("--dropout", type=float, default=0.0, help="of the models of plain torch")
    parser.add_argument("--grid", action="store_true", help="try all designs of the grid, on another part of the text")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    designs = [design for design in (GRID if asked.grid else CHOSEN) if design.kind in asked.kinds]
    outcomes = []
    for text in (read_text(path, grid=asked.grid) for path in asked.text):
        for minutes, seed, design in each_case(asked, designs):
            measure = measure_scriven if design.kind == "lstm" else measure_torch
            outcomes.append(measure(text, design, minutes, seed))
            print(outcomes[-1], file=sys.stderr, flush=True)
    header = ["text", "minutes", "kind", "design", "passes", "window-256", "stream", "seconds"]
    print(table(header, rows(outcomes)))
    save(asked, "architectures", [asdict(each) for each in outcomes])


def each_case(asked: Namespace, designs: list[Design]) -> Iterator[tuple[float, int, Design]]:
    """Yields minutes, seed and design of each training on a text."""
    for minutes in asked.minutes:
        for seed in asked.seeds:
            for design in designs:
                yield minutes, seed, design if design.kind == "lstm" else replace(design, dropout=asked.dropout)


if __name__ == "__main__":
    main()
