"""A network that torch computes, on any device: for training, for GPUs, and for precisions that native code lacks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scriven.arrays import Bools, Float32s, Float64s, Ids, State
from scriven.model.backends import choose_backend, single_threaded
from scriven.model.language_model import CharLM, NoNetwork, make_model
from scriven.settings import ModelSettings


def make_module(settings: ModelSettings, vocabulary_size: int, weights: Mapping[str, Float32s]) -> CharLM:
    """Makes a model with these weights, if any, in evaluation mode. Torch's random generators stay as they are."""
    if not weights:
        return NoNetwork(settings, vocabulary_size).eval()
    with single_threaded(), torch.random.fork_rng(devices=[]):  # its random weights are replaced
        model = make_model(settings, vocabulary_size)
    model.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
    return model.eval()


class TorchNetwork:
    """A network that reads with torch in one number format. Weights that change later have an effect at once."""

    def __init__(self, model: CharLM, precision: str) -> None:
        """Takes a model in evaluation mode, on the device where it stays."""
        self.model = model
        self._backend = choose_backend(model.settings, model.device, precision)
        # A single step takes as long as reading the weights. Autocast would convert them each time.
        self._step_backend = choose_backend(model.settings, model.device, "fp32")

    @torch.inference_mode()
    def read(self, ids: Ids, state: State | None, fresh: Bools | None, since: int = 0) -> tuple[Tensor, State]:
        """Reads like `NumpyNetwork.read`; the logits stay on the device."""
        backend = self._backend if len(ids) > 1 else self._step_backend
        with single_threaded() if ids.shape[1] == 1 else nullcontext():
            known, begins = torch.from_numpy(ids).to(backend.device), None if fresh is None else torch.from_numpy(fresh)
            before = None
            if state is not None:
                before = tuple(tuple(torch.from_numpy(part).to(backend.device) for part in layer) for layer in state)
            _, y, after = self.model.read(known, before, begins, backend=backend)  # (T, N, H)
            logits = self.model.logits(y[since:], backend)
        return logits, tuple(tuple(part.cpu().numpy() for part in layer) for layer in after)

    @torch.inference_mode()
    def costs(self, logits: Tensor | Float32s, targets: Ids, first: Float32s | None = None) -> tuple[Float64s, Bools]:
        """Returns what `NumpyNetwork.costs` does."""
        given = torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits
        if first is not None:
            given = torch.cat((torch.from_numpy(first).to(given.device)[None], given[:-1]))
        wanted = torch.from_numpy(targets).to(given.device)
        nats = functional.cross_entropy(given.flatten(0, -2), wanted.flatten(), reduction="none")
        right: Bools = given.argmax(-1).cpu().numpy() == targets
        return nats.cpu().double().numpy().reshape(targets.shape), right
