"""A model of counts alone: made from the training text in one go, kept as a run, used as any other model."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scriven import load, load_session
from scriven.corpus.store import Corpus
from scriven.errors import InputError, Interrupted, UsageError
from scriven.events import Evaluated, Finished, Saved, Started
from scriven.kernels import native_library
from scriven.runs import open_run
from scriven.runs.doctor import examine
from scriven.runs.ngrams import COUNTS_FILE
from scriven.settings_values import validate
from scriven.trained_model import Model
from scriven.training.mixing import count_text
from scriven.training.request import Request
from scriven.training.start import train

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")

POEM = "The cat sat on the mat, and the rat sat on the cat.\nA bat spat at the fat cat; that was that.\n"
READERS: dict[str, dict[str, Any]] = {
    "stream": {},
    "documents": {"corpus": {"documents": "lines"}},
    "bytes": {"corpus": {"unit": "byte"}},
    "windows": {"reader": {"kind": "windows", "length": 12}},
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "poem.txt"
    path.write_text(POEM * 40 + "Zebras end it.\n")
    return path


def counted(text: Path, output: Path, **over: Any) -> list[Any]:
    settings = validate({"model": {"kind": "counts"}, "monitor": {"sample_length": 20}} | over)
    return list(train(Request((str(text),), settings, output)))


def made(text: Path, output: Path, **over: Any) -> Model:
    counted(text, output, **over)
    return load(output)


@pytest.mark.parametrize("name", READERS)
def test_a_model_of_counts_is_made_measured_and_used(name: str, text: Path, tmp_path: Path) -> None:
    events = counted(text, tmp_path / "run", **READERS[name])
    started, *_, finished = events
    assert isinstance(started, Started)
    assert (started.name, started.parameters) == ("counts", 0)
    assert isinstance(finished, Finished)
    assert [event.step for event in events if isinstance(event, Saved)] == [1]
    finals = [event for event in events if isinstance(event, Evaluated) and event.final]
    assert finals
    assert all(event.loss.bits_per_char < 1.5 for event in finals)
    model = load(tmp_path / "run")
    corpus = Corpus.open(open_run(tmp_path / "run").corpus_path)
    table, _ = count_text(corpus)
    kept = open_run(tmp_path / "run").counts()
    assert kept is not None
    assert all(np.array_equal(kept.arrays[each], table.arrays[each]) for each in table.arrays)
    assert repr(model).startswith("Model(counts")
    written = model.sample("The cat", length=60, seed=1, until_end=False)
    assert len(written) == 60
    assert next(iter(model.samples(3, "The cat", length=60, seed=1, until_end=False))) == written
    score = model.score("The cat sat on the mat.\n")
    assert score.bits_per_char < 1
    assert model.score("Quiz€").unseen >= (0 if name == "bytes" else 1)
    assert np.isfinite(model.score("Quiz€").bits_per_char)


def test_scores_are_those_of_the_table(text: Path, tmp_path: Path) -> None:
    model, kept = made(text, tmp_path / "run"), open_run(tmp_path / "run").counts()
    assert kept is not None
    ids = model.encode("\nThe mat sat on the bat; " * 500)
    nats = np.concatenate([piece.nats for piece in model.surprisals([model.decode(ids[1:])])])
    assert nats == pytest.approx(kept.score(ids[None], first=1)[0], abs=2e-6)


def test_a_document_is_scored_alone(text: Path, tmp_path: Path) -> None:
    model = made(text, tmp_path / "run", corpus={"documents": "lines"})
    both = model.score("The cat sat.\nA bat spat.\n")
    alone = [model.score(line) for line in ("The cat sat.\n", "A bat spat.\n")]
    assert both.total_nats == pytest.approx(sum(each.total_nats for each in alone), abs=1e-5)
    assert all(text.ended for text in model.samples(5, seed=2, until_end=True, length=500))


def test_sessions_remember_the_last_characters(text: Path, tmp_path: Path) -> None:
    model = made(text, tmp_path / "run")
    one, other = model.session(seed=1), model.session(seed=1)
    one.read("The cat sat on the m")
    for letter in "The cat sat on the m":
        other.read(letter)
    assert np.array_equal(one.next(), other.next())
    assert model.decode([int(one.next().argmax())]) == "a"
    assert abs(one.next().sum() - 1) < 1e-6
    fork, one_path = one.fork(), tmp_path / "session"
    one.save(one_path)
    texts = {"".join(each.write(50)) for each in (fork, one, load_session(one_path), pickle.loads(pickle.dumps(fork)))}
    assert len(texts) == 1
    (other_text := tmp_path / "other.txt").write_text("Entirely other words, again and again. " * 100)
    counted(other_text, tmp_path / "other")
    with pytest.raises(InputError, match="other weights"):
        load_session(one_path, load(tmp_path / "other"))


def test_only_the_training_part_is_counted(text: Path, tmp_path: Path) -> None:
    model = made(text, tmp_path / "run")
    assert "Z" not in model.vocabulary.decode(range(model.vocabulary.size))
    table = open_run(tmp_path / "run").counts()
    corpus = Corpus.open(open_run(tmp_path / "run").corpus_path)
    assert table is not None
    assert corpus.validation.characters > 300
    assert table.arrays["counts"].size > 100


def test_a_damaged_file_is_found(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    counted(text, run)
    assert {finding.state for finding in examine(run)} == {"good"}
    good = (run / COUNTS_FILE).read_bytes()
    for place in (20, 400, len(good) // 2, len(good) - 3):
        (run / COUNTS_FILE).write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load(run)
        assert "bad" in {finding.state for finding in examine(run)}
    (run / COUNTS_FILE).write_bytes(good[:-1])
    with pytest.raises(InputError, match="bytes, but"):
        load(run)
    (run / COUNTS_FILE).unlink()
    with pytest.raises(InputError, match="cannot read"):
        load(run)
    (run / COUNTS_FILE).symlink_to(text)
    with pytest.raises(InputError, match="symbolic link"):
        load(run)


@pytest.mark.parametrize(
    "change",
    [
        {"table": torch.tensor([2, 27, -1, 8])},
        {"table": torch.tensor([1, 300, -1, 8])},
        {"table": torch.tensor([1.0])},
        {"table": None},
        {"nodes": None},
        {"nodes": torch.zeros(63, dtype=torch.uint8)},
        {"nodes": torch.zeros(64, dtype=torch.int64)},
        {"levels": torch.zeros(240, dtype=torch.uint8)},
        {"discounts": torch.zeros(864, dtype=torch.uint8)},
        {"more": torch.zeros(1)},
    ],
    ids=lambda change: "-".join(f"{name}" for name in change),
)
def test_a_hostile_file_is_refused(change: dict[str, torch.Tensor | None], text: Path, tmp_path: Path) -> None:
    """Its hash is right: somebody has made both."""
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    counted(text, run)
    tensors = load_file(run / COUNTS_FILE)
    save_file({name: value for name, value in (tensors | change).items() if value is not None}, run / COUNTS_FILE)
    data, settings = (run / COUNTS_FILE).read_bytes(), (run / "settings.toml").read_text()
    before = open_run(run).origin["counts"]
    settings = settings.replace(before["sha256"], hashlib.sha256(data).hexdigest())
    (run / "settings.toml").write_text(settings.replace(f"bytes = {before['bytes']}", f"bytes = {len(data)}"))
    with pytest.raises(InputError, match="damaged"):
        open_run(run).counts()


def test_settings_without_a_table_are_refused(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    counted(text, run)
    settings = (run / "settings.toml").read_text()
    (run / "settings.toml").write_text(settings[: settings.index("[run.counts]")])
    with pytest.raises(InputError, match="it names none"):
        open_run(run).counts()
    (run / "settings.toml").write_text(settings.replace("sha256 = ", 'sha256 = "x" # '))
    with pytest.raises(InputError, match="damaged"):
        open_run(run)


def test_what_makes_no_sense_for_counts_is_refused(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(text, tmp_path / "run")
    settings = validate({"model": {"kind": "counts"}})
    with pytest.raises(UsageError, match="cannot be resumed"):
        list(train(Request((str(text),), settings, tmp_path / "run", resume="last")))
    with pytest.raises(UsageError, match="nothing to resume"):
        list(train(Request((), validate({"budget": {"steps": 3}}), tmp_path / "run", resume="last")))
    with pytest.raises(Interrupted):
        list(train(Request((str(text),), settings, tmp_path / "stopped"), lambda: 15))
    assert not (tmp_path / "stopped" / "settings.toml").exists()
    with pytest.raises(UsageError, match="already has a run"):
        counted(text, tmp_path / "run")
    monkeypatch.setattr(native_library, "_native", lambda: native_library.find("off"))
    with pytest.raises(UsageError, match="needs native code"):
        counted(text, tmp_path / "off")
    with pytest.raises(InputError, match="needs native code"):
        load(tmp_path / "run")


def test_a_text_without_validation(tmp_path: Path) -> None:
    (path := tmp_path / "short.txt").write_text("abc")
    events = counted(path, tmp_path / "run", corpus={"validation": 0.0})
    assert not [event for event in events if isinstance(event, Evaluated)]
    assert len(load(tmp_path / "run").sample(length=9, seed=1)) == 9
    assert json.loads((tmp_path / "run" / "checkpoints" / "index.json").read_text())["best"] == 1
