"""What docs/deploying.md and deploy/ say works: the proxies' lines before a real server, and the unit for systemd."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from live_server import SECONDS, serving
from scriven.server.app import OPEN, STREAMED, make_app
from scriven.server.limits import LIMITS
from scriven.server.security import Guard, policy
from served_models import text_model

ROOT = Path(__file__).parents[1]
HOST, TOKEN = "models.example.org", "token-of-this-test"
Ask = Callable[..., HTTPResponse]


def block(language: str) -> str:
    """The block of docs/deploying.md in this language."""
    page = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(found)


def put(text: str, **places: object) -> str:
    """The text with other places: each of them must be in it."""
    for old, new in places.items():
        assert old in text
        text = text.replace(old, str(new))
    return text


def served() -> Guard:
    """A model as `scriven serve --allow-host` serves it, with a token."""
    rules = policy("127.0.0.1", token=TOKEN, allow_host=[HOST], open_paths=OPEN, streamed=STREAMED)
    return Guard(make_app({"book": text_model()}, LIMITS), rules)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for the host, signed by nobody, and its key."""
    places = folder / "host.crt", folder / "host.key"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={HOST}"]
    words += ["-out", str(places[0]), "-keyout", str(places[1])]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return places


def nginx(folder: Path, port: int, server: int) -> list[str]:
    """The words that run nginx with the lines of the page, at a port, before a server."""
    chain, key = certificate(folder)
    lines = put(
        block("nginx"),
        **{
            "rate=10r/s": "rate=1r/m",  # so that no slow machine passes more than the burst
            "listen 443": f"listen 127.0.0.1:{port}",
            "127.0.0.1:8000": f"127.0.0.1:{server}",
            f"/etc/ssl/{HOST}.crt": chain,
            f"/etc/ssl/{HOST}.key": key,
        },
    )
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off;\n{paths}{lines}}}\n"
    )
    return ["nginx", "-e", f"{folder}/log", "-c", f"{folder}/nginx.conf"]


def caddy(folder: Path, port: int, server: int) -> list[str]:
    """The same for Caddy, with a certificate of the test, as it could get none here."""
    chain, key = certificate(folder)
    lines = put(
        block("caddy"),
        **{
            "127.0.0.1:8000": f"127.0.0.1:{server}",
            f"{HOST} {{": f"{HOST}:{port} {{\n\ttls {chain} {key}\n\tbind 127.0.0.1",
        },
    )
    options = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}/storage\n}}\n"
    (folder / "Caddyfile").write_text(options + lines)
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextmanager
def asking(name: str, folder: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Yields what asks the server through the proxy with this name."""
    if not shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin"):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("HOME", str(folder))
    port = free_port()
    words = PROXIES[name](folder, port, server)
    context = ssl.create_default_context(cafile=str(folder / "host.crt"))
    context.check_hostname = False  # it has no alternative name
    connections: list[HTTPConnection] = []

    def ask(method: str, path: str, body: bytes | None = None, host: str = HOST, **headers: str) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        connections.append(connection)
        plain = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        connection.sock = context.wrap_socket(plain, server_hostname=HOST)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": host, **named})
        return connection.getresponse()

    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            await_port(port, process, folder)
            yield ask
        finally:
            for connection in connections:
                connection.close()
            process.terminate()
            process.wait(SECONDS)


def await_port(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Waits until somebody listens there."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError((folder / "output").read_text("utf-8"))


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_passes_each_event_on_as_it_comes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server writes the second event only after the first has arrived, so that a proxy that waits gets no more."""
    arrived = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def write(body: bytes, **more: object) -> None:
            message: Message = {"type": "http.response.body", "body": body, **more}
            await send(message)

        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await write(b"data: first\n\n", more_body=True)
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        await write(b"data: second\n\n")

    with serving(app) as place, asking(name, tmp_path, place.port, monkeypatch) as ask:
        answer = ask("GET", "/")
        assert answer.readline() == b"data: first\n"
        arrived.set()
        assert answer.read() == b"\ndata: second\n\n"


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_passes_on_what_the_server_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bearer = f"Bearer {TOKEN}"
    with (
        serving(served()) as place,
        asking(name, tmp_path, place.port, monkeypatch) as ask,
    ):
        assert ask("GET", "/health/ready").status == 200
        assert ask("GET", "/v1/models").status == 401
        assert ask("GET", "/v1/models", Authorization=bearer).status == 200
        own, other = f"https://{HOST}", "https://example.com"
        assert ask("GET", "/v1/models", Authorization=bearer, Origin=own).status == 200
        assert ask("GET", "/v1/models", Authorization=bearer, Origin=other).status == 403
        assert b"book" not in ask("GET", "/v1/models", host="example.com", Authorization=bearer).read()
        body = b'{"prompt": "a bad", "max_tokens": 20}'
        written = ask("POST", "/v1/completions", body, Authorization=bearer, Content_Type="application/json")
        assert (written.status, written.read()[:1]) == (200, b"{")
        assert ask("POST", "/v1/completions", bytes(5_000_000), Authorization=bearer).status in {413, 502}


def test_a_text_of_any_size_is_scored_while_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "text/plain", "Accept": "application/x-ndjson"}
    with serving(served()) as place, asking("nginx", tmp_path, place.port, monkeypatch) as ask:
        begun = ask("POST", "/score", b"a bad cab, ed\n" * 10_000, **lines, Content_Length="5600000")
        assert begun.status == 200  # before all of the text has been sent
        assert begun.readline().startswith(b'{"offset":0,')


def test_a_proxy_bounds_what_one_client_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nginx alone: Caddy has no such limits without a plugin."""
    with (
        serving(served()) as place,
        asking("nginx", tmp_path, place.port, monkeypatch) as ask,
    ):
        found = [ask("GET", "/health/live").status for _ in range(80)]
    assert found == [200] * 41 + [429] * 39


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "scriven.service"
    text = (ROOT / "deploy" / "scriven.service").read_text("utf-8")
    unit.write_text(put(text, **{"/opt/scriven/bin/scriven": "/bin/true"}))
    words = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_has_what_the_package_is_built_from() -> None:
    """Each file that the Dockerfile copies exists, and none that pyproject.toml names is missing there."""
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    named = re.findall(r'"([\w./]+)"', (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.ruff]")[0])
    needed = {name for name in named if (ROOT / name).is_file()} - {"CHANGELOG.md", "CONTRIBUTING.md"}
    assert {"README.md", "LICENSE", "docs/scriven.1"} <= needed <= set(copied)
