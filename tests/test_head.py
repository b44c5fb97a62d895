"""The output layer with its loss against torch's own, and the gradients of both."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from scriven.model import head
from scriven.model.head import HeadLoss


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_cross_entropy_of_the_logits_and_has_its_gradients(
    rows: int, counted: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "VALUES_AT_ONCE", 200)  # 5 rows at once
    torch.manual_seed(rows)
    y, weight, bias = (torch.randn(size).requires_grad_() for size in ((rows, 7), (40, 7), (40,)))
    targets = torch.randint(40, (rows,))
    counts = torch.randint(2, (rows,)).float() if counted else None
    costs = functional.cross_entropy(y @ weight.T + bias, targets, reduction="none")
    costs = costs if counts is None else costs * counts
    expected = torch.autograd.grad(3 * costs.sum(), (y, weight, bias))
    total, each = HeadLoss.apply(y.to(dtype), weight, bias, targets, counts)  # type: ignore[no-untyped-call]
    tolerance: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
    torch.testing.assert_close(each, costs.detach(), **tolerance)
    assert float(total.detach()) == pytest.approx(float(each.sum()))
    for mine, theirs in zip(torch.autograd.grad(3 * total, (y, weight, bias)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
