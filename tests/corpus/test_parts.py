"""The corpus of all parts is that of one build, byte for byte; parts that do not make one are refused."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scriven.corpus import Corpus, shards
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.parts import read_ahead
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings

LETTERS = "abcdefgh ÄäΣσς天地\u0301\n"


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Three files, the later ones with characters that the first one lacks."""
    chance = random.Random(1)
    for index, letters in enumerate((LETTERS[:9], LETTERS, LETTERS + "XYZ||")):
        text = "".join(chance.choices(letters + "\n|", k=400 + 300 * index))
        (tmp_path / f"{index}.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "held.txt").write_text("held abc Ω\n\nout", encoding="utf-8", newline="")
    return [str(tmp_path / f"{index}.txt") for index in range(3)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def built_apart(folder: Path, texts: list[str], chosen: CorpusSettings, count: int) -> list[Path]:
    folders = [folder / f"part-{number}-of-{count}" for number in range(1, count + 1)]
    for number, place in enumerate(folders, 1):
        assert build_part(texts, chosen, place, (number, count)) == place
    return folders


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"unit": "byte"},
        {"validation": 0.0},
        {"lowercase": True, "normalize": "nfc"},
        {"documents": "lines", "validation": 0.3},
        {"documents": "lines", "unit": "byte"},
        {"documents": "files", "validation": 0.4},
        {"documents": "separator", "separator": "||"},
        {"validation_file": "held.txt"},
        {"validation_file": "held.txt", "documents": "lines", "lowercase": True},
        {"alphabet": "alphabet.json", "documents": "lines"},
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_in_any_order_make_the_corpus_of_one_build(
    tmp_path: Path, texts: list[str], values: dict[str, object], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 700)
    monkeypatch.setattr(shards, "BLOCK_CHARACTERS", 64)
    monkeypatch.chdir(tmp_path)
    Path("alphabet.json").write_text(json.dumps(list("abc天")))
    chosen = CorpusSettings.model_validate(values)
    whole = build(texts, chosen, tmp_path / "whole")
    folders = built_apart(tmp_path, texts, chosen, count)
    random.Random(2).shuffle(folders)
    merged = merge(folders, tmp_path / "merged")
    assert contents(merged) == contents(whole)
    Corpus.open(merged).verify()


def test_more_parts_than_there_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("天地x")
    whole = build([str(tmp_path / "a.txt")], CorpusSettings(), tmp_path / "whole")
    folders = built_apart(tmp_path, [str(tmp_path / "a.txt")], CorpusSettings(), 9)
    assert contents(merge(folders, tmp_path / "merged")) == contents(whole)


def test_what_is_there_already_is_not_built_again(tmp_path: Path, texts: list[str]) -> None:
    folders = built_apart(tmp_path, texts, CorpusSettings(), 2)
    before = [(folder / "part.json").stat().st_mtime_ns for folder in folders]
    built_apart(tmp_path, texts, CorpusSettings(), 2)
    assert before == [(folder / "part.json").stat().st_mtime_ns for folder in folders]
    merged = merge(folders, tmp_path / "merged")
    assert merge(folders, tmp_path / "merged") == merged
    with pytest.raises(InputError, match="is not the corpus of these texts"):
        build_part(texts, CorpusSettings(), folders[0], (2, 2))


def test_a_missing_a_double_and_a_foreign_part_are_named(tmp_path: Path, texts: list[str]) -> None:
    one, two, three = built_apart(tmp_path, texts, CorpusSettings(), 3)
    other = build_part(texts, CorpusSettings(lowercase=True), tmp_path / "other", (2, 3))
    of_two = build_part(texts, CorpusSettings(), tmp_path / "of-two", (2, 2))
    again = build_part(texts, CorpusSettings(), tmp_path / "again", (1, 3))
    for folders, message in (
        ([one, three], r"part 2/3 is missing \(1 in all\); build it with"),
        ([two], r"part 1/3 is missing \(2 in all\)"),
        ([one, two, three, again], r"part-1-of-3 and .*again are both part 1/3"),
        ([one, other, three], r"other \(part 2/3\) and .*part-1-of-3 \(part 1/3\) do not belong to one corpus"),
        ([one, of_two], r"of-two \(part 2/2\) and .* do not belong to one corpus"),
        ([one, two, three, tmp_path], r"is not a part; make one with"),
    ):
        with pytest.raises(InputError, match=message):
            merge(folders, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(UsageError, match="no part is given"):
        merge([], tmp_path / "merged")


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 0)])
def test_parts_that_cannot_be_are_refused(tmp_path: Path, texts: list[str], part: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="there is no part"):
        build_part(texts, CorpusSettings(), tmp_path / "part", part)


def test_damage_to_a_part_is_found(tmp_path: Path, texts: list[str]) -> None:
    chosen = CorpusSettings(documents="lines")
    folders = built_apart(tmp_path, texts, chosen, 2)
    for name in ("text.ids", "text-documents.npy"):
        path = folders[1] / name
        data = path.read_bytes()
        for damaged, message in (
            (data[:-1] + bytes([data[-1] ^ 1]), "is damaged; build the part again"),
            (data[:-1], "bytes instead of"),
        ):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=message):
                merge(folders, tmp_path / "merged")
        path.write_bytes(data)
    values = json.loads((folders[0] / "part.json").read_text())
    large = {**values["findings"], "lowercased": [[65, 10**30]]}
    symbols = {**values["text"], "symbols": [5, 5]}
    for change in ({"number": "1"}, {"text": symbols}, {"findings": large}, {"format": 9}):
        (folders[0] / "part.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(InputError, match=r"part\.json (is damaged|has format 9)"):
            merge(folders, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_texts_are_not_needed_to_merge(tmp_path: Path, texts: list[str]) -> None:
    whole = build(texts, CorpusSettings(), tmp_path / "whole")
    folders = built_apart(tmp_path, texts, CorpusSettings(), 2)
    for text in texts:
        Path(text).unlink()
    assert contents(merge(folders, tmp_path / "merged")) == contents(whole)


def test_an_empty_text_is_found_when_it_is_merged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n")
    folders = built_apart(tmp_path, [str(tmp_path / "a.txt")], CorpusSettings(documents="lines"), 2)
    with pytest.raises(
        InputError, match=r"there are no characters in .*a\.txt apart from the ends of 2 empty documents"
    ):
        merge(folders, tmp_path / "merged")


def test_what_is_read_ahead_comes_in_order_with_its_error_and_can_be_left() -> None:
    def _numbers() -> Iterator[int]:
        yield from range(9)
        raise OSError("the disk")

    found = []
    with pytest.raises(OSError, match="the disk"):
        for number in read_ahead(_numbers()):
            found.append(number)
    assert found == list(range(9))
    left = read_ahead(iter(range(10**9)))
    assert next(left) == 0
    left.close()
