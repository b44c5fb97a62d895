"""Files of a corpus that are cut short, damaged or hard to read while they are in use: an error, never a signal."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scriven.corpus import Corpus, shard_reader
from scriven.corpus.build import build
from scriven.corpus.header import Shard
from scriven.corpus.shard_reader import Numbers
from scriven.errors import InputError
from scriven.settings import CorpusSettings, Settings
from scriven.training.request import Request
from scriven.training.start import train
from small_settings import SMALL


@pytest.fixture(params=["kept", "read again"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether files are kept in memory once they are read, as small ones are, or read again and again."""
    if request.param != "kept":
        monkeypatch.setattr(shard_reader, "KEPT_BYTES", 0)
    return str(request.param) == "kept"


def shard_of(path: Path, values: Any) -> Shard:
    np.save(path, values)
    return Shard(file="training-00000.npy", length=len(values), size=path.stat().st_size, sha256="0" * 64)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("kind", ["<u1", "<u2", "<u4"])
def test_numbers_are_read_as_they_were_written(tmp_path: Path, kind: str) -> None:
    values = np.arange(100, dtype=kind)
    opened = Numbers(tmp_path / "a.npy", shard_of(tmp_path / "a.npy", values))
    assert opened.size == 100
    for start, stop in ((0, 100), (7, 9), (50, 50), (100, 100)):
        read = opened.read(start, stop)
        assert (read.dtype, read.tolist()) == (values.dtype, values[start:stop].tolist())
    for places in ([], [3], [5, 4, 6], [99, 0, 0]):
        assert opened.at(np.array(places, np.int64)).tolist() == values[places].tolist()


def test_a_file_that_is_cut_short_is_told_when_it_is_read(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "training-00000.npy"
    opened = Numbers(path, shard_of(path, np.arange(200, dtype=np.uint8)))
    opened.read(0, 200)
    os.truncate(path, 200)
    assert opened.read(0, 20).tolist() == list(range(20))
    if kept:
        assert opened.read(190, 200).tolist() == list(range(190, 200))
        return
    with pytest.raises(InputError, match=r"training-00000\.npy became shorter while it was in use; build the corpus"):
        opened.read(190, 200)


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training-00000.npy"
    opened = Numbers(path, shard_of(path, np.arange(200, dtype=np.uint8)))

    def _fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shard_reader, "_pread", _fail)
    with pytest.raises(InputError, match=r"cannot read .*training-00000\.npy: Input/output error"):
        opened.read(0, 1)


def test_a_system_that_gives_little_at_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shard_reader, "_pread", lambda descriptor, size, place: os.pread(descriptor, min(size, 7), place)
    )
    path = tmp_path / "training-00000.npy"
    assert Numbers(path, shard_of(path, np.arange(99, dtype=np.uint8))).read(3, 99).tolist() == list(range(3, 99))


@pytest.mark.parametrize("reader", ["stream", "windows", "documents"])
def test_a_text_that_is_cut_short_ends_a_training_with_one_sentence(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr(shard_reader, "KEPT_BYTES", 0)
    settings = Settings.model_validate(SMALL.explicit() | {"reader": {"kind": reader, "batch": 2, "length": 8}})
    chosen = CorpusSettings(documents="lines" if reader == "documents" else "none")
    corpus = build([str(book)], chosen, tmp_path / "corpus")
    events = train(Request((str(corpus),), settings, tmp_path / "run"))
    next(events)
    os.truncate(corpus / "training-00000.npy", 150)
    with pytest.raises(InputError, match=r"training-00000\.npy (became shorter|is damaged)"):
        for _ in events:
            pass


def test_ids_that_stand_for_nothing_end_a_training(tmp_path: Path, book: Path) -> None:
    corpus = build([str(book)], CorpusSettings(), tmp_path / "corpus")
    path = corpus / "training-00000.npy"
    path.write_bytes(path.read_bytes()[:128] + b"\xfe" * 4500)
    with pytest.raises(InputError, match=r"training-00000\.npy is damaged"):
        list(train(Request((str(corpus),), SMALL, tmp_path / "run")))


def test_the_shard_with_the_meaningless_id_is_named(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scriven.corpus import shards

    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 1000)
    corpus = build([str(book)], CorpusSettings(), tmp_path / "corpus")
    data = (corpus / "training-00002.npy").read_bytes()
    (corpus / "training-00002.npy").write_bytes(data[:-1] + b"\xff")
    with pytest.raises(
        InputError, match=r"training-00002\.npy is damaged: it has numbers that are not the id of any character"
    ):
        Corpus.open(corpus).training.read_all([0, 900], [10, 2200])
    assert Corpus.open(corpus).training.read_all([0, 900], [10, 2000]).size == 2010
