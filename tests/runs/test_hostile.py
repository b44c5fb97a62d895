"""Folders made to do harm are refused in a sentence: no code is run, nothing claimed is allocated, no link followed."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fork_server import PYTHON
from hostile import FILES, HOSTILE, copy_run, good_run, truncate, truncations
from scriven.errors import InputError
from scriven.runs import open_run
from scriven.runs.doctor import examine
from scriven.trained_model import load

resource = pytest.importorskip("resource", reason="this system does not say what memory a process took")
MB = 1_000_000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_run(tmp_path_factory.mktemp("good") / "run").path


def test_a_good_run_is_found_to_be_good(good: Path) -> None:
    assert {finding.state for finding in examine(good)} == {"good"}
    assert load(good).vocabulary.size == 5


def assert_refused(run: Path, *, opens: bool = False) -> None:
    """The doctor says what is wrong; opening the model says it too, but where that does not need what is damaged."""
    bad = [finding for finding in examine(run) if finding.state == "bad"]
    assert bad
    told = [finding.text for finding in bad]
    if not opens:
        with pytest.raises(InputError) as error:
            load(run)
        told.append(str(error.value))
    assert all(len(text) < 2500 for text in told)
    assert all("Traceback" not in text for text in told)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_run(good, tmp_path / "run")
    HOSTILE[name](run)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert_refused(run, opens=name.startswith("training state"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < 200 * MB
    assert not (tmp_path / "scriven-was-fooled").exists()


def test_a_run_cut_short_anywhere_is_refused(good: Path, tmp_path: Path) -> None:
    cases = truncations(good)
    assert {name for name, _ in cases} == set(FILES)
    assert len(cases) > 25
    for name, size in cases:
        run = copy_run(good, tmp_path / "run")
        truncate(name, size)(run)
        assert_refused(run, opens="training" in name)
        shutil.rmtree(run)


def test_settings_cut_short_at_any_byte_are_refused(good: Path) -> None:
    """Also where a line ends, so that what is left is right in itself: what is missing is never made up."""
    whole = (good / "settings.toml").read_bytes()
    try:
        for size in range(len(whole) - 1):  # the last byte is a line end
            (good / "settings.toml").write_bytes(whole[:size])
            with pytest.raises(InputError):
                open_run(good)
    finally:
        (good / "settings.toml").write_bytes(whole)


IN_PROCESSES = [
    "pickle named .safetensors",
    "weights: a sparse file of 10 GB",
    "weights: a name that commands the terminal",
    "settings: the widest and deepest model",
    "vocabulary: as many entries as fit",
]


def test_a_process_that_refuses_them_stays_small(good: Path, tmp_path: Path) -> None:
    """Beyond what importing torch costs; the most memory is that of a good run's doctor, nearly."""
    folders = [good]
    for number, name in enumerate(IN_PROCESSES):
        folders.append(copy_run(good, tmp_path / str(number)))
        HOSTILE[name](folders[-1])
    found = run_doctor(folders, tmp_path)
    assert found[0][0] == 0
    for name, (code, told, peak) in zip(IN_PROCESSES, found[1:], strict=True):
        assert code == 3, name
        assert len(told.strip().splitlines()) == 1, name
        assert "\x1b" not in told and "Traceback" not in told, name
        assert peak - found[0][2] < 200 * MB, name
    assert not (tmp_path / "scriven-was-fooled").exists()


def run_doctor(runs: list[Path], folder: Path) -> list[tuple[int, str, int]]:
    """What `scriven doctor` ended with and said on standard error for each, and the peak memory until then."""
    program = """
import contextlib, io, json, resource, sys
from scriven.cli import main
for run in sys.argv[1:]:
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(["doctor", run])
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""
    words = [*PYTHON, "-c", program, *map(str, runs)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- anything at all in the files that people can read

NAMES = st.sampled_from(
    ["format", "step", "files", "best", "last", "validation", "unit", "symbols", "model", "run", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES[:4]), content=st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_anything_in_a_readable_file_is_refused(good: Path, name: str, content: bytes) -> None:
    whole = (good / name).read_bytes()
    (good / name).write_bytes(content)
    try:
        assert_refused(good)
    finally:
        (good / name).write_bytes(whole)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(FILES[:4]))
def test_a_readable_file_with_something_changed_is_refused_or_read(good: Path, name: str, data: st.DataObject) -> None:
    """Some bytes taken out and others put in: it opens, or it is refused with an error of ours."""
    whole = (good / name).read_bytes()
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(len(whole), begin + 20)))
    (good / name).write_bytes(whole[:begin] + data.draw(st.binary(max_size=8)) + whole[end:])
    try:
        list(examine(good))
        with contextlib.suppress(InputError):
            load(good)
    finally:
        (good / name).write_bytes(whole)


def test_a_folder_that_is_no_run_is_no_run(tmp_path: Path) -> None:
    assert [finding.state for finding in examine(tmp_path)] == ["bad"]
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
