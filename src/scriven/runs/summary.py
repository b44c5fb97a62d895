"""Sums up a run for people: its text and model, how long it trained, its losses, a sample, how its texts begin.

Files of a run may come from strangers. A record with values of other types is skipped.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from scriven.corpus.store import Corpus, Part
from scriven.errors import InputError
from scriven.loss import Loss, kept_loss
from scriven.runs.folder import RUNS, SETTINGS_FILE, Run
from scriven.runs.journal import METRICS_FILE, SAMPLES_FILE, is_number, number_in, read_lines
from scriven.safe_files import exists
from scriven.vocabulary import Vocabulary

STEPPED = b'"event":"stepped"'  # marks the lines that a summary does not need, which are most
BEGINNINGS = 4  # shown at most
LONGEST_BEGINNING = 36  # characters
SEARCHED = 2000  # characters at each place of the text, among which the longest paragraph is found
UNREADABLE = "\ufffd"  # what a damaged character was decoded to
LOSS_FIELDS = {each.name for each in fields(Loss)}


@dataclass
class Summary:
    """What a person asks about a run."""

    trained: float | None = None  # when its training wrote last, in seconds of the clock
    seconds: float | None = None  # of training
    reason: str = ""  # why it ended: budget or interrupted; "" if it has not
    parameters: int = 0
    training_characters: int = 0
    validation_characters: int = 0
    finals: list[tuple[str, str, Loss]] = field(default_factory=list)  # protocol, model and loss of the kept model
    loss: Loss | None = None  # of the kept model as it is used, on validation text; see `network_alone`
    network_alone: bool = False  # whether `loss` is without the model's counts, as their mixture was not measured
    losses: list[float] = field(default_factory=list)  # of the network alone, nats per character, at each evaluation
    counted: bool = False  # whether counts of the text stood beside the network in its training
    mixed: bool = False  # whether they take part in the kept model
    sample: str = ""  # the last one, with its prompt
    damaged: int = 0  # lines of the log that are no events, of those that a summary needs

    def note_damage(self) -> None:
        """Counts a line of the log that is no event."""
        self.damaged += 1


def list_runs(folder: Path = RUNS) -> list[Path]:
    """Returns the folders of the runs in a folder, the one that was made last first."""
    found = [path for path in folder.glob("*") if exists(path / SETTINGS_FILE)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path / SETTINGS_FILE).lstat().st_mtime, reverse=True)


def summarize(run: Run) -> Summary:
    """Returns what the logs of a run say. Raises InputError if a log cannot be read."""
    summary, log = Summary(), run.path / METRICS_FILE
    finals = list[tuple[str, str, Loss]]()  # protocol, model and loss
    for record in read_lines(log, STEPPED, summary.note_damage):
        summary.seconds = number_in(record, "seconds") or summary.seconds
        event, loss = record.get("event"), _loss(record, "best" if record.get("event") == "finished" else "loss")
        if event == "started":
            summary.reason = ""
            _note_start(summary, record)
        elif event in ("evaluated", "compared") and loss and record.get("final"):
            finals.append((str(record.get("protocol")), str(record.get("model", "network")), loss))
        elif event == "evaluated" and loss:
            summary.losses.append(loss.nats_per_char)
            if record.get("best") is True:  # of another model than the final losses of a training before
                summary.loss, finals = loss, []
        elif event == "finished":
            summary.reason, summary.loss = str(record.get("reason")), loss or summary.loss
    summary.finals = finals
    _note_kept_model(run, summary, finals)
    summary.trained = log.lstat().st_mtime if exists(log) else None
    for record in read_lines(run.path / SAMPLES_FILE):
        if isinstance(record.get("prompt"), str) and isinstance(record.get("text"), str):
            summary.sample = record["prompt"] + record["text"]
    return summary


def _note_kept_model(run: Run, summary: Summary, finals: list[tuple[str, str, Loss]]) -> None:
    """Notes the loss of the kept model, and whether it is a mixture. A run without a log has them in its checkpoint."""
    manifest: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        manifest = run.checkpoint("best").manifest
    summary.mixed = bool(manifest.get("mixture")) or any(model == "mixture" for _, model, _ in finals)
    measured = summary.loss or _loss(manifest, "validation")
    if measured or finals:
        nothing = Loss(0.0, 0)
        summary.loss, summary.network_alone = kept_loss(finals, mixed=summary.mixed, otherwise=measured or nothing)


def _note_start(summary: Summary, record: dict[str, Any]) -> None:
    for name in ("parameters", "training_characters", "validation_characters"):
        setattr(summary, name, int(number_in(record, name) or 0))
    summary.counted = record.get("counts") is True


def _loss(record: dict[str, Any], name: str) -> Loss | None:
    """Returns the loss in a record, unless it counts no characters."""
    values = record.get(name)
    if not isinstance(values, dict) or not all(map(is_number, values.values())):
        return None
    known = {key: value for key, value in values.items() if key in LOSS_FIELDS}
    return Loss(**{"nats": 0.0, "characters": 0} | known) if known.get("characters") else None


# --- beginnings of texts


def find_beginnings(run: Run, summary: Summary) -> list[str]:
    """Returns starts of paragraphs or documents of the training text, from evenly spread places.

    If the text is no longer on this machine, they are of the last sample that the model wrote in its training.
    """
    found = list[str]()
    with contextlib.suppress(InputError, OSError, IndexError):
        if isinstance(run.corpus_path, Path):
            corpus = Corpus.open(run.corpus_path)
            if run.origin.get("text") in {None, corpus.text_hash}:
                found = list(_starts(corpus.training, corpus.vocabulary))
    if not found:
        found = [_shorten(each, LONGEST_BEGINNING) for each in _paragraphs(summary.sample)]
    return list(dict.fromkeys(each for each in found if each.strip() and UNREADABLE not in each))[:BEGINNINGS]


def _starts(part: Part, vocabulary: Vocabulary) -> Iterator[str]:
    for number in range(BEGINNINGS):
        place = number / BEGINNINGS
        if part.documents:
            (first,), (length,) = part.bounds(np.array([int(place * part.documents)]))
            text = vocabulary.decode(part.read(int(first), min(int(length), SEARCHED)))
            yield _shorten(text, min(LONGEST_BEGINNING, len(text) // 2))  # a name is left for the model to end
        else:
            first = int(place * part.characters)
            text = vocabulary.decode(part.read(first, min(SEARCHED, part.characters - first)))
            whole = _paragraphs(text)[number > 0 :]  # the first one begins before this place
            yield _shorten(max(whole, key=len) if whole else text.partition(" ")[2] or text, LONGEST_BEGINNING)


def _paragraphs(text: str) -> list[str]:
    """Splits a text at its empty lines; without any, at its lines, and one long line at the ends of its sentences."""
    for border in (r"\n\s*\n", r"\n", r"(?<=[.!?。])\s*"):
        if len(parts := [part for part in re.split(border, text) if part.strip()]) > 1:
            return parts
    return [text]


def _shorten(text: str, most: int) -> str:
    """Returns the first words of a text; the first `most` characters where no space is among them."""
    text = text.strip("\n")
    head = text[:most]
    if most >= len(text) or text[most].isspace():
        return head
    return (head.rsplit(None, 1) or [""])[0]
