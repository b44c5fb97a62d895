"""The model as a function of ids and state."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scriven.errors import UsageError
from scriven.kernels import recurrent, scan
from scriven.model import CharLM, backends
from scriven.model.backends import Route, choose_backend, tune_cpu
from scriven.model.cells import Masks, RecurrentLayer
from scriven.model.language_model import join_rows, take_rows, zero_rows
from scriven.model.shapes import parameter_count, weight_shapes
from scriven.settings import ModelSettings

V = 11
SHAPES: dict[str, st.SearchStrategy[object]] = {
    "cell": st.sampled_from(["lstm", "gru", "rnn", "mingru"]),
    "width": st.integers(1, 12),
    "layers": st.integers(1, 3),
    "activation": st.sampled_from(["tanh", "relu", "tanh,relu"]),
    "input": st.sampled_from(["embedding", "onehot"]),
    "embedding": st.integers(0, 5),
    "freeze_embedding": st.booleans(),
    "tied": st.booleans(),
    "head": st.sampled_from(["linear", "none"]),
    "residual": st.booleans(),
    "norm": st.sampled_from(["none", "rms", "layer"]),
}
DROPPED = {
    "dropout": 0.3,
    "input_dropout": 0.2,
    "output_dropout": 0.4,
    "embedding_dropout": 0.2,
    "weight_drop": 0.5,
}


def make_model(**chosen: object) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelSettings.model_validate({"width": 8, **chosen}), V)


def first_layer(model: CharLM) -> RecurrentLayer:
    layer = model.layers[0]
    assert isinstance(layer, RecurrentLayer)
    return layer


def any_model(chosen: dict[str, object]) -> CharLM:
    """A model of these settings, unless they contradict each other."""
    try:
        return make_model(**chosen)
    except UsageError:
        assume(False)
        raise


@given(cuts=st.lists(st.integers(1, 29), max_size=4), chosen=st.fixed_dictionaries(SHAPES))
@settings(deadline=None, max_examples=60)
@torch.no_grad()
def test_a_text_read_in_any_chunks_gives_the_same(cuts: list[int], chosen: dict[str, object]) -> None:
    # A norm of three values or fewer jumps where they are nearly the same, so that rounding decides.
    assume(chosen["norm"] == "none" or chosen["width"] not in (1, 2, 3))
    model, ids = any_model(chosen).eval(), torch.randint(0, V, (30, 2))
    whole, after_whole = model(ids)
    state, pieces = None, []
    for begin, end in pairwise(sorted({0, 30, *cuts})):
        logits, state = model(ids[begin:end], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, after_whole, atol=1e-4, rtol=1e-4)


@given(chosen=st.fixed_dictionaries(SHAPES), variational=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_all_settings_work_together_and_the_seed_decides(
    chosen: dict[str, object], variational: bool, seed: int
) -> None:
    recurrent = {"weight_drop": 0.0} if chosen["cell"] == "mingru" else {}
    model = any_model({**chosen, **DROPPED, **recurrent, "variational": variational}).train()
    ids, fresh = torch.randint(0, V, (6, 2)), torch.zeros(6, 2, dtype=torch.bool)
    fresh[0, 1] = fresh[4, 0] = True
    torch.manual_seed(1)
    logits, state = model(ids, None, fresh, dropout_seed=seed)
    torch.manual_seed(2)
    torch.testing.assert_close(model(ids, None, fresh, dropout_seed=seed), (logits, state), atol=0, rtol=0)
    logits.sum().backward()
    assert logits.shape == (6, 2, V)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_a_fresh_row_forgets_and_the_others_do_not(cell: str) -> None:
    model, ids = make_model(cell=cell, layers=3).eval(), torch.randint(0, V, (12, 3))
    before = model(torch.randint(0, V, (5, 3)))[1]
    fresh = torch.zeros(12, 3, dtype=torch.bool)
    fresh[0, 2] = fresh[7, 1] = True
    logits, state = model(ids, before, fresh)
    plain, plain_state = model(ids, before)
    alone, alone_state = model(ids[7:, 1:2])
    torch.testing.assert_close(logits[7:, 1:2], alone)
    torch.testing.assert_close(take_rows(state, torch.tensor([1])), alone_state)
    torch.testing.assert_close(logits[:, 0], plain[:, 0])
    torch.testing.assert_close(logits[:, 2:], model(ids[:, 2:])[0])
    torch.testing.assert_close(take_rows(state, torch.tensor([0])), take_rows(plain_state, torch.tensor([0])))


@pytest.mark.parametrize("way", ["native", "loop", "packed"])
@pytest.mark.parametrize(
    "chosen",
    [
        *({"cell": cell, "layers": 2} for cell in ("lstm", "gru", "rnn", "mingru")),
        *({"cell": cell, "activation": "relu", "initial_scale": 0.5} for cell in ("lstm", "gru", "rnn")),
        {"cell": "lstm", "input": "onehot"},
    ],
    ids=str,
)
def test_starts_within_a_chunk_are_those_of_one_character_after_another(
    chosen: dict[str, object], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in (recurrent, scan) if way != "native" else ():
        monkeypatch.setattr(kernel, "usable", lambda *_: False)
    if way == "packed":  # as on a GPU
        monkeypatch.setattr(backends, "_fastest_fresh_route", lambda *_, **__: "torch")
    model, ids, fresh = make_model(**chosen), torch.randint(0, V, (9, 4)), torch.rand(9, 4) < 0.4
    start = [tuple(torch.randn_like(part).requires_grad_() for part in layer) for layer in model.zero_state(4)]
    wanted = [*model.parameters(), *(part for layer in start for part in layer)]
    found = []
    for chunks in ([slice(0, 9)], [slice(place, place + 1) for place in range(9)]):
        state, pieces = tuple(start), []
        for chunk in chunks:
            given = state if len(chunks) == 1 else zero_rows(state, fresh[chunk.start])
            logits, state = model(ids[chunk], given, fresh if len(chunks) == 1 else None)
            pieces.append(logits)
        ends = [part for layer in state for part in layer]
        loss = torch.cat(pieces).square().sum() + sum(part.square().sum() for part in ends)
        found.append((torch.cat(pieces), *ends, *torch.autograd.grad(loss, wanted)))
    torch.testing.assert_close(found[0], found[1], atol=2e-4, rtol=2e-4)


@pytest.mark.skipif(not recurrent.usable(torch.float32), reason="there is no native library")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_starts_within_a_chunk_take_native_code_where_torch_makes_the_products_in_bf16(cell: str) -> None:
    """Torch's own function cannot start a row afresh, and a loop takes twice as long; both round products to bf16."""
    model, ids, fresh = make_model(cell=cell), torch.randint(0, V, (9, 4)), torch.rand(9, 4) < 0.4
    backend = choose_backend(model.settings, torch.device("cpu"), "bf16", learns=True)
    torchs: tuple[Route, ...] = tuple("torch" for _ in backend.routes)
    fresh_routes: tuple[Route, ...] = ("native", "loop")
    found = []
    for route in fresh_routes:
        by_torch = replace(backend, routes=torchs, fresh_route=route, native=None)
        logits, state = model(ids, None, fresh, backend=by_torch)
        found.append((logits, *state[0], *torch.autograd.grad(logits.square().mean(), list(model.parameters()))))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.01, rtol=0.03)


def test_rows_are_taken_and_joined() -> None:
    state = make_model().zero_state(3)
    state = tuple(tuple(part + torch.arange(3.0)[:, None] for part in layer) for layer in state)
    parts = [take_rows(state, torch.tensor([0])), take_rows(state, torch.tensor([1, 2]))]
    torch.testing.assert_close(join_rows(parts), state)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("chosen", [{"embedding": 4}, {"input": "onehot"}])
def test_unknown_symbols_read_as_the_mean_of_the_known(chosen: dict[str, object], training: bool) -> None:
    model = make_model(layers=1, **chosen).train(training)
    table = first_layer(model).columns if model.embedding is None else model.embedding.weight
    with torch.no_grad():
        table[-1] = 1e6
        read_unknown = model(torch.full((3, 1), V - 1))[0]
        table[:-1] = table[:-1].mean(0)
    torch.testing.assert_close(read_unknown, model(torch.zeros(3, 1, dtype=torch.int64))[0])


def test_reading_unknown_symbols_trains_the_known_ones() -> None:
    model = make_model().train()
    model(torch.full((3, 1), V - 1))[0].square().sum().backward()
    assert model.embedding is not None and model.embedding.weight.grad is not None
    gradient = model.embedding.weight.grad
    assert not gradient[-1].any()
    torch.testing.assert_close(gradient[:-1], gradient[:1].expand(V - 1, -1))
    assert gradient[0].any()


def test_reading_and_foretelling_are_the_two_halves_of_a_call() -> None:
    model, ids = make_model(norm="rms", residual=True, output_dropout=0.5).train(), torch.randint(0, V, (9, 2))
    logits, state = model(ids, dropout_seed=3)
    raw, y, after = model.read(ids, dropout_seed=3)
    torch.testing.assert_close(model.logits(y[5:]), logits[5:])
    torch.testing.assert_close(after, state)
    assert torch.equal(raw[-1], state[-1][0])  # the last layer's outputs, nothing dropped
    assert not torch.equal(raw, y)


def test_where_rows_start_afresh_may_be_told_on_the_cpu_or_the_device() -> None:
    model, ids = make_model(), torch.randint(0, V, (9, 2))
    fresh = torch.rand(9, 2) < 0.3
    assert torch.equal(model(ids, None, fresh)[0], model(ids, None, fresh.to(model.device))[0])


@pytest.mark.parametrize("place", ["input_dropout", "dropout", "output_dropout", "embedding_dropout", "weight_drop"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_each_dropout_drops_by_itself_while_training_only(cell: str, place: str) -> None:
    model, ids = make_model(cell=cell, **{place: 0.3}).train(), torch.randint(0, V, (6, 2))
    one = model(ids, dropout_seed=5)[0]
    assert torch.equal(model(ids, dropout_seed=5)[0], one)
    assert not torch.equal(model(ids, dropout_seed=6)[0], one)
    assert torch.equal(model.eval()(ids)[0], model(ids, dropout_seed=9)[0])


def test_dropping_recurrent_weights_is_using_others() -> None:
    model, ids = make_model(layers=1, weight_drop=0.5).train(), torch.randint(0, V, (6, 2))
    given = model(ids, dropout_seed=5)[0]
    weight = first_layer(model).rnn.weight_hh_l0
    before = weight.detach().clone()
    weight.data = Masks(5, ids.device, on=True, variational=False).drop_weight(before, 0.5, 0)
    torch.testing.assert_close(model.eval()(ids)[0], given)


def test_logits_are_never_dropped() -> None:
    model, ids = make_model(head="none", layers=1, output_dropout=0.9).train(), torch.randint(0, V, (6, 2))
    assert torch.equal(model(ids, dropout_seed=1)[0], model(ids, dropout_seed=2)[0])


def test_without_an_output_layer_the_last_layer_gives_the_logits() -> None:
    model, ids = make_model(head="none").eval(), torch.randint(0, V, (6, 2))
    logits, state = model(ids)
    assert [part.shape for layer in state for part in layer] == [(2, 8), (2, 8), (2, V), (2, V)]
    assert torch.equal(logits[-1], state[-1][0])
    assert not any(name.startswith("head") for name, _ in model.named_parameters())


def test_tied_weights_are_one_and_begin_small() -> None:
    model = make_model(tied=True)
    assert model.embedding is not None and model.head is not None
    assert model.head.weight is model.embedding.weight
    assert bool((model.head.weight.abs() < 1).all())


def test_a_frozen_embedding_is_not_trained() -> None:
    model = make_model(freeze_embedding=True)
    model(torch.randint(0, V, (6, 2)))[0].sum().backward()
    assert model.embedding is not None and model.embedding.weight.grad is None
    assert model.head is not None and model.head.weight.grad is not None


@pytest.mark.parametrize("activation", ["tanh,relu", "relu,tanh"])
def test_each_layer_has_an_activation_of_its_own_also_where_rows_begin_afresh(activation: str) -> None:
    """With native code for some layers alone, rows must be zeroed in all of them."""
    ids, fresh = torch.randint(0, V, (6, 2)), torch.zeros(6, 2, dtype=torch.bool)
    fresh[3, 1] = True
    model = make_model(activation=activation).eval()
    with torch.inference_mode():
        logits, _ = model(ids, fresh=fresh)
        before, _ = model(ids[:3, 1:])
        after, _ = model(ids[3:, 1:])
        whole, _ = model(ids[:, :1])
    torch.testing.assert_close(logits[:, 1:], torch.cat((before, after)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[:, :1], whole, rtol=1e-4, atol=1e-5)
    bounded = [layer.activation for layer in model.layers if isinstance(layer, RecurrentLayer)]
    assert bounded == [getattr(torch, name) for name in activation.split(",")]


@pytest.mark.skipif(not recurrent.usable(torch.float32), reason="torch's own products depend on its threads")
@pytest.mark.parametrize(
    "chosen",
    [
        {"norm": "layer", "residual": True, "layers": 3},
        {"norm": "rms", "activation": "tanh,relu"},
        {"cell": "gru", "activation": "relu", "input_dropout": 0.3},
        {"input": "onehot", "input_dropout": 0.3, "weight_drop": 0.3},
        {"embedding_dropout": 0.3, "variational": True, "tied": True, "width": 40},
    ],
    ids=str,
)
def test_threads_change_no_bit_of_losses_and_gradients(chosen: dict[str, object]) -> None:
    model, ids = make_model(**{"width": 37, **chosen}).train(), torch.randint(0, V, (65, 64))
    found = []
    for threads in (1, 2, 3):
        with tune_cpu(threads):
            losses = model.losses(model.read(ids[:-1], dropout_seed=3)[1], ids[1:])
            found.append((losses, *torch.autograd.grad(losses.mean(), list(model.parameters()))))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_the_embedding_and_the_output_layer_begin_as_large_as_asked() -> None:
    uniform = make_model(embedding=200, embedding_initial="uniform", embedding_scale=0.05, output_scale=0.0)
    assert uniform.embedding is not None and uniform.head is not None
    assert 0.049 < float(uniform.embedding.weight.detach().abs().max()) <= 0.05
    assert not any(bool(parameter.any()) for parameter in uniform.head.parameters())
    plain, scaled = make_model(embedding=200), make_model(embedding=200, embedding_scale=0.5, output_scale=2.0)
    for name, factor in (("embedding.weight", 0.5), ("head.weight", 2.0), ("head.bias", 2.0)):
        assert torch.equal(scaled.state_dict()[name], factor * plain.state_dict()[name])


def test_without_a_hidden_bias_a_gate_learns_one_bias() -> None:
    model = make_model(hidden_bias=False)
    model(torch.randint(0, V, (6, 2)))[0].sum().backward()
    rnn = first_layer(model).rnn
    assert rnn.bias_hh_l0.grad is None and rnn.bias_ih_l0.grad is not None
    assert parameter_count(model.settings, V) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "chosen",
    [
        {"residual": True, "head": "none"},
        {"tied": True, "embedding": 4},
        {"tied": True, "head": "none"},
        {"tied": True, "input": "onehot"},
        {"embedding": "vectors.txt"},
        {"cell": "mingru", "weight_drop": 0.1},
        {"cell": "mingru", "activation": "relu"},
        {"cell": "mingru", "hidden_bias": False},
        {"layers": 3, "activation": "tanh,relu"},
        {"layers": 1, "activation": "relu,relu"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(chosen: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"model\.\w+"):
        make_model(**chosen)


@given(chosen=st.fixed_dictionaries(SHAPES))
@settings(deadline=None, max_examples=150)
def test_parameters_are_counted_without_making_them(chosen: dict[str, object]) -> None:
    model = any_model(chosen)
    assert parameter_count(model.settings, V) == sum(p.numel() for p in model.parameters())
    assert weight_shapes(model.settings, V) == {name: tuple(p.shape) for name, p in model.state_dict().items()}


def test_names_of_weights_stay_what_they_were() -> None:
    layer = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    recurrent = [f"layers.{depth}.rnn.{name}" for depth in range(2) for name in layer]
    assert list(make_model().state_dict()) == ["embedding.weight", *recurrent, "head.weight", "head.bias"]
    assert list(make_model(input="onehot", head="none").state_dict()) == recurrent
