"""`scriven pack` and `unpack`: the same model comes back, no text leaves, and hostile archives are refused."""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import WORDS, Command
from random_run import make_random_run
from scriven.errors import InputError
from scriven.exchange import packing
from scriven.exchange.packing import pack_run, unpack_run
from scriven.kernels import native_library
from scriven.runs import open_run
from scriven.trained_model import load

STEP = "checkpoints/step-00000007"
NAMES = [
    "checkpoints/index.json",
    *(f"{STEP}/{name}" for name in ("manifest.json", "model.safetensors", "training.safetensors")),
    "settings.toml",
    "vocabulary.json",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    monitor = {"prompts": ("my secret beginning",)}
    folder = make_random_run(tmp_path / "run", monitor=monitor, corpus={"alphabet": "/home/ann/letters.json"})
    (folder / "samples.jsonl").write_text("secret\n", "utf-8")
    return folder


def rewrite(source: Path, target: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], object]) -> Path:
    """Copies an archive; `change` writes each entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            change(new, entry, old.read(entry))
    return target


def test_a_model_comes_back(command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("pack", "run").out == "run.zip\n"
    done = command("unpack", "run.zip", "--json")
    path = Path("runs") / "run"
    assert json.loads(done.out) == {"path": str(path), "packed_bytes": Path("run.zip").stat().st_size}
    text = "all the old roads lead to the halt\n" * 3
    assert load(path, precision="fp32").score(text) == load(run, precision="fp32").score(text)
    assert load(path).sample("the", length=50, seed=3) == load(run).sample("the", length=50, seed=3)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", "run.zip", "runs"]


def test_neither_texts_nor_names_of_files_leave(run: Path, tmp_path: Path) -> None:
    pack_run(str(run), tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert sorted(archive.namelist()) == NAMES
        everything = b"".join(map(archive.read, NAMES))
    for each in (b"secret", b"home", b"ann/", str(tmp_path).encode()):
        assert each not in everything


def test_the_same_model_gives_the_same_file(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack_run(str(run), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nothing_is_replaced(command: Command, run: Path, tmp_path: Path) -> None:
    file, mine = tmp_path / "a.zip", tmp_path / "mine"
    file.write_bytes(b"mine")
    assert command("pack", str(run), "-o", str(file)).code == 2
    assert file.read_bytes() == b"mine"
    file.unlink()
    assert command("pack", str(run), "-o", str(file)).code == 0
    mine.mkdir()
    (mine / "letter").touch()
    assert command("unpack", str(file), "-o", str(mine)).code == 2
    assert [path.name for path in mine.iterdir()] == ["letter"]


def test_a_packed_run_says_why_it_cannot_be_resumed_or_measured(command: Command, run: Path, tmp_path: Path) -> None:
    pack_run(str(run), tmp_path / "a.zip")
    unpack_run(tmp_path / "a.zip", tmp_path / "new")
    done = command("evaluate", str(tmp_path / "new"))
    assert done.code == 3
    assert "packed without its text" in done.err
    done = command("train", "-o", str(tmp_path / "new"), "--resume", "--steps", "9")
    assert done.code in (2, 3)
    assert "Traceback" not in done.err and "bug" not in done.err


def link(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    if entry.filename == "vocabulary.json":
        entry.external_attr, data = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
    new.writestr(entry, data)


def outside(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(entry, data)
    if entry.filename == "settings.toml":
        new.writestr("../outside.toml", b"")


def absolute(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    entry.filename = "/tmp/vocabulary.json" if entry.filename == "vocabulary.json" else entry.filename
    new.writestr(entry, data)


def bomb(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(entry, b" " * 20_000_000 if entry.filename == "vocabulary.json" else data)


def squeezed(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(entry, data, compress_type=zipfile.ZIP_DEFLATED)


def without_weights(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    if not entry.filename.endswith("model.safetensors"):
        new.writestr(entry, data)


def other_weights(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    if entry.filename.endswith("model.safetensors"):
        data = data[:-4] + bytes(4)
    new.writestr(entry, data)


def other_settings(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(entry, data.replace(b"layers = 2", b"layers = 1"))


def many(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(entry, data)
    new.writestr(entry.filename.replace("00000007", "00000008"), data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "change",
    [link, outside, absolute, bomb, squeezed, without_weights, other_weights, other_settings, many],
    ids=lambda change: change.__name__,
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None], run: Path, tmp_path: Path
) -> None:
    pack_run(str(run), tmp_path / "good.zip")
    (tmp_path / "there").mkdir()
    bad = rewrite(tmp_path / "good.zip", tmp_path / "bad.zip", change)
    with pytest.raises(InputError, match=r"bad\.zip"):
        unpack_run(bad, tmp_path / "there" / "run")
    assert [*(tmp_path / "there").iterdir()] == []
    assert not (tmp_path / "outside.toml").exists()


def test_a_run_that_names_files_of_this_machine_is_refused(run: Path, tmp_path: Path) -> None:
    """Else its page would show beginnings of a text that its author only named."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
        for path in sorted(run.rglob("*")):
            name = path.relative_to(run).as_posix()
            if path.is_file() and (packing.ARRAYS.fullmatch(name) or packing.TEXTS.fullmatch(name)):
                new.write(path, name)
    with pytest.raises(InputError, match="its settings name texts or files of another machine"):
        unpack_run(tmp_path / "bad.zip", tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_other_files_and_parts_of_archives_are_refused(run: Path, tmp_path: Path) -> None:
    pack_run(str(run), tmp_path / "good.zip")
    data = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "there").mkdir()
    for part in (b"", b"PK\x05\x06", data[: len(data) // 2], data[: len(data) // 2] + data[len(data) // 2 + 1 :]):
        (tmp_path / "bad.zip").write_bytes(part)
        with pytest.raises(InputError, match=r"bad\.zip"):
            unpack_run(tmp_path / "bad.zip", tmp_path / "there" / "run")
    with pytest.raises(InputError, match="there is no such file"):
        unpack_run(tmp_path / "none.zip", tmp_path / "there" / "run")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.zip")
        (tmp_path / "device.zip").symlink_to("/dev/zero")  # was read until the memory was full
        for name in ("pipe.zip", "device.zip"):
            with pytest.raises(InputError, match="a pipe, a device or a socket"):
                unpack_run(tmp_path / name, tmp_path / "there" / "run")
    assert [*(tmp_path / "there").iterdir()] == []


@pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
def test_counts_come_along_unless_left_out(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(WORDS * 40, "utf-8")
    words = ["train", "text.txt", "-o", "run", "--steps", "2", "--model.kind", "counts"]
    assert command(*words).code == 0
    done = command("pack", "run")
    assert "passages of the text can be made out" in done.err
    unpacked = unpack_run(Path("run.zip"), Path("new"))
    assert unpacked.origin["counts"] == open_run("run").origin["counts"]
    assert load("new").score(WORDS) == load("run").score(WORDS)
    assert command("pack", "run", "--counts", "none", "-o", "other.zip").code == 2
