"""`scriven serve`: serves models over HTTP."""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    FilePath,
    Mixing,
    Which,
    Whole,
    WriteOrder,
    WritingPrecision,
    check_can_serve,
    name_runs,
    note,
    note_slowness,
    unescape,
    visible_line,
)
from scriven.errors import InputError, ScrivenError, UsageError

if TYPE_CHECKING:
    from scriven.server.renewal import ServedCheckpoint
    from scriven.trained_model import Model


Runs = Annotated[
    str,
    Parameter(help="folders of runs, or names of runs in runs/; unless given, all in runs/", completer=name_runs),
]
Host = Annotated[
    str, Parameter(help="address to listen on; any other than 127.0.0.1, which is this machine only, needs a token")
]
Token = Annotated[
    str | None,
    Parameter(
        env_var="SCRIVEN_TOKEN",
        help="API key that clients must send. Better set the environment variable, which other users of the machine "
        "cannot see",
    ),
]
Hosts = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="another host name that clients may use for this server, such as a proxy's; may be repeated",
    ),
]
Origins = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="origin (scheme, host and port) of another web page that may call the API; may be repeated",
    ),
]
Training = Annotated[
    bool,
    Parameter(
        help="whether people may train models from the page; where other machines can reach it, they need the token"
    ),
]
Novelty = Annotated[
    bool,
    Parameter(
        help="whether people may ask what of a text is copied from the training text, with which all of that can be "
        "found out; where other machines can reach the server, they need the token"
    ),
]
TextFolder = Annotated[
    FilePath, Parameter(help="folder of texts that people may train on, besides those that they paste into the page")
]
ChatTemplate = Annotated[
    str,
    Parameter(
        help="how the messages of /v1/chat/completions become a text to continue: plain (each is a line), roles (each "
        "is a line that begins with who says it), or a text such as '{role}: {content}\\n'. \\n means a line feed"
    ),
]
Opens = Annotated[
    bool,
    Parameter(
        name="--open",
        negative="",
        help="open the page in a browser; at Watch, if one of the runs is being trained. If there is a token, the page "
        "asks for it",
    ),
]


def serve(
    *runs: Runs,
    open_browser: Opens = False,
    host: Host = "127.0.0.1",
    port: Annotated[Whole, Parameter(help="port to listen on; 0 takes any free one")] = 8000,
    token: Token = None,
    allow_host: Hosts = None,
    allow_origin: Origins = None,
    training: Training = True,
    novelty: Novelty = True,
    texts: TextFolder = None,
    chat_template: ChatTemplate = "plain",
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: WritingPrecision = "auto",
    counts: Mixing = "auto",
    write_order: WriteOrder = None,
) -> None:
    """Serve models over HTTP: a web page to play with, and an OpenAI-compatible completions API.

    Open the address that it prints in a browser. The API is described in docs/server.md:
    POST /v1/completions writes, POST /v1/chat/completions does so for clients that only chat,
    POST /score measures how surprising a text is, POST /novelty what of it is copied, GET /v1/models lists the models,
    GET /openapi.json lists every path.

    Each model has the name of its run's folder. While a run is still training, the server switches to each new best
    checkpoint, or to each new last one with --checkpoint last. A checkpoint given by its step stays. Ctrl-C stops it.
    Without a model, the page trains a first one.
    """
    check_can_serve()
    from scriven.server import chat
    from scriven.server.app import NO_TRAININGS, OPEN, STREAMED, UPLOADS, make_app
    from scriven.server.http_limits import Serving, configuration
    from scriven.server.limits import LIMITS
    from scriven.server.renewal import ServedCheckpoint
    from scriven.server.security import Guard, policy
    from scriven.server.trainings import TrainingPolicy, why_refused

    template = chat.ChatTemplate.named(unescape("--chat-template", chat_template))
    folders, host = _find_folders(runs), host.strip("[]")  # of an IPv6 address, as a URL has it
    hosts, origins = allow_host or (), allow_origin or ()
    who = policy(
        host,
        token=token,
        allow_host=hosts,
        allow_origin=origins,
        open_paths=OPEN,
        streamed=STREAMED,
        uploads=UPLOADS,
    )
    if texts is not None and not texts.is_dir():
        raise InputError(f"--texts {texts} is not a folder; give one that has the texts in it")

    def source(run: Path, which: Which = checkpoint) -> ServedCheckpoint:
        return ServedCheckpoint(run, which, device, precision, counts=counts, write_order=write_order)

    def new_source(run: Path) -> ServedCheckpoint:  # a step of another run is none of a new one
        return source(run, checkpoint if checkpoint in ("best", "last") else "best")

    open_to_others = why_refused(host, token, [*hosts, *origins])
    refusal = open_to_others if training else NO_TRAININGS.refusal
    sources = {name: source(run) for name, run in folders.items()}
    models = _open_models(sources, all_of_them=not runs)
    if not models and refusal:
        raise _explain_lack(len(sources), refusal)
    if models:  # otherwise, a run that is being trained is served from its first checkpoint on
        sources, folders = {name: sources[name] for name in models}, {name: folders[name] for name in models}
    for model in models.values():
        note_slowness(model)
    listener = _listen(host, port)
    address = _address(host, listener.getsockname()[1], token)
    _say(f"serving {', '.join(models)} at {address}" if models else f"{NO_MODEL_YET} at {address}")
    _raise_file_limit(LIMITS.connections)
    trainings = TrainingPolicy(new_source, texts, refusal)
    app = make_app(
        models,
        runs=folders,
        sources=sources,
        report=_say,
        trainings=trainings,
        chat_template=template,
        novelty_refusal=_refuse_novelty(novelty, open_to_others),
    )
    if open_browser:
        _open_page(address, folders.values())
    Serving(configuration(Guard(app, who), LIMITS), app.state.end).run(sockets=[listener])


NO_MODEL_YET = "there is no model yet; train a first one"


def _refuse_novelty(novelty: bool, open_to_others: str) -> str:
    """Returns why nobody may ask what is copied from the training text; empty if all may."""
    if not novelty:
        return "this server was started with --no-novelty"
    if open_to_others:
        return "other machines can reach this server, so it says what is copied to those with a token alone"
    return ""


def _say(line: str) -> None:
    sys.stderr.write(f"{visible_line(line)}\n")


def _find_folders(runs: tuple[str, ...]) -> dict[str, Path]:
    """Returns the folders of the runs, or of all in `runs/`, by the names of their models."""
    from scriven.runs.folder import find_run
    from scriven.runs.summary import list_runs

    folders = [find_run(run) for run in runs] or list_runs()
    names = [_name_model(folder) for folder in folders]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"two runs are called {min(twice)}; rename one folder, since it names the model")
    return dict(zip(names, folders, strict=True))


def _open_models(sources: Mapping[str, ServedCheckpoint], *, all_of_them: bool) -> dict[str, Model]:
    """Returns the models by name. If nobody named the runs, those that cannot be used are left out, with a note."""
    models: dict[str, Model] = {}
    for name, source in sources.items():
        try:
            models[name] = source.open()
        except ScrivenError as error:
            if not all_of_them:
                raise
            note(f"{name} is not served: {error}")
    return models


def _explain_lack(runs: int, refusal: str) -> ScrivenError:
    """The error of a server that has no model, and lets nobody train one on its page."""
    from scriven.runs.folder import RUNS

    if runs:
        return InputError(f"none of the {runs} runs can be served; the notes above say why")
    way_out = "train one with scriven train book.txt --minutes 5, or name one"
    return UsageError(f"there are no runs in {RUNS}; {way_out}; the page cannot train one, as {refusal}")


def _open_page(address: str, folders: Iterable[Path]) -> None:
    """Opens the page in a browser while the server starts."""
    from scriven.server.run_monitor import is_training

    # Without the token, since other users see a browser's arguments; the page asks for it.
    page = address.partition("/#")[0] + ("/#watch" if any(map(is_training, folders)) else "")

    def _open() -> None:
        if not webbrowser.open(page):
            note(f"no browser could be opened here; open {page} in one")

    threading.Thread(target=_open, daemon=True).start()


def _address(host: str, port: int, token: str | None) -> str:
    """Returns the address for a browser. The page takes the token after `#`, which browsers send to no server."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + (f"/#token={quote(token, safe='')}" if token else "")


def _name_model(folder: Path) -> str:
    """Returns the name of a run's model, its folder's. Bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(folder.resolve().name).decode("utf-8", "replace")


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


def _raise_file_limit(connections: int) -> None:
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
