"""Measures how fast each reader makes batches, how much of them is padding, and how long training waits for them.

    python benchmarks/readers.py TEXT... [--batch 64 512] [--length 64] [--batches 300]

Each text is built into two corpora, once as one text and once with its lines as documents. For each reader it prints
the microseconds to make a batch in one thread; the predictions per second that this gives; the mean length of a chunk;
the share of padding among all places; and the share of its time that a training step of an LSTM (--width units, one
layer, one thread, SGD) waits for batches that are prepared while it computes. The corpora are in the disk cache.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

READERS = ("stream", "windows", "documents")
WIDTH = 128


def main() -> None:
    """Measures all readers on all texts and prints a table."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 512], help="rows (N)")
    parser.add_argument("--length", nargs="+", type=int, default=[64], help="characters per row (T), at most")
    parser.add_argument("--batches", type=int, default=300, help="batches read of each")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each, for the wait; 0 for none")
    parser.add_argument("--width", type=int, default=WIDTH, help="units of that LSTM")
    arguments = parser.parse_args()
    results = []
    for text, kind in itertools.product(arguments.texts, READERS):
        with tempfile.TemporaryDirectory() as folder:
            results += [
                {"text": text.name, "reader": kind, "batch": batch, "length": length}
                | measure(built(text, kind, Path(folder)), kind, batch, length, arguments)
                for batch, length in itertools.product(arguments.batch, arguments.length)
            ]
    header = ("text", "reader", "N", "T", "mean T", "us/batch", "predictions/s", "padding", "wait", "step")
    print(common.table(header, map(row, results)))
    common.save(arguments, "readers", results)


def row(result: dict[str, Any]) -> tuple[object, ...]:
    """A line of the table."""
    wait = "" if result["wait_share"] is None else f"{result['wait_share']:.1%}"
    step = "" if result["step_seconds"] is None else f"{result['step_seconds'] * 1e3:.1f} ms"
    return (
        *(result[name] for name in ("text", "reader", "batch", "length")),
        f"{result['mean_length']:.1f}",
        f"{result['batch_seconds'] * 1e6:.0f}",
        f"{result['predictions_per_second']:,.0f}",
        f"{result['padding_share']:.1%}",
        wait,
        step,
    )


def built(text: Path, kind: str, folder: Path) -> Any:
    """The corpus of a text as a reader needs it, built once."""
    from scriven.corpus import Corpus
    from scriven.corpus.build import build
    from scriven.settings import CorpusSettings

    path = folder / "corpus"
    if not path.exists():
        build([str(text)], CorpusSettings(documents="lines" if kind == "documents" else "none"), path)
    return Corpus.open(path)


def measure(corpus: Any, kind: str, batch: int, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one reader does."""
    from scriven.batches import Cursor, next_batch
    from scriven.settings import ReaderSettings

    settings = ReaderSettings.model_validate({"kind": kind, "batch": batch, "length": length})
    places = counted = steps = 0
    cursor: Cursor = 0
    begun = time.perf_counter()
    for _ in range(arguments.batches):
        made, cursor = next_batch(corpus.training, corpus.vocabulary, settings, cursor)
        places, counted, steps = places + made.ids.size, counted + made.predictions, steps + len(made.ids)
    seconds = time.perf_counter() - begun
    wait, step = waited(corpus, settings, arguments) if arguments.steps else (None, None)
    return {
        "batch_seconds": seconds / arguments.batches,
        "predictions_per_second": counted / seconds,
        "mean_length": steps / arguments.batches,
        "padding_share": 1 - counted / places,
        "wait_share": wait,
        "step_seconds": step,
    }


def waited(corpus: Any, settings: Any, arguments: argparse.Namespace) -> tuple[float, float]:
    """The share of a step's time that training waits for its batch, and the seconds of a step."""
    from scriven.batches import prefetch

    step = training_step(corpus.vocabulary.size, arguments.width)
    batches = prefetch(corpus.training, corpus.vocabulary, settings, 0, range(settings.batch))
    waiting = 0.0
    with contextlib.closing(batches):
        for number in range(common.WARMUP_STEPS + arguments.steps):
            if number == common.WARMUP_STEPS:
                begun, waiting = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch, _ = next(batches)
            waiting += time.perf_counter() - asked
            step(batch)
        seconds = time.perf_counter() - begun
    return waiting / seconds, seconds / arguments.steps


def training_step(symbols: int, width: int) -> Callable[[Any], None]:
    """A step of a small model in plain torch: the faster a step, the harder it is not to let it wait."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    embedding, lstm = torch.nn.Embedding(symbols, width), torch.nn.LSTM(width, width)
    output = torch.nn.Linear(width, symbols)
    parameters = [*embedding.parameters(), *lstm.parameters(), *output.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01)

    def step(batch: Any) -> None:
        y, _ = lstm(embedding(torch.from_numpy(batch.ids)))
        loss = functional.cross_entropy(output(y).flatten(0, 1), torch.from_numpy(batch.targets).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
