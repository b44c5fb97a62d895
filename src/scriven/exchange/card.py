"""The card of a model: Markdown that says what it is, its measured losses, and how to use it; nothing of its texts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from scriven.errors import InputError, UsageError
from scriven.inference.loading import weights_hash
from scriven.loss import Loss
from scriven.model.shapes import parameter_count
from scriven.runs.checkpoints import Checkpoint
from scriven.runs.folder import Run
from scriven.runs.journal import METRICS_FILE, read_lines
from scriven.runs.summary import Summary, summarize

LONGEST_LICENCE = 100  # characters
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:+()/&-]*")
KNOWN_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the hub writes those that it knows
KINDS = {"network": "network", "mixture": "network and counts", "counts": "counts alone"}
USE = """\
## Use

Scriven is free software for Python 3.11 and later; writing and scoring need no torch.

```sh
scriven pull {repo} -o {name}
scriven sample {name} --length 400
scriven score {name} FILE
```

In Python:

```python
import scriven

model = scriven.load("{name}")
print(model.sample("Once upon a time", length=400, temperature=0.8))
print(model.score("It was a dark and stormy night.").bits_per_char)
```

On a page of your own, with an API like OpenAI's: `scriven serve {name} --open`

As one file that any browser opens, offline: `scriven export {name} --to html`

In Hugging Face's transformers, after `scriven export {name} --to transformers -o exported`:

```python
import scriven.transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("exported"), AutoTokenizer.from_pretrained("exported")
```
"""


@dataclass(frozen=True)
class ModelCard:
    """What a card says of a run: the run itself, a checkpoint, its log, and what its author says."""

    run: Run
    checkpoint: Checkpoint
    summary: Summary
    repo: str  # USER/NAME, or the name of the run's folder
    licence: str = ""
    with_counts: bool = False
    fingerprint: tuple[int, str] = (0, "")  # the last logged step, and the short hash of its loss and gradient

    def write(self) -> str:
        """Returns the card as Markdown, which begins with the metadata that the hub reads."""
        name = self.repo.rpartition("/")[2]
        parts = [self._metadata(), f"# {name}\n\n{self._introduction()}\n", self._losses(), *self._damage()]
        parts.append(self._origin())
        return "\n".join([*parts, USE.format(repo=self.repo, name=name)])

    def _metadata(self) -> str:
        licence = self.licence.lower()
        known = bool(KNOWN_LICENCE.fullmatch(licence))
        values: dict[str, Any] = {"license": licence if known else "other"} if licence else {}
        values |= {"license_name": re.sub(r"[^a-z0-9.]+", "-", licence).strip("-")} if licence and not known else {}
        values |= {"library_name": "scriven", "pipeline_tag": "text-generation"}
        values |= {"tags": ["scriven", "recurrent", f"{self.run.vocabulary.unit}-level", *self._cells()]}
        lines = [f"{name}: {json.dumps(value)}\n" for name, value in values.items()]
        return f"---\n{''.join(lines)}---\n"

    def _cells(self) -> list[str]:
        model = self.run.settings.model
        return [model.cell] if model.kind == "network" else []

    def _introduction(self) -> str:
        model, vocabulary = self.run.settings.model, self.run.vocabulary
        unit = f"{vocabulary.unit}s"
        parameters = parameter_count(model, vocabulary.size)
        what = f"{model.name}, {parameters:,} parameters" if parameters else model.name
        version = re.sub(r"[^0-9A-Za-z.+-]", "", str(self.run.origin.get("scriven", "")))
        counts = ", mixed with counts of its training text" if self.with_counts and parameters else ""
        return (
            f"A small language model of {unit}: {what}, {vocabulary.size:,} symbols{counts}. It was made by Scriven "
            f"{version}, which trains recurrent models on a text of one's own."
        )

    def _losses(self) -> str:
        rows = [
            f"| {protocol} | {KINDS.get(kind, kind)} | {loss.bits_per_char:.4f} | {loss.nats_per_char:.4f} "
            f"| {loss.characters:,} |\n"
            for protocol, kind, loss in self._measured()
        ]
        if not rows:
            return "## Measured\n\nNo loss was measured.\n"
        return (
            "## Measured\n\nLosses on the validation part of the text, which the model was not trained on. Losses of "
            "different protocols, texts or vocabularies are not comparable.\n\n"
            "| protocol | model | bits per character | nats per character | characters |\n"
            f"| --- | --- | --- | --- | --- |\n{''.join(rows)}"
        )

    def _measured(self) -> list[tuple[str, str, Loss]]:
        """Returns protocol, model and loss of what is sent; if no final losses were measured, the last evaluation's."""
        alone = self.run.settings.model.kind == "counts"
        found = [each for each in self.summary.finals if self.with_counts or each[1] == "network"]
        if alone:
            found = [(protocol, "counts", loss) for protocol, _, loss in self.summary.finals]
        if not found:
            loss = Loss(**{"nats": 0.0, "characters": 0} | self.checkpoint.manifest.get("validation", {}))
            found = [("during training", "counts" if alone else "network", loss)]
        return [each for each in found if each[2].characters and math.isfinite(each[2].total_nats)]

    def _origin(self) -> str:
        training, manifest, summary = self.run.settings.training, self.checkpoint.manifest, self.summary
        step, mark = self.fingerprint
        read = manifest.get("characters")
        facts = {
            "licence, as its author says": self.licence,
            "text, by its SHA-256": self.run.origin.get("text", ""),
            "characters for training": f"{summary.training_characters:,}" * bool(summary.training_characters),
            "characters for validation": f"{summary.validation_characters:,}" * bool(summary.validation_characters),
            "characters read": f"{read:,}" if isinstance(read, int) else "",
            "step of this model": f"{self.checkpoint.step:,}",
            "minutes of training": f"{summary.seconds / 60:.1f}" if summary.seconds else "",
            "optimizer": training.optimizer if self._cells() else "",
            "seed": str(training.seed),
            "weights, by their SHA-256": weights_hash(self.run, self.checkpoint),
            f"fingerprint of step {step:,}": mark,
        }
        lines = [f"| {name} | {value} |\n" for name, value in facts.items() if value]
        sent = "Its weights, vocabulary and settings are here" + (", and the counts" if self.with_counts else "")
        return (
            f"## Made from\n\n| | |\n| --- | --- |\n{''.join(lines)}\n{sent}; not its text, samples, log or any name "
            "of a file. `settings.toml` has all settings. The same text, settings and version of Scriven give the same "
            "fingerprints on the same kind of processor.\n"
        )

    def _damage(self) -> list[str]:
        """Returns a line on what the card lacks if the log is damaged; none if it is whole."""
        if not self.summary.damaged:
            return []
        wanted = {
            "final losses": self.summary.finals,
            "numbers of characters": self.summary.training_characters,
            "minutes of training": self.summary.seconds,
            "fingerprints": self.fingerprint[1],
        }
        lost = ", ".join(name for name, value in wanted.items() if not value)
        return [f"The log of the training is damaged. Missing here: {lost or 'perhaps some of its final losses'}.\n"]


def make_card(run: Run, checkpoint: Checkpoint, repo: str, licence: str = "", *, with_counts: bool = False) -> str:
    """Returns the card of a run's checkpoint, as `scriven push` sends it. What a damaged log lacks is left out.

    Raises UsageError for a licence of other characters than names of licences have.
    """
    if licence and (len(licence) > LONGEST_LICENCE or not LICENCE.fullmatch(licence)):
        raise UsageError(f"--license {licence[:LONGEST_LICENCE]!r}: give its short name, such as cc-by-4.0 or mit")
    mixed = with_counts and (run.settings.model.kind == "counts" or checkpoint.mixture is not None)
    summary, fingerprint = _read_log(run)
    return mark_card(ModelCard(run, checkpoint, summary, repo, licence, mixed, fingerprint).write())


def _read_log(run: Run) -> tuple[Summary, tuple[int, str]]:
    """Returns what the log of a run says, as far as it can be read, and the last fingerprint in it, with its step."""
    summary, found = Summary(), (0, "")
    try:
        summary = summarize(run)
        summary.damaged = 0  # it is counted with the lines of steps here
        for record in read_lines(run.path / METRICS_FILE, note_damage=summary.note_damage):
            step, mark = record.get("step"), record.get("fingerprint")
            if isinstance(step, int) and isinstance(mark, str) and re.fullmatch("[0-9a-f]{8}", mark):
                found = (step, mark)
    except InputError:
        summary.note_damage()
    return summary, found


MARK = re.compile(r"\n<!-- as scriven push wrote it: ([0-9a-f]{16}) -->\n$")


def mark_card(card: str) -> str:
    """Returns a card with a mark at its end, by which `is_as_written` knows it. The repository's name is not in it."""
    return f"{card}\n<!-- as scriven push wrote it: {_hash_of(card)} -->\n"


def is_as_written(card: str) -> bool:
    """Whether a card on the hub is one that `mark_card` made, and unchanged."""
    mark = MARK.search(card)
    return mark is not None and mark[1] == _hash_of(card[: mark.start()])


def _hash_of(card: str) -> str:
    same = re.sub(r"scriven pull \S+", "scriven pull", card)  # a repository may be renamed
    return hashlib.sha256(same.encode()).hexdigest()[:16]
