"""Starts Python programs for tests by a fork of a process that has imported torch: importing it takes seconds.

These are `python -m scriven ...`, torchrun, what torchrun starts, the process in which `scriven import` reads a file,
and what a test begins with the words of PYTHON.
Each such process is otherwise as new: its arguments, folder, environment, standard streams and signals are those asked
for, and nothing was computed before; but it computes in one thread (see `take_one_core`). It has a process to fork from
in its turn, so that its own workers begin alike. How a process begins is tested in test_wheel.py, test_docs.py and
test_cli.py, which start the installed command. Linux alone has what it needs; elsewhere, and where the environment says
how torch is to begin, a new interpreter is started as ever.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scriven.model.backends import tune_cpu

PYTHON = [sys.executable, "-X", "forked"]  # then `-c CODE`, or a script; an interpreter takes any -X
MODULES = ("scriven", "torch.distributed.run")  # started so with `python -m` alone
READING = [sys.executable, "-P", "-c"]  # how scriven.exchange.formats begins a process that reads a file
SERVER = """
import gc
import scriven.cli.train, scriven.cli.sample, scriven.trained_model, scriven.training.start
import torch.distributed.launcher.api, torch.distributed.elastic.rendezvous.registry
import torch.fx.experimental.symbolic_shapes  # and so sympy, which torch imports in the first backward pass
import fork_server, pytest, torch
torch.set_num_threads(1)
fork_server.take_one_core(pytest.MonkeyPatch())
gc.collect()
gc.freeze()  # else a process at its end looks through all that was imported, for half a second
fork_server.run(fork_server.serve(0))
"""
# Read by torch and its libraries when they are loaded, or by the interpreter.
EARLY = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "MALLOC_", "LD_", "PYTHON")
THREADS = "OMP_NUM_THREADS"  # can be asked of torch later too
STREAMS = ("p2cread", "c2pwrite", "errwrite")  # what Popen calls the child's ends of the standard streams
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
OTHERS = ("executable", "preexec_fn", "pass_fds", "shell")  # left to a new interpreter
ADOPT, NAME = 36, 15  # PR_SET_CHILD_SUBREAPER of prctl(2): orphans below become children of this process; PR_SET_NAME
NEW_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)
MESSAGE_BYTES = 1 << 20
ONE_AT_A_TIME = threading.Lock()  # else threads that start processes took one another's for theirs


def install(patch: pytest.MonkeyPatch, server: int | None = None) -> None:
    """Lets subprocess.Popen start programs that way from now on, by a server of its own or the one at this socket."""
    new = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    place = _connection if server is None else functools.partial(_at, server)
    owner = os.getpid()  # its own forks could adopt nothing

    def execute(self: Any, *arguments: Any) -> None:
        asked = inspect.signature(new).bind(self, *arguments).arguments
        words = [*map(os.fspath, asked["args"])] if isinstance(asked["args"], (list, tuple)) else []
        program = _program(words) if os.getpid() == owner else None
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        own_path = words[: len(READING)] == READING  # it is given the sys.path of this process, which a fork has
        if program is None or any(asked[name] for name in OTHERS) or not _begins_alike(environment, own_path):
            new(self, *arguments)
            return
        request = program | {
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "environment": environment,
            "group": asked.get("process_group", -1),
            "own_group": os.getpgid(0),
            "session": asked["start_new_session"],
        }
        streams = [own if asked[name] < 0 else asked[name] for own, name in enumerate(STREAMS)]
        self.pid = _fork(place(), request, streams)
        self._child_created = True
        self._close_pipe_fds(*[asked[name] for name in PIPES])

    patch.setattr(subprocess.Popen, "_execute_child", execute)


def take_one_core(patch: pytest.MonkeyPatch) -> None:
    """Trainings take the machine to be of one speed, which takes longer to measure than they do, and of one core.

    Threads of native code that wait for one another ran for most of the time of a tiny training on a busy machine.
    Their number changes no bit, as test_exact.py shows.
    """
    patch.setattr("scriven.training.workload.measure_speed", lambda *_: 1e5)
    patch.setattr("scriven.training.start.peak_flops", lambda *_: 1e10)
    patch.setattr("scriven.training.start.tune_cpu", lambda threads, native: tune_cpu(threads, 1))


def _program(words: list[str]) -> dict[str, Any] | None:
    """What a command line starts, if it can be forked: in which network, how, and with which arguments."""
    network = ""
    if words[:3] == ["ip", "netns", "exec"]:
        network, words = words[3], words[4:]
    asked = words[: len(PYTHON)] == PYTHON
    if words[: len(READING)] == READING:
        asked, words = True, [*PYTHON, *words[2:]]
    words = words[len(PYTHON) if asked else 1 :] if asked or words[:1] == [sys.executable] else []
    unbuffered = words[:1] == ["-u"]
    kind, *rest = words[unbuffered:] or [""]
    if kind in ("-m", "-c") and rest and (asked or (kind == "-m" and rest[0] in MODULES)):
        name, *rest = rest
    elif asked and not kind.startswith("-"):
        name, kind = kind, ""
    else:
        return None
    return {"kind": kind, "name": name, "words": rest, "unbuffered": unbuffered, "network": network}


def serve(requests: int) -> dict[str, Any]:
    """Forks a process for each request at a socket until that is closed; returns in each of these alone."""
    with socket.socket(fileno=os.dup(requests)) as connection:
        while True:
            message, streams, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, len(STREAMS))
            if not message:
                os._exit(0)
            read, write = os.pipe()
            between = os.fork()
            if not between:
                child = os.fork()
                if not child:
                    break
                os.write(write, str(child).encode())
                os._exit(0)  # so that the child has lost its parent, and is adopted
            os.waitpid(between, 0)
            connection.send(os.read(read, 20))
            for each in (read, write, *streams):
                os.close(each)
    request: dict[str, Any] = json.loads(message)
    _become(request, streams)
    return request


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Makes this process the one that was asked for."""
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
    os.closerange(3, 4096)
    if request["session"]:
        os.setsid()
    else:
        os.setpgid(0, request["group"] if request["group"] >= 0 else request["own_group"])
    if request["network"]:
        with (Path("/run/netns") / request["network"]).open() as network:
            _check(ctypes.CDLL(None, use_errno=True).setns(network.fileno(), NEW_NETWORK))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "RANK" in os.environ:  # of which /proc shows what this process was forked from
        ctypes.CDLL(None).prctl(NAME, f"rank-{os.environ['RANK']}".encode(), 0, 0, 0)
    install(pytest.MonkeyPatch(), _server_below())
    if request["unbuffered"]:
        for own, name in ((1, "stdout"), (2, "stderr")):
            raw: Any = io.FileIO(own, "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(raw, write_through=True))


def _server_below() -> int:
    """The socket of a server that this process forks while it is new."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        there.close()
        return here.detach()
    here.close()
    os.chdir("/")
    os.setpgid(0, 0)  # where no signal for the others' group comes to
    for own in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), own)
    run(serve(there.detach()))
    sys.exit()


def run(request: dict[str, Any]) -> None:
    """Runs the program that was asked for, as the interpreter does."""
    import torch

    if THREADS in os.environ:
        torch.set_num_threads(int(os.environ[THREADS]))
    sys.argv = ["-c" if request["kind"] == "-c" else request["name"], *request["words"]]
    if request["kind"] == "-m":
        runpy.run_module(request["name"], run_name="__main__", alter_sys=True)
    elif request["kind"] == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(request["name"], "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, str(Path(request["name"]).parent))
        runpy.run_path(request["name"], run_name="__main__")


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _begins_alike(environment: Mapping[str, str], own_path: bool) -> bool:
    """Whether torch would begin in this environment as in this process's own, but for the number of its threads.

    With `own_path` it does not matter where the environment says that Python finds modules.
    """
    besides = {THREADS, "PYTHONPATH"} if own_path else {THREADS}
    mine, theirs = (
        {name: value for name, value in each.items() if name.startswith(EARLY) and name not in besides}
        for each in (os.environ, environment)
    )
    threads = environment.get(THREADS, "" if THREADS in os.environ else "1")
    return sys.platform == "linux" and mine == theirs and threads.isdecimal()


@functools.cache
def _at(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


@functools.cache
def _connection() -> socket.socket:
    """The connection to the process that forks; it ends with this process, and is waited for."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin, environment = [sys.executable, "-c", SERVER], os.environ | {"PYTHONPATH": path}
    with there:
        process = subprocess.Popen(begin, stdin=there.fileno(), env=environment)

    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:  # and not a fork of this process
            here.shutdown(socket.SHUT_RDWR)
            process.wait()
            here.close()

    atexit.register(end)
    return here


def _fork(server: socket.socket, request: dict[str, Any], streams: list[int]) -> int:
    """The number of a new child of this process with these standard streams."""
    with ONE_AT_A_TIME:
        system = ctypes.CDLL(None)
        system.prctl(ADOPT, 1, 0, 0, 0)
        try:
            socket.send_fds(server, [json.dumps(request).encode()], streams)
            return int(server.recv(20))
        finally:
            system.prctl(ADOPT, 0, 0, 0, 0)
