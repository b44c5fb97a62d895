"""`scriven corpus`: turns text into ids on disk, and shows what is in a corpus."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from scriven.cli.common import (
    Json,
    Output,
    Text,
    Whole,
    check_named,
    note,
    progress_bar,
    put_json,
    put_path,
    unescape_separator,
    visible_line,
)
from scriven.cli.help import HELP_FLAGS
from scriven.errors import Interrupted, UsageError
from scriven.settings import CorpusSettings, ReaderSettings, Settings
from scriven.settings_checks import check_partial
from scriven.settings_values import merge_settings, validate

if TYPE_CHECKING:
    from scriven.batches import Batch
    from scriven.corpus import Corpus
    from scriven.vocabulary import Vocabulary
if TYPE_CHECKING:
    from scriven.corpus import Corpus, Part


Row = tuple[str, object]
ROWS_SHOWN = 4  # of a batch
LENGTH_SHOWN = 64  # characters of a row


def choose_reader(corpus: Corpus, reader: ReaderSettings) -> ReaderSettings:
    """Returns the reader's settings. Unless its kind is given, it reads documents if the corpus has any, else a stream.

    Raises UsageError when they contradict the corpus.
    """
    kind = "stream" if corpus.settings.documents == "none" else "documents"
    values = merge_settings({"kind": kind}, reader.model_dump(exclude_unset=True))
    return check_partial(validate({"corpus": corpus.settings.model_dump(), "reader": values})).reader


def epoch_facts(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """Returns facts on an epoch of the training text for JSON, with a sentence that sums them up."""
    from scriven.batches.readers import count_epoch, describe_epoch

    counts = count_epoch(corpus.training, corpus.vocabulary, settings.reader, settings.training.accumulate)
    return {"words": describe_epoch(counts), **vars(counts)}


def describe_facts(corpus: Corpus, reader: ReaderSettings, count: int) -> dict[str, Any]:
    """Returns the first `count` characters, their ids, the text of these ids, and the first batch, for JSON."""
    from scriven.batches import next_batch

    vocabulary = corpus.vocabulary
    ids = corpus.training.read(0, min(count, corpus.training.characters))
    batch, _ = next_batch(corpus.training, vocabulary, reader, 0)
    return {
        "characters": [vocabulary.decode([id]) for id in ids],
        "ids": ids.tolist(),
        "text": vocabulary.decode(ids),
        "batch": {"length": batch.ids.shape[0], "rows": _batch_rows(batch, vocabulary)},
    }


def _batch_rows(batch: Batch, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Returns for each row of a batch its inputs and targets, how many count, and where its memory is emptied."""
    return [
        {
            "reads": vocabulary.decode(batch.ids[:, row]),
            "predicts": vocabulary.decode(batch.targets[:, row]),
            "counts": len(batch.ids) if batch.weights is None else int(batch.weights[:, row].sum()),
            "fresh": [] if batch.fresh is None else batch.fresh[:, row].nonzero()[0].tolist(),
        }
        for row in range(batch.ids.shape[1])
    ]


def describe_shown(facts: dict[str, Any], unit: str) -> list[Row]:
    """Returns the result of `describe_facts` as rows for people."""
    length, rows = facts["batch"]["length"], facts["batch"]["rows"]
    shown: list[Row] = [(f"{unit}s", " ".join(map(repr, facts["characters"])))]
    shown += [
        ("their ids", " ".join(map(str, facts["ids"]))),
        ("as text again", repr(facts["text"])),
        ("first batch", f"{length:,} {unit}s in each of {len(rows):,} rows"),
    ]
    for number, row in enumerate(rows[:ROWS_SHOWN]):
        shown.append((f"row {number} reads", _shorten_cell(row["reads"])))
        counted = "" if row["counts"] == length else f" ({row['counts']:,} of them count)"
        shown.append(("  predicts", _shorten_cell(row["predicts"]) + counted))
        if row["fresh"]:
            shown.append(("  memory empty", "before " + ", ".join(f"{place:,}" for place in row["fresh"])))
    return shown


def _shorten_cell(text: str) -> str:
    return repr(text[:LENGTH_SHOWN]) + ("..." if len(text) > LENGTH_SHOWN else "")


app = App(name="corpus", help_flags=HELP_FLAGS, help="Turn text into a corpus (ids on disk), and show what is in one.")
Flags = Annotated[CorpusSettings, Parameter(name="corpus", show_default=False)]
DEFAULTS = CorpusSettings()
SHOWN = 12  # most frequent characters


@app.command
def build(
    *texts: Text,
    output: Output = None,
    part: str | None = None,
    corpus: Flags = DEFAULTS,
) -> None:
    """Build a corpus and print its folder.

    The same texts with the same settings are built only once. Training does this by itself when you give it texts.

    Parameters
    ----------
    texts
        files (also .gz, .xz, .bz2, .zst), folders, globs, URLs such as s3://bucket/key, - for standard input, or a
        built-in text: python, shakespeare
    output
        folder to make; unless given, one in the user's cache
    part
        build only part i of n, such as 3/8, on any machine with the same files; `scriven corpus merge` then joins
        all parts
    """
    corpus = unescape_separator(corpus)
    if part is None:
        _tell(build_with_bar(check_named(texts), corpus, output))
        return
    from scriven.corpus.build import build_part

    number, count = _part(part)
    if output is None:
        raise UsageError(f"--part {part} needs a folder of its own; name one with -o DIR")
    with stop_on_signal(), progress_bar("reading the text") as progress:
        path = build_part(check_named(texts), corpus, output, (number, count), progress)
    put_path(path)


@app.command
def merge(*parts: Path, output: Output = None) -> None:
    """Join all parts of a corpus, in any order, and print its folder. A single build gives the same result.

    Parameters
    ----------
    parts
        the folders that `scriven corpus build --part` made
    output
        folder to make
    """
    from scriven.corpus.build import merge as merge_parts

    if output is None:
        raise UsageError("a merged corpus needs a folder; name one with -o DIR")
    with stop_on_signal(), progress_bar("reading the text") as progress:
        path = merge_parts(parts, output, progress)
    _tell(path)


@app.command
def check(corpus: str) -> None:
    """Check a whole corpus for damage, by its sizes and hashes; the exit code is 3 if there is any.

    Parameters
    ----------
    corpus
        folder or URL of the corpus
    """
    from scriven.corpus import Corpus

    with stop_on_signal():
        files, size = Corpus.open(corpus).verify()
    sys.stdout.write(f"{visible_line(corpus)} is undamaged: {files:,} files, {size:,} bytes\n")


@app.command
def info(
    *texts: Text,
    show: Whole = 0,
    as_json: Json = False,
    corpus: Flags = DEFAULTS,
    reader: Annotated[ReaderSettings, Parameter(name="reader", show_default=False)] = ReaderSettings(),
) -> None:
    """Show what is in a corpus: its vocabulary, counts, split and most frequent characters.

    With --show, or with a flag of the reader such as --reader.kind windows, also show what makes up an epoch.

    Parameters
    ----------
    texts
        folder or URL of a corpus, or texts, as for `scriven corpus build`
    show
        show the first N characters of the training text, their ids, the text of these ids, and the first batch
    """
    from scriven.corpus import Corpus, is_corpus

    opened = Corpus.open(
        texts[0] if is_corpus(texts) else build_with_bar(check_named(texts), unescape_separator(corpus))
    )
    facts = _facts(opened)
    if show or reader.model_fields_set:
        settings = Settings(reader=choose_reader(opened, reader))
        facts["epoch"] = epoch_facts(opened, settings)
        facts |= {"shown": describe_facts(opened, settings.reader, show)} if show else {}
    if as_json:
        put_json(facts)
    else:
        sys.stdout.write(_as_words(facts))


def build_with_bar(texts: Sequence[str], settings: CorpusSettings, folder: Path | None = None) -> Path:
    """Builds the corpus of these texts, with a bar on standard error, and returns its folder."""
    from scriven.corpus.build import build as build_corpus

    with stop_on_signal(), progress_bar("reading the text") as progress:
        return build_corpus(texts, settings, folder, progress)


def _tell(path: Path) -> None:
    """Prints the folder of a corpus, and notes on it on standard error."""
    from scriven.corpus import Corpus

    for each in Corpus.open(path).notes:
        note(each)
    put_path(path)


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise UsageError(f"--part {text}: give it as i/n, such as 3/8 for the third of eight")
    return int(number), int(count)


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM stop the work inside this context at once."""

    def _stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped, and the unfinished corpus removed; run the same command to start again", number)

    if threading.current_thread() is not threading.main_thread():  # the only one that gets signals
        yield
        return
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _facts(corpus: Corpus) -> dict[str, Any]:
    header, names = corpus.header, corpus.vocabulary.names
    most_frequent_first = sorted(range(len(names)), key=lambda id: -header.frequencies[id])
    return {
        "path": corpus.name,
        "texts": corpus.texts,
        "settings": corpus.settings.model_dump(),
        "vocabulary": corpus.vocabulary.size,
        "training": _part_facts(corpus.training),
        "validation": _part_facts(corpus.validation),
        "counts": corpus.counts.model_dump(),
        "notes": corpus.notes,
        "symbols": {_symbol(names[id], corpus.settings.unit): header.frequencies[id] for id in most_frequent_first},
    }


def _part_facts(part: Part) -> dict[str, int]:
    shortest, median, longest = part.document_lengths()
    facts = {"characters": part.characters, "bytes": part.bytes, "documents": part.documents}
    return facts | ({"shortest": shortest, "median": median, "longest": longest} if part.documents else {})


def _part_in_words(facts: dict[str, int], unit: str) -> str:
    from scriven.corpus.inputs import amount

    words = amount(facts["characters"], unit, f"{unit}s")
    if not facts["documents"]:
        return words
    lengths = f"{facts['shortest']:,} to {facts['longest']:,} {unit}s, median {facts['median']:,}"
    return f"{words} in {amount(facts['documents'], 'document', 'documents')} of {lengths}"


def _symbol(name: str, unit: str) -> str:
    return f"0x{ord(name):02x}" if unit == "byte" and ord(name) >= 128 else name


def _as_words(facts: dict[str, Any]) -> str:
    from scriven.corpus.inputs import amount

    counts, unit, trained = facts["counts"], facts["settings"]["unit"], facts["training"]["characters"]
    frequent = list(facts["symbols"].items())[:SHOWN]
    ends = "one for the end of a document, " if facts["training"]["documents"] else ""
    read = (
        amount(counts["sources"], "source", "sources"),
        amount(counts["lines"], "line", "lines"),
        amount(counts["bytes"], "byte of UTF-8", "bytes of UTF-8"),
    )
    rows = [
        ("folder", facts["path"]),
        ("texts", ", ".join(facts["texts"])),
        ("read", ", ".join(read)),
        ("vocabulary", f"{facts['vocabulary']:,} ({unit}s, {ends}and one for all unknown ones)"),
        ("training", _part_in_words(facts["training"], unit)),
        ("validation", _part_in_words(facts["validation"], unit)),
        ("most frequent", ", ".join(f"{symbol!r} {count / trained:.1%}" for symbol, count in frequent)),
        *(("note", each) for each in facts["notes"]),
        *([("an epoch", facts["epoch"]["words"])] if "epoch" in facts else []),
        *(describe_shown(facts["shown"], unit) if "shown" in facts else []),
    ]
    return "".join(f"{name:14} {visible_line(value)}\n" for name, value in rows)
