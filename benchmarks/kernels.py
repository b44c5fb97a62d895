"""Compares native recurrent layers with torch's in one number format: a layer's forward and backward pass, in turns.

    python benchmarks/kernels.py [--cells lstm gru rnn] [--precision fp32] [--times 15] [--threads 1]

The input is that of a second layer, (T, N, H), and the gradients of it and of all weights are computed. The same layer
is also measured as a first one, whose symbols' products are looked up (V = 65). Shown are medians in seconds: with one
thread, of its own time, which other programs do not lengthen; otherwise of the clock.

A second table is about whole steps of two-layer LSTMs with Muon: its share of a step's time.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor

from scriven.kernels import recurrent
from scriven.model import CharLM, choose_backend
from scriven.model.backends import Backend, tune_cpu
from scriven.model.cells import CELLS, RecurrentLayer
from scriven.settings import ModelSettings, TrainingSettings
from scriven.training.optimizer import FlatWeights, Optimizer

SHAPES = [(256, 32, 64), (256, 64, 128), (512, 64, 128), (128, 50, 50)]  # H, N, T
SYMBOLS = 65
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measured(cell: str, shape: tuple[int, int, int], precision: str, times: int) -> dict[str, float]:
    """Characters a second of each way."""
    width, rows, steps = shape
    torch.manual_seed(0)
    layer = RecurrentLayer(ModelSettings.model_validate({"cell": cell}), width, width)
    x, state = torch.randn(steps, rows, width), layer.zero_state(rows)
    table, ids = torch.randn(SYMBOLS, width), torch.randint(0, SYMBOLS, (steps, rows))
    torchs = CELLS[layer.settings.cell].module(width, width)
    backend = choose_backend(layer.settings, x.device, precision, learns=True)

    def native() -> Tensor:
        y: Tensor = layer(x.requires_grad_(), state, backend)[0]
        return y

    def folded() -> Tensor:
        y: Tensor = layer(table.requires_grad_(), state, backend, ids=ids)[0]
        return y

    def plain() -> Tensor:
        y: Tensor = torchs(x.requires_grad_())[0]
        return y

    ways: dict[str, Callable[[], Tensor]] = {"native": native, "native, folded": folded, "torch": plain}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, way in ways.items():
            taken = pass_seconds(way, backend)
            if turn:  # the first one fills caches
                seconds[name].append(taken)
    return {name: steps * rows / statistics.median(each) for name, each in seconds.items()}


def pass_seconds(forward: Callable[[], Tensor], backend: Backend) -> float:
    """One forward and backward pass."""
    clock = clock_of_threads()
    start = clock()
    with backend.context():
        y = forward()
    y.backward(torch.ones_like(y))
    return clock() - start


def muons_share(shape: tuple[int, int, int], precision: str, times: int) -> dict[str, float]:
    """Milliseconds of a whole step of a two-layer LSTM, and of Muon in it."""
    width, rows, steps = shape
    torch.manual_seed(0)
    model = CharLM(ModelSettings(width=width, layers=2), SYMBOLS)
    weights = FlatWeights(model)
    optimizer = Optimizer(weights, TrainingSettings(optimizer="muon"), FORMATS[precision])
    backend = choose_backend(model.settings, model.device, precision, learns=True)
    ids, clock = torch.randint(0, SYMBOLS, (steps + 1, rows)), clock_of_threads()
    taken: dict[str, list[float]] = {"step": [], "muon": []}
    assert optimizer.muon is not None
    muons_step = optimizer.muon.step

    def timed(*arguments: Any) -> None:
        start = clock()
        muons_step(*arguments)
        taken["muon"].append(clock() - start)

    optimizer.muon.step = timed  # type: ignore[assignment, method-assign]
    for _ in range(times + 2):
        start = clock()
        losses = model.losses(model.read(ids[:-1], backend=backend)[1], ids[1:], backend)
        gradients = weights.gradients([losses], [torch.ones_like(losses)])
        optimizer.step(gradients, losses.numel(), 0.5)
        taken["step"].append(clock() - start)
    return {name: 1000 * statistics.median(each[2:]) for name, each in taken.items()}  # the first ones fill caches


def clock_of_threads() -> Callable[[], float]:
    """The thread's own clock where it is alone."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(recurrent.CELLS), default=["lstm", "gru", "rnn"])
    parser.add_argument("--precision", choices=list(FORMATS), default="bf16", help="the number format of products")
    parser.add_argument("--times", type=int, default=15, help="passes of each way")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch and native code use")
    arguments = parser.parse_args()
    if not recurrent.usable(FORMATS[arguments.precision]):
        parser.exit(1, "there is no native code for that on this processor; scriven info --machine says why\n")
    with tune_cpu(arguments.threads):
        results = [
            {
                "cell": cell,
                "H": shape[0],
                "N": shape[1],
                "T": shape[2],
                **measured(cell, shape, arguments.precision, arguments.times),
            }
            for cell in arguments.cells
            for shape in SHAPES
        ]
        shares = [(shape, muons_share(shape, arguments.precision, arguments.times)) for shape in SHAPES]
    ways = ("torch", "native", "native, folded")
    rows = [
        [each["cell"], each["H"], each["N"], each["T"]]
        + [f"{each[way] / 1000:.0f}k ({each[way] / each['torch']:.1f})" for way in ways]
        for each in results
    ]
    print("Characters a second of one layer, forward and backward (times torch)\n")
    print(common.table(["cell", "H", "N", "T", *ways], rows))
    print("\nMuon in a whole step of a two-layer LSTM, in milliseconds\n")
    header = ["H", "N", "T", "step", "Muon", "share"]
    steps = [
        [*shape, f"{each['step']:.1f}", f"{each['muon']:.1f}", f"{each['muon'] / each['step']:.0%}"]
        for shape, each in shares
    ]
    print(common.table(header, steps))
    taken = [dict(zip(("H", "N", "T"), shape, strict=True)) | each for shape, each in shares]
    common.save(arguments, "kernels", {"layers": results, "muon": taken})


if __name__ == "__main__":
    main()
