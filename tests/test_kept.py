"""The file-format promise (docs/formats.md): runs and corpora of every version that was kept open in this one.

tests/kept has a run and a corpus of book.txt by the first version, by the one of a few hours later, whose formats are
those of today, and by the last one of 0.1. They came from `scriven train book.txt --steps 6` with a width of 8.
"""

import json
import shutil
from pathlib import Path

import pytest

from conftest import Command
from scriven.model.precision import bf16_speedup
from scriven.trained_model import load

KEPT = Path(__file__).parent / "kept"
WORDS = "the quick brown fox jumps over the lazy dog and then sits down by the river to think about it all\n"
TEXT = (WORDS * 60)[:3000]
RUNS = {"run-0.1.0-first": 3.290755, "run-0.1.0-early": 3.290625, "run-0.1.0": 3.290625}  # to nats per character
READABLE = ["corpus-0.1.0-early", "corpus-0.1.0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that is kept, with the text, as the current folder."""
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    (tmp_path / "book.txt").write_text(TEXT, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("run", "expected"), RUNS.items())
def test_a_kept_run_scores_and_writes_as_it_did(run: str, expected: float) -> None:
    model = load(KEPT / run, device="cpu", precision="fp32")
    assert model.score(TEXT).nats_per_char == pytest.approx(expected, abs=2e-6)
    assert len(model.sample("the ", length=20, seed=1)) == 20


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_wrong_with_a_kept_run(run: str, folder: Path, command: Command) -> None:
    assert command("doctor", run).code == 0
    assert command("info", run).code == 0


@pytest.mark.parametrize("run", ["run-0.1.0-early", "run-0.1.0"])
def test_the_training_of_a_kept_run_is_continued(run: str, folder: Path, command: Command) -> None:
    """It was trained in bf16. A processor without bf16 says so, and continues it in fp32."""
    resume = ["train", "--resume", "-o", run, "--steps", "8", "--quiet"]
    if not bf16_speedup():
        refused = command(*resume)
        assert refused.code == 2 and "use fp32 (--precision fp32), also to resume a training" in refused.err
        resume += ["--precision", "fp32"]
    done = command(*resume)
    assert done.code == 0, done.err
    assert json.loads((folder / run / "checkpoints" / "index.json").read_text("utf-8"))["last"] == 8


def test_a_model_of_the_first_version_begins_a_new_training(folder: Path, command: Command) -> None:
    """It names its text by a hash that later versions take in another way, so that it is not resumed."""
    refused = command("train", "--resume", "-o", "run-0.1.0-first", "--steps", "8")
    assert refused.code == 3 and "start a new run from its model with --from run-0.1.0-first" in refused.err
    small = ["--reader.batch", "2", "--reader.length", "8", "--training.workers", "1"]
    begun = command("train", "book.txt", "--from", "run-0.1.0-first", "--steps", "2", "-o", "new", "--quiet", *small)
    assert begun.code == 0, begun.err


@pytest.mark.parametrize("corpus", READABLE)
def test_a_kept_corpus_has_its_text(corpus: str, folder: Path, command: Command) -> None:
    assert "3,000" in command("corpus", "info", corpus).out
    assert command("doctor", corpus).code == 0


def test_a_corpus_of_the_first_version_is_to_be_built_again(command: Command) -> None:
    done = command("corpus", "info", str(KEPT / "corpus-0.1.0-first"))
    assert done.code == 3 and "has format 1, not 2 or 3; build the corpus again" in done.err
