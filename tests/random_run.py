"""Runs with random weights, of any settings, that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scriven.model.language_model import make_model
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary

LETTERS = "\n ,abcdehlort"


def make_random_run(folder: Path, vocabulary: Vocabulary | None = None, **sections: dict[str, Any]) -> Path:
    """Makes a run whose predictions depend strongly on what it has read. `sections` are those of settings."""
    vocabulary = vocabulary or Vocabulary.of(LETTERS)
    model_settings = {"width": 8, "layers": 2, **sections.pop("model", {})}
    settings = validate({"model": model_settings, **sections})
    torch.manual_seed(1)
    model = make_model(settings.model, vocabulary.size)
    large = ("head.weight", "embedding.weight") if settings.model.tied else ("head.weight",)
    weights = {name: each * 8 if name.endswith(large) else each for name, each in model.state_dict().items()}
    run = create_run(folder, settings, vocabulary, {"texts": ["/home/ann/secret.txt"], "corpus": "/home/ann/corpus"})
    run.save(weights, {}, {"step": 7, "validation": {}}, best=7)
    return folder
