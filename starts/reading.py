"""Readers of the files of packages: each yields the texts in a file. And what all texts go through: `clean`."""

from __future__ import annotations

import gzip
import json
import lzma
import pickle
import re
import subprocess
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

Source = dict[str, Any]

COLLECTION = re.compile(
    r"gutenberg|etext|e-text|transcriber|proofread|distributed proof|produced by|digitized|isbn|copyright|\(c\) |©"
    r"|all rights reserved|internet wiretap|wikisource|https?://|www\.|@[a-z]+\.|page scan",
    re.IGNORECASE,
)  # lines that speak of a collection, its workers or its rights, and addresses
LONG_RUN = re.compile(r"([^\w\s])\1{7,}")  # rules made of dashes, stars or dots
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb]")


def clean(text: str) -> str:
    """Returns a text in NFC with plain line ends, without control characters, headers and long rules."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", UNSEEN.sub("", text))
    lines = [LONG_RUN.sub(r"\1\1\1", line.rstrip()) for line in text.split("\n") if not COLLECTION.search(line)]
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def read_text(path: Path, source: Source) -> Iterator[str]:
    """Yields a plain text, from the line after `after` to the line before `before` where a source has them."""
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    elif path.suffix == ".xz":
        data = lzma.decompress(data)
    text = data.decode(source.get("encoding", "utf-8"), "replace")
    if "after" in source:
        text = text.partition(source["after"])[2]
    if "before" in source:
        text = text.partition(source["before"])[0]
    yield text


def read_lines(path: Path, source: Source) -> Iterator[str]:
    """Yields ranges of a table of verse lines that was pickled by pandas; nothing in the file is run."""
    with gzip.open(path) as file:
        lines = _Verse(file).read()
    for first, last, _ in source["lines"]:
        yield "\n".join(lines[first - 1 : last])


class _Part:
    """Takes the place of a class of pandas, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Part:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Verse(pickle.Unpickler):
    """Unpickles numpy's arrays and nothing else."""

    def read(self) -> list[str]:
        """Returns the first row of the largest array of objects: the column of texts."""
        self.arrays: list[Any] = []
        self.load()
        return [str(line) for line in max((a for a in self.arrays if a.dtype == object), key=lambda a: a.size)[0]]

    def find_class(self, module: str, name: str) -> Any:
        """Returns numpy's array and type, and stand-ins for classes of pandas; refuses all else."""
        if module.replace("_core", "core") == "numpy.core.multiarray" and name == "_reconstruct":
            return self._array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("builtins", "slice"):
            return slice
        if module.startswith("pandas."):
            return _nothing if name.startswith("_") else _Part
        raise pickle.UnpicklingError(f"{module}.{name} is not expected")

    def _array(self, *_: object) -> Any:
        self.arrays.append(np.ndarray((0,), "b"))
        return self.arrays[-1]


def _nothing(*_: object) -> None:
    return None


def read_php(path: Path, source: Source) -> Iterator[str]:
    """Yields the text between <<<'EOT' and EOT; of a PHP file."""
    text = path.read_text(encoding="utf-8").partition("<<<'EOT'")[2].partition("\nEOT;")[0]
    yield text.partition(source["after"])[2] if "after" in source else text


def read_json(path: Path, source: Source) -> Iterator[str]:
    """Yields the strings or lists of lines under one key, wherever they are."""
    yield "\n\n".join(_under(json.loads(path.read_text(encoding="utf-8")), source["key"]))


def _under(value: object, key: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _under(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == key and isinstance(item, list | str):
                yield item if isinstance(item, str) else "\n".join(item)
            else:
                yield from _under(item, key)


BLOCKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "tr", "dt", "dd", "br", "blockquote", "title"}
SILENT = {"script", "style", "nav", "header", "footer", "head", "svg", "button", "form"}
VOID = {"br", "img", "meta", "link", "hr", "input", "col", "area", "base", "wbr"}


class _Page(HTMLParser):
    """Collects the text of a page: one line a block, and preformatted text as it is."""

    def __init__(self, language: str, skipped: set[str]) -> None:
        super().__init__()
        self.language, self.skipped = language, skipped
        self.silent: list[str] = []  # open elements, from the first silent one on
        self.preformatted = 0
        self.lines: list[str] = []
        self.line = ""
        self.right_language = not language

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Opens an element."""
        named = dict(attributes)
        if tag == "html" and named.get("lang") == self.language:
            self.right_language = True
        if tag in VOID:
            if tag == "br":
                self.end_line()
            return
        classes = set((named.get("class") or "").split()) | {named.get("id") or ""}
        if self.silent or tag in SILENT or classes & self.skipped:
            self.silent.append(tag)
            return
        if tag in BLOCKS:
            self.end_line()
        self.preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        """Closes an element, and those that were left open in it."""
        if self.silent:
            if tag in self.silent:
                while self.silent.pop() != tag:
                    pass
            return
        if tag in BLOCKS:
            self.end_line()
        if tag == "pre":
            self.preformatted = max(0, self.preformatted - 1)

    def handle_data(self, data: str) -> None:
        """Takes up text."""
        if self.silent:
            return
        if self.preformatted:
            first, *rest = data.split("\n")
            self.line += first
            for part in rest:
                self.lines.append(self.line)
                self.line = part
        else:
            self.line += re.sub(r"\s+", " ", data)

    def end_line(self) -> None:
        """Ends the line of a block."""
        if self.line.strip():
            self.lines.append(self.line if self.preformatted else self.line.strip())
        self.line = ""


WRAPPED_COLUMNS = 72  # as in most books that are spread as plain text


def read_novels(path: Path, source: Source) -> Iterator[str]:
    """Yields the novels of a Markdown file, without marks of headings, authors and years.

    A paragraph is one line. In every second novel it is wrapped, so that a start knows both.
    """
    text = re.sub("^(## (Author|Year): .*|-{5,})$", "", next(read_text(path, source)), flags=re.MULTILINE)
    for number, novel in enumerate(re.split("^# Title: ", text, flags=re.MULTILINE)[1:]):
        lines = re.sub("^#+ +", "", novel, flags=re.MULTILINE).split("\n")
        yield "\n".join(textwrap.fill(line, WRAPPED_COLUMNS) if number % 2 else line for line in lines)


def read_html(path: Path, source: Source) -> Iterator[str]:
    """Yields the text of a page if it is in the source's language."""
    page = _Page(source.get("page_language", ""), set(source.get("skip", [])))
    page.feed(path.read_text(encoding=source.get("encoding", "utf-8"), errors="replace"))
    page.end_line()
    text = "\n".join(page.lines)
    letters = sum(sign.isalpha() for sign in text)
    if page.right_language and letters > 0.4 * len(text) > 400:  # tables of numbers teach little
        yield text


def read_bible(path: Path, source: Source) -> Iterator[str]:
    """Yields what the program of a package prints of all books; only to be kept out."""
    program = next(path.parents[3].parent.rglob("usr/bin/bible"))
    command = [program, "-f", "-p", path.parent, "-d", path.name, "Ge1:1-Re22:21"]
    printed = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout
    yield re.sub(r"^\w+:\d+ ", "", printed.decode("latin-1"), flags=re.MULTILINE)


READERS: dict[str, Callable[[Path, Source], Iterator[str]]] = {
    "text": read_text,
    "lines": read_lines,
    "php": read_php,
    "json": read_json,
    "html": read_html,
    "novels": read_novels,
    "bible": read_bible,
}
