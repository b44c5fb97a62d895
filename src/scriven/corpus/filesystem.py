"""Opens local files (by path) and remote ones (by a URL such as s3://bucket/key) in the same way.

URLs are opened by fsspec. It supports object storage, web servers and more, each by an extra package.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from scriven.errors import InputError, ScrivenError

REMOTE_BLOCK_BYTES = 1 << 23  # bytes asked of a server at once
EXTRA = "pip install 'scriven[data]'"
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_GLOB = re.compile(r"[*?[]")
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "Last-Modified", "mtime", "updated", "created")

Place = Path | str  # a string is a URL
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Remote:
    """A remote file: its URL, and a stamp of its size in bytes and a number for its version.

    The stamp is None when the server does not give both. Then only the content shows whether the file has changed.
    """

    url: str
    stamp: Stamp | None


def is_url(text: object) -> bool:
    """Whether this is a URL and not a path."""
    return isinstance(text, str) and _URL.match(text) is not None


def place_of(text: Path | str) -> Place:
    """The place that a user names: a URL without the slashes at its end, or else a path."""
    return text.rstrip("/") if isinstance(text, str) and is_url(text) else Path(text)


def name_in(place: Place) -> str:
    """The last name in a path or URL; for a web address, without the query."""
    if isinstance(place, Path):
        return place.name
    path = urlsplit(place).path if place.startswith("http") else place
    return path.rsplit("/", 1)[-1]


def join_place(folder: Place, name: str) -> Place:
    """The place of a file in a folder."""
    return folder / name if isinstance(folder, Path) else f"{folder}/{name}"


def open_file(place: Place) -> AbstractContextManager[IO[bytes]]:
    """Opens a file for reading. Most of these files can also seek."""
    if isinstance(place, Path):
        return place.open("rb")
    files, path = file_system(place)
    return cast("AbstractContextManager[IO[bytes]]", files.open(path, "rb", block_size=REMOTE_BLOCK_BYTES))


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system that reads this kind of URL, and the URL's path in it.

    Raises InputError if a package for it is missing, or the kind is unknown.
    """
    protocol = url.split("://", 1)[0].lower()
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 (optional, and slow to import)

        files, path = url_to_fs(url)
    except ImportError:
        command = f"pip install {PACKAGES[protocol]}" if protocol in PACKAGES else EXTRA
        raise InputError(f"to read {url}, install what it needs with: {command}") from None
    except ValueError as error:
        raise InputError(f"cannot read {url} ({error}); give a file, or a URL such as s3://bucket/key") from None
    return files, str(path)


def list_files(url: str) -> tuple[list[Remote], list[Remote]]:
    """The files that a URL or a pattern names, and the files in the folders that it names.

    Raises InputError if it names nothing.
    """
    with explain_errors(url, remote=True):
        files, path = file_system(url)
        files.invalidate_cache()
        pattern = _GLOB.search(path) and not url.startswith("http")
        infos = list(files.glob(path, detail=True).values()) if pattern else [files.info(path)]
        if not infos:
            raise InputError(f"nothing matches {url}; give a file or a folder that exists")
        named = [info for info in infos if info["type"] == "file"]
        below = [files.find(info["name"], detail=True) for info in infos if info["type"] == "directory"]
        found = [info for entries in below for info in entries.values() if not info["name"].endswith("/")]
        return _remotes(files, named), _remotes(files, found)


def _remotes(files: Any, infos: Iterable[dict[str, Any]]) -> list[Remote]:
    in_order = sorted(infos, key=lambda info: info["name"].split("/"))
    return [Remote(files.unstrip_protocol(info["name"]), _stamp(info)) for info in in_order]


def _stamp(info: dict[str, Any]) -> Stamp | None:
    version = next((info[name] for name in _VERSIONS if info.get(name)), None)
    if version is None or info.get("size") is None:
        return None
    return int(info["size"]), int.from_bytes(hashlib.sha256(str(version).encode()).digest()[:7])


@contextmanager
def explain_errors(name: str, damage: type[Exception] = EOFError, *, remote: bool = False) -> Iterator[None]:
    """Turns errors of reading a file into an InputError that names it. For a remote file this means every error."""
    try:
        yield
    except ScrivenError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"cannot read {name}: No such file or directory") from None
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {name}: {error.strerror}") from None
        if isinstance(error, (OSError, EOFError, damage)) and not remote:
            raise InputError(f"{name} is damaged and cannot be read ({error}); restore it from a copy") from None
        if not remote:
            raise
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"cannot read {name} ({words}); check that it exists and that you may read it") from None
