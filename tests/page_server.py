"""Runs of tiny models of random weights whose files tell of a training, and the application that serves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fake_run import training
from scriven.corpus.build import build
from scriven.model import CharLM
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.runs import create_run
from scriven.server.app import NO_TRAININGS, OPEN, STREAMED, UPLOADS, make_app
from scriven.server.renewal import ServedCheckpoint
from scriven.server.security import Guard, policy
from scriven.server.trainings import TrainingPolicy
from scriven.settings_values import validate
from scriven.tokens import tokens_of
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary

LETTERS = "\n abcdefghijklmnopqrstuvwxyz.😀"
TEXT = "a tiny text.\nits lines end\n\nexcept the last 😀" * 30


def make_run(
    path: Path,
    *,
    seed: int = 1,
    documents: str = "none",
    unit: str = "character",
    letters: str = LETTERS,
    training_text: str = TEXT,
) -> Path:
    """The folder of a run that, as its files tell, trained to step 100."""
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": {"documents": documents, "unit": unit}})
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.with_suffix(".txt")
    text.write_text(training_text, "utf-8")
    corpus = build([str(text)], settings.corpus, path.with_suffix(".corpus"))
    separator = None if documents == "none" else "\n"
    vocabulary = {
        "byte": lambda: Vocabulary.of_bytes(separator),
        "token": lambda: Vocabulary.of_tokens(set(tokens_of(letters)) - {separator}, separator),
    }.get(unit, lambda: Vocabulary.of(letters, separator))()
    torch.set_num_threads(1)  # threads that wait for one another are slow where the machine has other work
    torch.manual_seed(seed)
    model = CharLM(settings.model, vocabulary.size)
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(8)  # so that what it has read matters
    run = create_run(path, settings, vocabulary, {"texts": [text.name], "corpus": str(corpus)})
    manifest = {"step": 100, "characters": 1, "validation": {"nats": 2.0, "characters": 1, "bytes": 1}}
    run.save(model.state_dict(), {}, manifest, best=100)
    for _ in consume(training(path, unit=unit), [FilesReport()]):
        pass
    return path


def app_of(
    runs: Mapping[str, Path],
    token: str | None = None,
    trainings: TrainingPolicy[ServedCheckpoint] = NO_TRAININGS,
) -> Guard:
    """What `scriven serve` makes of these runs."""
    app = make_app({name: load(path) for name, path in runs.items()}, runs=runs, trainings=trainings)
    return Guard(app, policy("127.0.0.1", token=token, open_paths=OPEN, streamed=STREAMED, uploads=UPLOADS))
