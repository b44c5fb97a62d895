"""`scriven corpus`: turn text into ids on disk, and tell what is in a corpus."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from scriven.cli.flags import Json, Text, named
from scriven.settings import CorpusSettings

if TYPE_CHECKING:
    from scriven.corpus import Corpus, Part

app = App(name="corpus", help="Turn text into a corpus (ids on disk), and tell what is in one.")
Flags = Annotated[CorpusSettings, Parameter(name="corpus", show_default=False)]
DEFAULTS = CorpusSettings()
SHOWN = 12  # most frequent characters
SHOW_SECONDS = 0.1


@app.command
def build(
    *texts: Text,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    corpus: Flags = DEFAULTS,
) -> None:
    """Build a corpus, and print its folder.

    The same texts with the same settings are built once only. Training on the texts themselves does this on its own.

    Parameters
    ----------
    texts
        files (also .gz, .xz, .bz2, .zst), folders, globs, - for standard input, or built in: python, shakespeare
    output
        folder to make; the user's cache where not given
    """
    from scriven.corpus import Corpus

    path = built(named(texts), corpus, output)
    for note in Corpus.open(path).notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(f"{path}\n")


@app.command
def info(
    *texts: Text,
    as_json: Json = False,
    corpus: Flags = DEFAULTS,
) -> None:
    """Tell what is in a corpus: its vocabulary, counts, split and most frequent characters.

    Parameters
    ----------
    texts
        the folder of a corpus, or texts as `scriven corpus build` takes them
    """
    from scriven.corpus import Corpus
    from scriven.corpus.header import NAME

    is_corpus = len(texts) == 1 and (Path(texts[0]) / NAME).is_file()
    facts = _facts(Corpus.open(texts[0] if is_corpus else built(named(texts), corpus)))
    sys.stdout.write(json.dumps(facts) + "\n" if as_json else _as_words(facts))


def built(texts: Sequence[str], settings: CorpusSettings, folder: Path | None = None) -> Path:
    """The folder of the corpus of these texts, with a bar on standard error while it is built."""
    from scriven.corpus import build as build_corpus

    with _bar() as progress:
        return build_corpus(texts, settings, folder, progress)


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("reading the text", total=None)
        shown = 0.0

        def _show(done: int, total: int | None) -> None:
            nonlocal shown
            if time.monotonic() - shown > SHOW_SECONDS:  # each update keeps something, which tears holes in the memory
                shown = time.monotonic()
                bar.update(task, completed=done, total=total)

        yield _show


def _facts(corpus: Corpus) -> dict[str, Any]:
    header, symbols = corpus.header, corpus.vocabulary.symbols
    most_frequent_first = sorted(range(len(symbols)), key=lambda id: -header.frequencies[id])
    return {
        "path": str(corpus.path),
        "texts": corpus.texts,
        "settings": corpus.settings.model_dump(),
        "vocabulary": corpus.vocabulary.size,
        "training": _part_facts(corpus.training),
        "validation": _part_facts(corpus.validation),
        "counts": corpus.counts.model_dump(),
        "notes": corpus.notes,
        "symbols": {_symbol(symbols[id], corpus.settings.unit): header.frequencies[id] for id in most_frequent_first},
    }


def _part_facts(part: Part) -> dict[str, int]:
    shortest, median, longest = part.document_lengths()
    facts = {"characters": part.characters, "bytes": part.bytes, "documents": part.documents}
    return facts | ({"shortest": shortest, "median": median, "longest": longest} if part.documents else {})


def _part_in_words(facts: dict[str, int], unit: str) -> str:
    words = f"{facts['characters']:,} {unit}s"
    if not facts["documents"]:
        return words
    lengths = f"{facts['shortest']:,} to {facts['longest']:,} {unit}s, half of them up to {facts['median']:,}"
    return f"{words} in {facts['documents']:,} documents of {lengths}"


def _symbol(symbol: int, unit: str) -> str:
    return chr(symbol) if unit == "character" or symbol < 128 else f"0x{symbol:02x}"


def _as_words(facts: dict[str, Any]) -> str:
    counts, unit, trained = facts["counts"], facts["settings"]["unit"], facts["training"]["characters"]
    frequent = list(facts["symbols"].items())[:SHOWN]
    ends = "one at the end of a document, " if facts["training"]["documents"] else ""
    rows = [
        ("folder", facts["path"]),
        ("texts", ", ".join(facts["texts"])),
        ("read", f"{counts['sources']:,} sources, {counts['lines']:,} lines, {counts['bytes']:,} bytes of UTF-8"),
        ("vocabulary", f"{facts['vocabulary']:,} ({unit}s, {ends}and one that stands for all unknown ones)"),
        ("training", _part_in_words(facts["training"], unit)),
        ("validation", _part_in_words(facts["validation"], unit)),
        ("most frequent", ", ".join(f"{symbol!r} {count / trained:.1%}" for symbol, count in frequent)),
        *(("note", note) for note in facts["notes"]),
    ]
    return "".join(f"{name:14} {value}\n" for name, value in rows)
