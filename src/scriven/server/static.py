"""The page's files: read once, held in memory, and sent only where the browser has not got them already."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """One file: what it is, as it is and compressed, and a tag that changes with it."""

    kind: str
    data: bytes
    packed: bytes
    tag: str

    async def get(self, request: Request) -> Response:
        """The file; 304 where the browser has this one."""
        headers = {"cache-control": "no-cache", "etag": self.tag, "vary": "Accept-Encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.data, media_type=self.kind, headers=headers)
        return Response(self.packed, media_type=self.kind, headers=headers | {"content-encoding": "gzip"})


@cache
def page() -> dict[str, File]:
    """The files by their paths."""
    files = {f"/{path.name}": _file(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}
    return {"/": files.pop(f"/{INDEX}"), **files}


def _file(path: Path) -> File:
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    return File(KINDS[path.suffix], data, gzip.compress(data, mtime=0), tag)


def page_routes() -> list[Route]:
    """A route for each file, and none for anything else."""
    return [Route(path, file.get, methods=["GET"], include_in_schema=False) for path, file in page().items()]
