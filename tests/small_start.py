"""Makes small starts in a folder of their own, for tests: SCRIVEN_STARTS names it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import tomli_w
import torch
from torch.nn import functional

from scriven import starts
from scriven.model import CharLM
from scriven.runs.tensors import encode
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

MODEL = ModelSettings(width=24, layers=1)
STEPS, ROWS, LENGTH = 120, 16, 24


def use_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test see the starts of a folder, and none of the package."""
    monkeypatch.setenv("SCRIVEN_STARTS", str(folder))
    monkeypatch.setattr(starts, "PACKAGED", folder / "none")


def make_start(
    folder: Path, text: str, name: str = "tiny", model: ModelSettings = MODEL, without: Sequence[str] = ()
) -> starts.Start:
    """Trains a start on a text for a second and writes it; a process trains each one once."""
    vocabulary, weights = _trained(text, model.model_dump_json(), tuple(without))
    return write_start(folder / name, model, vocabulary, weights, characters=len(text))


@cache
def _trained(text: str, settings: str, without: Sequence[str]) -> tuple[Vocabulary, dict[str, torch.Tensor]]:
    vocabulary = Vocabulary.of("".join(sorted(set(text) - set(without))))
    torch.manual_seed(1)
    lm = CharLM(ModelSettings.model_validate_json(settings), vocabulary.size)
    ids = torch.from_numpy(vocabulary.clamp(vocabulary.encode(text)))
    optimizer = torch.optim.Adam(lm.parameters(), 0.02)
    for _ in range(STEPS):
        firsts = torch.randint(len(ids) - LENGTH, (ROWS,))
        rows = torch.stack([ids[first : first + LENGTH + 1] for first in firsts.tolist()], 1)  # (T + 1, N)
        logits, _ = lm(rows[:-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return vocabulary, {each: value.bfloat16() for each, value in lm.state_dict().items()}


def write_start(
    folder: Path, model: ModelSettings, vocabulary: Vocabulary, weights: dict[str, torch.Tensor], characters: int = 1000
) -> starts.Start:
    """Writes a start with these weights, whether they fit or not."""
    files = {
        starts.SETTINGS_FILE: tomli_w.dumps({"model": model.model_dump()}).encode(),
        starts.VOCABULARY_FILE: vocabulary.to_json().encode(),
        starts.WEIGHTS_FILE: b"".join(encode(weights)),
    }
    return starts.write(
        folder,
        title="a start for tests",
        languages="English",
        licence="public domain",
        trained_characters=characters,
        card="# A start for tests\n",
        model=files,
    )
