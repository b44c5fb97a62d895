"""A corpus is found again while its text is the same, however the file came there; another text is noticed."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Command
from scriven.corpus import Corpus
from scriven.corpus.build import build, build_part, is_made_of, merge
from scriven.corpus.inputs import Progress, TextInput
from scriven.corpus.writer import assemble
from scriven.errors import InputError
from scriven.settings import CorpusSettings

BUILDING = sys.modules["scriven.corpus.build"]  # a function has its name in the package
LINES = CorpusSettings(documents="lines")


def other(text: Path) -> None:
    """Another text of the same size and time of modification, as cp -p, rsync -t and tar leave one."""
    before = text.stat()
    copy = text.with_name("other.txt")
    copy.write_bytes(text.read_bytes().replace(b"quick", b"quiet"))
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.replace(text)
    assert (text.stat().st_size, text.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def overwritten(text: Path) -> None:
    """As `other`, in the same file on the disk: only the time of its change tells."""
    before = text.stat()
    text.write_bytes(text.read_bytes().replace(b"quick", b"quiet"))
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied_back(text: Path) -> None:
    shutil.copy(text, text.with_name("copy"))
    text.with_name("copy").replace(text)


def touch(text: Path) -> None:
    os.utime(text, ns=(1, 1))


def text_of(folder: Path) -> str:
    corpus = Corpus.open(folder)
    parts = corpus.training, corpus.validation
    return "".join(corpus.vocabulary.decode(part.read(0, part.characters)) for part in parts)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read to build a corpus so far: one entry each time."""
    seen = list[str]()

    def _assemble(work: Path, material: TextInput, progress: Progress) -> None:
        seen.append(work.name)
        assemble(work, material, progress)

    monkeypatch.setattr(BUILDING, "assemble", _assemble)
    return seen


@pytest.mark.parametrize("change", [other, overwritten])
def test_another_text_of_the_same_size_and_time_is_noticed(book: Path, change: Callable[[Path], None]) -> None:
    before = build([str(book)], CorpusSettings())
    assert "quick" in text_of(before)
    change(book)
    after = build([str(book)], CorpusSettings())
    assert after != before
    assert text_of(after) == book.read_text()
    assert "quick" in text_of(before)  # which a run that was made of it goes on with
    assert build([str(book)], CorpusSettings()) == after


@pytest.mark.parametrize("change", [copied_back, touch])
def test_the_same_text_is_known_by_its_content(
    book: Path, change: Callable[[Path], None], built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = build([str(book)], LINES), list[int]()
    change(book)
    assert build([str(book)], LINES, progress=lambda done, total: told.append(done)) == before
    assert told == [5000]
    monkeypatch.setattr(BUILDING, "hash_content", None)  # the stamps are known again
    assert build([str(book)], LINES) == before
    assert len(built) == 1


def test_a_text_that_was_put_back_has_its_corpus_again(book: Path, built: list[str]) -> None:
    whole = book.read_bytes()
    before = build([str(book)], CorpusSettings())
    other(book)
    build([str(book)], CorpusSettings())
    book.write_bytes(whole)
    assert build([str(book)], CorpusSettings()) == before
    assert len(built) == 2


def test_it_can_be_told_what_a_corpus_was_made_of(book: Path, tmp_path: Path, built: list[str]) -> None:
    texts, folder = [str(book)], build([str(book)], CorpusSettings())
    assert is_made_of(folder, texts, CorpusSettings()) is True
    copied_back(book)
    assert is_made_of(folder, texts, CorpusSettings()) is True
    assert is_made_of(tmp_path, texts, CorpusSettings()) is None
    other(book)
    assert is_made_of(folder, texts, CorpusSettings()) is False
    book.unlink()
    with pytest.raises(InputError, match=r"book\.txt"):
        is_made_of(folder, texts, CorpusSettings())
    assert len(built) == 1


def test_a_validation_text_counts_too(book: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("the quick fox\n")
    settings = CorpusSettings(validation_file=str(held))
    before = build([str(book)], settings)
    other(held)
    assert build([str(book)], settings) != before


def test_a_file_that_is_replaced_while_it_is_read_is_told(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _assemble(work: Path, material: TextInput, progress: Progress) -> None:
        assemble(work, material, progress)
        other(book)

    monkeypatch.setattr(BUILDING, "assemble", _assemble)
    with pytest.raises(InputError, match=r"book\.txt changed while it was read"):
        build([str(book)], CorpusSettings())


# --- folders that a user chose


def test_a_folder_is_not_taken_for_the_corpus_of_another_text(book: Path, tmp_path: Path, built: list[str]) -> None:
    folder = build([str(book)], CorpusSettings(), tmp_path / "corpus")
    assert build([str(book)], CorpusSettings(), folder) == folder
    assert len(built) == 1
    for change in (touch, copied_back):
        change(book)
        assert build([str(book)], CorpusSettings(), folder) == folder
    other(book)
    with pytest.raises(InputError, match="exists and is not the corpus of these texts as they are now"):
        build([str(book)], CorpusSettings(), folder)
    assert "quick" in text_of(folder)


def test_parts_and_what_is_merged_of_them_are_compared_too(book: Path, tmp_path: Path) -> None:
    parts = [build_part([str(book)], LINES, tmp_path / f"part{number}", (number, 2)) for number in (1, 2)]
    merged = merge(parts, tmp_path / "merged")
    assert merge(parts, merged) == merged
    copied_back(book)
    assert build_part([str(book)], LINES, parts[0], (1, 2)) == parts[0]
    other(book)
    with pytest.raises(InputError, match="exists and is not the corpus of these texts as they are now"):
        build_part([str(book)], LINES, parts[0], (1, 2))
    others = [build_part([str(book)], LINES, tmp_path / f"other{number}", (number, 2)) for number in (1, 2)]
    with pytest.raises(InputError, match="exists and is not the corpus of these texts as they are now"):
        merge(others, merged)


def test_the_command_says_it(book: Path, tmp_path: Path, command: Command) -> None:
    first = command("corpus", "build", str(book)).out
    other(book)
    assert command("corpus", "build", str(book)).out != first
