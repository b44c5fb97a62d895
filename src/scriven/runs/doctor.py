"""Checks a run's folder or a corpus for damage: reads every file in it, and compares it with its hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from scriven.corpus.header import NAME as CORPUS_FILE
from scriven.corpus.store import Corpus
from scriven.errors import InputError, ScrivenError
from scriven.inference.numpy_network import NumpyNetwork
from scriven.inference.predictor import in_torch
from scriven.model.shapes import GATES
from scriven.runs.checkpoints import Checkpoint
from scriven.runs.folder import CHECKPOINTS, INDEX_FILE, SETTINGS_FILE, VOCABULARY_FILE, Run, find_run, open_run
from scriven.runs.journal import METRICS_FILE, SAMPLES_FILE, read_lines
from scriven.runs.ngrams import COUNTS_FILE
from scriven.runs.tensors import Shapes, finite
from scriven.safe_files import exists
from scriven.settings_checks import check_complete

if TYPE_CHECKING:
    from scriven.inference.torch_network import TorchNetwork

SYMBOLS_READ = 256  # at most, when a model is run to check whether it overflows


@dataclass(frozen=True)
class Finding:
    """The result of checking one thing. A `note` is worth knowing but harmless."""

    part: str  # file or folder
    state: Literal["good", "note", "bad"]
    text: str


def find_run_or_corpus(name: str) -> Path:
    """Returns the folder of a corpus or run. Raises InputError, with the runs that there are, if there is none."""
    return Path(name) if exists(Path(name) / CORPUS_FILE) else find_run(name)


def examine(path: Path, *, corpus: bool = False) -> Iterator[Finding]:
    """Checks a run's folder or a corpus, and yields findings. With `corpus`, checks the corpus of a run too.

    Changes nothing, and follows no symbolic link. Damaged files give findings, never errors.
    """
    if (path / CORPUS_FILE).is_file():
        yield _try(str(path), lambda: _corpus(path))
        return
    try:
        run = open_run(path)
        check_complete(run.settings)
        expected = run.expected_contents()
    except ScrivenError as error:
        yield Finding(f"{SETTINGS_FILE}, {VOCABULARY_FILE}", "bad", str(error))
        return
    model = run.settings.model
    summary = f"{model.name}, {run.vocabulary.size:,} symbols"
    yield Finding(f"{SETTINGS_FILE}, {VOCABULARY_FILE}", "good", summary)
    if "counts" in run.origin or model.kind == "counts":
        yield _try(COUNTS_FILE, lambda: _counts(run))
    yield from _links(run)
    yield from filter(None, (_log(run.path / name) for name in (METRICS_FILE, SAMPLES_FILE)))
    yield from _checkpoints(run, expected)
    if corpus:
        yield _try(str(run.corpus_path), lambda: _corpus(run.corpus_path))


def _try(part: str, look: Callable[[], str]) -> Finding:
    """The finding that `look` returns for a part, or the error that it raises."""
    try:
        return Finding(part, "good", look())
    except (ScrivenError, OSError) as error:
        return Finding(part, "bad", str(error))


def _counts(run: Run) -> str:
    table = run.counts()
    return "" if table is None else f"{table.bytes:,} bytes, undamaged; contexts of up to {table.longest} symbols"


def _links(run: Run) -> Iterator[Finding]:
    """Findings for symbolic links in the folder; Scriven makes none and follows none."""
    for path in sorted([*run.path.iterdir(), *(run.path / CHECKPOINTS).glob("*")]):
        if path.is_symlink():
            yield Finding(str(path.relative_to(run.path)), "bad", "it is a symbolic link, which is not followed")


def _log(path: Path) -> Finding | None:
    """Returns a note on a log with damaged lines, if it has any; models need no log, and a link is found before."""
    damage = list[None]()
    if path.is_symlink():
        return None
    try:
        lines = sum(1 for _ in read_lines(path, note_damage=lambda: damage.append(None)))
    except (ScrivenError, OSError) as error:
        return Finding(path.name, "note", str(error))
    if not damage:
        return None
    return Finding(path.name, "note", f"damaged lines: {len(damage):,} and {lines:,} good ones, which are shown")


def _checkpoints(run: Run, expected: tuple[Shapes, int]) -> Iterator[Finding]:
    """Findings for the index, every checkpoint, and leftovers of killed saves."""
    yield _try(f"{CHECKPOINTS}/{INDEX_FILE}", lambda: _index(run))
    try:
        steps = run.steps()
    except InputError as error:
        yield Finding(CHECKPOINTS, "bad", str(error))
        return
    for step in steps:
        yield _try(f"{CHECKPOINTS}, step {step}", partial(_checkpoint, run, step, expected))
    left = sum(1 for _ in (run.path / CHECKPOINTS).glob(".step-*"))
    if left:
        yield Finding(CHECKPOINTS, "note", f"{left} folders that a killed save left; the next training removes them")


def _index(run: Run) -> str:
    if not run.steps():
        raise InputError(f"{run.path} has no checkpoint: nothing was saved before it ended")
    for which in ("best", "last"):
        run.checkpoint(which)
    index = run.index()
    return f"best is step {index.best}, last is step {index.last}"


def _checkpoint(run: Run, step: int, expected: tuple[Shapes, int]) -> str:
    checkpoint = run.checkpoint(step)
    checkpoint.verify(*expected)
    _run_once(run, checkpoint, expected[0])
    size = sum(file["bytes"] for file in checkpoint.manifest["files"].values())
    return f"{size:,} bytes, undamaged; all weights are finite, and so are the model's predictions"


def _run_once(run: Run, checkpoint: Checkpoint, shapes: Shapes) -> None:
    """Raises InputError if the model's predictions are not finite when it reads each of its symbols once."""
    network = NumpyNetwork(run.settings.model, run.vocabulary.size, checkpoint.arrays(shapes))
    ids = np.arange(min(run.vocabulary.size, SYMBOLS_READ))[:, None]  # (T, 1)
    logits, _ = (network if run.settings.model.cell in GATES else _in_torch(network)).read(ids, None, None)
    if not finite(logits):
        raise InputError(
            f"the model in {checkpoint.path} overflows: its weights are finite, but its predictions are not; "
            "use another checkpoint, or train again with a smaller learning rate"
        )


def _in_torch(network: NumpyNetwork) -> TorchNetwork:
    """Returns a network with a registered cell, which torch computes."""
    model = in_torch(network)
    from scriven.inference.torch_network import TorchNetwork  # noqa: PLC0415 - it imports torch

    return TorchNetwork(model, "fp32")


def _corpus(path: Path | str) -> str:
    opened = Corpus.open(path)
    opened.verify()
    return f"{opened.training.characters + opened.validation.characters:,} characters, undamaged"
