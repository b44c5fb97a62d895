"""Text that is read while it is written: whole lines, as soon as they have ended; files that are replaced or cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.corpus.decoding import ReadCounts, prepare
from scriven.corpus.live import follow_file, read_lines_live
from scriven.errors import InputError
from scriven.settings import CorpusSettings


@given(st.text("aA\u03a3e\u0301\r\n", max_size=20), st.integers(1, 5), st.booleans())
def test_lines_come_whole_and_prepared(text: str, size: int, changed: bool) -> None:
    settings = CorpusSettings(lowercase=changed, normalize="nfc" if changed else "none")
    data = text.encode()
    chunks = [data[begin : begin + size] for begin in range(0, len(data), size)]
    found = list(read_lines_live(chunks, "text", settings, ReadCounts()))
    assert "".join(found) == prepare(text, settings)
    assert all(piece.endswith("\n") for piece in found[:-1])


def test_a_line_is_there_before_more_is_read() -> None:
    read: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number, chunk in enumerate((b"ab\nc", b"d\n", b"e")):
            read.append(number)
            yield chunk

    lines = read_lines_live(chunks(), "text", CorpusSettings(), ReadCounts())
    assert [(next(lines), len(read)) for _ in range(3)] == [("ab\n", 1), ("cd\n", 2), ("e", 3)]


def test_a_long_line_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scriven.corpus.live.LONGEST_WAIT", 4)
    assert list(read_lines_live([b"abc", b"def", b"g\nh"], "text", CorpusSettings(), ReadCounts())) == [
        *["abcdef", "g\n", "h"]
    ]


def changes(*steps: Callable[[], object]) -> Callable[[], object]:
    """A wait in which the next step happens."""
    left = iter(steps)
    return lambda: next(left)()  # noqa: PLW0108 - each call is of another step


def test_a_file_is_followed_through_rotation_and_truncation(tmp_path: Path) -> None:
    path, said = tmp_path / "log", list[str]()
    path.write_bytes(b"one\n")

    def append(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    def rotate() -> None:
        append(b"half")
        path.rename(tmp_path / "log.1")

    wait = changes(
        lambda: append(b"two\n"),
        rotate,
        lambda: None,
        lambda: path.write_bytes(b"three\n"),
        lambda: path.write_bytes(b"4\n"),
    )
    chunks = follow_file(path, said.append, wait=wait)
    with closing(chunks):
        assert b"".join(islice(chunks, 6)) == b"one\ntwo\nhalf\nthree\n4\n"
    assert said == [
        f"{path} is not there any more; waiting for a new one",
        f"{path} was replaced; it is read from its start again",
        f"{path} was truncated; it is read from its start again",
    ]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        next(follow_file(tmp_path / "none", lambda text: None))
