"""Native recurrence in fp32 against the plain loop: outputs, states and all gradients, in any shape, at every level."""

import math
import threading

import pytest
import torch
from kernel_variants import at_each_variant
from test_kernels_recurrent import STEPS, V
from test_kernels_recurrent import Task as InBf16
from torch import Tensor
from torch.nn import functional

from scriven.kernels import native_library, recurrent_fp32
from scriven.model import CharLM
from scriven.model.reference_cells import LayerState
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(not native_library.levels(), reason="there is no native library")
SHAPES = [(1, 1, 1), (1, 3, 17), (5, 3, 17), (4, 33, 257), (5, 1, 32), (9, 70, 40), (20, 32, 64), (3, 100, 64)]
ROUNDING = 1.5e-5  # of a whole array's size


class Task(InBf16):
    """The same arguments, in fp32."""

    def native(self) -> tuple[Tensor, LayerState]:
        arguments = self.cell, self.from_input, self.weight, self.state
        return recurrent_fp32.recurrent(*arguments, ids=self.ids, bias=self.bias, fresh=self.fresh)

    def everything(self) -> tuple[Tensor, ...]:
        y, after = self.native()
        return (y, *after, *self.gradients(y, after))


def check(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= ROUNDING * (theirs.norm() + 0.01 * math.sqrt(theirs.numel()))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", STEPS)
@at_each_variant
def test_steps_and_gradients_are_those_of_the_plain_loop(
    variant: str, cell: str, shape: tuple[int, int, int], folded: bool, fresh: bool
) -> None:
    task = Task(cell, shape, folded=folded, fresh=fresh)
    plain, after = task.plain()
    check(task.everything(), (plain, *after, *task.gradients(plain, after)))


@pytest.mark.parametrize("cell", STEPS)
def test_gradients_are_those_of_small_differences(cell: str) -> None:
    task = Task(cell, (3, 2, 5), folded=True, fresh=True)
    gradients = task.gradients(*task.native())

    @torch.no_grad()
    def total() -> float:
        y, after = task.native()
        return sum(float((part.double() * each).sum()) for part, each in zip((y, *after), task.sought, strict=True))

    for argument, gradient in zip(task.arguments, gradients, strict=True):
        direction, size = torch.randn(argument.shape), 1e-2
        argument.data += size * direction
        above = total()
        argument.data -= 2 * size * direction
        below = total()
        argument.data += size * direction
        assert (above - below) / (2 * size) == pytest.approx(float((gradient * direction).sum()), abs=5e-3, rel=5e-3)


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


@pytest.mark.parametrize("rows", [3, 33, 100])
@pytest.mark.parametrize("cell", STEPS)
def test_threads_do_not_change_a_bit(cell: str, rows: int) -> None:
    """Few rows are shared by cells, many by rows, and four threads share 33 rows by both."""
    task, found = Task(cell, (4, rows, 100), folded=True, fresh=True), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            y, after = task.native()
            dinput, _, *dstate = task.gradients(y, after)  # the weights' is a product of torch's
            found.append((y, *after, dinput, *dstate[: len(after)]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(mine, first) for other in found for mine, first in zip(other, found[0], strict=True))


def test_two_threads_of_the_program_do_not_disturb_each_other() -> None:
    task, found = Task("lstm", (20, 33, 100), fresh=True), {}
    expected = task.everything()

    def work(number: int) -> None:
        found[number] = [task.everything() for _ in range(10)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for results in found.values():
        for result in results:
            check(result, expected)


@pytest.mark.parametrize("cell", STEPS)
def test_without_gradients_nothing_else_changes(cell: str) -> None:
    task = Task(cell, (4, 5, 40))
    y, after = task.native()
    with torch.no_grad():
        alone, alone_after = task.native()
    assert torch.equal(alone, y) and all(torch.equal(*pair) for pair in zip(alone_after, after, strict=True))


@pytest.mark.parametrize("size", [1e-39, 1e30, math.inf])
@pytest.mark.parametrize("cell", STEPS)
@at_each_variant
def test_tiny_and_huge_sums_saturate(variant: str, cell: str, size: float) -> None:
    task = Task(cell, (3, 2, 5))
    task.from_input.data = task.from_input.data.sign() * size
    y, after = task.native()
    assert y.isfinite().all()
    check((y, *after), (task.plain()[0], *task.plain()[1]))


@pytest.mark.parametrize("cell", STEPS)
@at_each_variant
def test_what_is_no_number_is_not_hidden(variant: str, cell: str) -> None:
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


@pytest.mark.parametrize("wrong", ["sums", "weight", "state", "ids"])
def test_arrays_of_other_shapes_are_refused_before_they_are_read(wrong: str) -> None:
    sizes = {"sums": (3, 4, 20), "weight": (20, 5), "state": (4, 5)}
    if wrong != "ids":
        sizes[wrong] = (*sizes[wrong][:-1], sizes[wrong][-1] + 1)
    arrays = {name: torch.zeros(size) for name, size in sizes.items()}
    ids = torch.zeros(3, 9, dtype=torch.int64) if wrong == "ids" else None
    with pytest.raises((ValueError, RuntimeError)):
        recurrent_fp32.recurrent("lstm", arrays["sums"], arrays["weight"], (arrays["state"],) * 2, ids=ids)


@pytest.mark.parametrize(
    "chosen",
    [
        {"cell": "lstm"},
        {"cell": "gru", "residual": True, "norm": "rms"},
        {"cell": "rnn", "input": "onehot"},
        {"cell": "gru", "input": "onehot"},
        {"embedding_dropout": 0.4, "weight_drop": 0.3},
        {"input": "onehot", "input_dropout": 0.4},
        {"input_dropout": 0.3, "variational": True},
    ],
    ids=str,
)
def test_models_read_and_learn_as_they_do_in_torch(chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = CharLM(ModelSettings.model_validate({"width": 24, **chosen}), V).train()
    ids, fresh = torch.randint(0, V, (12, 5)), torch.rand(12, 5) < 0.2  # unknown symbols among them
    found: dict[bool, tuple[Tensor, ...]] = {}
    for native in (True, False):
        monkeypatch.setattr(recurrent_fp32, "usable", lambda native=native: native)
        logits, state = model(ids, None, fresh, dropout_seed=3)
        loss = functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found[native] = (logits, *(part for layer in state for part in layer), *gradients)
    check(found[True], found[False])


def projected(shape: tuple[int, int, int, int]) -> tuple[list[Tensor], Tensor]:
    """Arguments of a projection of steps and rows, by the numbers of values read and made, and what its sum is of."""
    torch.manual_seed(0)
    steps, rows, inputs, outputs = shape
    x, weight, bias = torch.randn(steps, rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    return [each.requires_grad_() for each in (x, weight, bias)], torch.randn(steps, rows, outputs)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 5, 17, 33), (40, 33, 100, 70), (37, 1, 513, 1), (2, 90, 40, 700), (3, 0, 4, 5)], ids=str
)
@at_each_variant
def test_a_projection_is_a_linear_layer(variant: str, shape: tuple[int, int, int, int]) -> None:
    arguments, sought = projected(shape)
    found = recurrent_fp32.projection(*arguments)
    gradients = torch.autograd.grad(found, arguments, sought)
    exact = [each.detach().double().requires_grad_() for each in arguments]
    expected = functional.linear(*exact)
    check((found, *gradients), (expected, *torch.autograd.grad(expected, exact, sought.double())))
    with native_library.native_threads(3):
        again = recurrent_fp32.projection(*arguments)
        more = torch.autograd.grad(again, arguments, sought)
    assert all(torch.equal(*pair) for pair in zip((again, *more), (found, *gradients), strict=True))


def test_a_projection_keeps_what_is_no_number() -> None:
    (x, weight, bias), _ = projected((2, 3, 20, 5))
    x.data[1, 2, 7] = math.nan
    y = recurrent_fp32.projection(x, weight, bias)
    assert y[1, 2].isnan().all()
    assert not y[0].isnan().any()


def test_projections_of_other_shapes_are_refused_before_they_are_read() -> None:
    (x, weight, bias), _ = projected((2, 3, 20, 5))
    for wrong in ((x[..., 1:], weight, bias), (x, weight, bias[1:]), (x, weight[:, 1:], bias)):
        with pytest.raises(ValueError, match="of shape"):
            recurrent_fp32.projection(*wrong)
