"""Installs a wheel or a source distribution in fresh environments, and uses it there as people do.

    python deploy/check_wheel.py FILE... [--python PYTHON...] [--torch FOLDER] [--compiler] [--arm64 FOLDER]
    python deploy/check_wheel.py --here

Each FILE gets a new environment for each PYTHON (this one unless named), where no compiler can be found; --compiler
lets a source distribution find one. --torch names a folder of packages that has torch: one more environment, of this
Python, trains too. A wheel for arm64 is used by qemu, with the Python that deploy/arm64_python.py put into the folder
--arm64. --here makes no environment, and uses the Scriven of this Python. Stops at the first mistake: also where one
model scores one text otherwise in two environments, or writes another one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).parents[1]
RUN = ROOT / "tests" / "kept" / "run-0.1.0"  # of an earlier version: installed ones open it, too
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SMALL = "--steps 3 --model.width 16 --reader.batch 4 --reader.length 16 --training.workers 1 --from none --quiet"
WRITE = "--seed 1 --length 40 --prompt"
QUIETLY = ("--quiet", "--disable-pip-version-check", "--no-compile")
SECONDS = 900  # of any command: emulated ones on a busy machine take minutes
APART = 1e-6  # nats per character between two environments, at most


@dataclass(frozen=True)
class Place:
    """Where Scriven is installed.

    Has the words that start its Python, a folder to work in, the folders where programs are looked for, and a folder of
    packages, if they are in none of Python's own.
    """

    python: tuple[str, ...]
    folder: Path
    path: str
    packages: str = ""

    def variables(self) -> dict[str, str]:
        """Returns the environment of its programs."""
        own = {"PATH": self.path, "PYTHONPATH": self.packages, "SCRIVEN_CACHE": str(self.folder / "cache")}
        return os.environ | own

    def run(self, *words: str | Path) -> str:
        """Runs a program of this environment; returns what it writes."""
        done = subprocess.run(
            [*self.python, *map(str, words)],
            cwd=self.folder,
            env=self.variables(),
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=True,
        )
        return done.stdout

    def scriven(self, *words: str | Path) -> str:
        """Runs a command of Scriven's; returns what it writes."""
        return self.run("-m", "scriven", *words)

    def complete(self, run: Path, prompt: str, length: int) -> str:
        """Serves a run, and returns how a client's prompt goes on."""
        words = [*self.python, "-m", "scriven", "serve", str(run), "--port", "0"]
        wanted = {"model": run.name, "prompt": prompt, "max_tokens": length, "seed": 1}
        with subprocess.Popen(
            words, cwd=self.folder, env=self.variables(), stderr=subprocess.PIPE, text=True, encoding="utf-8"
        ) as server:
            watch = Timer(SECONDS, server.kill)
            watch.start()
            try:
                assert server.stderr
                found = (re.search(r"http://\S+", line) for line in server.stderr)
                address = next((each[0] for each in found if each), "")
                check(address.startswith("http"), "the server says no address")
                data, kind = json.dumps(wanted).encode(), {"Content-Type": "application/json"}
                request = Request(f"{address}/v1/completions", data, kind)
                with build_opener(ProxyHandler({})).open(request, timeout=SECONDS) as answer:
                    return str(json.load(answer)["choices"][0]["text"])
            finally:
                watch.cancel()
                server.terminate()


@dataclass(frozen=True)
class Use:
    """What was there, as a sentence; the kept run's nats per character in fp32, which numpy computes without torch.

    If there is native code, also those in int8, and the text that it writes; else nan and "".
    """

    there: str
    nats: float
    native: tuple[float, str]

    def check_agrees(self, other: Use) -> None:
        """Ends the program unless both have the numbers that the same model gives."""
        (nats, text), (other_nats, other_text), what = self.native, other.native, f"{self.there}; {other.there}"
        apart = max(abs(self.nats - other.nats), abs(nats - other_nats) if text and other_text else 0.0)
        check(apart <= APART, f"scores are {apart:.1e} nats apart: {what}")
        check(text == other_text or not (text and other_text), f"texts are {text!r} and {other_text!r}: {what}")


def use(place: Place, *, native: bool, torch: bool) -> Use:
    """Does what people do with a model, and trains one if there is torch."""
    (place.folder / "book.txt").write_text(TEXT, "utf-8")
    facts: dict[str, Any] = json.loads(place.scriven("info", "--machine", "--json"))
    there = f"Scriven {facts['scriven']}, Python {facts['python']}, kernels {facts['kernels']}, torch {facts['torch']}"
    check((facts["kernels"] != "off") == native, f"kernels are {facts['kernels']}: {facts['kernels_because']}")
    check(native or "slower" in facts["kernels_because"], f"it does not say that it is slow: {facts}")
    check(facts["torch"].startswith("not") != torch, f"torch is {facts['torch']}")
    if torch:
        place.scriven("train", "book.txt", "-o", "new", *SMALL.split())
        place.scriven("train", "--resume", "-o", "new", "--steps", "5", "--quiet")
        write(place, place.folder / "new")
    text, nats = write(place, RUN), score(place, RUN)
    send_and_serve(place, nats)
    exact = score(place, RUN, "--precision", "fp32")
    if native:
        place.scriven("compress", "book.txt", "-o", "book.archive", "--quiet")
        place.scriven("decompress", "book.archive", "-o", "again.txt", "--quiet")
        check((place.folder / "again.txt").read_text("utf-8") == TEXT, "an archive has lost its text")
    return Use(there, exact, (nats, text) if native else (math.nan, ""))


def write(place: Place, run: Path) -> str:
    """Writes with a run twice; returns the text."""
    check(run.name in place.scriven("info", run), f"info does not know {run}")
    texts = [place.scriven("sample", run, *WRITE.split(), "the ") for _ in range(2)]
    check(texts[0] == texts[1] and texts[0].startswith("the "), f"a seed gives two texts: {texts}")
    return texts[0]


def score(place: Place, run: Path, *flags: str) -> float:
    """Scores a text with a run; returns nats per character."""
    scored = json.loads(place.scriven("score", run, "book.txt", "--json", *flags))
    check(0 < scored["nats"] < 20 * len(TEXT), f"a score is {scored}")
    return float(scored["nats"]) / len(TEXT)


def send_and_serve(place: Place, nats: float) -> None:
    """Makes a page and a file to send of the kept run, uses the latter, and serves it to a client."""
    place.scriven("export", RUN, "--to", "html", "-o", "page.html")
    page = (place.folder / "page.html").read_text("utf-8")
    check(page.lstrip().lower().startswith("<!doctype html>"), f"a page begins with {page[:20]!r}")
    place.scriven("pack", RUN, "-o", "sent.zip")
    place.scriven("unpack", "sent.zip", "-o", "received")
    again = score(place, place.folder / "received")
    check(again == nats, f"an unpacked run scores {again}, and its original {nats}")
    text = place.complete(RUN, "the ", 20)
    check(len(text) == 20, f"the server completes with {text!r}")


def check(right: bool, wrong: str) -> None:
    """Ends the program with a sentence on what is wrong."""
    if not right:
        sys.exit(f"check_wheel: {wrong}")


def install(file: Path, python: str, folder: Path, asked: argparse.Namespace, packages: Path | None) -> Place:
    """Makes an environment with a file's Scriven and what it needs to serve, or with a folder of other packages."""
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    if packages:
        (site,) = (folder / "env").rglob("site-packages")
        (site / "others.pth").write_text(f"{packages}\n", "utf-8")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}" if asked.compiler else str(programs)
    place = Place((str(programs / "python"),), folder, path)
    how = ["--force-reinstall", "--no-deps"] if packages else tested_versions(asked)
    place.run("-m", "pip", "install", *QUIETLY, *how, f"{file.absolute()}[serve]")
    return place


def install_emulated(file: Path, folder: Path, asked: argparse.Namespace) -> Place:
    """Puts a wheel for arm64, and what it needs to serve, into a folder for the Python of the folder --arm64."""
    check(asked.arm64 is not None, f"{file.name} is for arm64; give --arm64")
    root, packages = asked.arm64.absolute(), folder / "packages"
    python = ("qemu-aarch64", "-L", str(root), str(root / "usr" / "bin" / "python3"))
    version = Place(python, folder, os.environ["PATH"]).run("-c", "import sys; print(*sys.version_info[:2], sep='.')")
    systems = [word for number in range(17, 40) for word in ("--platform", f"manylinux_2_{number}_aarch64")]
    other = ["--target", packages, "--only-binary=:all:", "--python-version", version.strip(), *systems]
    words = [*QUIETLY, *other, *tested_versions(asked), f"{file.absolute()}[serve]"]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
    return Place(python, folder, os.environ["PATH"], str(packages))


def is_emulated(file: Path) -> bool:
    """Whether a wheel is for arm64, and this machine is not."""
    return file.name.endswith("_aarch64.whl") and platform.machine() != "aarch64"


def tested_versions(asked: argparse.Namespace) -> list[str | Path]:
    """Returns the words that keep pip to a list of versions, if there is one."""
    return ["--constraint", asked.constraint.absolute()] if asked.constraint else []


def check_file(file: Path, python: str, asked: argparse.Namespace, packages: Path | None = None) -> Use:
    """Installs a file in a new environment, uses it, and says what was there."""
    native = asked.compiler or (file.suffix == ".whl" and not file.name.endswith("-any.whl"))
    folder, started = Path(tempfile.mkdtemp(prefix="scriven-wheel-")), time.monotonic()
    try:
        if is_emulated(file):
            place = install_emulated(file, folder, asked)
        else:
            place = install(file, python, folder, asked, packages)
        found = use(place, native=native, torch=packages is not None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    print(f"{file.name}: {found.there}; {found.nats!r} nats per character in fp32, {seconds:.0f} s", flush=True)
    return found


def main() -> None:
    """Checks what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="wheels for this machine or arm64, source distributions")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="Pythons to install them for")
    parser.add_argument("--torch", type=Path, help="folder of packages with torch, for this Python")
    parser.add_argument("--compiler", action="store_true", help="let source distributions find a C++ compiler")
    parser.add_argument("--arm64", type=Path, help="folder that deploy/arm64_python.py made")
    parser.add_argument("--constraint", type=Path, help="list of versions that pip keeps to")
    parser.add_argument("--here", action="store_true", help="use what is installed for this Python")
    asked = parser.parse_args()
    check(bool(asked.files) != asked.here, "name files, or give --here")
    if asked.here:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            place = Place((sys.executable,), Path(folder), os.environ["PATH"])
            print(use(place, native=True, torch=find_spec("torch") is not None).there)
        return
    found = []
    for file in asked.files:
        pythons = [sys.executable] if is_emulated(file) else asked.python
        found += [check_file(file, python, asked) for python in pythons]
        if asked.torch and not is_emulated(file):
            found.append(check_file(file, sys.executable, asked, asked.torch.absolute()))
    for other in found[1:]:
        found[0].check_agrees(other)


if __name__ == "__main__":
    main()
