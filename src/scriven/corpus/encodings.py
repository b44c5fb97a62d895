"""Decodes bytes in any of Python's encodings, piece by piece, and says what a file is if it is not such a text."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from scriven.errors import InputError
from scriven.runtime import STRAYS
from scriven.settings import CorpusSettings

SAMPLE_BYTES = 1 << 15  # looked at before and after the first wrong byte
MOST_GUESSES = 3
WESTERN = ("cp1252", "iso8859-1")
OTHERS = ("shift_jis", "gb18030", "big5", "euc_kr", "euc_jp", "cp1251", "koi8-r")
FEWEST_HIGH_BYTES = 4  # above 127; fewer do not suggest a script other than Latin
LATIN_HIGH_SHARE = 0.4  # of bytes above 127; texts in Latin letters have less
_USUAL = set("‘’‚“”„–—…•€£©®°§«»¿¡ª№·、。「」『』！？（）：；，　ー～½¼´")


def guess_encodings(data: bytes, place: int) -> list[str]:
    """Guesses a few encodings for a text whose byte at `place` is not valid UTF-8, the most likely first."""
    sample = data[max(0, place - SAMPLE_BYTES) : place + SAMPLE_BYTES]
    high = sum(byte > 127 for byte in sample)
    letters = sum(byte > 32 for byte in sample)
    many = high >= FEWEST_HIGH_BYTES and high > LATIN_HIGH_SHARE * letters
    order = (*OTHERS, *WESTERN) if many else (*WESTERN, *OTHERS)
    shares = {name: _plausible(sample, name) for name in order}
    found = [name for name in sorted(order, key=lambda name: -shares[name]) if shares[name]]
    detected = _detect(sample)
    # A detector is unsure when there are few letters beyond ASCII, and texts that have few are mostly Western.
    both = [*detected, *found] if many else [*found[:1], *detected, *found[1:]]
    return list(dict.fromkeys(both))[:MOST_GUESSES]


def _plausible(data: bytes, encoding: str) -> float:
    """The share of usual characters among those beyond ASCII; 0 if the data cannot be, or hardly is, this encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)  # accepts a character cut off at the end
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
    """Whether an encoding has ASCII as it is. Those of mainframes do not, and nobody uses one by accident."""
    return b"Az09 .,".decode(encoding, "replace") == "Az09 .,"


MARK = "\ufeff"  # the byte order mark: it shows how a text is encoded, and is not part of the text
FEW_ZEROS, ZERO_SHARE, SHORT_ZERO_SHARE = 8, 1 / 1000, 1 / 100
_STRAY = re.compile("[\udc00-\udcff]")  # what the error handlers turn an invalid byte into
ESCAPED = "iso2022"  # encodings with escape sequences have names that begin like this
ESCAPE_BYTES = 16  # at most, in one escape sequence
MOST_ESCAPES = 1 << 16  # bytes of escape sequences with no text between them
BYTE_ORDERS = {  # a text in such an encoding must begin with one of these marks
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}
HAVE_ZEROS = ("utf-16", "utf-32")  # zero bytes are parts of characters in these encodings

UNPACK = "unpack it, and give the text files in it"
NO_TEXT = "give a text file"
KINDS = {  # first bytes of files that people mistake for text: what such a file is, and what to do
    codecs.BOM_UTF32_LE: ("UTF-32 text", "read it with --corpus.encoding utf-32"),
    codecs.BOM_UTF32_BE: ("UTF-32 text", "read it with --corpus.encoding utf-32"),
    codecs.BOM_UTF16_LE: ("UTF-16 text", "read it with --corpus.encoding utf-16"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "read it with --corpus.encoding utf-16"),
    b"%PDF-": ("a PDF", "convert it to text, as with pdftotext"),
    b"PK\x03\x04": ("a ZIP archive", f"{UNPACK} (.docx and .epub are read as they are; save others as plain text)"),
    b"\x1f\x8b": (
        "compressed with gzip",
        "rename it to something.gz to have it decompressed; a .tgz is a tar archive, to be unpacked with tar -xzf",
    ),
    b"\xfd7zXZ\x00": ("compressed with xz", "rename it to something.xz to have it decompressed"),
    **{
        b"BZh%d1AY&SY" % level: ("compressed with bzip2", "rename it to something.bz2 to have it decompressed")
        for level in range(1, 10)
    },
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "rename it to something.zst to have it decompressed"),
    b"\xd0\xcf\x11\xe0": ("an old Office file", "save it as plain text"),
    b"{\\rtf": ("an RTF file", "save it as plain text"),
    b"Rar!": ("a RAR archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"\x89PNG": ("a PNG image", NO_TEXT),
    b"\xff\xd8\xff": ("a JPEG image", NO_TEXT),
    b"GIF8": ("a GIF image", NO_TEXT),
    b"SQLite format 3\x00": ("an SQLite database", "export the table with the text as JSON lines or CSV"),
}
TAR_PLACE, TAR = 257, b"ustar"


def decode(
    chunks: Iterable[bytes],
    name: str,
    settings: CorpusSettings,
    count_invalid: Callable[[int], None],
    offset: int = 0,
    *,
    live: bool = False,
) -> Iterator[str]:
    """Decodes the bytes of a source, piece by piece. `offset` is the number of its bytes that come before them.

    A `live` source is decoded as its bytes come, without waiting for enough of them to see what kind of file it is.
    `settings.invalid` says what happens to invalid bytes. `count_invalid` is called with their number.
    Raises InputError for an invalid byte with "strict", and if the source is clearly not text.
    """
    has_zeros = settings.encoding.startswith(HAVE_ZEROS)
    if settings.invalid == "strict" and settings.unit != "byte" and not has_zeros:
        chunks = _check_text(
            chunks if live else _check_beginning(chunks, name, settings.encoding, offset), name, offset
        )
    if settings.encoding == "utf-8":
        return _decode_utf8(chunks, name, settings, count_invalid, offset)
    return _decode_other(chunks, name, settings, count_invalid, offset)


def drop_mark(text: str) -> str:
    """A text without the byte order mark at its start."""
    return text.removeprefix(MARK)


def drop_marks(pieces: Iterable[str], count_mark: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The pieces of one text without the byte order mark at its start. Calls `count_mark` if there is one."""
    is_start = True
    for piece in pieces:
        if is_start and piece.startswith(MARK):
            count_mark()
            yield drop_mark(piece)
        else:
            yield piece
        is_start = is_start and not piece


def describe_marks(count: int, text: str = "the text") -> str:
    """A sentence that says that byte order marks were left out; `text` names the text if it was only one."""
    if count == 1:
        return f"a byte order mark at the start of {text} was left out"
    return f"{count:,} byte order marks at the start of sources were left out"


def _decode_utf8(
    chunks: Iterable[bytes], name: str, settings: CorpusSettings, count_invalid: Callable[[int], None], offset: int
) -> Iterator[str]:
    """Decodes UTF-8; an incomplete character at the end of a chunk waits for the next chunk."""
    held = seen = b""
    for chunk in itertools.chain(chunks, (b"",)):  # the empty one is the end
        data = held + chunk
        try:
            text, used = codecs.utf_8_decode(data, "strict", not chunk)
        except UnicodeDecodeError as error:
            if settings.invalid == "strict":
                raise _invalid_byte_error(name, settings, offset, error, seen) from None
            text, used = codecs.utf_8_decode(data, "surrogateescape", not chunk)
            count_invalid(len(_STRAY.findall(text)))
            text = _STRAY.sub("\ufffd", text) if settings.invalid == "replace" else text
        yield text
        held, offset = data[used:], offset + used
        seen = (seen + data[max(0, used - SAMPLE_BYTES) : used])[-SAMPLE_BYTES:]


def _decode_other(
    chunks: Iterable[bytes], name: str, settings: CorpusSettings, count_invalid: Callable[[int], None], offset: int
) -> Iterator[str]:
    """Like `_decode_utf8`, for any other encoding."""
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
                f"{name} has only escape sequences after byte {offset + cut:,}; is it really {settings.encoding}?"
            )
        try:
            text = decoder.decode(data[:cut], not chunk)
        except UnicodeDecodeError as error:
            if marks and not start.startswith(marks):
                raise _byte_order_error(name, settings.encoding) from None
            raise _invalid_byte_error(name, settings, offset + cut - len(error.object), error) from None
        except UnicodeError:  # UTF-16 or UTF-32 without a byte order mark
            raise _byte_order_error(name, settings.encoding) from None
        offset += cut
        if errors == STRAYS and (strays := len(_STRAY.findall(text))):
            count_invalid(strays)
            text = _STRAY.sub("\ufffd", text)
        yield text


def _safe_cut(data: bytes) -> int:
    """The last place that cannot be inside an escape sequence. Python's decoders keep at most 8 bytes of one."""
    place = len(data)
    while (begun := data.rfind(b"\x1b", max(0, place - ESCAPE_BYTES), place)) >= 0:
        place = begun
    return place


def _byte_order_error(name: str, encoding: str) -> InputError:
    return InputError(
        f"{name} does not begin with a byte order mark, as {encoding} must; give its byte order with "
        f"--corpus.encoding {encoding}-le or {encoding}-be"
    )


def _invalid_byte_error(
    name: str, settings: CorpusSettings, before: int, error: UnicodeDecodeError, seen: bytes = b""
) -> InputError:
    """The error for an invalid byte. `before` bytes of the source precede the error's; `seen` are the last of them."""
    is_cut = ", within a character that the text's end cuts off" if error.reason == "unexpected end of data" else ""
    where = f"at byte {before + error.start} (0x{error.object[error.start]:02x}){is_cut}"
    kind, way_out = ("", "") if before else _find_kind(error.object)
    if not kind:
        likely = guess_encodings(seen + error.object, len(seen) + error.start)
        likely = [each for each in likely if each != settings.encoding]
        guess = f"it is probably {' or '.join(likely)}; read it with --corpus.encoding {likely[0]}" if likely else ""
        way_out = guess or "give its encoding with --corpus.encoding"
    kept = "with --corpus.invalid replace"
    if settings.encoding == "utf-8":  # the only one that can keep bytes
        kept += " or --corpus.invalid bytes"
        if settings.unit == "byte":
            kept = "read its bytes as they are with --corpus.invalid bytes"
    looks = f" but looks like {kind}" if kind else ""
    return InputError(f"{name} is not valid {_show_encoding(settings.encoding)} {where}{looks}; {way_out}, or {kept}")


def _check_text(chunks: Iterable[bytes], name: str, offset: int) -> Iterator[bytes]:
    """Passes the chunks of a source on.

    Raises InputError if it has more zero bytes than a text has by accident: a few plus a thousandth of the bytes
    already read, or a hundredth of all bytes.
    """
    start, zeros, first = offset, 0, 0
    for chunk in chunks:
        if 0 in chunk:
            places = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 0) + (offset - start)  # (zeros,)
            first = first if zeros else int(places[0])
            counts = np.arange(zeros + 1, zeros + places.size + 1)  # (zeros,) zeros up to each place
            zeros += places.size
            if (counts > FEW_ZEROS + places * ZERO_SHARE).any():
                raise _binary(name, start + first)
        offset += len(chunk)
        yield chunk
    if zeros > SHORT_ZERO_SHARE * (offset - start):
        raise _binary(name, start + first)


def _check_beginning(chunks: Iterable[bytes], name: str, encoding: str, offset: int) -> Iterator[bytes]:
    """Passes the chunks on once enough of them have come to check what kind of file it is, if they are its beginning.

    Raises InputError if it begins like some other kind of file.
    """
    if offset:
        yield from chunks
        return
    rest, begun = iter(chunks), list[bytes]()
    while sum(map(len, begun)) < TAR_PLACE + len(TAR) and (chunk := next(rest, None)) is not None:
        begun.append(chunk)
    _check_kind(b"".join(begun), name, encoding)
    yield from begun
    yield from rest


def _find_kind(begun: bytes) -> tuple[str, str]:
    """Returns what a file that begins like this is, and what to do with it; empty for a text and for other kinds."""
    if begun[TAR_PLACE:].startswith(TAR):
        return "a tar archive", "unpack it with tar -xf, and give the folder"
    return next((KINDS[start] for start in KINDS if begun.startswith(start)), ("", ""))


def _check_kind(begun: bytes, name: str, encoding: str) -> None:
    """Raises InputError if a file begins like a known kind that is not text in the encoding."""
    kind, way_out = _find_kind(begun)
    if kind:
        raise InputError(f"{name} is not {_show_encoding(encoding)} text but looks like {kind}; {way_out}")


def _binary(name: str, place: int) -> InputError:
    return InputError(
        f"{name} is not UTF-8 text but looks like binary or UTF-16 (byte {place:,} is zero); read UTF-16 "
        "with --corpus.encoding utf-16-le or utf-16-be; --corpus.invalid bytes reads any file as it is"
    )


def _show_encoding(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8" else encoding
