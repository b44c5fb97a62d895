"""Measures what writing a checkpoint costs the training that continues meanwhile.

    python benchmarks/checkpoints.py [--layers 2] [--width 512] [--workers 1] [--saves 9]

A model trains on a small text and saves every few steps, without validation or samples. The cost of a save is the time
of the steps from the save until well after it has reached the disk, minus the same number of median steps of the times
between saves. The processor's time of both threads is shown too, since other programs do not change it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import MB, arguments_parser, save, table

from scriven.events import Saved, Stepped
from scriven.runs import Saver
from scriven.settings_values import validate
from scriven.training.loop import Trainer
from scriven.training.start import Request, train

EVERY, WITHIN = 30, 10  # steps from one save to the next, and those that may feel it
WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"


def processor_times(owner: type, name: str) -> list[float]:
    """A list that gets the seconds of processor that each call of a method takes in its thread, from now on."""
    method, seconds = getattr(owner, name), list[float]()

    def _timed(*arguments: Any, **more: Any) -> Any:
        begun = time.thread_time()
        try:
            return method(*arguments, **more)
        finally:
            seconds.append(time.thread_time() - begun)

    setattr(owner, name, _timed)
    return seconds


def main() -> None:
    """Trains, and prints the costs."""
    parser = arguments_parser(__doc__)
    for name, default in {"layers": 2, "width": 512, "workers": 1, "saves": 9, "batch": 8, "length": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    workers = arguments.workers
    settings = {
        "budget": {"steps": EVERY * (arguments.saves + 1)},
        "corpus": {"validation": 0.0},
        "model": {"width": arguments.width, "layers": arguments.layers},
        "reader": {"batch": arguments.batch * workers, "length": arguments.length},
        "training": {"workers": workers, "groups": workers, "threads": 1},
        "monitor": {"every_steps": EVERY, "sample_length": 0},
    }
    copying, writing = processor_times(Trainer, "_save"), processor_times(Saver, "_write")
    ends: dict[int, float] = {}
    durable: dict[int, int] = {}  # the step at which each save was told of
    with tempfile.TemporaryDirectory() as place:
        os.environ["SCRIVEN_CACHE"] = str(Path(place) / "cache")
        text = Path(place) / "text.txt"
        text.write_text(WORDS * 5000, encoding="utf-8")
        for event in train(Request((str(text),), validate(settings), Path(place) / "run")):
            if isinstance(event, Stepped):
                ends[event.step] = time.perf_counter()
            elif isinstance(event, Saved):
                durable[event.step] = max(ends)
                size = sum(file.stat().st_size for file in Path(event.path).iterdir())
    seconds = {step: ends[step] - ends[step - 1] for step in ends if step > 1}
    saves = [EVERY * number for number in range(1, arguments.saves + 1)]
    calm = statistics.median(seconds[step] for step in seconds if step > EVERY and (step - 1) % EVERY >= WITHIN)
    costs = [sum(seconds[step + n] for n in range(1, WITHIN + 1)) - WITHIN * calm for step in saves]
    rows = [
        ["size of a checkpoint", f"{size / MB:.0f} MB"],
        ["a step", f"{1000 * calm:.1f} ms"],
        ["a save costs, median", f"{1000 * statistics.median(costs):.0f} ms"],
        ["a save costs, all", ", ".join(f"{1000 * cost:.0f}" for cost in costs)],
        ["processor's time of the training's thread, median", f"{1000 * statistics.median(copying):.0f} ms"],
        ["processor's time of the writing thread, median", f"{1000 * statistics.median(writing):.0f} ms"],
        ["steps until it was on the disk", ", ".join(str(durable[step] - step) for step in saves)],
    ]
    print(table(["what", "result"], rows))
    save(arguments, "checkpoints", {"costs_seconds": costs, "step_seconds": calm, "bytes": size})


if __name__ == "__main__":
    main()
