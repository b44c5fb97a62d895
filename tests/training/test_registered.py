"""Cells and optimizers that a program registers are trained, saved, resumed and used as Scriven's own."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import scriven
from conftest import Command
from live_server import serving
from own_parts import REGISTER, HandLSTM, Lion
from scriven.model import choose_backend
from scriven.model.cells import RecurrentLayer, make_layer
from scriven.model.reference_cells import RegisteredLayer
from scriven.runtime import IMPORTS
from scriven.settings import REGISTERED_CELLS, ModelSettings, TrainingSettings
from scriven.training.optimizer import FlatWeights, Optimizer
from served_models import guarded_app

SMALL: dict[str, Any] = {
    "model": {"width": 16, "layers": 2, "cell": "hand-lstm"},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "threads": 1, "optimizer": "lion", "precision": "fp32"},
    "monitor": {"every_steps": 2, "sample_length": 20},
}


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is imported in a test is imported anew in the others."""
    monkeypatch.setenv(IMPORTS, "")
    monkeypatch.delitem(sys.modules, "lab_cells", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that registers; the current one."""
    (tmp_path / "lab_cells.py").write_text(REGISTER, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def imported(lab: Path) -> Path:
    """The same, with the module imported."""
    sys.path.insert(0, str(lab))
    importlib.import_module("lab_cells")
    return lab


class StopAtTwo:
    """Ends a training after its second step."""

    def handle(self, event: scriven.Event) -> None:
        if isinstance(event, scriven.Stepped) and event.step == 2:
            raise scriven.Stop

    def close(self) -> None:
        pass


def train_run(
    book: Path, output: str, reports: Sequence[scriven.Report] = (), steps: int = 6, **changed: dict[str, Any]
) -> scriven.TrainedRun:
    settings = {section: values | changed.get(section, {}) for section, values in SMALL.items()}
    return scriven.train(book, steps=steps, output=output, settings=settings, reports=reports)


def weights(run: scriven.TrainedRun) -> dict[str, torch.Tensor]:
    return scriven.load(run.path, which="last").predictor.model.state_dict()


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def layers() -> tuple[RecurrentLayer, RegisteredLayer]:
    """An LSTM of Scriven's own, and one written by hand with the same weights."""
    scriven.register_cell("hand-lstm", HandLSTM)
    torch.manual_seed(0)
    own, hand = (make_layer(ModelSettings(cell=cell), 5, 7) for cell in ("lstm", "hand-lstm"))
    assert isinstance(own, RecurrentLayer) and isinstance(hand, RegisteredLayer)
    hand.load_state_dict(own.state_dict())
    return own, hand


def test_an_lstm_written_by_hand_is_scrivens_own() -> None:
    own, hand = layers()
    x, state = torch.randn(9, 3, 5), tuple(torch.randn(3, 7) for _ in range(2))
    fresh = torch.rand(9, 3) < 0.3
    assert fresh[1:].any()
    backend = choose_backend(own.settings, x.device, "fp32", learns=True)
    for begun in (None, fresh, torch.zeros_like(fresh)):
        (y, after), (expected, expected_after) = hand(x, state, fresh=begun), own(x, state, backend, fresh=begun)
        torch.testing.assert_close((y, *after), (expected, *expected_after))
    torch.testing.assert_close(hand.zero_state(3), own.zero_state(3))


def test_the_gradients_of_a_registered_layer_are_those_of_small_differences() -> None:
    scriven.register_cell("hand-lstm", HandLSTM)
    layer = make_layer(ModelSettings(cell="hand-lstm"), 3, 4)
    x = torch.randn(4, 2, 3, requires_grad=True)
    fresh = torch.tensor([[True, False], [False, False], [False, True], [False, False]])

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in layer.named_parameters()]
        given = dict(zip(names, parameters, strict=True))
        y: torch.Tensor = torch.func.functional_call(layer, given, (x, state), {"fresh": fresh})[0]
        return y

    inputs = [each.detach().double().requires_grad_() for each in (x, *layer.parameters())]
    state = (torch.zeros(2, 4, dtype=torch.float64),) * 2
    assert torch.autograd.gradcheck(output, inputs)


@pytest.mark.parametrize("documents", [False, True])
def test_a_training_with_it_is_one_with_scrivens_own(documents: bool, imported: Path) -> None:
    text: Any = [f"line {n} of them\n" for n in range(300)] if documents else "the quick brown fox\n" * 300
    model, training = SMALL["model"] | {"cell": "lstm"}, SMALL["training"] | {"optimizer": "muon"}
    settings = SMALL | {"model": model, "training": training}
    begun = scriven.train(text=text, steps=1, output="begun", settings=settings, reports=[])
    losses = []
    for cell in ("lstm", "hand-lstm"):
        changed = settings | {"model": {"cell": cell}}
        events = list(scriven.train_events(text=text, steps=4, output=cell, initial=begun.path, settings=changed))
        losses.append([each.loss.nats_per_char for each in events if isinstance(each, scriven.Stepped)])
        assert isinstance(events[0], scriven.Started)
        assert (cell == "hand-lstm") == any("hand-lstm is registered" in note for note in events[0].notes)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    own, hand = scriven.load("lstm", precision="fp32"), scriven.load("hand-lstm")
    np.testing.assert_allclose(hand.score("line 1").surprisals, own.score("line 1").surprisals, rtol=2e-3)
    assert hand.sample("l", length=20, seed=1) == own.sample("l", length=20, seed=1)


@pytest.mark.parametrize("cell", ["hand-lstm", pytest.param("dropping", marks=pytest.mark.thorough)])
def test_it_resumes_to_the_same_bits(cell: str, book: Path, imported: Path) -> None:
    whole = train_run(book, "whole", model={"cell": cell})
    half = train_run(book, "half", [StopAtTwo()], model={"cell": cell})
    resumed = scriven.train(output=half.path, resume="last", reports=[])
    assert half.finished.step < resumed.finished.step == 6
    assert_same_bits(weights(whole), weights(resumed))


def test_workers_import_what_is_registered_and_give_the_same_bits(book: Path, imported: Path) -> None:
    runs = [
        train_run(book, f"run-{count}", steps=3, model={"cell": "dropping"}, training={"workers": count, "groups": 2})
        for count in (1, 2)
    ]
    assert_same_bits(*map(weights, runs))


def test_what_a_program_registers_itself_is_trained_by_one_worker(book: Path, tmp_path: Path) -> None:
    """As in a notebook: no other process could import it."""
    exec("import scriven, own_parts; scriven.register_cell('hand-lstm', own_parts.HandLSTM)", {"__name__": "__main__"})
    scriven.register_optimizer("lion", Lion, learning_rate=0.01)
    training = {"optimizer": "lion", "threads": 1}
    run = scriven.train(book, steps=1, output=tmp_path / "run", settings=SMALL | {"training": training}, reports=[])
    assert run.load().settings.training.workers == 1
    assert run.load().settings.training.learning_rate == 0.01
    with pytest.raises(scriven.UsageError, match=r"model\.cell hand-lstm is registered by the program that runs"):
        train_run(book, str(tmp_path / "two"), training={"workers": 2, "groups": 2})


def test_sessions_of_it_are_as_of_any_model(book: Path, imported: Path) -> None:
    model = train_run(book, "run").load()
    session = model.session(seed=1)
    session.read("the ")
    session.save("kept.session")
    step = session.step("q")
    assert [part.shape for layer in step.state for part in layer] == [(16,)] * 4
    opened = scriven.load_session("kept.session")
    np.testing.assert_array_equal(opened.step("q").probabilities, step.probabilities)
    with pytest.raises(scriven.UsageError, match="the cell hand-lstm is registered, which torch computes"):
        scriven.load("run", precision="int8")


def test_it_is_served(book: Path, imported: Path) -> None:
    model = train_run(book, "run", steps=1).load()
    with serving(guarded_app({"hand": model})) as place:
        asked = {"model": "hand", "prompt": "the ", "max_tokens": 20, "seed": 1, "temperature": 0.8}
        answer = httpx.post(f"{place.url}/v1/completions", json=asked, timeout=20).json()
    assert answer["choices"][0]["text"] == model.sample("the ", length=20, seed=1)


def test_a_loop_of_ones_own_uses_it(book: Path, imported: Path) -> None:
    corpus = scriven.build_corpus(book)
    model = scriven.CharLM(scriven.ModelSettings(cell="dropping", width=8, input="onehot"), corpus.vocabulary.size)
    batch, _ = next(scriven.iterate_batches(corpus, {"batch": 4, "length": 16}))
    logits, state = model(torch.from_numpy(batch.ids))
    again, _ = model(torch.from_numpy(batch.ids))
    other, _ = model(torch.from_numpy(batch.ids), dropout_seed=1)
    assert torch.equal(logits, again) and not torch.equal(logits, other)
    assert [part.shape for layer in state for part in layer] == [(4, 8)] * 4
    scriven.save_run(model, corpus, "own", step=1)
    assert len(scriven.load("own").sample(length=5)) == 5


def test_commands_import_the_module(book: Path, lab: Path, command: Command) -> None:
    small = ["--model.width", "8", "--model.layers", "1", "--reader.batch", "4", "--training.workers", "1"]
    names = ["--model.cell", "hand-lstm", "--training.optimizer", "lion"]
    train = ["train", str(book), "--steps", "2", "-o", "run", "--quiet", *small, *names]
    refused = command(*train)
    assert refused.code == 2
    assert "--model.cell 'hand-lstm': give 'lstm', 'gru'" in refused.err
    assert "import the module that registers it (on the command line: --import MODULE)" in refused.err
    assert command(*train, "--import", "lab_cells").code == 0
    for line in (
        "sample run --length 5",
        "score run book.txt",
        "info run",
        "doctor run",
        "evaluate run",
        "verify-resume run --steps 1",
    ):
        done = command(*line.split(), "--import=lab_cells")
        assert (done.code, done.err.count("registered")) == (0, 0), line
    settings = Path("run", "settings.toml")
    again = command("train", str(book), "--settings", str(settings), "-o", "again", "--quiet")
    assert again.code == 0  # by SCRIVEN_IMPORT, which --import has set
    assert Path("again", "settings.toml").read_text("utf-8").count("hand-lstm") == 1


@pytest.mark.parametrize("line", ["sample run --length 5", "info run", "doctor run", "train --resume -o run --steps 9"])
def test_a_run_says_what_is_not_registered(line: str, book: Path, imported: Path, command: Command) -> None:
    train_run(book, "run", steps=1)
    REGISTERED_CELLS.registered.clear()
    done = command(*line.split())
    assert done.code == 3
    way = "import the module that registers it first (on the command line: --import MODULE)"
    said = " ".join((done.out + done.err).split())
    assert f"run has model.cell 'hand-lstm', which is not registered here; {way}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--import"], "--import needs the name of a Python module"),
        (["--import", "cells.py/x"], "--import needs the name of a Python module"),
        (
            ["--import", "no_such_module"],
            "the module no_such_module, which --import or SCRIVEN_IMPORT names, cannot be",
        ),
        (["--imports", "x"], "there is no option --imports; did you mean --import?"),
    ],
)
def test_modules_that_cannot_be_imported(words: list[str], said: str, lab: Path, command: Command) -> None:
    done = command("info", "--machine", *words)
    assert (done.code, said in done.err) == (2, True), done.err


def test_names_are_checked() -> None:
    scriven.register_cell("hand-lstm", HandLSTM)
    scriven.register_cell("hand-lstm", HandLSTM)  # as when a notebook's cell is run again
    for name, said in {"lstm": "is Scriven's own model.cell", "a b": "cannot be a model.cell", "": "cannot be"}.items():
        with pytest.raises(scriven.UsageError, match=said):
            scriven.register_cell(name, HandLSTM)
    with pytest.raises(scriven.UsageError, match=r"is Scriven's own training\.optimizer"):
        scriven.register_optimizer("muon", Lion, learning_rate=1)
    with pytest.raises(scriven.UsageError, match="learning_rate 0"):
        scriven.register_optimizer("lion", Lion, learning_rate=0)
    with pytest.raises(scriven.UsageError, match="cannot be called"):
        scriven.register_cell("lion", 5)  # type: ignore[arg-type]
    with pytest.raises(scriven.UsageError, match=r"model.cell 'hand-ltsm': give .* did you mean 'hand-lstm'\?"):
        scriven.train(text="abc", steps=1, settings={"model": {"cell": "hand-ltsm"}})
    with pytest.raises(scriven.UsageError, match=r"training.optimizer 'x': give 'muon', .* --import MODULE"):
        scriven.train(text="abc", steps=1, settings={"training": {"optimizer": "x"}})


class Stateless(torch.nn.Module):
    """One that returns no state."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.product = torch.nn.Linear(inputs, width)

    def forward(self, x: torch.Tensor, state: Any) -> Any:
        return self.product(x), ()


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (lambda inputs: None, "cannot be made with 8 inputs and a width of 8"),
        (lambda inputs, width: 5, "makes int, not a torch.nn.Module"),
        (lambda inputs, width: torch.nn.BatchNorm1d(width), "must have parameters and no buffers"),
        (lambda inputs, width: torch.nn.Tanh(), "must have parameters and no buffers"),
        (lambda inputs, width: torch.nn.Linear(inputs, width).double(), "not float32"),
        (lambda inputs, width: _with_widths(torch.nn.Linear(inputs, width)), "state_widths 'both'"),
        (Stateless, r"arrays of \[\(2, 1, 8\), \(1, 8\)\], for x of \(2, 1, 8\); not \(\(2, 1, 8\), \(\)\)"),
    ],
)
def test_cells_that_break_the_contract_are_refused(factory: Any, said: str) -> None:
    scriven.register_cell("wrong", factory)
    with pytest.raises(scriven.UsageError, match=said):
        scriven.CharLM(scriven.ModelSettings(cell="wrong", width=8), 5)(torch.zeros(2, 1, dtype=torch.int64))


def _with_widths(module: torch.nn.Module) -> torch.nn.Module:
    module.state_widths = "both"  # type: ignore[assignment]
    return module


def test_settings_of_scrivens_own_cells_are_refused() -> None:
    scriven.register_cell("hand-lstm", HandLSTM)
    settings = {"model": {"cell": "hand-lstm", "weight_drop": 0.5, "forget_bias": 2.0}}
    with pytest.raises(scriven.UsageError, match=r"drop model\.weight_drop, model\.forget_bias"):
        scriven.train(text="abc" * 99, steps=1, settings=settings)


def optimizer_of(name: str) -> tuple[FlatWeights, Optimizer]:
    torch.manual_seed(0)
    weights = FlatWeights(scriven.CharLM(ModelSettings(width=4, layers=1), 5))
    return weights, Optimizer(weights, TrainingSettings(optimizer=name, learning_rate=0.01, clip=0, weight_decay=0))


def test_an_optimizer_of_torch_takes_the_steps_that_torch_takes() -> None:
    scriven.register_optimizer("nadam", torch.optim.NAdam, learning_rate=0.01)
    weights, optimizer = optimizer_of("nadam")
    copies = [each.detach().clone().requires_grad_() for each in weights.parameters]
    rule = torch.optim.NAdam(copies, lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        gradients = [torch.randn(each.shape, generator=generator) for each in copies]
        for copy, gradient in zip(copies, gradients, strict=True):
            copy.grad = gradient / 8
        optimizer.step(gradients, 8.0, 0.02)  # where the learning rate has its peak
        rule.step()
    for copy, parameter in zip(copies, weights.parameters, strict=True):
        torch.testing.assert_close(parameter.detach(), copy.detach())


@pytest.mark.parametrize("make", [Lion, torch.optim.NAdam, torch.optim.Adafactor])
def test_its_state_is_restored_to_the_bit(make: Any) -> None:
    scriven.register_optimizer("own", make, learning_rate=0.01)
    (weights, optimizer), (others, resumed) = optimizer_of("own"), optimizer_of("own")
    gradients = [torch.ones_like(each) for each in weights.parameters]
    optimizer.step(gradients, 1.0, 0.02)
    others.values.copy_(weights.values)
    resumed.restore(optimizer.state())
    for each in (optimizer, resumed):
        each.step(gradients, 1.0, 0.5)
    assert torch.equal(weights.values, others.values)
    assert_same_bits(optimizer.state(), resumed.state())
    with pytest.raises(ValueError, match="of another model"):
        resumed.restore({"99.momentum": torch.zeros(3)})


def test_a_state_that_cannot_be_saved_is_refused() -> None:
    class Forgetful(Lion):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.state[self.param_groups[0]["params"][0]]["kept"] = "words"

    scriven.register_optimizer("forgetful", Forgetful, learning_rate=0.01)
    weights, optimizer = optimizer_of("forgetful")
    optimizer.step([torch.ones_like(each) for each in weights.parameters], 1.0, 0.5)
    with pytest.raises(scriven.UsageError, match=r"training\.optimizer forgetful keeps kept as str"):
        optimizer.state()
    scriven.register_optimizer("none", lambda parameters, lr: None, learning_rate=0.01)  # type: ignore[arg-type,return-value]
    with pytest.raises(scriven.UsageError, match=r"makes NoneType, not a torch\.optim"):
        optimizer_of("none")
