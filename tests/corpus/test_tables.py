"""The rows of tables are texts, whatever holds them; bad rows are named, or left out and counted."""

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus, tables
from scriven.corpus.build import build
from scriven.corpus.decoding import ReadCounts
from scriven.corpus.documents import documents
from scriven.corpus.sources import find
from scriven.errors import InputError
from scriven.settings import CorpusSettings

ROWS = ["one", "two\nlines", "", "天地 é\r\n", "five"]


def corpus_settings(**values: object) -> CorpusSettings:
    return CorpusSettings.model_validate({"column": "text", "documents": "files", **values})


def as_jsonl(rows: list[Any], path: Path) -> Path:
    path.write_text("".join(json.dumps({"id": number, "text": row}) + "\n" for number, row in enumerate(rows)))
    return path


def as_gzipped_jsonl(rows: list[Any], path: Path) -> Path:
    path = path.with_suffix(".ndjson.gz")
    path.write_bytes(gzip.compress(as_jsonl(rows, path.with_suffix("")).read_bytes()))
    return path


def as_parquet(rows: list[Any], path: Path) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = path.with_suffix(".parquet")
    parquet.write_table(pyarrow.table({"id": range(len(rows)), "text": rows}), path, row_group_size=2)
    return path


def _arrow(rows: list[Any], path: Path, kind: str) -> Path:
    pyarrow, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
    table = pyarrow.table({"text": rows})
    with getattr(ipc, kind)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def as_arrow_stream(rows: list[Any], path: Path) -> Path:
    return _arrow(rows, path.with_suffix(".arrow"), "new_stream")


def as_feather(rows: list[Any], path: Path) -> Path:
    return _arrow(rows, path.with_suffix(".arrow"), "new_file")


def as_dataset(rows: list[Any], path: Path) -> Path:
    """A folder as `datasets` saves one (save_to_disk), with several splits."""
    folder = path.with_suffix("")
    for split, part in (("train", rows), ("test", ["never read"])):
        (folder / split).mkdir(parents=True)
        places = [folder / split / f"data-{index:05}.arrow" for index in range(len(part))]
        names = [_arrow([row], place, "new_stream").name for row, place in zip(part, places, strict=True)]
        (folder / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
        (folder / split / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return folder


FORMATS = [as_jsonl, as_gzipped_jsonl, as_parquet, as_arrow_stream, as_feather, as_dataset]


def read(path: Path, settings: CorpusSettings, tally: ReadCounts | None = None, size: int = 1 << 20) -> list[str]:
    made, text = [], ""
    for piece, ended in documents(find([str(path)], settings.column).sources, settings, tally, size):
        text += piece
        if ended:
            made.append(text)
            text = ""
    return [*made, text] if text else made


@pytest.mark.parametrize("write", FORMATS)
def test_each_row_is_a_document_whatever_the_format(tmp_path: Path, write: Any) -> None:
    path = write(ROWS, tmp_path / "table.jsonl")
    for size in (1, 7, 1 << 20):
        tally = ReadCounts()
        assert read(path, corpus_settings(), tally, size) == [row for row in ROWS if row]
        assert (tally.documents, tally.empty, tally.bad_rows) == (4, 1, 0)
        sources = find([str(path)], "text").sources
        assert tally.position == sum(source.stamp[0] for source in sources if source.stamp)


@pytest.mark.parametrize("write", FORMATS)
def test_without_documents_a_line_feed_follows_each_row_and_with_lines_each_row_ends_one(
    tmp_path: Path, write: Any
) -> None:
    path = write(ROWS, tmp_path / "table.jsonl")
    assert read(path, corpus_settings(documents="none")) == ["".join(f"{row}\n" for row in ROWS)]
    tally = ReadCounts()
    assert read(path, corpus_settings(documents="lines"), tally) == ["one", "two", "lines", "天地 é", "five"]
    assert (tally.documents, tally.separators) == (5, 2)
    assert read(path, corpus_settings(documents="separator", separator="i")) == [
        "one",
        "two\nl",
        "nes",
        "天地 é\r\n",
        "f",
        "ve",
    ]


def test_rows_are_prepared(tmp_path: Path) -> None:
    path = as_jsonl(["ÄB", "e\u0301"], tmp_path / "table.jsonl")
    assert read(path, corpus_settings(lowercase=True, normalize="nfc")) == ["äb", "é"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12), max_size=8), st.integers(1, 9))
def test_any_rows_come_back(tmp_path: Path, rows: list[str], size: int) -> None:
    path = as_jsonl(rows, tmp_path / "table.jsonl")
    assert read(path, corpus_settings(), size=size) == [row for row in rows if row]


BAD = [
    ('{"text": 3}', "has no text but 3 in the column 'text'"),
    ('{"text": null}', "has no text but None"),
    ('{"id": 3, "Text": ""}', "has no column 'text', but id, Text"),
    ("{}", "has no column 'text', but nothing"),
    ("[1]", r"has no column 'text', but \[1\]"),
    ('{"text": "x"', "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('{"text": "\\ud800"}', "has half a character"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_is_named_or_left_out_and_counted(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "too"}}')
    with pytest.raises(InputError, match=rf"table\.jsonl, line 3: it {message}.*--corpus\.bad-rows skip"):
        read(path, corpus_settings())
    corpus = Corpus.open(build([str(path)], corpus_settings(bad_rows="skip"), tmp_path / "corpus"))
    assert corpus.counts.bad_rows == 1
    assert corpus.counts.documents == 2
    assert "1 row was left out, as it has no text in the column 'text'" in corpus.notes


def test_halves_of_characters_are_replaced_where_invalid_text_is(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"text": "a\\ud800b\\udc80"}\n{"text": "\\ud83d\\ude00"}\n')
    tally = ReadCounts()
    assert read(path, corpus_settings(invalid="replace"), tally) == ["a\ufffdb\ufffd", "😀"]
    assert tally.invalid == 2


def test_a_null_in_a_binary_table_is_named_by_its_row(tmp_path: Path) -> None:
    path = as_parquet(["a", "b", None], tmp_path / "table.jsonl")
    with pytest.raises(InputError, match=r"table\.parquet, row 3: it has no text but None"):
        read(path, corpus_settings())
    assert read(path, corpus_settings(bad_rows="skip")) == ["a", "b"]


@pytest.mark.parametrize("write", [as_parquet, as_arrow_stream])
def test_a_column_that_is_not_there_is_said_with_those_that_are(tmp_path: Path, write: Any) -> None:
    path = write(["a"], tmp_path / "table.jsonl")
    with pytest.raises(InputError, match=r"has no column 'body'; choose one with --corpus\.column: (id, )?text"):
        read(path, corpus_settings(column="body"))
    with pytest.raises(InputError, match=r"is a table; name the column with the text: --corpus\.column"):
        read(path, CorpusSettings())


@pytest.mark.parametrize("write", [as_parquet, as_arrow_stream, as_feather])
def test_damaged_tables_are_refused_in_one_sentence(tmp_path: Path, write: Any) -> None:
    path = write(["some text"] * 50, tmp_path / "table.jsonl")
    data, chance = path.read_bytes(), random.Random(1)
    for damaged in (data[: len(data) // 2], b"", b"no table at all", data[:4]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="table"):
            read(path, corpus_settings())
    for _ in range(60):  # what is not noticed must at least do no harm
        place = chance.randrange(len(data))
        path.write_bytes(data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :])
        try:
            read(path, corpus_settings())
        except InputError as error:
            assert "table" in str(error)


def test_a_line_without_an_end_is_not_read_into_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_ROW", 1000)
    (tmp_path / "table.jsonl").write_text('{"text": "' + "a" * 5000)
    with pytest.raises(InputError, match=r"line 1 has over 1,000 characters; is it really JSON lines\?"):
        read(tmp_path / "table.jsonl", corpus_settings(), size=100)


def test_a_folder_is_searched_for_tables_where_a_column_is_named(tmp_path: Path) -> None:
    as_jsonl(["a"], tmp_path / "1.jsonl")
    (tmp_path / "README.md").write_text("about it")
    found = find([str(tmp_path)], "text")
    assert [Path(source.name).name for source in found.sources] == ["1.jsonl"]
    assert [Path(name).name for name in found.skipped] == ["README.md"]
    (tmp_path / "1.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no table .* with the column 'text' in it"):
        find([str(tmp_path)], "text")


def test_without_a_column_json_lines_are_text(tmp_path: Path) -> None:
    path = as_jsonl(["a"], tmp_path / "1.jsonl")
    assert read(path, CorpusSettings()) == [path.read_text()]


NO_NAMES = [["../other.arrow"], ["/etc/passwd"], [".."], [""], ["a\0"], ["a\ud800"], [], "abc", [{"filename": 3}], None]


@pytest.mark.parametrize("names", NO_NAMES)
def test_a_data_set_names_only_what_is_in_it(tmp_path: Path, names: Any) -> None:
    files = [{"filename": name} if isinstance(name, str) else name for name in names] if names else names
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    with pytest.raises(InputError, match=r"state\.json is damaged|cannot read"):
        find([str(tmp_path)], "text")


def test_a_data_set_needs_a_column_and_a_split(tmp_path: Path) -> None:
    path = as_dataset(ROWS, tmp_path / "set.jsonl")
    assert [Path(name).name for name in find([str(path)], "text").skipped] == ["test"]
    assert read(path / "test", corpus_settings()) == ["never read"]
    with pytest.raises(InputError, match=r"set is a data set; name the column"):
        find([str(path)])
    (path / "dataset_dict.json").write_text('{"splits": ["test", "dev"]}')
    with pytest.raises(InputError, match=r"no split train; give the folder of one of: test, dev"):
        find([str(path)], "text")


def test_without_pyarrow_the_command_to_install_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_parquet(["a"], tmp_path / "table.jsonl")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"table\.parquet, install what it needs with: pip install 'scriven\[data\]'"):
        read(path, corpus_settings())
