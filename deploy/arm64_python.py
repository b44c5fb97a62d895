"""Unpacks Debian's Python for arm64 into a folder, without installing it, for qemu-aarch64 -L FOLDER.

    python deploy/arm64_python.py FOLDER

Needs apt-get and dpkg, of Debian or Ubuntu, whose version decides which Python it is. Files that are there already are
not fetched again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

WANTED = ("python3", "libstdc++6")  # packages of Python need the latter
PREFIXES = ("lib", "python3", "zlib1g")  # of the names of packages that running needs; others are for installing
TREE = "depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances"


def apt(program: str, *words: str, folder: Path) -> str:
    """Runs a program of apt's that sees only packages for arm64, and keeps its lists in a folder."""
    own = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
    }
    options = [f"-o{name}={value}" for name, value in own.items()]
    done = subprocess.run([program, *options, *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def packages(folder: Path) -> list[str]:
    """Returns the names of the packages that Python needs to run."""
    lines = apt("apt-cache", *TREE.split(), *WANTED, folder=folder).splitlines()
    return sorted({line for line in lines if line.startswith(PREFIXES) and "perl" not in line})


def main() -> None:
    """Fetches and unpacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for it")
    root = parser.parse_args().folder.absolute()
    fetched = root / "debs"
    if not (root / "usr" / "bin" / "python3").exists():
        for each in ("state/lists/partial", "cache/archives/partial"):
            (fetched / each).mkdir(parents=True, exist_ok=True)
        (fetched / "status").touch()
        apt("apt-get", "update", "-qq", folder=fetched)
        apt("apt-get", "download", "-qq", *packages(fetched), folder=fetched)
        for path in sorted(fetched.glob("*.deb")):
            subprocess.run(["dpkg", "-x", path, root], check=True)
    python = ["qemu-aarch64", "-L", str(root), str(root / "usr" / "bin" / "python3")]
    code = "import ctypes, platform, ssl; print(platform.machine(), platform.python_version())"
    done = subprocess.run([*python, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    if not done.stdout.startswith("aarch64 "):
        sys.exit(f"arm64_python: it says that it is {done.stdout.strip()}")
    print(f"{root}: Python for {done.stdout.strip()}")


if __name__ == "__main__":
    main()
