"""Each recipe takes the steps that its original takes: five of them, from the original's initial weights.

The originals are written out here from their own descriptions, in plain torch: how weights begin, the order in which a
text is read, the state a row begins with, what a loss is a mean of, the optimizer's rule. They know nothing of Scriven
but two things that every model here has: `<unk>`, which stands for one more character that never comes, and, where a
text is made of sentences, the boundary before and after each. Sizes are tiny; all else is the recipe's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scriven import recipes
from scriven.batches import next_batch
from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.rendezvous import WorkerJob
from scriven.events import Stepped
from scriven.model import CharLM
from scriven.settings import Settings
from scriven.settings_checks import check_complete
from scriven.settings_values import merge_settings, validate
from scriven.training.loop import Trainer

STEPS = 5
WORDS = "the quick brown fox jumps over the lazy dog and runs away from all the hounds of the old king. "
Weights = dict[str, Tensor]
Update = Callable[[Weights, Weights, int], None]  # changes weights by their gradients in step 1, 2, ..


# --- how the originals begin


def keras_lstm(inputs: int, width: int) -> Weights:
    """Keras: glorot_uniform kernels, orthogonal recurrent kernels of all four gates together, forget gates at 1."""
    kernel = torch.empty(inputs, 4 * width)
    torch.nn.init.xavier_uniform_(kernel)
    recurrent = torch.nn.init.orthogonal_(torch.empty(width, 4 * width))
    bias = torch.zeros(4 * width)
    bias[width : 2 * width] = 1
    return {"W": kernel, "U": recurrent, "b": bias}


def keras_dense(inputs: int, outputs: int) -> Weights:
    return {"W": torch.nn.init.xavier_uniform_(torch.empty(inputs, outputs)), "b": torch.zeros(outputs)}


def normal_lstm(inputs: int, width: int, deviation: float, forget: float) -> Weights:
    """torch-rnn, with a deviation of 1 / sqrt(inputs + width); the notebook of sentences, with 0.005."""
    bias = torch.zeros(4 * width)
    bias[width : 2 * width] = forget
    return {
        "W": deviation * torch.randn(inputs, 4 * width),
        "U": deviation * torch.randn(width, 4 * width),
        "b": bias,
    }


def torch_lstm(inputs: int, width: int, bound: float, forget: float | None = None) -> Weights:
    """All uniform, and a bias for the input as for the state: char-rnn within 0.08, PyTorch within 1 / sqrt(width)."""
    shapes = {"W": (inputs, 4 * width), "U": (width, 4 * width), "b": (4 * width,), "d": (4 * width,)}
    made = {name: torch.empty(shape).uniform_(-bound, bound) for name, shape in shapes.items()}
    if forget is not None:
        made["b"][width : 2 * width], made["d"][width : 2 * width] = forget, 0.0
    return made


def linear(inputs: int, outputs: int, bound: float) -> Weights:
    return {
        "W": torch.empty(inputs, outputs).uniform_(-bound, bound),
        "b": torch.empty(outputs).uniform_(-bound, bound),
    }


def join_names(**parts: Weights | Tensor) -> Weights:
    """All weights by name, as "lstm.W"."""
    named = [(name, part if isinstance(part, dict) else {"": part}) for name, part in parts.items()]
    return {f"{name}.{key}".rstrip("."): value for name, part in named for key, value in part.items()}


# --- what the originals compute


def lstm(
    sums: Tensor, weights: Weights, name: str, state: tuple[Tensor, Tensor], relu: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """All steps of an LSTM, from what the input adds to its gates (T, N, 4H); gates are input, forget, new, output."""
    (h, c), bound = state, torch.relu if relu else torch.tanh
    outputs = []
    for x in sums:
        gates = x + h @ weights[f"{name}.U"] + weights[f"{name}.b"] + weights.get(f"{name}.d", torch.zeros(()))
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * bound(g)
        h = torch.sigmoid(o) * bound(c)
        outputs.append(h)
    return torch.stack(outputs), (h, c)


def zeros(rows: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(rows, width), torch.zeros(rows, width)


def onehot(ids: Tensor, size: int) -> Tensor:
    return functional.one_hot(ids, size).float()


def minus_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln of the softmax at the targets, of their shape."""
    return -(logits - logits.logsumexp(-1, keepdim=True)).gather(-1, targets[..., None])[..., 0]


def sgd(rate: float) -> Update:
    def _update(weights: Weights, gradients: Weights, step: int) -> None:
        for name, gradient in gradients.items():
            weights[name] -= rate * gradient

    return _update


def rmsprop(rate: float, decay: float, epsilon: float) -> Update:
    means: Weights = {}

    def _update(weights: Weights, gradients: Weights, step: int) -> None:
        for name, gradient in gradients.items():
            means[name] = decay * means.get(name, torch.zeros(())) + (1 - decay) * gradient**2
            weights[name] -= rate * gradient / (means[name].sqrt() + epsilon)

    return _update


def adam(rate: float, epsilon: float, *, hat: bool) -> Update:
    """Kingma & Ba 2014. Where epsilon has a `hat`, as in Keras and Torch 7, it is added before bias is corrected."""
    first: Weights = {}
    second: Weights = {}

    def _update(weights: Weights, gradients: Weights, step: int) -> None:
        below, root = 1 - 0.9**step, (1 - 0.999**step) ** 0.5
        for name, gradient in gradients.items():
            first[name] = 0.9 * first.get(name, torch.zeros(())) + 0.1 * gradient
            second[name] = 0.999 * second.get(name, torch.zeros(())) + 0.001 * gradient**2
            size = second[name].sqrt() + (epsilon if hat else epsilon * root)
            weights[name] -= rate * root / below * first[name] / size

    return _update


def clipped_by_value(update: Update, largest: float) -> Update:
    def _update(weights: Weights, gradients: Weights, step: int) -> None:
        update(weights, {name: gradient.clamp(-largest, largest) for name, gradient in gradients.items()}, step)

    return _update


def clipped_by_norm(update: Update, largest: float) -> Update:
    def _update(weights: Weights, gradients: Weights, step: int) -> None:
        norm = float(sum(gradient.square().sum() for gradient in gradients.values())) ** 0.5
        factor = min(1.0, largest / (norm + 1e-6))
        update(weights, {name: factor * gradient for name, gradient in gradients.items()}, step)

    return _update


def train_steps(
    weights: Weights, update: Update, losses: Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]
) -> list[float]:
    """Takes five steps; each of `losses` gives what is minimised, and the mean nats that are reported."""
    told = []
    for step in range(1, STEPS + 1):
        asked = {name: value.requires_grad_() for name, value in weights.items()}
        cost, mean = next(losses)(asked)
        gradients = dict(zip(asked, torch.autograd.grad(cost, list(asked.values())), strict=True))
        told.append(float(mean.detach()))
        with torch.no_grad():
            for value in weights.values():
                value.requires_grad_(False)
            update(weights, gradients, step)
    return told


# --- the recipes


class Scene:
    """A recipe at a tiny size with a text, and the trainer that takes its steps."""

    def __init__(self, recipe: str, text: str, over: dict[str, Any], folder: Path) -> None:
        small = {
            "budget": dict.fromkeys(("epochs", "minutes", "characters"), 0) | {"steps": STEPS},
            "corpus": {"validation": 0.0},
            "training": {"precision": "fp32", "device": "cpu"},
            "monitor": {"every_epochs": 0.0, "every_steps": 0, "sample_length": 0, "prompts": [""]},
        }
        values = merge_settings(merge_settings(recipes.values(recipe), small), over)
        self.settings: Settings = check_complete(validate(values))
        file = folder / "text.txt"
        file.write_text(text, encoding="utf-8")
        self.path = build([str(file)], self.settings.corpus, folder / "corpus")
        self.corpus = Corpus.open(self.path)
        self.size = self.corpus.vocabulary.size  # V
        self.boundary = self.corpus.vocabulary.boundary or 0

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The ids and targets of one step after another."""
        cursor: Any = 0
        while True:
            batch, cursor = next_batch(self.corpus.training, self.corpus.vocabulary, self.settings.reader, cursor)
            yield torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)

    def steps(self, begin: Weights, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], Weights]:
        """The mean losses of the recipe's steps from the given weights on, and its weights after them."""
        model = CharLM(self.settings.model, self.size)
        state = model.state_dict()
        for name, value in ours(begin).items():
            assert state[name].shape == value.shape, name
            state[name].copy_(value)
        monkeypatch.setattr("scriven.training.gradients.warm_started_model", lambda *_: (model, []))
        trainer = Trainer(WorkerJob(self.settings, str(self.path)), ProcessGroup(), None, lambda: 0)
        events = [event for event in trainer.events() if isinstance(event, Stepped)]
        assert len(events) == STEPS
        means = [each.loss.total_nats / (each.loss.characters + each.loss.ends) for each in events]
        return means, {name: value.detach().clone() for name, value in model.state_dict().items()}


def ours(weights: Weights) -> Weights:
    """The original's weights under the names and in the layout that they have here."""
    made = {}
    for name, value in weights.items():
        part, _, kind = name.partition(".")
        if part.startswith("lstm"):
            names = {"W": "weight_ih_l0", "U": "weight_hh_l0", "b": "bias_ih_l0", "d": "bias_hh_l0"}
            made[f"layers.{part[4:]}.rnn.{names[kind]}"] = value.T if kind in "WU" else value
        elif part == "embedding":
            made["embedding.weight"] = value
        else:
            made["head.weight" if kind == "W" else "head.bias"] = value.T if kind == "W" else value
    return made


def assert_same(found: tuple[list[float], Weights], begin: Weights, told: list[float], weights: Weights) -> None:
    """Losses agree to 1e-4, and what training has changed agrees to a hundredth of its size."""
    losses, after = found
    assert losses == pytest.approx(told, abs=1e-4)
    before = ours(begin)
    for name, value in ours(weights).items():
        apart, moved = float((after[name] - value).norm()), float((value - before[name]).norm())
        assert apart <= 0.01 * moved + 1e-6, f"{name}: {apart:g} apart, having moved by {moved:g}"


def copy_weights(weights: Weights) -> Weights:
    return {name: value.clone() for name, value in weights.items()}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def test_keras_text_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.add(LSTM(128)), Dense, softmax; categorical cross-entropy, a mean over the batch; RMSprop(0.01)."""
    scene = Scene("keras-text-generation", WORDS * 3, {"model": {"width": 9}, "reader": {"batch": 8}}, tmp_path)
    size, width = scene.size, 9
    begin = join_names(lstm0=keras_lstm(size, width), dense=keras_dense(width, size))

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in scene.batches():  # 8 windows of 40 characters each, and the one after each of them

            def _loss(w: Weights, ids: Tensor = ids, targets: Tensor = targets) -> tuple[Tensor, Tensor]:
                y, _ = lstm(onehot(ids, size) @ w["lstm0.W"], w, "lstm0", zeros(8, width))
                nats = minus_log_softmax(y[-1] @ w["dense.W"] + w["dense.b"], targets[-1]).mean()
                return nats, nats

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, rmsprop(0.01, 0.9, 1e-7), _losses())
    assert_same(scene.steps(begin, monkeypatch), begin, told, weights)


def test_english_major(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LSTM(62, return_sequences), LSTM(62, relu) whose last output is the logits; a mean over the batch; Adam."""
    scene = Scene("english-major", WORDS * 3, {"model": {"width": 9}, "reader": {"batch": 8}}, tmp_path)
    size, width = scene.size, 9
    begin = join_names(lstm0=keras_lstm(size, width), lstm1=keras_lstm(width, size))

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in scene.batches():

            def _loss(w: Weights, ids: Tensor = ids, targets: Tensor = targets) -> tuple[Tensor, Tensor]:
                y, _ = lstm(onehot(ids, size) @ w["lstm0.W"], w, "lstm0", zeros(8, width))
                logits, _ = lstm(y @ w["lstm1.W"], w, "lstm1", zeros(8, size), relu=True)
                nats = minus_log_softmax(logits[-1], targets[-1]).mean()
                return nats, nats

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, adam(0.001, 1e-7, hat=True), _losses())
    assert_same(scene.steps(begin, monkeypatch), begin, told, weights)


def recorded_masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the recipe's steps drop, in the order in which it was drawn: the original is given the same."""
    from scriven.model import cells

    masks: list[Tensor] = []
    draw = cells.mask

    def _mask(*arguments: Any) -> Tensor:
        masks.append(draw(*arguments))
        return masks[-1]

    monkeypatch.setattr(cells, "mask", _mask)
    return masks


def test_stateful_tbptt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences in chunks, the state carried to the next chunk of the same one and reset after its last; relu, Adam.

    Dropout 0.5 after the embedding and after the LSTM; the loss is a mean over all characters of a chunk.
    """
    lines = [WORDS[start : start + 11] for start in range(0, 60, 5)]  # 11 characters and an end: 3 chunks of 4
    over = {"model": {"width": 9, "embedding": 6}, "reader": {"batch": 3, "length": 4}}
    scene = Scene("stateful-tbptt", "\n".join(lines), over, tmp_path)
    size, width = scene.size, 9
    embedding = torch.empty(size, 6).uniform_(-0.05, 0.05)
    begin = join_names(embedding=embedding, lstm0=keras_lstm(6, width), dense=keras_dense(width, size))
    masks = recorded_masks(monkeypatch)
    found = scene.steps(begin, monkeypatch)
    chunks = [ids for ids, _ in itertools.islice(scene.batches(), 6)]
    order = torch.cat((torch.cat(chunks[:3]), torch.cat(chunks[3:])), 1).T  # (6, 12) the sequences, each whole
    texts = {scene.corpus.vocabulary.decode(row[1:].numpy()) for row in order}
    assert len(texts) == 6 and texts <= set(lines)

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        end = torch.full((6, 1), scene.boundary)
        whole = torch.cat((order, end), 1)  # (6, 13)
        for first in (0, 3):
            state = [zeros(3, width)]  # reset
            for chunk in range(3):
                rows = whole[first : first + 3, 4 * chunk : 4 * chunk + 5].T  # (5, 3)

                def _loss(
                    w: Weights, rows: Tensor = rows, state: list[tuple[Tensor, Tensor]] = state
                ) -> tuple[Tensor, Tensor]:
                    x = w["embedding"][rows[:-1]] * masks.pop(0)
                    y, after = lstm(x @ w["lstm0.W"], w, "lstm0", state[0], relu=True)
                    state[0] = after[0].detach(), after[1].detach()  # carried, but not gone back through
                    nats = minus_log_softmax(y * masks.pop(0) @ w["dense.W"] + w["dense.b"], rows[1:]).mean()
                    return nats, nats

                yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, adam(0.001, 1e-7, hat=True), _losses())
    assert_same(found, begin, told, weights)


def test_theano_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole sentences, padded and masked; nats summed over a batch and divided by its sentences; SGD 0.1."""
    sentences = [" ".join(WORDS.split()[start : start + 1 + start % 7]) for start in range(15)]
    over = {"model": {"width": 9}, "reader": {"batch": 5}}
    scene = Scene("theano-sentences", "\n".join(sentences), over, tmp_path)
    size, width = scene.size, 9
    head = {"W": torch.zeros(width, size), "b": torch.zeros(size)}
    begin = join_names(lstm0=normal_lstm(size, width, 0.005, forget=0.0), dense=head)
    boundary = torch.tensor(scene.boundary)

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in scene.batches():
            ends = (targets == boundary).int().argmax(0)  # (N,) where each sentence ends
            mask = (torch.arange(len(ids))[:, None] <= ends).float()  # (T, N)
            assert (ids[0] == boundary).all() and int(ends.max()) == len(ids) - 1

            def _loss(
                w: Weights, ids: Tensor = ids, targets: Tensor = targets, mask: Tensor = mask
            ) -> tuple[Tensor, Tensor]:
                y, _ = lstm(onehot(ids, size) @ w["lstm0.W"], w, "lstm0", zeros(5, width))
                nats = (minus_log_softmax(y @ w["dense.W"] + w["dense.b"], targets) * mask).sum()
                return nats / 5, nats / mask.sum()

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, sgd(0.1), _losses())
    assert_same(scene.steps(begin, monkeypatch), begin, told, weights)


def rows_of(scene: Scene, rows: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The text as a table of so many rows, read from left to right in chunks; its first character follows its last."""
    training = scene.corpus.training
    text = torch.from_numpy(training.read(0, training.characters).astype(np.int64))
    x, y = (each.view(rows, -1).T for each in (text, text.roll(-1)))
    return zip(torch.split(x, length), torch.split(y, length), strict=True)


def test_char_rnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers on one-hot characters; gradients of the sum over a chunk of means over rows, clipped at 5; RMSprop."""
    a_character = {"clip_value": 5.0 / 5, "epsilon": 1e-8 / 5}  # of the sum over chunks of 50, the recipe's are a 50th
    over = {"model": {"width": 9}, "reader": {"batch": 3, "length": 5}, "training": a_character}
    scene = Scene("char-rnn", WORDS[:90], over, tmp_path)  # six chunks
    given = validate(recipes.values("char-rnn")).training
    assert (50 * given.clip_value, 50 * given.epsilon) == pytest.approx((5.0, 1e-8))
    size, width = scene.size, 9
    layers = {f"lstm{n}": torch_lstm(inputs, width, 0.08, forget=1.0) for n, inputs in enumerate((size, width))}
    begin = join_names(**layers, dense=linear(width, size, 0.08))
    states = [zeros(3, width), zeros(3, width)]

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in rows_of(scene, 3, 5):

            def _loss(w: Weights, ids: Tensor = ids, targets: Tensor = targets) -> tuple[Tensor, Tensor]:
                y = onehot(ids, size)
                for depth in range(2):
                    y, (h, c) = lstm(y @ w[f"lstm{depth}.W"], w, f"lstm{depth}", states[depth])
                    states[depth] = h.detach(), c.detach()
                nats = minus_log_softmax(y @ w["dense.W"] + w["dense.b"], targets).mean(1).sum()
                return nats, nats / 5

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, clipped_by_value(rmsprop(0.002, 0.95, 1e-8), 5.0), _losses())
    assert_same(scene.steps(begin, monkeypatch), begin, told, weights)


def test_torch_rnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings, two layers with one bias a gate; a mean over rows and characters, clipped at 5 by value; Adam."""
    over = {"model": {"width": 9, "embedding": 6}, "reader": {"batch": 3, "length": 5}}
    scene = Scene("torch-rnn", WORDS[:90], over, tmp_path)
    size, width = scene.size, 9
    begin = join_names(
        embedding=torch.randn(size, 6),
        lstm0=normal_lstm(6, width, (6 + width) ** -0.5, forget=1.0),
        lstm1=normal_lstm(width, width, (2 * width) ** -0.5, forget=1.0),
        dense=linear(width, size, width**-0.5),
    )
    states = [zeros(3, width), zeros(3, width)]

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in rows_of(scene, 3, 5):

            def _loss(w: Weights, ids: Tensor = ids, targets: Tensor = targets) -> tuple[Tensor, Tensor]:
                y = w["embedding"][ids]
                for depth in range(2):
                    y, (h, c) = lstm(y @ w[f"lstm{depth}.W"], w, f"lstm{depth}", states[depth])
                    states[depth] = h.detach(), c.detach()
                nats = minus_log_softmax(y @ w["dense.W"] + w["dense.b"], targets).mean()
                return nats, nats

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, clipped_by_value(adam(0.002, 1e-8, hat=True), 5.0), _losses())
    assert_same(scene.steps(begin, monkeypatch), begin, told, weights)


@pytest.mark.parametrize("recipe", ["awd-lstm", "awd-lstm-small"])
def test_awd_lstm(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers; one mask for a whole chunk, dropped recurrent weights, AR and TAR, clipped by norm; Adam."""
    tied = recipe == "awd-lstm-small"
    over = {"model": {"width": 9} | ({} if tied else {"embedding": 6}), "reader": {"batch": 3, "length": 5}}
    scene = Scene(recipe, WORDS[:90], over, tmp_path)
    size, width, inputs = scene.size, 9, 9 if tied else 6
    decoder = {"W": torch.empty(width, size).uniform_(-0.1, 0.1), "b": torch.zeros(size)}
    embedding: dict[str, Tensor] = {} if tied else {"embedding": torch.empty(size, 6).uniform_(-0.1, 0.1)}
    layers = {f"lstm{n}": torch_lstm(inputs if n == 0 else width, width, width**-0.5) for n in range(3)}
    begin = join_names(**embedding, **layers, dense=decoder)
    masks = recorded_masks(monkeypatch)
    found = scene.steps(begin, monkeypatch)
    states = [zeros(3, width)] * 3

    def _losses() -> Iterator[Callable[[Weights], tuple[Tensor, Tensor]]]:
        for ids, targets in rows_of(scene, 3, 5):

            def _loss(w: Weights, ids: Tensor = ids, targets: Tensor = targets) -> tuple[Tensor, Tensor]:
                y = (w["dense.W"].T if tied else w["embedding"])[ids] * masks.pop(0)  # (1, N, D): for all characters
                raw = y
                for depth in range(3):
                    dropped = w | {f"lstm{depth}.U": w[f"lstm{depth}.U"] * masks.pop(0).T}
                    raw, (h, c) = lstm(y @ w[f"lstm{depth}.W"], dropped, f"lstm{depth}", states[depth])
                    states[depth] = h.detach(), c.detach()
                    y = raw * masks.pop(0)
                nats = minus_log_softmax(y @ w["dense.W"] + w["dense.b"], targets).mean()
                penalty = 2.0 * y.square().mean() + 1.0 * (raw[1:] - raw[:-1]).square().mean()
                return nats + penalty, nats

            yield _loss

    weights = copy_weights(begin)
    told = train_steps(weights, clipped_by_norm(adam(0.002, 1e-8, hat=False), 0.25), _losses())
    assert_same(found, begin, told, weights)


def test_every_recipe_is_compared_with_its_original() -> None:
    compared = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {name.removesuffix("-small") for name in recipes.names()} <= compared
