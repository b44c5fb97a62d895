"""Native recurrent layers against torch's, both in bf16: a layer's forward and backward pass, in turns.

    python benchmarks/kernels.py [--cells lstm gru rnn] [--times 15] [--threads 1]

The input is what a second layer reads, (T, N, H); gradients of it and of all weights are made. Beside it stands the
same layer as a first one, whose symbols' products are looked up (V = 65). Medians of seconds: the thread's own, which
other programs do not lengthen, where it is one; else those of the clock.
"""

import statistics
import time
from collections.abc import Callable

import common
import torch
from torch import Tensor

from scriven.kernels import recurrent
from scriven.model import computing
from scriven.model.cells import CELLS, RecurrentLayer
from scriven.model.compute import cpu_prepared
from scriven.settings import ModelSettings

SHAPES = [(256, 32, 64), (256, 64, 128), (512, 64, 128), (128, 50, 50)]  # H, N, T
SYMBOLS = 65


def measured(cell: str, shape: tuple[int, int, int], times: int) -> dict[str, float]:
    """Characters a second of each way."""
    width, rows, steps = shape
    torch.manual_seed(0)
    layer = RecurrentLayer(ModelSettings.model_validate({"cell": cell}), width, width)
    x, state = torch.randn(steps, rows, width), layer.zero_state(rows)
    table, ids = torch.randn(SYMBOLS, width), torch.randint(0, SYMBOLS, (steps, rows))
    torchs = CELLS[layer.settings.cell].module(width, width)

    def native() -> Tensor:
        y: Tensor = layer(x.requires_grad_(), state)[0]
        return y

    def folded() -> Tensor:
        y: Tensor = layer(table.requires_grad_(), state, ids=ids)[0]
        return y

    def plain() -> Tensor:
        y: Tensor = torchs(x.requires_grad_())[0]
        return y

    ways: dict[str, Callable[[], Tensor]] = {"native": native, "native, folded": folded, "torch": plain}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, way in ways.items():
            taken = pass_seconds(way)
            if turn:  # the first one fills caches
                seconds[name].append(taken)
    return {name: steps * rows / statistics.median(each) for name, each in seconds.items()}


def pass_seconds(forward: Callable[[], Tensor]) -> float:
    """One forward and backward pass."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    with computing(torch.device("cpu"), "bf16"):
        y = forward()
    y.backward(torch.ones_like(y))
    return clock() - start


def main() -> None:
    """Measure, print a table and write the numbers."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(recurrent.CELLS), default=["lstm", "gru", "rnn"])
    parser.add_argument("--times", type=int, default=15, help="passes of each way")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch and native code use")
    arguments = parser.parse_args()
    if not recurrent.usable():
        parser.exit(1, "there is no native code for this processor; scriven info --machine says why\n")
    with cpu_prepared(arguments.threads):
        results = [
            {"cell": cell, "H": shape[0], "N": shape[1], "T": shape[2], **measured(cell, shape, arguments.times)}
            for cell in arguments.cells
            for shape in SHAPES
        ]
    ways = ("torch", "native", "native, folded")
    rows = [
        [each["cell"], each["H"], each["N"], each["T"]]
        + [f"{each[way] / 1000:.0f}k ({each[way] / each['torch']:.1f})" for way in ways]
        for each in results
    ]
    print("Characters a second of one layer, forward and backward (times torch)\n")
    print(common.table(["cell", "H", "N", "T", *ways], rows))
    common.save(arguments, "kernels", results)


if __name__ == "__main__":
    main()
