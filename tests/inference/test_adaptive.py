"""Learning while reading, against plain torch; in pieces of any size, with any number of threads."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from scriven.arrays import Float64s, Ids
from scriven.errors import UsageError
from scriven.inference import protocols
from scriven.inference.adaptive import AdaptiveReader
from scriven.inference.context import AdaptiveContext, AdaptiveRule
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import cost_of_unseen
from scriven.model import CharLM
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary
from small_model import DOCUMENTS, TEXT, Shelf, cut, favour, predictor

RULE = AdaptiveRule(length=5, rate=0.02, pull=0.01)
CELLS = ("rnn", "gru", "lstm", "mingru")
GENTLE = replace(RULE, rate=1e-3)  # long steps let roundings grow: a gradient of nearly zero has one as long as others


def reader(model: Predictor, rule: AdaptiveRule = RULE) -> AdaptiveReader:
    return AdaptiveReader(model, rule)


def document_ids(model: Predictor) -> Ids:
    ends = np.array([model.vocabulary.boundary])
    return np.concatenate([part for text in DOCUMENTS for part in (model.vocabulary.encode(text), ends)])


class SlowStep:
    """Adam's step for one array of weights in fp64, in the bases of its gradients' second moments."""

    def __init__(self, shape: torch.Size, rule: AdaptiveRule) -> None:
        self.rule, self.steps, self.turned = rule, 0, rule.sides(shape)
        shape = shape if len(shape) == 2 else torch.Size([shape.numel(), 1])
        self.moments = [torch.zeros(n, n, dtype=torch.float64) for n in shape]
        self.bases = [torch.eye(n, dtype=torch.float64) for n in shape]
        self.squares = torch.zeros(shape, dtype=torch.float64)

    def of(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step, to be multiplied with the rate."""
        self.steps += 1
        rule, matrix = self.rule, gradient.double().reshape(self.squares.shape)
        for side, product in enumerate((matrix @ matrix.T, matrix.T @ matrix)):
            if not self.turned[side]:
                continue
            self.moments[side] = rule.memory * self.moments[side] + (1 - rule.memory) * product
            if (self.steps - 1) % rule.turn == 0:
                ridge = rule.ridge * self.moments[side].trace() / len(product) * torch.eye(len(product))
                self.bases[side] = torch.linalg.qr((self.moments[side] + ridge) @ self.bases[side])[0]
        rows, columns = self.bases
        seen = rows.T @ matrix @ columns
        self.squares = rule.beta2 * self.squares + (1 - rule.beta2) * seen**2
        step = seen / ((self.squares / (1 - rule.beta2**self.steps)).sqrt() + 1e-8)
        return (rows @ step @ columns.T).reshape(gradient.shape).float()


def slow_nats(model: Predictor, ids: Ids, rule: AdaptiveRule) -> Float64s:
    """The cost of every id: read one by one, all gradients by torch, each step written out."""
    net = copy.deepcopy(model.model)
    weights = list(net.parameters())
    trained = [each.detach().clone() for each in weights]
    steps = [SlowStep(each.shape, rule) for each in weights]
    costs = list[float]()
    held = list[torch.Tensor]()
    state, symbol = None, int(model.opening[0])
    for target in model.vocabulary.clamp(ids).tolist():
        start_again = symbol == model.vocabulary.boundary
        logits, state = net(torch.tensor([[symbol]]), None if start_again else state)
        held.append(functional.cross_entropy(logits[0, 0], torch.tensor(target)))
        costs.append(float(held[-1].detach()))
        symbol = target
        if len(held) < rule.length:
            continue
        gradients = torch.autograd.grad(torch.stack(held).sum(), weights)
        state, held = tuple(tuple(part.detach() for part in layer) for layer in state or ()), []
        with torch.no_grad():
            for i, gradient in enumerate(gradients):
                weights[i].add_(rule.pull * (trained[i] - weights[i]) - rule.rate * steps[i].of(gradient))
    return cost_of_unseen(np.array(costs), ids, model.vocabulary)


def nats_in_pieces(reading: AdaptiveReader, ids: Ids, lengths: list[int]) -> tuple[Float64s, AdaptiveContext]:
    context, found = reading.start(), [np.empty(0)]
    for piece in cut(ids, lengths):
        nats, _, context = reading.read(context, piece)
        found.append(nats)
    return np.concatenate(found), context


def network(cell: str, separator: str | None = None) -> Predictor:
    vocabulary = Vocabulary.of("\n abcde,", separator)
    torch.manual_seed(1)
    model = CharLM(ModelSettings(width=8, cell=cell, layers=2), vocabulary.size).eval()
    return Predictor(model, vocabulary, "fp32")


@pytest.mark.parametrize("cell", CELLS)
def test_the_fast_way_is_plain_gradient_descent(cell: str) -> None:
    model = network(cell)
    ids = model.vocabulary.encode(TEXT)[:200]
    nats, slow = nats_in_pieces(reader(model, GENTLE), ids, [])[0], slow_nats(model, ids, GENTLE)
    assert nats == pytest.approx(slow, abs=2e-3)  # learning changes one of them by 0.07 at least
    assert nats.mean() == pytest.approx(slow.mean(), rel=1e-4)


def test_a_network_of_long_sides_alone_learns_without_bases() -> None:
    model, rule = network("lstm"), replace(RULE, longest_side=0)
    ids = model.vocabulary.encode(TEXT)
    nats, context = nats_in_pieces(reader(model, rule), ids, [len(ids)])
    assert np.isfinite(nats).all() and context.learned is not None and context.learned.bases.size == 0


def test_long_sides_of_matrices_have_no_basis() -> None:
    model, rule = network("lstm"), replace(GENTLE, longest_side=8, turn=3)  # the recurrent weights are (32, 8)
    assert [rule.sides(shape) for shape in [(32, 8), (8, 8), (8,), (4, 8, 8)]] == [(0, 8), (8, 8), (0, 0), (0, 0)]
    ids = model.vocabulary.encode(TEXT)[:200]
    nats, context = nats_in_pieces(reader(model, rule), ids, [])
    assert nats == pytest.approx(slow_nats(model, ids, rule), abs=2e-3)
    bases = rule.basis_values([each.shape for each in model.model.parameters()])
    assert context.learned is not None and context.learned.bases.shape == context.learned.moments.shape == (bases,)


@pytest.mark.parametrize("cell", CELLS)
def test_documents_start_from_a_zero_state_and_go_on_learning(cell: str) -> None:
    model = network(cell, "\n\n")
    ids = document_ids(model)
    nats, _ = nats_in_pieces(reader(model, GENTLE), ids, [])
    assert nats == pytest.approx(slow_nats(model, ids, GENTLE), abs=2e-3)


def test_it_learns() -> None:
    model = predictor()
    ids = model.vocabulary.encode(TEXT)
    static, adapted = protocols.stream(model, [ids]).loss, protocols.adaptive(model, [ids]).loss
    assert adapted.characters == len(TEXT)
    assert adapted.nats < static.nats
    assert nats_in_pieces(reader(model), ids, [])[0].sum() < 0.92 * static.nats


@pytest.mark.parametrize("separator", [None, "\n\n"])
@pytest.mark.parametrize("lengths", [[1] * 40, [5, 5, 1], [4, 2], [6, 60, 3], [200]])
def test_pieces_of_any_size_give_the_same_bits(separator: str | None, lengths: list[int]) -> None:
    model = network("lstm", separator)
    ids = document_ids(model) if separator else model.vocabulary.encode(TEXT)
    whole, after = nats_in_pieces(reader(model), ids, [])
    pieces, also = nats_in_pieces(reader(model), ids, lengths)
    assert whole.tolist() == pieces.tolist()
    assert_equal(after, also)


def assert_equal(one: AdaptiveContext, other: AdaptiveContext) -> None:
    assert np.array_equal(one.logits, other.logits)
    assert one.segment is not None and other.segment is not None
    assert one.segment.tolist() == other.segment.tolist()
    assert one.learned is not None and other.learned is not None
    assert all(np.array_equal(each, vars(other.learned)[name]) for name, each in vars(one.learned).items())


@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_threads_change_no_bit(separator: str | None) -> None:
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model = network("lstm", separator)
            found.append(nats_in_pieces(reader(model, AdaptiveRule()), np.tile(model.vocabulary.encode(TEXT), 3), []))
        finally:
            torch.set_num_threads(before)
    for nats, context in found[1:]:
        assert nats.tolist() == found[0][0].tolist()
        assert_equal(context, found[0][1])


def test_contexts_are_values() -> None:
    """Two texts that are read by turns after the same beginning cost what they cost alone; the model is as it was."""
    model = predictor()
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    reading = reader(model)
    begin, one, other = (model.vocabulary.encode(text) for text in ("abba cab" * 5, "dead, bad" * 9, "e a e b" * 9))
    _, _, start = reading.read(reading.start(), begin)
    alone = [reading.read(start, ids)[0].tolist() for ids in (one, other)]
    found, contexts = [list[float](), list[float]()], [start, start]
    for place in range(0, 63, 7):
        for row, ids in enumerate((one, other)):
            nats, _, contexts[row] = reading.read(contexts[row], ids[place : place + 7])
            found[row] += nats.tolist()
    assert found[0] == alone[0][:63] and found[1] == alone[1][:63]
    assert all(torch.equal(value, weights[name]) for name, value in model.model.state_dict().items())


def test_a_stop_leaves_contexts_as_they_were() -> None:
    model, asked = predictor(), 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 7:
            raise KeyboardInterrupt

    reading = reader(model.with_check_stop(stop))
    ids, start = model.vocabulary.encode(TEXT), reading.start()
    with pytest.raises(KeyboardInterrupt):
        reading.read(start, ids)
    assert reading.read(start, ids)[0].tolist() == nats_in_pieces(reader(model), ids, [])[0].tolist()


def test_documents_alone_forget_what_was_learned() -> None:
    model = predictor("\n abcde,", "\n\n")
    ids, boundary = document_ids(model), model.vocabulary.boundary
    assert boundary is not None
    pieces = list(protocols.AdaptiveTexts(model, documents_alone=True, rule=RULE).surprisals(cut(ids, [13, 40])))
    expected = [
        nats_in_pieces(reader(model), np.append(model.vocabulary.encode(text), boundary), [])[0] for text in DOCUMENTS
    ]
    assert np.concatenate([each.nats for each in pieces]).tolist() == np.concatenate(expected).tolist()


def test_without_a_newline_the_first_character_costs_a_uniform_choice() -> None:
    model = predictor("ab")
    nats, _ = nats_in_pieces(reader(model), model.vocabulary.encode("ab" * 20), [])
    assert nats[0] == pytest.approx(math.log(3))
    assert len(nats) == 40


def test_the_whole_text_has_one_part() -> None:
    model = predictor()
    text = Shelf(model.vocabulary.encode(TEXT))
    parts = [protocols.measure("adaptive", model, text, rank=rank, size=3) for rank in range(3)]
    assert parts[0] == protocols.adaptive(model, [text.ids])
    assert not parts[1].loss.characters + parts[2].loss.characters


def test_before_writing_it_learns_from_all_that_was_read() -> None:
    model = predictor()
    ids = model.vocabulary.encode("bad bad bad, a dab")
    short, exact = (reader(model, AdaptiveRule(length=length)) for length in (1000, len(ids)))
    paused = short.pause(short.read(short.start(), ids)[2])
    _, _, context = exact.read(exact.start(), ids)
    assert paused.learned is not None and context.learned is not None
    assert np.allclose(paused.learned.weights, context.learned.weights, atol=1e-6)
    assert np.allclose(paused.logits, context.logits, atol=1e-5)
    assert short.pause(paused) is paused


def test_after_writing_it_reads_on() -> None:
    model = predictor()
    reading, (d, space) = reader(model), model.vocabulary.encode("d ")
    paused = reading.pause(reading.read(reading.start(), model.vocabulary.encode("bad bad ba"))[2])
    written = reading.writer(paused).read(paused, np.array([[d]]))
    nats, _, after = reading.read(paused, np.array([d, space]))
    assert nats[0] == pytest.approx(-float(torch.from_numpy(paused.logits).log_softmax(1)[0, d]), rel=1e-5)
    assert nats[1] == pytest.approx(-float(torch.from_numpy(written.logits).log_softmax(1)[0, space]), rel=1e-4)
    assert after.segment is not None and after.segment.tolist() == [d, space]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = predictor()
    favour(model, 0, math.inf)
    reading = reader(model)
    _, _, context = reading.read(reading.start(), model.vocabulary.encode("abc" * 9))
    learned = reading.writer(context).model.state_dict()
    assert all(torch.equal(value, learned[name]) for name, value in model.model.state_dict().items())


def test_what_cannot_learn_is_refused() -> None:
    model = predictor()
    windows = Predictor(model.model, model.vocabulary, "fp32", window=40)
    with pytest.raises(UsageError, match="a model of windows"):
        protocols.adaptive(windows, [])
    with pytest.raises(UsageError, match="adaptive-documents: this model knows no documents; use adaptive"):
        protocols.protocol("adaptive-documents")(model, [])
    with pytest.raises(UsageError, match="there is none of that name"):
        protocols.parse_protocol("adaptive-256")
