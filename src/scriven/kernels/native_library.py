"""Loads the shared library of native kernels for this processor, and says which one it is and why.

The same sources are built into one library for each of VARIANTS. The best one that the processor can run is loaded.
`SCRIVEN_KERNELS` in the environment is `off` for none, or the highest level of instructions to use. It is read
once, when this module is first used.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scriven.errors import UsageError
from scriven.kernels.interface import expected_interface, library_file
from scriven.runtime import usual_threads

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

VARIABLE = "SCRIVEN_KERNELS"
# The values of the variable, the least demanding first: those of x86-64, and after them the two of arm64.
LEVELS = ("portable", "avx2", "avx512", "avx512bf16", "amx", "neondot", "neonbf16")
BF16_LEVELS = ("avx512bf16", "amx", "neonbf16")  # those that multiply bf16
SAME_FP32_LEVELS = ("avx2", "avx512", "avx512bf16", "amx")  # those that train to the same bits in fp32
UNTIMED_BF16_LEVELS = ("neonbf16",)  # those that were only emulated: nobody knows whether fp32 is slower there
FEATURES = (  # the bits of scriven_features
    *("avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"),
    *("neon_dot", "neon_bf16"),
)
_AVX2 = frozenset({"avx2"})
_AVX512 = _AVX2 | {"avx512", "avx512_vnni"}
_AVX512_BF16 = _AVX512 | {"avx512_bf16"}
# The level of each library, and the features that it needs; better libraries come later. Processors with AVX-512 but no
# VNNI count as avx2.
VARIANTS: dict[str, tuple[str, frozenset[str]]] = {
    "portable": ("portable", frozenset()),
    "avx2": ("avx2", _AVX2),
    "avxvnni": ("avx2", _AVX2 | {"avx_vnni"}),
    "avx512": ("avx512", _AVX512),
    "avx512bf16": ("avx512bf16", _AVX512_BF16),
    "amx": ("amx", _AVX512_BF16 | {"amx"}),
    "neondot": ("neondot", frozenset({"neon_dot"})),
    "neonbf16": ("neonbf16", frozenset({"neon_dot", "neon_bf16"})),
}
FOLDER = Path(__file__).parent
REPORT = "_native.txt"  # the build's message, written by hatch_build.py
FAILURES = {1: "an argument is not allowed", 2: "not enough memory"}


@dataclass(frozen=True)
class Native:
    """The library (or None), its level (`off` without one), the features that libraries can use here, and why."""

    library: ctypes.CDLL | None
    level: str
    features: frozenset[str]
    why: str


def library() -> ctypes.CDLL | None:
    """Returns the loaded library, or None without one.

    Raises UsageError for an unknown SCRIVEN_KERNELS.
    """
    return _native().library


def level() -> str:
    """Returns the level of the loaded library: one of LEVELS, or `off` without a library."""
    return _native().level


def multiplies_bf16() -> bool:
    """Whether the loaded library makes matrix products of bf16."""
    return level() in BF16_LEVELS


def multiplies_in_tiles() -> bool:
    """Whether the loaded library makes products of bf16 in tiles of 32 rows, as AMX does."""
    return level() == "amx"


def levels() -> tuple[str, ...]:
    """Returns all levels that run here, from the lowest up to `level()`; empty when that is `off`."""
    lower = LEVELS[: LEVELS.index(level()) + 1] if level() in LEVELS else ()
    here = {name for name, needs in VARIANTS.values() if needs <= features()}
    return tuple(name for name in lower if name in here)


def features() -> frozenset[str]:
    """Returns the FEATURES that the processor has and some library uses, at any level."""
    return _native().features


def why() -> str:
    """The reason for the level in use, as a sentence for people."""
    return _native().why


def declare(name: str, arguments: Sequence[Any], result: Any = None) -> Callable[..., Any]:
    """Declares a function of the library, with ctypes types `arguments`, and returns it.

    It returns a `result`. Without one, it returns a status, and any status but 0 raises RuntimeError. Arrays are passed
    by address (`c_void_p`). They must be alive, contiguous and of the right type: this is not checked here.
    Raises RuntimeError if there is no library, or it has no such function.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError(f"{name} needs the native library, but there is none: {why()}")
    return _declare(loaded, name, tuple(arguments), result)


@cache
def _declare(loaded: ctypes.CDLL, name: str, arguments: tuple[Any, ...], result: Any) -> Callable[..., Any]:
    """Declares a function of one library, once; see `declare`."""
    try:
        function = loaded[name]
    except AttributeError as error:
        raise RuntimeError(f"the native library has no {name}; build it again: python hatch_build.py") from error
    function.argtypes = list(arguments)
    function.restype = ctypes.c_int64 if result is None else result
    if result is None:
        function.errcheck = _check
    return function


class NativeStruct(ctypes.Structure):
    """Base of the structures that native code reads. native/calls.h has a struct of the same name and fields.

    Give every field by keyword: ctypes leaves missing ones at zero, and accepts names that are not fields. The tests
    check that. A tensor is passed by its address, and must be alive until the call is done.
    """

    def __init__(self, **values: Any) -> None:
        super().__init__(
            **{name: address(value) if hasattr(value, "data_ptr") else value for name, value in values.items()}
        )


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Returns fields of one ctypes type, whose names are in a text."""
    return [(name, kind) for name in names.split()]


def function_of(kind: type[NativeStruct]) -> Callable[[NativeStruct], int]:
    """Returns the function that takes a struct of this kind: scriven_sampler_write takes a SamplerWrite.

    Arrays are passed by address. They must be alive, contiguous and of the right type: this is not checked. The
    function raises RuntimeError if its status is not 0. Raises RuntimeError if there is no such function.
    """
    return declare(*_signature(kind))


def call(arguments: NativeStruct) -> None:
    """Calls the function that takes these arguments; see `function_of`."""
    function_of(type(arguments))(arguments)


def call_for_count(arguments: NativeStruct) -> int:
    """Calls a function like `call`, but returns its count; it has no status."""
    return int(declare(*_signature(type(arguments)), ctypes.c_int64)(ctypes.byref(arguments)))


@cache
def _signature(kind: type[NativeStruct]) -> tuple[str, tuple[Any]]:
    """Returns the name of the function that takes a struct, and the types of its arguments."""
    name = re.sub(r"(?=[A-Z])", "_", kind.__name__.lstrip("_")).lower()
    return f"scriven{name}", (ctypes.POINTER(kind),)


def find(asked: str, folder: Path = FOLDER) -> Native:
    """Loads the best library in a folder. `asked` is a value of SCRIVEN_KERNELS, such as the highest level; "" is any.

    Raises only UsageError, for an unknown level.
    """
    if asked not in ("", "off", *LEVELS):
        raise UsageError(f"{VARIABLE} is {asked!r}; it can be off, {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    if asked == "off":
        return Native(None, "off", frozenset(), f"none, as {VARIABLE}=off asks for")
    built = [variant for variant in VARIANTS if (folder / library_file(variant)).exists()]
    used = frozenset().union(*(VARIANTS[variant][1] for variant in built))
    try:  # the portable library runs on every processor, and reports the features of this one
        here = _features_named(_load(folder / library_file("portable")).scriven_features())
        chosen = _best_variant(here, built, asked or LEVELS[-1])
        loaded = _load(folder / library_file(chosen))
    except (OSError, AttributeError) as error:
        return Native(None, "off", frozenset(), f"none, which is slower: {_excuse(folder, error)}")
    (level, _), able, highest = VARIANTS[chosen], _best_variant(here, built), _best_variant(here, VARIANTS)
    return Native(loaded, level, here & used, _because(level, asked, VARIANTS[highest][0], VARIANTS[able][0]))


@cache
def _native() -> Native:
    return find(os.environ.get(VARIABLE, ""))


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name in ("scriven_interface", "scriven_features"):
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = [], ctypes.c_int64
    if str(loaded.scriven_interface()) != expected_interface(path.parent):
        raise OSError(f"{path.name} was built from sources of another version; {_way_out(path.parent)}")
    return loaded


def _way_out(folder: Path) -> str:
    return "build it again: python hatch_build.py" if (folder / "native").exists() else "install scriven again"


def _features_named(bits: int) -> frozenset[str]:
    return frozenset(name for place, name in enumerate(FEATURES) if bits >> place & 1)


def _best_variant(features: frozenset[str], built: Collection[str], most: str = LEVELS[-1]) -> str:
    """Returns the best variant in `built` that these features allow, up to the level `most`."""
    lower = LEVELS[: LEVELS.index(most) + 1]
    able = [name for name, (level, needs) in VARIANTS.items() if level in lower and needs <= features and name in built]
    return able[-1] if able else "portable"


def _because(chosen: str, asked: str, here: str, able: str) -> str:
    if chosen != able:
        return f"{VARIABLE}={asked} lets kernels use {chosen} at most; {able} would run here"
    if able != here:
        return f"the compiler of the kernels did not know {here}, which this processor has"
    return "the highest level that this processor has"


def _excuse(folder: Path, error: Exception) -> str:
    """The reason why there is no library: the build's message, or the error of loading."""
    if (folder / library_file("portable")).exists():
        return str(error)
    try:
        return (folder / REPORT).read_text("utf-8").strip()
    except OSError:
        return "native kernels were never built here (pip install builds them)"


def _check(status: Any, function: Any, arguments: tuple[Any, ...]) -> Any:
    if status:
        raise RuntimeError(f"{function.__name__} failed: {FAILURES.get(status, status)}")
    return status


class _Threads(threading.local):
    """The number of threads that `native_threads` set in the calling thread, or None."""

    count: int | None = None


_threads = _Threads()


def threads() -> int:
    """The number of threads that native code uses: set by `native_threads`, or else as many as torch, if it is there.

    Without torch, it is `usual_threads`. It changes no bit of native code's results. The number of torch's threads
    does change torch's results.
    """
    if _threads.count is not None:
        return _threads.count
    torch = sys.modules.get("torch")
    return usual_threads() if torch is None else int(torch.get_num_threads())


@contextmanager
def native_threads(count: int) -> Iterator[None]:
    """Makes native code that the calling thread calls use `count` threads while the context lasts."""
    before, _threads.count = _threads.count, count
    try:
        yield
    finally:
        _threads.count = before


def address(array: Any) -> int | None:
    """The address of a tensor's values; None for None."""
    return None if array is None else int(array.data_ptr())


def parallel_for(function: Callable[[int, int], object], count: int, least: int, threads: int) -> None:
    """Calls function(begin, end) for ranges that cover 0 .. count, in up to `threads` threads of `least` items or more.

    The first range runs in this thread, the others in a pool of threads. Returns when all have ended, even after an
    error; a second interrupt ends it early. The function must itself keep the arrays alive that it uses. Raises its
    errors.
    """
    shares = max(1, min(threads, count // least))
    each = -(-count // shares // least) * least
    jobs = [partial(function, begin, min(begin + each, count)) for begin in range(0, count, each)]
    if len(jobs) == 1:
        jobs[0]()
    else:
        _run_in_pool(jobs)


def _run_in_pool(jobs: Sequence[Callable[[], object]]) -> None:
    from concurrent.futures import wait  # noqa: PLC0415 - slow to import, and one thread needs no pool

    others = [_pool().submit(job) for job in jobs[1:]]
    try:
        jobs[0]()
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    return ThreadPoolExecutor(thread_name_prefix="scriven")


if hasattr(os, "register_at_fork"):  # a forked child has none of the pool's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
