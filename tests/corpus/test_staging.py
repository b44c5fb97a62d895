"""Building can be ended at any moment by anything: a half-built corpus is never read, the next builder cleans up."""

import errno
import gzip
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.corpus.decoding import read_text
from scriven.corpus.sources import find
from scriven.errors import InputError, UnreadableError
from scriven.safe_files import create_file, create_folder
from scriven.settings import CorpusSettings

LINES = CorpusSettings(documents="lines")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number} of a long text, äöü\n" for number in range(200_000)), encoding="utf-8")
    return path


def builder(book: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scriven", "corpus", "build", str(book), "-o", str(folder), *words]
    flags = ("--corpus.documents", "lines", "--corpus.normalize", "nfc")
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_staging_folder(folder: Path, process: subprocess.Popen[str]) -> Path:
    """The folder that a builder works in, once it has read something."""
    while process.poll() is None:
        for path in folder.glob(".scriven-building-*/training-draft"):
            if path.stat().st_size:
                return path.parent
        time.sleep(0.002)
    raise AssertionError(process.communicate())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@posix
def test_builders_that_are_killed_leave_nothing_that_is_read_and_nothing_that_stays(book: Path, tmp_path: Path) -> None:
    """Six processes of one corpus, killed at random instants; one more is let finish."""
    chance, folder = random.Random(), tmp_path / "out" / "corpus"
    for _ in range(6):
        process = builder(book, folder)
        if chance.random() < 0.8:
            wait_for_staging_folder(folder.parent, process)
        time.sleep(chance.random() * 0.15)
        process.kill()
        process.communicate()
        if folder.exists():  # it was too late
            Corpus.open(folder).verify()
            shutil.rmtree(folder)
    process = builder(book, folder)
    assert process.wait(60) == 0
    process.communicate()
    Corpus.open(folder).verify()
    assert [path.name for path in folder.parent.iterdir()] == ["corpus"]
    chosen = LINES.model_copy(update={"normalize": "nfc"})
    assert contents(folder) == contents(build([str(book)], chosen, tmp_path / "undisturbed"))


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_building_and_leaves_nothing(book: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "out" / "corpus"
    process = builder(book, folder)
    wait_for_staging_folder(folder.parent, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (out, err) == (
        "",
        "scriven: stopped, and the unfinished corpus removed; run the same command to start again\n",
    )
    assert list(folder.parent.iterdir()) == []


@posix
def test_a_signal_ends_building_from_a_standard_input_that_says_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scriven", "corpus", "build", "-", "-o", str(tmp_path / "out" / "corpus")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("out/.scriven-building-*/training-draft")):
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 143
    assert list((tmp_path / "out").iterdir()) == []


def test_two_builders_of_one_folder_end_with_the_same_corpus(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "corpus"
    processes = [builder(book, folder) for _ in range(2)]
    said = [process.communicate(timeout=100) for process in processes]
    assert said == [(f"{folder}\n", "")] * 2
    Corpus.open(folder).verify()
    assert [path.name for path in folder.parent.iterdir()] == ["corpus"]


def test_a_builder_that_lives_is_left_alone(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "corpus"
    process = builder(book, folder)
    work = wait_for_staging_folder(folder.parent, process)
    (tmp_path / "small.txt").write_text("a small text")
    build([str(tmp_path / "small.txt")], CorpusSettings(), folder.parent / "small")
    assert work.exists() or folder.exists()
    assert process.wait(60) == 0
    process.communicate()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["corpus", "small"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "none", place], check=False).returncode == 0
    if not made:
        pytest.skip("only root can make a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_and_nothing_is_left_on_it(book: Path, small_disk: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write the corpus in .*the disk is full, and at least \d+ MB are"):
        build([str(book)], LINES, small_disk / "corpus")
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that can be opened and not read")
def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(InputError, match="cannot read /proc/self/mem: Input/output error"):
        list(read_text(find(["/proc/self/mem"]).sources, CorpusSettings()))


def failing_at(place: int, function: Callable[..., None], code: int) -> Callable[..., None]:
    """A function whose call number `place` fails."""
    numbers = itertools.count()

    def call(*words: object) -> None:
        if next(numbers) == place:
            raise OSError(code, os.strerror(code))
        function(*words)

    return call


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_whatever_write_fails_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Each fsync and each rename of a build fails in turn."""
    (tmp_path / "a.txt").write_text("some text\n" * 100)
    for name in ("fsync", "rename"):
        original, survived = getattr(os, name), 0
        for failing in range(20):
            monkeypatch.setattr(os, name, failing_at(failing, original, code))
            try:
                build([str(tmp_path / "a.txt")], LINES, tmp_path / "out" / "corpus")
            except InputError as error:
                assert "cannot write the corpus" in str(error)
                survived += 1
            else:
                break
            leftover = [path.name for path in (tmp_path / "out").iterdir()]
            assert leftover in ([], ["corpus"])
            if leftover:
                Corpus.open(tmp_path / "out" / "corpus").verify()
                shutil.rmtree(tmp_path / "out" / "corpus")
        monkeypatch.setattr(os, name, original)
        shutil.rmtree(tmp_path / "out")
        assert survived == {"fsync": 7, "rename": 1}[name]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize("change", ["grows", "shrinks", "changes"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str, suffix: str) -> None:
    path = tmp_path / f"book{suffix}"
    data = random.Random(1).randbytes(4000).hex().encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    pieces = read_text(find([str(path)]).sources, CorpusSettings(), size=64)
    first = next(pieces)
    size = path.stat().st_size
    if change == "grows":
        with path.open("ab") as file:
            file.write(b"more" * 5000)
    elif change == "shrinks":
        os.truncate(path, size // 2)
    else:
        os.utime(path, ns=(1, 1))
    if change == "grows" and suffix == ".txt":  # as a log does: what was there is read
        assert (first + "".join(pieces)).encode() == data
        return
    with pytest.raises(InputError, match=r"changed while it was read; start again|is damaged"):
        list(pieces)


def test_a_sparse_file_of_ten_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 * 10**9)
    with pytest.raises(InputError, match=r"sparse is not UTF-8 text but looks like binary or UTF-16"):
        build([str(tmp_path / "sparse")], CorpusSettings(), tmp_path / "corpus")


def test_a_file_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path) -> None:
    """Its name was a random one, so that it stayed for ever."""
    script = (
        "import os, pathlib, signal, sys; from scriven.safe_files import create_file\n"
        "with create_file(pathlib.Path(sys.argv[1]), replace=True) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGTERM)"
    )
    (tmp_path / "made").write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "made")], check=False).returncode
    assert len(list(tmp_path.iterdir())) > 1 and (tmp_path / "made").read_bytes() == b"old"
    with create_file(tmp_path / "made", replace=True) as file:
        file.write(b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made").read_bytes() == b"new"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space.*made"), create_file(tmp_path / "made", replace=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), create_file(tmp_path / "none" / "made", replace=False):
        pass
    with pytest.raises(OSError, match=r"No space.*made"), create_folder(tmp_path / "made") as work:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work / "weights"))
    with (
        pytest.raises(UnreadableError, match=r"^cannot write .*made/weights$"),
        create_folder(tmp_path / "made") as work,
    ):
        raise UnreadableError(f"cannot write {work / 'weights'}")
    assert list(tmp_path.iterdir()) == []
