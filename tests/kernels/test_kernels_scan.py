"""minGRU's steps against slow obvious code: outputs and all gradients, at every level that this processor has."""

import math

import pytest
import torch
from kernel_variants import VARIANTS, at_each_variant, at_each_variant_and_off, kernels_of
from torch import Tensor
from torch.nn import functional

from scriven.kernels import native_library
from scriven.kernels.scan import scan
from scriven.model import CharLM
from scriven.settings import ModelSettings

SHAPES = [(1, 1, 1), (1, 3, 17), (5, 3, 17), (7, 33, 257), (5, 1, 32), (9, 70, 40), (20, 32, 64), (3, 5, 100)]
V = 11
TIGHT = {torch.float32: 1e-5, torch.bfloat16: 0.01}  # relative; half of bf16's last digit is 0.004


class Task:
    """Arguments, and random weights to sum the outputs with."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        folded: bool = False,
        fresh: bool = False,
        kind: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(0)
        steps, rows, cells = shape
        self.ids = torch.randint(0, V, (steps, rows)) if folded else None
        size = (V, 2 * cells) if folded else (steps, rows, 2 * cells)
        self.sums = (3 * torch.randn(size)).to(kind).requires_grad_()
        self.h = torch.rand(rows, cells).requires_grad_()
        self.fresh = torch.rand(steps, rows) < 0.3 if fresh else None
        self.sought = torch.randn(shape)

    def slow(self) -> Tensor:
        """One number after another's formula, in doubles."""
        sums = self.sums.double() if self.ids is None else self.sums.double()[self.ids]
        h, outputs = self.h.double(), []
        for t, (k, x) in enumerate(zip(*sums.chunk(2, -1), strict=True)):
            if self.fresh is not None:
                h = torch.where(self.fresh[t][:, None], torch.zeros_like(h), h)
            z = 1 / (1 + torch.exp(-k))
            h = (1 - z) * h + z * torch.where(x >= 0, x + 0.5, 1 / (1 + torch.exp(-x)))
            outputs.append(h)
        return torch.stack(outputs)

    def fast(self) -> Tensor:
        return scan(self.sums, self.h, ids=self.ids, fresh=self.fresh)

    def gradients(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y * self.sought).sum(), (self.sums, self.h))


@pytest.mark.parametrize("kind", TIGHT, ids=str)
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@at_each_variant_and_off
def test_steps_and_gradients_are_those_of_the_formula(
    variant: str, shape: tuple[int, int, int], folded: bool, fresh: bool, kind: torch.dtype
) -> None:
    task = Task(shape, folded=folded, fresh=fresh, kind=kind)
    y, slow = task.fast(), task.slow()
    torch.testing.assert_close(y, slow.float(), atol=2e-6, rtol=1e-5)
    for mine, theirs in zip(task.gradients(y), task.gradients(slow), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=TIGHT[kind])


@pytest.mark.parametrize("fresh", [False, True])
def test_gradients_are_those_of_small_differences(fresh: bool) -> None:
    task = Task((4, 2, 3), fresh=fresh)
    sums, h = task.sums.detach().double().requires_grad_(), task.h.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda sums, h: scan(sums, h, fresh=task.fresh), (sums, h))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", TIGHT, ids=str)
def test_all_levels_and_numbers_of_threads_give_the_same_bits(kind: torch.dtype, folded: bool) -> None:
    task = Task((6, 5, 257), folded=folded, fresh=True, kind=kind)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for variant in VARIANTS:
                with kernels_of(variant):
                    y = task.fast()
                    found.append((y, *task.gradients(y)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(mine, first) for each in found for mine, first in zip(each, found[0], strict=True))


@at_each_variant_and_off
def test_two_chunks_are_one_to_the_last_bit(variant: str) -> None:
    task = Task((9, 33, 40))
    whole = task.fast()
    first = scan(task.sums[:4], task.h)
    assert torch.equal(torch.cat((first, scan(task.sums[4:], first[-1]))), whole)


@at_each_variant_and_off
def test_tiny_and_huge_arguments_saturate(variant: str) -> None:
    task = Task((3, 2, 20))
    sign = task.sums.detach().sign()
    for size in (1e-39, 1e3, 1e30, math.inf):  # gates alone: what is not bounded is as large as it comes
        task.sums = torch.cat(((size * sign)[..., :20], sign[..., 20:]), -1).requires_grad_()
        y = task.fast()
        torch.testing.assert_close(y, task.slow().float())
        assert task.gradients(y)[0].isfinite().all()
    task.sums = torch.cat((sign[..., :20], 1e30 * sign[..., 20:]), -1).requires_grad_()
    torch.testing.assert_close(task.fast(), task.slow().float())


@at_each_variant_and_off
@pytest.mark.parametrize("place", [0, 20])
def test_what_is_no_number_is_not_hidden(place: int, variant: str) -> None:
    task = Task((3, 2, 20))
    task.sums.data[0, 1, place] = math.nan
    y = task.fast()
    assert y[:, 1, 0].isnan().all() and y[:, 0].isfinite().all() and y[:, 1, 1:].isfinite().all()


@at_each_variant
def test_arrays_need_not_be_contiguous(variant: str) -> None:
    task = Task((5, 4, 6))
    whole = task.fast()
    strided = scan(task.sums.transpose(0, 1).contiguous().transpose(0, 1), task.h.T.contiguous().T)
    assert torch.equal(strided, whole)


@pytest.mark.skipif(not native_library.levels(), reason="needs the native library")
def test_arguments_that_do_not_fit_are_refused() -> None:
    task = Task((3, 2, 5), folded=True)
    assert task.ids is not None
    task.ids[2, 1] = V
    with pytest.raises(RuntimeError, match="an argument"):
        task.fast()
    with pytest.raises(ValueError, match="5 cells"):
        scan(torch.zeros(3, 2, 9), task.h)


@pytest.mark.parametrize("chosen", [{"norm": "rms"}, {"input": "onehot"}, {"embedding_dropout": 0.4}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_models_read_and_learn_as_with_torch(
    precision: str, chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    settings = {"cell": "mingru", "width": 24, "residual": True, **chosen}
    model = CharLM(ModelSettings.model_validate(settings), V).train()
    ids, fresh = torch.randint(0, V, (12, 5)), torch.rand(12, 5) < 0.2  # unknown symbols among them
    found = []
    for level in (native_library.level(), "off"):
        monkeypatch.setattr(native_library, "level", lambda level=level: level)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits, state = model(ids, None, fresh, dropout_seed=3)
        loss = functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        found.append((logits, state[0][0], state[1][0], *torch.autograd.grad(loss, list(model.parameters()))))
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() <= {"fp32": 1e-5, "bf16": 0.03}[precision] * theirs.norm() + 1e-4
