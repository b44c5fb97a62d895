"""POST /extract: the text of a .docx or .epub file, read as `scriven train` reads it.

A browser cannot read such files, so the page sends them here. They are held in memory, never unpacked to the disk, and
everything about them is bounded: the sizes of the file and of its XML, the length of its text, and the time to read it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from scriven.corpus.filesystem import explain_errors
from scriven.corpus.sources import ZIPPED
from scriven.corpus.zipped import read_zipped
from scriven.errors import InputError
from scriven.server.limits import Limits
from scriven.server.responses import PLAIN, ApiError, too_many_requests
from scriven.server.shared import read_body, server_of

LONGEST_NAME = 255  # characters of a file's name


async def extract(request: Request) -> Response:
    """POST /extract?name=NAME: the text of the file in the body, as text/plain."""
    server = server_of(request)
    name = request.query_params.get("name", "")
    if len(name) > LONGEST_NAME or PurePosixPath(name.lower()).suffix not in ZIPPED:
        words = f"name {name[:60]!r}: give a file's name that ends in {' or '.join(ZIPPED)}"
        raise ApiError(400, words, "name", "invalid_value")
    data = await read_body(request, server.limits.file_bytes)  # first, so that a slow client takes nobody's turn
    if server.files >= server.limits.files:
        raise too_many_requests(f"{server.files} files are being read already")
    server.files += 1
    try:
        text = await run_in_threadpool(_read, data, name, server.limits)
    finally:
        server.files -= 1
    return Response(text, media_type=PLAIN)


def _read(data: bytes, name: str, limits: Limits) -> bytes:
    """The text of a file, as UTF-8. Raises ApiError, 400, if it has none, is damaged, or is beyond a bound."""
    try:
        text = "".join(_bounded_pieces(data, name, limits))
        if not text.strip():
            raise InputError(f"{name} has no text in it")
    except InputError as error:
        raise ApiError(400, str(error), code="unreadable_file") from None
    return text.encode()


def _bounded_pieces(data: bytes, name: str, limits: Limits) -> Iterator[str]:
    until, left = time.monotonic() + limits.file_seconds, limits.file_characters
    with explain_errors(name, Exception):
        for piece in read_zipped(io.BytesIO(data), PurePosixPath(name.lower()).suffix, name, limits.file_xml_bytes):
            left -= len(piece)
            if left < 0:
                raise InputError(
                    f"{name} has over {limits.file_characters:,} characters; split it, or save it as plain text"
                )
            if time.monotonic() > until:
                raise InputError(f"{name} takes over {limits.file_seconds:g} seconds to read; save it as plain text")
            yield piece
