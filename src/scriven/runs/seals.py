"""Hashes of a run's settings and vocabulary, which every checkpoint has of those that it was saved with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scriven.vocabulary import Vocabulary

SEALS_KEPT = 200  # hashes of settings that a run had before it was extended; each takes 68 bytes of settings.toml


@dataclass(frozen=True)
class Seals:
    """What a checkpoint of a run may say of the files beside it: its vocabulary's hash, and one of the settings'."""

    vocabulary: str
    settings: tuple[str, ...]  # the last one is that of the settings now


def vocabulary_seal(vocabulary: Vocabulary) -> str:
    """A hash of what a vocabulary means, however it is written."""
    return _hashed([vocabulary.unit, vocabulary.symbols, vocabulary.separator])


def settings_seal(values: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """A hash of the values in settings.toml and of its run table, which has the seals beside `origin`."""
    return _hashed([values, origin])


def extended(before: Sequence[str], now: str) -> tuple[str, ...]:
    """The seals of settings that take the place of others, whose checkpoints are still there."""
    return (*(seal for seal in before if seal != now), now)[-SEALS_KEPT:]


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
