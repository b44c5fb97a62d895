"""Compiles the native kernels with the C++ compiler that is there: for wheels, for editable installs, and by hand.

    python hatch_build.py               # builds src/scriven/kernels/_native.so anew where a source has changed
    python hatch_build.py --sanitize    # a copy of the package in build/sanitized, that stops at undefined behaviour
    python hatch_build.py --check PROGRAM   # a program that compares the kernels with slow obvious code

The compiler is $CXX, or else c++, g++ or clang++. Without one, or where it fails, the package is installed all the
same, with a file that says why there is no library (kernels/_native.txt).
"""

import argparse
import contextlib
import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # by hand nothing of it is used
    BuildHookInterface = object

PACKAGE = Path("src/scriven")
LIBRARY = "_native" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
REPORT = "_native.txt"
INTERFACE = runpy.run_path(str(Path(__file__).parent / PACKAGE / "kernels" / "interface.py"))
RECORD: str = INTERFACE["RECORD"]
TELLING = "cpu.cpp"  # the source that tells what the library is
# fp-contract: a*b+c rounds once only where the source says so, so that all instruction sets give the same bits.
# no-trapping-math: nobody looks at the flags of exceptions, without which choices between values become vectors.
FLAGS = [
    *("-O3", "-std=c++17", "-fPIC", "-pthread", "-fno-exceptions", "-fno-rtti", "-fno-math-errno"),
    *("-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"),
]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
RACES = ["-O1", "-g", "-fsanitize=thread"]
_AVX2 = ["-mavx2", "-mfma"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
# What a source is compiled with, by the end of its name: sampler_avx2.cpp. The least demanding comes first: where two
# sources define the same inline function, the linker keeps the first one, which then runs everywhere.
INSTRUCTIONS: dict[str, list[str]] = {
    "portable": [],
    "avx2": _AVX2,
    "avxvnni": [*_AVX2, "-mavxvnni"],
    "avx512": _AVX512,
    "avx512bf16": [*_AVX512, "-mavx512bf16"],
    "amx": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}


# What any processor of the kind can do, whatever the compiler's own default or $CXX says.
BASELINES = {"x86_64": ("-march=x86-64", "-mtune=generic"), "aarch64": ("-march=armv8-a",)}


class BuildError(Exception):
    """There is no library; the message says why, in a part of a sentence."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command, what it calls itself, and the flags that every source gets."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]

    def run(self, *arguments: str) -> None:
        """Run it; what it has to say goes to standard error, and a failure is a BuildError."""
        done = _run([*self.command, *arguments])
        sys.stderr.write(done.stderr)
        if done.returncode:
            raise BuildError(f"{self.command[0]} failed: {_first_error(done.stderr, done.returncode)}")

    def knows(self, instructions: str) -> bool:
        """Whether it compiles for the processor that has these instructions, and takes the flags for them."""
        source = "#ifndef __AVX2__\n#error\n#endif\n"
        command = [*self.command, *INSTRUCTIONS[instructions], "-x", "c++", "-fsyntax-only", "-"]
        return instructions == "portable" or not _run(command, source).returncode


def find_compiler(extra: tuple[str, ...] = ()) -> Compiler:
    """The compiler that $CXX names, or else the first that is there; `extra` flags come last."""
    named = shlex.split(os.environ.get("CXX", ""))
    command = named or next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if not command:
        raise BuildError("no C++ compiler was found: neither $CXX nor c++, g++ or clang++")
    done = _run([*command, "--version"])
    if done.returncode or not done.stdout:
        raise BuildError(f"{shlex.join(command)} is not a C++ compiler that works: --version fails")
    machine = _run([*command, "-dumpmachine"]).stdout.partition("-")[0]  # the one it compiles for, which may be another
    return Compiler(tuple(command), done.stdout.splitlines()[0], (*BASELINES.get(machine, ()), *FLAGS, *extra))


def build(package: Path, objects: Path, extra: tuple[str, ...] = ()) -> str:
    """Compile and link the library of the package in this folder; gives a sentence about it.

    Objects are kept in the folder `objects`, under names that hash all that went into them, and used again. Raises
    BuildError; an older library then stays as it was.
    """
    compiler, kernels = find_compiler(extra), package / "kernels"
    compiled, known = _compiled(compiler, kernels / "native", objects)
    _replace(kernels / LIBRARY, lambda path: compiler.run(*extra, "-shared", "-pthread", *compiled, "-o", path))
    return f"compiled by {compiler.version} for {', '.join(known)}"


def build_check(root: Path, program: Path, extra: tuple[str, ...] = ()) -> str:
    """Compile and link the program of tests/native with all kernels, to run it anywhere; gives a sentence about it."""
    compiler = find_compiler(extra)
    compiled, known = _compiled(compiler, root / PACKAGE / "kernels" / "native", root / "build" / "native")
    source, static = root / "tests" / "native" / "check.cpp", () if extra else ("-static",)
    program.parent.mkdir(parents=True, exist_ok=True)
    arguments = (*compiler.flags, *static, str(source), *compiled, "-pthread", "-o")
    _replace(program, lambda path: compiler.run(*arguments, path))
    return f"compiled by {compiler.version} for {', '.join(known)}"


def _compiled(compiler: Compiler, native: Path, objects: Path) -> tuple[list[str], list[str]]:
    """The objects of all sources in a folder that the compiler knows the instructions of, and these instructions."""
    sources = sorted(native.glob("*.cpp"), key=lambda path: (_rank(path), path.name))
    objects.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = [name for name, yes in zip(INSTRUCTIONS, pool.map(compiler.knows, INSTRUCTIONS), strict=True) if yes]
        jobs = [pool.submit(_compile, compiler, path, objects, known) for path in sources if _suffix(path) in known]
        return [job.result() for job in jobs], known


def build_or_tell(root: Path) -> str:
    """Build in place, for an installation, which nothing here may stop; the package keeps what this gives as a file."""
    kernels = root / PACKAGE / "kernels"
    try:
        told = build(root / PACKAGE, root / "build" / "native")
        (kernels / RECORD).write_text(f"{INTERFACE['interface_of'](kernels / 'native')}\n", "utf-8")
    except (BuildError, OSError, ValueError, subprocess.SubprocessError) as error:
        told = str(error)
        with contextlib.suppress(OSError):
            (kernels / LIBRARY).unlink(missing_ok=True)  # it would be of other sources
    with contextlib.suppress(OSError):
        (kernels / REPORT).write_text(told + "\n", "utf-8")
    return told


def _compile(compiler: Compiler, source: Path, objects: Path, known: list[str]) -> str:
    has = [f"-DSCRIVEN_HAS_{name.upper()}=1" for name in known]
    if source.name == TELLING:
        has.append(f"-DSCRIVEN_INTERFACE={INTERFACE['interface_of'](source.parent)}")
    arguments = [*compiler.flags, *INSTRUCTIONS[_suffix(source)], *has]
    texts = [source, *sorted(source.parent.glob("*.h"))]
    key = hashlib.sha256(repr((compiler, arguments, [path.read_bytes() for path in texts])).encode())
    target = objects / f"{source.stem}-{key.hexdigest()[:16]}.o"
    if not target.exists():
        _replace(target, lambda path: compiler.run(*arguments, "-c", str(source), "-o", path))
    return str(target)


def _suffix(source: Path) -> str:
    end = source.stem.rpartition("_")[2]
    return end if end in INSTRUCTIONS else "portable"


def _rank(source: Path) -> int:
    return list(INSTRUCTIONS).index(_suffix(source))


def _replace(target: Path, write: Callable[[str], None]) -> None:
    """Let `write` make a file of another name, then rename it: nobody ever sees half of it."""
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        write(str(temporary))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", env=environment, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} does not start: {error.strerror}") from error


def _first_error(told: str, code: int) -> str:
    lines = told.strip().splitlines()
    first = next((line for line in lines if re.search(r"\berror\b", line)), lines[-1] if lines else "")
    return first.strip() or f"it ended with {code} and said nothing"


class NativeKernels(BuildHookInterface):
    """What hatchling calls before it makes a wheel, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; a wheel with a library in it is for this kind of machine, any Python 3."""
        kernels = Path(self.root, PACKAGE, "kernels")
        self.app.display_info(f"native kernels: {build_or_tell(Path(self.root))}")
        build_data["artifacts"] += [f"/{PACKAGE.as_posix()}/kernels/{name}" for name in (LIBRARY, REPORT, RECORD)]
        if (kernels / LIBRARY).exists():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"


def _platform_tag() -> str:
    from packaging.tags import sys_tags  # noqa: PLC0415 - comes with hatchling

    # "linux_x86_64" and not "manylinux_2_36_x86_64": nothing here has checked where else the library would run.
    tags = (tag.platform for tag in sys_tags())
    return next(tag for tag in tags if not tag.startswith(("manylinux", "musllinux")))


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build the native kernels in place.")
    parser.add_argument("--sanitize", action="store_true", help="build a copy of the package that checks itself")
    parser.add_argument("--check", type=Path, help="build the program of tests/native there instead")
    parser.add_argument("--threads", action="store_true", help="with --check: a program that looks for data races")
    root, package, extra = Path(__file__).parent, Path(__file__).parent / PACKAGE, ()
    asked = parser.parse_args()
    if asked.sanitize:
        package, extra = root / "build" / "sanitized" / "scriven", tuple(SANITIZE)
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(root / PACKAGE, package, ignore=shutil.ignore_patterns("_native.*", "__pycache__"))
    try:
        if asked.check:
            print(f"{asked.check}: {build_check(root, asked.check, tuple(RACES) if asked.threads else ())}")
            return
        print(f"{package / 'kernels' / LIBRARY}: {build(package, root / 'build' / 'native', extra)}")
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
