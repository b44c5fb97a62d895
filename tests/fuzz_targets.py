"""One function for each reader of files that come from elsewhere: it reads any bytes, and is right whatever they are.

Each takes the bytes and a folder of its own, whose files it replaces. It passes where the reader gives a value, or
refuses the bytes with an error of Scriven's; any other error is a finding, and so is a value that contradicts itself.
`tests/test_fuzz.py` gives them the inputs in `tests/fuzz_inputs`; `benchmarks/fuzz.py` looks for others.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from hostile import good_run
from scriven import strict_json
from scriven.cli.common import unescape
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.decoding import ReadCounts
from scriven.corpus.documents import split_documents
from scriven.corpus.inputs import read_alphabet
from scriven.corpus.parts import Parts
from scriven.corpus.sources import TextSource, find
from scriven.corpus.store import Corpus
from scriven.errors import ScrivenError
from scriven.model import pretrained
from scriven.runs import Checkpoint, Run, open_run
from scriven.runs.journal import read_fingerprints, read_replay_log
from scriven.runs.tensors import decode, finite, read_checked
from scriven.safe_files import read_toml
from scriven.server import requests, run_monitor, writing_requests
from scriven.server.responses import ApiError
from scriven.settings import CorpusSettings
from scriven.settings_values import validate
from scriven.training.state import load_state
from scriven.vocabulary import Vocabulary

Target = Callable[[bytes, Path], None]
TARGETS: dict[str, Target] = {}
REFUSALS = (ScrivenError, ApiError)
WHOLE = 1 << 20  # bytes read at once, of an input that has fewer


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


def attempt(read: Callable[[], Any]) -> Any:
    """What a reader gives; where it refuses, the kind of its error."""
    try:
        return read()
    except REFUSALS as error:
        assert str(error)
        return type(error)


def is_refusal(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, REFUSALS)


def choose_numbers(data: bytes, *counts: int) -> tuple[list[int], bytes]:
    """The numbers that the first bytes choose, each below its count, and the bytes that follow."""
    head = data[: len(counts)].ljust(len(counts), b"\0")
    return [byte % count for byte, count in zip(head, counts, strict=True)], data[len(counts) :]


# --- runs


@cache
def run_files() -> dict[str, bytes]:
    """The files of a good run of three steps, by their names."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = good_run(Path(folder) / "run").path
        return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def run_with(folder: Path, **changed: bytes) -> Path:
    """A run in a folder, with other files; `progress_jsonl` is progress.jsonl."""
    names = {name: name for name in run_files()}
    names |= {name.replace("/", "_").replace(".", "_"): name for name in names}
    contents = run_files() | {names.get(key, key.replace("_", ".")): data for key, data in changed.items()}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


MANIFEST = "checkpoints/step-00000003/manifest.json"


@target
def settings(data: bytes, folder: Path) -> None:
    """settings.toml, of a run and as --settings names it."""
    run = run_with(folder, settings_toml=data)
    opened = attempt(lambda: open_run(run))
    if isinstance(opened, Run):
        attempt(opened.expected_contents)
        assert isinstance(opened.corpus_path, Path | str)
    attempt(lambda: validate(read_toml(run / "settings.toml")))


@target
def vocabulary(data: bytes, folder: Path) -> None:
    run = run_with(folder, vocabulary_json=data)
    opened = attempt(lambda: open_run(run))
    if isinstance(opened, Run):
        known = opened.vocabulary
        assert known.decode(known.encode("ab\n\u00e9")) == "ab\n\u00e9"
        assert Vocabulary.from_json(known.to_json()) == known


@target
def manifest(data: bytes, folder: Path) -> None:
    run = run_with(folder, **{MANIFEST: data})
    checkpoint = Checkpoint(run / MANIFEST.rpartition("/")[0], open_run(run).seals)
    if not is_refusal(attempt(lambda: checkpoint.manifest)):
        attempt(lambda: load_state(checkpoint))
        attempt(checkpoint.weights)
        assert checkpoint.step == 3


@target
def index(data: bytes, folder: Path) -> None:
    run = open_run(run_with(folder, checkpoints_index_json=data))
    attempt(lambda: run.checkpoint("best"))
    attempt(lambda: run.checkpoint("last"))
    attempt(run.index)


@target
def weights(data: bytes, folder: Path) -> None:
    """A safetensors file; the first byte chooses whether the rest is a header, and whether arrays follow it."""
    (kind,), rest = choose_numbers(data, 3)
    if kind:
        rest = len(rest).to_bytes(8, "little") + rest + bytes(64 if kind == 2 else 0)
    path = folder / "model.safetensors"
    path.write_bytes(rest)
    read = attempt(lambda: read_checked(path))
    if isinstance(read, bytes):
        arrays = attempt(lambda: decode(path, read))
        if isinstance(arrays, dict):
            [finite(values) for values in arrays.values()]


@target
def logs(data: bytes, folder: Path) -> None:
    """metrics.jsonl and samples.jsonl, as the server and a replay read them."""
    progress = b"".join(f"{step / 8:<23}\n".encode() for step in range(8))
    run = run_with(folder, metrics_jsonl=data, samples_jsonl=data, progress_jsonl=progress)
    told = attempt(run_monitor.RunHistory(run).changes)
    if not is_refusal(told):
        strict_json.write(told)
    attempt(lambda: read_replay_log(run))
    attempt(lambda: read_fingerprints(run))


@target
def progress(data: bytes, folder: Path) -> None:
    metrics = b'{"event": "started", "step": 0}\n{"event": "saved", "step": 1}\n'
    run = run_with(folder, progress_jsonl=data, metrics_jsonl=metrics)
    found = attempt(lambda: read_replay_log(run))
    if not is_refusal(found):
        assert all(0 <= found.progress_of(step) <= 1 for step in range(1, found.steps + 1))


# --- corpora


@cache
def corpus_files() -> dict[str, bytes]:
    """The files of a small corpus of lines."""
    return _build_corpus(lambda text, folder: build([text], CorpusSettings(documents="lines", validation=0.3), folder))


@cache
def part_files() -> dict[str, bytes]:
    """The files of a part of it."""
    lines = CorpusSettings(documents="lines", lowercase=True)
    return _build_corpus(lambda text, folder: build_part([text], lines, folder, (1, 1)))


def _build_corpus(make: Callable[[str, Path], object]) -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text, made = Path(folder) / "lines.txt", Path(folder) / "made"
        text.write_bytes("one\ntwo\nthr\u00e9e\nfour\nfive\n".encode())
        make(str(text), made)
        return {path.name: path.read_bytes() for path in sorted(made.iterdir())}


def read_corpus(folder: Path) -> None:
    """Reads all of a corpus, where it is one."""
    corpus = attempt(lambda: Corpus.open(folder))
    if not isinstance(corpus, Corpus):
        return
    attempt(corpus.verify)
    for part in (corpus.training, corpus.validation):
        ids = attempt(partial(part.read, 0, min(part.characters, 1000)))
        if not is_refusal(ids):
            corpus.vocabulary.decode(ids)
        attempt(part.document_lengths)


@target
def corpus_header(data: bytes, folder: Path) -> None:
    for name, content in (corpus_files() | {"corpus.json": data}).items():
        (folder / name).write_bytes(content)
    read_corpus(folder)


@target
def corpus_arrays(data: bytes, folder: Path) -> None:
    """A corpus of which one .npy file is another; the first bytes choose which one, and how long it is said to be."""
    names = [name for name in corpus_files() if name.endswith(".npy")]
    (which, length), rest = choose_numbers(data, len(names), 256)
    header = json.loads(corpus_files()["corpus.json"])
    for part in (header["training"], header["validation"]):
        for shard in [*part["shards"], part["documents"]]:
            if shard["file"] == names[which]:
                is_ids = shard in part["shards"]
                shard |= {"length": length, "size": len(rest), "sha256": hashlib.sha256(rest).hexdigest()}
                part["characters"] = length if is_ids else part["characters"]
    header["frequencies"] = [0] * len(header["frequencies"])
    changed = {names[which]: rest, "corpus.json": json.dumps(header).encode()}
    for name, content in (corpus_files() | changed).items():
        (folder / name).write_bytes(content)
    read_corpus(folder)


@target
def corpus_part(data: bytes, folder: Path) -> None:
    for name, content in (part_files() | {"part.json": data}).items():
        (folder / name).write_bytes(content)
    made = folder / "made"
    shutil.rmtree(made, ignore_errors=True)
    if not is_refusal(attempt(lambda: merge([folder], made))):
        read_corpus(made)
    parts = attempt(lambda: Parts([folder]))
    if isinstance(parts, Parts):
        attempt(lambda: [len(symbols) for symbols, _ in parts.text()])


# --- texts

ENCODINGS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-7", "ascii", "latin-1"),
    *("cp1252", "cp1251", "koi8-r", "mac-roman", "cp437", "cp037", "shift_jis", "shift_jisx0213", "euc_jp"),
    *("euc_jis_2004", "iso2022_jp", "iso2022_jp_2004", "iso2022_kr", "euc_kr", "johab", "cp949", "gb2312", "gbk"),
    *("gb18030", "hz", "big5", "big5hkscs", "cp950", "unicode_escape", "raw_unicode_escape", "iso8859-8", "tis-620"),
    *("cp1255", "ptcp154"),
)
INVALID = ("strict", "replace", "bytes")
DOCUMENTS: tuple[dict[str, str], ...] = (
    {"documents": "none"},
    {"documents": "lines"},
    {"documents": "files"},
    {"documents": "separator", "separator": "\n\n"},
    {"documents": "separator", "separator": "aba"},
)
PREPARED: tuple[dict[str, Any], ...] = ({}, {"lowercase": True}, {"normalize": "nfc"}, {"punctuation": "ascii"})
SUFFIXES = (".txt", ".csv", ".json", ".jsonl", ".ipynb", ".html")


def text_settings(encoding: int, invalid: int, documents: int, prepared: int) -> CorpusSettings:
    kept_as = "replace" if encoding and INVALID[invalid] == "bytes" else INVALID[invalid]
    values = {"encoding": ENCODINGS[encoding], "invalid": kept_as, **DOCUMENTS[documents], **PREPARED[prepared]}
    return CorpusSettings.model_validate(values)


def source_of(folder: Path, name: str, data: bytes) -> TextSource:
    path = folder / name
    path.write_bytes(data)
    (source,) = find([str(path)]).sources
    return source


def all_text(source: TextSource, chosen_settings: CorpusSettings, size: int) -> tuple[str, list[int], int, int]:
    """The text of a source, read in pieces of this many bytes, where documents end in it, and what was counted."""
    tally, text, ends, length = ReadCounts(), list[str](), list[int](), 0
    for piece, places in split_documents([source], chosen_settings, tally, size):
        ends += (places + length).tolist()
        text.append(piece)
        length += len(piece)
    return "".join(text), ends, tally.invalid, tally.bad_rows


def read_alike(source: TextSource, chosen_settings: CorpusSettings, size: int) -> Any:
    """What is read of a source, which must be the same in pieces of any size."""
    whole = attempt(lambda: all_text(source, chosen_settings, WHOLE))
    pieces = attempt(lambda: all_text(source, chosen_settings, size))
    assert whole == pieces, f"{whole!r:.300} in one piece, and {pieces!r:.300} in pieces of {size}"
    return whole


@target
def text(data: bytes, folder: Path) -> None:
    """A text in any encoding; the first bytes choose how it is read."""
    counts = (len(ENCODINGS), len(INVALID), len(DOCUMENTS), len(PREPARED), len(SUFFIXES), 64)
    (encoding, invalid, documents, prepared, suffix, size), rest = choose_numbers(data, *counts)
    source = source_of(folder, "text" + SUFFIXES[suffix], rest)
    read_alike(source, text_settings(encoding, invalid, documents, prepared), size + 1)


@target
def compressed(data: bytes, folder: Path) -> None:
    suffixes = (".gz", ".xz", ".bz2", ".zst")
    (suffix, size), rest = choose_numbers(data, len(suffixes), 64)
    source = source_of(folder, "text.txt" + suffixes[suffix], rest)
    read_alike(source, CorpusSettings(invalid="replace"), size + 1)


COLUMNS = ("text", "a.b", "messages.text", "x")


def table(suffixes: tuple[str, ...], data: bytes, folder: Path) -> None:
    """A table; the first bytes choose its suffix, the column, what becomes of bad rows and the size of pieces."""
    (suffix, column, skipped, size), rest = choose_numbers(data, len(suffixes), len(COLUMNS), 4, 64)
    values = CorpusSettings(
        column=COLUMNS[column],
        bad_rows="skip" if skipped % 2 else "stop",
        invalid="replace" if skipped // 2 else "strict",
        documents="files",
    )
    read_alike(source_of(folder, "table" + suffixes[suffix], rest), values, size + 1)


TARGETS["delimited"] = partial(table, (".csv", ".tsv"))
TARGETS["json_records"] = partial(table, (".json", ".ipynb"))
TARGETS["json_lines"] = partial(table, (".jsonl", ".ndjson"))


@target
def binary_table(data: bytes, folder: Path) -> None:
    """A Parquet or an Arrow file; of these pyarrow reads all but the column."""
    (suffix,), rest = choose_numbers(data, 2)
    source = source_of(folder, "table" + (".parquet", ".arrow")[suffix], rest)
    attempt(lambda: all_text(source, CorpusSettings(column="text", documents="files"), WHOLE))


@target
def zipped(data: bytes, folder: Path) -> None:
    """A ZIP archive as it is."""
    (suffix,), rest = choose_numbers(data, 2)
    source = source_of(folder, "book" + (".docx", ".epub")[suffix], rest)
    attempt(lambda: all_text(source, CorpusSettings(), WHOLE))


DOCX = ("_rels/.rels", "word/document.xml")
EPUB = ("META-INF/container.xml", "book.opf", "a.xhtml")
RELATIONS = b'<Relationships><Relationship Type="x/officeDocument" Target="word/document.xml"/></Relationships>'
CONTAINER = b'<container><rootfiles><rootfile full-path="book.opf"/></rootfiles></container>'
PACKAGE = (
    b'<package><manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
    b'<spine><itemref idref="a"/></spine></package>'
)
HEADS = {DOCX: (RELATIONS,), EPUB: (CONTAINER, PACKAGE)}


def archive(names: tuple[str, ...], data: bytes, folder: Path) -> None:
    """The XML files in an archive: the last one where the first byte is 0, else all, with zeros between them."""
    (kind,), rest = choose_numbers(data, 2)
    contents = rest.split(b"\0", len(names) - 1) if kind else [*HEADS[names], rest]
    path = folder / ("book.docx" if names == DOCX else "book.epub")
    with zipfile.ZipFile(path, "w") as made:
        for name, content in zip(names, contents, strict=False):
            made.writestr(zipfile.ZipInfo(name), content)
    (source,) = find([str(path)]).sources
    attempt(lambda: all_text(source, CorpusSettings(), WHOLE))


TARGETS["docx"] = partial(archive, DOCX)
TARGETS["epub"] = partial(archive, EPUB)


@target
def data_set(data: bytes, folder: Path) -> None:
    """What lists the files of a data set that `datasets` saved."""
    (name,), rest = choose_numbers(data, 2)
    place = folder / str(name)
    place.mkdir(exist_ok=True)
    (place / ("state.json", "dataset_dict.json")[name]).write_bytes(rest)
    attempt(lambda: find([str(place)], "text"))


# --- the rest


@target
def embeddings(data: bytes, folder: Path) -> None:
    """Embeddings in word2vec's text format."""
    path = folder / "vectors.txt"
    path.write_bytes(data)
    _check_embeddings(path)


@target
def embedding_arrays(data: bytes, folder: Path) -> None:
    """Embeddings in a safetensors file; the first byte chooses as in `weights`."""
    (kind,), rest = choose_numbers(data, 3)
    if kind:
        rest = len(rest).to_bytes(8, "little") + rest + bytes(24 if kind == 2 else 0)
    path = folder / "vectors.safetensors"
    path.write_bytes(rest)
    _check_embeddings(path)


def _check_embeddings(path: Path) -> None:
    found = attempt(lambda: pretrained.read_embeddings(str(path)))
    if isinstance(found, pretrained.Embeddings):
        assert found.values.shape == (len(found.symbols), found.width)
        assert found.symbols
        assert bool(found.values.isfinite().all())


@target
def alphabet(data: bytes, folder: Path) -> None:
    (kind,), rest = choose_numbers(data, 2)
    path = folder / ("alphabet.txt", "alphabet.json")[kind]
    path.write_bytes(rest)
    found = attempt(lambda: read_alphabet(path))
    if not is_refusal(found):
        Vocabulary("character", found.symbols)
        assert list(found.notes()) is not None


@target
def json_text(data: bytes, folder: Path) -> None:
    """What is read of JSON text is read again of what is written of it."""
    text = data.decode("utf-8", "surrogatepass") if not _undecodable(data) else data.decode("latin-1")
    try:
        value = strict_json.parse(text)
    except ValueError:
        return
    written = strict_json.write(value)
    assert written.isascii()
    if not re.search("[\ud800-\udfff]", repr(value)) and "\\ud" not in repr(value):
        assert strict_json.parse(written) == value


def _undecodable(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return True
    return False


BODIES = (
    writing_requests.CompletionBody,
    requests.ScoreBody,
    requests.StateBody,
    requests.TokenizeBody,
    requests.DetokenizeBody,
)


@target
def request_body(data: bytes, folder: Path) -> None:
    (kind,), rest = choose_numbers(data, len(BODIES))
    try:
        requests.parse_body(BODIES[kind], rest)
    except ApiError as error:
        assert str(error)
        strict_json.write(str(error))


@target
def escapes(data: bytes, folder: Path) -> None:
    """The escapes in the value of a flag."""
    text = data.decode("utf-8", "surrogateescape")
    attempt(lambda: unescape("--stop", text))
    assert unescape("--stop", text.replace("\\", "\\\\")) == text


# --- inputs that are made

DEPTHS = 16  # how many depths are tried below the one that Python's reader of JSON allows here


def _stack_depth() -> int:
    """Returns how many calls are under way; inspect.stack would look up the source of each."""
    frame, depth = inspect.currentframe(), -1  # without this call
    while frame:
        frame, depth = frame.f_back, depth + 1
    return depth


def deep_inputs(name: str) -> Iterator[bytes]:
    """Inputs with values nested as deeply as can be read, or nearly: what is done with a value may need more."""
    heads = {
        "vocabulary": [b'{"unit": ', b'{"unit": "byte", "separator": '],
        "manifest": [b'{"format": ', b'{"run": '],
        "corpus_header": [b'{"format": '],
        "alphabet": [b"\1[", b"\0["],
        "json_records": [b"\0\0\0\0[", b'\0\0\0\0{"text": ', b'\1\0\1\0[{"text": '],
        "json_lines": [b"\0\0\0\0", b'\0\0\0\0{"text": '],
        "request_body": [b"\0", b'\0{"prompt": ', b'\0{"metadata": ', b'\1{"text": '],
        "data_set": [b"\0", b'\0{"_data_files": ', b'\1{"splits": '],
    }
    deepest = sys.getrecursionlimit() - _stack_depth()
    for head in heads.get(name, []):
        for depth in range(deepest - DEPTHS, deepest):
            closed = b"]" if head.endswith(b"[") else b"}" if b"{" in head else b""
            yield head + b"[" * depth + b"]" * depth + closed


__all__ = ["TARGETS", "deep_inputs"]
