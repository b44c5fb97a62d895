"""A cell and an optimizer as users write them: an LSTM step by step, and Lion (Chen et al. 2023)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

REGISTER = """
import scriven
from own_parts import DroppingLSTM, HandLSTM, Lion

scriven.register_cell("hand-lstm", HandLSTM)
scriven.register_cell("dropping", DroppingLSTM)
scriven.register_optimizer("lion", Lion, learning_rate=0.001)
"""


class HandLSTM(nn.Module):
    """Torch's LSTM, with its names for weights."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.state_widths = (width, width)
        self.weight_ih_l0 = nn.Parameter(torch.randn(4 * width, inputs) / inputs**0.5)
        self.weight_hh_l0 = nn.Parameter(torch.randn(4 * width, width) / width**0.5)
        self.bias_ih_l0 = nn.Parameter(torch.zeros(4 * width))
        self.bias_hh_l0 = nn.Parameter(torch.zeros(4 * width))

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = state
        outputs = []
        for step in x:
            sums = step @ self.weight_ih_l0.T + self.bias_ih_l0 + h @ self.weight_hh_l0.T + self.bias_hh_l0
            i, f, g, o = sums.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class DroppingLSTM(HandLSTM):
    """Drops some of its input, by torch's own generator."""

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().forward(nn.functional.dropout(x, 0.3, self.training), state)


class Lion(torch.optim.Optimizer):
    """The sign of a momentum. It counts its steps as a number, and in its group."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-4) -> None:
        super().__init__(params, {"lr": lr, "count": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                state["steps"] = state.get("steps", 0) + 1
                update = momentum.lerp(parameter.grad, 0.1).sign()
                parameter.sub_(update, alpha=group["lr"] * (1 - 0.5 ** state["steps"]))
                momentum.lerp_(parameter.grad, 0.01)
