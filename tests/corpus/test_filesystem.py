"""Sources and corpora elsewhere: on a local S3 server, on a web server, in memory; and the cache of shards."""

import functools
import http.server
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scriven.corpus import Corpus, is_corpus, shards
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.filesystem import name_in, place_of
from scriven.corpus.header import Shard
from scriven.corpus.shard_reader import ShardCache, cache_limit
from scriven.corpus.sources import find
from scriven.errors import InputError, UsageError
from scriven.settings import CorpusSettings

fsspec = pytest.importorskip("fsspec")
TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
# Libraries that talk to servers leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCRIVEN_CACHE_SIZE", raising=False)
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 500)
    return tmp_path / "cache" / "shards"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import s3fs

    for name, value in (("ENDPOINT_URL", server), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    name = f"bucket-{os.urandom(4).hex()}"
    files.mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def memory() -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield "memory://place"
    files.store.clear()


@pytest.fixture(params=["s3", "memory"])
def elsewhere(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("bucket" if request.param == "s3" else "memory"))


def put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(data)


def upload(folder: Path, url: str) -> str:
    for path in folder.iterdir():
        put(f"{url}/{path.name}", path.read_bytes())
    return url


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "corpus.json"}


def all_ids(corpus: Corpus) -> list[int]:
    return [id for part in (corpus.training, corpus.validation) for id in part.read(0, part.characters).tolist()]


def test_files_folders_and_patterns_are_read_as_local_ones(tmp_path: Path, elsewhere: str) -> None:
    for name, text in {"b.txt": "second\n", "a/1.txt": "first\n", "a/x.png": "", "c.txt": "é" * 3000}.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
        put(f"{elsewhere}/texts/{name}", text.encode())
    local = build([str(tmp_path / "texts")], CorpusSettings())
    remote = build([f"{elsewhere}/texts"], CorpusSettings())
    assert contents(remote) == contents(local)
    assert Corpus.open(remote).counts == Corpus.open(local).counts
    assert build([f"{elsewhere}/texts/"], CorpusSettings()) == remote  # it is known again, by size and version
    names = [source.name.rsplit("/", 1)[-1] for source in find([f"{elsewhere}/texts/*.txt"]).sources]
    assert names == ["b.txt", "c.txt"]
    put(f"{elsewhere}/texts/b.txt", b"another\n")
    assert build([f"{elsewhere}/texts"], CorpusSettings()) != remote


def test_parts_of_one_file_elsewhere_make_the_corpus_of_one_build(tmp_path: Path, elsewhere: str) -> None:
    put(f"{elsewhere}/book.txt", TEXT.encode())
    texts, chosen = [f"{elsewhere}/book.txt"], CorpusSettings(documents="lines")
    whole = build(texts, chosen, tmp_path / "whole")
    folders = [build_part(texts, chosen, tmp_path / f"part{number}", (number, 3)) for number in (3, 1, 2)]
    merged = merge(folders, tmp_path / "merged")
    assert contents(merged) == contents(whole)
    assert (merged / "corpus.json").read_bytes() == (whole / "corpus.json").read_bytes()


def test_a_corpus_elsewhere_is_read_as_a_local_one(tmp_path: Path, elsewhere: str, cache: Path) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    local = build([str(tmp_path / "book.txt")], CorpusSettings(documents="lines"), tmp_path / "corpus")
    url = upload(local, f"{elsewhere}/corpus")
    assert is_corpus([url])
    assert not is_corpus([f"{elsewhere}/nothing"])
    corpus = Corpus.open(url + "/")
    assert corpus.name == url
    assert all_ids(corpus) == all_ids(Corpus.open(local))
    assert corpus.training.document_lengths() == Corpus.open(local).training.document_lengths()
    assert corpus.verify() == Corpus.open(local).verify()
    assert len(list(cache.glob("*.npy"))) == len(list(local.glob("*.npy")))
    fetched = [path.stat().st_ino for path in sorted(cache.glob("*.npy"))]
    all_ids(Corpus.open(url))
    assert fetched == [path.stat().st_ino for path in sorted(cache.glob("*.npy"))]  # not fetched again


def test_the_cache_has_a_bounded_size_and_keeps_what_was_used_last(
    tmp_path: Path, memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    local = build([str(tmp_path / "book.txt")], CorpusSettings(), tmp_path / "corpus")
    corpus = Corpus.open(upload(local, f"{memory}/corpus"))
    size = (local / "training-00000.npy").stat().st_size
    monkeypatch.setenv("SCRIVEN_CACHE_SIZE", str(2 * size))
    corpus = Corpus.open(f"{memory}/corpus")
    assert all_ids(corpus) == all_ids(Corpus.open(local))
    for start in (0, 500, 0, 1000):  # the third shard takes the place of the second one
        corpus.training.read(start, 10)
    assert sum(path.stat().st_size for path in cache.glob("*.npy")) <= 2 * size
    held = {path.stem for path in cache.glob("*.npy")}
    shards_of = corpus.header.training.shards
    assert held == {shards_of[0].sha256, shards_of[2].sha256}


def test_what_another_process_has_in_use_stays_and_is_said_where_there_is_no_room(
    tmp_path: Path, memory: str, cache: Path
) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / "book.txt").write_text(TEXT)
    local = build([str(tmp_path / "book.txt")], CorpusSettings(), tmp_path / "corpus")
    url = upload(local, f"{memory}/corpus")
    one, two = Corpus.open(url).header.training.shards[:2]
    other, ours = ShardCache(cache, one.size), ShardCache(cache, one.size)  # their locks are as two processes' are
    values = other.numbers(f"{url}/{one.file}", one).read(0, one.length)
    with pytest.raises(InputError, match=r"may take 628 bytes, but 1,256 are needed at once; set SCRIVEN_CACHE_SIZE"):
        ours.numbers(f"{url}/{two.file}", two)
    assert [path.stem for path in cache.glob("*.npy")] == [one.sha256]
    assert ours.numbers(f"{url}/{one.file}", one).read(0, one.length).tolist() == values.tolist()
    with pytest.raises(InputError, match="SCRIVEN_CACHE_SIZE"):
        ShardCache(cache, 10).numbers(f"{url}/{two.file}", two)


@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
def test_a_shard_that_is_not_what_its_corpus_says_is_refused(
    tmp_path: Path, memory: str, cache: Path, damage: str
) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    local = build([str(tmp_path / "book.txt")], CorpusSettings(), tmp_path / "corpus")
    url = upload(local, f"{memory}/corpus")
    data = (local / "training-00001.npy").read_bytes()
    put(f"{url}/training-00001.npy", {"flipped": data[:-1] + b"\xee", "short": data[:-1], "long": data + b"\0"}[damage])
    corpus = Corpus.open(url)
    corpus.training.read(0, 500)
    with pytest.raises(InputError, match=r"training-00001\.npy does not have the size and SHA-256"):
        corpus.training.read(499, 2)
    with pytest.raises(InputError, match=r"training-00001\.npy is damaged"):
        corpus.verify()
    assert {path.suffix for path in cache.iterdir()} <= {".npy", ".lock"}


def _read_all(url: str, store: dict[str, bytes]) -> list[int]:
    for name, data in store.items():
        put(f"memory:/{name}", data)
    return all_ids(Corpus.open(url))


def test_processes_share_the_cache(tmp_path: Path, memory: str, cache: Path) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    local = build([str(tmp_path / "book.txt")], CorpusSettings(), tmp_path / "corpus")
    url = upload(local, f"{memory}/corpus")
    store = {f"/place/corpus/{path.name}": path.read_bytes() for path in local.iterdir()}
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_read_all, [(url, store)] * 2, chunksize=1)
    assert found[0] == found[1] == all_ids(Corpus.open(local))
    assert len(list(cache.glob("*.npy"))) == len({path.read_bytes() for path in local.glob("*.npy")})


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


def test_a_text_on_a_web_server_is_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "book.txt").write_text(TEXT)
    handler = functools.partial(_Silent, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}"
        path = build([f"{url}/book.txt?a=1"], CorpusSettings())
        with pytest.raises(InputError, match="cannot read http"):
            build([f"{url}/missing.txt"], CorpusSettings())
        running.shutdown()
    assert Corpus.open(path).counts.characters == len(TEXT)


@pytest.mark.parametrize("name", ["missing.txt", "none/*.txt"])
def test_what_is_not_there_is_named(elsewhere: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"(cannot read|nothing matches) {elsewhere}/"):
        find([f"{elsewhere}/{name}"])
    with pytest.raises(InputError, match=r"corpus\.json"):
        Corpus.open(f"{elsewhere}/{name}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/x", "pip install gcsfs"),
        ("nonsense://x", "cannot read nonsense://x"),
        ("s3://", "cannot read s3://"),
    ],
)
def test_what_cannot_be_opened_is_said_with_the_way_out(url: str, message: str) -> None:
    if "gcsfs" in message and _has("gcsfs"):
        pytest.skip("gcsfs is installed")
    with pytest.raises(InputError, match=message):
        find([url])


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def test_places() -> None:
    assert place_of("s3://b/k/") == "s3://b/k"
    assert place_of("C:/x") == Path("C:/x")
    assert name_in("https://host/a/book.txt?x=y.gz") == "book.txt"
    assert name_in("s3://bucket/what?.txt") == "what?.txt"


@pytest.mark.parametrize(("text", "size"), [("", 20 * 10**9), ("3", 3), ("1.5GB", 15 * 10**8), ("20 mb", 2 * 10**7)])
def test_the_size_of_the_cache_can_be_said(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("SCRIVEN_CACHE_SIZE", text)
    assert cache_limit() == size


def test_a_size_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIVEN_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="SCRIVEN_CACHE_SIZE is 'much'"):
        cache_limit()


def test_a_shard_whose_size_is_impossible_is_not_fetched(cache: Path) -> None:
    shard = Shard(file="training-00000.npy", length=10**15, size=128, sha256="0" * 64)
    with pytest.raises(InputError, match="cannot hold 1,000,000,000,000,000 numbers in 128 bytes"):
        ShardCache(cache, 1000).numbers("memory://nothing", shard)
