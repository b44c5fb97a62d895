"""A network of numpy against the same one in torch: each cell, norm and head, documents, pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scriven.arrays import Ids, as_numpy
from scriven.inference.numpy_network import NumpyNetwork
from scriven.inference.predictor import Predictor
from scriven.inference.torch_network import TorchNetwork, make_module
from scriven.model import CharLM
from scriven.model.shapes import weight_shapes
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

SETTINGS = [
    ModelSettings(width=40),
    ModelSettings(width=1, layers=1),
    ModelSettings(width=57, cell="gru", layers=1),
    ModelSettings(width=17, layers=3, residual=True, norm="rms", embedding=5),
    ModelSettings(width=33, cell="gru", activation="tanh,relu", norm="layer"),
    ModelSettings(width=20, activation="relu,tanh", tied=True, residual=True, norm="layer"),
    ModelSettings(width=30, cell="rnn", input="onehot"),
    ModelSettings(width=24, cell="rnn", activation="relu", input="onehot", head="none", layers=1),
    ModelSettings(width=40, cell="mingru", layers=3, residual=True, norm="rms"),
    ModelSettings(width=33, cell="mingru", input="onehot"),
]
SYMBOLS = 23


def make_networks(settings: ModelSettings) -> tuple[NumpyNetwork, TorchNetwork]:
    """The same random weights, biases and norms too."""
    torch.manual_seed(1)
    model = CharLM(settings, SYMBOLS).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name or "norm" in name:
                weight.add_(torch.randn_like(weight) / 5)
    weights = {name: as_numpy(value) for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in weights.items()} == weight_shapes(settings, SYMBOLS)
    return NumpyNetwork(settings, SYMBOLS, weights), TorchNetwork(model, "fp32")


def text(steps: int, rows: int) -> Ids:
    return np.random.default_rng(1).integers(0, SYMBOLS, (steps, rows))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_numpy_reads_what_torch_reads(settings: ModelSettings) -> None:
    """Rows begin afresh meanwhile, and the state is carried to the next piece."""
    (network, reference), ids = make_networks(settings), text(40, 3)
    state, expected = None, None
    for piece in np.split(ids, [1, 9]):
        fresh = piece == 3
        logits, state = network.read(piece, state, fresh)
        values, expected = reference.read(piece, expected, fresh)
        torch.testing.assert_close(logits, as_numpy(values), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
        last, _ = network.read(piece, None, None, since=-1)
        torch.testing.assert_close(last, network.read(piece, None, None)[0][-1:], rtol=1e-4, atol=1e-5)
        nats, right = network.costs(logits, piece, logits[0])
        torch_nats, torch_right = reference.costs(torch.from_numpy(logits), piece, logits[0])
        np.testing.assert_allclose(nats, torch_nats, rtol=1e-5, atol=1e-5)
        assert right.tolist() == torch_right.tolist()


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_numpy_writes_what_torch_writes(settings: ModelSettings) -> None:
    network, _ = make_networks(settings)
    vocabulary = Vocabulary.of("\n" + "".join(map(chr, range(97, 97 + SYMBOLS - 2))))
    numbers, texts = np.random.default_rng(5).random((30, 2)), []
    for model in (network, make_module(settings, SYMBOLS, network.weights)):
        predictor = Predictor(model, vocabulary, "fp32")
        ids, _ = predictor.generate(predictor.start().rows([0, 0]), SamplingSettings(), numbers)
        texts.append(ids.tolist())
    assert texts[0] == texts[1]


def test_the_state_before_anything_has_the_shapes_of_torchs() -> None:
    for settings in SETTINGS:
        network, reference = make_networks(settings)
        expected = [[tuple(part.shape) for part in layer] for layer in reference.model.zero_state(2)]
        assert [[part.shape for part in layer] for layer in network.zero_state(2)] == expected
