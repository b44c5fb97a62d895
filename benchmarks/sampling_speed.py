"""Measures how fast text is written: native code in each precision against a torch loop, and what int8 costs in loss.

    python benchmarks/sampling_speed.py                                  # LSTMs of 2 layers, 256 and 512 wide
    python benchmarks/sampling_speed.py --run runs/book --text book.txt  # nats/char of a run's precisions on a text too
    python benchmarks/sampling_speed.py --counts book.txt                # int8 mixed with the counts of a text, too

Prints characters per second with all filters on, for one text and for 64 at the same time. They are medians of rounds
in which all take turns, so that other programs disturb them alike. The whole path is measured, as users write: logits,
filters, draw, reading, text. The last column is one call of the sampler, without Python around it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from scriven.arrays import Ids
from scriven.corpus.build import open_or_build
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.kernels.counts import NgramTable
from scriven.kernels.packing import PRECISIONS
from scriven.kernels.sampler import Sampler
from scriven.model import CharLM
from scriven.runs.ngrams import MixtureWeights
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings, Settings
from scriven.trained_model import Model
from scriven.training.mixing import WRITE_ORDER, count_text
from scriven.vocabulary import Vocabulary

FILTERS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02}
LETTERS = "\n" + "".join(map(chr, range(32, 96)))  # 65, as tinyshakespeare has
CERTAIN = 1e9  # a logit
AT_ONCE = 64  # pieces of the text that are read side by side
MIXTURE = MixtureWeights(
    reading=((0.6, 0.4),) * 2, writing=((0.6, 0.4),) * 2, order=WRITE_ORDER
)  # their values cost no time


def main() -> None:
    """Measures, prints tables and writes them as JSON."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="about how long each turn is")
    parser.add_argument("--threads", type=int, default=1, help="that share several texts, or a large model")
    parser.add_argument("--counts", type=Path, help="a text whose counts take part in writing, in one more column")
    parser.add_argument("--run", help="a run to measure the nats/char of")
    parser.add_argument("--text", type=Path, help="the text for --run")
    parser.add_argument("--characters", type=int, default=64_000, help="of the text, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"level {native_library.level()}: {native_library.why()}\n")
    results: dict[str, Any] = {"level": native_library.level(), "speed": speeds(arguments)}
    if arguments.run:
        results["nats"] = nats_of_run(arguments)
    common.save(arguments, "sampling_speed", results)


def speeds(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Characters per second of every width and number of texts; printed as a table."""
    rows, counted = [], count(arguments.counts) if arguments.counts else None
    for width in arguments.widths:
        for streams in arguments.streams:
            medians = interleaved(ways(width, streams, counted), arguments.rounds, arguments.seconds, streams)
            rows.append({"width": width, "streams": streams, **medians})
    names = list(rows[0])[2:]
    cells = [[f"2x{r['width']}", r["streams"], *(f"{r[name]:,.0f}" for name in names), ratio(r)] for r in rows]
    print(common.table(["LSTM", "texts", *names, "int8 / torch"], cells))
    return rows


def ratio(row: dict[str, Any]) -> str:
    """How many times faster than torch int8 is, where there is int8."""
    return f"{row['int8'] / row['torch']:.1f}" if "int8" in row else ""


def count(text: Path) -> tuple[Vocabulary, NgramTable]:
    """The characters of a text, and the counts of its training part."""
    corpus = open_or_build((str(text),), Settings().corpus)
    return corpus.vocabulary, count_text(corpus)[0]


def ways(
    width: int, streams: int, counted: tuple[Vocabulary, NgramTable] | None = None
) -> dict[str, Callable[[int], object]]:
    """Functions that write so many characters of every text, by name."""
    torch.manual_seed(1)
    vocabulary = counted[0] if counted else Vocabulary.of(LETTERS)
    model = CharLM(ModelSettings(width=width), vocabulary.size).eval()
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(8)  # a trained model is not as undecided as a new one
    result = {"torch": by_session(Predictor(model, vocabulary, "fp32"), streams)}
    if native_library.level() == "off":
        return result
    for precision in PRECISIONS:
        result[precision] = by_session(Predictor(model, vocabulary, "fp32", writing=precision), streams)
    if counted:
        mixed = Predictor(model, vocabulary, "fp32", 0, "int8").with_counts(*MIXTURE.mixtures(counted[1]))
        result["int8, counts"] = by_session(mixed, streams)
    result["int8, ids alone"] = by_kernel(Sampler(model.settings, model.state_dict(), "int8"), vocabulary.size, streams)
    return result


def by_kernel(sampler: Sampler, symbols: int, streams: int) -> Callable[[int], object]:
    """One call of native code."""
    logits, settings, random = torch.zeros(streams, symbols), SamplingSettings(**FILTERS), np.random.default_rng(1)
    return lambda count: sampler.write(logits, None, settings, random.random((count, streams)))


def by_session(predictor: Predictor, streams: int) -> Callable[[int], object]:
    """As users write: text, one or several side by side."""
    model = Model(predictor, Settings())
    if streams == 1:
        return lambda count: model.sample(length=count, seed=1, **FILTERS)
    return lambda count: list(model.samples(streams, length=count, seed=1, **FILTERS))


def interleaved(
    writers: dict[str, Callable[[int], object]], rounds: int, seconds: float, streams: int
) -> dict[str, float]:
    """The median of each one's characters per second, of all texts together."""
    counts = {}
    for name, write in writers.items():
        write(8)
        counts[name] = max(8, int(seconds * 8 / elapsed(write, 8)))
    took: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(rounds):
        for name, write in writers.items():
            took[name].append(elapsed(write, counts[name]))
    return {name: streams * counts[name] / statistics.median(took[name]) for name in writers}


def elapsed(write: Callable[[int], object], count: int) -> float:
    """Seconds to write so many characters."""
    begun = time.perf_counter()
    write(count)
    return time.perf_counter() - begun


def nats_of_run(arguments: argparse.Namespace) -> dict[str, float]:
    """Nats/char of a text by each precision; printed as a table."""
    from scriven.trained_model import load

    model = load(arguments.run, precision="fp32")
    ids = model.read_ids(arguments.text.read_text("utf-8"))[: arguments.characters]
    rows = ids[: len(ids) // AT_ONCE * AT_ONCE].reshape(AT_ONCE, -1).T  # (T, 64)
    found = {}
    for precision in PRECISIONS:
        weights = model.predictor.model.state_dict()
        sampler = Sampler(model.settings.model, weights, precision, model.vocabulary.boundary)
        found[precision] = nats(sampler, model.predictor.model.vocabulary_size, rows)
    cells = [[name, f"{value:.5f}", f"{value - found['fp32']:+.5f}"] for name, value in found.items()]
    print("\n" + common.table(["precision", "nats/char", "more than fp32"], cells))
    return found


def nats(sampler: Sampler, symbols: int, rows: Ids) -> float:
    """Nats/char of rows (T, N), each from a zero state, without its first character. Unseen symbols do not count.

    Native code reads what it draws: so it is made to draw what is there.
    """
    streams, state, total, counted = rows.shape[1], sampler.zero_state(rows.shape[1]), 0.0, 0
    everyone, logits = torch.arange(streams), torch.zeros(streams, symbols)
    for step, ids in enumerate(torch.from_numpy(rows).clamp(max=symbols - 1)):
        known = ids < symbols - 1
        if step:
            costs = -torch.log_softmax(logits.double(), 1)[everyone, ids]
            total += float(costs[known].sum())
            counted += int(known.sum())
        forced = torch.zeros(streams, symbols)
        forced[everyone, torch.where(known, ids, 0)] = CERTAIN
        _, logits, state = sampler.write(forced, state, SamplingSettings(temperature=0), np.zeros((1, streams)))
    return total / counted


if __name__ == "__main__":
    main()
