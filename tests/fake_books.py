"""Small .docx and .epub files, good ones and bad ones."""

from __future__ import annotations

import zipfile
from html import escape
from pathlib import Path

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="{}"/>'
    "</Relationships>"
)
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)


def write_archive(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def docx(path: Path, body: str, head: str = "", encoding: str = "utf-8") -> Path:
    start = f'<?xml version="1.0" encoding="{encoding}"?>{head}<w:document xmlns:w="{WORD}">'
    document = f"{start}<w:body>{body}</w:body></w:document>".encode(encoding, "replace")
    return write_archive(path, {"_rels/.rels": RELS.format("word/document.xml"), "word/document.xml": document})


def paragraph(text: str) -> str:
    return f'<w:p><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def epub(path: Path, chapters: list[str], head: str = "<!DOCTYPE html>") -> Path:
    """A book whose spine is in the other order than its list of files."""
    names = [f"chapter {number}.xhtml" for number in range(len(chapters))]
    items = "".join(
        f'<item id="c{n}" href="{name.replace(" ", "%20")}" media-type="application/xhtml+xml"/>'
        for n, name in reversed(list(enumerate(names)))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(names)))
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="p" href="a.png" media-type="image/png"/>'
        f'{items}</manifest><spine><itemref idref="p"/>{spine}</spine></package>'
    )
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>not this</title></head><body>{}</body></html>'
    pages = {f"OEBPS/{name}": head + page.format(text) for name, text in zip(names, chapters, strict=True)}
    return write_archive(path, {"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": package, **pages})
