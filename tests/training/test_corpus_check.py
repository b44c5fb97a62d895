"""A corpus with other bytes than were written is noticed while it is trained on; nothing is saved after that."""

import os
import threading
from pathlib import Path

import pytest

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.corpus.store import CorpusCheck
from scriven.errors import InputError
from scriven.events import Saved
from scriven.runs import open_run
from scriven.settings import (
    BudgetSettings,
    CorpusSettings,
    ReaderSettings,
    Settings,
)
from scriven.training.request import Request
from scriven.training.start import train
from small_settings import SMALL

LONG = SMALL.model_copy(update={"budget": BudgetSettings(epochs=2), "reader": ReaderSettings(batch=30, length=50)})


@pytest.fixture
def corpus(tmp_path: Path, book: Path) -> Path:
    return build([str(book)], CorpusSettings(), tmp_path / "corpus")


def change(path: Path, place: int = 200) -> None:
    """Another symbol that there is, in the place of one; size and times stay."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[place] = data[place] ^ 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training begins once the check has ended: which of the two is faster depends on what else the machine does."""
    enter = CorpusCheck.__enter__

    def _enter(self: CorpusCheck) -> CorpusCheck:
        entered = enter(self)
        self._thread.join()
        return entered

    monkeypatch.setattr(CorpusCheck, "__enter__", _enter)


@pytest.mark.usefixtures("checked_first")
@pytest.mark.parametrize("name", ["training-00000.npy", "validation-00000.npy"])
def test_other_bytes_of_the_same_size_end_a_training(corpus: Path, tmp_path: Path, name: str) -> None:
    change(corpus / name)
    saved = []
    with pytest.raises(InputError, match=rf"{name} is damaged; build the corpus again \(remove .*corpus first\)"):
        for event in train(Request((str(corpus),), LONG, tmp_path / "run")):
            saved += [event] if isinstance(event, Saved) else []
    assert saved == []
    assert open_run(tmp_path / "run").steps() == []


@pytest.mark.usefixtures("checked_first")
def test_what_was_saved_before_is_kept_and_gone_on_with(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "training-00000.npy"
    whole = path.read_bytes()
    list(train(Request((str(corpus),), LONG, tmp_path / "run")))
    before = open_run(tmp_path / "run").steps()
    change(path)
    more = Settings(budget=BudgetSettings(epochs=3))
    with pytest.raises(InputError, match="is damaged"):
        list(train(Request((), more, tmp_path / "run", resume="last")))
    assert open_run(tmp_path / "run").steps() == before
    path.write_bytes(whole)
    list(train(Request((), more, tmp_path / "run", resume="last")))
    assert open_run(tmp_path / "run").steps()[-1] > before[-1]


def test_a_whole_corpus_is_compared_and_nothing_is_told(corpus: Path) -> None:
    with CorpusCheck(Corpus.open(corpus)) as check:
        check._thread.join(60)
        check.tell(wait=True)
    assert not check._thread.is_alive()


def test_a_check_that_takes_long_is_waited_for_once_and_left(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scriven.corpus.store.CHECK_WAIT_SECONDS", 0.01)
    going_on = threading.Event()
    opened = Corpus.open(corpus)
    monkeypatch.setattr(opened, "compare_hashes", lambda: iter(lambda: going_on.wait(5), False))
    with CorpusCheck(opened) as check:
        for _ in range(3):
            check.tell(wait=True)
    going_on.set()
    check._thread.join(60)
    assert not check._thread.is_alive()
