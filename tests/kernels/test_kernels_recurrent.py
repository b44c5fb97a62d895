"""Native recurrence against the plain loop: outputs, states and all gradients, in any shape.

Elsewhere than on processors that multiply bf16 there is nothing to test: torch does all of it.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scriven.kernels import recurrent
from scriven.model import CharLM
from scriven.model.reference_cells import LayerState, gru_step, lstm_step, rnn_step
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(not recurrent.usable(), reason="needs native code for bf16")
STEPS = {"rnn": rnn_step, "gru": gru_step, "lstm": lstm_step}
SHAPES = [(1, 1, 1), (1, 3, 17), (5, 3, 17), (7, 33, 257), (5, 1, 32), (9, 70, 40), (20, 32, 64), (3, 100, 64)]
V = 11
ROUNDING = 0.01  # of a whole array's size: products of bf16 values differ by that from those of fp32


class Task:
    """Arguments of one layer, random weights to sum its outputs with, and what comes of it either way."""

    def __init__(self, cell: str, shape: tuple[int, int, int], *, folded: bool = False, fresh: bool = False) -> None:
        torch.manual_seed(0)
        (steps, rows, cells), self.cell = shape, cell
        gates, arrays = recurrent.CELLS[cell].gates, 2 if cell == "lstm" else 1
        self.ids = torch.randint(0, V, (steps, rows)) if folded else None
        size = (V, gates * cells) if folded else (steps, rows, gates * cells)
        self.from_input = torch.randn(size).requires_grad_()
        self.weight = (torch.randn(gates * cells, cells) / math.sqrt(cells)).requires_grad_()
        self.bias = torch.randn(cells).requires_grad_() if cell == "gru" else None
        self.state = tuple((0.7 * torch.randn(rows, cells)).requires_grad_() for _ in range(arrays))
        self.fresh = torch.rand(steps, rows) < 0.3 if fresh else None
        self.sought = torch.randn(steps, rows, cells), *(torch.randn(rows, cells) for _ in range(arrays))
        biases = [] if self.bias is None else [self.bias]
        self.arguments = [self.from_input, self.weight, *self.state, *biases]

    def plain(self) -> tuple[Tensor, LayerState]:
        """Step after step in fp32."""
        state, outputs = self.state, []
        x = self.from_input if self.ids is None else self.from_input[self.ids]
        bias = None if self.bias is None else functional.pad(self.bias, (2 * len(self.bias), 0))
        for t, sums in enumerate(x):
            if self.fresh is not None:
                state = tuple(part.masked_fill(self.fresh[t][:, None], 0) for part in state)
            state = STEPS[self.cell](sums, functional.linear(state[0], self.weight, bias), state, torch.tanh)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def native(self) -> tuple[Tensor, LayerState]:
        return recurrent.recurrent(
            self.cell, self.from_input, self.weight, self.state, ids=self.ids, bias=self.bias, fresh=self.fresh
        )

    def gradients(self, y: Tensor, after: LayerState) -> tuple[Tensor, ...]:
        outputs = zip((y, *after), self.sought, strict=True)
        total = torch.stack([(part.float() * sought).sum() for part, sought in outputs]).sum()
        return torch.autograd.grad(total, self.arguments)


def check(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], least: float = 0.0) -> None:
    """Whole arrays differ by rounding alone; `least` is the size below which differences do not count."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine.float() - theirs).norm() <= ROUNDING * (theirs.norm() + least * math.sqrt(theirs.numel()))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", STEPS)
def test_steps_and_gradients_are_those_of_the_plain_loop(
    cell: str, shape: tuple[int, int, int], folded: bool, fresh: bool
) -> None:
    task = Task(cell, shape, folded=folded, fresh=fresh)
    (y, after), (plain, plain_after) = task.native(), task.plain()
    check((y, *after), (plain, *plain_after), least=1.0)
    check(task.gradients(y, after), task.gradients(plain, plain_after), least=1.0)


@pytest.mark.parametrize("cell", STEPS)
def test_two_chunks_are_one_to_the_last_bit(cell: str) -> None:
    task = Task(cell, (9, 33, 40))
    whole, after = task.native()
    pieces, parts = (task.from_input[:4], task.from_input[4:]), []
    for piece in pieces:
        task.from_input = piece
        part, task.state = task.native()
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert all(torch.equal(*pair) for pair in zip(task.state, after, strict=True))


@pytest.fixture
def with_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", [(4, 100, 40), (3, 5, 200), (2, 130, 100), (3, 48, 70)], ids=str)
@pytest.mark.parametrize("cell", STEPS)
def test_threads_do_not_change_a_bit(
    cell: str, shape: tuple[int, int, int], folded: bool, with_threads: Callable[[int], None]
) -> None:
    task, found = Task(cell, shape, folded=folded, fresh=True), []
    for threads in (1, 2, 3):
        with_threads(threads)
        y, after = task.native()
        found.append((y, *after, *task.gradients(y, after)))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_two_callers_at_once_get_what_each_alone_gets(with_threads: Callable[[int], None]) -> None:
    with_threads(2)
    tasks = [Task("lstm", (20, 33, 96)), Task("gru", (20, 5, 130))]
    alone = [task.gradients(*task.native()) for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            together = pool.map(lambda task: task.gradients(*task.native()), tasks)
            for mine, theirs in zip(together, alone, strict=True):
                assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("cell", STEPS)
def test_without_gradients_nothing_else_changes(cell: str) -> None:
    task = Task(cell, (4, 5, 40))
    y, after = task.native()
    with torch.no_grad():
        alone, alone_after = task.native()
    assert torch.equal(alone, y) and all(torch.equal(*pair) for pair in zip(alone_after, after, strict=True))


@pytest.mark.parametrize("size", [1e-39, 1e30, math.inf])
@pytest.mark.parametrize("cell", STEPS)
def test_tiny_and_huge_sums_saturate(cell: str, size: float) -> None:
    task = Task(cell, (3, 2, 5))
    task.from_input.data = task.from_input.data.sign() * size
    y, after = task.native()
    assert y.isfinite().all()
    check((y, *after), (task.plain()[0], *task.plain()[1]), least=1.0)


@pytest.mark.parametrize("cell", STEPS)
def test_what_is_no_number_is_not_hidden(cell: str) -> None:
    task = Task(cell, (3, 2, 5))
    task.from_input.data[0, 1] = math.nan
    y, after = task.native()
    assert y[:, 1].isnan().all() and y[:, 0].isfinite().all() and after[0][1].isnan().all()


def test_ids_without_a_row_are_refused() -> None:
    task = Task("lstm", (3, 2, 5), folded=True)
    assert task.ids is not None
    task.ids[2, 1] = V
    with pytest.raises(RuntimeError, match="an argument"):
        task.native()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 5, 17, 33), (40, 33, 100, 70), (7, 9, 257, 256), (2, 90, 40, 700)], ids=str
)
def test_a_projection_is_a_linear_layer(shape: tuple[int, int, int, int], with_threads: Callable[[int], None]) -> None:
    torch.manual_seed(0)
    steps, rows, inputs, outputs = shape
    x, weight = torch.randn(steps, rows, inputs).requires_grad_(), torch.randn(outputs, inputs).requires_grad_()
    bias, sought = torch.randn(outputs).requires_grad_(), torch.randn(steps, rows, outputs)
    found, expected = recurrent.projection(x, weight, bias), functional.linear(x, weight, bias)
    check((found,), (expected,), least=1.0)
    arguments = (x, weight, bias)
    gradients = torch.autograd.grad(found, arguments, sought.bfloat16())
    check(gradients, torch.autograd.grad(expected, arguments, sought))
    with_threads(3)
    again = recurrent.projection(x, weight, bias)
    more = torch.autograd.grad(again, arguments, sought.bfloat16())
    assert all(torch.equal(*pair) for pair in zip((again, *more), (found, *gradients), strict=True))


def by_layer(cell: str, x: Tensor, weights: tuple[Tensor, ...], fresh: Tensor) -> tuple[Tensor, ...]:
    """Outputs, states and the gradients of all arguments, of a layer that multiplies what it reads as it goes."""
    weight_x, weight, bias = weights
    h = torch.full((x.shape[1], weight.shape[1]), 0.5)
    state = (h, -h) if cell == "lstm" else (h,)
    y, after = recurrent.recurrent(cell, bias, weight, state, x=x, weight_x=weight_x, fresh=fresh)
    return y, *after, *torch.autograd.grad(y.float().square().sum(), (x, *weights))


def by_loop(cell: str, x: Tensor, weights: tuple[Tensor, ...], fresh: Tensor) -> tuple[Tensor, ...]:
    """The same, step after step."""
    weight_x, weight, bias = weights
    h, outputs = torch.full((x.shape[1], weight.shape[1]), 0.5), []
    state: LayerState = (h, -h) if cell == "lstm" else (h,)
    for inputs, begins in zip(functional.linear(x, weight_x, bias), fresh, strict=True):
        state = tuple(part.masked_fill(begins[:, None], 0) for part in state)
        state = STEPS[cell](inputs, functional.linear(state[0], weight), state, torch.tanh)
        outputs.append(state[0])
    y = torch.stack(outputs)
    return y, *state, *torch.autograd.grad(y.square().sum(), (x, *weights))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 17, 33), (4, 33, 70, 40), (3, 100, 40, 257)], ids=str)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_what_is_read_is_multiplied_on_the_way(
    cell: str, shape: tuple[int, int, int, int], with_threads: Callable[[int], None]
) -> None:
    torch.manual_seed(0)
    steps, rows, inputs, cells = shape
    gates = recurrent.CELLS[cell].gates * cells
    x, fresh = torch.randn(steps, rows, inputs).requires_grad_(), torch.rand(steps, rows) < 0.2
    sizes = (gates, inputs), (gates, cells), (gates,)
    weights = tuple((torch.randn(size) / math.sqrt(size[-1])).requires_grad_() for size in sizes)
    found = []
    for threads in (1, 2, 3):
        with_threads(threads)
        found.append(by_layer(cell, x, weights, fresh))
    check(found[0], by_loop(cell, x, weights, fresh), least=1.0)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    "chosen",
    [
        {"cell": "lstm"},
        {"cell": "gru", "residual": True, "norm": "rms"},
        {"cell": "rnn"},
        {"cell": "lstm", "input": "onehot"},
        {"cell": "gru", "input": "onehot"},
        {"embedding_dropout": 0.4, "weight_drop": 0.3},
        {"input": "onehot", "input_dropout": 0.4},
        {"input_dropout": 0.3, "variational": True},
    ],
    ids=str,
)
def test_models_read_and_learn_as_they_do_in_fp32(chosen: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = CharLM(ModelSettings.model_validate({"width": 24, **chosen}), V).train()
    ids, fresh = torch.randint(0, V, (12, 5)), torch.rand(12, 5) < 0.2  # unknown symbols among them
    found: dict[str, tuple[Tensor, ...]] = {}
    for precision in ("fp32", "bf16"):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits, state = model(ids, None, fresh, dropout_seed=3)
        loss = functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found[precision] = (logits, *(part for layer in state for part in layer), *gradients)
    for mine, theirs in zip(found["bf16"], found["fp32"], strict=True):
        assert (mine - theirs).norm() <= 0.03 * theirs.norm() + 1e-4


@pytest.mark.skipif(not recurrent.usable(), reason="there is no native code for this processor")
@pytest.mark.parametrize("sizes", [((3, 4, 6), (20, 5), (20,)), ((3, 4, 5), (20, 5), (19,))], ids=str)
def test_projections_of_other_shapes_are_refused_before_they_are_read(sizes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="of shape"):
        recurrent.projection(*(torch.zeros(size) for size in sizes))


@pytest.mark.skipif(not recurrent.usable(), reason="there is no native code for this processor")
def test_a_state_of_another_cell_and_inputs_without_weights_are_refused() -> None:
    sums, weight, h = torch.zeros(3, 4, 20), torch.zeros(20, 5), torch.zeros(4, 5)
    with pytest.raises(ValueError, match="a state of 1 arrays, not 2"):
        recurrent.recurrent("lstm", sums, weight, (h,))
    with pytest.raises(ValueError, match="belong together"):
        recurrent.recurrent("lstm", sums, weight, (h, h), x=torch.zeros(3, 4, 6))


@pytest.mark.skipif(not recurrent.usable(), reason="there is no native code for this processor")
@pytest.mark.parametrize("wrong", ["sums", "weight", "state", "ids", "x"])
def test_arrays_of_other_shapes_are_refused_before_they_are_read(wrong: str) -> None:
    sizes = {"sums": (3, 4, 20), "weight": (20, 5), "state": (4, 5)}
    if wrong in sizes:
        sizes[wrong] = (*sizes[wrong][:-1], sizes[wrong][-1] + 1)
    arrays = {name: torch.zeros(size) for name, size in sizes.items()}
    ids = torch.zeros(3, 9, dtype=torch.int64) if wrong == "ids" else None
    with pytest.raises((ValueError, RuntimeError)):
        read = (torch.zeros(3, 4, 7), torch.zeros(20, 6)) if wrong == "x" else (None, None)
        sums = arrays["sums"][0, 0] if wrong == "x" else arrays["sums"]
        state = (arrays["state"],) * 2
        recurrent.recurrent("lstm", sums, arrays["weight"], state, ids=ids, x=read[0], weight_x=read[1])
