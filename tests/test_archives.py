"""Archives give back any bytes, are the same everywhere, and are refused when they are damaged."""

from __future__ import annotations

import hashlib
import io
import random
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scriven import archives
from scriven.errors import InputError
from scriven.kernels import native_library

sys.path.append(str(Path(__file__).parent / "kernels"))
from kernel_variants import VARIANTS, kernels_of

pytestmark = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
TEXT = (Path(__file__).parents[1] / "docs" / "shapes.md").read_bytes()
HOSTILE = {
    "empty": b"",
    "one byte": b"\x00",
    "all bytes": bytes(range(256)) * 3,
    "random": random.Random(1).randbytes(20_000),
    "one line": b"All work and no play makes Jack a dull boy. " * 5_000,
    "zeros": bytes(300_000),
    "not UTF-8": b"caf\xe9 \xff\xfe\xc3(" * 50,
    "an archive": b"",  # filled below
    "text": TEXT,
    "Chinese": "床前明月光,疑是地上霜。\n".encode() * 20,
    "UTF-16": TEXT.decode().encode("utf-16"),
}


def compress(content: bytes) -> bytes:
    target = io.BytesIO()
    size = archives.compress(io.BytesIO(content), len(content), target)
    assert size == archives.ArchiveSize(len(content), len(target.getvalue()))
    return target.getvalue()


def decompress(archive: bytes) -> bytes:
    target = io.BytesIO()
    archives.decompress(archive, target)
    return target.getvalue()


HOSTILE["an archive"] = compress(TEXT) if native_library.library() else b""


@pytest.mark.parametrize("name", HOSTILE)
def test_any_bytes_come_back(name: str) -> None:
    content = HOSTILE[name]
    archive = compress(content)
    assert decompress(archive) == content
    assert len(archive) < 1.02 * len(content) + 50


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.integers(1, 30))
@example(b"", 1)
def test_any_drawn_bytes_come_back(content: bytes, times: int) -> None:
    assert decompress(compress(content * times)) == content * times


def test_an_archive_is_the_same_at_every_level() -> None:
    found = set()
    for variant in VARIANTS:
        with kernels_of(variant):
            archive = compress(TEXT)
            found.add(hashlib.sha256(archive).digest())
            assert decompress(archive) == TEXT
    assert len(found) == 1


def test_text_gets_smaller_than_with_xz_or_bzip2() -> None:
    import bz2
    import lzma

    text = (Path(__file__).parents[1] / "docs" / "experiments.md").read_bytes()[:50_000]
    assert len(compress(text)) < 0.85 * min(len(bz2.compress(text)), len(lzma.compress(text)))
    assert len(compress(HOSTILE["zeros"])) < 250


def test_every_damage_is_refused() -> None:
    archive = compress(TEXT[:2000])
    draw = random.Random(2)
    for place in {*range(20), *range(len(archive) - 20, len(archive)), *draw.sample(range(len(archive)), 60)}:
        damaged = bytearray(archive)
        damaged[place] ^= 1 << draw.randrange(8)
        with pytest.raises(InputError, match=r"damaged|not an archive|has version"):
            decompress(bytes(damaged))
    for length in {*range(60), *draw.sample(range(len(archive)), 40)}:
        with pytest.raises(InputError, match=r"cut short|not an archive"):
            decompress(archive[:length])
    with pytest.raises(InputError, match="damaged"):
        decompress(archive + b"\0")


def sealed(archive: bytes) -> bytes:
    """The same with a right checksum at its end, as somebody hostile would make it."""
    return archive[:-4] + zlib.crc32(archive[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ((2, 20, 2000), "has version 2"),
        ((1, 63, 2000), "memory"),
        ((1, 0, 2000), "memory"),
        ((1, 20, 1 << 60), "cannot hold"),
        ((1, 20, 2001), "checksum differs"),
        ((1, 21, 2000), "checksum differs"),
    ],
)
def test_a_false_head_is_refused(head: tuple[int, int, int], message: str) -> None:
    archive = compress(TEXT[:2000])
    false = archives.HEAD.pack(archives.MAGIC, *head) + archive[archives.HEAD.size :]
    with pytest.raises(InputError, match=message):
        decompress(sealed(false))


def test_other_encoded_bytes_are_found_by_the_contents_checksum() -> None:
    archive = bytearray(compress(TEXT[:2000]))
    archive[archives.HEAD.size + 100] ^= 4
    with pytest.raises(InputError, match="is not what was compressed"):
        decompress(sealed(bytes(archive)))


@pytest.mark.parametrize(("length", "message"), [(99, "grew"), (101, "shrank")])
def test_a_file_that_changes_is_refused(length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        archives.compress(io.BytesIO(bytes(100)), length, io.BytesIO())


def test_progress_is_reported_up_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    content = bytes(3 * archives.BYTES_AT_ONCE)
    archives.compress(io.BytesIO(content), len(content), io.BytesIO(), lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(content))
    assert seen[-1] == (len(content), len(content))
    assert seen == sorted(seen)
