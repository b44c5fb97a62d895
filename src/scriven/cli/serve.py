"""`scriven serve`: serves models over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from cyclopts import Parameter

from scriven.cli.common import Device, Mixing, Which, Whole, WriteOrder, visible_line
from scriven.errors import InputError, UsageError


def serve(
    *runs: str,
    host: str = "127.0.0.1",
    port: Whole = 8000,
    token: Annotated[str | None, Parameter(env_var="SCRIVEN_TOKEN")] = None,
    allow_host: Annotated[list[str] | None, Parameter(negative="")] = None,
    allow_origin: Annotated[list[str] | None, Parameter(negative="")] = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
    counts: Mixing = "auto",
    write_order: WriteOrder = None,
) -> None:
    """Serve models over HTTP: a web page to play with, and an OpenAI-compatible completions API.

    Open the address that it prints in a browser. The API is described in docs/server.md:
    POST /v1/completions writes, POST /score measures how surprising a text is,
    GET /v1/models lists the models, GET /openapi.json lists every path.

    Each model has the name of its run's folder. While a run is still training, the server switches to each new best
    checkpoint, or to each new last one with --checkpoint last. A checkpoint given by its step stays. Ctrl-C stops it.

    Parameters
    ----------
    runs
        folders of the runs
    host
        address to listen on; any other than 127.0.0.1, which is this machine only, needs a token
    port
        port to listen on; 0 takes any free one
    token
        API key that clients must send. Better set the environment variable, which other users of the machine cannot see
    allow_host
        another host name that clients may use for this server, such as a proxy's; may be repeated
    allow_origin
        origin (scheme, host and port) of another web page that may call the API; may be repeated
    precision
        number format of the weights when native code writes; auto takes int8, the fastest
    """
    try:
        from scriven.server.app import OPEN, STREAMED, make_app
        from scriven.server.http_limits import Serving, configuration
        from scriven.server.renewal import ServedCheckpoint
        from scriven.server.requests import LIMITS
        from scriven.server.security import Guard, policy
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; to serve, pip install 'scriven[serve]'") from None
    names, host = _model_names(runs), host.strip("[]")  # of an IPv6 address, as a URL has it
    who = policy(
        host,
        token=token,
        allow_host=allow_host or (),
        allow_origin=allow_origin or (),
        open_paths=OPEN,
        streamed=STREAMED,
    )
    sources = {
        name: ServedCheckpoint(run, checkpoint, device, precision, counts=counts, write_order=write_order)
        for name, run in zip(names, runs, strict=True)
    }
    models = {name: source.open() for name, source in sources.items()}
    listener = _listen(host, port)
    served = ", ".join(map(visible_line, models))
    sys.stderr.write(f"serving {served} at {_address(host, listener.getsockname()[1], token)}\n")
    _open_files(LIMITS.connections)
    folders = {name: Path(run) for name, run in zip(names, runs, strict=True)}
    app = make_app(
        models, runs=folders, sources=sources, report=lambda line: sys.stderr.write(f"{visible_line(line)}\n")
    )
    Serving(configuration(Guard(app, who), LIMITS), app.state.end).run(sockets=[listener])


def _address(host: str, port: int, token: str | None) -> str:
    """Returns the address for a browser. The page takes the token after `#`, which browsers send to no server."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + (f"/#token={quote(token, safe='')}" if token else "")


def _model_names(runs: tuple[str, ...]) -> list[str]:
    """Returns the names of the models. Bytes of a folder's name that are not UTF-8 become U+FFFD."""
    names = [os.fsencode(Path(run).resolve().name).decode("utf-8", "replace") for run in runs]
    if not names:
        raise UsageError("serve needs the folder of a run, such as runs/book; give one or more")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"two runs are called {min(twice)}; rename one folder, since it names the model")
    return names


def _listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: give a number from 0 (any free port) to {(1 << 16) - 1}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}; try another --port"
        ) from None


def _open_files(connections: int) -> None:
    """Raises the limit on open files to the number of connections, as far as the system allows."""
    try:
        import resource
    except ModuleNotFoundError:  # not a system that counts them
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
        )
