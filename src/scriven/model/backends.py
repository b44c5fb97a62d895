"""Chooses what computes a model: its device, number format and code, once, when it is made ready; and its threads.

Whether training is faster in bf16 or fp32 is measured in precision.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from scriven import runtime
from scriven.errors import UsageError
from scriven.kernels import recurrent, scan
from scriven.kernels.native_library import native_threads
from scriven.runtime import keep_buffers, use_huge_pages
from scriven.settings import Cell, ModelSettings

ALLOCATOR_THRESHOLD_BYTES = 1 << 30
OWN_CELLS: tuple[Cell, ...] = get_args(Cell)
# Native code, torch's own function, a loop over the steps in torch, or the module of a registered cell.
Route = Literal["native", "torch", "loop", "module"]


def choose_device(name: str) -> torch.device:
    """The device for a `training.device` setting; `auto` prefers CUDA, then the CPU.

    Raises UsageError if this machine does not have the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UsageError(f"device {name} is not available on this machine; give auto or cpu")
    return torch.device(name)


@dataclass(frozen=True)
class Backend:
    """What computes a model. `choose_backend` makes it, and it is valid for all calls."""

    device: torch.device
    autocast: torch.dtype | None  # the number format of matrix products; None for that of the weights
    routes: tuple[Route, ...]  # what computes the steps of each recurrent layer
    native: torch.dtype | None  # the number format of native code's matrix products; None where torch makes all
    fresh_route: Route  # what computes, instead of torch's own function, a chunk with fresh starts after its first step
    single_steps: bool  # whether a step by itself is computed directly, if no gradient is needed

    @property
    def takes_ids(self) -> bool:
        """Whether the first layer takes ids, and a table with a row for each symbol."""
        return self.routes[0] == "native"

    @property
    def takes_fresh(self) -> bool:
        """Whether rows may start afresh at any step of a chunk without any cost."""
        return set(self.routes) == {"native"}

    @property
    def all_native(self) -> bool:
        """Whether native code makes all products of the layers; torch makes those of single steps."""
        return self.native is not None and self.takes_fresh and not self.single_steps

    def context(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context for calls of torch's functions, which sets the number format. Weights keep their own."""
        if self.autocast is None and not _autocasts(self.device):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)


def choose_backend(settings: ModelSettings, device: torch.device, precision: str, *, learns: bool = False) -> Backend:
    """Chooses what computes a model with these settings on a device, in `fp32` or `bf16`. Its weights are fp32.

    A model that `learns` needs gradients.
    """
    return _fastest_backend(settings, device, torch.bfloat16 if precision == "bf16" else None, learns=learns)


def current_backend(settings: ModelSettings, weight: torch.Tensor) -> Backend:
    """Chooses the backend for a model with such weights by torch's state: its autocast, and whether gradients are on.

    This is for models that are called without a backend.
    """
    autocast = torch.get_autocast_dtype(weight.device.type) if _autocasts(weight.device) else None
    return _fastest_backend(settings, weight.device, autocast, weight.dtype, learns=torch.is_grad_enabled())


def _autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _fastest_backend(
    settings: ModelSettings,
    device: torch.device,
    autocast: torch.dtype | None,
    weights: torch.dtype = torch.float32,
    *,
    learns: bool,
) -> Backend:
    on_cpu, wanted = device.type == "cpu", autocast or torch.float32
    able = on_cpu and weights == torch.float32
    native = wanted if able and recurrent.usable(wanted) else None
    layers = on_cpu and scan.usable() if settings.cell == "mingru" else native is not None
    return Backend(
        device=device,
        autocast=autocast,
        routes=tuple(_fastest_route(settings, depth, layers) for depth in range(settings.layers)),
        native=native,
        fresh_route=_fastest_fresh_route(device, native=able and recurrent.usable(torch.float32)),
        single_steps=not learns,
    )


def _fastest_route(settings: ModelSettings, depth: int, native: bool) -> Route:
    """Returns what computes the steps of the layer at `depth`, given whether there is `native` code for the cell."""
    if settings.cell not in OWN_CELLS:
        return "module"
    if native:
        return "native"
    if settings.activations[depth] != "tanh":
        return "loop"
    onehot = settings.input == "onehot" and depth == 0
    return "loop" if onehot or settings.cell == "mingru" else "torch"


def has_native_code(settings: ModelSettings, precision: str) -> bool:
    """Whether native code can compute the steps of all layers of a model in this number format on this processor."""
    return settings.cell in OWN_CELLS and recurrent.usable(torch.bfloat16 if precision == "bf16" else torch.float32)


def _fastest_fresh_route(device: torch.device, *, native: bool) -> Route:
    """Returns what computes a chunk with fresh starts after its first step, if torch's function computes the others.

    Torch's function reads packed sequences, which take 2 to 5 times as long as a loop on a CPU. `native` code in fp32
    takes half as long as a loop in bf16; see docs/experiments.md.
    """
    if device.type != "cpu":
        return "torch"
    return "native" if native else "loop"


# --- threads


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Makes torch divide its products among `count` threads while the context lasts.

    The last bits of a product depend on that number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Makes torch and native code compute in the calling thread alone while the context lasts.

    With little work, threads mostly wait for one another. On two idle cores, two threads generate one text 1.4 times as
    fast as one thread, but 30 times as slowly while another program keeps a core busy.
    """
    with torch_threads(1), native_threads(1):
        yield


@contextlib.contextmanager
def tune_cpu(threads: int, native: int | None = None) -> Iterator[None]:
    """Makes training steps fast while the context lasts: torch uses `threads` threads, native code `native`.

    `threads` decides the last bits of torch's results, so it is kept on any number of cores. `native` is the same by
    default; it changes no bit. Raises UsageError if torch cannot get its threads.

    Denormal numbers are flushed to zero: they are many times slower and mean nothing here. Glibc keeps large buffers
    mapped, in huge pages, even after the context. Otherwise it would return and clear them again at every step.
    """
    keep_buffers(ALLOCATOR_THRESHOLD_BYTES)
    use_huge_pages(ALLOCATOR_THRESHOLD_BYTES)
    runtime.allow_threads(threads)
    with torch_threads(threads), native_threads(threads if native is None else native):
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
