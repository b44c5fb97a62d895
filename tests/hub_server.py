"""A stand-in of the Hugging Face Hub: the part of its HTTP API that making, filling and reading a repository takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_right"


class HubServer(ThreadingHTTPServer):
    """Repositories by name, each with files by name; `received` has all that was ever sent, as it came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.received: list[bytes] = []
        self.paths: list[str] = []
        self.fails = 0  # status of each answer, if any
        self.odd = b""  # each answer, if any

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.paths.append(f"{self.command} {path}")
        if self.server.fails:
            return self._json(self.server.fails, {"error": "out of order"})
        if self.server.odd:
            return self._answer(200, self.server.odd, {"Content-Type": "application/json"})
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            return self._info(repo) if repo in self.server.repos else self._missing()
        repo, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        files = self.server.repos.get(repo, {})
        if name not in files:
            return self._missing()
        etag = hashlib.sha256(files[name]).hexdigest()
        self._answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": self._commit(repo)})

    do_HEAD = do_GET

    def do_POST(self) -> None:  # noqa: PLR0911
        data = self._body()
        path = self.path.partition("?")[0]
        if self.server.fails:
            return self._json(self.server.fails, {"error": "out of order"})
        if path == "/api/validate-yaml":
            bad = 'license: "wrong"' in json.loads(data)["content"]
            errors = [{"message": '"license" must be one of those we know'}] if bad else []
            return self._json(400 if bad else 200, {"errors": errors, "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json(401, {"error": "Invalid username or password."})
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(data))
        repo, task = "/".join(words[2:4]), words[4]
        if task == "preupload":
            return self._preupload(json.loads(data))
        return self._commit_files(repo, [json.loads(line) for line in data.splitlines()])

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self._body()
        self._json(200, {})

    def _create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "ann":
            return self._json(403, {"error": f"You don't have the rights to create a model under {repo}"})
        if repo in self.server.repos:
            return self._json(
                409, {"error": "You already created this model repo", "url": f"{self.server.address}/{repo}"}
            )
        self.server.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs"}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.server.private.add(repo)
        self._json(200, {"url": f"{self.server.address}/{repo}"})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for each in wanted["files"]
        ]
        self._json(200, {"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.address}/objects/{each['oid']}"}}}
            for each in wanted["objects"]
        ]
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit_files(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.repos[repo])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", self._commit(repo)) != self._commit(repo):
                return self._json(412, {"error": "A commit has happened since"})
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.repos[repo] = files
        self._json(200, {"commitUrl": f"{self.server.address}/{repo}/commit/1", "commitOid": self._commit(repo)})

    def _info(self, repo: str) -> None:
        if repo in self.server.gated:
            return self._json(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        files = self.server.repos[repo]
        siblings = [{"rfilename": name, "size": len(data), "blobId": "0"} for name, data in files.items()]
        found = {"id": repo, "modelId": repo, "sha": self._commit(repo), "private": repo in self.server.private}
        self._json(200, found | {"siblings": siblings, "tags": [], "downloads": 0})

    def _commit(self, repo: str) -> str:
        """A hash of a repository's content, as a commit's is."""
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.server.repos[repo].items())
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()

    def _missing(self) -> None:
        self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while "chunked" in self.headers.get("Transfer-Encoding", "") and (size := int(self.rfile.readline(), 16)):
            data += self.rfile.read(size + 2)[:size]
        if "Transfer-Encoding" in self.headers:
            self.rfile.readline()
        self.server.paths.append(f"{self.command} {self.path.partition('?')[0]}")
        self.server.received.append(self.path.encode() + str(self.headers).encode() + data)
        return data

    def _json(self, status: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        message = {"X-Error-Message": str(values["error"])} if "error" in values else {}
        more = {"Content-Type": "application/json", **message, **(headers or {})}
        self._answer(status, json.dumps(values).encode(), more)

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serves an empty hub."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
