"""`scriven compress` and `scriven decompress`: files, pipes, names that are taken, interrupts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import Command
from scriven.kernels import native_library
from scriven.kernels.context_mixing import ContextMixer
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary

pytestmark = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
CONTENT = b"It was a dark and stormy night.\r\n\xff\x00" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "night.txt"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A run with random weights."""
    settings, vocabulary = validate({"model": {"width": 8, "layers": 1}}), Vocabulary.of("\n ,ehlort")
    torch.manual_seed(1)
    run = create_run(tmp_path / "runs" / "small", settings, vocabulary, {"texts": [], "corpus": ""})
    run.save(CharLM(settings.model, vocabulary.size).state_dict(), {}, {"step": 1, "validation": {}}, best=1)
    return run.path


def test_a_file_comes_back(command: Command, file: Path) -> None:
    done = command("compress", str(file))
    archive = file.with_name("night.txt.scriven")
    assert done.code == 0
    assert f"{len(CONTENT):,} bytes in an archive of {archive.stat().st_size:,}" in done.out
    assert file.read_bytes() == CONTENT
    file.unlink()
    assert command("decompress", str(archive)).code == 0
    assert file.read_bytes() == CONTENT
    assert sorted(path.name for path in file.parent.iterdir()) == ["night.txt", "night.txt.scriven"]


def test_sizes_are_rows_of_json(command: Command, file: Path) -> None:
    row = json.loads(command("compress", str(file), "--json").out)
    archive = file.with_name("night.txt.scriven")
    assert row["file"] == str(archive)
    assert row["archive_bytes"] == archive.stat().st_size
    assert row["bits_per_byte"] == pytest.approx(8 * row["archive_bytes"] / row["bytes"])
    assert command("decompress", str(archive), "-o", str(file.with_name("other")), "--quiet").out == ""


def test_nothing_is_replaced_unless_asked(command: Command, file: Path) -> None:
    archive = file.with_name("night.txt.scriven")
    archive.write_bytes(b"mine")
    done = command("compress", str(file))
    assert done.code == 2
    assert "exists" in done.err
    assert archive.read_bytes() == b"mine"
    assert command("compress", str(file), "--replace").code == 0
    done = command("decompress", str(archive))
    assert done.code == 2
    assert "night.txt exists" in done.err
    assert command("decompress", str(archive), "--replace").code == 0
    assert command("compress", str(file), "-o", str(file.parent), "--replace").code == 2
    assert len(list(file.parent.iterdir())) == 2


def test_what_cannot_be_read_is_refused_in_a_sentence(command: Command, file: Path, tmp_path: Path) -> None:
    cases = {
        ("compress", str(tmp_path / "nigth.txt")): (3, "did you mean"),
        ("compress", str(tmp_path)): (3, "is a folder"),
        ("compress", "-"): (2, "has no name"),
        ("decompress", str(file)): (2, "does not end in .scriven"),
        ("decompress", str(file), "-o", str(tmp_path / "x")): (3, "night.txt: this is not an archive"),
        ("compress", str(file), "--with", "englisch"): (2, "did you mean english"),
        ("compress", str(file), "--with", str(tmp_path)): (3, "is not a run folder"),
    }
    for words, (code, message) in cases.items():
        done = command(*words)
        assert (done.code, message in done.err, done.err.count("\n")) == (code, True, 1), done
    assert [path.name for path in tmp_path.iterdir()] == ["night.txt"]


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(command: Command, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    done = command("compress", str(tmp_path / "huge"))
    assert done.code == 3 and "too many to be read as a whole" in done.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["huge"]


def test_pipes(file: Path) -> None:
    both = "scriven compress - -o - < night.txt | scriven decompress - -o -".replace(
        "scriven", f"{sys.executable} -m scriven"
    )
    done = subprocess.run(both, shell=True, cwd=file.parent, capture_output=True, timeout=120, check=True)
    assert done.stdout == CONTENT
    assert b"bits per byte: -\n" in done.stderr and b"restored 1,400 bytes from an archive of " in done.stderr


def test_an_interrupt_leaves_no_half_file(command: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert command("compress", str(file)).code == 0
    monkeypatch.setattr(ContextMixer, "encode", interrupt)
    monkeypatch.setattr(ContextMixer, "decode", interrupt)
    before = sorted(file.parent.iterdir())
    assert command("compress", str(file), "-o", str(file.with_name("a"))).code == 130
    assert command("decompress", str(file) + ".scriven", "-o", str(file.with_name("b"))).code == 130
    assert sorted(file.parent.iterdir()) == before


def test_a_damaged_archive_leaves_no_file(command: Command, file: Path) -> None:
    assert command("compress", str(file)).code == 0
    archive = file.with_name("night.txt.scriven")
    archive.write_bytes(archive.read_bytes()[:-9])
    done = command("decompress", str(archive), "-o", str(file.with_name("b")))
    assert done.code == 3
    assert "night.txt.scriven: the archive is damaged or cut short" in done.err
    assert not file.with_name("b").exists()


def test_without_native_code_it_says_so(command: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "library", lambda: None)
    done = command("compress", str(file))
    assert done.code == 3
    assert "archives need native code" in done.err


def test_a_start_is_found_by_the_archive(command: Command, file: Path) -> None:
    file.write_bytes((Path(__file__).parents[2] / "docs" / "reliability.md").read_bytes()[:3000])
    alone = json.loads(command("compress", str(file), "--json").out)["archive_bytes"]
    helped = json.loads(command("compress", str(file), "--json", "--with", "english", "--replace").out)["archive_bytes"]
    assert helped < 0.9 * alone
    copy = file.with_name("copy.txt")
    assert command("decompress", str(file) + ".scriven", "-o", str(copy)).code == 0
    assert copy.read_bytes() == file.read_bytes()


def test_a_run_has_to_be_given_again(command: Command, file: Path, small_run: Path) -> None:
    file.write_text("hello, hello there\n" * 20)
    assert command("compress", str(file), "--with", str(small_run)).code == 0
    archive = str(file) + ".scriven"
    done = command("decompress", archive, "--replace")
    assert done.code == 3
    assert "--with RUN" in done.err
    assert command("decompress", archive, "--replace", "--with", "english").code == 3
    assert command("decompress", archive, "--replace", "--with", str(small_run)).code == 0
    assert file.read_text() == "hello, hello there\n" * 20


def test_a_network_of_characters_leaves_other_bytes_alone(command: Command, file: Path) -> None:
    done = command("compress", str(file), "--with", "english")
    assert done.code == 0
    assert "not UTF-8" in done.err
    assert command("decompress", str(file) + ".scriven", "--replace").code == 0
    assert file.read_bytes() == CONTENT
