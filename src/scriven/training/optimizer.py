"""Optimizers and learning rates: Muon for recurrent matrices, torch's optimizers for the rest.

All weights are in one flat array, recurrent matrices last, so an update is a few operations on two long slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from scriven.errors import UsageError
from scriven.kernels import muon
from scriven.kernels.adamw import AdamW, norm
from scriven.model.cells import Layer
from scriven.model.language_model import CharLM
from scriven.runs.tensors import check_arrays, finite, kind_of
from scriven.settings import REGISTERED_OPTIMIZERS, TrainingSettings

MOST_STEPS = 1 << 53  # floats are exact up to here


class Average:
    """The running mean of weights (P,). It begins when evaluations have stopped getting better."""

    def __init__(self, patience: int) -> None:
        """`patience` is the number of evaluations without a better one before it begins."""
        self.patience = patience
        self.losses: list[float] = []
        self.mean: Tensor | None = None
        self.count = 0

    def note(self, loss: float, weights: Tensor) -> None:
        """Notes an evaluation's loss. Begins the mean if the loss is above the best one from before the last few."""
        before = self.losses[: -self.patience]
        self.losses.append(loss)
        if self.mean is None and before and loss > min(before):
            self.mean, self.count = weights.clone(), 1

    def add(self, weights: Tensor) -> None:
        """Adds the weights after a step to the mean, once it has begun."""
        if self.mean is not None:
            self.count += 1
            self.mean.lerp_(weights, 1 / self.count)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, as named tensors."""
        mean = {} if self.mean is None else {"mean": self.mean}
        losses, count = (torch.tensor(values, dtype=torch.float64) for values in (self.losses, self.count))
        return mean | {"losses": losses, "count": count}

    def restore(self, tensors: dict[str, Tensor], weights: Tensor) -> None:
        """Restores what `state` gave, for these weights (P,). Raises ValueError if it is not valid."""
        mean, losses, count = tensors.get("mean"), tensors["losses"], tensors["count"]
        if mean is not None:
            check_arrays({"mean": mean}, {"mean": weights.shape})
        if losses.ndim != 1 or count.ndim or not (mean is not None) <= float(count) < MOST_STEPS:
            raise ValueError("the average has impossible losses or steps")
        self.losses, self.count = losses.tolist(), int(count)
        self.mean = None if mean is None else mean.to(weights.device)


def learning_rate_factor(settings: TrainingSettings, progress: float, epochs: float = 0.0) -> float:
    """Returns the share of the peak learning rate at `progress` (0..1) and after `epochs` epochs.

    It rises linearly over the warm-up. Then it falls as a cosine to 0, stays, or decays stepwise like char-rnn's and
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


LEARNING_RATES = {"muon": 0.04, "adamw": 0.004, "sgd": 1.0, "rmsprop": 0.002}  # good for most texts


def usual_learning_rate(optimizer: str) -> float:
    """Returns the peak learning rate that suits most texts; a registered optimizer has its own."""
    registered = REGISTERED_OPTIMIZERS.find(optimizer)
    return registered.learning_rate if registered else LEARNING_RATES[optimizer]


class FlatWeights:
    """A model's weights as views of one flat array (P,), the matrices of its recurrent layers last."""

    def __init__(self, model: CharLM) -> None:
        """Moves the model's parameters into the array; they stay usable under their names."""
        matrices = [each for layer in model.modules() if isinstance(layer, Layer) for each in layer.matrices]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        self.parameters = [*others, *matrices]
        self.learned = [parameter for parameter in self.parameters if parameter.requires_grad]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.names = [names[id(parameter)] for parameter in self.parameters]
        self.first_matrix = sum(parameter.numel() for parameter in others)
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.values = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
            parameter.data = view
        self.matrix_shapes = [parameter.shape for parameter in matrices]
        members = [{id(each) for each in network.parameters()} for network in model.networks]
        self.members = [[i for i, each in enumerate(self.parameters) if id(each) in own] for own in members]

    def views(self, flat: Tensor) -> list[Tensor]:
        """Returns a view of `flat` (P,) for each parameter, in its shape."""
        return _views(flat, self.shapes)

    def gradients(self, outputs: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> list[Tensor]:
        """Returns the gradients of all parameters, contiguous, given those of the outputs; zeros where there are none.

        The gradient of a number may be None, which means 1. Each may be changed in place.
        """
        found = iter(torch.autograd.grad(outputs, self.learned, slopes, allow_unused=True))
        gradients = list[Tensor]()
        for parameter in self.parameters:
            gradient = next(found) if parameter.requires_grad else None
            made = torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
            shared = any(made is other for other in gradients)  # as by two biases that are added
            gradients.append(made.clone() if shared else made)
        return gradients

    def write(self, gradients: list[Tensor], flat: Tensor, *, add: bool) -> None:
        """Writes the gradients of all parameters to `flat` (P,), or adds them to it."""
        for view, gradient in zip(self.views(flat), gradients, strict=True):
            view.add_(gradient) if add else view.copy_(gradient)

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """Returns the recurrent matrices as views of a flat array (P - first_matrix,)."""
        return _views(flat, self.matrix_shapes)


def _views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    ends = accumulate(shape.numel() for shape in shapes)
    return [flat[end - shape.numel() : end].view(shape) for end, shape in zip(ends, shapes, strict=True)]


Share = Callable[[list[Tensor], list[int]], None]  # fills in, on every worker, the tensors that others own


class Muon:
    """Momentum whose update of each matrix is orthogonalised (Jordan et al. 2024), Nesterov form as torch.optim.Muon.

    Every worker keeps all momenta and orthogonalises its own share of the matrices.
    """

    def __init__(self, weights: FlatWeights, momentum: float, dtype: torch.dtype, rank: int, share: Share | None):
        self.weights, self.coefficient, self.dtype, self.rank, self.share = weights, momentum, dtype, rank, share
        self.momentum = torch.zeros_like(weights.values[weights.first_matrix :])
        self.native = muon.usable(dtype, weights.values.device)

    def step(self, gradients: list[Tensor], scale: float, keep: float, rate: float, owners: list[int]) -> None:
        """Multiplies the matrices by `keep`, then updates them from their gradients times `scale`.

        Worker `owners[i]` owns matrix i.
        """
        updates = [torch.empty_like(gradient, dtype=self.dtype) for gradient in gradients]
        own = [update if owner == self.rank else None for update, owner in zip(updates, owners, strict=True)]
        momenta = self.weights.matrices(self.momentum)
        muon.update(gradients, momenta, own, scale, self.coefficient, native=self.native)
        if self.share is not None:
            self.share(updates, owners)
        matrices = self.weights.matrices(self.weights.values[self.weights.first_matrix :])
        muon.apply(updates, matrices, keep, rate, native=self.native)


class TorchOptimizer:
    """Stochastic gradient descent or RMSprop by torch's own classes, of weights (P,)."""

    def __init__(self, values: Tensor, settings: TrainingSettings) -> None:
        self.part = nn.Parameter(values, requires_grad=False)
        self.rule: torch.optim.Optimizer
        self.shapes: dict[str, Sequence[int]]  # of its state after the first step
        if settings.optimizer == "sgd":
            self.rule = torch.optim.SGD([self.part], momentum=settings.momentum)
            self.shapes = {"momentum_buffer": values.shape} if settings.momentum else {}
        else:
            self.rule = torch.optim.RMSprop([self.part], alpha=settings.beta2, eps=settings.epsilon)
            self.shapes = {"step": (), "square_avg": values.shape}

    def step(self, gradients: list[Tensor], scale: float, rate: float) -> None:
        """Makes one step from gradients in the order of the weights, times `scale`."""
        self.part.grad = torch.cat([gradient.flatten() for gradient in gradients]).mul_(scale)
        self.rule.param_groups[0]["lr"] = rate
        self.rule.step()

    def state(self) -> dict[str, Tensor]:
        """Returns what `restore` needs."""
        kept = self.rule.state_dict()["state"].get(0, {})
        return {name: torch.as_tensor(value) for name, value in kept.items() if value is not None}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` gave."""
        state = {0: {name: value.clone() for name, value in tensors.items()}}
        self.rule.load_state_dict({"state": state, "param_groups": self.rule.state_dict()["param_groups"]})


class RegisteredOptimizer:
    """An optimizer of torch's kind that a program has registered; the parameters have their own shapes.

    Its state may have arrays and numbers. The numbers of its parameter groups may change too.
    """

    def __init__(self, weights: FlatWeights, settings: TrainingSettings) -> None:
        """Raises UsageError if the registered factory does not make an optimizer of torch's kind."""
        self.name, self.peak = settings.optimizer, settings.learning_rate
        registered = REGISTERED_OPTIMIZERS.find(self.name)
        learned = [each for each in weights.parameters if each.requires_grad]
        rule = registered.make(learned, lr=self.peak) if registered else None
        if not isinstance(rule, torch.optim.Optimizer):
            raise UsageError(f"training.optimizer {self.name} makes {type(rule).__name__}, not a torch.optim.Optimizer")
        self.rule: torch.optim.Optimizer = rule
        self.learned = [index for index, each in enumerate(weights.parameters) if each.requires_grad]
        self.parameters = learned
        self.begun = [dict(group) for group in rule.param_groups]

    def step(self, gradients: list[Tensor], scale: float, rate: float) -> None:
        """Makes one step from gradients, one per parameter, times `scale`. The schedule sets the rate of each group."""
        for parameter, index in zip(self.parameters, self.learned, strict=True):
            parameter.grad = gradients[index] * scale
        for group, begun in zip(self.rule.param_groups, self.begun, strict=True):
            group["lr"] = begun["lr"] * (rate / self.peak)
        self.rule.step()
        for parameter in self.parameters:
            parameter.grad = None  # otherwise the next backward pass would add to it

    def state(self) -> dict[str, Tensor]:
        """Returns what `restore` needs. Raises UsageError if it cannot be saved."""
        kept = self.rule.state
        named = {
            (str(index), key): value
            for index, each in enumerate(self.parameters)
            for key, value in kept.get(each, {}).items()
        }
        for number, (group, begun) in enumerate(zip(self.rule.param_groups, self.begun, strict=True)):
            changed = {key: value for key, value in group.items() if _is_number(value) and value != begun.get(key)}
            named |= {(f"group{number}", key): value for key, value in changed.items() if key != "lr"}
        return {
            f"{place}.{key}{NUMBER * _is_number(value)}": self._to_array(key, value)
            for (place, key), value in named.items()
            if value is not None
        }

    def _to_array(self, key: object, value: object) -> Tensor:
        if _is_number(value):
            value = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        if isinstance(value, Tensor) and kind_of(value) and finite(value):
            return value
        raise UsageError(
            f"training.optimizer {self.name} keeps {key} as {type(value).__name__}, which a checkpoint cannot hold; it "
            "holds finite numbers and arrays of them"
        )

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` gave. Raises ValueError for the state of another model."""
        groups = {f"group{number}": group for number, group in enumerate(self.rule.param_groups)}
        places: dict[str, dict[str, Any]] = {str(i): {} for i in range(len(self.parameters))}
        for group, begun in zip(self.rule.param_groups, self.begun, strict=True):
            group.update({key: value for key, value in begun.items() if _is_number(value)})
        for name, value in tensors.items():
            place, _, key = name.partition(".")
            if place not in places.keys() | groups.keys():
                raise ValueError(f"{name} is of another model")
            number = key.endswith(NUMBER)
            into = groups.get(place, places.get(place, {}))
            into[key.removesuffix(NUMBER)] = value.item() if number else value.clone()
        self.rule.state.clear()
        for parameter, kept in zip(self.parameters, places.values(), strict=True):
            if kept:
                self.rule.state[parameter] = {
                    key: value.to(parameter.device) if isinstance(value, Tensor) and value.ndim else value
                    for key, value in kept.items()
                }


NUMBER = ".number"  # ends the names of arrays that are numbers of Python


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def assign_owners(shapes: Sequence[torch.Size], workers: int) -> list[int]:
    """Returns which worker orthogonalises which matrix: the costliest first, each to the worker with least work."""
    load = [0] * workers
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda i: (-_cost(shapes[i]), i)):
        owners[index] = load.index(min(load))
        load[owners[index]] += _cost(shapes[index])
    return owners


def _cost(shape: torch.Size) -> int:
    return shape.numel() * min(shape)


class Optimizer:
    """Makes steps from a flat gradient: clipping, decoupled weight decay, then the chosen rule."""

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
        self.first_values = weights.values.clone() if settings.pull else None  # that training began with
        self.factor = 1.0  # of all learning rates
        self.owners = assign_owners(weights.matrix_shapes, workers)
        self.muon = Muon(weights, settings.momentum, dtype, rank, share) if settings.optimizer == "muon" else None
        rest = weights.values[: weights.first_matrix] if self.muon else weights.values
        self.rest: AdamW | TorchOptimizer | RegisteredOptimizer
        if settings.optimizer in ("muon", "adamw"):
            self.rest = AdamW(rest, settings.beta2, settings.epsilon, early=settings.early_epsilon)
        elif REGISTERED_OPTIMIZERS.find(settings.optimizer):
            self.rest = RegisteredOptimizer(weights, settings)
        else:
            self.rest = TorchOptimizer(rest, settings)

    def step(
        self, gradients: list[Tensor], divisor: float, progress: float, epochs: float = 0.0
    ) -> tuple[float, float]:
        """Updates the weights from gradients, one per parameter, that are sums over `divisor` predictions.

        Their mean is clipped by value, then by norm, that of each member for itself. Returns the learning rate and the
        mean's norm before clipping: of several members the root of their mean square. If that is not finite, nothing is
        changed.
        Gradients may be clipped in place.
        """
        settings = self.settings
        members = [[gradients[i] for i in own] for own in self.weights.members]
        sizes = [norm(own) / divisor for own in members]
        size = math.hypot(*sizes) / math.sqrt(len(sizes))
        rate = self.factor * settings.learning_rate * learning_rate_factor(settings, progress, epochs)
        if not math.isfinite(size):
            return rate, size
        factors = [self._clip(own, divisor, each) for own, each in zip(members, sizes, strict=True)]
        scale = self._shared_factor(members, factors) / divisor
        keep = 1 - rate * settings.weight_decay
        if self.muon is None:
            if settings.weight_decay:
                self.weights.values[self.weights.first_matrix :].mul_(keep)
            self.rest.step(gradients, scale, rate)
            self._pull(rate)
            return rate, size
        matrices = len(gradients) - len(self.weights.matrix_shapes)
        self.muon.step(gradients[matrices:], scale, keep, rate, self.owners)
        self.rest.step(gradients[:matrices], scale, settings.adamw_learning_rate * rate / settings.learning_rate)
        self._pull(rate)
        return rate, size

    def _pull(self, rate: float) -> None:
        """Pulls all weights a little towards the first ones."""
        if self.first_values is not None:
            self.weights.values.lerp_(self.first_values, min(1.0, rate * self.settings.pull))

    def _clip(self, gradients: list[Tensor], divisor: float, size: float) -> float:
        """Clips gradients by value. Returns the factor that clips their mean, whose norm was `size`, by its norm."""
        limit, largest = self.settings.clip, self.settings.clip_value
        if largest:
            for gradient in gradients:
                gradient.clamp_(-largest * divisor, largest * divisor)
            size = norm(gradients) / divisor if limit else size
        return min(1.0, limit / size if limit and size else 1.0)

    def _shared_factor(self, members: list[list[Tensor]], factors: list[float]) -> float:
        """Returns the factor of all gradients, after those of members with different ones were multiplied by theirs."""
        if len(set(factors)) == 1:
            return factors[0]
        for gradients, factor in zip(members, factors, strict=True):
            for gradient in gradients if factor != 1 else ():
                gradient.mul_(factor)
        return 1.0

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, as named tensors."""
        return self.rest.state() | ({} if self.muon is None else {"muon.momentum": self.muon.momentum})

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` gave. Raises ValueError if a part of it is missing or not valid."""
        if isinstance(self.rest, RegisteredOptimizer):
            self.rest.restore(tensors)
            return
        shapes: dict[str, Sequence[int]] = {name: value.shape for name, value in self.state().items()}
        if tensors and isinstance(self.rest, TorchOptimizer):
            shapes = self.rest.shapes
        check_arrays(tensors, shapes)
        for name in ("square", "square_avg", "steps", "step"):
            if name in tensors and bool((tensors[name] < 0).any()):
                raise ValueError(f"the optimizer's {name} is below 0")
        if self.muon is not None:
            self.muon.momentum.copy_(tensors["muon.momentum"])
        self.rest.restore({name: value for name, value in tensors.items() if not name.startswith("muon.")})
