r"""A given alphabet: the characters that a model is to know, from a dictionary file.

The file is JSON - a list of characters, an object whose keys they are, or an object with such a list under "symbols",
as a run's `vocabulary.json` has it - or plain text, one character a line; a line may be a single space. What cannot
stand in a line, or is not seen in one, is written \n, \r, \t, \\, \x20, \u0020 or \U00000020 there.

Names in angle brackets, such as <unk> or </s>, are no characters and are left out; so are repetitions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scriven.corpus.line_ends import split_lines
from scriven.errors import InputError

_SPECIAL = re.compile(r"<.+>")
_ESCAPE = re.compile(r"\\([nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(0[0-9a-fA-F]|10)[0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Alphabet:
    """Code points, strictly rising, and what else the file had in it."""

    symbols: tuple[int, ...]
    special: tuple[str, ...] = ()  # names in angle brackets, left out
    repeated: int = 0  # entries that were there before

    def notes(self) -> Iterator[str]:
        """What the user should know, a sentence each."""
        if self.special:
            yield f"left out of the alphabet, as names and not characters: {', '.join(self.special)}"
        if self.repeated:
            yield f"the alphabet repeats {self.repeated:,} of its characters"


def read_alphabet(path: Path) -> Alphabet:
    """The alphabet in a file.

    Raises InputError when it cannot be read, names something that is not one character, or has none.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the alphabet {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the alphabet {path} is not UTF-8 at byte {error.start}; convert it") from None
    entries = _in_json(text, path)
    return _alphabet(_in_lines(text) if entries is None else entries, path)


def _alphabet(entries: Iterable[Any], path: Path) -> Alphabet:
    symbols, special, count = set[int](), list[str](), 0
    for entry in entries:
        if isinstance(entry, str) and len(entry) == 1:
            symbols.add(ord(entry))
            count += 1
        elif isinstance(entry, str) and _SPECIAL.fullmatch(entry):
            special.append(entry)
        else:
            raise InputError(f"the alphabet {path} has {entry!r} in it, which is not one character; remove it")
    if not symbols:
        raise InputError(f"the alphabet {path} has no character in it; write one a line, or a JSON list of them")
    return Alphabet(tuple(sorted(symbols)), tuple(special), count - len(symbols))


def _in_json(text: str, path: Path) -> list[Any] | None:
    """The entries of a JSON list or object; none where the text is not that."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise InputError(f"the alphabet {path} is not JSON ({error}); mend it, or give it another suffix") from None
        return None
    if isinstance(values, dict):
        symbols = values.get("symbols")
        return symbols if isinstance(symbols, list) else list(values)
    return values if isinstance(values, list) else None


def _in_lines(text: str) -> Iterator[str]:
    """The entries of plain text, empty lines left out."""
    for entry in split_lines(text):
        if entry:
            yield entry.encode("ascii").decode("unicode_escape") if _ESCAPE.fullmatch(entry) else entry
