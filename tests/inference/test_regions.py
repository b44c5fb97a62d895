"""Tables of regions: the texts that they make, what each region costs, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from scriven.corpus.sources import find
from scriven.errors import InputError
from scriven.inference.predictor import Predictor
from scriven.inference.regions import Region, encode_regions, read_regions, score_regions
from scriven.inference.surprisal import entropies, surprisals_of_text
from scriven.settings import CorpusSettings
from scriven.vocabulary import Vocabulary
from small_model import predictor, predictor_of

TABLE = 'item,condition,region,text,list\n1,a,1,a bad,x\n1,a,2,,x\n1,a,3,"cab, ",x\n1,a,4,dab,x\n1,b,np,bad,y\n'
MODELS = {
    "text": predictor(),
    "lines": predictor("abcde, ", "\n"),
    "bytes": predictor_of(Vocabulary.of_bytes()),
}


def read(folder: Path, table: str | bytes) -> list[list[Region]]:
    path = folder / "items.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    return list(read_regions(find([str(path)]).sources[0], CorpusSettings()).texts)


def decode(vocabulary: Vocabulary, regions: list[Region], join: str, spaces: Literal["after", "before"]) -> list[str]:
    """The text of each region that has any."""
    text = encode_regions(regions, vocabulary, CorpusSettings(), name="items.csv", join=join, spaces=spaces)
    return [vocabulary.decode(part[part != vocabulary.boundary]) for part in np.split(text.ids, text.ends)[:-1]]


def test_rows_of_an_item_and_a_condition_are_one_text(tmp_path: Path) -> None:
    for table in (TABLE, b"\xef\xbb\xbf" + TABLE.encode(), TABLE.replace("\n", "\r\n")):
        found = read(tmp_path, table)
        assert [[(each.line, each.text, each.values["list"]) for each in regions] for regions in found] == [
            [(2, "a bad", "x"), (3, "", "x"), (4, "cab, ", "x"), (5, "dab", "x")],
            [(6, "bad", "y")],
        ]


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_join_stands_where_there_is_no_white_space(kind: str, tmp_path: Path) -> None:
    regions, vocabulary = read(tmp_path, TABLE)[0], MODELS[kind].vocabulary
    assert decode(vocabulary, regions, " ", "after") == ["a bad ", "cab, ", "dab"]
    assert decode(vocabulary, regions, " ", "before") == ["a bad", " cab, ", "dab"]
    assert decode(vocabulary, regions, "", "after") == ["a bad", "cab, ", "dab"]


def slow_columns(model: Predictor, text: str, regions: list[str]) -> tuple[list[float], list[float]]:
    """The nats of each region, its end's in a model of documents, and the entropy before it."""
    ids = model.vocabulary.encode(text)
    if model.vocabulary.boundary is not None:
        ids = np.append(ids, model.vocabulary.boundary)
    (piece,) = surprisals_of_text(model, [ids])
    lengths = [len(model.vocabulary.encode(each)) for each in regions]
    lengths[-1] += len(ids) - sum(lengths)
    firsts = np.concatenate(([0], np.cumsum(lengths)[:-1])).tolist()
    nats = [float(part.sum()) for part in np.split(piece.nats, firsts[1:])]
    return nats, [float(entropies(model, model.read(model.start(), ids[:first, None]))[0]) for first in firsts]


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_region_costs_what_its_characters_do(kind: str, tmp_path: Path) -> None:
    """Each text is read from its start; an empty region costs nothing."""
    model, texts = MODELS[kind], read(tmp_path, TABLE)
    for regions, whole, parts in zip(
        texts, ("a bad cab, dab", "bad"), (["a bad ", "cab, ", "dab"], ["bad"]), strict=True
    ):
        text = encode_regions(regions, model.vocabulary, CorpusSettings(), name="items.csv")
        found = score_regions(model, text, ["total_nats", "entropy", "characters"])
        nats, entropy = slow_columns(model, whole, parts)
        filled = [place for place, region in enumerate(regions) if region.text]
        assert [found["total_nats"][place] for place in filled] == pytest.approx(nats, rel=1e-4)
        assert [found["entropy"][place] for place in filled] == pytest.approx(np.array(entropy) / np.log(2), rel=1e-4)
        assert [found["characters"][place] for place in filled] == [len(part) for part in parts]
        empty = [(found["total_nats"][at], found["entropy"][at]) for at in range(len(regions)) if at not in filled]
        assert empty == [(0.0, None)] * (len(regions) - len(filled))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "is empty"),
        ("item,condition,region,text\n", "has no row below the names"),
        ("item,condition,text\n1,a,x\n", "line 1: it has no column 'region', but item, condition, text"),
        ("item,condition,region,text,text\n1,a,1,x,y\n", "line 1: it has the column 'text' twice"),
        ("item,condition,region,text\n1,a,1,x\n1,a,2\n", "line 3: it has 3 cells, and the first row 4"),
        ("item,condition,region,text\n1,a,1,well, yes\n", "line 2: it has 5 cells"),
        ('item,condition,region,text\n1,a,1,"x\n1,a,2,y\n', "the row at line 2: a quote is opened and never closed"),
        ("item,condition,region,text\n1,a,1,x\n1,b,1,y\n1,a,2,z\n", "line 4: item 1, condition a begins again"),
        (
            "item,condition,region,text\n1,a,1,x\n1,a,3,y\n",
            "line 3: item 1, condition a goes from region 1 to region 3",
        ),
        ("item,condition,region,text\n1,a,2,x\n1,a,1,y\n", "do not cover a text"),
        ("item,condition,region,text\n1,a,np,x\n1,a,np,y\n", "line 3: item 1, condition a has the region np twice"),
        ("item,condition,region,text\n1,a,,x\n", "line 2: item 1, condition a has a region without a name"),
        ("item,condition,region,text\n1,a,1,\n1,a,2,\n", "line 2: item 1, condition a has no text in any"),
        (b"item,condition,region,text\n1,a,1,\xff\n", "not valid UTF-8|invalid|UTF-8"),
    ],
)
def test_broken_tables_are_refused_with_their_line(table: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, table)


def test_semicolons_and_tabs_are_delimiters_too(tmp_path: Path) -> None:
    for delimiter in ";\t":
        table = '"item","condition","region","text"\n1,a,1,"say ""a; b"""\n'.replace('",', f'"{delimiter}')
        assert read(tmp_path, table.replace("1,a,1,", delimiter.join("1a1") + delimiter))[0][0].text == 'say "a; b"'


def test_a_region_is_not_cut_inside_of_a_character(tmp_path: Path) -> None:
    regions = read(tmp_path, "item,condition,region,text\n1,a,1,a\n1,a,2,\u0301b\n")[0]
    for model in MODELS.values():
        with pytest.raises(InputError, match="line 3: the region begins inside of what is read as one character"):
            encode_regions(regions, model.vocabulary, CorpusSettings(), name="items.csv", join="")


def test_a_text_is_one_document(tmp_path: Path) -> None:
    regions = read(tmp_path, 'item,condition,region,text\n1,a,1,"a\nb"\n')[0]
    settings = CorpusSettings(documents="lines")
    with pytest.raises(InputError, match="line 2: for this model the text ends inside of the region"):
        encode_regions(regions, MODELS["lines"].vocabulary, settings, name="items.csv")
    assert len(encode_regions(regions, MODELS["text"].vocabulary, CorpusSettings(), name="items.csv").ids) == 3
