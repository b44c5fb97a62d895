"""Runs the steps of the Dockerfile in new Debian systems, without Docker, and asks the server there for a text.

    sudo python deploy/check_image.py FOLDER RUN

It needs debootstrap and Debian's packages. The systems are made in FOLDER and take 1.5 GB; one that is there already is
used as the base. RUN is the folder of a run to serve. Variables of pip (PIP_...) hold in the systems, too.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
ADDRESS = "http://127.0.0.1:8000"
TOKEN = "token-of-this-check"


@dataclass
class Stage:
    """One system that a FROM begins: its root on this machine, and what later steps need of earlier ones."""

    root: Path
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **of_pip()})
    folder: str = "/"
    user: str = "root"
    words: dict[str, list[str]] = field(default_factory=dict)  # of ENTRYPOINT, CMD and HEALTHCHECK

    def command(self, words: list[str]) -> list[str]:
        """Returns the words that run a program in this system, as its user."""
        environment = ["env", "--ignore-environment", *(f"{name}={value}" for name, value in self.variables.items())]
        there = ["sh", "-c", f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"]
        return ["chroot", f"--userspec={self.user}", str(self.root), *environment, *there]

    def run(self, text: str) -> None:
        """Runs a line of the shell in this system."""
        subprocess.run(self.command(["sh", "-c", text]), check=True)


def of_pip() -> dict[str, str]:
    """Returns the variables that pip reads."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def main(folder: Path, run: Path) -> None:
    """Makes the image's system, and uses it."""
    stage = make(folder)
    image = sum(path.lstat().st_size for path in stage.root.rglob("*") if not path.is_dir()) / 1e6
    base = sum(path.lstat().st_size for path in (folder / "base").rglob("*") if not path.is_dir()) / 1e6
    print(f"the image has {image:.0f} MB, {base:.0f} of them Debian's")
    shutil.copytree(run, stage.root / "srv" / "runs" / run.name)
    stage.variables["SCRIVEN_TOKEN"] = TOKEN
    server = subprocess.Popen(stage.command(stage.words["ENTRYPOINT"] + stage.words["CMD"]))
    try:
        await_server(server)
        print(ask_for_text())
        subprocess.run(stage.command(stage.words["HEALTHCHECK"]), check=True)
    finally:
        server.terminate()
        server.wait(30)


def make(folder: Path) -> Stage:
    """Carries out the Dockerfile. Returns its last stage."""
    folder.mkdir(exist_ok=True)
    stages: dict[str, Stage] = {}
    for line in (ROOT / "deploy" / "Dockerfile").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        print(f"== {line}", flush=True)
        kind, _, rest = line.partition(" ")
        if kind == "FROM":
            words = rest.split()
            stage = Stage(begin(folder, words[0], words[-1] if "AS" in words else "image"))
            stages[stage.root.name] = stage
        else:
            carry_out(kind, rest, stage, stages)
    return stage


def begin(folder: Path, image: str, name: str) -> Path:
    """Copies the base system, made for the first stage. Returns the root."""
    suite = image.removeprefix("debian:").removesuffix("-slim")
    base, root = folder / "base", folder / name
    if not base.exists():
        subprocess.run(["debootstrap", "--variant=minbase", suite, str(base)], check=True, stdout=subprocess.DEVNULL)
    root.mkdir()  # never into one that is there
    subprocess.run(["cp", "--archive", "--no-target-directory", str(base), str(root)], check=True)
    return root


def carry_out(kind: str, rest: str, stage: Stage, stages: dict[str, Stage]) -> None:
    """Carries out one instruction."""
    if kind == "RUN":
        stage.run(rest)
    elif kind == "COPY":
        words = rest.split()
        source = stages[words.pop(0).removeprefix("--from=")].root if words[0].startswith("--from=") else ROOT
        copy([source / word.lstrip("/") for word in words[:-1]], words[-1], stage.root)
    elif kind == "ENV":
        for word in rest.split():
            name, _, value = word.partition("=")
            stage.variables[name] = value.replace("$PATH", stage.variables["PATH"])
    elif kind in {"WORKDIR", "USER"}:
        setattr(stage, {"WORKDIR": "folder", "USER": "user"}[kind], rest)
    elif kind in {"ENTRYPOINT", "CMD", "HEALTHCHECK"}:
        stage.words[kind] = json.loads(rest.removeprefix("CMD "))
    elif kind != "EXPOSE":
        raise ValueError(f"this check does not know {kind}")


def copy(sources: list[Path], target: str, root: Path) -> None:
    """Copies as COPY does: files into a folder that ends with a slash, the content of a folder as the target."""
    for source in sources:
        place = root / target.lstrip("/")
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__", "_native*") if source.is_relative_to(ROOT) else None
            shutil.copytree(source, place, symlinks=True, ignore=unwanted, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)


def await_server(server: subprocess.Popen[bytes]) -> None:
    """Waits until the server is ready."""
    while server.poll() is None:
        try:
            urlopen(f"{ADDRESS}/health/ready", timeout=5).close()
        except URLError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the server ended")


def ask_for_text() -> str:
    """Returns what the server writes."""
    body = json.dumps({"prompt": "a", "max_tokens": 40, "temperature": 0.8}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    with urlopen(Request(f"{ADDRESS}/v1/completions", body, headers), timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["text"])


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
