"""Writes characters with a model, again and again, and prints a line of JSON for each piece.

    python benchmarks/writers.py scriven RUN [--precision int8] [--streams 64]
    python benchmarks/writers.py torch-layers|torch-cells|onnx-int8|onnx-fp32 [--width 256] [--streams 1]

`scriven` writes as its user does, with `scriven.load(RUN).samples(...)` and all filters on. The others have an LSTM of
two layers with random weights, draw from the softmax without a filter, and keep ids, not text. `torch-layers` calls
nn.LSTM for each character, `torch-cells` does its mathematics by hand (oneDNN off, which is faster for one character),
onnxruntime runs the same graph, whose matrix products its own tool has quantised to dynamic int8. It runs until it is
killed; see turns.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import versions

FILTERS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02}
TEMPERATURE = FILTERS["temperature"]
PIECE_SECONDS = 0.1  # a piece becomes longer until it takes as long
LAYERS = (0, 1)
STATE = [f"{name}{layer}" for layer in LAYERS for name in "hc"]

Write = Callable[[int], None]  # so many characters of all streams


def scriven_writer(asked: argparse.Namespace) -> Write:
    """A trained run, as users of the library write with it."""
    import scriven

    model = scriven.load(asked.run, precision=asked.precision)

    def write(length: int) -> None:
        if asked.streams == 1:
            texts = [model.sample(length=length, seed=1, **FILTERS)]
        else:
            texts = list(model.samples(asked.streams, length=length, seed=1, **FILTERS))
        assert all(len(text) == length for text in texts)

    return write


def torch_writer(asked: argparse.Namespace) -> Write:
    """torch, eager, one character after another."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(asked.threads)
    width, streams, by_hand = asked.width, asked.streams, asked.writer == "torch-cells"
    torch.backends.mkldnn.set_flags(not by_hand)
    embedding, output = torch.nn.Embedding(asked.vocabulary, width), torch.nn.Linear(width, asked.vocabulary)
    lstm = torch.nn.LSTM(width, width, num_layers=len(LAYERS))
    layers = [[getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")] for layer in LAYERS]
    weights = [torch.cat(pair, 1).t().contiguous() for pair in layers]  # (2H, 4H)
    biases = [getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}") for layer in LAYERS]
    zero = torch.zeros(len(LAYERS), streams, width)
    ids, state = torch.zeros(streams, dtype=torch.long), (zero, zero)
    cells = [(zero[0], zero[0]) for _ in LAYERS]

    def cell(x: Any, layer: int) -> Any:
        h, c = cells[layer]
        i, f, g, o = torch.addmm(biases[layer], torch.cat((x, h), 1), weights[layer]).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        cells[layer] = h, c
        return h

    @torch.inference_mode()
    def write(length: int) -> None:
        nonlocal ids, state
        for _ in range(length):
            x = embedding(ids)
            if by_hand:
                for layer in LAYERS:
                    x = cell(x, layer)
            else:
                y, state = lstm(x[None], state)
                x = y[0]
            chances = functional.softmax(output(x) / TEMPERATURE, -1)
            ids = torch.multinomial(chances, 1)[:, 0]

    return write


def onnx_writer(asked: argparse.Namespace) -> Write:
    """onnxruntime, one call a character."""
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(onnx_step(asked.width, asked.vocabulary), plain)
        quantization.quantize_dynamic(plain, small, weight_type=quantization.QuantType.QInt8)
        chosen = small if asked.writer == "onnx-int8" else plain
        session = onnxruntime.InferenceSession(chosen, options, providers=["CPUExecutionProvider"])
    random, ids = np.random.default_rng(1), np.zeros(asked.streams, np.int64)
    state = [np.zeros((asked.streams, asked.width), np.float32)] * len(STATE)

    def write(length: int) -> None:
        nonlocal ids, state
        for _ in range(length):
            logits, *state = session.run(None, {"ids": ids, **dict(zip(STATE, state, strict=True))})
            chances = np.exp((logits - logits.max(1, keepdims=True)) / TEMPERATURE).cumsum(1)  # (N, V)
            ids = (chances < random.random((len(ids), 1)) * chances[:, -1:]).sum(1)

    return write


def onnx_step(width: int, vocabulary: int) -> Any:
    """The graph of one character: ids (N,) and the state before to logits (N, V) and the state after."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    weights, nodes = [], []

    def add(name: str, *shape: int) -> str:
        values = random.uniform(-1, 1, shape).astype(np.float32) * width**-0.5
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, *inputs: str, to: str | list[str], **attributes: int) -> str:
        outputs = [to] if isinstance(to, str) else to
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def linear(x: str, name: str, inputs: int, outputs: int) -> str:
        product = node("MatMul", x, add(f"{name} weight", inputs, outputs), to=f"{name} product")
        return node("Add", product, add(f"{name} bias", outputs), to=name)

    def array(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    x = node("Gather", add("embedding", vocabulary, width), "ids", to="x")
    for n in LAYERS:
        both = node("Concat", x, f"h{n}", to=f"xh{n}", axis=1)
        gates = [f"{gate}{n}" for gate in "ifgo"]
        node("Split", linear(both, f"sums{n}", 2 * width, 4 * width), to=gates, axis=1, num_outputs=4)
        i, f, o = (node("Sigmoid", f"{gate}{n}", to=f"{gate}{n} open") for gate in "ifo")
        new = node("Mul", i, node("Tanh", f"g{n}", to=f"g{n} bounded"), to=f"new{n}")
        c = node("Add", node("Mul", f, f"c{n}", to=f"kept{n}"), new, to=f"c{n} after")
        x = node("Mul", o, node("Tanh", c, to=f"c{n} bounded"), to=f"h{n} after")
    linear(x, "logits", width, vocabulary)
    real = TensorProto.FLOAT
    before = [array("ids", TensorProto.INT64, "N"), *(array(name, real, "N", width) for name in STATE)]
    after = [array("logits", real, "N", vocabulary), *(array(f"{name} after", real, "N", width) for name in STATE)]
    graph = helper.make_graph(nodes, "step", before, after, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


WRITERS = {
    "scriven": scriven_writer,
    "torch-layers": torch_writer,
    "torch-cells": torch_writer,
    "onnx-int8": onnx_writer,
    "onnx-fp32": onnx_writer,
}


def main() -> None:
    """Writes with one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("writer", choices=WRITERS)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=66)
    parser.add_argument("--threads", type=int, default=1, help="of torch and onnxruntime")
    asked = parser.parse_args()
    write = WRITERS[asked.writer](asked)
    used = versions("scriven", "torch", "onnxruntime", "numpy")
    print(json.dumps({"event": "started", "precision": asked.precision, "versions": used}), flush=True)
    length, characters, seconds = 16, 0, 0.0
    while True:
        length *= 1 if seconds > PIECE_SECONDS else 2
        begun = time.perf_counter()
        write(length)
        seconds, characters = time.perf_counter() - begun, characters + length * asked.streams
        told = {"event": "stepped", "characters": characters, "seconds": time.perf_counter()}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
