"""`scriven serve`: models over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Literal

from scriven.cli.flags import Device, Which
from scriven.errors import InputError, UsageError


def serve(
    *runs: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
) -> None:
    """Serve models over HTTP: an API that clients of OpenAI's completions speak.

    A model's name is that of its run's folder. It ends with Ctrl-C.

    Parameters
    ----------
    runs
        folders of the runs
    host
        address to listen at
    port
        port to listen at; 0 is any that is free
    precision
        number format of the weights that native code writes with; auto is int8, the fastest
    """
    try:
        import uvicorn

        from scriven.server.app import make_app
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; to serve, pip install 'scriven[serve]'") from None
    from scriven.session import load

    names = _named(runs)
    models = {
        name: load(run, which=checkpoint, device=device, precision=precision)
        for name, run in zip(names, runs, strict=True)
    }
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"serving {', '.join(models)} at http://{shown}:{listener.getsockname()[1]}\n")
    folders = {name: Path(run) for name, run in zip(names, runs, strict=True)}
    app = make_app(models, runs=folders)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


def _named(runs: tuple[str, ...]) -> list[str]:
    """The names of the models."""
    names = [Path(run).resolve().name for run in runs]
    if not names:
        raise UsageError("serve needs the folder of a run, such as runs/book; give one or several")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"two runs are called {min(twice)}; rename a folder, since models are named by them")
    return names


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host} port {port}: {os.strerror(error.errno or 0)}; try another --port"
        ) from None
