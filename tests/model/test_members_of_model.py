"""A model of several members is those networks one by one, averaged."""

from typing import Any

import pytest
import torch
from torch import Tensor

import scriven
from own_parts import HandLSTM
from scriven.errors import UsageError
from scriven.model import CharLM, State
from scriven.model.backends import choose_backend
from scriven.model.language_model import Ensemble, join_rows, make_model, member_seed, take_rows
from scriven.model.shapes import parameter_count, state_size, weight_shapes
from scriven.settings import ModelSettings

V = 11
DROPPED = {"dropout": 0.3, "input_dropout": 0.2, "output_dropout": 0.4, "weight_drop": 0.5, "embedding_dropout": 0.2}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"cell": "gru", "members": 3, "layers": 1},
    {"cell": "rnn", "input": "onehot", "activation": "relu,tanh"},
    {"cell": "mingru", "residual": True, "norm": "rms", "layers": 3},
    {"tied": True, "norm": "layer"},
    {"head": "none", "embedding": 5, "members": 3},
]
every_kind = pytest.mark.parametrize("chosen", SETTINGS, ids=str)


def make(chosen: dict[str, Any]) -> Ensemble:
    torch.manual_seed(2)
    model = make_model(ModelSettings.model_validate({"width": 8, "members": 2, **chosen}), V)
    assert isinstance(model, Ensemble)
    return model.eval()


def text(steps: int, rows: int) -> Tensor:
    return torch.randint(0, V, (steps, rows), generator=torch.Generator().manual_seed(5))


def flat(state: State) -> list[Tensor]:
    return [part for layer in state for part in layer]


def read_apart(model: Ensemble, ids: Tensor, fresh: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """The mean of the members' logits, and their states, from models alone with their weights."""
    logits, states = [], list[Tensor]()
    for number in range(model.settings.members):
        alone = CharLM(model.settings.model_copy(update={"members": 1}), V).eval()
        prefix = f"members.{number}."
        weights = {name.removeprefix(prefix): each for name, each in model.state_dict().items() if prefix in name}
        alone.load_state_dict(weights)
        own, state = alone(ids, None, fresh)
        logits.append(own)
        states += flat(state)
    return sum(logits[1:], logits[0]) / len(logits), states


@every_kind
@torch.no_grad()
def test_logits_are_the_mean_of_those_of_models_alone(chosen: dict[str, Any]) -> None:
    model, ids = make(chosen), text(9, 3)
    for fresh in (None, ids == 4):
        logits, state = model(ids, None, fresh)
        expected, states = read_apart(model, ids, fresh)
        torch.testing.assert_close(logits, expected)
        assert all(torch.equal(*pair) for pair in zip(flat(state), states, strict=True))


@every_kind
@torch.no_grad()
def test_a_state_is_continued_cut_and_joined(chosen: dict[str, Any]) -> None:
    model, ids = make(chosen), text(9, 3)
    whole, end = model(ids)
    _, state = model(ids[:4])
    rows = [take_rows(state, torch.tensor([row])) for row in range(3)]
    logits, after = model(ids[4:], join_rows(rows))
    torch.testing.assert_close(logits, whole[4:])
    torch.testing.assert_close(flat(after), flat(end))


@every_kind
def test_shapes_and_sizes_are_known_without_the_model(chosen: dict[str, Any]) -> None:
    model = make(chosen)
    shapes = weight_shapes(model.settings, V)
    assert shapes == {name: tuple(each.shape) for name, each in model.state_dict().items()}
    assert parameter_count(model.settings, V) == sum(each.numel() for each in model.parameters())
    assert state_size(model.settings, V) == sum(each.shape[1] for each in flat(model.zero_state(1)))


@every_kind
def test_each_member_has_a_share_of_the_gradient_it_has_alone(chosen: dict[str, Any]) -> None:
    """In training too: the first member has the dropout of a model alone, and the others have their own."""
    model, ids, seed = make({**chosen, **(DROPPED if chosen.get("cell") != "mingru" else {})}).train(), text(9, 3), 7
    backend = choose_backend(model.settings, model.device, "fp32", learns=True)
    losses = model.losses(model.read(ids[:-1], None, None, seed, backend)[1], ids[1:], backend)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    mean, members = torch.zeros_like(losses), model.networks
    for number, member in enumerate(members):
        found = {name: each.grad.clone() for name, each in member.named_parameters() if each.grad is not None}
        member.zero_grad()
        own = member.losses(member.read(ids[:-1], None, None, member_seed(seed, number), backend)[1], ids[1:], backend)
        own.sum().backward()  # type: ignore[no-untyped-call]
        mean += own.detach() / len(members)
        for name, each in member.named_parameters():
            if name in found:
                torch.testing.assert_close(len(members) * found[name], each.grad)
    assert member_seed(seed, 0) == seed != member_seed(seed, 1)
    torch.testing.assert_close(losses.detach(), mean)


def test_the_first_member_begins_as_a_model_alone_does() -> None:
    settings = ModelSettings(width=8)
    torch.manual_seed(2)
    alone, first, second = CharLM(settings, V).state_dict(), *(each.state_dict() for each in make({}).networks)
    assert all(torch.equal(alone[name], first[name]) for name in alone | first)
    assert not torch.equal(first["head.weight"], second["head.weight"])


@torch.no_grad()
def test_a_registered_cell_can_have_members() -> None:
    scriven.register_cell("hand-lstm", HandLSTM)
    model, ids = make({"cell": "hand-lstm"}), text(5, 2)
    torch.testing.assert_close(model(ids)[0], read_apart(model, ids)[0])
    assert weight_shapes(model.settings, V).keys() == model.state_dict().keys()
    assert state_size(model.settings, V) == 2 * 2 * 2 * 8


def test_one_network_has_no_members() -> None:
    with pytest.raises(UsageError, match=r"model\.members is 2; drop it, or give 1"):
        CharLM(ModelSettings(members=2), V)
    assert "members" not in dict(make_model(ModelSettings(width=8), V).named_children())
    assert ModelSettings(members=2).name == "2 members of lstm 2x192"
