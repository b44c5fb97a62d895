"""Settings of the whole process: how threads wait, how memory is freed, the cache folder, errors of codecs, registries.

OpenMP reads the environment once, when torch is imported. So `import scriven` sets it before that, for the command line
and for Python alike. This is the only module outside the command line that reads and changes the environment.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import functools
import importlib
import importlib.util
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scriven.errors import UsageError


def cache_folder() -> Path:
    """Returns the folder for files that can be made again: that in SCRIVEN_CACHE, or the user's cache."""
    if named := os.environ.get("SCRIVEN_CACHE"):
        return Path(named).absolute()
    from platformdirs import user_cache_path  # noqa: PLC0415 - most commands need no cache, and it is slow to import

    return user_cache_path("scriven", appauthor=False)


DEFAULT_FROM = "auto"  # what a new training starts from unless --from says it: none, auto, or a start's name


def default_from() -> str:
    """Returns what a new training starts from by default: the variable SCRIVEN_FROM, or DEFAULT_FROM."""
    return os.environ.get("SCRIVEN_FROM") or DEFAULT_FROM


def starts_folder() -> Path | None:
    """Returns the folder with more starts than those of the package: the variable SCRIVEN_STARTS, or None."""
    folder = os.environ.get("SCRIVEN_STARTS")
    return Path(folder).absolute() if folder else None


# Threads that wait for one another sleep. If they kept the processor busy, a step would take 30 times as long while
# another program runs. Before it sleeps, a thread spins this many turns (about 0.1 ms): waking up for every piece of
# work costs a quarter of a step. Ten times as many turns gain little, and halve the speed while another program runs.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}

# oneDNN divides a matrix product among the threads that it asked for. If OpenMP gives it fewer, parts of the product
# are never computed, and the others depend on the number of threads: losses became NaN.
FEWER_THREADS = {"OMP_DYNAMIC": "TRUE", "OMP_MAX_ACTIVE_LEVELS": "0"}  # values that make OpenMP give fewer
THREAD_LIMIT = "OMP_THREAD_LIMIT"  # stays set: Scriven asks for no more threads than it allows
NO_THREAD_LIMIT = 2**31 - 1  # OpenMP's own default


def settle_environment() -> None:
    """Sets the environment so that waiting threads sleep and torch gets as many threads as it asks for.

    How threads wait is left alone if the environment sets it. Does nothing once torch has been imported.
    """
    if "torch" in sys.modules:
        return
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    for name, value in FEWER_THREADS.items():
        if os.environ.get(name, "").strip().upper() == value:
            del os.environ[name]
    if THREAD_LIMIT in os.environ:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        limit = min(thread_limit(), os.cpu_count() or 1)
        os.environ["OMP_NUM_THREADS"] = str(min(limit, int(asked)) if asked.isdecimal() and int(asked) else limit)


def thread_limit() -> int:
    """Returns the largest number of threads that the environment lets OpenMP give this process."""
    limit = os.environ.get(THREAD_LIMIT, "").strip()
    return int(limit) if limit.isdecimal() and int(limit) else NO_THREAD_LIMIT


def available_cores() -> int:
    """The number of cores that this process may use, but no more than the threads that OpenMP allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, thread_limit())


def usual_threads() -> int:
    """The number of threads that native code uses by default: as many as cores, or OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    return min(available_cores(), int(asked)) if asked.isdecimal() and int(asked) else available_cores()


def allow_threads(count: int) -> None:
    """Makes OpenMP give the calling thread as many threads as it asks for, up to `count`.

    This also works if torch was imported first. Raises UsageError if OMP_THREAD_LIMIT is below `count`.
    """
    if count > (limit := thread_limit()):
        raise UsageError(
            f"training.threads is {count}, but {THREAD_LIMIT} in the environment allows {limit}; unset it (another "
            f"number of threads would change the run's last bits), or give --training.threads {limit}"
        )
    library = _library()
    if library is not None:
        library.omp_set_dynamic(0)
        library.omp_set_max_active_levels(max(1, library.omp_get_max_active_levels()))


def _library() -> Any:
    """Returns the OpenMP library that torch has loaded; None if it is not found, as on Windows."""
    try:
        library = ctypes.CDLL(None)
        assert library.omp_set_dynamic and library.omp_set_max_active_levels
    except (OSError, AttributeError, TypeError):
        return None
    return library


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)
NEVER = -1
USUAL_PAD_BYTES = 128 * 1024
PROBE_BYTES = 16 << 20  # larger than the heap's free space, so that it grows; too small for a mapping of its own


def keep_buffers(threshold_bytes: int) -> None:
    """Keeps freed buffers below this size mapped for reuse; larger ones return to the system at once.

    By default glibc moves this threshold while the program runs. Large buffers then lie among small ones, and the holes
    between them keep growing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, threshold_bytes)
            mallopt(M_TRIM_THRESHOLD, NEVER)


@functools.cache  # a second call would reserve twice
def use_huge_pages(reserved_bytes: int) -> None:
    """Makes Linux use huge pages for at least the next `reserved_bytes` of large buffers, if it has huge pages.

    This reserves addresses only; memory is taken when it is used. It suits a process that keeps its buffers. Glibc can
    do this by itself, but only if an environment variable asks for it before the process starts.
    """
    if sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.sbrk.restype, libc.malloc.restype = ctypes.c_void_p, ctypes.c_void_p
            begin = libc.sbrk(0)  # where the heap ends
            libc.mallopt(M_TOP_PAD, reserved_bytes)  # all at once: later growth would be another mapping
            libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(PROBE_BYTES))))
            libc.mallopt(M_TOP_PAD, USUAL_PAD_BYTES)
            begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, libc.sbrk(0)
            if end > begin:
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)


# --- how codecs treat lone surrogates (halves of characters), when encoding and when decoding

# Python has two such handlers, and each refuses input that the other accepts. With `surrogateescape`, U+DC80..U+DCFF
# mean bytes that are not UTF-8. With `surrogatepass`, every lone surrogate takes three bytes.
REPLACEMENT = 0xFFFD  # U+FFFD, shown in place of bytes that are no character
WRITTEN = "scriven-written"  # for encoding: as `surrogateescape`; anything that it refuses, as `surrogatepass`
STRAYS = "scriven-strays"  # for decoding from any encoding: each invalid byte becomes U+DC00 plus its value
SHOWN = "scriven-shown"  # for decoding: as `surrogatepass`; anything that it refuses becomes U+FFFD


def _encode_error(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    half = error.object[error.start]
    way = "surrogateescape" if "\udc80" <= half <= "\udcff" else "surrogatepass"
    return half.encode("utf-8", way), error.start + 1


def _decode_error(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    data = error.object[error.start : error.start + 3]
    if len(data) == 3 and data[0] == 0xED and 0xA0 <= data[1] <= 0xBF and 0x80 <= data[2] <= 0xBF:
        return chr((data[0] & 0x0F) << 12 | (data[1] & 0x3F) << 6 | data[2] & 0x3F), error.start + 3
    return chr(REPLACEMENT), error.end


def _strays(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(WRITTEN, _encode_error)
codecs.register_error(STRAYS, _strays)
codecs.register_error(SHOWN, _decode_error)


# --- torch, which only training needs

TRAIN_EXTRA = "pip install 'scriven[train]'"


@contextlib.contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Makes a failed import of torch, in this context, a UsageError that says `what` needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not lacks_torch(error):
            raise
        raise UsageError(explain_torch(what)) from None


def lacks_torch(error: BaseException) -> bool:
    """Whether an error is that torch is not installed."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torch"


def explain_torch(what: str) -> str:
    """Returns a sentence that something needs torch, which is not installed, with the way out."""
    return f"{what} needs torch, which is not installed; install it with: {TRAIN_EXTRA}"


def has_torch() -> bool:
    """Whether torch can be imported; it is not imported."""
    return sys.modules.get("torch") is not None or importlib.util.find_spec("torch") is not None


def may_have_gpu() -> bool:
    """Whether this machine may have a GPU that torch can use: a driver is there, or the system does not show it."""
    drivers = "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvmap", "/dev/dxg", "/dev/kfd"
    named = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return sys.platform == "win32" or named or any(map(os.path.exists, drivers))


def hub_endpoint() -> str:
    """Returns the address of the Hugging Face Hub: the variable HF_ENDPOINT, or the public one's."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


# --- trackers of trainings

# Unless the environment says otherwise, trackers write to this machine alone, and report nothing to their makers.
TRACKERS = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # of trackio's libraries
}


def keep_trackers_offline() -> None:
    """Sets the environment so that trackers use no network; a variable that is set already stays as it is."""
    for name, value in TRACKERS.items():
        os.environ.setdefault(name, value)


# --- registries

IMPORTS = "SCRIVEN_IMPORT"  # names modules that register cells and optimizers, with commas between them
NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
MAIN = "__main__"  # what runs as a program, or in a notebook: no other process can import it


class Registered:  # no NamedTuple or dataclass: making one would double the time of this import
    """A cell or an optimizer that a program has registered.

    `module` is the one that registered it. `learning_rate` is an optimizer's, unless a training has another one.
    """

    def __init__(self, make: Callable[..., Any], module: str, learning_rate: float = 0.0) -> None:
        self.make, self.module, self.learning_rate = make, module, learning_rate

    @property
    def importable(self) -> bool:
        """Whether another process can register it too."""
        return self.module != MAIN


class Registry:
    """The values that a setting may have: those of Scriven itself, and those that programs have registered."""

    def __init__(self, setting: str, own: Sequence[str]) -> None:
        self.setting, self.own = setting, tuple(own)
        self.registered: dict[str, Registered] = {}

    def add(self, name: str, registered: Registered) -> None:
        """Registers a name, or registers it again. Raises UsageError for a name that is not allowed."""
        if name in self.own:
            raise UsageError(f"{name} is Scriven's own {self.setting}, which cannot be replaced; choose another name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a {self.setting}; choose lower-case letters, digits, - and _")
        if not callable(registered.make):
            raise UsageError(f"{name}: {registered.make!r} cannot be called; give a class or a function")
        self.registered[name] = registered

    def find(self, name: str) -> Registered | None:
        """Returns what was registered under a name, after importing SCRIVEN_IMPORT; None for other names."""
        if name not in self.registered and name not in self.own:
            import_modules()
        return self.registered.get(name)

    def knows(self, name: str) -> bool:
        """Whether a name is Scriven's own or registered."""
        return name in self.own or self.find(name) is not None

    @property
    def names(self) -> list[str]:
        """All names that are known now."""
        return [*self.own, *self.registered]


def name_imports(modules: Sequence[str]) -> None:
    """Adds modules to SCRIVEN_IMPORT, for this process and those that it starts."""
    os.environ[IMPORTS] = ",".join(dict.fromkeys([*_named_imports(), *modules]))


def import_modules() -> None:
    """Imports the modules that SCRIVEN_IMPORT names, from the current folder too. Raises UsageError."""
    named = [name for name in _named_imports() if name not in sys.modules]
    if named and not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    for name in named:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise UsageError(
                f"the module {name}, which --import or {IMPORTS} names, cannot be imported: {error} "
                f"({type(error).__name__})"
            ) from error


def imports_for_workers(registries: Sequence[Registry]) -> dict[str, str]:
    """Returns the environment for workers that register the same as this process, by importing the same modules."""
    found = [each.module for registry in registries for each in registry.registered.values() if each.importable]
    modules = list(dict.fromkeys([*_named_imports(), *found]))
    path = os.pathsep.join(filter(None, sys.path))  # where this process found them
    return {IMPORTS: ",".join(modules), "PYTHONPATH": path} if modules else {}


def _named_imports() -> list[str]:
    return [name for name in os.environ.get(IMPORTS, "").split(",") if name]
