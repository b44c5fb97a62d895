"""A run that is resumed goes on with the text that it was made of, and says where that has changed since."""

import dataclasses
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Command
from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.errors import InputError
from scriven.events import Started, Stepped
from scriven.runs import create_run, open_run
from scriven.runs.recovery import open_run_corpus
from scriven.settings import (
    BudgetSettings,
    CorpusSettings,
    Settings,
)
from scriven.training.request import Request
from scriven.training.start import train
from small_settings import SMALL

MORE = Settings(budget=BudgetSettings(steps=5))


@pytest.fixture
def run(book: Path, tmp_path: Path) -> Path:
    list(train(Request((str(book),), SMALL, tmp_path / "run")))
    return tmp_path / "run"


def resume(run: Path, *texts: str) -> tuple[str, list[str]]:
    """What is noted when a run goes on, and the fingerprints of its steps."""
    events = list(train(Request(texts, MORE, run, resume="last")))
    (started,) = (event for event in events if isinstance(event, Started))
    return " ".join(started.notes), [event.fingerprint for event in events if isinstance(event, Stepped)]


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text + "more\n", lambda text: text.replace("quick", "quiet")]
)
@pytest.mark.parametrize("named", [False, True])
def test_a_changed_text_is_told_and_the_old_one_gone_on_with(
    run: Path, book: Path, tmp_path: Path, change: Callable[[str], str], named: bool
) -> None:
    shutil.copytree(run, tmp_path / "undisturbed")
    _, expected = resume(tmp_path / "undisturbed")
    book.write_text(change(book.read_text()))
    note, found = resume(run, *([str(book)] if named else []))
    assert found == expected
    assert f"{book} has changed since this run began; training continues with the text as it was. " in note
    assert note.endswith(f"To train this model on the new text: scriven train {book} --from {run} --steps 5")


def test_what_is_proposed_for_a_changed_text_works(book: Path, tmp_path: Path, command: Command) -> None:
    """It reads the text alike, and says for how long to train."""
    alike = CorpusSettings(documents="separator", separator="\n", lowercase=True)
    list(train(Request((str(book),), SMALL.model_copy(update={"corpus": alike}), tmp_path / "run")))
    book.write_text(book.read_text() + "MORE\n")
    note, _ = resume(tmp_path / "run")
    proposed = shlex.split(note.rpartition("new text: ")[2])
    small = ("--training.workers", "1", "--monitor.sample-length", "0")
    assert command(*proposed[1:], "-o", str(tmp_path / "new"), *small).code == 0
    new = open_run(tmp_path / "new").settings
    assert (new.corpus, new.budget.steps) == (alike, 5)


def test_what_has_not_changed_is_not_told(run: Path, book: Path) -> None:
    shutil.copy(book, book.with_name("copy"))
    book.with_name("copy").replace(book)
    assert "changed" not in resume(run, str(book))[0]


def test_a_text_that_is_gone_is_no_hindrance(run: Path, book: Path) -> None:
    book.unlink()
    assert "changed" not in resume(run)[0]


@pytest.mark.parametrize("named", [False, True])
def test_without_the_corpus_a_changed_text_is_refused(run: Path, book: Path, named: bool) -> None:
    whole = book.read_text()
    shutil.rmtree(open_run(run).corpus_path)
    book.write_text(whole.replace("quick", "quikc"))
    with pytest.raises(InputError, match=r"corpus of .* is missing, and .*book\.txt has another text now; restore"):
        resume(run, *([str(book)] if named else []))
    book.write_text(whole)
    assert "changed" not in resume(run, *([str(book)] if named else []))[0]


def test_another_text_is_refused_as_before(run: Path, book: Path) -> None:
    other = book.with_name("other.txt")
    other.write_text(book.read_text().replace("quick", "quiet"))
    with pytest.raises(InputError, match="was trained on another text"):
        resume(run, str(other))


def test_a_corpus_that_was_built_anew_in_its_place_is_refused(book: Path, tmp_path: Path) -> None:
    folder = build([str(book)], CorpusSettings(), tmp_path / "corpus")
    list(train(Request((str(folder),), SMALL, tmp_path / "run")))
    shutil.rmtree(folder)
    book.write_text(book.read_text().replace("quick", "quiet"))
    build([str(book)], CorpusSettings(), folder)
    with pytest.raises(InputError, match=r"corpus has other characters now; restore the old text"):
        resume(tmp_path / "run")


def test_a_corpus_that_is_gone_is_built_again(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab\n" * 30)
    corpus = Corpus.open(build([str(text)], Settings().corpus))
    run = create_run(
        tmp_path / "run", Settings(), corpus.vocabulary, {"corpus": str(corpus.path), "texts": [str(text)]}
    )
    assert open_run_corpus(run).path == corpus.path
    shutil.rmtree(corpus.path)
    assert open_run_corpus(run).validation.characters == 9
    shutil.rmtree(corpus.path)
    text.write_text("abc\n" * 30)
    with pytest.raises(InputError, match="other characters now"):
        open_run_corpus(run)
    text.unlink()
    with pytest.raises(InputError, match=r"cannot be built again: .*text\.txt"):
        open_run_corpus(run)
    with pytest.raises(InputError, match="came from standard input"):
        open_run_corpus(dataclasses.replace(run, origin={"corpus": str(corpus.path), "texts": ["-"]}))
