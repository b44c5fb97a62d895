"""The native output layer against plain torch: losses and all gradients, in any size and number format."""

import math

import pytest
import torch
from kernel_variants import FORMATS, in_each_format
from torch import Tensor
from torch.nn import functional

from scriven.kernels import cross_entropy
from scriven.kernels.native_library import native_threads

pytestmark = pytest.mark.skipif(not FORMATS, reason="there is no native library")
# Rows, inputs, symbols; the last ones take several chunks of symbols.
SIZES = [(1, 1, 1), (1, 1, 2), (3, 17, 31), (33, 40, 33), (70, 256, 66), (40, 2100, 130), (33, 257, 2500)]
ROUNDING = {torch.bfloat16: 0.01, torch.float32: 3e-6}  # of a whole array's size, by the format of products' values


class Task:
    """Arguments of an output layer, and the gradients of its losses to go back from."""

    def __init__(self, dtype: torch.dtype, rows: int, inputs: int, symbols: int, *, biased: bool = True) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        self.y = torch.randn(rows, inputs).bfloat16().float().requires_grad_()
        self.weight = (2 * torch.randn(symbols, inputs) / math.sqrt(inputs)).bfloat16().float().requires_grad_()
        self.bias = torch.randn(symbols).requires_grad_() if biased else None
        self.targets = torch.randint(0, symbols, (rows,))
        self.dlosses = torch.randn(rows)
        self.arguments = [each for each in (self.y, self.weight, self.bias) if each is not None]

    def plain(self) -> Tensor:
        logits = functional.linear(self.y, self.weight, self.bias)
        return functional.cross_entropy(logits, self.targets, reduction="none")

    def native(self) -> Tensor:
        return cross_entropy.losses(self.y, self.weight, self.bias, self.targets, dtype=self.dtype)

    def gradients(self, losses: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses, self.arguments, self.dlosses)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@in_each_format
def test_losses_and_gradients_are_those_of_torch(
    variant: str, dtype: torch.dtype, sizes: tuple[int, int, int], biased: bool
) -> None:
    task = Task(dtype, *sizes, biased=biased)
    losses, expected = task.native(), task.plain()
    torch.testing.assert_close(losses, expected, atol=2e-5, rtol=1e-4)
    for mine, theirs in zip(task.gradients(losses), task.gradients(expected), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        few = 4 if theirs.numel() < 10 else 1  # values, among which nothing averages, and two may nearly cancel
        assert (mine - theirs).norm() <= few * ROUNDING[dtype] * theirs.norm() + 1e-6


@in_each_format
def test_gradients_are_those_of_differences(variant: str, dtype: torch.dtype) -> None:
    task = Task(dtype, 5, 8, 6)
    (dy, dweight, dbias), step = task.gradients(task.native()), 0.25
    assert task.bias is not None
    for array, gradient in ((task.y, dy), (task.weight, dweight), (task.bias, dbias)):
        flat, place = array.detach().view(-1), int(gradient.abs().argmax())
        flat[place] += step
        above = float(task.native().detach() @ task.dlosses)
        flat[place] -= 2 * step
        below = float(task.native().detach() @ task.dlosses)
        flat[place] += step
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.view(-1)[place]), rel=0.05)


@pytest.mark.parametrize("sizes", [(200, 40, 70), (70, 257, 2500)], ids=str)
@in_each_format
def test_rows_and_threads_do_not_change_a_bit(variant: str, dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    results = []
    for threads in (1, 2, 3):
        with native_threads(threads):
            task = Task(dtype, *sizes)
            losses = task.native()
            results.append((losses, *task.gradients(losses)))
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, results[0], strict=True))


@in_each_format
def test_without_gradients_the_losses_are_the_same(variant: str, dtype: torch.dtype) -> None:
    task = Task(dtype, 33, 40, 70)
    with torch.no_grad():
        alone = task.native()
    assert torch.equal(alone, task.native())


@pytest.mark.parametrize("size", [1e-40, 1e-20, 1e4, 1e30])
@in_each_format
def test_tiny_and_huge_logits_give_what_torch_gives(variant: str, dtype: torch.dtype, size: float) -> None:
    task = Task(dtype, 33, 40, 70)
    with torch.no_grad():
        task.weight.mul_(size)
    losses, expected = task.native(), task.plain()
    torch.testing.assert_close(losses, expected, atol=max(2e-5, 0.02 * size), rtol=0.0)
    assert all(bool(gradient.isfinite().all()) for gradient in task.gradients(losses))


@in_each_format
def test_losses_are_nan_where_the_model_is(variant: str, dtype: torch.dtype) -> None:
    task = Task(dtype, 3, 40, 70)
    with torch.no_grad():
        task.weight[5, 7] = math.nan
    assert bool(task.native().isnan().all())


@in_each_format
def test_what_does_not_fit_is_refused(variant: str, dtype: torch.dtype) -> None:
    task = Task(dtype, 3, 40, 70)
    task.targets[1] = 70
    with pytest.raises(RuntimeError, match="argument"):
        task.native()
    task.targets = task.targets[:2]
    with pytest.raises(ValueError, match="targets of shape"):
        task.native()
    task = Task(dtype, 3, 40, 70)
    losses = task.native()
    torch.autograd.grad(losses, task.arguments, task.dlosses, retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        task.gradients(losses)
