"""Archives give back any bytes, are the same everywhere, and are refused when they are damaged."""

from __future__ import annotations

import bz2
import hashlib
import lzma
import random
import sys
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scriven import archives
from scriven.errors import InputError
from scriven.kernels import context_mixing, native_library
from scriven.kernels.sampler import Sampler
from scriven.model import CharLM
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

sys.path.append(str(Path(__file__).parent / "kernels"))
from kernel_variants import VARIANTS, kernels_of

pytestmark = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
TEXT = (Path(__file__).parents[1] / "docs" / "shapes.md").read_bytes()
HOSTILE = {
    "empty": b"",
    "one byte": b"\x00",
    "all bytes": bytes(range(256)) * 3,
    "random": random.Random(1).randbytes(20_000),
    "one line": b"All work and no play makes Jack a dull boy. " * 2_000,
    "zeros": bytes(100_000),
    "not UTF-8": b"caf\xe9 \xff\xfe\xc3(" * 50,
    "an archive": b"",  # filled below
    "text": TEXT,
    "Chinese": "床前明月光,疑是地上霜。\n".encode() * 20,
    "UTF-16": TEXT.decode().encode("utf-16"),
}


def no_network(name: str) -> archives.ArchiveNetwork:
    raise AssertionError(f"asked for {name!r}")


def decompress(archive: bytes) -> bytes:
    return archives.decompress(archive, no_network)


HOSTILE["an archive"] = archives.compress(TEXT) if native_library.library() else b""


@pytest.mark.parametrize("name", HOSTILE)
def test_any_bytes_come_back(name: str) -> None:
    content = HOSTILE[name]
    archive = archives.compress(content)
    assert decompress(archive) == content
    assert len(archive) < 1.02 * len(content) + 50


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.integers(1, 30))
@example(b"", 1)
def test_any_drawn_bytes_come_back(content: bytes, times: int) -> None:
    assert decompress(archives.compress(content * times)) == content * times


AT_HAND = Path(__file__).parents[2] / "shared" / "data"  # texts that cannot be in the repository
CORPORA = sorted(AT_HAND.glob("*.txt*"))


@pytest.mark.thorough
@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.name)
def test_every_corpus_comes_back(path: Path) -> None:
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        content = file.read(200_000)
    assert decompress(archives.compress(content)) == content


def test_an_archive_is_the_same_at_every_level() -> None:
    found = set()
    for variant in VARIANTS:
        with kernels_of(variant):
            archive = archives.compress(TEXT)
            found.add(hashlib.sha256(archive).digest())
            assert decompress(archive) == TEXT
    assert len(found) == 1


def test_text_gets_smaller_than_with_xz_or_bzip2() -> None:
    text = (Path(__file__).parents[1] / "docs" / "experiments.md").read_bytes()[:30_000]
    assert len(archives.compress(text)) < 0.85 * min(len(bz2.compress(text)), len(lzma.compress(text)))
    assert len(archives.compress(HOSTILE["zeros"])) < 250


def test_every_damage_is_refused() -> None:
    archive = archives.compress(TEXT[:2000])
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
        ((1, 0, 20, 2000), "has version 1, this Scriven reads 2"),
        ((2, 2, 20, 2000), "asks for what none has"),
        ((2, 0, 63, 2000), "asks for what none has"),
        ((2, 0, 0, 2000), "asks for what none has"),
        ((2, 0, 20, 1 << 60), "which none can"),
        ((2, 0, 20, 2001), "checksum differs"),
        ((2, 0, 20, 1999), "checksum differs"),
    ],
)
def test_a_false_head_is_refused(head: tuple[int, int, int, int], message: str) -> None:
    archive = archives.compress(TEXT[:2000])
    false = archives.HEAD.pack(archives.MAGIC, *head) + archive[archives.HEAD.size :]
    with pytest.raises(InputError, match=message):
        decompress(sealed(false))


def test_other_encoded_bytes_are_found_by_the_contents_checksum() -> None:
    archive = bytearray(archives.compress(TEXT[:2000]))
    archive[archives.HEAD.size + 100] ^= 4
    with pytest.raises(InputError, match="is not what was compressed"):
        decompress(sealed(bytes(archive)))


def network_of(vocabulary: Vocabulary, seed: int = 1, cell: str = "lstm") -> archives.ArchiveNetwork:
    """A random network."""
    settings = ModelSettings(width=24, layers=2, cell=cell)
    torch.manual_seed(seed)
    weights = CharLM(settings, vocabulary.size).state_dict()
    return archives.ArchiveNetwork(Sampler(settings, weights, "int8", vocabulary.boundary), vocabulary)


def finding(network: archives.ArchiveNetwork) -> archives.FindNetwork:
    return lambda _: network


NETWORKS = {
    "characters": Vocabulary.of(TEXT.decode()),
    "few characters": Vocabulary.of("etaoin \n"),
    "documents": Vocabulary.of(TEXT.decode(), separator="\n"),
    "bytes": Vocabulary.of_bytes(),
    "many characters": Vocabulary.of("".join(map(chr, range(32, 700)))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_bytes_come_back_with_a_network(name: str) -> None:
    network = network_of(NETWORKS[name])
    for content in (b"", b"A", TEXT[:3000], "床前明月光\r\n".encode() * 9, b"\xff\x00\xc3", bytes(range(128))):
        archive = archives.compress(content, network)
        assert archives.decompress(archive, finding(network)) == content
        is_text = name == "bytes" or content.decode("utf-8", "ignore").encode() == content
        assert archives.has_network(archive) is is_text


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60), st.sampled_from(sorted(NETWORKS)))
def test_any_drawn_text_comes_back_with_a_network(text: str, name: str) -> None:
    network = network_of(NETWORKS[name])
    content = text.encode("utf-8", "surrogatepass")
    assert archives.decompress(archives.compress(content, network), finding(network)) == content


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_an_archive_with_a_network_is_the_same_at_every_level(cell: str) -> None:
    found = set()
    for variant in VARIANTS:
        with kernels_of(variant):
            network = network_of(NETWORKS["characters"], cell=cell)
            archive = archives.compress(TEXT[:2000], network)
            found.add(archive)
            assert archives.decompress(archive, finding(network)) == TEXT[:2000]
    assert len(found) == 1


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_an_archive_with_a_network_is_the_same_by_any_number_of_threads(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(NETWORKS["documents"], cell=cell)
    content, found = TEXT[:1300], set()  # after 1,024 symbols by one thread, all of them are tried
    monkeypatch.setattr(context_mixing, "LEAST_THREADS", 1)
    for threads in (1, 2, 5) if cell == "lstm" else (1, 2):
        monkeypatch.setattr(network.sampler, "threads_for", {1: threads}.get)
        archive = archives.compress(content, network)
        found.add(archive)
        assert archives.decompress(archive, finding(network)) == content
    assert len(found) == 1


def test_another_network_is_refused() -> None:
    archive = archives.compress(TEXT[:500], network_of(NETWORKS["characters"]))
    for other in (network_of(NETWORKS["characters"], seed=2), network_of(NETWORKS["documents"])):
        with pytest.raises(InputError, match="another network"):
            archives.decompress(archive, finding(other))


def test_a_false_second_head_is_refused() -> None:
    network = network_of(NETWORKS["few characters"])
    archive = archives.compress(TEXT[:500], network)
    digest, name, unknown, size = archives.PARTNER.unpack_from(archive, archives.HEAD.size)
    for wrong in ((unknown + 1, size), (unknown - 1, size), (1 << 60, size), (unknown, size + 1), (unknown, 1 << 60)):
        partner = archives.PARTNER.pack(digest, name, *wrong)
        false = archive[: archives.HEAD.size] + partner + archive[archives.HEAD.size + len(partner) :]
        with pytest.raises(InputError, match=r"checksum differs|which none can"):
            archives.decompress(sealed(false), finding(network))
    short = archives.compress(TEXT[:500], network)[: archives.HEAD.size + 30]
    with pytest.raises(InputError, match="cut short"):
        archives.decompress(sealed(short), finding(network))


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    content = bytes(3 * archives.SYMBOLS_AT_ONCE)
    archive = archives.compress(content, report=lambda done, total: seen.append((done, total)))
    archives.decompress(archive, no_network, lambda done, total: seen.append((done, total)))
    assert seen == [(done * archives.SYMBOLS_AT_ONCE, len(content)) for done in range(3)] * 2
