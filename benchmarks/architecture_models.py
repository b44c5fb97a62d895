"""A small transformer and a minGRU for characters, in plain torch, and how they are trained; see architectures.py.

Shapes are those of docs/shapes.md: T characters of N rows, D values each, V symbols.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven.kernels import muon

CONVOLVED = 4  # characters that minGRU's convolution sees
MUON_MOMENTUM, ADAMW_SHARE, DECAY, CLIP, WARMUP, RESTART = 0.95, 0.2, 0.1, 1.0, 0.02, 0.01  # as Scriven's defaults
WINDOWS_AT_ONCE, STREAM_CHUNK = 32, 2048


@dataclass(frozen=True)
class Design:
    """What the grid chooses."""

    kind: str  # transformer or mingru
    layers: int
    width: int
    rows: int
    length: int
    rate: float  # of Muon at its peak
    dropout: float = 0.0

    @property
    def name(self) -> str:
        """As the table shows it."""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{self.layers}x{self.width}, {self.rows} rows of {self.length}, rate {self.rate:g}{dropout}"


class Attention(nn.Module):
    """Causal attention with rotary positions (Su et al. 2021). A character sees itself and the `length - 1` before."""

    def __init__(self, width: int, length: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.length = heads, length
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns (T, N, D) for x (T, N, D); nothing is remembered between calls."""
        steps, rows, _ = x.shape
        q, k, v = self.inputs(x).view(steps, rows, 3, self.heads, -1).permute(2, 1, 3, 0, 4)  # (N, heads, T, D / heads)
        age = torch.arange(steps)[:, None] - torch.arange(steps)
        hidden = torch.where((age >= 0) & (age < self.length), 0.0, -math.inf)
        scores = rotate(q) @ (rotate(k) / math.sqrt(k.shape[-1])).transpose(-1, -2)  # (N, heads, T, T)
        y = (scores + hidden.to(scores.dtype)).softmax(-1) @ v  # in bf16 faster than torch's own function
        return self.output(y.permute(2, 0, 1, 3).flatten(2)), None


def rotate(x: Tensor) -> Tensor:
    """Rotates pairs of x (..., T, D) by angles that grow with the place t."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10_000.0 ** (-torch.arange(half) / half)  # (T, D / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class MinGRU(nn.Module):
    """A convolution over the last characters, then minGRU (Feng et al. 2024): gates that depend on the input alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Parameter(torch.zeros(CONVOLVED, width))
        nn.init.ones_(self.convolution[-1])  # at first, each character as it is
        self.inputs = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns (T, N, D) for x (T, N, D) and the state after it: the last inputs, and h (CONVOLVED, N, D)."""
        steps = len(x)
        if state is None:
            state = x.new_zeros(CONVOLVED, *x.shape[1:], dtype=torch.float32)
        padded = torch.cat([state[:-1], x])
        mixed = sum(weight * padded[i : i + steps] for i, weight in enumerate(self.convolution))
        k, x = self.inputs(mixed).float().chunk(2, -1)
        h = Scan.apply(torch.sigmoid(-k), torch.sigmoid(k) * positive(x), state[-1])
        return h, torch.cat([padded[steps:], h[-1:]])


def positive(x: Tensor) -> Tensor:
    """The function g of the paper's appendix B: x + 1/2 if x >= 0, and sigmoid(x) otherwise."""
    return functional.relu(x) + torch.sigmoid(x.clamp(max=0))


class Scan(torch.autograd.Function):
    """h_t = a_t h_(t-1) + b_t, step by step; on one core that is faster than the parallel form, `scan_log`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, first: Tensor) -> Tensor:
        """Returns h (T, N, D) from a and b (T, N, D) and the state before."""
        h, before = torch.empty_like(b), first
        for t in range(len(b)):
            before = torch.addcmul(b[t], a[t], before, out=h[t])
        ctx.save_for_backward(a, h, first)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of a, b and the state before."""
        a, h, first = ctx.saved_tensors
        db = gradient.clone()
        for t in range(len(a) - 2, -1, -1):
            db[t].addcmul_(a[t + 1], db[t + 1])
        return db * torch.cat([first[None], h[:-1]]), db, a[0] * db[0]


def scan_log(log_a: Tensor, log_b: Tensor, log_first: Tensor) -> Tensor:
    """The same in parallel and in logarithms (Heinsen 2023), as in the paper of minGRU."""
    total = functional.pad(log_a.cumsum(0), (0, 0, 0, 0, 1, 0))
    return (total + torch.logcumsumexp(torch.cat([log_first[None], log_b]) - total, 0)).exp()[1:]


class ResidualBlock(nn.Module):
    """Adds what a mixer makes of the characters before, then what two layers make of each place alone."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        width = design.width
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.mixer = Attention(width, design.length) if design.kind == "transformer" else MinGRU(width)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.down.weight)
        self.dropout = nn.Dropout(design.dropout)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns (T, N, D) for x (T, N, D), and the state after it."""
        y, state = self.mixer(self.norms[0](x), state)
        x = x + self.dropout(y)
        return x + self.dropout(self.down(functional.relu(self.up(self.norms[1](x))).square())), state


States = list[Tensor | None]


class CharacterModel(nn.Module):
    """Embedding, blocks, norm, linear output."""

    def __init__(self, design: Design, vocabulary: int) -> None:
        super().__init__()
        self.design = design
        self.embedding = nn.Embedding(vocabulary, design.width)
        self.blocks = nn.ModuleList(ResidualBlock(design) for _ in range(design.layers))
        self.norm = nn.RMSNorm(design.width)
        self.output = nn.Linear(design.width, vocabulary)
        nn.init.zeros_(self.output.weight)

    def forward(self, ids: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        """Returns logits (T, N, V) for ids (T, N), and the states after them."""
        x, after = self.embedding(ids), []
        for block, before in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, state = block(x, before)
            after.append(state)
        return self.output(self.norm(x)), after


class MuonAndAdamW:
    """Muon, by Scriven's own functions, for the blocks' matrices, and AdamW for everything else.

    `dtype` is that of Muon's products; in bf16, processors without it take many times as long.
    """

    def __init__(self, model: CharacterModel, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.matrices = [each for each in model.blocks.parameters() if each.ndim == 2 and len(each) > CONVOLVED]
        chosen = set(map(id, self.matrices))
        others = [each for each in model.parameters() if id(each) not in chosen]
        self.others = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self.parameters = [*others, *self.matrices]
        self.momenta = [torch.zeros_like(each) for each in self.matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Makes one step from the gradients and clears them. Matrices that are stacks of squares are cut into these."""
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.others.param_groups[0]["lr"] = ADAMW_SHARE * rate
        self.others.step()
        gradients = [square for each in self.matrices for square in squares(each.grad)]
        momenta = [square for each in self.momenta for square in squares(each)]
        updates = [torch.empty_like(each, dtype=self.dtype) for each in gradients]
        muon.update(gradients, momenta, updates, 1.0, MUON_MOMENTUM, native=False)
        weights = [square for each in self.matrices for square in squares(each)]
        muon.apply(updates, weights, 1 - rate * DECAY, rate, native=False)
        for each in self.parameters:
            each.grad = None


def squares(matrix: Tensor) -> tuple[Tensor, ...]:
    """The square parts of a matrix that is a stack or a row of these."""
    rows, columns = matrix.shape
    return matrix.chunk(rows // columns) if rows >= columns else matrix.chunk(columns // rows, 1)


def read_chunks(ids: Tensor, rows: int, length: int) -> Iterator[Tensor]:
    """Yields chunks (T + 1, N) of a text without end: as in Scriven's stream, rows read on from N places."""
    places = torch.arange(length + 1)[:, None] + torch.arange(rows) * (len(ids) // rows)
    while True:
        yield ids[places % len(ids)]
        places += length


def train(model: CharacterModel, ids: Tensor, seconds: float, *, bf16: bool = True) -> list[float]:
    """Trains for seconds of this process's processor time; returns the loss of each step."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    optimizer, states, losses = MuonAndAdamW(model.train(), dtype), None, []
    design, begun = model.design, time.process_time()
    for chunk in read_chunks(ids, design.rows, design.length):
        progress = (time.process_time() - begun) / seconds
        if progress >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits, states = model(chunk[:-1], states)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), chunk[1:].flatten())
        loss.backward()
        optimizer.step(design.rate * schedule(progress))
        kept = (torch.rand(design.rows, 1) >= RESTART).float()
        states = [None if state is None else state.detach() * kept for state in states]
        losses.append(loss.item())
    return losses


def schedule(progress: float) -> float:
    """The share of the peak rate: it rises, then falls as a cosine to 0."""
    if progress < WARMUP:
        return max(progress, 1e-3) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@torch.inference_mode()
def measure_windows(model: CharacterModel, ids: Tensor, length: int = 256) -> float:
    """Nats per character by Scriven's protocol `window-LENGTH`, in fp32."""
    model.eval()
    total, count = 0.0, len(ids) - 1
    whole = count // length
    index = torch.arange(whole) * length + torch.arange(length + 1)[:, None]
    chunks = list(ids[index].split(WINDOWS_AT_ONCE, 1)) if whole else []
    if count % length:
        chunks.append(ids[whole * length :, None])
    for chunk in chunks:
        logits, _ = model(chunk[:-1])
        total += functional.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten(), reduction="sum").item()
    return total / count


@torch.inference_mode()
def measure_stream(model: CharacterModel, ids: Tensor) -> float:
    """Nats per character of a text that is read once, with the state carried all the way; the first is given."""
    model.eval()
    total, states = 0.0, None
    for start in range(0, len(ids) - 1, STREAM_CHUNK):
        chunk = ids[start : start + STREAM_CHUNK + 1, None]
        logits, states = model(chunk[:-1], states)
        total += functional.cross_entropy(logits[:, 0], chunk[1:, 0], reduction="sum").item()
    return total / (len(ids) - 1)
