"""The script that makes the texts of the starts: what it reads, cleans, keeps out, and in what order it mixes."""

from __future__ import annotations

import gzip
import importlib
import pickle
import subprocess
import sys
import tomllib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "starts"
sys.path.insert(0, str(FOLDER))
make: Any = importlib.import_module("make")
reading: Any = importlib.import_module("reading")
stretches: Any = importlib.import_module("stretches")
LISTED = tomllib.loads((FOLDER / "sources.toml").read_text("utf-8"))
VERSE = "It was many and many a year ago,\nIn a kingdom by the sea,\nThat a maiden there lived whom you may know\n"


def forbid(*texts: str) -> Any:
    found = stretches.Stretches()
    for text in texts:
        found.add(text)
    found.freeze()
    return found


@pytest.mark.parametrize("other", [VERSE, VERSE.upper(), VERSE.replace("\n", "  \r\n "), VERSE.replace(" ", "_")])
def test_shared_stretches_are_found_whatever_case_and_spaces(other: str) -> None:
    assert forbid(VERSE).count_shared(f"Something else, and then {other}") >= len(" ".join(VERSE.split())) - 39


def test_quotation_marks_of_any_kind_are_alike() -> None:
    assert forbid("“You don’t know how to manage looking-glass cakes”").count_shared(
        '"You don\'t know how to manage looking-glass cakes"'
    )


def test_forty_characters_are_a_stretch_and_thirty_nine_are_none() -> None:
    text = "abcdefghijklmnopqrstuvwxyz0123456789+-*/"
    assert len(text) == stretches.LENGTH
    assert forbid(f"!!{text}!!").count_shared(f"??{text}??") == 1
    assert forbid(f"!!{text[1:]}!!").count_shared(f"??{text[1:]}??") == 0
    assert forbid("short").count_shared(text) == 0


def test_stretches_are_found_where_a_text_is_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(map(chr, np.random.default_rng(1).integers(97, 123, 500)))
    whole = stretches.hash_stretches(text)
    monkeypatch.setattr(stretches, "BATCH", 64)
    assert (stretches.hash_stretches(text) == whole).all()
    assert len(set(whole.tolist())) == 461


def test_lines_that_have_part_in_a_shared_stretch_are_left_out_and_no_others() -> None:
    lines = ["A line of our own.", "", "It was many and many a year ago,", "in a kingdom by the sea", "", "The end."]
    assert forbid(VERSE).without_shared(lines) == ["A line of our own.", "", "", "The end."]
    assert forbid("nothing").without_shared(lines) == lines
    assert forbid().without_shared([]) == []


def test_cleaning_takes_out_collections_addresses_and_control_characters() -> None:
    text = (
        "\ufeffThe Project Gutenberg EBook\r\nChapter\u00a01\x00\r\n\r\n\r\n\r\nsee www.example.org\r\ne\u0301t\u00e9 "
        + "-" * 60
    )
    assert reading.clean(text) == "Chapter 1\n\n\u00e9t\u00e9 ---"


def test_a_page_gives_its_text_by_blocks_and_code_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = "words " * 200
    page.write_text(
        f"<html lang='de'><head><title>no</title></head><body><nav>no</nav><div class='menu'><p>no</div>"
        f"<p>One\n <b>two</b> &amp; three<p>{words}<pre>a\n  b</pre><script>no</script></body></html>"
    )
    assert list(reading.read_html(page, {"skip": ["menu"]})) == [f"One two & three\n{words.strip()}\na\n  b"]
    assert list(reading.read_html(page, {"skip": ["menu"], "page_language": "fr"})) == []


def test_a_table_of_verse_is_read_without_running_anything(tmp_path: Path) -> None:
    lines = np.array([["one", "two", "three"], ["x", "y", "z"]], object)
    (tmp_path / "good").write_bytes(gzip.compress(pickle.dumps(lines)))
    assert list(reading.read_lines(tmp_path / "good", {"lines": [[1, 1, ""], [2, 3, ""]]})) == ["one", "two\nthree"]
    (tmp_path / "bad").write_bytes(gzip.compress(pickle.dumps(OrderedDict(a=1))))
    with pytest.raises(pickle.UnpicklingError, match="OrderedDict is not expected"):
        list(reading.read_lines(tmp_path / "bad", {"lines": [[1, 1, ""]]}))


def test_a_mixture_has_every_line_of_its_texts_in_an_order_of_its_own() -> None:
    texts = {name: "\n".join(f"{name} {number}" for number in range(9000)) for name in ("a", "b")}
    mixed = make.mix(texts, {"b": 2})
    assert mixed == make.mix(texts, {"b": 2})
    assert sorted(filter(None, mixed.split("\n"))) == sorted(f"{texts['a']}\n{texts['b']}\n{texts['b']}".split("\n"))
    assert mixed.index("b 0") < mixed.index("a 8999")


def test_every_source_says_what_it_is_and_why_it_is_free() -> None:
    sources = LISTED["source"]
    assert len({source["name"] for source in sources}) == len(sources)
    for source in sources:
        assert {"name", "language", "what", "licence", "why", "registry", "files", "sha256"} <= source.keys()
        assert source["registry"] == "at hand" or {"package", "version"} <= source.keys()
    assert "://" not in (FOLDER / "sources.toml").read_text("utf-8")  # packages are found by their names


def test_a_start_is_refused_that_shares_a_stretch_with_a_text(tmp_path: Path) -> None:
    (tmp_path / "start.txt").write_text(f"Something of our own.\n{VERSE}")
    (tmp_path / "measured").write_text(VERSE)
    (tmp_path / "other").write_text("Another text, which has nothing in common with the start's.")
    command = [sys.executable, str(FOLDER / "make.py"), "check", "--out", str(tmp_path)]
    assert subprocess.run([*command, str(tmp_path / "other")], check=False, capture_output=True).returncode == 0
    refused = subprocess.run([*command, str(tmp_path / "measured")], check=False, capture_output=True)
    assert refused.returncode == 1
    assert b"share stretches" in refused.stderr


def test_a_sample_finds_every_long_shared_passage_and_few_single_stretches(tmp_path: Path) -> None:
    text = "".join(map(chr, np.random.default_rng(1).integers(97, 123, 100_000)))
    sample = stretches.Sample.of(text)
    assert 0.9 < len(sample.hashes) * 513 / (2 * len(text)) < 1.1
    length = stretches.LENGTH + (1 << stretches.NEAR_BITS) - 1  # 551
    for begin in range(0, len(text) - length, 977):
        assert sample.count_shared(text[begin : begin + length].upper()) > 0
    other = "".join(map(chr, np.random.default_rng(2).integers(97, 123, 100_000)))
    assert sample.count_shared(other) == 0
    dense = stretches.Sample(np.arange(1000, dtype=np.uint64) * np.uint64(3))
    dense.write(tmp_path / "sample")
    assert (stretches.Sample.read(tmp_path / "sample").hashes == dense.hashes).all()
    with pytest.raises(ValueError, match="too few stretches"):
        sample.write(tmp_path / "sample")
    assert len(stretches.Sample.of("short").hashes) == 0
    assert len(stretches.Sample.of(VERSE).hashes) == 1


def test_a_sample_does_not_depend_on_how_the_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(map(chr, np.random.default_rng(1).integers(97, 123, 5_000)))
    whole = stretches.Sample.of(text).hashes
    monkeypatch.setattr(stretches, "BATCH", 700)
    assert (stretches.Sample.of(text).hashes == whole).all()


LARGEST = "dickens_austen_17mb.txt.xz"
AT_HAND = FOLDER.parents[1] / "shared" / "data"  # texts that cannot be in the repository


def own_files(start: dict[str, Any]) -> set[str]:
    """The files of a start's sources that are in no package."""
    own = [source for source in LISTED["source"] if make.belongs(source["name"], start)]
    return {file for source in own if source["registry"] == "at hand" for file in source["files"]}


@pytest.mark.parametrize("start", LISTED["start"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.thorough] * (each == LARGEST)) for each in LISTED["at_hand"]["files"]],
)
def test_no_text_that_is_measured_shares_a_stretch_with_a_start(name: str, start: str) -> None:
    """But for those that are its sources, which tables measure without a start."""
    if name in own_files(LISTED["start"][start]):
        assert (start, name) == ("english", LARGEST)
        return
    if not (AT_HAND / name).is_file():
        pytest.skip(f"{name} is not at hand")
    sample = FOLDER / f"{start}.stretches"
    assert stretches.Sample.read(sample).count_shared(make.read_file(AT_HAND / name)) == 0


def test_a_start_has_the_sources_that_are_not_left_out(tmp_path: Path) -> None:
    start = {"sources": ["*"], "without": ["en-novels"]}
    assert not make.belongs("en-novels", start) and make.belongs("en-verse", start)
    general = LISTED["start"]["general"]
    kept = [source for source in LISTED["source"] if make.belongs(source["name"], general)]
    assert {source["registry"] for source in kept} == {"pypi", "debian"}  # anybody can make it
    assert {source["language"] for source in kept} - LISTED["languages"].keys() == {"C", "Go", "JavaScript", "Python"}


def test_the_texts_that_are_in_no_package_are_needed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they share with a source is kept as hashes of lines, with which anybody makes the same text."""
    (tmp_path / "sources.toml").write_text(
        '[start.general]\nsources = ["*"]\n[at_hand]\nname = "at hand"\nregistry = "at hand"\n'
        '[[measured]]\nname = "packed"\nregistry = "pypi"\n'
        '[[source]]\nname = "own"\nlanguage = "en"\nregistry = "pypi"\n'
    )
    ours = [
        "Something of our own, which is in no other text at all.",
        "Rain in Spain stays mainly in the plain, they say.",
    ]
    quoted, packed = VERSE.split("\n")[0:2], "A line that a measured text of a package has as well, word for word."
    texts = {"at hand": VERSE, "packed": packed, "own": "\n".join([ours[0], *quoted, packed, ours[1]])}
    monkeypatch.setattr(make, "read_source", lambda source, *_: iter([texts[source["name"]]]))
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "DROPPED", tmp_path / "dropped.txt")
    made = []
    for folder in (tmp_path, tmp_path / "nowhere"):
        make.make_texts(tmp_path, tmp_path / "out", folder, only=[])
        made.append((tmp_path / "out" / "general.txt").read_text())
        texts["at hand"] = ""
    assert made[0] == made[1] == "\n".join([*ours, ""])
    assert [line.split()[0] for line in (tmp_path / "dropped.txt").read_text().splitlines()] == ["own", "own"]


def test_novels_lose_their_marks_and_every_second_one_is_wrapped(tmp_path: Path) -> None:
    paragraph = "It was the best of times, it was the worst of times, it was the age of wisdom."
    novel = f"# Title: {{}}\n\n## Author: Somebody\n\n## Year: 1859\n\n-------\n\n##  I. The Period\n\n{paragraph}\n"
    (tmp_path / "novels.txt").write_text(novel.format("One") + novel.format("Two"))
    first, second = (reading.clean(text) for text in reading.read_novels(tmp_path / "novels.txt", {}))
    assert first.split("\n\n") == ["One", "I. The Period", paragraph]
    assert second.split("\n\n")[:2] == ["Two", "I. The Period"]
    wrapped = second.split("\n\n")[2].split("\n")
    assert " ".join(wrapped) == paragraph and max(map(len, wrapped)) <= 72


def test_what_tables_measure_without_a_start_may_be_a_source_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken out of all other sources."""
    (tmp_path / "sources.toml").write_text(
        '[start.one]\nsources = ["verse"]\n[start.two]\nsources = ["own"]\n[languages]\nen = "English"\n'
        '[at_hand]\nregistry = "at hand"\nfiles = ["verse.txt"]\nname = "at hand"\n[[measured]]\nregistry = "at hand"\n'
        '[[source]]\nname = "verse"\nlanguage = "en"\nregistry = "at hand"\nfiles = ["verse.txt"]\n'
        '[[source]]\nname = "own"\nlanguage = "en"\nregistry = "pypi"\n'
    )
    own = "Something of our own, which is in no other text at all."
    texts = {"verse": VERSE, "own": f"{own}\n{VERSE}", "at hand": VERSE}
    monkeypatch.setattr(
        make, "read_source", lambda source, *_: iter([texts[source["name"]]] if source.get("files", ["one"]) else [])
    )
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "DROPPED", tmp_path / "dropped.txt")
    make.make_texts(tmp_path, tmp_path / "out", tmp_path, only=[])
    assert (tmp_path / "out" / "one.txt").read_text().strip() == VERSE.strip()
    assert (tmp_path / "out" / "two.txt").read_text().strip() == own
    with pytest.raises(SystemExit, match="there is no start three"):
        make.make_texts(tmp_path, tmp_path / "out", tmp_path, only=["three"])
