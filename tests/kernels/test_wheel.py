"""What an installer gets: the wheel is built, holds what it should, and works from a folder far from the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import WORDS
from scriven.kernels import native_library
from scriven.kernels.interface import RECORD, library_file

pytest.importorskip("hatchling", reason="building a wheel without a network needs hatchling")
ROOT = Path(__file__).parents[2]
SOURCES = (".cpp", ".h", ".o", ".pyc", ".orig")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
PROGRAM = """
import json, sys
import scriven
from scriven.kernels import native_library as library
small = {"model": {"width": 16}, "reader": {"batch": 4, "length": 16}, "training": {"workers": 1, "threads": 1}}
run = scriven.train("book.txt", output=sys.argv[1], steps=3, settings=small, reports=[])
text = run.load().sample("the ", length=20, seed=1)
print(json.dumps([scriven.__file__, library.level(), library.why(), text]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder, wheel], check=True)
    return folder


def train_and_write(installed: Path, folder: Path, kernels: str = "") -> tuple[str, str, str]:
    """Level, reason and text of a model that the installed package trains in an empty folder, and writes with."""
    folder.mkdir(exist_ok=True)
    (folder / "book.txt").write_text(WORDS * 40, "utf-8")
    command, given = [sys.executable, "-c", PROGRAM, kernels or "all"], os.environ | {"PYTHONPATH": str(installed)}
    given |= {native_library.VARIABLE: kernels, "SCRIVEN_CACHE": str(folder / "cache")}
    file, level, why, text = json.loads(subprocess.check_output(command, cwd=folder, env=given, text=True))
    assert Path(file).is_relative_to(installed)
    return level, why, text


def test_a_wheel_holds_the_package_and_nothing_that_it_was_made_from(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        inside = [Path(name).relative_to("scriven/kernels") for name in names if name.startswith("scriven/kernels/")]
    assert all(name.startswith(("scriven/", "scriven-")) for name in names)
    assert not [name for name in names if name.endswith(SOURCES)]
    package = ROOT / "src" / "scriven"
    assert {name for name in names if name.endswith(".py")} == {
        path.relative_to(ROOT / "src").as_posix() for path in package.rglob("*.py")
    }
    made = {str(path) for path in inside if path.suffix != ".py"}
    libraries = {name for name in map(library_file, native_library.VARIANTS) if (native_library.FOLDER / name).exists()}
    assert made == libraries | ({RECORD} if libraries else set()) | {native_library.REPORT}
    assert wheel.name.endswith("-none-any.whl") != bool(libraries)


@pytest.mark.parametrize("kernels", [pytest.param("off", marks=pytest.mark.thorough), ""])
def test_an_installed_wheel_trains_and_writes(kernels: str, installed: Path, tmp_path: Path) -> None:
    level, why, text = train_and_write(installed, tmp_path, kernels)
    assert (level, why) == (native_library.find(kernels).level, native_library.find(kernels).why)
    assert len(text) == 20


@pytest.mark.parametrize("kernels", native_library.LEVELS)
def test_an_installed_library_has_the_levels_that_it_has_here(kernels: str, installed: Path) -> None:
    found, expected = native_library.find(kernels, installed / "scriven" / "kernels"), native_library.find(kernels)
    assert (found.level, found.why) == (expected.level, expected.why)


@pytest.mark.skipif(native_library.find("").library is None, reason=native_library.find("").why)
def test_an_installed_library_of_another_version_is_refused(installed: Path, tmp_path: Path) -> None:
    record = installed / "scriven" / "kernels" / RECORD
    number = record.read_text("utf-8")
    try:
        record.write_text("1", "utf-8")
        found = native_library.find("", record.parent)
    finally:
        record.write_text(number, "utf-8")
    assert found.library is None and "install scriven again" in found.why
    assert native_library.find("", record.parent).library
