"""What the choice of settings depends on: the text, and the device, the cores and the measured speed of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from scriven.batches import epoch_reads
from scriven.corpus.store import Corpus
from scriven.errors import UsageError
from scriven.kernels import native_library
from scriven.model import CharLM, choose_backend, choose_device, choose_precision
from scriven.model.backends import has_native_code, tune_cpu
from scriven.runtime import available_cores
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS, ModelSettings, Settings
from scriven.settings_values import merge_settings, validate

REFERENCE = ModelSettings()  # the model whose speed is measured
REFERENCE_LENGTH, REFERENCE_VOCABULARY = 64, 100
# Rows of the measurement. A time budget has no more than the last, and with products in tiles no more than the fewest.
ROWS_PER_THREAD, FEWEST_ROWS, MOST_ROWS = 16, 32, 64
CLEARLY = 1.1  # times as fast
START_SECONDS = 4.0  # from the choice of settings to the first step, with the start of other workers


@dataclass(frozen=True)
class Workload:
    """What the choice of settings depends on."""

    characters: int  # that an epoch reads: of the training text, with the ends of documents, or of all windows
    validation_characters: int
    cores: int  # of all machines
    device: str
    speed: float  # characters/s of one worker training the reference model; see `measure_speed`
    overhead_seconds: float = 0.0  # of a time budget, used before training begins
    documents: int = 0  # in the training text
    text_characters: int = 0  # of the training text itself; 0: as many as an epoch reads
    own_cores: int = 0  # of the first worker's machine; 0: all cores are there
    shared: bool = False  # whether native code shares one worker's work among threads; `speed` was measured so
    fastest_threads: int = 0  # that share it, if that was measured; 0: one for each core
    tiles: bool = False  # whether products take 32 rows at once, as AMX's do; see `choose_settings` on rows

    @property
    def machine_threads(self) -> int:
        """Threads of the first worker's machine: the same number, however many machines take part."""
        return self.fastest_threads or self.own_cores or self.cores


@dataclass(frozen=True)
class Compute:
    """What a model is trained with: its device and its precision, "fp32" or "bf16"."""

    device: torch.device
    precision: str

    def apply(self, settings: Settings) -> Settings:
        """Returns all of the settings, with this device and precision."""
        chosen = {"training": {"device": self.device.type, "precision": self.precision}}
        return validate(merge_settings(settings.model_dump(), chosen))


def choose_compute(settings: Settings) -> Compute:
    """Returns the device and precision for the settings on this machine. Raises UsageError if they do not exist."""
    training, cell = settings.training, settings.model.cell
    device = choose_device(training.device)
    if training.workers > 1 and device.type == "mps":
        raise UsageError("several workers need CPUs or CUDA; drop --training.workers or --training.device mps")
    if training.workers > 1 and (alone := known_here_alone(settings)):
        raise UsageError(
            f"{alone} is registered by the program that runs, which other workers cannot import; move it into a module "
            "that the program imports, or drop --training.workers"
        )
    native = has_native_code(settings.model, "bf16")
    return Compute(device, choose_precision(training.precision, device, cell, native=native))


def describe_workload(
    corpus: Corpus, settings: Settings, compute: Compute, machines: int, begun: float, *, measured: bool
) -> Workload:
    """Returns what the choice of settings depends on. `begun` is when the command began.

    The speed is measured on this machine, or nan if not `measured`.
    """
    text, cores = corpus.training, available_cores()
    device, precision, cell = compute.device, compute.precision, settings.model.cell
    shared = device.type == "cpu" and has_native_code(settings.model, precision)
    threads, speed = 0, math.nan
    if measured:
        threads, speed = _measure(settings, compute, cores) if shared else (0, measure_speed(device, precision, cell))
    return Workload(
        characters=epoch_reads(text, settings.reader),
        validation_characters=corpus.validation.characters,
        cores=cores * machines,
        device=device.type,
        speed=speed * (machines if shared else 1),
        overhead_seconds=time.monotonic() - begun + START_SECONDS,
        documents=text.documents,
        text_characters=text.characters,
        own_cores=cores,
        shared=shared,
        fastest_threads=threads,
        tiles=shared and _in_tiles(device, precision),
    )


def known_here_alone(settings: Settings) -> str:
    """Returns the registered cell or optimizer that no other process could import; "" without one."""
    named = {REGISTERED_CELLS: settings.model.cell, REGISTERED_OPTIMIZERS: settings.training.optimizer}
    found = ((registry, name, registry.find(name)) for registry, name in named.items())
    alone = (f"{registry.setting} {name}" for registry, name, each in found if each and not each.importable)
    return next(alone, "")


def _measure(settings: Settings, compute: Compute, cores: int) -> tuple[int, float]:
    """Returns the threads of this machine that share the work, given or fastest, and the speed with them."""
    device, precision, cell = compute.device, compute.precision, settings.model.cell
    given = settings.explicit().get("training", {})
    if "threads" not in given:
        return choose_threads(device, precision, cell, cores)
    threads = min(cores, given["threads"] * given.get("groups", given.get("workers", 1)))
    return threads, measure_speed(device, precision, cell, threads)


def choose_threads(device: torch.device, precision: str, cell: str, cores: int) -> tuple[int, float]:
    """Returns how many threads train the reference model fastest, and its speed with them; see `measure_speed`.

    All cores are tried, then half as many, as long as that is clearly faster: threads that share a core, or that get
    one or two rows of a batch, may cost more than they do. Two were never slower than one on an idle machine. More are
    tried twice, since a busy moment slows many threads most, and the choice is for the whole training.
    """

    def measure(threads: int) -> float:
        return measure_speed(device, precision, cell, threads)

    threads, speed = cores, measure(cores)
    while threads > 2:
        fewer = measure(threads // 2)
        if fewer > CLEARLY * speed:
            speed = max(speed, measure(threads))
        if fewer <= CLEARLY * speed:
            break
        threads, speed = threads // 2, fewer
    return threads, speed


def _in_tiles(device: torch.device, precision: str) -> bool:
    """Whether native code makes its products in tiles of 32 rows."""
    return device.type == "cpu" and precision == "bf16" and native_library.multiplies_in_tiles()


def measure_speed(device: torch.device, precision: str, cell: str, threads: int = 1) -> float:
    """Measures the training speed in characters/s of the reference model with this cell, on `threads` threads.

    The fastest of a few; about 0.3 s.
    """
    with torch.random.fork_rng(devices=[]):
        model = CharLM(REFERENCE.model_copy(update={"cell": cell}), REFERENCE_VOCABULARY).to(device)
    backend = choose_backend(model.settings, device, precision, learns=True)
    most = FEWEST_ROWS if _in_tiles(device, precision) else MOST_ROWS
    rows = min(most, max(FEWEST_ROWS, ROWS_PER_THREAD * threads))
    ids = torch.zeros(REFERENCE_LENGTH, rows, dtype=torch.int64, device=device)
    seconds = []
    with tune_cpu(threads):
        for _ in range(4):
            begun = time.perf_counter()
            _, y, _ = model.read(ids, backend=backend)
            losses = model.losses(y, ids, backend)
            torch.autograd.backward(losses, torch.ones_like(losses))
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return ids.numel() / min(seconds)
