"""Parts of sources are, one after another, all of them, and reading them apart gives the same text and documents."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import partition
from scriven.corpus.decoding import ReadCounts, read_text
from scriven.corpus.documents import documents
from scriven.corpus.partition import partition_sources
from scriven.corpus.sources import TextSource, find
from scriven.errors import UsageError
from scriven.settings import CorpusSettings

PLAIN = CorpusSettings()
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
# Letters that change with their neighbours, ends of lines, and what separators are made of.
TRICKY = st.text("aAbΣσςİI \n\r|é天’\ufeff\u0301\u0308\u1100\u1161", max_size=60)


def store_texts(folder: Path, texts: list[bytes], suffix: str = ".txt") -> tuple[TextSource, ...]:
    for path in folder.glob("[0-9]*"):
        path.unlink()
    for index, data in enumerate(texts):
        (folder / f"{index}{suffix}").write_bytes(data)
    return tuple(source for index in range(len(texts)) for source in find([str(folder / f"{index}{suffix}")]).sources)


def counts_of(tally: ReadCounts) -> tuple[object, ...]:
    changed = tally.lowercased.to_pairs(), tally.punctuation.to_pairs(), tally.normalized.to_pairs()
    return (
        tally.marks,
        tally.line_ends,
        tally.invalid,
        tally.documents,
        tally.empty,
        tally.separators,
        tally.position,
        *changed,
    )


def check_same(sources: tuple[TextSource, ...], count: int, chosen: CorpusSettings) -> None:
    """Reading all parts is reading the whole: the text, the documents, and all that is counted."""
    parts = [partition_sources([sources], number, count, chosen)[0] for number in range(1, count + 1)]
    whole, apart = ReadCounts(), ReadCounts()
    if chosen.documents == "none":
        expected = "".join(read_text(sources, chosen, whole))
        assert "".join(text for part in parts for text in read_text(part, chosen, apart)) == expected
    else:
        pieces = list(documents(sources, chosen, whole))
        found = [piece for part in parts for piece in documents(part, chosen, apart)]
        assert join_documents(found) == join_documents(pieces)
    assert counts_of(apart) == counts_of(whole)


def join_documents(pieces: list[tuple[str, bool]]) -> list[str]:
    made, text = [], ""
    for piece, ended in pieces:
        text += piece
        if ended:
            made.append(text)
            text = ""
    return [*made, text]


@many
@given(
    st.lists(TRICKY, min_size=1, max_size=4),
    st.integers(1, 5),
    st.fixed_dictionaries(
        {
            "lowercase": st.booleans(),
            "normalize": st.sampled_from(["none", "nfc"]),
            "punctuation": st.sampled_from(["keep", "ascii"]),
        }
    ),
    st.integers(1, 9),
)
def test_text_that_is_prepared(
    tmp_path: Path, texts: list[str], count: int, values: dict[str, object], piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PIECE_BYTES", piece)
        chosen = CorpusSettings.model_validate(values)
        check_same(store_texts(tmp_path, [text.encode() for text in texts]), count, chosen)


@many
@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from(["replace", "bytes"]),
)
def test_bytes_that_are_not_utf8(tmp_path: Path, texts: list[bytes], count: int, policy: str) -> None:
    check_same(store_texts(tmp_path, texts), count, CorpusSettings.model_validate({"invalid": policy}))


@many
@given(st.lists(TRICKY, min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 9))
def test_lines(tmp_path: Path, texts: list[str], count: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PIECE_BYTES", piece)
        check_same(store_texts(tmp_path, [text.encode() for text in texts]), count, CorpusSettings(documents="lines"))


@many
@given(
    st.lists(st.text("ab|\n", max_size=40), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from(["|", "||", "aba", "\n\n", "a||a", "abab", "aa\naa"]),
    st.integers(1, 9),
)
def test_separators_that_may_overlap_themselves(
    tmp_path: Path, texts: list[str], count: int, separator: str, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PIECE_BYTES", piece)
        chosen = CorpusSettings(documents="separator", separator=separator)
        check_same(store_texts(tmp_path, [text.encode() for text in texts]), count, chosen)


@pytest.mark.parametrize("documents", ["none", "lines", "files"])
def test_rows_of_tables_stay_whole(tmp_path: Path, documents: str) -> None:
    rows = "".join(f'{{"text": "row {number}\\nof a table"}}\n' for number in range(50)).encode()
    chosen = CorpusSettings.model_validate({"documents": documents, "column": "text"})
    sources = store_texts(tmp_path, [rows, rows[:-1], b""], ".jsonl")
    for count in (2, 7, 40):
        parts = [partition_sources([sources], number, count, chosen)[0] for number in range(1, count + 1)]
        found = [piece for part in parts for piece in documents_of(part, chosen)]
        assert join_documents(found) == join_documents(documents_of(sources, chosen))


@pytest.mark.parametrize(
    ("suffix", "encoding", "text"),
    [
        (".csv", "utf-8", "id,text\n" + '1,"a row\nof a table"\n' * 30),
        (".json", "utf-8", '[{"text": "one\\n"},\n' + '{"text": "row"},\n' * 30 + '{"text": ""}]'),
        (".txt", "utf-16", "zwölf 天\n" * 30),
        (".txt", "shift_jis", "吾輩は猫である\n" * 30),
    ],
)
def test_what_cannot_be_cut_inside_stays_whole(tmp_path: Path, suffix: str, encoding: str, text: str) -> None:
    column = "" if suffix == ".txt" else "text"
    chosen = CorpusSettings.model_validate({"documents": "lines", "column": column, "encoding": encoding})
    sources = store_texts(tmp_path, [text.encode(encoding)] * 3, suffix)
    for count in (2, 5):
        parts = [partition_sources([sources], number, count, chosen)[0] for number in range(1, count + 1)]
        found = [piece for part in parts for piece in documents_of(part, chosen)]
        assert join_documents(found) == join_documents(documents_of(sources, chosen)) != []


def documents_of(sources: tuple[TextSource, ...], chosen: CorpusSettings) -> list[tuple[str, bool]]:
    return list(documents(sources, chosen))


def test_parts_are_of_about_one_size_and_plain_files_are_cut_inside(tmp_path: Path) -> None:
    sources = store_texts(tmp_path, ["ä ".encode() * 10_000, b"b" * 5_000])
    sizes = [
        sum(span(source) for source in partition_sources([sources], number, 7, PLAIN)[0]) for number in range(1, 8)
    ]
    assert sum(sizes) == 35_000
    assert max(sizes) - min(sizes) < 10


def span(source: TextSource) -> int:
    assert source.stamp
    return source.span[1] - source.span[0] if source.span else source.stamp[0]


@pytest.mark.parametrize(
    ("suffix", "chosen"),
    [(".gz", PLAIN), (".txt", CorpusSettings(documents="files")), (".parquet", CorpusSettings(column="text"))],
)
def test_what_cannot_be_cut_stays_whole(tmp_path: Path, suffix: str, chosen: CorpusSettings) -> None:
    sources = store_texts(tmp_path, [b"a\n" * 50] * 3, suffix)
    parts = [partition_sources([sources], number, 5, chosen)[0] for number in range(1, 6)]
    assert [source for part in parts for source in part] == list(sources)


def test_text_to_train_on_and_to_validate_on_are_divided_together(tmp_path: Path) -> None:
    sources = store_texts(tmp_path, [b"a" * 100, b"b" * 20])
    parts = [partition_sources([sources[:1], sources[1:]], number, 2, PLAIN) for number in (1, 2)]
    assert [["".join(read_text(group, PLAIN)) for group in part] for part in parts] == [
        ["a" * 60, ""],
        ["a" * 40, "b" * 20],
    ]


def test_what_has_no_known_size_cannot_be_divided() -> None:
    with pytest.raises(UsageError, match="standard input cannot be read in parts"):
        partition_sources([find(["-"]).sources], 1, 2, PLAIN)
