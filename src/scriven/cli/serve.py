"""`scriven serve`: models over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from cyclopts import Parameter

from scriven.cli.common import Device, Which, Whole, visible_line
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
) -> None:
    """Serve models over HTTP: a page to play with, and an API that clients of OpenAI's completions speak.

    Open the address that it shows in a browser for the page. For programs, docs/server.md tells more:
    POST /v1/completions writes, POST /score tells how surprising a text is,
    GET /v1/models names the models, GET /openapi.json lists every path.

    A model's name is that of its run's folder. While its training goes on, newer best checkpoints are taken up, or
    newer last ones with --checkpoint last; one that is named by its step stays. It ends with Ctrl-C.

    Parameters
    ----------
    runs
        folders of the runs
    host
        address to listen at; with another one than this machine's own, 127.0.0.1, a token is needed
    port
        port to listen at; 0 is any that is free
    token
        what clients must show, as an API key; better given as the variable, which other users of the machine cannot see
    allow_host
        another name under which clients reach this server, as behind a proxy; may be given several times
    allow_origin
        scheme, name and port of a page elsewhere that may ask too; may be given several times
    precision
        number format of the weights that native code writes with; auto is int8, the fastest
    """
    try:
        from scriven.server.app import OPEN, STREAMED, make_app
        from scriven.server.http_limits import Serving, configuration
        from scriven.server.limits import LIMITS
        from scriven.server.renewal import ServedCheckpoint
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
        name: ServedCheckpoint(run, checkpoint, device, precision) for name, run in zip(names, runs, strict=True)
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
    """What to open in a browser: the page takes the token from there, and no server is sent what follows a `#`."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + (f"/#token={quote(token, safe='')}" if token else "")


def _model_names(runs: tuple[str, ...]) -> list[str]:
    """The names of the models; bytes of a folder's name that are no UTF-8 are shown as U+FFFD, as HTTP can have it."""
    names = [os.fsencode(Path(run).resolve().name).decode("utf-8", "replace") for run in runs]
    if not names:
        raise UsageError("serve needs the folder of a run, such as runs/book; give one or several")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"two runs are called {min(twice)}; rename a folder, since models are named by them")
    return names


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: give a number from 0, which is any that is free, to {(1 << 16) - 1}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host} port {port}: {os.strerror(error.errno or 0)}; try another --port"
        ) from None


def _open_files(connections: int) -> None:
    """Let the process have as many files open as it may have connections, where the system lets it."""
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
