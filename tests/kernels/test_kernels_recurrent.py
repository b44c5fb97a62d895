"""Native recurrence against the plain loop: outputs, states and all gradients, in any shape and number format."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from kernel_variants import FORMATS, in_each_format
from torch import Tensor
from torch.nn import functional

from scriven.kernels import recurrent
from scriven.model import CharLM
from scriven.model.reference_cells import LayerState, gru_step, lstm_step, rnn_step
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(not FORMATS, reason="there is no native library")
STEPS = {"rnn": rnn_step, "gru": gru_step, "lstm": lstm_step}
SHAPES = [(1, 1, 1), (1, 3, 17), (5, 3, 3), (4, 33, 257), (5, 1, 32), (9, 70, 40), (20, 32, 64), (3, 100, 64)]
V = 11
# Of a whole array's size, and the size of one value below which differences do not count.
ROUNDING = {torch.float32: (1.5e-5, 0.01), torch.bfloat16: (0.01, 1.0)}


class Task:
    """Arguments of one layer, random weights to sum its outputs with, and what comes of it either way."""

    def __init__(
        self,
        cell: str,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        *,
        folded: bool = False,
        fresh: bool = False,
        relu: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.relu = relu
        (steps, rows, cells), self.cell, self.dtype = shape, cell, dtype
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
            state = STEPS[self.cell](
                sums, functional.linear(state[0], self.weight, bias), state, torch.relu if self.relu else torch.tanh
            )
            outputs.append(state[0])
        return torch.stack(outputs), state

    def native(self) -> tuple[Tensor, LayerState]:
        return recurrent.recurrent(
            *(self.cell, self.from_input, self.weight, self.state),
            dtype=self.dtype,
            relu=self.relu,
            ids=self.ids,
            bias=self.bias,
            fresh=self.fresh,
        )

    def gradients(self, y: Tensor, after: LayerState) -> tuple[Tensor, ...]:
        outputs = zip((y, *after), self.sought, strict=True)
        total = torch.stack([(part.float() * sought).sum() for part, sought in outputs]).sum()
        return torch.autograd.grad(total, self.arguments)

    def everything(self) -> tuple[Tensor, ...]:
        y, after = self.native()
        return (y, *after, *self.gradients(y, after))


def check(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """Whole arrays differ by rounding alone."""
    rounding, least = ROUNDING[dtype]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine.float() - theirs).norm() <= rounding * (theirs.norm() + least * math.sqrt(theirs.numel()))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_steps_and_gradients_are_those_of_the_plain_loop(
    variant: str, dtype: torch.dtype, cell: str, shape: tuple[int, int, int], folded: bool, fresh: bool
) -> None:
    task = Task(cell, shape, dtype, folded=folded, fresh=fresh)
    plain, after = task.plain()
    check(task.everything(), (plain, *after, *task.gradients(plain, after)), dtype)


@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_a_layer_may_have_a_thousand_cells(variant: str, dtype: torch.dtype, cell: str) -> None:
    task = Task(cell, (2, 3, 1000), dtype, folded=True, fresh=True)
    plain, after = task.plain()
    check(task.everything(), (plain, *after, *task.gradients(plain, after)), dtype)


@pytest.mark.parametrize("shape", [(1, 3, 17), (9, 70, 40), (3, 100, 64)], ids=str)
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_relu_bounds_a_cell_in_the_place_of_tanh(
    variant: str, dtype: torch.dtype, cell: str, shape: tuple[int, int, int]
) -> None:
    task = Task(cell, shape, dtype, fresh=True, relu=True)
    plain, after = task.plain()
    y, after_natively = task.native()
    check((y, *after_natively), (plain, *after), dtype)
    for mine, theirs in zip(task.gradients(y, after_natively), task.gradients(plain, after), strict=True):
        # A sum next to zero may be rounded to its other side, where the gradient is another one.
        assert (mine - theirs).norm() <= (1e-4 if dtype == torch.float32 else 0.1) * (theirs.norm() + 1e-3)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("cell", STEPS)
def test_gradients_are_those_of_small_differences(cell: str, relu: bool) -> None:
    task = Task(cell, (3, 2, 5), torch.float32, folded=True, fresh=True, relu=relu)
    gradients = task.gradients(*task.native())

    @torch.no_grad()
    def total() -> float:
        y, after = task.native()
        return sum(float((part.double() * each).sum()) for part, each in zip((y, *after), task.sought, strict=True))

    for argument, gradient in zip(task.arguments, gradients, strict=True):
        direction, size = torch.randn(argument.shape), 2e-3 if relu else 1e-2  # relu has a bend
        argument.data += size * direction
        above = total()
        argument.data -= 2 * size * direction
        below = total()
        argument.data += size * direction
        assert (above - below) / (2 * size) == pytest.approx(float((gradient * direction).sum()), abs=5e-3, rel=5e-3)


@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_two_chunks_are_one_to_the_last_bit(variant: str, dtype: torch.dtype, cell: str) -> None:
    task = Task(cell, (9, 33, 40), dtype)
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
@pytest.mark.parametrize("shape", [(4, 100, 40), (3, 5, 200), (2, 130, 100), (3, 48, 70), (2, 33, 100)], ids=str)
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_threads_do_not_change_a_bit(
    variant: str,
    dtype: torch.dtype,
    cell: str,
    shape: tuple[int, int, int],
    folded: bool,
    with_threads: Callable[[int], None],
) -> None:
    task, found = Task(cell, shape, dtype, folded=folded, fresh=True), []
    for threads in (1, 2, 3, 4):
        with_threads(threads)
        y, after = task.native()
        found.append((y, *after, *task.gradients(y, after)))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_two_callers_at_once_get_what_each_alone_gets(with_threads: Callable[[int], None]) -> None:
    with_threads(2)
    tasks = [Task("lstm", (20, 33, 96), torch.float32), Task("gru", (20, 5, 130), torch.float32)]
    alone = [task.gradients(*task.native()) for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            together = pool.map(lambda task: task.gradients(*task.native()), tasks)
            for mine, theirs in zip(together, alone, strict=True):
                assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_without_gradients_nothing_else_changes(variant: str, dtype: torch.dtype, cell: str) -> None:
    task = Task(cell, (4, 5, 40), dtype)
    y, after = task.native()
    with torch.no_grad():
        alone, alone_after = task.native()
    assert torch.equal(alone, y) and all(torch.equal(*pair) for pair in zip(alone_after, after, strict=True))


@pytest.mark.parametrize("size", [1e-39, 1e30, math.inf])
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_tiny_and_huge_sums_saturate(variant: str, dtype: torch.dtype, cell: str, size: float) -> None:
    task = Task(cell, (3, 2, 5), dtype)
    task.from_input.data = task.from_input.data.sign() * size
    y, after = task.native()
    assert y.isfinite().all()
    check((y, *after), (task.plain()[0], *task.plain()[1]), dtype)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_what_is_no_number_is_not_hidden(variant: str, dtype: torch.dtype, cell: str, relu: bool) -> None:
    task = Task(cell, (3, 2, 5), dtype, relu=relu)
    task.from_input.data[0, 1] = math.nan
    y, after = task.native()
    assert y[:, 1].isnan().all() and y[:, 0].isfinite().all() and after[0][1].isnan().all()


@in_each_format
def test_ids_without_a_row_are_refused(variant: str, dtype: torch.dtype) -> None:
    task = Task("lstm", (3, 2, 5), dtype, folded=True)
    assert task.ids is not None
    task.ids[2, 1] = V
    with pytest.raises(RuntimeError, match="an argument"):
        task.native()


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (3, 5, 17, 33),
        (40, 33, 100, 70),
        (7, 9, 257, 256),
        (37, 1, 513, 1),
        (2, 90, 40, 700),
        (3, 0, 4, 5),
    ],
    ids=str,
)
@in_each_format
def test_a_projection_is_a_linear_layer(
    variant: str, dtype: torch.dtype, shape: tuple[int, int, int, int], with_threads: Callable[[int], None]
) -> None:
    torch.manual_seed(0)
    steps, rows, inputs, outputs = shape
    x, weight = torch.randn(steps, rows, inputs).requires_grad_(), torch.randn(outputs, inputs).requires_grad_()
    bias, sought = torch.randn(outputs).requires_grad_(), torch.randn(steps, rows, outputs)
    arguments = (x, weight, bias)
    found, expected = recurrent.projection(*arguments, dtype=dtype), functional.linear(*arguments)
    gradients = torch.autograd.grad(found, arguments, sought.to(dtype))
    check((found, *gradients), (expected, *torch.autograd.grad(expected, arguments, sought)), dtype)
    with_threads(3)
    again = recurrent.projection(*arguments, dtype=dtype)
    more = torch.autograd.grad(again, arguments, sought.to(dtype))
    assert all(torch.equal(*pair) for pair in zip((again, *more), (found, *gradients), strict=True))


def by_layer(
    cell: str, x: Tensor, ids: Tensor | None, weights: tuple[Tensor, ...], fresh: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Outputs, states and the gradients of all arguments, of a layer that multiplies what it reads."""
    weight_x, weight, bias = weights
    h = torch.full((fresh.shape[1], weight.shape[1]), 0.5)
    state, own = (h, -h) if cell == "lstm" else (h,), torch.zeros(weight.shape[1]) if cell == "gru" else None
    read: dict[str, Any] = {"ids": ids, "x": x, "weight_x": weight_x, "bias": own, "fresh": fresh}
    y, after = recurrent.recurrent(cell, bias, weight, state, dtype=dtype, **read)
    return y, *after, *torch.autograd.grad(y.float().square().sum(), (x, *weights))


def by_loop(cell: str, x: Tensor, ids: Tensor | None, weights: tuple[Tensor, ...], fresh: Tensor) -> tuple[Tensor, ...]:
    """The same, step after step."""
    weight_x, weight, bias = weights
    h, outputs = torch.full((fresh.shape[1], weight.shape[1]), 0.5), []
    state: LayerState = (h, -h) if cell == "lstm" else (h,)
    for inputs, begins in zip(functional.linear(x if ids is None else x[ids], weight_x, bias), fresh, strict=True):
        state = tuple(part.masked_fill(begins[:, None], 0) for part in state)
        state = STEPS[cell](inputs, functional.linear(state[0], weight), state, torch.tanh)
        outputs.append(state[0])
    y = torch.stack(outputs)
    return y, *state, *torch.autograd.grad(y.square().sum(), (x, *weights))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 17, 33), (4, 33, 70, 40), (3, 100, 40, 257)], ids=str)
@pytest.mark.parametrize("cell", STEPS)
@in_each_format
def test_what_is_read_is_multiplied_too(
    variant: str,
    dtype: torch.dtype,
    cell: str,
    shape: tuple[int, int, int, int],
    folded: bool,
    with_threads: Callable[[int], None],
) -> None:
    torch.manual_seed(0)
    steps, rows, inputs, cells = shape
    gates = recurrent.CELLS[cell].gates * cells
    ids = torch.randint(0, V, (steps, rows)) if folded else None
    x = torch.randn(*((V,) if folded else (steps, rows)), inputs).requires_grad_()
    fresh, sizes = torch.rand(steps, rows) < 0.2, ((gates, inputs), (gates, cells), (gates,))
    weights = tuple((torch.randn(size) / math.sqrt(size[-1])).requires_grad_() for size in sizes)
    found = []
    for threads in (1, 2, 3):
        with_threads(threads)
        found.append(by_layer(cell, x, ids, weights, fresh, dtype))
    check(found[0], by_loop(cell, x, ids, weights, fresh), dtype)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    "chosen",
    [
        {"cell": "lstm"},
        {"cell": "gru", "residual": True, "norm": "rms"},
        {"cell": "rnn"},
        {"activation": "tanh,relu", "norm": "layer"},
        {"cell": "lstm", "input": "onehot"},
        {"cell": "gru", "input": "onehot"},
        {"embedding_dropout": 0.4, "weight_drop": 0.3},
        {"input": "onehot", "input_dropout": 0.4},
        {"input_dropout": 0.3, "variational": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", dict.fromkeys(dtype for _, dtype in FORMATS), ids=str)
def test_models_read_and_learn_as_they_do_in_torch(
    dtype: torch.dtype, chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = CharLM(ModelSettings.model_validate({"width": 24, **chosen}), V).train()
    ids, fresh = torch.randint(0, V, (12, 5)), torch.rand(12, 5) < 0.2  # unknown symbols among them
    found: dict[bool, tuple[Tensor, ...]] = {}
    for native in (True, False):
        monkeypatch.setattr(recurrent, "usable", lambda wanted, native=native: native)
        with torch.autocast("cpu", torch.bfloat16, enabled=native and dtype == torch.bfloat16):
            logits, state = model(ids, None, fresh, dropout_seed=3)
            losses = model.losses(model.read(ids, None, fresh, dropout_seed=3)[1], ids)
        gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
        found[native] = (logits, losses, *(part for layer in state for part in layer), *gradients)
    # The gradient of relu is another one where rounding changes a sum's sign.
    most = ROUNDING[dtype][0] * (1 if dtype == torch.float32 else 10 if "activation" in chosen else 3)
    for mine, theirs in zip(found[True], found[False], strict=True):
        assert (mine - theirs).norm() <= most * theirs.norm() + 1e-4


def test_a_projection_keeps_what_is_no_number() -> None:
    x = torch.randn(2, 3, 20)
    x[1, 2, 7] = math.nan
    y = recurrent.projection(x, torch.randn(5, 20), torch.randn(5), dtype=torch.float32)
    assert y[1, 2].isnan().all()
    assert not y[0].isnan().any()


@pytest.mark.parametrize("sizes", [((3, 4, 6), (20, 5), (20,)), ((3, 4, 5), (20, 5), (19,))], ids=str)
def test_projections_of_other_shapes_are_refused_before_they_are_read(sizes: tuple[tuple[int, ...], ...]) -> None:
    x, weight, bias = (torch.zeros(size) for size in sizes)
    with pytest.raises(ValueError, match="of shape"):
        recurrent.projection(x, weight, bias, dtype=torch.float32)


def test_a_state_of_another_cell_and_inputs_without_weights_are_refused() -> None:
    sums, weight, h = torch.zeros(3, 4, 20), torch.zeros(20, 5), torch.zeros(4, 5)
    with pytest.raises(ValueError, match="a state of 1 arrays, not 2"):
        recurrent.recurrent("lstm", sums, weight, (h,), dtype=torch.float32)
    with pytest.raises(ValueError, match="belong together"):
        recurrent.recurrent("lstm", sums, weight, (h, h), dtype=torch.float32, x=torch.zeros(3, 4, 6))


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
        given = "lstm", sums, arrays["weight"], (arrays["state"],) * 2
        recurrent.recurrent(*given, dtype=torch.float32, ids=ids, x=read[0], weight_x=read[1])
