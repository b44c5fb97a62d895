"""Which encoding a text is likeliest in that is not UTF-8: by charset-normalizer where it is installed, else simply."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence

LOOKED_AT = 1 << 15  # bytes before and after the first one that is wrong
MOST_GUESSES = 3
WESTERN = ("cp1252", "iso8859-1")
OTHERS = ("shift_jis", "gb18030", "big5", "euc_kr", "euc_jp", "cp1251", "koi8-r")
FEWEST = 4  # bytes above 127 that tell of other letters than Latin ones
MOSTLY = 0.4  # a share of bytes above 127 that texts in Latin letters do not have
_USUAL = set("‘’‚“”„–—…•€£©®°§«»¿¡ª№·、。「」『』！？（）：；，　ー～½¼´")


def likeliest(data: bytes, place: int) -> list[str]:
    """The likeliest encodings of a text that has a byte at `place` that is not of UTF-8; a few, the likeliest first."""
    sample = data[max(0, place - LOOKED_AT) : place + LOOKED_AT]
    high = sum(byte > 127 for byte in sample)
    letters = sum(byte > 32 for byte in sample)
    many = high >= FEWEST and high > MOSTLY * letters
    order = (*OTHERS, *WESTERN) if many else (*WESTERN, *OTHERS)
    shares = {name: _plausible(sample, name) for name in order}
    found = [name for name in sorted(order, key=lambda name: -shares[name]) if shares[name]]
    detected = _detected(sample)
    # Of few letters beyond ASCII a detector knows little, and texts that have those are mostly Western.
    both = [*detected, *found] if many else [*found[:1], *detected, *found[1:]]
    return list(dict.fromkeys(both))[:MOST_GUESSES]


def _plausible(data: bytes, encoding: str) -> float:
    """The share of characters beyond ASCII that texts usually have; 0 where it is another encoding, or seems so."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)  # what is cut at its end is waited for
    except UnicodeDecodeError:
        return 0.0
    beyond = [character for character in text if character > "\x7f"]
    usual = [unicodedata.category(character)[0] == "L" or character in _USUAL for character in beyond]
    share = round(sum(usual) / max(1, len(usual)), 1)
    return share if share > 0.9 else 0.0


def _detected(data: bytes) -> Sequence[str]:
    try:
        from charset_normalizer import from_bytes  # noqa: PLC0415 (optional)
    except ImportError:
        return []
    found = [codecs.lookup(match.encoding).name for match in from_bytes(data)]
    return [name for name in found if not name.startswith("utf") and _has_ascii(name)]


def _has_ascii(encoding: str) -> bool:
    """Whether ASCII is the same in an encoding; in those of mainframes it is not, and no text is in one by chance."""
    return b"Az09 .,".decode(encoding, "replace") == "Az09 .,"
