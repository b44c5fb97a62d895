"""Codec error handlers for lone surrogates (halves of characters), when encoding and when decoding.

Python has two such handlers, and each refuses input that the other accepts. With `surrogateescape`, U+DC80..U+DCFF
mean bytes that are not UTF-8. With `surrogatepass`, every lone surrogate takes three bytes.
"""

from __future__ import annotations

import codecs

REPLACEMENT = 0xFFFD  # U+FFFD, shown in place of bytes that are no character
WRITTEN = "scriven-written"  # for encoding: as `surrogateescape`; anything that it refuses, as `surrogatepass`
STRAYS = "scriven-strays"  # for decoding from any encoding: each invalid byte becomes U+DC00 plus its value
SHOWN = "scriven-shown"  # for decoding: as `surrogatepass`; anything that it refuses becomes U+FFFD


def _encode_error(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    half = error.object[error.start]
    way = "surrogateescape" if "\udc80" <= half <= "\udcff" else "surrogatepass"
    return half.encode("utf-8", way), error.start + 1


def _decode_error(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    data = error.object[error.start : error.start + 3]
    if len(data) == 3 and data[0] == 0xED and 0xA0 <= data[1] <= 0xBF and 0x80 <= data[2] <= 0xBF:
        return chr((data[0] & 0x0F) << 12 | (data[1] & 0x3F) << 6 | data[2] & 0x3F), error.start + 3
    return chr(REPLACEMENT), error.end


def _strays(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(WRITTEN, _encode_error)
codecs.register_error(STRAYS, _strays)
codecs.register_error(SHOWN, _decode_error)
