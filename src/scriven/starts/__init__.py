"""Starts: general models that come with Scriven. A training can start from one instead of from random weights.

A start is a folder of this package. `start.json` describes it and has the hashes of its model's files; `card.md` says
what it was made from, under which licences, and how. The model is `settings.toml` (its table `model`),
`vocabulary.json` and `model.safetensors` (bf16).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path

from scriven import runtime, strict_json
from scriven.errors import InputError, UsageError, close_names, did_you_mean, join_names

DESCRIPTION_FILE, CARD_FILE = "start.json", "card.md"
SETTINGS_FILE, VOCABULARY_FILE, WEIGHTS_FILE = "settings.toml", "vocabulary.json", "model.safetensors"
MODEL_FILES = (WEIGHTS_FILE, SETTINGS_FILE, VOCABULARY_FILE)
AUTO, NONE = "auto", "none"  # what can stand in place of a start's name: choose one, and use none
SCHEME = "start:"  # begins a reference to a start, which has its name and hash
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
PACKAGED = Path(str(resources.files(__package__)))  # the folder of the starts that come with the package


@dataclass(frozen=True)
class Description:
    """The description of a start in its start.json."""

    title: str
    languages: str  # of the texts that it was trained on
    licence: str
    trained_characters: int
    files: dict[str, str]  # the SHA-256 of each file of its model


@dataclass(frozen=True)
class Start:
    """A start: its name, folder and description. The files of its model are read and checked when they are needed."""

    name: str
    folder: Path
    description: Description

    @property
    def sha256(self) -> str:
        """A hash of the hashes of its model's files."""
        return hashlib.sha256(json.dumps(self.description.files, sort_keys=True).encode()).hexdigest()

    @property
    def reference(self) -> str:
        """Its name and hash in one string, with which `from_reference` finds the same start again."""
        return f"{SCHEME}{self.name}@{self.sha256}"

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return (self.folder / WEIGHTS_FILE).stat().st_size

    def read_card(self) -> str:
        """Returns its card: Markdown on its texts, licences, training and losses."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file of its model. Raises InputError if it is missing or damaged."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; install scriven again") from None
        if hashlib.sha256(data).hexdigest() != self.description.files[name]:
            raise damage_error(path, "its SHA-256 is wrong")
        return data


def damage_error(path: Path, why: str) -> InputError:
    """Returns the error for a damaged file of a start."""
    return InputError(f"{path} is damaged: {why}; install scriven again")


def names() -> list[str]:
    """Returns the names of all starts, sorted."""
    return sorted(_folders())


def find(name: str) -> Start:
    """Returns the start of this name. Raises UsageError for an unknown one, InputError for a damaged one."""
    folder = _folders().get(name)
    if folder is None:
        there = f"there is {join_names(names())}" if names() else "this version has none"
        raise UsageError(f"there is no start {name!r}; {there}{did_you_mean(close_names(name, names()))}")
    path = folder / DESCRIPTION_FILE
    try:
        values = strict_json.parse(path.read_text(encoding="utf-8"))
        description = Description(**{each.name: values[each.name] for each in fields(Description)})
        _check(description)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damage_error(path, f"{type(error).__name__}: {error}") from None
    return Start(name, folder, description)


def is_reference(text: str) -> bool:
    """Whether a string is a reference to a start, rather than the folder of a run."""
    return text.startswith(SCHEME)


def name_of(reference: str) -> str:
    """Returns the name in a reference to a start."""
    return reference.removeprefix(SCHEME).partition("@")[0]


def from_reference(reference: str) -> Start:
    """Returns the start of a reference. Raises InputError if it no longer exists, or has changed."""
    name, sha256 = name_of(reference), reference.partition("@")[2]
    if name not in names():
        raise InputError(f"the start {name!r} is not in this version of scriven; install the version that has it")
    start = find(name)
    if start.sha256 != sha256:
        raise InputError(
            f"the start {name} of this version of scriven has the hash {start.sha256[:12]}, not {sha256[:12]}; install "
            "the version that the run was made with"
        )
    return start


def write(
    folder: Path,
    *,
    title: str,
    languages: str,
    licence: str,
    trained_characters: int,
    card: str,
    model: Mapping[str, bytes],
) -> Start:
    """Writes a start into a new folder, which is named like it. `model` has the bytes of its model's files by name."""
    if not NAME.fullmatch(folder.name) or folder.name in (AUTO, NONE) or sorted(model) != sorted(MODEL_FILES):
        raise ValueError(f"{folder.name} with {sorted(model)} is no start")
    hashes = {name: hashlib.sha256(model[name]).hexdigest() for name in MODEL_FILES}
    description = Description(title, languages, licence, trained_characters, hashes)
    folder.mkdir(parents=True)
    for name, data in model.items():
        (folder / name).write_bytes(data)
    (folder / CARD_FILE).write_text(card, encoding="utf-8", newline="\n")
    text = json.dumps(asdict(description), indent=1, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8", newline="\n")
    return Start(folder.name, folder, description)


def _check(description: Description) -> None:
    """Raises ValueError for values of other types."""
    words = (description.title, description.languages, description.licence, *description.files.values())
    if sorted(description.files) != sorted(MODEL_FILES) or not all(isinstance(each, str) for each in words):
        raise ValueError("it has other values than a start's")
    if type(description.trained_characters) is not int:
        raise ValueError("trained_characters is not a whole number")


def _folders() -> dict[str, Path]:
    """Returns the folders of all starts by name: those of the package, and those in the folder of SCRIVEN_STARTS."""
    places = [PACKAGED, *filter(None, [runtime.starts_folder()])]
    found = [each for place in places if place.is_dir() for each in place.iterdir()]
    return {each.name: each for each in found if NAME.fullmatch(each.name) and (each / DESCRIPTION_FILE).is_file()}
