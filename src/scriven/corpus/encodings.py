"""Bytes -> text in any of Python's encodings, piece by piece; and what a file is that is no text in that encoding."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from scriven.errors import InputError
from scriven.settings import CorpusSettings
from scriven.surrogates import STRAYS

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
    detected = _detect(sample)
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


def _detect(data: bytes) -> Sequence[str]:
    try:
        from charset_normalizer import from_bytes  # noqa: PLC0415 (optional)
    except ImportError:
        return []
    found = [codecs.lookup(match.encoding).name for match in from_bytes(data)]
    return [name for name in found if not name.startswith("utf") and _has_ascii(name)]


def _has_ascii(encoding: str) -> bool:
    """Whether ASCII is the same in an encoding; in those of mainframes it is not, and no text is in one by chance."""
    return b"Az09 .,".decode(encoding, "replace") == "Az09 .,"


MARK = "\ufeff"  # the byte order mark: it says how a text is encoded, and is none of it
FEW_ZEROS, ZERO_SHARE, SHORT_ZERO_SHARE = 8, 1 / 1000, 1 / 100
_STRAY = re.compile("[\udc00-\udcff]")  # what the error handlers make of a byte that is not of the encoding
ESCAPED = "iso2022"  # how the names of encodings begin that have escape sequences
ESCAPE_BYTES = 16  # of the longest escape sequence
MOST_ESCAPES = 1 << 16  # bytes of nothing but escape sequences
BYTE_ORDERS = {  # by encodings that need one of these at the beginning
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}
HAVE_ZEROS = ("utf-16", "utf-32")  # encodings of which zeros are parts of characters

UNPACK = "unpack it, and name the text files in it"
NO_TEXT = "name a file of text"
KINDS = {  # how files begin that people take for text, what that is, and what to do
    codecs.BOM_UTF32_LE: ("UTF-32 text", "read it with --corpus.encoding utf-32"),
    codecs.BOM_UTF32_BE: ("UTF-32 text", "read it with --corpus.encoding utf-32"),
    codecs.BOM_UTF16_LE: ("UTF-16 text", "read it with --corpus.encoding utf-16"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "read it with --corpus.encoding utf-16"),
    b"%PDF-": ("a PDF", "convert it to text, as with pdftotext"),
    b"PK\x03\x04": ("a ZIP archive", f"{UNPACK} (.docx and .epub are read as they are; save others as plain text)"),
    b"\x1f\x8b": (
        "compressed with gzip",
        "name it something.gz, and it is decompressed; a .tgz is a tar archive, to be unpacked with tar -xzf",
    ),
    b"\xfd7zXZ\x00": ("compressed with xz", "name it something.xz, and it is decompressed"),
    **{
        b"BZh%d1AY&SY" % level: ("compressed with bzip2", "name it something.bz2, and it is decompressed")
        for level in range(1, 10)
    },
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "name it something.zst, and it is decompressed"),
    b"\xd0\xcf\x11\xe0": ("an old Office file", "save it as plain text"),
    b"{\\rtf": ("an RTF file", "save it as plain text"),
    b"Rar!": ("a RAR archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"\x89PNG": ("a PNG image", NO_TEXT),
    b"\xff\xd8\xff": ("a JPEG image", NO_TEXT),
    b"GIF8": ("a GIF image", NO_TEXT),
    b"SQLite format 3\x00": ("an SQLite database", "export what has the text, as JSON lines or CSV"),
}
TAR_PLACE, TAR = 257, b"ustar"


def decode(
    chunks: Iterable[bytes], name: str, settings: CorpusSettings, count_invalid: Callable[[int], None], offset: int = 0
) -> Iterator[str]:
    """The text of the bytes of a source, piece by piece; `offset` is how many bytes of it come before them.

    Bytes that are not of the encoding are treated as `settings.invalid` says; how many those are goes to
    `count_invalid`. Raises InputError where they are not to be there, and for what is no text at all.
    """
    has_zeros = settings.encoding.startswith(HAVE_ZEROS)
    if settings.invalid == "strict" and settings.unit == "character" and not has_zeros:
        chunks = _check_text(chunks, name, settings.encoding, offset)
    if settings.encoding == "utf-8":
        return _decode_utf8(chunks, name, settings.invalid, count_invalid, offset)
    return _decode_other(chunks, name, settings, count_invalid, offset)


def drop_mark(text: str) -> str:
    """A text without the byte order mark at its start."""
    return text.removeprefix(MARK)


def drop_marks(pieces: Iterable[str], count_mark: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The pieces of one text without the byte order mark at its start, of which `count_mark` is told."""
    is_start = True
    for piece in pieces:
        if is_start and piece.startswith(MARK):
            count_mark()
            yield drop_mark(piece)
        else:
            yield piece
        is_start = is_start and not piece


def describe_marks(count: int, text: str = "the text") -> str:
    """Says that byte order marks were left out; `text` is what one was at the start of."""
    if count == 1:
        return f"a byte order mark at the start of {text} was left out"
    return f"{count:,} byte order marks at the start of sources were left out"


def _decode_utf8(
    chunks: Iterable[bytes], name: str, invalid: str, count_invalid: Callable[[int], None], offset: int
) -> Iterator[str]:
    """UTF-8 as text; an incomplete character at the end of a chunk waits for the next one."""
    held = seen = b""
    for chunk in itertools.chain(chunks, (b"",)):  # the empty one is the end
        data = held + chunk
        try:
            text, used = codecs.utf_8_decode(data, "strict", not chunk)
        except UnicodeDecodeError as error:
            if invalid == "strict":
                raise _not_of_the_encoding(name, "utf-8", offset, error, seen) from None
            text, used = codecs.utf_8_decode(data, "surrogateescape", not chunk)
            count_invalid(len(_STRAY.findall(text)))
            text = _STRAY.sub("\ufffd", text) if invalid == "replace" else text
        yield text
        held, offset = data[used:], offset + used
        seen = (seen + data[max(0, used - LOOKED_AT) : used])[-LOOKED_AT:]


def _decode_other(
    chunks: Iterable[bytes], name: str, settings: CorpusSettings, count_invalid: Callable[[int], None], offset: int
) -> Iterator[str]:
    """As `_decode_utf8`, of another encoding."""
    errors = "strict" if settings.invalid == "strict" else STRAYS
    decoder = codecs.getincrementaldecoder(settings.encoding)(errors)
    has_escapes, held = settings.encoding.startswith(ESCAPED), b""
    start, marks = b"", BYTE_ORDERS.get(settings.encoding, ())
    for chunk in itertools.chain(chunks, (b"",)):
        data = held + chunk
        start += chunk[: 4 - len(start)]
        cut = _safe_cut(data) if has_escapes and chunk else len(data)
        held = data[cut:]
        if len(held) > MOST_ESCAPES:
            raise InputError(
                f"{name} has nothing but escape sequences at byte {offset + cut:,}; is it {settings.encoding}?"
            )
        try:
            text = decoder.decode(data[:cut], not chunk)
        except UnicodeDecodeError as error:
            if marks and not start.startswith(marks):
                raise _no_byte_order(name, settings.encoding) from None
            raise _not_of_the_encoding(name, settings.encoding, offset + cut - len(error.object), error) from None
        except UnicodeError:  # UTF-16 and UTF-32 that do not say the order of their bytes
            raise _no_byte_order(name, settings.encoding) from None
        offset += cut
        if errors == STRAYS and (strays := len(_STRAY.findall(text))):
            count_invalid(strays)
            text = _STRAY.sub("\ufffd", text)
        yield text


def _safe_cut(data: bytes) -> int:
    """The last place in bytes that no escape sequence can reach over; Python's decoders keep 8 bytes of one at most."""
    place = len(data)
    while (begun := data.rfind(b"\x1b", max(0, place - ESCAPE_BYTES), place)) >= 0:
        place = begun
    return place


def _no_byte_order(name: str, encoding: str) -> InputError:
    return InputError(
        f"{name} does not begin with a byte order mark, as {encoding} must; say the order of its bytes with "
        f"--corpus.encoding {encoding}-le or {encoding}-be"
    )


def _not_of_the_encoding(
    name: str, encoding: str, before: int, error: UnicodeDecodeError, seen: bytes = b""
) -> InputError:
    """`before` is how many bytes of the source come before those of the error, and `seen` are the last of them."""
    likely = [each for each in likeliest(seen + error.object, len(seen) + error.start) if each != encoding]
    kept = "replace or --corpus.invalid bytes" if encoding == "utf-8" else "replace"
    guess = f"it is likeliest {' or '.join(likely)}; read it with --corpus.encoding {likely[0]}" if likely else ""
    way_out = guess or "read it with the --corpus.encoding that it has"
    is_cut = ", within a character that the text's end cuts off" if error.reason == "unexpected end of data" else ""
    where = f"at byte {before + error.start} (0x{error.object[error.start]:02x}){is_cut}"
    return InputError(
        f"{name} is not valid {_show_encoding(encoding)} {where}; {way_out}, or with --corpus.invalid {kept}"
    )


def _check_text(chunks: Iterable[bytes], name: str, encoding: str, offset: int) -> Iterator[bytes]:
    """The chunks of a source.

    Raises InputError where its beginning is not that of text, or there are more zeros in it than a text has by
    accident: over a thousandth of what was read, and a few more; in all, a hundredth.
    """
    start, zeros, first = offset, 0, 0
    for chunk in chunks if offset else _check_beginning(chunks, name, encoding):
        if 0 in chunk:
            places = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 0) + (offset - start)  # (zeros,)
            first = first if zeros else int(places[0])
            so_many = np.arange(zeros + 1, zeros + places.size + 1)
            zeros += places.size
            if (so_many > FEW_ZEROS + places * ZERO_SHARE).any():
                raise _binary(name, start + first)
        offset += len(chunk)
        yield chunk
    if zeros > SHORT_ZERO_SHARE * (offset - start):
        raise _binary(name, start + first)


def _check_beginning(chunks: Iterable[bytes], name: str, encoding: str) -> Iterator[bytes]:
    """The same chunks, once there are enough of them to tell that they are text."""
    rest, begun = iter(chunks), list[bytes]()
    while sum(map(len, begun)) < TAR_PLACE + len(TAR) and (chunk := next(rest, None)) is not None:
        begun.append(chunk)
    _check_kind(b"".join(begun), name, encoding)
    yield from begun
    yield from rest


def _check_kind(begun: bytes, name: str, encoding: str) -> None:
    """Raises InputError where something begins as what is no text in an encoding does."""
    kind, way_out = next((KINDS[start] for start in KINDS if begun.startswith(start)), ("", ""))
    if begun[TAR_PLACE:].startswith(TAR):
        kind, way_out = "a tar archive", "unpack it with tar -xf, and name the folder"
    if kind:
        raise InputError(f"{name} is not {_show_encoding(encoding)} text but looks like {kind}; {way_out}")


def _binary(name: str, place: int) -> InputError:
    return InputError(
        f"{name} is not UTF-8 text but looks like binary or UTF-16 (byte {place:,} is zero); read UTF-16 "
        "with --corpus.encoding utf-16-le or utf-16-be; --corpus.invalid bytes reads any file as it is"
    )


def _show_encoding(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8" else encoding
