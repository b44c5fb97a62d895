"""A small text, a corpus cache of each test's own, and one thread unless a test is about threads."""

import gc
import itertools
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import scriven  # noqa: F401 - before torch, whose threads then sleep while they wait; see scriven.runtime

# isort: split
import torch
from kernel_variants import VARIANTS, kernels_of

import fork_server
from scriven.cli import main
from scriven.kernels import native_library
from scriven.settings import REGISTERED_CELLS, REGISTERED_OPTIMIZERS

# A shell gives programs that it starts in the background an interrupt that is ignored; those that tests interrupt obey.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads that wait for one another are slow where the machine has other work, as other tests.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("scriven", settings.get_profile("thorough"), max_examples=50)
settings.load_profile("scriven")

pytest_plugins = ["browsing"]


LOWER_CASES = 3  # of a test, that are tried with each library of kernels below the best one


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make thorough` asks for beyond `make test`."""
    parser.addoption("--shift-seeds", type=int, default=0, help="add this to the seeds that tests set")
    parser.addoption("--thorough", action="store_true", help="try every case of tests that try a part of theirs")
    parser.addoption("--memory", action="store_true", help="leave out cases that read and write memory as others do")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage while tests are collected, and later in nothing that was imported: each process does so."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that are marked `thorough`, and most cases of tests with a `variant` or a `level` of kernels.

    With --memory, cases without native code are left out, too, and so is a case if each two of its values are tried
    together in other cases.

    Variants share their text and differ in instructions: three cases of each (first, middle, last) tell them apart. Of
    the best one all cases stay.
    """
    if config.getoption("--thorough"):
        return
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        chosen = getattr(item, "callspec", None) and item.callspec.params  # type: ignore[attr-defined]
        kernels = chosen and (chosen.get("variant") or chosen.get("level"))
        if kernels in ("off", *VARIANTS[:-1], *native_library.levels()[:-1]):
            cases.setdefault((item.nodeid.partition("[")[0], kernels), []).append(item)
    left_out = {id(item) for group in cases.values() for item in group} - {
        id(item) for group in cases.values() for item in _spread(group)
    }
    left_out |= set(map(id, thorough))
    if config.getoption("--memory"):
        left_out |= {id(item) for (_, kernels), group in cases.items() if kernels == "off" for item in group}
        left_out |= _beyond_pairs([item for item in items if id(item) not in left_out])
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


def _beyond_pairs(items: list[pytest.Item]) -> set[int]:
    """The cases of which each two values are tried together in cases before them, in a mixed order."""
    beyond, met = set[int](), set[object]()
    for item in sorted(items, key=lambda item: crc32(item.nodeid.encode())):
        case = getattr(item, "callspec", None)
        values = [("", ""), *sorted((name, repr(value)) for name, value in case.params.items())] if case else []
        pairs = {(item.nodeid.partition("[")[0], *pair) for pair in itertools.combinations(values, 2)}
        if pairs and pairs <= met:
            beyond.add(id(item))
        met |= pairs
    return beyond


def _spread(group: list[pytest.Item]) -> list[pytest.Item]:
    """The first, the last, and some between."""
    step = (len(group) - 1) / (LOWER_CASES - 1)
    return [group[round(step * number)] for number in range(LOWER_CASES)] if len(group) > LOWER_CASES else group


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """The library whose kernels the test uses; `off` for torch."""
    with kernels_of(request.param):
        yield request.param


def pytest_configure(config: pytest.Config) -> None:
    """Shifts the seeds of torch and numpy: what holds for one draw must hold for all.

    Hypothesis has an option of its own, --hypothesis-seed. It tries twice as many examples with --thorough.
    """
    if config.getoption("--thorough"):
        settings.load_profile("thorough")
    shift = config.getoption("--shift-seeds")
    if not shift:
        return
    manual_seed, default_rng = torch.manual_seed, np.random.default_rng

    def shifted(seed: object = None) -> np.random.Generator:
        return default_rng(seed + shift if isinstance(seed, int) else seed)  # type: ignore[arg-type]

    torch.manual_seed = lambda seed: manual_seed(seed + shift)
    np.random.default_rng = shifted


WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"


CACHES = itertools.count()


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a cache of each test's own: pytest would look through all of its folders to name one more."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or fills the user's cache."""
    (cache := caches / str(next(CACHES))).mkdir()
    monkeypatch.setenv("SCRIVEN_CACHE", str(cache))


@pytest.fixture(autouse=True)
def from_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings start from random weights unless a test says otherwise, and there are no starts but the package's."""
    monkeypatch.setenv("SCRIVEN_FROM", "none")
    monkeypatch.delenv("SCRIVEN_STARTS", raising=False)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is not there in others."""
    for registry in (REGISTERED_CELLS, REGISTERED_OPTIMIZERS):
        monkeypatch.setattr(registry, "registered", {})


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings take the machine to be of one speed and one core, in this process and in those that are forked.

    A file whose tests are about threads has a fixture of this name that does nothing.
    """
    fork_server.take_one_core(monkeypatch)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process save when they evaluate, however long they take; a test of the clock sets its own."""
    monkeypatch.setattr("scriven.training.budget.SaveClock.is_due", lambda _: False)


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of `python -m scriven` begin where torch is imported already."""
    fork_server.install(monkeypatch)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of 5,000 characters that a small model learns a little of in a few steps."""
    path = tmp_path / "book.txt"
    path.write_text((WORDS * 52)[:5000], encoding="utf-8")
    return path


class Done(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, where a new one would import torch first for seconds."""

    def run(*words: str) -> Done:
        capfd.readouterr()
        try:
            main(list(words))
        except SystemExit as end:
            return Done(int(end.code or 0), *capfd.readouterr())
        return Done(0, *capfd.readouterr())

    return run
