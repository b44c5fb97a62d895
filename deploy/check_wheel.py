"""Installs a wheel or a source distribution in fresh environments, and uses it there as people do.

    python deploy/check_wheel.py FILE... [--python PYTHON...] [--torch FOLDER] [--compiler]
    python deploy/check_wheel.py --here

Each FILE gets a new environment for each PYTHON (this one unless named), where no compiler can be found; --compiler
lets a source distribution find one. --torch names a folder of packages that has torch: one more environment, of this
Python, trains too. --here makes no environment, and uses the Scriven of this Python. Stops at the first mistake.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = ROOT / "tests" / "kept" / "run-0.1.0"  # of an earlier version: installed ones open it, too
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SMALL = "--steps 3 --model.width 16 --reader.batch 4 --reader.length 16 --training.workers 1 --from none --quiet"


@dataclass(frozen=True)
class Place:
    """Where Scriven is installed: its Python, a folder to work in, and the folders where programs are looked for."""

    python: Path
    folder: Path
    path: str

    def run(self, *words: str | Path) -> str:
        """Runs a program of this environment; returns what it writes."""
        variables = {"PATH": self.path, "PYTHONPATH": "", "SCRIVEN_CACHE": str(self.folder / "cache")}
        done = subprocess.run(
            [str(self.python), *map(str, words)],
            cwd=self.folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=900,
            check=True,
        )
        return done.stdout

    def scriven(self, *words: str | Path) -> str:
        """Runs a command of Scriven's; returns what it writes."""
        return self.run("-m", "scriven", *words)


def use(place: Place, *, native: bool, torch: bool) -> str:
    """Writes, scores, compresses, and trains if there is torch; returns a sentence on what was there."""
    (place.folder / "book.txt").write_text(TEXT, "utf-8")
    facts: dict[str, Any] = json.loads(place.scriven("info", "--machine", "--json"))
    there = f"Scriven {facts['scriven']}, Python {facts['python']}, kernels {facts['kernels']}, torch {facts['torch']}"
    check((facts["kernels"] != "off") == native, f"kernels are {facts['kernels']}: {facts['kernels_because']}")
    check(native or "slower" in facts["kernels_because"], f"it does not say that it is slow: {facts}")
    runs: list[Path] = [RUN] if RUN.exists() else []
    if torch:
        place.scriven("train", "book.txt", "-o", "new", *SMALL.split())
        place.scriven("train", "--resume", "-o", "new", "--steps", "5", "--quiet")
        runs.append(place.folder / "new")
    for run in runs:
        texts = [place.scriven("sample", run, "--seed", "1", "--length", "40", "--prompt", "the ") for _ in range(2)]
        check(texts[0] == texts[1] and texts[0].startswith("the "), f"a seed gives two texts: {texts}")
        scored = json.loads(place.scriven("score", run, "book.txt", "--json"))
        check(scored["nats"] > 0, f"a score is {scored}")
    if native:
        place.scriven("compress", "book.txt", "-o", "book.archive", "--quiet")
        place.scriven("decompress", "book.archive", "-o", "again.txt", "--quiet")
        check((place.folder / "again.txt").read_text("utf-8") == TEXT, "an archive has lost its text")
    return there


def check(right: bool, wrong: str) -> None:
    """Ends the program with a sentence on what is wrong."""
    if not right:
        sys.exit(f"check_wheel: {wrong}")


def install(file: Path, python: str, folder: Path, packages: Path | None, *, compiler: bool) -> Place:
    """Makes an environment with a file's Scriven, and with a folder of other packages."""
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    if packages:
        (site,) = (folder / "env").rglob("site-packages")
        (site / "others.pth").write_text(f"{packages}\n", "utf-8")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}" if compiler else str(programs)
    place = Place(programs / "python", folder, path)
    again = ["--force-reinstall", "--no-deps"] if packages else []
    place.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *again, file.absolute())
    return place


def check_file(file: Path, python: str, packages: Path | None, *, compiler: bool) -> None:
    """Installs a file in a new environment, uses it, and says what was there."""
    native = compiler or (file.suffix == ".whl" and not file.name.endswith("-any.whl"))
    folder = Path(tempfile.mkdtemp(prefix="scriven-wheel-"))
    try:
        place = install(file, python, folder, packages, compiler=compiler)
        print(f"{file.name}: {use(place, native=native, torch=packages is not None)}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Checks what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="wheels for this machine, and source distributions")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="Pythons to install them for")
    parser.add_argument("--torch", type=Path, help="folder of packages with torch, for this Python")
    parser.add_argument("--compiler", action="store_true", help="let source distributions find a C++ compiler")
    parser.add_argument("--here", action="store_true", help="use what is installed for this Python")
    asked = parser.parse_args()
    check(bool(asked.files) != asked.here, "name files, or give --here")
    if asked.here:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(sys.executable), Path(folder), os.environ["PATH"])
            print(use(place, native=True, torch=find_spec("torch") is not None))
    for file in asked.files:
        for python in asked.python:
            check_file(file, python, None, compiler=asked.compiler)
        if asked.torch:
            check_file(file, sys.executable, asked.torch.absolute(), compiler=asked.compiler)


if __name__ == "__main__":
    main()
