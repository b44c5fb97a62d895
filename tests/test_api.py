"""What a program or a notebook calls."""

import inspect
import pickle
import re
import subprocess
import sys
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scriven
import scriven.trained_model
from scriven.events import Event, Finished, Started

SMALL = {"model": {"width": 16}, "reader": {"batch": 4, "length": 16}, "training": {"workers": 1, "threads": 1}}


class Recorder:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def test_train_load_sample_and_score(book: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    run = scriven.train(book, steps=20, output=tmp_path / "run", settings=SMALL, reports=[recorder])
    assert isinstance(recorder.events[0], Started)
    assert isinstance(recorder.events[-1], Finished)
    assert run.best.nats_per_char < 3.4
    assert not run.interrupted
    model = scriven.load(run.path)
    assert len(model.sample("the ", length=40, temperature=0.8, seed=1)) == 40
    assert "".join(model.stream("the ", length=40, seed=1)) == model.sample("the ", length=40, seed=1)
    assert model.score("the quick brown fox").bits_per_char > 0
    assert model.decode(model.encode("any t\u00e9xt \U0001f600")) == "any t\u00e9xt \U0001f600"
    assert run.load().sample(length=5, seed=1) == model.sample(length=5, seed=1)
    assert re.fullmatch(r"TrainedRun\('.*run', step 20: .* bits per character, .* at step 20\)", repr(run))
    for name in ("metrics.jsonl", "samples.jsonl", "loss.svg"):
        assert (run.path / name).exists()


def test_losses_of_runs_are_a_table_and_a_picture(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scriven.train(book, steps=4, output=tmp_path / "run", settings=SMALL, reports=[])
    assert run.metrics["step"] == [1, 2, 3, 4]
    assert f"{run.best.bits_per_char:.4f} bits/char" in run.plot(by="steps").summary
    assert scriven.plot_runs(run.path, scriven.load(run.path)).summary.count(": best: ") == 2
    monkeypatch.chdir(tmp_path)
    model = scriven.load("run")
    monkeypatch.chdir("/")
    assert run.metrics.rows and (model.metrics, repr(model.metrics)) == (run.metrics, repr(run.metrics))
    assert model.plot(by="steps") == run.plot(by="steps")
    with pytest.raises(scriven.UsageError, match="by 'hours'"):
        model.plot(by="hours")  # type: ignore[arg-type]
    with pytest.raises(scriven.UsageError, match="belongs to no run"):
        scriven.Model(model.predictor, model.settings).metrics  # noqa: B018 - it raises
    with pytest.raises(scriven.UsageError, match="by 'hours'"):
        run.plot(by="hours")  # type: ignore[arg-type]
    with pytest.raises(scriven.UsageError, match="at least one run"):
        scriven.plot_runs()
    with pytest.raises(scriven.InputError, match="not a run folder"):
        scriven.plot_runs(tmp_path)


@pytest.mark.parametrize("wrong", [{"minutes": 1, "steps": 1}, {"settings": {"model": {"widht": 1}}, "steps": 1}])
def test_mistakes_are_explained(book: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(scriven.UsageError):
        scriven.train(book, output=tmp_path / "run", reports=[], **wrong)


def test_errors_of_loading_name_parameters(book: Path, tmp_path: Path) -> None:
    run = scriven.train(book, steps=1, output=tmp_path / "run", settings=SMALL, reports=[])
    assert inspect.signature(scriven.load) == inspect.signature(scriven.trained_model.load)
    with pytest.raises(scriven.InputError, match=r"checkpoint of epoch 3; .* \(keep all keeps those"):
        scriven.load(run.path, which="epoch:3")
    (run.path / "checkpoints" / "index.json").write_text("[]")
    with pytest.raises(scriven.InputError, match="or repair it by resume='last'"):
        scriven.load(run.path)
    with pytest.raises(scriven.InputError, match="or repair it by --resume"):
        scriven.trained_model.load(run.path)  # as commands do


def test_values_are_pickled(book: Path, tmp_path: Path) -> None:
    events = list(scriven.train_events(book, steps=1, output=tmp_path / "run", settings=SMALL))
    model, corpus = scriven.load(tmp_path / "run"), scriven.build_corpus(book)
    batch, _ = next(scriven.iterate_batches(corpus, READER))
    values = [events, model.settings, model.score("the"), list(model.samples(2, length=5, seed=1)), model.vocabulary]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(batch)).ids, batch.ids)
    again = pickle.loads(pickle.dumps((model, corpus)))
    assert [repr(each) for each in again] == [repr(model), repr(corpus)]
    assert again[0].score("the") == model.score("the")
    step = model.session().step("a")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(step)).hidden, step.hidden)


def test_a_run_is_resumed(book: Path, tmp_path: Path) -> None:
    scriven.train(book, steps=2, output=tmp_path / "run", settings=SMALL, reports=[])
    run = scriven.train(steps=4, output=tmp_path / "run", resume="last", reports=[])
    assert run.finished.step == 4


class Stopper(Recorder):
    """A report that ends the training once it has seen some events."""

    def handle(self, event: Event) -> None:
        super().handle(event)
        if isinstance(event, scriven.Stepped) and event.step == 2:
            raise scriven.Stop


def test_a_report_stops_a_training_which_is_saved(book: Path, tmp_path: Path) -> None:
    stopper = Stopper()
    run = scriven.train(book, steps=50, output=tmp_path / "run", settings=SMALL, reports=[stopper])
    assert run.interrupted
    assert run.finished.step == 3
    assert isinstance(stopper.events[-1], scriven.Finished)
    resumed = scriven.train(steps=5, output=run.path, resume="last", reports=[])
    assert (resumed.finished.step, resumed.interrupted) == (5, False)


class Broken(Recorder):
    """A report with a mistake in it."""

    def handle(self, event: Event) -> None:
        raise ZeroDivisionError("no such number")


def test_events_come_one_by_one_and_errors_in_reports_stop_nothing(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    events = list(
        scriven.train_events(book, steps=3, output=tmp_path / "run", settings=SMALL, reports=[Broken(), recorder])
    )
    assert events == recorder.events
    assert isinstance(events[0], scriven.Started)
    assert isinstance(events[-1], scriven.Finished)
    assert [event.step for event in events if isinstance(event, scriven.Stepped)] == [1, 2, 3]
    assert "no such number" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_leaving_the_loop_stops_and_saves(book: Path, tmp_path: Path) -> None:
    for event in scriven.train_events(book, steps=50, output=tmp_path / "run", settings=SMALL):
        if isinstance(event, scriven.Stepped) and event.step == 2:
            break
    assert scriven.load(tmp_path / "run", which="last").step == 3


def test_arguments_of_events_are_checked_at_once(book: Path) -> None:
    with pytest.raises(scriven.UsageError, match="steps True"):
        scriven.train_events(book, steps=True)
    with pytest.raises(scriven.UsageError, match="text is int"):
        scriven.train_events(text=5, steps=1)  # type: ignore[arg-type]
    with pytest.raises(scriven.UsageError, match="give only one of them"):
        scriven.train_events(book, text="abc", steps=1)
    with pytest.raises(scriven.UsageError, match="a document is an int"):
        scriven.train_events(text=[5], steps=1)  # type: ignore[list-item]


def test_a_text_in_memory_is_the_text_of_a_file(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog\n" * 40
    file = tmp_path / "book.txt"
    file.write_text(text, "utf-8")
    settings: dict[str, Any] = {"steps": 2, "settings": SMALL, "reports": []}
    runs = [
        scriven.train(file, output=tmp_path / "file", **settings),
        scriven.train(text=text, output=tmp_path / "memory", **settings),
    ]
    assert runs[0].load().sample(seed=1, length=50) == runs[1].load().sample(seed=1, length=50)
    assert scriven.train(text=text, steps=3, output=runs[1].path, resume="last", reports=[]).finished.step == 3


def test_documents_in_memory_may_have_anything_in_them(tmp_path: Path) -> None:
    documents = (f'line {n}\nand "another"\n' for n in range(100))
    run = scriven.train(text=documents, steps=2, output=tmp_path / "run", settings=SMALL, reports=[])
    model = run.load()
    assert model.vocabulary.boundary is not None
    assert model.score("line 1\nand").ends == 1
    assert model.unknown_characters('"\n') == []


READER = {"batch": 4, "length": 16}


def test_a_model_of_an_own_loop_is_used_as_any_other(book: Path, tmp_path: Path) -> None:
    corpus = scriven.build_corpus(book)
    model = scriven.CharLM(scriven.ModelSettings(width=16), corpus.vocabulary.size)
    optimizer, state = torch.optim.Adam(model.parameters(), 0.01), None
    cursor: Any = 0
    for batch, after in islice(scriven.iterate_batches(corpus, READER), 3):
        cursor = after
        logits, state = model(torch.from_numpy(batch.ids), state)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        state = tuple(tuple(part.detach() for part in layer) for layer in state)
    path = scriven.save_run(model, corpus, tmp_path / "run", step=3, loss=scriven.Score(30.0, 10))
    loaded = scriven.load(path, precision="fp32")
    assert torch.equal(loaded.predictor.model.get_parameter("head.weight"), model.get_parameter("head.weight"))
    assert len(loaded.sample("the ", length=20)) == 20
    following, _ = next(scriven.iterate_batches(corpus, READER, cursor))
    fourth, _ = next(islice(scriven.iterate_batches(corpus, READER), 3, None))
    assert np.array_equal(following.ids, fourth.ids)
    assert scriven.save_run(model, corpus, path, step=5, best=False) == path
    assert (scriven.load(path).step, scriven.load(path, which="last").step) == (3, 5)
    assert repr(corpus).startswith("Corpus('")
    assert repr(corpus.training) == f"Part({corpus.training.characters:,} characters)"


def test_a_run_is_not_saved_over_another_one_or_from_other_weights(book: Path, tmp_path: Path) -> None:
    corpus = scriven.build_corpus(book)
    model = scriven.CharLM(scriven.ModelSettings(width=8), corpus.vocabulary.size)
    path = scriven.save_run(model, corpus, tmp_path / "run", step=1)
    other = scriven.CharLM(scriven.ModelSettings(width=9), corpus.vocabulary.size)
    with pytest.raises(scriven.UsageError, match="is a run with other settings"):
        scriven.save_run(other, corpus, path, step=2)
    with pytest.raises(scriven.UsageError, match="does not fit its own settings"):
        scriven.save_run(scriven.CharLM(scriven.ModelSettings(width=8), 5), corpus, tmp_path / "other", step=1)
    torch.nn.init.constant_(model.get_parameter("head.bias"), float("nan"))
    with pytest.raises(scriven.UsageError, match="not finite"):
        scriven.save_run(model, corpus, path, step=2)


def test_batches_are_those_of_documents_where_the_corpus_has_them() -> None:
    corpus = scriven.build_corpus(text=["one", "two", "three"] * 9, settings={"validation": 0.2})
    batch, _ = next(scriven.iterate_batches(corpus, READER))
    assert corpus.vocabulary.boundary in batch.ids
    with pytest.raises(scriven.UsageError, match="name texts, or give a text"):
        scriven.build_corpus()
    with pytest.raises(scriven.UsageError, match=r"reader\.lenght: there is no such setting"):
        next(scriven.iterate_batches(corpus, {"lenght": 5}))


def test_importing_scriven_takes_no_time() -> None:
    code = "import sys, scriven; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); scriven.load"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(scriven.__all__) >= {"train", "load"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scriven.nonsense


def test_completion_finds_all_public_names_before_they_are_imported() -> None:
    code = "import scriven; print(*dir(scriven)); print(scriven.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    names, version = done.stdout.splitlines()
    assert set(scriven.__all__) <= set(names.split())
    assert version == scriven.__version__ == metadata.version("scriven")


@pytest.mark.parametrize("name", scriven.__all__)
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    assert getattr(scriven, name).__doc__


def test_the_page_on_the_library_names_all_of_it() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    assert [name for name in scriven.__all__ if f"`{name}`" not in page] == []
