"""Starts `python -m scriven ...` for tests by a fork of a process that has imported torch: importing it takes seconds.

Each such process is otherwise as new: its arguments, folder, environment, standard streams and signals are those asked
for, and nothing was computed before. How a process begins is tested in test_wheel.py, test_docs.py and test_cli.py,
which start the installed command. Linux alone has what it needs; elsewhere, and where the environment says how torch is
to begin, a new interpreter is started as ever.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

BEGIN = [sys.executable, "-m", "scriven"]
SERVER = """
import runpy
import scriven.cli.train, scriven.cli.sample, scriven.session, scriven.training.start
import fork_server
fork_server.serve()
runpy.run_module("scriven", run_name="__main__", alter_sys=True)
"""
# Read by torch and its libraries when they are loaded, or by the interpreter.
EARLY = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "MALLOC_", "LD_", "PYTHON")
STREAMS = ("p2cread", "c2pwrite", "errwrite")  # what Popen calls the child's ends of the standard streams
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
OTHERS = ("executable", "preexec_fn", "pass_fds", "shell", "start_new_session")  # left to a new interpreter
ADOPT = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): orphans below become children of this process
MESSAGE_BYTES = 1 << 20
ONE_AT_A_TIME = threading.Lock()  # else threads that start processes took one another's for theirs


def install(patch: pytest.MonkeyPatch) -> None:
    """Lets subprocess.Popen start `python -m scriven ...` that way from now on."""
    new = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def execute(self: Any, *arguments: Any) -> None:
        asked = inspect.signature(new).bind(self, *arguments).arguments
        words = [*map(os.fspath, asked["args"])] if isinstance(asked["args"], (list, tuple)) else []
        if words[:3] != BEGIN or any(asked[name] for name in OTHERS) or not _begins_alike(asked["env"]):
            new(self, *arguments)
            return
        self.pid = _forked(
            {
                "words": words[3:],
                "folder": os.fspath(asked["cwd"] or Path.cwd()),
                "environment": dict(os.environ if asked["env"] is None else asked["env"]),
                "group": asked.get("process_group", -1),
            },
            [own if asked[name] < 0 else asked[name] for own, name in enumerate(STREAMS)],
        )
        self._child_created = True
        self._close_pipe_fds(*[asked[name] for name in PIPES])

    patch.setattr(subprocess.Popen, "_execute_child", execute)


def serve() -> None:
    """Forks a process for each request at standard input until that is closed; returns in each of these alone."""
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            message, streams, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, len(STREAMS))
            if not message:
                sys.exit()
            read, write = os.pipe()
            between = os.fork()
            if not between:
                child = os.fork()
                if not child:
                    break
                os.write(write, str(child).encode())
                os._exit(0)  # so that the child has lost its parent, and is adopted
            os.waitpid(between, 0)
            requests.send(os.read(read, 20))
            for each in (read, write, *streams):
                os.close(each)
    _become(json.loads(message), streams)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Makes this process the one that was asked for."""
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
    os.closerange(3, 4096)
    if request["group"] >= 0:
        os.setpgid(0, request["group"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["scriven", *request["words"]]


def _begins_alike(environment: Mapping[str, str] | None) -> bool:
    """Whether torch would begin in this environment as in this process's own."""
    mine, theirs = (
        {name: value for name, value in each.items() if name.startswith(EARLY)}
        for each in (os.environ, os.environ if environment is None else environment)
    )
    return sys.platform == "linux" and mine == theirs


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks, and the connection to it; it ends with this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin, environment = [sys.executable, "-c", SERVER], os.environ | {"PYTHONPATH": path}
    with there:
        process = subprocess.Popen(begin, stdin=there.fileno(), env=environment)
    return here, process


def _forked(request: dict[str, Any], streams: list[int]) -> int:
    """The number of a new child of this process with these standard streams."""
    with ONE_AT_A_TIME:
        (server, _), system = _server(), ctypes.CDLL(None)
        system.prctl(ADOPT, 1, 0, 0, 0)
        try:
            socket.send_fds(server, [json.dumps(request).encode()], streams)
            return int(server.recv(20))
        finally:
            system.prctl(ADOPT, 0, 0, 0, 0)
