"""Every way to read and train ends in the same loop: documents, windows, accumulation, penalties, averages."""

import json
import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from scriven.batches import epoch_predictions, next_batch
from scriven.corpus import Corpus, Part
from scriven.corpus.build import build
from scriven.errors import InputError, UsageError
from scriven.events import Evaluated, Event, Finished, Sampled, Started, Stepped
from scriven.model import CharLM
from scriven.runs import open_run
from scriven.settings import CorpusSettings, ModelSettings, ReaderSettings
from scriven.settings_values import merge_settings, validate
from scriven.training.gradients import slowness
from scriven.training.request import Request
from scriven.training.start import train
from scriven.vocabulary import Vocabulary

SMALL: dict[str, Any] = {
    "model": {"width": 12},
    "reader": {"batch": 4, "length": 8},
    "training": {"workers": 1, "groups": 1, "threads": 1, "evaluations": 2, "precision": "fp32"},
    "budget": {"steps": 12},
    "monitor": {"sample_length": 20, "save_minutes": 0},  # at evaluations alone, however slow the machine is
}
LINES = {"corpus": {"documents": "lines"}}
WINDOWS = {"reader": {"kind": "windows", "stride": 3, "loss": "last"}}
AVERAGED = {"training": {"averaging": "nonmonotonic", "patience": 1, "learning_rate": 2.0, "schedule": "constant"}}


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    words = ["ann", "bo", "christopher", "dee", "e", "francesca", "gil", "hannah"]
    path.write_text("\n".join(a + b for a in words for b in words) + "\n")
    return path


def run(text: Path, output: Path, *over: dict[str, Any], stop: Any = lambda: 0, **more: Any) -> list[Event]:
    values = SMALL
    for each in over:
        values = merge_settings(values, each)
    return list(train(Request((str(text),), validate(values), output, **more), stop))


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def fingerprints(events: list[Event]) -> list[str]:
    return [event.fingerprint for event in of(Stepped, events)]


def weights(path: Path, which: Any = "last") -> dict[str, torch.Tensor]:
    return open_run(path).checkpoint(which).weights()


@pytest.mark.parametrize("way", [LINES, WINDOWS, AVERAGED], ids=["documents", "windows", "averaged"])
def test_resumed_equals_uninterrupted_to_the_bit(names: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    each = {"model": {"dropout": 0.2}, "monitor": {"every_steps": 1}}
    whole = run(names, tmp_path / "whole", way, each)
    asked: list[int] = []

    def stop() -> int:
        asked.append(1)
        return signal.SIGINT if len(asked) >= 8 else 0

    first = run(names, tmp_path / "cut", way, each, stop=stop)
    assert first[-1].reason == "interrupted"  # type: ignore[union-attr]
    rest = list(train(Request(output=tmp_path / "cut", resume="last")))
    assert fingerprints(first) + fingerprints(rest) == fingerprints(whole)
    mine, theirs = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


@pytest.mark.parametrize("way", [LINES, WINDOWS], ids=["documents", "windows"])
def test_the_number_of_workers_changes_nothing(names: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    groups = {"training": {"groups": 2}}
    one = run(names, tmp_path / "one", way, groups)
    two = run(names, tmp_path / "two", way, groups, {"training": {"workers": 2}})
    assert fingerprints(one) == fingerprints(two)
    losses = [[event.loss for event in of(Evaluated, events)] for events in (one, two)]
    for mine, theirs in zip(*losses, strict=True):
        assert (mine.characters, mine.ends) == (theirs.characters, theirs.ends)
        assert mine.total_nats == pytest.approx(theirs.total_nats, rel=1e-5)


def test_ends_of_documents_are_learned_and_counted_beside_the_characters(names: Path, tmp_path: Path) -> None:
    events = run(names, tmp_path / "run", LINES, {"budget": {"steps": 0, "epochs": 2.0}})
    corpus = Corpus.open(open_run(tmp_path / "run").corpus_path)
    assert (corpus.training.documents, corpus.validation.documents) == (57, 7)
    total = sum((event.loss for event in of(Stepped, events)), start=of(Stepped, events)[0].loss.__class__(0.0, 0))
    whole = corpus.training.characters + corpus.training.documents
    assert (total.characters + total.ends, total.ends) == (2 * whole, 2 * 57)  # each document twice, no other
    assert of(Stepped, events)[-1].epochs == 2.0
    final = [event for event in of(Evaluated, events) if event.final]
    assert [event.protocol for event in final] == ["documents"]
    assert (final[0].loss.characters, final[0].loss.ends) == (corpus.validation.characters, 7)
    assert 0 < final[0].loss.end_nats < 7 * math.log(50)
    assert of(Finished, events)


def total(events: list[Event]) -> tuple[int, int]:
    """Characters, and ends of documents, that all steps learned from."""
    losses = [event.loss for event in of(Stepped, events)]
    return sum(loss.characters for loss in losses), sum(loss.ends for loss in losses)


def test_epochs_read_each_document_once_also_where_steps_have_several_batches(names: Path, tmp_path: Path) -> None:
    several = {"training": {"accumulate": 3, "activation_penalty": 1.0}}
    events = run(names, tmp_path / "run", LINES, several, {"budget": {"steps": 0, "epochs": 1.0}})
    training = Corpus.open(open_run(tmp_path / "run").corpus_path).training
    assert total(events) == (training.characters, training.documents)
    more = list(train(Request(output=tmp_path / "run", resume="last", settings=validate({"budget": {"epochs": 3.0}}))))
    assert total(more) == (2 * training.characters, 2 * training.documents)


def costs_alone(model: CharLM, text: Part, vocabulary: Vocabulary) -> dict[tuple[int, ...], float]:
    """The nats of each document (its ids, the end last), read alone and in one go."""
    border, costs = torch.tensor([vocabulary.boundary]), {}
    starts, lengths = text.bounds(np.arange(text.documents))
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        ids = torch.from_numpy(text.read(start, length))
        targets = torch.cat((ids, border))
        logits, _ = model(torch.cat((border, ids))[:, None])
        costs[tuple(targets.tolist())] = float(functional.cross_entropy(logits[:, 0], targets, reduction="sum"))
    return costs


@pytest.mark.parametrize("batch", [1, 5, 8])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_documents_in_a_batch_cost_what_each_costs_alone(names: Path, batch: int, cell: str) -> None:
    """The state is carried through every document, and zeroed for exactly the rows where another one begins."""
    corpus = Corpus.open(build([str(names)], CorpusSettings(documents="lines", validation=0)))
    text, vocabulary = corpus.training, corpus.vocabulary
    torch.manual_seed(1)
    model = CharLM(ModelSettings.model_validate({"width": 9, "cell": cell}), vocabulary.size).eval()
    reader, state, cursor = ReaderSettings(kind="documents", length=4, batch=batch), model.zero_state(batch), 0
    read: list[tuple[list[int], float]] = [([], 0.0)] * batch
    found: dict[tuple[int, ...], float] = {}
    with torch.inference_mode():
        alone = costs_alone(model, text, vocabulary)
        while found.keys() != alone.keys():
            made, cursor = next_batch(text, vocabulary, reader, cursor)  # type: ignore[assignment]
            fresh = None if made.fresh is None else torch.from_numpy(made.fresh)
            logits, state = model(torch.from_numpy(made.ids), state, fresh)
            targets = torch.from_numpy(made.targets)
            nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
            counted = np.ones(made.ids.shape, bool) if made.weights is None else made.weights > 0
            for t, row in zip(*counted.nonzero(), strict=True):
                ids, cost = read[row]
                ids, cost = [*ids, int(targets[t, row])], cost + float(nats[t, row])
                if ids[-1] == vocabulary.boundary:
                    assert cost == pytest.approx(alone[tuple(ids)], rel=1e-4)
                    found[tuple(ids)], ids, cost = cost, [], 0.0
                read[row] = ids, cost
    assert len(found) == text.documents == 64


def test_a_model_of_windows_is_measured_by_windows_alone(names: Path, tmp_path: Path) -> None:
    """Its memory was never carried further than a window: with relu it may grow beyond all numbers there."""
    for name, loss, protocol in (("last", "last", "last-8"), ("every", "every", "window-8")):
        events = run(names, tmp_path / name, WINDOWS, {"reader": {"loss": loss}, "model": {"activation": "relu"}})
        assert {event.protocol for event in of(Evaluated, events)} == {protocol}
        assert [event.final for event in of(Evaluated, events)] == [False, False, True]


@pytest.mark.parametrize("loss", ["last", "every"])
def test_an_epoch_of_windows_is_each_window_once(names: Path, tmp_path: Path, loss: str) -> None:
    """Its last step is smaller where the batch does not divide the number of windows, which the next one is not."""
    epochs = {"reader": {"loss": loss, "batch": 5}, "budget": {"steps": 0, "epochs": 2.0}}
    steps = of(Stepped, run(names, tmp_path / "run", WINDOWS, epochs))
    reader = open_run(tmp_path / "run").settings.reader
    windows = epoch_predictions(Corpus.open(open_run(tmp_path / "run").corpus_path).training, reader)
    windows //= 1 if loss == "last" else 8
    assert windows % 5 and len(steps) == 2 * math.ceil(windows / 5)
    assert sum(step.loss.characters for step in steps) == 2 * windows * (8 if loss == "every" else 1)
    assert (steps[-1].characters, steps[-1].epochs) == (2 * windows * 8, 2.0)


def test_accumulated_batches_make_one_step(names: Path, tmp_path: Path) -> None:
    steps = {"budget": {"steps": 3}}
    two = run(names, tmp_path / "two", WINDOWS, steps, {"training": {"accumulate": 2}})
    one = run(names, tmp_path / "one", WINDOWS, steps, {"reader": {"batch": 8}})
    for mine, theirs in zip(of(Stepped, one), of(Stepped, two), strict=True):
        assert mine.loss.characters == theirs.loss.characters == 8
        assert mine.loss.nats == pytest.approx(theirs.loss.nats, rel=1e-4)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)


def test_gradients_can_be_a_mean_over_documents(names: Path, tmp_path: Path) -> None:
    whole = {"reader": {"length": 64, "pack": False}, "budget": {"steps": 1}}  # every document in one chunk
    by_character = of(Stepped, run(names, tmp_path / "one", LINES, whole))[0]
    by_document = of(Stepped, run(names, tmp_path / "two", LINES, whole, {"training": {"mean": "document"}}))[0]
    assert open_run(tmp_path / "two").settings.reader.pack is False
    loss = by_document.loss
    ratio = (loss.characters + loss.ends) / loss.ends
    assert by_document.gradient_norm == pytest.approx(by_character.gradient_norm * ratio, rel=1e-4)


def test_samples_and_checkpoints_come_as_often_as_asked(names: Path, tmp_path: Path) -> None:
    monitor = {"every_steps": 2, "prompts": ["an", "Xy"], "temperatures": [0.0, 1.0], "sample_length": 5, "keep": "all"}
    events = run(names, tmp_path / "run", LINES, {"monitor": monitor, "budget": {"steps": 6}})
    assert [event.step for event in of(Evaluated, events) if not event.final] == [2, 4, 6]
    samples = [(event.prompt, event.temperature) for event in of(Sampled, events) if event.step == 4]
    assert samples == [("an", 0.0), ("an", 1.0), ("Xy", 0.0), ("Xy", 1.0)]
    opened = open_run(tmp_path / "run")
    assert opened.steps() == [2, 4, 6]
    longer = validate({"budget": {"steps": 5}, "monitor": {"keep": "2"}})
    again = list(train(Request(output=tmp_path / "run", resume=4, settings=longer)))
    assert fingerprints(again) == fingerprints(events)[4:5]
    assert opened.steps() == [4, 5] or opened.index().best in opened.steps()


def test_an_evaluation_each_epoch(names: Path, tmp_path: Path) -> None:
    events = run(names, tmp_path / "run", {"monitor": {"every_epochs": 1.0}, "budget": {"steps": 0, "epochs": 3.0}})
    epochs = {event.step: event.epochs for event in of(Stepped, events)}
    at = [epochs[event.step] for event in of(Evaluated, events) if not event.final]
    assert len(at) == 3
    assert all(number <= reached < number + 0.2 for number, reached in enumerate(at, 1))


def test_training_goes_on_from_an_epoch(names: Path, tmp_path: Path) -> None:
    monitor = {"every_epochs": 1.0, "keep": "all"}
    events = run(names, tmp_path / "run", {"monitor": monitor, "budget": {"steps": 0, "epochs": 3.0}})
    step = next(event.step for event in of(Stepped, events) if event.epochs >= 2)
    with pytest.raises(InputError, match="no checkpoint of epoch 9; it has those of epochs 1, 2, 3"):
        list(train(Request(output=tmp_path / "run", resume="epoch:9")))
    again = list(train(Request(output=tmp_path / "run", resume="epoch:2")))
    assert fingerprints(again) == fingerprints(events)[step:]


def test_slowness_is_measured_within_documents_alone() -> None:
    raw, fresh = torch.randn(5, 3, 4), torch.zeros(5, 3, dtype=torch.bool)
    fresh[0, 1] = fresh[2, 0] = fresh[4, 2] = True
    within = [(raw[t, n] - raw[t - 1, n]).square() for t in range(1, 5) for n in range(3) if not fresh[t, n]]
    assert len(within) == 10
    torch.testing.assert_close(slowness(raw, fresh), torch.stack(within).mean())
    torch.testing.assert_close(slowness(raw, None), (raw[1:] - raw[:-1]).square().mean())
    assert slowness(raw, torch.ones(5, 3, dtype=torch.bool)) == slowness(raw[:1], None) == 0


def test_penalties_on_outputs_make_them_smaller_and_slower(names: Path, tmp_path: Path) -> None:
    steps = {"budget": {"steps": 60}}
    strong = {"training": {"activation_penalty": 50.0, "slowness_penalty": 50.0}}
    sizes = []
    for name, over in (("plain", {}), ("strong", strong)):
        run(names, tmp_path / name, steps, over)
        opened = open_run(tmp_path / name)
        model = CharLM(opened.settings.model, opened.vocabulary.size)
        model.load_state_dict(weights(tmp_path / name))
        with torch.inference_mode():
            raw, _, _ = model.eval().read(torch.arange(8)[:, None])
        sizes.append(float(raw.square().mean()))
    assert sizes[1] < 0.5 * sizes[0]


def test_averaged_weights_are_the_model_once_averaging_has_begun(names: Path, tmp_path: Path) -> None:
    run(names, tmp_path / "run", AVERAGED, {"budget": {"steps": 24}, "monitor": {"every_steps": 1}})
    checkpoint = open_run(tmp_path / "run").checkpoint("last")
    training = checkpoint.training()
    assert int(training["average.count"]) > 1
    model = checkpoint.weights()["embedding.weight"]
    assert not torch.equal(model, training["raw.embedding.weight"])


def test_embeddings_come_from_a_file_or_a_run_and_can_stay_as_they_are(names: Path, tmp_path: Path) -> None:
    symbols = "abcdefghinorst"
    values = torch.randn(len(symbols), 7)
    file = tmp_path / "vectors.safetensors"
    save_file({"embedding": values}, str(file), metadata={"symbols": json.dumps(list(symbols))})
    frozen = {"model": {"embedding": str(file), "freeze_embedding": True}}
    events = run(names, tmp_path / "first", frozen)
    assert any("lacks" in note and "'\\n'" in note for note in of(Started, events)[0].notes)
    opened = open_run(tmp_path / "first")
    assert opened.settings.model.embedding == 7
    kept = weights(tmp_path / "first")["embedding.weight"]
    rows = opened.vocabulary.encode(symbols)
    assert torch.equal(kept[torch.from_numpy(rows)], values)
    run(names, tmp_path / "second", {"model": {"embedding": str(tmp_path / "first")}})
    assert not torch.equal(weights(tmp_path / "second")["embedding.weight"], kept)
    run(names, tmp_path / "onehot", {"model": {"input": "onehot"}})
    with pytest.raises(InputError, match="onehot"):
        run(names, tmp_path / "third", {"model": {"embedding": str(tmp_path / "onehot")}})


def test_what_contradicts_the_text_is_refused_before_anything_is_made(names: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5000"):
        run(names, tmp_path / "run", {"reader": {"kind": "windows", "length": 5000}})
    with pytest.raises(UsageError, match=r"corpus\.documents"):
        run(names, tmp_path / "run", {"reader": {"kind": "documents"}})
    with pytest.raises(UsageError, match="stream cannot read documents"):
        run(names, tmp_path / "run", LINES, {"reader": {"kind": "stream"}})
    folder = build([str(names)], CorpusSettings())
    with pytest.raises(UsageError, match=r"corpus\.documents of"):
        run(folder, tmp_path / "run", LINES)


def test_a_corpus_folder_says_itself_how_it_is_read(names: Path, tmp_path: Path) -> None:
    folder = build([str(names)], CorpusSettings(documents="lines", lowercase=True))
    run(folder, tmp_path / "run")
    settings = open_run(tmp_path / "run").settings
    assert (settings.corpus.documents, settings.reader.kind, settings.corpus.lowercase) == ("lines", "documents", True)


def test_progress_never_falls_and_ends_at_one_whatever_the_reader(names: Path, tmp_path: Path) -> None:
    for name, way in (("lines", LINES), ("windows", WINDOWS)):
        events = of(Stepped, run(names, tmp_path / name, way, {"budget": {"steps": 0, "epochs": 1.5}}))
        assert all(a.progress < b.progress for a, b in pairwise(events))
        assert events[-1].progress == 1


def test_one_hot_models_go_on_from_one_another_symbol_by_symbol(names: Path, tmp_path: Path) -> None:
    onehot = {"model": {"input": "onehot", "width": 12}}
    run(names, tmp_path / "old", onehot, {"budget": {"steps": 60}})
    more = tmp_path / "more.txt"
    more.write_text("#!" + names.read_text())  # new symbols come first, so all columns move
    events = run(more, tmp_path / "new", {"budget": {"steps": 1}}, initial=tmp_path / "old")
    old = run(names, tmp_path / "again", {"budget": {"steps": 1}}, initial=tmp_path / "old")
    losses = [of(Stepped, each)[0].loss.nats_per_char for each in (events, old)]
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    assert losses[0] < 2.8 < math.log(22)
    headless = {"model": {"head": "none", "width": 12}}
    run(names, tmp_path / "headless", headless)
    with pytest.raises(InputError, match="output layer"):
        run(more, tmp_path / "third", initial=tmp_path / "headless")


def test_workers_can_be_given_without_groups(names: Path, tmp_path: Path) -> None:
    """Settings that are fitted later were once checked before: every new run with --training.workers 2 was refused."""
    asked = validate({"training": {"workers": 2}, "model": {"width": 8, "tied": True}, "budget": {"steps": 1}})
    events = list(train(Request((str(names),), asked, tmp_path / "run")))
    assert of(Started, events)[0].workers == 2
    settings = open_run(tmp_path / "run").settings
    assert settings.training.groups == 2


def test_every_checkpoint_that_is_kept_can_be_gone_on_with(names: Path, tmp_path: Path) -> None:
    """A checkpoint's best one was once removed before it."""
    rough = {"learning_rate": 2.0, "schedule": "constant"}
    events = run(names, tmp_path / "run", {"monitor": {"every_steps": 1, "keep": "3"}, "training": rough})
    steps = open_run(tmp_path / "run").steps()
    assert {10, 11, 12} <= set(steps) and len(steps) < 12
    for step in (10, 11):
        longer = validate({"budget": {"steps": 12}, "monitor": {"keep": "all"}})
        again = list(train(Request(output=tmp_path / "run", resume=step, settings=longer)))
        assert fingerprints(again) == fingerprints(events)[step:]


def test_evaluations_go_on_after_their_interval_was_changed(names: Path, tmp_path: Path) -> None:
    run(names, tmp_path / "run", {"monitor": {"every_steps": 1}, "budget": {"steps": 6}})
    other = validate({"budget": {"steps": 12}, "monitor": {"every_steps": 3}})
    events = list(train(Request(output=tmp_path / "run", resume="last", settings=other)))
    assert [event.step for event in of(Evaluated, events) if not event.final] == [9, 12]


def test_what_the_text_does_not_have_is_refused(names: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"reader\.length 23"):
        run(names, tmp_path / "run", LINES, {"training": {"mean": "document"}})
    with pytest.raises(UsageError, match="validation"):
        run(names, tmp_path / "run", AVERAGED, {"corpus": {"validation": 0.0}})
    assert not (tmp_path / "run").exists()


def test_a_run_remembers_where_its_embeddings_came_from(names: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("a 1 2\nb 3 4\n")
    chosen = {"model": {"embedding": str(vectors), "freeze_embedding": True}}
    run(names, tmp_path / "run", chosen)
    assert open_run(tmp_path / "run").origin["embedding"] == str(vectors)
    more = validate(merge_settings(chosen, {"budget": {"steps": 14}}))
    assert of(Stepped, list(train(Request((), more, tmp_path / "run", resume="last"))))
    frozen = run(names, tmp_path / "other", {"model": {"freeze_embedding": True}})
    assert any("random and frozen" in note for note in of(Started, frozen)[0].notes)
    vectors.write_text("\u00e9 1 2\n")
    with pytest.raises(InputError, match="none of the text's"):
        run(names, tmp_path / "third", chosen)
    assert not (tmp_path / "third").exists()
