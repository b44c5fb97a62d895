"""Compiles the native kernels with the C++ compiler that is there: for wheels, for editable installs, and by hand.

    python hatch_build.py               # builds src/scriven/kernels/_native_*.so; compiles what has changed
    python hatch_build.py --only avx2   # builds fewer libraries, for a quick look; removes the others
    python hatch_build.py --sanitize    # a copy of the package in build/sanitized, that stops at undefined behaviour
    python hatch_build.py --check FOLDER    # programs that compare the kernels with slow obvious code

One library is built for each of VARIANTS, from the same sources. Python loads the best one that the processor can run.

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
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # by hand nothing of it is used
    BuildHookInterface = object

PACKAGE = Path("src/scriven")
REPORT = "_native.txt"
INTERFACE = runpy.run_path(str(Path(__file__).parent / PACKAGE / "kernels" / "interface.py"))
RECORD: str = INTERFACE["RECORD"]
library_file: Callable[..., str] = INTERFACE["library_file"]
DETECTION = "cpu.cpp"  # says what the processor has, so that it must run on any: portable in every library
CHECK, NEEDED = Path("tests/native/check.cpp"), Path("tests/native/needed.cpp")
# fp-contract: a*b+c rounds once only where the source says so, so that all instruction sets give the same bits.
# no-trapping-math: nobody looks at the flags of exceptions, without which choices between values become vectors.
FLAGS = [
    *("-O3", "-std=c++17", "-fPIC", "-pthread", "-fno-exceptions", "-fno-rtti", "-fno-math-errno"),
    *("-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"),
]
EMULATE_TILES = "-DSCRIVEN_EMULATE_TILES"  # the library for AMX then runs wherever there is AVX-512 with bf16
SANITIZE = [
    EMULATE_TILES,
    "-O1",
    "-g1",  # names of functions and lines
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]
LINKER = "SCRIVEN_LINKER"  # variable of the command that links libraries, if it is not the compiler's
RACES = ["-O1", "-g", "-fsanitize=thread"]
_AVX2 = ["-mavx2", "-mfma"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
_AVX512_BF16 = [*_AVX512, "-mavx512bf16"]
# The libraries, and what the sources of each are compiled with. native_library.VARIANTS says what a processor needs.
VARIANTS: dict[str, list[str]] = {
    "portable": [],
    "avx2": _AVX2,
    "avxvnni": [*_AVX2, "-mavxvnni"],
    "avx512": _AVX512,
    "avx512bf16": _AVX512_BF16,
    "amx": [*_AVX512_BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
    "neondot": ["-march=armv8.2-a+dotprod"],
    "neonbf16": ["-march=armv8.2-a+dotprod+bf16"],
}
# Variants that add instructions to another one's, and how sources ask for these: those that do not are compiled once.
EXTENDED = {
    "avxvnni": ("avx2", "__AVXVNNI__"),
    "avx512bf16": ("avx512", "__AVX512BF16__"),
    "amx": ("avx512bf16", "__AMX_"),
    "neonbf16": ("neondot", "__ARM_FEATURE_BF16"),
}

# What any processor of the kind can do, whatever the compiler's own default or $CXX says.
TUNE = (
    "-mtune=generic"  # else g++ tunes for the first processor of the kind; clang does not, and Zig's has no such name
)
BASELINES = {"x86_64": ("-march=x86-64", TUNE), "aarch64": ("-march=armv8-a",)}
ZIG_BASELINE = "-mcpu=baseline"  # Zig has other names of processors, and this one for all
ARM64_ARCHITECTURE = r"^-march=armv8[.\w-]*"  # which Zig has no names for: features are added to its baseline
# Systems as sys.platform names them, by a word in a compiler's target, and their wheels' names of processors.
SYSTEMS = {"linux": "linux", "darwin": "darwin", "macos": "darwin", "windows": "win32", "mingw": "win32"}
WINDOWS_TAGS = {"x86_64": "win_amd64", "aarch64": "win_arm64"}
# On Windows g++ takes the stack to be aligned to 32 and 64 bytes, but it is to 16: programs crash (its bug 54412).
UNALIGNED_MOVES = "-Wa,-muse-unaligned-vector-move"


class BuildError(Exception):
    """There are no libraries; the message says why, in a part of a sentence."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command, what it calls itself, what it compiles for, and the flags that every source gets."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    target: str = field(repr=False)  # such as x86_64-linux-gnu; names of objects hash the repr

    @property
    def is_clang(self) -> bool:
        """Whether it is one of clang's family, such as Zig's, and not g++."""
        return "clang" in self.version

    @property
    def machine(self) -> str:
        """What kind of processor it compiles for, such as x86_64."""
        return self.target.partition("-")[0]

    @property
    def system(self) -> str:
        """What system it compiles for, as sys.platform names it; this one, if its target does not say."""
        return next((system for word, system in SYSTEMS.items() if word in self.target), sys.platform)

    def linked(self, library: str) -> tuple[str, ...]:
        """Returns what links a library of this name that needs nothing but the system."""
        own: dict[str, tuple[str, ...]] = {
            "win32": ("-static", "-s", *(() if self.is_clang else ("-Wl,--no-insert-timestamp",))),
            "darwin": (f"-Wl,-install_name,@rpath/{library}",),  # else it would be the path of the build
        }
        return (*own.get(self.system, ()), "-shared", "-pthread")

    def run(self, *arguments: str) -> None:
        """Run it; what it has to say goes to standard error, and a failure is a BuildError."""
        done = _run([*self.command, *arguments])
        sys.stderr.write(done.stderr)
        if done.returncode:
            raise BuildError(f"{self.command[0]} failed: {_first_error(done.stderr, done.returncode)}")

    def flags_of(self, variant: str) -> list[str]:
        """Returns the flags of a variant, as this compiler writes them."""
        zig = ZIG_BASELINE in self.flags
        return [re.sub(ARM64_ARCHITECTURE, ZIG_BASELINE, flag) if zig else flag for flag in VARIANTS[variant]]

    def knows(self, variant: str) -> bool:
        """Whether it compiles for processors that have the variant's instructions, and takes the flags for them."""
        source = "#if !defined(__AVX2__) && !defined(__ARM_FEATURE_DOTPROD)\n#error\n#endif\n"
        # For -fsyntax-only Zig builds a library.
        command = [*self.command, *self.flags_of(variant), "-x", "c++", "-E", "-"]
        return variant == "portable" or not _run(command, source).returncode


def find_compiler(extra: tuple[str, ...] = ()) -> Compiler:
    """The compiler that $CXX names, or else the first that is there; `extra` flags come last."""
    named = shlex.split(os.environ.get("CXX", ""))
    command = named or next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if not command:
        raise BuildError("no C++ compiler was found: neither $CXX nor c++, g++ or clang++")
    done = _run([*command, "--version"])
    if done.returncode or not done.stdout:
        raise BuildError(f"{shlex.join(command)} is not a C++ compiler that works: --version fails")
    version = done.stdout.splitlines()[0]
    target = _run([*command, "-dumpmachine"]).stdout.strip()  # the one it compiles for, which may be another
    compiler = Compiler(tuple(command), version, (), target)
    return replace(compiler, flags=(*_baseline(compiler), *FLAGS, *extra))


def _baseline(compiler: Compiler) -> list[str]:
    """Returns the flags that a compiler needs for the oldest processors, and for the system, that it compiles for."""
    flags = [flag for flag in BASELINES.get(compiler.machine, ()) if flag != TUNE or not compiler.is_clang]
    if _run([*compiler.command, *flags, "-x", "c++", "-E", "-"]).returncode:
        flags = [ZIG_BASELINE]
    return [*flags, UNALIGNED_MOVES] if compiler.system == "win32" and not compiler.is_clang else flags


def build(
    package: Path, objects: Path, extra: tuple[str, ...] = (), variants: Collection[str] = tuple(VARIANTS)
) -> str:
    """Compiles and links the libraries of the package in this folder; returns a sentence about them.

    Variants that the compiler does not know are left out. Objects are kept in the folder `objects`, under names that
    hash all that went into them, and used again. Raises BuildError; where compiling fails, older libraries stay as they
    were.
    """
    compiler, kernels = find_compiler(extra), package / "kernels"
    compiled = _compile_variants(compiler, kernels / "native", objects, variants)
    linker = replace(compiler, command=tuple(shlex.split(os.environ.get(LINKER, ""))) or compiler.command)
    names = {variant: library_file(variant, compiler.system) for variant in compiled}
    _make({kernels / names[each]: (*extra, *compiler.linked(names[each]), *compiled[each]) for each in names}, linker)
    _remove_libraries(kernels, but=names.values())
    return f"compiled by {compiler.version} for {', '.join(compiled)}"


def build_check(
    root: Path, folder: Path, extra: tuple[str, ...] = (), variants: Collection[str] = tuple(VARIANTS)
) -> str:
    """Compiles and links the program of tests/native with the kernels of each variant, as programs named after these.

    They run anywhere. Returns a sentence about them.
    """
    compiler = find_compiler(extra)
    static = () if extra or compiler.system == "darwin" else ("-static",)
    ending = ".exe" if compiler.system == "win32" else ""
    objects = root / "build" / "native"
    compiled = _compile_variants(compiler, root / PACKAGE / "kernels" / "native", objects, variants)
    folder.mkdir(parents=True, exist_ok=True)
    # Both are portable, as they ask what the processor has.
    flags = (*compiler.flags, *static, "-pthread", str(root / NEEDED), _compile(compiler, root / CHECK, objects))
    wanted = {name: (*flags, f"-DSCRIVEN_VARIANT={name}", *files) for name, files in compiled.items()}
    _make({folder / f"{name}{ending}": words for name, words in wanted.items()}, compiler)
    return f"compiled by {compiler.version} for {', '.join(compiled)}"


def _compile_variants(
    compiler: Compiler, native: Path, objects: Path, variants: Collection[str]
) -> dict[str, list[str]]:
    """Returns the objects of each of these variants that the compiler knows, from the sources in a folder."""
    sources = sorted(native.glob("*.cpp"))
    objects.mkdir(parents=True, exist_ok=True)
    jobs: dict[tuple[Path, str], Future[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = [name for name, yes in zip(variants, pool.map(compiler.knows, variants), strict=True) if yes]
        wanted = {variant: [(path, _lowest_variant(path, variant)) for path in sources] for variant in known}
        for path, variant in dict.fromkeys(pair for pairs in wanted.values() for pair in pairs):
            jobs[path, variant] = pool.submit(_compile, compiler, path, objects, variant)
    return {variant: [jobs[pair].result() for pair in pairs] for variant, pairs in wanted.items()}


def _lowest_variant(source: Path, variant: str) -> str:
    """Returns the first variant that a source is the same machine code for."""
    if source.name == DETECTION:
        return "portable"
    text = "".join(_texts_of(source).values())
    while variant in EXTENDED and EXTENDED[variant][1] not in text:
        variant = EXTENDED[variant][0]
    return variant


def _make(wanted: dict[Path, tuple[str, ...]], compiler: Compiler) -> None:
    """Makes files with the compiler, each with these arguments, on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        making = [
            pool.submit(_replace, target, lambda path, given=given: compiler.run(*given, "-o", path))
            for target, given in wanted.items()
        ]
    for done in making:
        done.result()


def _remove_libraries(kernels: Path, but: Collection[str] = ()) -> None:
    """Removes all native libraries `but` these: they would be of other sources."""
    for path in _libraries(kernels):
        if path.name not in but:
            path.unlink(missing_ok=True)


def _libraries(kernels: Path) -> list[Path]:
    """Returns the native libraries that are there, of all systems."""
    return sorted(path for path in kernels.glob("_native*") if path.suffix in INTERFACE["ENDINGS"].values())


def build_or_tell(root: Path) -> str:
    """Build in place, for an installation, which nothing here may stop; the package keeps what this gives as a file."""
    kernels = root / PACKAGE / "kernels"
    try:
        told = build(root / PACKAGE, root / "build" / "native")
        (kernels / RECORD).write_text(f"{INTERFACE['interface_of'](kernels / 'native')}\n", "utf-8")
    except (BuildError, OSError, ValueError, subprocess.SubprocessError) as error:
        told = str(error)
        with contextlib.suppress(OSError):
            _remove_libraries(kernels)
    with contextlib.suppress(OSError):
        (kernels / REPORT).write_text(told + "\n", "utf-8")
    return told


def _compile(compiler: Compiler, source: Path, objects: Path, variant: str = "portable") -> str:
    """Returns the object of a source, compiled now where there is none of the same sources and flags."""
    arguments = [*compiler.flags, *compiler.flags_of(variant)]
    if source.name == DETECTION:
        arguments.append(f"-DSCRIVEN_INTERFACE={INTERFACE['interface_of'](source.parent)}")
    key = hashlib.sha256(repr((compiler, arguments, _texts_of(source))).encode())
    target = objects / f"{source.stem}-{variant}-{key.hexdigest()[:16]}.o"
    if not target.exists():
        _replace(target, lambda path: compiler.run(*arguments, "-c", str(source), "-o", path))
    return str(target)


def _texts_of(source: Path) -> dict[str, str]:
    """Returns the text of a source and of all headers here that it includes, also by others, by name."""
    texts: dict[str, str] = {}
    wanted = [source]
    while wanted:
        path = wanted.pop()
        if path.name not in texts:
            texts[path.name] = path.read_text("utf-8")
            included = re.findall(r'^#include "([^"]+)"', texts[path.name], re.MULTILINE)
            wanted += [path.parent / name for name in included]
    return texts


def _replace(target: Path, write: Callable[[str], None]) -> None:
    """Let `write` make the file in a folder of its own, then move it: nobody ever sees half of it.

    It has its last name at once, since linkers for Windows write that into it.
    """
    with tempfile.TemporaryDirectory(prefix=f".{os.getpid()}-{target.name}-", dir=target.parent) as folder:
        made = Path(folder) / target.name
        write(str(made))
        made.replace(target)


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
        """Build; a wheel with libraries in it is for this kind of machine, any Python 3."""
        kernels = Path(self.root, PACKAGE, "kernels")
        self.app.display_info(f"native kernels: {build_or_tell(Path(self.root))}")
        libraries = [path.name for path in _libraries(kernels)]
        build_data["artifacts"] += [f"/{PACKAGE.as_posix()}/kernels/{name}" for name in (*libraries, REPORT, RECORD)]
        if libraries:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag(find_compiler())}"


def _platform_tag(compiler: Compiler) -> str:
    """Returns what a wheel says of the systems that it is for: those that a compiler compiles for.

    Raises BuildError where that is another one than this, and there is no tag for it.
    """
    from packaging.tags import sys_tags  # noqa: PLC0415 - comes with hatchling

    if compiler.system == "linux" and compiler.machine in BASELINES:
        return f"linux_{compiler.machine}"
    if compiler.system == "win32" and compiler.machine in WINDOWS_TAGS:
        return WINDOWS_TAGS[compiler.machine]
    oldest = os.environ.get("MACOSX_DEPLOYMENT_TARGET")  # compilers read it too
    if compiler.system == "darwin" and oldest:
        return f"macosx_{oldest.replace('.', '_')}_{compiler.machine.replace('aarch64', 'arm64')}"
    if compiler.system != sys.platform:
        raise BuildError(f"no tag for {compiler.target}; for macOS, name its oldest in MACOSX_DEPLOYMENT_TARGET")
    # "linux_x86_64" and not "manylinux_2_36_x86_64": nothing here has checked where else the library would run.
    tags = (tag.platform for tag in sys_tags())
    return next(tag for tag in tags if not tag.startswith(("manylinux", "musllinux")))


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build the native kernels in place.")
    parser.add_argument("--sanitize", action="store_true", help="build a copy of the package that checks itself")
    parser.add_argument("--check", type=Path, help="build the programs of tests/native there instead")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="build portable and these, and remove others")
    parser.add_argument("--threads", action="store_true", help="with --check: programs that look for data races")
    root, package, extra = Path(__file__).parent, Path(__file__).parent / PACKAGE, ()
    asked = parser.parse_args()
    if asked.sanitize:
        package, extra = root / "build" / "sanitized" / "scriven", tuple(SANITIZE)
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(root / PACKAGE, package, ignore=shutil.ignore_patterns("_native[._]*", ".*", "__pycache__"))
    variants = [name for name in VARIANTS if not asked.only or name in ("portable", *asked.only)]
    try:
        if asked.check:
            print(f"{asked.check}: {build_check(root, asked.check, tuple(RACES) if asked.threads else (), variants)}")
            return
        print(
            f"{package / 'kernels' / library_file('*')}: {build(package, root / 'build' / 'native', extra, variants)}"
        )
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
