"""Readers of files from elsewhere withstand the inputs that fuzzing kept, among them all that was ever found wrong."""

from pathlib import Path

import pytest

from fuzz_targets import TARGETS, deep_inputs

INPUTS = Path(__file__).parent / "fuzz_inputs"
MOST_BYTES = 200_000  # of all inputs kept


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of escapes that one of the encodings does not know
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_withstands_the_inputs_that_are_kept(tmp_path: Path, name: str) -> None:
    kept = sorted((INPUTS / name).iterdir())
    assert kept
    for path in kept:
        try:
            TARGETS[name](path.read_bytes(), tmp_path)
        except Exception as error:
            error.add_note(f"the input is {path}")
            raise


@pytest.mark.parametrize("name", [name for name in TARGETS if any(deep_inputs(name))])
def test_a_reader_withstands_values_as_deep_as_can_be_read(tmp_path: Path, name: str) -> None:
    for data in deep_inputs(name):
        TARGETS[name](data, tmp_path)


def test_the_inputs_that_are_kept_are_few_and_of_readers_that_there_are() -> None:
    kept = [path for path in INPUTS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {*TARGETS}
    assert sum(path.stat().st_size for path in kept) <= MOST_BYTES
