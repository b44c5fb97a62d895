"""Gradients -> weights: Muon for recurrent matrices, torch's optimizers for the rest, schedules of progress.

All weights live in one flat array, recurrent matrices last, so that an update is a few operations on two long slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from scriven.model.cells import RecurrentLayer
from scriven.settings import TrainingSettings

ADAM_BETA1 = 0.9
# The quintic iteration of Jordan et al. 2024 (Muon): its fixed points are not 1, but it gets near 1 in few steps.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def learning_rate_factor(settings: TrainingSettings, progress: float, epochs: float = 0.0) -> float:
    """Share of the peak learning rate at `progress` (0..1) and after so many epochs.

    It rises linearly over the warm-up. Then it falls as a cosine to 0, stays, or decays stepwise as char-rnn's and
    torch-rnn's does: by a factor every few epochs once the first ones are over.
    """
    warmup = settings.warmup
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
    if settings.schedule == "constant":
        return 1.0
    decays = max(0.0, epochs - settings.decay_after) / settings.decay_epochs
    return float(settings.decay ** math.floor(decays + 1e-9))


class FlatWeights:
    """A model's weights as views of one flat array (P,), the matrices of its recurrent layers last."""

    def __init__(self, model: nn.Module) -> None:
        """Moves the model's parameters into the array; they stay usable under their names."""
        matrices = [
            parameter
            for layer in model.modules()
            if isinstance(layer, RecurrentLayer)
            for parameter in layer.parameters()
            if parameter.ndim == 2 and not (layer.onehot and parameter is layer.rnn.weight_ih_l0)  # an embedding
        ]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        self.parameters = [*others, *matrices]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.names = [names[id(parameter)] for parameter in self.parameters]
        self.first_matrix = sum(parameter.numel() for parameter in others)
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.values = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
            parameter.data = view
        self.matrix_shapes = [parameter.shape for parameter in matrices]

    def views(self, flat: Tensor) -> list[Tensor]:
        """One view of `flat` (P,) a parameter, in its shape."""
        return _views(flat, self.shapes)

    def attach_gradients(self, flat: Tensor) -> None:
        """Makes the next backward pass add its gradients to `flat` (P,)."""
        for parameter, view in zip(self.parameters, self.views(flat), strict=True):
            parameter.grad = view

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """The views of a flat array (P - first_matrix,) that belong to the recurrent matrices."""
        return _views(flat, self.matrix_shapes)


def _views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    ends = accumulate(shape.numel() for shape in shapes)
    return [flat[end - shape.numel() : end].view(shape) for end, shape in zip(ends, shapes, strict=True)]


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearly orthogonal matrix with the singular vectors of `matrix` (R, C), computed in `dtype`.

    Five steps of the Newton-Schulz iteration X <- aX + X(bA + cA^2), A = X'X on the shorter side. Its matrix products
    are the whole cost.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] >= matrix.shape[1]
    x = (matrix if tall else matrix.T).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x.T @ x
        x = torch.addmm(x, x, torch.addmm(gram, gram, gram, beta=b, alpha=c), beta=a)
    return x if tall else x.T


Share = Callable[[list[Tensor], list[int]], None]  # fills in, on every worker, the tensors that others own


class Muon:
    """Momentum whose update of each matrix is orthogonalised (Jordan et al. 2024), Nesterov form as torch.optim.Muon.

    Every worker keeps all momenta and orthogonalises its own share of the matrices.
    """

    def __init__(self, weights: FlatWeights, momentum: float, dtype: torch.dtype, rank: int, share: Share | None):
        self.weights, self.coefficient, self.dtype, self.rank, self.share = weights, momentum, dtype, rank, share
        self.momentum = torch.zeros_like(weights.values[weights.first_matrix :])

    def step(self, gradient: Tensor, learning_rate: float, owners: list[int]) -> None:
        """Updates the matrices from their gradient (P - first_matrix,); matrix i is worker `owners[i]`'s to do."""
        self.momentum.lerp_(gradient, 1 - self.coefficient)
        momenta = self.weights.matrices(gradient.lerp(self.momentum, self.coefficient))
        updates = [
            orthogonalize(matrix, self.dtype) if owner == self.rank else torch.empty_like(matrix, dtype=self.dtype)
            for matrix, owner in zip(momenta, owners, strict=True)
        ]
        if self.share is not None:
            self.share(updates, owners)
        matrices = self.weights.matrices(self.weights.values[self.weights.first_matrix :])
        for matrix, update in zip(matrices, updates, strict=True):
            scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
            matrix.add_(update, alpha=-learning_rate * scale)


def assign_owners(shapes: Sequence[torch.Size], workers: int) -> list[int]:
    """Which worker orthogonalises which matrix: the costliest first, each to the worker with the least to do."""
    load = [0] * workers
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda i: (-_cost(shapes[i]), i)):
        owners[index] = load.index(min(load))
        load[owners[index]] += _cost(shapes[index])
    return owners


def _cost(shape: torch.Size) -> int:
    return shape.numel() * min(shape)


class Optimizer:
    """Takes one step from a flat gradient: clipping, decoupled weight decay, then the chosen rule."""

    def __init__(
        self,
        weights: FlatWeights,
        settings: TrainingSettings,
        dtype: torch.dtype = torch.float32,
        *,
        rank: int = 0,
        workers: int = 1,
        share: Share | None = None,
    ) -> None:
        self.weights, self.settings = weights, settings
        self.owners = assign_owners(weights.matrix_shapes, workers)
        border = weights.first_matrix
        self.slices = [slice(0, border)] if settings.optimizer == "muon" else [slice(0, border), slice(border, None)]
        self.parts = [nn.Parameter(weights.values[part], requires_grad=False) for part in self.slices]
        self.rest = self._torch_optimizer()
        self.muon = None
        if settings.optimizer == "muon":
            self.muon = Muon(weights, settings.momentum, dtype, rank, share)

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        if self.settings.optimizer == "sgd":
            return torch.optim.SGD(self.parts, momentum=self.settings.momentum)
        if self.settings.optimizer == "rmsprop":
            return torch.optim.RMSprop(self.parts, alpha=self.settings.beta2)
        fused = self.weights.values.device.type != "mps"
        betas = (ADAM_BETA1, self.settings.beta2)
        return torch.optim.AdamW(self.parts, betas=betas, weight_decay=0, fused=fused)

    def step(self, gradient: Tensor, progress: float, epochs: float = 0.0) -> tuple[float, float]:
        """Updates the weights from the mean gradient (P,), which is clipped in place: by value, then by norm.

        Gives the learning rate and the gradient's norm before clipping; where that is not finite, nothing is changed.
        """
        settings = self.settings
        norm = float(torch.linalg.vector_norm(gradient))
        rate = settings.learning_rate * learning_rate_factor(settings, progress, epochs)
        if not math.isfinite(norm):
            return rate, norm
        self._clip(gradient, norm)
        border = self.weights.first_matrix
        self.weights.values[border:].mul_(1 - rate * settings.weight_decay)
        if self.muon is not None:
            self.muon.step(gradient[border:], rate, self.owners)
        rest_rate = rate
        if self.muon is not None:
            rest_rate = settings.adamw_learning_rate * rate / settings.learning_rate
        for group in self.rest.param_groups:
            group["lr"] = rest_rate
        for part, where in zip(self.parts, self.slices, strict=True):
            part.grad = gradient[where]
        self.rest.step()
        return rate, norm

    def _clip(self, gradient: Tensor, norm: float) -> None:
        limit, largest = self.settings.clip, self.settings.clip_value
        if largest:
            gradient.clamp_(-largest, largest)
            norm = float(torch.linalg.vector_norm(gradient)) if limit else norm
        if limit and norm > limit:
            gradient.mul_(limit / norm)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, as named tensors."""
        tensors = {
            f"{index}.{name}": torch.as_tensor(value)
            for index, entry in self.rest.state_dict()["state"].items()
            for name, value in entry.items()
            if value is not None
        }
        if self.muon is not None:
            tensors["muon.momentum"] = self.muon.momentum
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            if index == "muon" and self.muon is not None:
                self.muon.momentum.copy_(value)
            elif index != "muon":
                state.setdefault(int(index), {})[key] = value.clone()
        self.rest.load_state_dict({"state": state, "param_groups": self.rest.state_dict()["param_groups"]})
