"""Reads the text of .docx and .epub files (XML in a ZIP archive) piece by piece, in bounded memory.

Each paragraph becomes a line. The text of a .docx is its body, without notes, headers and deleted text. The text of an
.epub is all its chapters, in the order of its spine. Nothing in such a file is run, fetched or trusted: its XML may not
declare entities, and all sizes are bounded.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Callable, Iterator
from html.entities import html5
from typing import IO, ClassVar
from urllib.parse import unquote
from xml.parsers import expat
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from scriven.corpus.filesystem import explain_errors, open_file
from scriven.corpus.sources import TextSource
from scriven.errors import InputError

XML_PIECE_BYTES = 1 << 16  # read at once
MOST_XML = 1 << 30  # bytes of XML in one file: a large book has 10 MB
MOST_ENTRIES = 1 << 25  # bytes of the archive's list of files
LONGEST_PARAGRAPH = 1 << 26  # characters
LONGEST_TAG = 1 << 24  # bytes; the limit also holds for a comment, and for all that the parser keeps until its end
DEEPEST = 1000  # elements nested in elements
_END, _END_SIZE = b"PK\x05\x06", 22  # the first bytes of the archive's end, and its size without a comment
_LARGE_END, _LARGE_SIZE = b"PK\x06\x06", 56  # the same for an archive that may be large (ZIP64)
_LARGE_PLACE, _LARGE_PLACE_SIZE = b"PK\x06\x07", 20  # the record between the two
_SPACES = re.compile("[ \t\n\r\f]+")


def zipped_text(source: TextSource, count_bytes: Callable[[int], None]) -> Iterator[str]:
    """The text of a .docx or .epub file (by its suffix), in pieces. Calls `count_bytes` with its size at the end.

    Raises InputError if it is damaged, too large, or not what its name says.
    """
    assert source.path is not None  # standard input has no suffix
    with explain_errors(source.name, Exception, remote=isinstance(source.path, str)), open_file(source.path) as file:
        yield from read_zipped(file, source.suffixes[0], source.name, MOST_XML)
        count_bytes(file.seek(0, 2))


def read_zipped(file: IO[bytes], suffix: str, name: str, most_xml: int) -> Iterator[str]:
    """The text of an open .docx or .epub file, in pieces; reads at most `most_xml` bytes of its XML.

    Raises InputError for what is wrong with its XML, and errors of `zipfile` and `zlib` for a damaged archive.
    """
    check_entries(file, name)
    with ZipFile(file) as archive:
        yield from (_docx if suffix == ".docx" else _epub)(_Archive(archive, name, most_xml))


def check_entries(file: IO[bytes], name: str) -> None:
    """Raises InputError if the archive's list of files, which zipfile reads as a whole, would take much memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _LARGE_SIZE - _LARGE_PLACE_SIZE - _END_SIZE - (1 << 16)))
    if max(_listed_bytes(file.read()), default=0) > MOST_ENTRIES:
        raise InputError(f"{name} has too many files in it to be what its name says; save it again")
    file.seek(0)


def _listed_bytes(tail: bytes) -> Iterator[int]:
    """The sizes in bytes that the list of files may have, from each record that zipfile might use."""
    for end in (len(tail) - _END_SIZE, tail.rfind(_END)):
        if end >= 0 and tail.startswith(_END, end) and end + _END_SIZE <= len(tail):
            yield struct.unpack_from("<L", tail, end + 12)[0]
            large = tail.rfind(_LARGE_END, 0, end)
            if tail.startswith(_LARGE_PLACE, end - _LARGE_PLACE_SIZE) and 0 <= large <= end - _LARGE_SIZE:
                yield struct.unpack_from("<Q", tail, large + 40)[0]


class _Archive:
    """The XML files in a ZIP archive; reads at most `most` bytes of them."""

    def __init__(self, archive: ZipFile, name: str, most: int) -> None:
        self.name = name
        self._archive, self._most, self._left = archive, most, most
        self._names = frozenset(archive.namelist())

    def parse(self, file: str, handler: _Handler) -> Iterator[str]:
        """Feeds a file to a handler; yields the texts that it makes."""
        if file not in self._names:
            raise InputError(f"{self.name} is damaged or not what its name says: {file} is not in it; save it again")
        if self._archive.getinfo(file).compress_type not in {ZIP_STORED, ZIP_DEFLATED}:  # others unpack it at once
            raise InputError(f"{self.name} is compressed in an unusual way; save it again, or as plain text")
        with self._archive.open(file) as stream:
            while data := stream.read(XML_PIECE_BYTES):
                self._left -= len(data)
                if self._left < 0:
                    raise InputError(f"{self.name} has over {self._most:,} bytes of XML in it; save it as plain text")
                yield handler.feed(data, self.name)
        yield handler.feed(b"", self.name)


class _Refused(ValueError):
    """The reason why some XML is refused."""


class _Handler:
    """Makes text from the events of an XML parser. Tags come without their namespaces."""

    def __init__(self) -> None:
        self._made: list[str] = []
        self._depth = self._fed = 0  # open elements, and bytes fed to the parser
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._begin_element
        self._parser.EndElementHandler = self._end_element
        self._parser.CharacterDataHandler = self.data
        self._parser.EntityDeclHandler = self._refuse  # entities made of entities could fill any memory
        self._parser.UseForeignDTD(True)  # so that &nbsp; and the like are skipped, and go to SkippedEntityHandler
        self._parser.SkippedEntityHandler = self._refuse_entity

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Handles the start of an element."""

    def end(self, tag: str) -> None:
        """Handles the end of an element."""

    def data(self, text: str) -> None:
        """Handles text in an element."""

    def feed(self, data: bytes, name: str) -> str:
        """Parses the next bytes (empty at the end), and returns the text that is ready."""
        try:
            self._parser.Parse(data, not data)
            self._fed += len(data)
            if self._fed - max(0, self._parser.CurrentByteIndex) > LONGEST_TAG:
                raise _Refused(f"a tag or comment has over {LONGEST_TAG:,} bytes")
        except (expat.ExpatError, ValueError) as error:  # ValueError: an encoding that expat does not have
            raise InputError(f"{name} cannot be read: in its XML, {error}; save it again, or as plain text") from None
        if self.kept_text > LONGEST_PARAGRAPH:
            raise InputError(f"{name} has a paragraph of over {LONGEST_PARAGRAPH:,} characters; save it as plain text")
        text, self._made = "".join(self._made), []
        return text

    @property
    def kept_text(self) -> int:
        """The number of characters that wait for the end of their paragraph."""
        return 0

    def _begin_element(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _Refused(f"over {DEEPEST:,} elements are nested")
        self.start(tag.rpartition(" ")[2], attributes)

    def _end_element(self, tag: str) -> None:
        self._depth -= 1
        self.end(tag.rpartition(" ")[2])

    def _refuse(self, *declared: object) -> None:
        raise _Refused("entities are declared, which is not allowed here")

    def _refuse_entity(self, entity: str, is_parameter: bool) -> None:
        if not is_parameter:
            self.data(html5.get(f"{entity};", f"&{entity};"))


# --- .docx


class _Word(_Handler):
    """Takes the text from the body of a .docx."""

    HIDDEN: ClassVar = frozenset({"del", "moveFrom", "Fallback"})  # Fallback repeats the part before it
    SIGNS: ClassVar = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011", "softHyphen": "\u00ad"}

    def __init__(self) -> None:
        super().__init__()
        self._paragraphs: list[list[str]] = []  # the open ones: a text box has paragraphs inside another paragraph
        self._hidden = self._runs = self._texts = 0  # open elements of each kind
        self._length = 0  # characters of the open paragraphs

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._hidden += tag in self.HIDDEN
        if self._hidden:
            return
        self._runs += tag == "r"
        self._texts += tag == "t"
        if tag == "p":
            self._paragraphs.append([])
        elif tag in self.SIGNS and self._runs:  # outside of a run a tab is a setting
            self._add_text(self.SIGNS[tag])

    def end(self, tag: str) -> None:
        if self._hidden:
            self._hidden -= tag in self.HIDDEN
            return
        self._runs -= tag == "r"
        self._texts -= tag == "t"
        if tag == "p" and self._paragraphs:
            text = "".join(self._paragraphs.pop())
            self._length -= len(text)
            self._made.append(f"{text}\n")

    def data(self, text: str) -> None:
        if self._texts and not self._hidden:
            self._add_text(text)

    def _add_text(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1].append(text)
            self._length += len(text)

    @property
    def kept_text(self) -> int:
        return self._length


def _docx(archive: _Archive) -> Iterator[str]:
    found = _Elements()
    yield from archive.parse("_rels/.rels", found)  # no text, but whoever reads can stop in between
    targets = [
        each["Target"]
        for tag, each in found.elements
        if tag == "Relationship" and each.get("Type", "").endswith("/officeDocument") and "Target" in each
    ]
    yield from archive.parse(posixpath.normpath(targets[0].lstrip("/")) if targets else "word/document.xml", _Word())


# --- .epub


class _Elements(_Handler):
    """Collects all elements of a small file, with their attributes."""

    MOST: ClassVar = 1 << 17
    LONGEST: ClassVar = 1 << 24  # characters of all attributes

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._length = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._length += sum(map(len, attributes)) + sum(map(len, attributes.values()))
        if len(self.elements) >= self.MOST or self._length > self.LONGEST:
            raise _Refused(f"a list has over {self.MOST:,} entries, or {self.LONGEST:,} characters")
        self.elements.append((tag, attributes))


class _Chapter(_Handler):
    """Takes the text from a page of XHTML."""

    HIDDEN: ClassVar = frozenset({"head", "script", "style", "template"})
    BLOCKS: ClassVar = frozenset(
        {"address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "div", "dl", "dt"}
        | {"figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main"}
        | {"nav", "ol", "p", "pre", "section", "table", "title", "tr", "ul"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._begun: list[str] = []  # the text of the paragraph
        self._hidden = self._kept = 0  # open elements: hidden ones, and those that keep their white space
        self._length = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self._finish()
        self._kept += tag == "pre"

    def end(self, tag: str) -> None:
        if tag in self.BLOCKS:
            self._finish()
        elif tag in {"td", "th"}:
            self.data(" ")
        self._hidden -= tag in self.HIDDEN
        self._kept -= tag == "pre"

    def data(self, text: str) -> None:
        if not self._hidden:
            self._begun.append(text)
            self._length += len(text)

    def _finish(self) -> None:
        text = "".join(self._begun)
        text = text.strip("\n") if self._kept else _SPACES.sub(" ", text).strip(" ")
        self._begun, self._length = [], 0
        if text:
            self._made.append(text + "\n")

    @property
    def kept_text(self) -> int:
        return self._length


def _epub(archive: _Archive) -> Iterator[str]:
    container, package = _Elements(), _Elements()
    yield from archive.parse("META-INF/container.xml", container)
    roots = [each["full-path"] for tag, each in container.elements if tag == "rootfile" and "full-path" in each]
    if not roots:
        raise InputError(f"{archive.name} is damaged: it does not say where its chapters are; save it again")
    yield from archive.parse(roots[0], package)
    items = {each.get("id"): each for tag, each in package.elements if tag == "item"}
    for tag, each in package.elements:
        item = items.get(each.get("idref")) if tag == "itemref" else None
        if item and "html" in item.get("media-type", ""):
            place = posixpath.join(posixpath.dirname(roots[0]), unquote(item.get("href", "")))
            yield from archive.parse(posixpath.normpath(place), _Chapter())
