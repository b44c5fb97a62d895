"""What computes a model: what is chosen, and that the choice holds whatever torch is set to afterwards."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from scriven.kernels import recurrent, scan
from scriven.model import CharLM, choose_backend
from scriven.model.precision import bf16_speedup
from scriven.settings import Cell, ModelSettings

V = 11
CPU, GPU = torch.device("cpu"), torch.device("cuda")
CELLS: list[Cell] = ["lstm", "gru", "rnn", "mingru"]


def make_model(**chosen: object) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelSettings.model_validate({"width": 8, "layers": 2, **chosen}), V)


def results(model: CharLM, autocast: bool = False, **more: Any) -> list[Tensor]:
    """What a model computes of a chunk with fresh starts and of one step, and the gradients of the chunk's losses."""
    torch.manual_seed(1)
    ids, fresh = torch.randint(0, V, (9, 3)), torch.rand(9, 3) < 0.3
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        raw, y, state = model.read(ids, None, fresh, **more)
        losses = model.losses(y, ids, **more)
        logits, after = model(ids[:1], state, **more)
    found = [raw, y, losses, logits, *(part for layer in (*state, *after) for part in layer)]
    return found + (list(torch.autograd.grad(losses.sum(), list(model.parameters()))) if losses.requires_grad else [])


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", ["tanh", "tanh,relu"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_choice_holds_whatever_torch_is_set_to(cell: Cell, activation: str, precision: str, learns: bool) -> None:
    """It computes the same bits as the plain call under autocast to its number format, also under another one."""
    if precision == "bf16" and learns and not bf16_speedup(cell):
        pytest.skip("torch cannot train such a layer in bf16 on this processor")
    model = make_model(cell=cell, activation=activation if cell != "mingru" else "tanh").train(learns)
    backend = choose_backend(model.settings, model.device, precision, learns=learns)
    with torch.set_grad_enabled(learns):
        expected = results(model, precision == "bf16")
        for autocast in (False, True):
            assert_equal(results(model, autocast, backend=backend), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_is_copied_and_pickled_as_any_module(copied: Any) -> None:
    model = make_model().train()
    other = copied(model)
    assert_equal(results(other), results(model))
    other.load_state_dict(make_model(embedding_scale=2.0).state_dict())
    assert_equal(results(other), results(make_model(embedding_scale=2.0).train()))


def test_a_model_of_doubles_is_read_step_by_step() -> None:
    """Native code knows no doubles, and no function of torch's either on every processor."""
    model, ids = make_model(activation="relu").double(), torch.randint(0, V, (9, 3))
    state = tuple(tuple(part.double() for part in layer) for layer in model.zero_state(3))
    _, y, _ = model.read(ids, state)
    assert y.dtype == torch.float64


@pytest.mark.parametrize(
    ("chosen", "device", "precision", "kernels", "routes"),
    [
        ({}, CPU, "fp32", "fp32", ("native", "native")),
        ({}, CPU, "bf16", "fp32", ("torch", "torch")),
        ({}, CPU, "bf16", "bf16", ("native", "native")),
        ({}, CPU, "fp32", "none", ("torch", "torch")),
        ({}, GPU, "fp32", "bf16", ("torch", "torch")),
        ({"activation": "tanh,relu"}, CPU, "fp32", "fp32", ("native", "native")),
        ({"activation": "tanh,relu"}, CPU, "fp32", "none", ("torch", "loop")),
        ({"activation": "relu,tanh"}, GPU, "bf16", "bf16", ("loop", "torch")),
        ({"input": "onehot"}, CPU, "fp32", "fp32", ("native", "native")),
        ({"input": "onehot"}, GPU, "fp32", "none", ("loop", "torch")),
        ({"cell": "mingru"}, CPU, "bf16", "fp32", ("native", "native")),
        ({"cell": "mingru"}, CPU, "bf16", "none", ("loop", "loop")),
        ({"cell": "mingru"}, GPU, "bf16", "bf16", ("loop", "loop")),
        ({"cell": "registered"}, CPU, "bf16", "bf16", ("module", "module")),
    ],
    ids=str,
)
def test_the_fastest_code_is_chosen_for_each_layer(
    chosen: dict[str, object],
    device: torch.device,
    precision: str,
    kernels: str,
    routes: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usable = {"none": [], "fp32": [torch.float32], "bf16": [torch.float32, torch.bfloat16]}[kernels]
    monkeypatch.setattr(recurrent, "usable", lambda dtype: dtype in usable)
    monkeypatch.setattr(scan, "usable", lambda: kernels != "none")
    settings = ModelSettings().model_copy(update={"layers": 2, **chosen})  # not validated: the cell need not exist
    backend = choose_backend(settings, device, precision, learns=True)
    assert backend.routes == routes
    assert backend.takes_ids == (routes[0] == "native") and backend.takes_fresh == (set(routes) == {"native"})
    wanted = torch.bfloat16 if precision == "bf16" else torch.float32
    assert backend.native == (wanted if device == CPU and wanted in usable else None)
    fresh_route = "torch" if device == GPU else "loop" if kernels == "none" else "native"
    assert (backend.fresh_route, backend.single_steps) == (fresh_route, False)
