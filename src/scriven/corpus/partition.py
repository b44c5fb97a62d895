"""Divides sources into parts of about equal size, cut so that reading the parts in order gives the same text.

Plain files may be cut inside: before a character, after a line feed or after a separator, as documents and the
preparation of the text require. Compressed files, binary tables and files that are documents are never cut. The cuts
depend on the sources alone, so that builders of different parts agree without communicating.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from scriven.corpus.decoding import PIECE_BYTES, changes_text, depends_on_context
from scriven.corpus.filesystem import explain_errors, open_file
from scriven.corpus.sources import BINARY_TABLES, LINE_TABLES, TextSource
from scriven.errors import UsageError
from scriven.settings import CorpusSettings

_CHARACTER = re.compile(rb"(?=[^\x80-\xbf\n])|(?<!\r)(?=\n)")  # but not inside a CR LF
_LINE = re.compile(rb"(?<=\n)")
# The context of lower case and NFC never reaches across a line feed, or from one of these letters to the next.
_PREPARED = re.compile(rb"(?<=\n)|(?<=[A-Za-z0-9])(?=[A-Za-z0-9])")


def partition_sources(
    groups: Sequence[Sequence[TextSource]], number: int, count: int, settings: CorpusSettings
) -> list[tuple[TextSource, ...]]:
    """The sources of each group, or spans of them, that belong to part `number` (1, 2, ...) of `count`.

    Raises UsageError if the size of a source is unknown before it is read; InputError if one cannot be read.
    """
    sources = [source for group in groups for source in group]
    if unsized := [source.name for source in sources if source.stamp is None]:
        raise UsageError(f"{unsized[0]} cannot be read in parts, as its size is not known; copy it to a file first")
    ends = list(accumulate(source.stamp[0] for source in sources if source.stamp))  # (sources,) bytes
    start, stop = (_place(sources, ends, part, count, settings) for part in (number - 1, number))
    taken, first = [], 0
    for group in groups:
        whole = enumerate(group, first)
        taken.append(tuple(piece for index, source in whole if (piece := _find_span(source, index, start, stop))))
        first += len(group)
    return taken


def _find_span(source: TextSource, index: int, start: tuple[int, int], stop: tuple[int, int]) -> TextSource | None:
    """The span of a source between two places, each a source's index and a number of bytes; None when it is empty."""
    if not start[0] <= index <= stop[0] or (index == stop[0] and not stop[1]):
        return None
    assert source.stamp  # known, as all are
    span = (start[1] if index == start[0] else 0, stop[1] if index == stop[0] else source.stamp[0])
    whole = span == (0, source.stamp[0])
    return source if whole else replace(source, span=span) if span[0] < span[1] else None


def _place(
    sources: Sequence[TextSource], ends: Sequence[int], part: int, count: int, settings: CorpusSettings
) -> tuple[int, int]:
    """The place where a part begins: a source's index and bytes into it; never the end of the source before."""
    if part in {0, count}:
        return (len(sources) if part else 0), 0
    wanted = ends[-1] * part // count if ends else 0
    index = bisect_right(ends, wanted)
    if index == len(sources):  # the last sources have no bytes
        return index, 0
    offset = wanted - (ends[index - 1] if index else 0)
    place = _next_place(sources[index], offset, settings)
    return (index, place) if place < ends[index] - (ends[index - 1] if index else 0) else (index + 1, 0)


def _next_place(source: TextSource, offset: int, settings: CorpusSettings) -> int:
    """The first place at or after `offset` bytes where the source can be cut; its size if there is none."""
    assert source.stamp  # known, as all are
    pattern, width = _rule(source, settings)
    if not offset or pattern is None or source.path is None:
        return 0 if not offset else source.stamp[0]
    begin = max(0, offset - 2 * width - 1)  # patterns look back this far
    with explain_errors(source.name, remote=isinstance(source.path, str)), open_file(source.path) as file:
        file.seek(begin)
        data, base, after = b"", begin, offset  # bytes from `base` on; no cut is before `after`
        while block := file.read(PIECE_BYTES):
            data += block
            for match in pattern.finditer(data, max(0, after - width - base)):
                if match.end() + base >= after:
                    return min(match.end() + base, source.stamp[0])
            after = max(after, base + len(data) - width)
            keep = 3 * width + 1
            base, data = base + max(0, len(data) - keep), data[-keep:]
    return source.stamp[0]


def _rule(source: TextSource, settings: CorpusSettings) -> tuple[re.Pattern[bytes] | None, int]:
    """The pattern that ends where a source can be cut, and its length in bytes; None when it cannot be cut."""
    suffix, packed = source.suffixes
    prepared = changes_text(settings)
    is_whole = packed or source.is_zipped or suffix in BINARY_TABLES or settings.encoding != "utf-8"
    has_rows = bool(settings.column) and source.is_table
    if is_whole or (has_rows and suffix not in LINE_TABLES):
        return None, 0
    if has_rows or settings.documents == "lines" or (settings.unit == "token" and settings.documents == "none"):
        return _LINE, 1
    if settings.documents == "none":
        return (_PREPARED, 1) if depends_on_context(settings) else (_CHARACTER, 1)
    is_plain = not prepared and "\ufffd" not in settings.separator and not settings.separator.endswith("\r")
    if settings.documents == "separator" and is_plain:
        return _separator(settings.separator)
    return None, 0


def _separator(separator: str) -> tuple[re.Pattern[bytes], int]:
    """A pattern for a separator that no earlier one overlaps, so that reading from the start finds it too."""
    data = separator.encode("utf-8", "surrogateescape")
    periods = [n for n in range(1, len(data)) if data.startswith(data[n:])]
    lone = b"".join(b"(?<!" + re.escape(data[:n]) + b")" for n in periods)
    return re.compile(lone + re.escape(data)), len(data)
