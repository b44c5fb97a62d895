"""The native libraries: built by the compiler that is there; the best one is loaded, up to the level asked for."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from scriven.errors import UsageError
from scriven.kernels import native_library
from scriven.kernels.interface import library_file

ROOT = Path(__file__).parents[2]
NATIVE = native_library.FOLDER / "native"
LEAST = ("common.h", "calls.h", "cpu.cpp")  # what every library is built from


def _hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    module = sys.modules["hatch_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hatch_build = _hatch_build()
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler here"
)
needs_library = pytest.mark.skipif(native_library.find("").library is None, reason=native_library.find("").why)
needs_scripts = pytest.mark.skipif(os.name == "nt", reason="the fake compiler is a shell script")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the least of native code: what every library has. $CXX is not set."""
    monkeypatch.delenv("CXX", raising=False)
    native = kernels(tmp_path) / "native"
    native.mkdir(parents=True)
    for name in LEAST:
        shutil.copy(NATIVE / name, native)
    return tmp_path


def kernels(root: Path) -> Path:
    return root / "src" / "scriven" / "kernels"


def build(root: Path, source: str = "", name: str = "extra.cpp", variants: tuple[str, ...] = ("portable",)) -> str:
    """Build the libraries of a repository, with one more source."""
    (kernels(root) / "native" / name).write_text(f'#include "common.h"\n{source}\n')
    return str(hatch_build.build(root / "src" / "scriven", root / "objects", variants=variants))


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# What is asked for


@needs_library
@pytest.mark.parametrize("asked", native_library.LEVELS)
def test_the_environment_names_the_highest_level_to_use(asked: str) -> None:
    most = native_library.find("")
    found = native_library.find(asked)
    here = {level for level, needs in native_library.VARIANTS.values() if needs <= most.features}
    lower = native_library.LEVELS[: native_library.LEVELS.index(asked) + 1]
    assert found.level == next(level for level in reversed(lower) if level in here)
    assert (f"SCRIVEN_KERNELS={asked}" in found.why) == (found.level != most.level)
    assert found.features == most.features


def test_off_loads_nothing() -> None:
    found = native_library.find("off")
    assert found.library is None and found.level == "off" and "SCRIVEN_KERNELS=off" in found.why


@pytest.mark.parametrize("asked", ["avx", "AMX", "on", " "])
def test_a_level_that_does_not_exist_is_refused_with_the_choices(asked: str) -> None:
    with pytest.raises(UsageError, match="it can be off, portable, avx2, avx512, avx512bf16, amx, neondot or neonbf16"):
        native_library.find(asked)


@pytest.mark.parametrize(("asked", "told"), [("off", "off ()"), ("portable", "portable ('portable',)")])
@needs_library
def test_the_environment_is_read(asked: str, told: str) -> None:
    code = "from scriven.kernels import native_library as l; print(l.level(), l.levels())"
    environment = {**os.environ, "SCRIVEN_KERNELS": asked}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == told


def test_without_a_library_a_function_cannot_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_native", lambda: native_library.find("off"))
    assert native_library.library() is None and native_library.levels() == ()
    with pytest.raises(RuntimeError, match="scriven_interface needs the native library"):
        native_library.declare("scriven_interface", [])


# What the processor can do


LISTED = {  # by Linux, of each feature
    "avx2": {"avx2", "fma"},
    "avx_vnni": {"avx_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512_vnni": {"avx512_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx": {"amx_tile", "amx_bf16", "amx_int8"},
    "neon_dot": {"asimddp"},
    "neon_bf16": {"bf16"},
}
REQUEST_TILES = (158, 0x1023, 18)  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
needs_list = pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor is looked up in Linux' list")


def features_listed() -> frozenset[str]:
    flags = set(Path("/proc/cpuinfo").read_text("utf-8").split("\n\n", 1)[0].split())
    return frozenset(name for name, needed in LISTED.items() if needed <= flags)


@needs_library
@needs_list
def test_features_are_those_that_the_system_lists() -> None:
    found = native_library.find("").features
    assert found <= features_listed()
    missing = features_listed() - found
    assert (
        not missing or "did not know" in native_library.find("").why or missing == {"amx"}
    )  # the system may refuse tiles


@needs_compiler
@needs_list
def test_no_level_of_this_processor_is_skipped() -> None:
    """Kernels' tests skip levels that are not there: this one fails where the processor has them all the same."""
    here, found = features_listed(), native_library.find("")
    if "amx" in here and ctypes.CDLL(None).syscall(*REQUEST_TILES):
        here -= {"amx"}  # the system refuses tiles
    best = native_library._best_variant(here, native_library.VARIANTS)
    assert found.level == native_library.VARIANTS[best][0], found.why


@pytest.mark.parametrize(
    ("features", "variant"),
    [
        ("", "portable"),
        ("avx2", "avx2"),
        ("avx2 avx_vnni", "avxvnni"),
        ("avx2 avx512", "avx2"),  # Skylake-X: AVX-512 without VNNI
        ("avx2 avx512 avx512_vnni", "avx512"),
        ("avx2 avx512 avx512_vnni avx512_bf16", "avx512bf16"),
        ("avx2 avx512 avx512_vnni amx", "avx512"),
        ("avx2 avx512 avx512_vnni avx512_bf16 amx", "amx"),
        ("avx512 avx512_vnni avx512_bf16 amx", "portable"),
        ("neon_dot", "neondot"),
        ("neon_dot neon_bf16", "neonbf16"),
    ],
)
def test_a_processor_has_all_that_the_best_library_needs(features: str, variant: str) -> None:
    assert native_library._best_variant(frozenset(features.split()), native_library.VARIANTS) == variant


@pytest.mark.parametrize(
    ("built", "most", "variant"),
    [
        ("portable avx2 avx512", "amx", "avx512"),  # a compiler without AMX
        ("portable avx2 avx512 avx512bf16 amx", "avx512bf16", "avx512bf16"),
        ("portable", "amx", "portable"),
        ("portable avx2 avxvnni avx512 amx", "avx2", "avxvnni"),
        ("portable avx2 avxvnni avx512 amx", "portable", "portable"),
        ("portable neondot neonbf16", "neondot", "neondot"),
        ("portable neondot neonbf16", "amx", "portable"),
    ],
)
def test_a_better_library_that_was_not_built_or_asked_for_is_not_taken(built: str, most: str, variant: str) -> None:
    features = frozenset(native_library.FEATURES)
    assert native_library._best_variant(features, built.split(), most) == variant


def test_the_build_and_the_package_name_the_same_libraries() -> None:
    assert list(hatch_build.VARIANTS) == list(native_library.VARIANTS)
    assert {level for level, _ in native_library.VARIANTS.values()} == set(native_library.LEVELS)


# What is in the libraries


WIDTH = """
#if defined(__AVX512F__)
SCRIVEN_API int64_t width() { return 512; }
#elif defined(__AVX2__)
SCRIVEN_API int64_t width() { return 256; }
#else
SCRIVEN_API int64_t width() { return 0; }
#endif
"""


@needs_compiler
def test_each_source_is_compiled_for_each_library(root: Path) -> None:
    told = build(root, WIDTH, variants=("portable", "avx2", "amx"))
    for variant, width in (("portable", 0), ("avx2", 256), ("amx", 512)):
        path = kernels(root) / library_file(variant)
        assert path.exists() == (variant in told)
        assert not path.exists() or ctypes.CDLL(str(path))["width"]() == width


@needs_compiler
def test_what_detects_the_processor_is_portable_in_every_library(root: Path) -> None:
    detection = kernels(root) / "native" / hatch_build.DETECTION
    detection.write_text(detection.read_text() + WIDTH)
    told = build(root, variants=("portable", "amx"))
    for variant in ("portable", "amx"):
        path = kernels(root) / library_file(variant)
        assert variant not in told or ctypes.CDLL(str(path))["width"]() == 0


@needs_compiler
def test_what_asks_for_no_more_instructions_is_compiled_for_the_first_library_alone(root: Path) -> None:
    build(root, "// whoever asks for __AVXVNNI__", "own.cpp")
    told = build(root, variants=("avx2", "avxvnni"))
    objects = {path.name.rpartition("-")[0] for path in (root / "objects").iterdir()}
    assert "extra-avxvnni" not in objects
    assert ("own-avxvnni" in objects) == ("avxvnni" in told)


def test_variants_share_code_only_with_those_whose_flags_they_have() -> None:
    for variant, (base, _) in hatch_build.EXTENDED.items():
        assert list(hatch_build.VARIANTS).index(base) < list(hatch_build.VARIANTS).index(variant)
        assert native_library.VARIANTS[base][1] < native_library.VARIANTS[variant][1]


@needs_compiler
def test_libraries_that_are_not_built_again_are_removed(root: Path) -> None:
    for name in (library_file("amx"), f"_native{Path(library_file('amx')).suffix}"):
        (kernels(root) / name).write_text("of other sources")
    build(root)
    assert [path.name for path in kernels(root).glob("_native*")] == [library_file("portable")]


@needs_compiler
def test_a_status_becomes_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(root, "SCRIVEN_API int64_t scriven_status(int64_t status) { return status; }")
    monkeypatch.setattr(native_library, "_native", lambda: native_library.find("", kernels(root)))
    function = native_library.declare("scriven_status", [ctypes.c_int64])
    assert function(0) == 0
    with pytest.raises(RuntimeError, match="scriven_status failed: not enough memory"):
        function(2)
    assert native_library.declare("scriven_status", [ctypes.c_int64], ctypes.c_int64)(2) == 2
    with pytest.raises(RuntimeError, match="has no scriven_nothing"):
        native_library.declare("scriven_nothing", [])


@needs_compiler
def test_bf16_is_rounded_as_torch_rounds_it(root: Path) -> None:
    build(
        root,
        """
SCRIVEN_API void round_trip(const float *from, float *to, uint16_t *bits, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = scriven::float_of_bf16(bits[i] = scriven::bf16_of_float(from[i]));
}
""",
    )
    loaded = native_library.find("", kernels(root)).library
    assert loaded
    loaded.round_trip.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
    random = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int32).view(torch.float32)
    some = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3.4e38, 1e-45, 1 + 2**-8, 1 + 3 * 2**-8])
    numbers = torch.cat([random, some])
    back, bits = torch.empty_like(numbers), torch.empty(len(numbers), dtype=torch.int16)
    loaded.round_trip(numbers.data_ptr(), back.data_ptr(), bits.data_ptr(), len(numbers))
    wanted = numbers.bfloat16()
    torch.testing.assert_close(back, wanted.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(bits[~numbers.isnan()], wanted.view(torch.int16)[~numbers.isnan()])


@needs_compiler
def test_denormals_are_zero_inside_and_stay_numbers_outside(root: Path) -> None:
    build(
        root,
        """
SCRIVEN_API int64_t scriven_halves(float *number) {
    volatile float half = 0.5f;
    number[1] = number[0] * half;
    {
        scriven::FlushDenormals flush;
        volatile float inside = number[0];
        number[2] = inside * half;
        volatile float denormal = number[1];
        number[3] = denormal + denormal;
    }
    volatile float after = number[0];
    number[4] = after * half;
    return 0;
}
""",
    )
    loaded = native_library.find("", kernels(root)).library
    assert loaded
    number = (ctypes.c_float * 5)(1.2e-38)  # the smallest normal numbers: half of it is not one
    loaded["scriven_halves"](number)
    assert number[1] == number[4] > 0 == number[2] == number[3]


# What the build does where it cannot


def _reason_without_library(root: Path) -> str:
    found = native_library.find("", kernels(root))
    assert found.library is None and found.level == "off"
    return found.why


def test_without_a_compiler_the_package_says_why_it_is_slower(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "never built" in _reason_without_library(root)
    (kernels(root) / library_file("portable")).write_text("of other sources")
    monkeypatch.setenv("PATH", str(root))
    hatch_build.build_or_tell(root)
    assert _reason_without_library(root).startswith("none, which is slower: no C++ compiler was found")


@needs_scripts
def test_a_compiler_that_fails_does_not_stop_the_installation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body, reason in (
        ("one", "exit 1", "--version fails"),
        ("two", "echo fake 1.0; case $* in *-c*) echo 'cpu.cpp:1: error: no disk' >&2; exit 1; esac", "no disk"),
        ("three", "echo fake 1.0; case $* in *-c*) exit 3; esac", "it ended with 3"),
    ):
        monkeypatch.setenv("CXX", script(root / name, body))
        hatch_build.build_or_tell(root)
        assert reason in _reason_without_library(root)
    monkeypatch.setenv("CXX", str(root / "nowhere"))
    assert "does not start" in hatch_build.build_or_tell(root)


@needs_compiler
@needs_scripts
def test_instructions_that_the_compiler_does_not_know_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    monkeypatch.setenv("CXX", script(root / "old", f'case "$*" in *-mavx*) exit 1; esac\nexec {real} "$@"'))
    told = build(root, variants=tuple(hatch_build.VARIANTS))
    assert told.endswith(" for portable")
    found = native_library.find("", kernels(root))
    assert found.level == "portable" and not found.features
    best = native_library.find("").level
    assert best == "off" or ("did not know" in found.why) == (best != "portable")


@needs_compiler
def test_a_wrong_source_is_named_and_leaves_the_older_library(root: Path) -> None:
    build(root)
    before = (kernels(root) / library_file("portable")).read_bytes()
    with pytest.raises(hatch_build.BuildError, match=r"extra\.cpp:2:.* error"):
        build(root, "this is not C++")
    assert (kernels(root) / library_file("portable")).read_bytes() == before
    assert not list(root.rglob(".*-*"))


@needs_compiler
def test_only_what_changed_is_compiled_again(root: Path) -> None:
    build(root)
    first = {path.name for path in (root / "objects").iterdir()}
    build(root)
    assert {path.name for path in (root / "objects").iterdir()} == first
    build(root, "// changed")
    second = {path.name for path in (root / "objects").iterdir()}
    assert first < second and len(second) == 3
    header = kernels(root) / "native" / "other.h"
    for number in range(2):  # only the source that includes it is compiled again
        header.write_text(f"// {number}\n")
        build(root, '#include "other.h"')
        assert len(list((root / "objects").iterdir())) == 4 + number


@needs_compiler
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("extra.cpp", lambda text: text.replace("int64_t number", "int64_t *number")),
        ("extra.cpp", lambda text: text.replace("scriven_some", "scriven_other")),
        ("common.h", lambda text: text.replace("no_memory = 2", "no_memory = 3")),
        ("calls.h", lambda text: text.replace("const float *h, *c;", "const float *c, *h;")),
    ],
)
def test_a_library_of_another_interface_is_refused(root: Path, name: str, change: Callable[[str], str]) -> None:
    build(root, "SCRIVEN_API int64_t scriven_some(int64_t number) { return number != 0; }")
    assert native_library.find("", kernels(root)).library
    source = kernels(root) / "native" / name
    assert change(source.read_text()) != source.read_text()
    source.write_text(change(source.read_text()))
    assert "was built from sources of another version; build it again" in _reason_without_library(root)


@needs_compiler
def test_other_work_behind_the_same_interface_is_taken(root: Path) -> None:
    build(root, "SCRIVEN_API int64_t scriven_some(int64_t number) { return number; }")
    source = kernels(root) / "native" / "extra.cpp"
    source.write_text(
        source.read_text().replace("return number", "return -number").replace("(int64_t", "(\n    int64_t")
    )
    assert native_library.find("", kernels(root)).library


@needs_compiler
def test_an_installed_library_is_compared_with_what_its_build_wrote_down(root: Path) -> None:
    hatch_build.build_or_tell(root)
    shutil.rmtree(kernels(root) / "native")  # as in a wheel
    record = kernels(root) / hatch_build.RECORD
    number = int(record.read_text())
    assert native_library.find("", kernels(root)).library
    for other in (str(number + 1), "no number", ""):
        record.write_text(other)
        assert "another version; install scriven again" in _reason_without_library(root)
    record.unlink()
    assert record.name in _reason_without_library(root)


def test_a_damaged_library_is_a_reason_and_no_error(root: Path) -> None:
    (kernels(root) / library_file("portable")).write_bytes(b"\x7fELF and nothing else")
    assert library_file("portable") in _reason_without_library(root)


# What the installer gets


@needs_compiler
def test_a_wheel_with_a_library_is_for_one_kind_of_machine(root: Path) -> None:
    app = SimpleNamespace(display_info=lambda text: None)
    data: dict[str, object] = {"artifacts": []}
    hatch_build.NativeKernels.initialize(SimpleNamespace(root=str(root), app=app), "standard", data)
    libraries = [path.name for path in kernels(root).glob("_native_*") if path.suffix in (".so", ".dylib", ".dll")]
    made = (*libraries, hatch_build.REPORT, hatch_build.RECORD)
    assert library_file("portable") in libraries and data["pure_python"] is False
    assert sorted(data["artifacts"]) == sorted(f"/src/scriven/kernels/{name}" for name in made)  # type: ignore[call-overload]
    assert str(data["tag"]).startswith("py3-none-") and "manylinux" not in str(data["tag"])
    assert native_library.find("", kernels(root)).library


def compiler_for(target: str, version: str = "clang version 22.1.8") -> Any:
    return hatch_build.Compiler(("c++",), version, (), target)


@pytest.mark.parametrize(
    ("target", "tag", "library"),
    [
        ("x86_64-linux-gnu", "linux_x86_64", "_native_portable.so"),
        ("aarch64-linux-gnu", "linux_aarch64", "_native_portable.so"),
        ("arm64-apple-darwin24.1.0", "macosx_11_0_arm64", "_native_portable.dylib"),
        ("aarch64-unknown-macos.11.0", "macosx_11_0_arm64", "_native_portable.dylib"),
        ("x86_64-unknown-macos.11.0", "macosx_11_0_x86_64", "_native_portable.dylib"),
        ("x86_64-w64-mingw32", "win_amd64", "_native_portable.dll"),
        ("aarch64-unknown-windows-gnu", "win_arm64", "_native_portable.dll"),
    ],
)
def test_a_wheel_is_for_what_its_compiler_compiles_for(
    target: str, tag: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "11.0")
    compiler = compiler_for(target)
    assert hatch_build._platform_tag(compiler) == tag
    assert library_file("portable", compiler.system) == library


def test_a_wheel_for_another_system_names_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MACOSX_DEPLOYMENT_TARGET", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(hatch_build.BuildError, match="MACOSX_DEPLOYMENT_TARGET"):
        hatch_build._platform_tag(compiler_for("aarch64-unknown-macos"))


@needs_scripts
@pytest.mark.parametrize(("target", "asked"), [("x86_64-w64-mingw32", True), ("x86_64-linux-gnu", False)])
def test_gpp_for_windows_takes_no_stack_to_be_aligned(
    target: str, asked: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = f'case "$1" in --version) echo "g++ 14";; *) echo {target};; esac'
    monkeypatch.setenv("CXX", script(root / "fake", answers))
    assert (hatch_build.UNALIGNED_MOVES in hatch_build.find_compiler().flags) == asked


@pytest.mark.parametrize("variant", ["neondot", "neonbf16"])
def test_zig_adds_features_of_arm64_to_its_baseline(variant: str) -> None:
    zig = replace(compiler_for("aarch64-unknown-macos"), flags=(hatch_build.ZIG_BASELINE,))
    (flag,) = compiler_for("aarch64-linux-gnu").flags_of(variant)
    assert flag.startswith("-march=armv8.2-a+dotprod")
    assert zig.flags_of(variant) == [flag.replace("-march=armv8.2-a", hatch_build.ZIG_BASELINE)]
    assert zig.flags_of("avx2") == hatch_build.VARIANTS["avx2"]


def test_no_kernel_calls_a_function_that_systems_round_in_their_own_ways() -> None:
    function = r"(?:exp(?:2|m1)?|log(?:2|10|1p)?|pow|a?(?:sin|cos|tan)h?|cbrt|hypot)f?"
    called = re.compile(rf"\b(?:std::|__builtin_){function}\(")
    assert called.search("x = std::exp(y)")
    assert [path.name for path in sorted(NATIVE.iterdir()) if called.search(path.read_text("utf-8"))] == []


@needs_scripts
def test_a_wheel_without_a_library_is_for_all_machines(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(root / "none", "exit 1"))
    app = SimpleNamespace(display_info=lambda text: None)
    data: dict[str, object] = {"artifacts": []}
    hatch_build.NativeKernels.initialize(SimpleNamespace(root=str(root), app=app), "editable", data)
    assert data.keys() == {"artifacts"}
