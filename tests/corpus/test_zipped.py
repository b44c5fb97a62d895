"""The text of .docx and .epub files is read in order, in bounded memory; nothing in them is fetched or believed."""

import random
import struct
import zipfile
from html import escape
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_books import RELS, docx, epub, paragraph, write_archive
from scriven.corpus import Corpus, zipped
from scriven.corpus.build import build
from scriven.corpus.decoding import ReadCounts, read_text
from scriven.corpus.partition import partition_sources
from scriven.corpus.sources import find
from scriven.errors import InputError
from scriven.settings import CorpusSettings

WORDS = st.text("ab é<&>天\u00a0", max_size=9)


def text_of(path: Path, tally: ReadCounts | None = None) -> str:
    return "".join(read_text(find([str(path)]).sources, CorpusSettings(), tally))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(WORDS, max_size=5), st.integers(1, 40))
def test_the_paragraphs_of_a_docx_are_lines_whatever_the_pieces(tmp_path: Path, texts: list[str], size: int) -> None:
    path = docx(tmp_path / "a.docx", "".join(map(paragraph, texts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipped, "XML_PIECE_BYTES", size)
        tally = ReadCounts()
        assert text_of(path, tally) == "".join(f"{text}\n" for text in texts)
    assert tally.position == path.stat().st_size
    assert tally.line_ends.lines == len(texts)


def test_what_a_docx_shows_is_read_and_nothing_else(tmp_path: Path) -> None:
    body = (
        '<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr>'
        "<w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r>"
        "<w:del><w:r><w:delText>deleted</w:delText><w:t>too</w:t></w:r></w:del>"
        "<w:r><w:instrText>PAGE</w:instrText></w:r><w:hyperlink><w:r><w:t>!</w:t></w:r></w:hyperlink></w:p>"
        "<w:p/>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        '<w:p><w:r><mc:AlternateContent xmlns:mc="m"><mc:Choice>'
        "<w:txbxContent><w:p><w:r><w:t>box</w:t></w:r></w:p></w:txbxContent></mc:Choice>"
        "<mc:Fallback><w:p><w:r><w:t>box again</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>"
        "<w:t>after</w:t></w:r></w:p>"
    )
    assert text_of(docx(tmp_path / "a.docx", body)) == "one\ttwo\nthree!\n\ncell\nbox\nafter\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.lists(WORDS, max_size=4), max_size=3), st.integers(1, 40))
def test_the_chapters_of_an_epub_are_read_in_the_order_of_its_spine(
    tmp_path: Path, chapters: list[list[str]], size: int
) -> None:
    path = epub(tmp_path / "a.epub", ["".join(f"<p>{escape(text)}</p>\n" for text in texts) for texts in chapters])
    lines = [" ".join(text.split(" ")).strip(" ") for texts in chapters for text in texts]
    expected = "".join(f"{' '.join(filter(None, line.split(' ')))}\n" for line in lines if line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipped, "XML_PIECE_BYTES", size)
        assert text_of(path) == expected


def test_what_a_page_of_an_epub_shows_is_read(tmp_path: Path) -> None:
    page = (
        "<h1>A  title</h1><p>It&nbsp;is&hellip; <i>so</i>,<br/>and\n  so.</p><script>no()</script>"
        "<ul><li>one</li><li>two</li></ul><pre>  kept\n    so</pre><table><tr><td>a</td><td>b</td></tr></table>end"
    )
    assert text_of(epub(tmp_path / "a.epub", [page])) == (
        "A title\nIt\u00a0is… so,\nand so.\none\ntwo\n  kept\n    so\na b\nend\n"
    )


def test_they_are_texts_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    docx(tmp_path / "in" / "b.docx", paragraph("“Two”"))
    epub(tmp_path / "in" / "a.epub", ["<p>One</p>"])
    corpus = Corpus.open(build([str(tmp_path / "in")], CorpusSettings(documents="files", validation=0)))
    assert (corpus.counts.documents, corpus.counts.sources, corpus.counts.lines) == (2, 2, 2)
    plain = CorpusSettings(lowercase=True, punctuation="ascii")
    assert "".join(read_text(find([str(tmp_path / "in")]).sources, plain)) == 'one\n"two"\n'
    parts = [partition_sources([find([str(tmp_path / "in")]).sources], n, 3, CorpusSettings())[0] for n in (1, 2, 3)]
    assert "".join(text for part in parts for text in read_text(part, CorpusSettings())) == "One\n“Two”\n"


# --- hostile and damaged


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        text_of(path)


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>{}]>".format(
    "".join("<!ENTITY a{} '{}'>".format(n, f"&a{n - 1};" * 10) for n in range(1, 10))
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("head", [LAUGHS, OUTSIDE])
def test_entities_are_neither_declared_nor_fetched(tmp_path: Path, head: str) -> None:
    assert_refused(
        docx(tmp_path / "a.docx", "<w:p><w:r><w:t>&a9;&x;</w:t></w:r></w:p>", head), "a.docx.*entities are declared"
    )
    assert_refused(epub(tmp_path / "a.epub", ["<p>&a9;&x;</p>"], head), "a.epub.*entities are declared")


def test_a_document_type_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    head = '<!DOCTYPE html SYSTEM "file:///etc/passwd">'
    assert text_of(epub(tmp_path / "a.epub", ["<p>a&amp;b&unknown;</p>"], head)) == "a&b&unknown;\n"


def test_a_bomb_is_refused_by_what_it_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "MOST_XML", 1 << 18)
    bomb = docx(tmp_path / "a.docx", paragraph("words ") * 10_000)
    assert bomb.stat().st_size < 10_000
    assert_refused(bomb, r"a\.docx has over 262,144 bytes of XML in it")
    monkeypatch.setattr(zipped, "MOST_XML", 1 << 30)
    monkeypatch.setattr(zipped, "LONGEST_PARAGRAPH", 1 << 18)
    assert_refused(docx(tmp_path / "a.docx", paragraph("words " * 100_000)), "a paragraph of over 262,144 characters")
    assert_refused(epub(tmp_path / "a.epub", ["words " * 100_000]), "a paragraph of over 262,144 characters")
    monkeypatch.setattr(zipped, "MOST_ENTRIES", 100)
    assert_refused(bomb, r"a\.docx has too many files in it")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_unpacked_as_a_whole_is_not_unpacked(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_rels/.rels", RELS.format("word/document.xml"))
        archive.writestr("word/document.xml", bytes(10_000), method)
    assert_refused(path, r"a\.docx is compressed in an unusual way")


def test_the_end_of_an_archive_that_tells_its_size_twice_is_read_as_a_whole(tmp_path: Path) -> None:
    path = docx(tmp_path / "a.docx", paragraph("words"))
    data = path.read_bytes()
    large = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, 1 << 40, 0)
    place = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + large + place + data[-22:])
    assert_refused(path, r"a\.docx has too many files in it")
    hidden = bytearray(data[-22:])
    hidden[12:20] = struct.pack("<L", 1 << 30) + b"PK\5\6"  # which is not where the end begins
    path.write_bytes(data[:-22] + hidden)
    assert_refused(path, r"a\.docx has too many files in it")


def test_xml_that_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "<w:p>" * 2000 + "</w:p>" * 2000
    assert_refused(docx(tmp_path / "a.docx", deep), "over 1,000 elements are nested")
    monkeypatch.setattr(zipped, "LONGEST_TAG", 1 << 18)
    long = "<w:p>" + "x" * (1 << 18) + "</w:p>" + "<!-- short -->" * 20_000
    assert text_of(docx(tmp_path / "a.docx", long + paragraph("a"))) == "\na\n"
    for endless in ("<!-- {} -->", '<w:p a="{}"/>'):
        assert_refused(docx(tmp_path / "a.docx", endless.format("x" * 400_000)), "over 262,144 bytes")
    monkeypatch.setattr(zipped._Elements, "LONGEST", 1000)
    many: dict[str, str | bytes] = {"META-INF/container.xml": "<a>" + '<b c="words"/>' * 200 + "</a>"}
    assert_refused(write_archive(tmp_path / "a.epub", many), "a list has over .* or 1,000 characters")


def test_what_waits_for_the_end_of_a_paragraph_is_counted_once() -> None:
    word = zipped._Word()
    made = word.feed(b"<d><p><r><t>abc</t><tab/><p><r><t>de</t></r><del><t>no</t></del>", "a.docx")
    assert (made, word.kept_text) == ("", 6)
    assert (word.feed(b"</p>", "a.docx"), word.kept_text) == ("de\n", 4)
    assert (word.feed(b"</r></p></d>", "a.docx"), word.kept_text) == ("abc\t\n", 0)


def test_what_is_missing_or_not_so_is_named(tmp_path: Path) -> None:
    assert_refused(
        write_archive(tmp_path / "a.docx", {"a.txt": "words"}), r"a\.docx is damaged .*: _rels/\.rels is not in it"
    )
    assert_refused(
        write_archive(tmp_path / "a.epub", {"a.txt": "words"}), r"a\.epub is damaged .*container\.xml is not in it"
    )
    assert_refused(docx(tmp_path / "a.docx", "<w:p>"), r"a\.docx cannot be read: in its XML, mismatched tag")
    (tmp_path / "a.docx").write_text("plain words")
    assert_refused(tmp_path / "a.docx", r"a\.docx is damaged and cannot be read \(File is not a zip file\)")
    missing = write_archive(tmp_path / "b.docx", {"_rels/.rels": RELS.format("../../etc/passwd")})
    assert_refused(missing, r"etc/passwd is not in it")
    (tmp_path / "words").write_bytes(docx(tmp_path / "c.docx", paragraph("a")).read_bytes())
    assert_refused(tmp_path / "words", r"looks like a ZIP archive; .*\.docx and \.epub are read as they are")


@pytest.mark.parametrize("kind", ["docx", "epub"])
def test_damage_is_told_in_one_sentence(tmp_path: Path, kind: str) -> None:
    made = {"docx": lambda path: docx(path, paragraph("some words") * 9), "epub": lambda path: epub(path, ["<p>a</p>"])}
    path = made[kind](tmp_path / f"a.{kind}")
    data, chance = path.read_bytes(), random.Random(1)
    for _ in range(80):
        place = chance.randrange(len(data))
        cut = data[: chance.choice([len(data), place])]
        path.write_bytes(cut[:place] + bytes([chance.randrange(256)]) + cut[place + 1 :])
        try:
            text_of(path)
        except InputError as error:
            assert f"a.{kind}" in str(error)
