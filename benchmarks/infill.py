"""How well the middle of a text is found between both sides: by an ordinary model, a backward one, and trained ones.

    python benchmarks/infill.py TEXT --models FOLDER

Models of one shape are trained for the same steps on the first 90 % of the text, unless FOLDER has them already:
`forward` on the text; `backward` on the text reversed; `psm` on documents prefix | suffix | middle, cut from the text
at random; `spm` the same as suffix | prefix | middle. From the rest, spans of 5 to 40 characters are removed, between
200 characters before and 64 after. A way is right if it gives exactly the span. Its nats per character are those of the
span and its end, given both sides and at most 40 characters. Those of the trained models are exact; those of others
divide by a sum over all middles, which is estimated from draws: from below by the draws alone, from above with the span
among them. Seconds are those of the processor for one span, with one native thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import arguments_parser, save, table

from scriven import load, train
from scriven.inference.context import Context, side_by_side
from scriven.inference.generation import GenerationOptions
from scriven.inference.search import MiddleOptions, MiddleSearch
from scriven.inference.surprisal import read_rows
from scriven.kernels import native_library
from scriven.sampling_settings import SamplingSettings
from scriven.trained_model import Model

MARKS = PREFIX, SUFFIX, MIDDLE, END = "¹²³⁴"
LEAST, MOST = 5, 40  # characters of a span
BEFORE, AFTER = 200, 64  # characters around it
DOCUMENTS = 40_000  # that the trained models read: about six times the text
ROWS = 2048  # that are read together
AT_ONCE, GIVEN_UP = 8, 16.0  # characters, after which rows that are so many nats behind the best are left out


@dataclass(frozen=True)
class Gap:
    """A removed span and what is around it."""

    before: str
    span: str
    after: str


@dataclass(frozen=True)
class Candidates:
    """Middles with their nats: of the middle after what is before, of what is after, and of drawing it."""

    texts: list[str]
    own: np.ndarray
    after: np.ndarray
    drawn: np.ndarray


def main() -> None:
    """Trains what is missing, measures all ways, and prints a table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--spans", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args()
    text = arguments.text.read_text("utf-8")
    cut = len(text) * 9 // 10
    models = {name: find_model(arguments, name, text[:cut]) for name in ("forward", "backward", "psm", "spm")}
    gaps = remove_spans(text[cut:], arguments.spans, np.random.default_rng(arguments.seed))
    rows = []
    for name, way in ways(models, arguments.draws).items():
        random, begun = np.random.default_rng(arguments.seed), time.process_time()
        with native_library.native_threads(1):
            found = [way(gap, random) for gap in gaps]
        seconds = (time.process_time() - begun) / len(gaps)
        rows.append({"way": name, **summarize(gaps, found), "seconds": seconds})
        print(rows[-1], flush=True)
    print(table(list(rows[0]), ([show(row[name]) for name in rows[0]] for row in rows)))
    save(arguments, "infill", rows)


def show(value: object) -> str:
    """A cell of the table."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def find_model(arguments: object, name: str, text: str) -> Model:
    """The model of a kind, trained unless it is there."""
    folder = arguments.models / name
    if not folder.exists():
        source = folder.with_suffix(".txt")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(KINDS[name](text), "utf-8")
        settings = {
            "model": {"width": arguments.width, "layers": 1, "dropout": 0},
            "reader": {"batch": 64, "length": 128},
            "training": {"seed": 1, "workers": 1},
        }
        if name in ("psm", "spm"):
            settings["corpus"] = {"documents": "lines"}
            source.write_text(source.read_text("utf-8").replace("\n", "⏎").replace(END, "\n"), "utf-8")
        train(source, steps=arguments.steps, output=folder, settings=settings, initial="none", reports=[])
    model = load(folder, counts="none")
    print(name, model.settings.model.name, open_loss(folder), flush=True)
    return model


def open_loss(folder: Path) -> str:
    """The last line of a run's log."""
    return (folder / "metrics.jsonl").read_text("utf-8").strip().rpartition("\n")[2][:300]


def cut_documents(text: str, order: str) -> str:
    """Documents cut at random from a text, each with both sides of a span, and the span last."""
    random, made = np.random.default_rng(1), []
    for _ in range(DOCUMENTS):
        before, middle = int(random.integers(20, BEFORE + 1)), int(random.integers(0, MOST + 11))
        begin = int(random.integers(0, len(text) - before - middle - AFTER))
        sides = text[begin : begin + before], text[begin + before + middle :][:AFTER]
        made.append(lay_out(order, *sides) + text[begin + before :][:middle] + END)
    return "".join(made)


def lay_out(order: str, before: str, after: str) -> str:
    """Both sides of a span, as a trained model reads them."""
    if order == "psm":
        return PREFIX + before + SUFFIX + after + MIDDLE
    return SUFFIX + after + PREFIX + before + MIDDLE


KINDS: dict[str, Callable[[str], str]] = {
    "forward": str,
    "backward": lambda text: text[::-1],
    "psm": lambda text: cut_documents(text, "psm"),
    "spm": lambda text: cut_documents(text, "spm"),
}


def remove_spans(text: str, count: int, random: np.random.Generator) -> list[Gap]:
    """Spans of all lengths alike, at random places."""
    gaps = []
    for _ in range(count):
        size = int(random.integers(LEAST, MOST + 1))
        begin = int(random.integers(BEFORE, len(text) - size - AFTER))
        gaps.append(Gap(text[begin - BEFORE : begin], text[begin : begin + size], text[begin + size :][:AFTER]))
    return gaps


def ways(models: dict[str, Model], draws: list[int]) -> dict[str, Callable]:
    """What is compared: each gives a text, and two numbers of nats for the span, or nan."""
    forward, backward = models["forward"], models["backward"]
    found: dict[str, Callable] = {}
    found["no suffix, length known"] = lambda gap, random: (
        forward.sample(gap.before, length=len(gap.span), temperature=0),
        *2 * (cost(forward, gap.before, gap.span),),
    )
    for count in draws:
        found[f"forward, {count} draws"] = lambda gap, random, count=count: search(forward, gap, count, random, 1.0)
        found[f"forward, beam of {count}"] = lambda gap, random, count=count: search(forward, gap, count, random, 0.0)
    count = draws[0]
    found[f"backward, {count} draws, judged by forward"] = lambda gap, random: choose(
        forward, gap, draw_backward(forward, backward, gap, count, random), count, random
    )
    for name in ("psm", "spm"):
        found[f"{name}, drawn"] = lambda gap, random, name=name: fill(models[name], name, gap, random, 1.0)
        found[f"{name}, greedy"] = lambda gap, random, name=name: fill(models[name], name, gap, random, 0.0)
        found[f"{name}, beam of 16"] = lambda gap, random, name=name: fill_by_beam(models[name], name, gap, 16)
    return found


def summarize(gaps: list[Gap], found: list[tuple[str, float, float]]) -> dict[str, float]:
    """The share of spans that are right, of short and long ones, and the mean nats per character."""
    right = np.array([text == gap.span for gap, (text, *_) in zip(gaps, found, strict=True)])
    sizes = np.array([len(gap.span) for gap in gaps])
    low, high = (sum(each[n] for each in found) / sizes.sum() for n in (1, 2))
    joined = np.array([each[3] if len(each) > 3 else math.nan for each in found])
    return {
        "right": float(right.mean()),
        "of 5-10": float(right[sizes <= 10].mean()),
        "of 11-20": float(right[(sizes > 10) & (sizes <= 20)].mean()),
        "of 21-40": float(right[sizes > 20].mean()),
        "nats/char from": float(low),
        "to": float(high),
        "effective draws": float(np.median(joined)),
    }


def after(model: Model, text: str, begin: str = "") -> Context:
    """The context after a text."""
    return model.predictor.read(model.predictor.start(), model.encode(begin + text)[:, None])


def cost(model: Model, before: str, text: str, *, ends: bool = False) -> float:
    """The nats of a text after another, and of its end."""
    ids = model.encode(text)
    if ends:
        ids = np.append(ids, model.vocabulary.boundary)
    nats, _, _ = read_rows(model.predictor, ids[:, None], after(model, before))
    return float(nats.sum())


def fill(model: Model, order: str, gap: Gap, random: np.random.Generator, temperature: float) -> tuple:
    """What a trained model writes, and the nats of the span."""
    prompt = lay_out(order, gap.before, gap.after).replace("\n", "⏎")
    made = model.sample(prompt, length=MOST, temperature=temperature, seed=int(random.integers(1 << 30)))
    nats = cost(model, prompt, gap.span.replace("\n", "⏎"), ends=True)
    return made.replace("⏎", "\n"), nats, nats


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities (N, V)."""
    logits = logits.astype(np.float64)
    top = logits.max(1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))


def fill_by_beam(model: Model, order: str, gap: Gap, width: int) -> tuple:
    """The likeliest text that ends, by a beam, and the nats of the span."""
    prompt = lay_out(order, gap.before, gap.after).replace("\n", "⏎")
    text = model.find_likeliest(prompt, beam=width, length=MOST + 1)[0].replace("⏎", "\n")
    nats = cost(model, prompt, gap.span.replace("\n", "⏎"), ends=True)
    return text, nats, nats


def search(model: Model, gap: Gap, draws: int, random: np.random.Generator, temperature: float) -> tuple:
    """What `Model.infill` finds, and bounds of the nats of the span by its draws."""
    options = MiddleOptions(GenerationOptions(MOST, temperature=temperature), draws)
    made = MiddleSearch(model.predictor, after(model, gap.before), model.encode(gap.after), options, random)
    while made.advance():
        pass
    found = made.choose()
    if not temperature:
        return found.text, math.nan, math.nan
    weights = -made._nats - math.log(draws)
    return found.text, *bounds(model, gap, np.logaddexp.reduce(weights), draws), found.effective_draws


def bounds(model: Model, gap: Gap, total: float, draws: int) -> tuple[float, float]:
    """The nats of a span less ln of the sum over all middles, without it among the draws and with it."""
    own, rest = cost(model, gap.before, gap.span), cost(model, gap.before + gap.span, gap.after)
    return float(total + own + rest), float(np.logaddexp(total, -rest - math.log(draws)) + own + rest)


def read_after(model: Model, contexts: list[Context], text: str, begin: np.ndarray) -> np.ndarray:
    """The nats of a text after each row of contexts; inf for rows that fall far behind, with the nats that they begin
    with."""
    ids, total, joined = model.encode(text), begin.copy(), side_by_side(contexts)
    alive, parts = np.arange(len(total)), list[Context]()
    for place in range(0, len(ids), AT_ONCE):
        piece = ids[place : place + AT_ONCE]
        for first in range(0, len(alive), ROWS):
            some = alive[first : first + ROWS]
            nats, _, after = read_rows(
                model.predictor, np.repeat(piece[:, None], len(some), 1), joined.rows(range(first, first + len(some)))
            )
            total[some] += nats.sum(0)
            parts = [after] if not first else [*parts, after]
        kept = np.flatnonzero(total[alive] <= total[alive].min() + GIVEN_UP)
        total[np.delete(alive, kept)] = math.inf
        joined, alive = side_by_side(parts).rows(kept.tolist()), alive[kept]
    return total - begin


def draw_backward(forward: Model, backward: Model, gap: Gap, count: int, random: np.random.Generator) -> Candidates:
    """Every beginning of texts drawn from the right, with the nats that the forward model gives."""
    other = Gap(gap.after[::-1], "", "")
    predictor = backward.predictor
    context = after(backward, other.before).rows([0] * count)
    ids, drawing = np.zeros((0, count), np.int64), np.zeros((1, count))
    for _ in range(MOST):
        values = log_softmax(predictor.next_logits(context, writing=True))
        drawn, context = predictor.generate(context, SamplingSettings(), random.random((1, count)))
        drawing = np.concatenate((drawing, drawing[-1:] - values[np.arange(count), drawn[0]]))
        ids = np.concatenate((ids, drawn))
    texts = [backward.decode(row[:size])[::-1] for size in range(MOST + 1) for row in ids.T]
    start, own, contexts = after(forward, gap.before), [], []
    for size in range(MOST + 1):
        some = [forward.encode(text) for text in texts[size * count : (size + 1) * count]]
        read = np.stack(some).T if size else np.zeros((0, count), np.int64)
        costs, _, context = read_rows(forward.predictor, read, start.rows([0] * count))
        own.append(costs.sum(0))
        contexts.append(context)
    nats = read_after(forward, contexts, gap.after, np.concatenate(own) - drawing.ravel())
    return Candidates(texts, np.concatenate(own), nats, drawing.ravel() - math.log(count))


def choose(model: Model, gap: Gap, made: Candidates, draws: int, random: np.random.Generator) -> tuple:
    """One of the candidates by their weights, and a lower bound of the nats of the span."""
    weights = -made.own - made.after + made.drawn  # logarithms of how much likelier each is than it was drawn
    total = np.logaddexp.reduce(weights)
    shares = np.exp(weights - total)
    place = int(random.choice(len(shares), p=shares / shares.sum()))
    least, _ = bounds(model, gap, total, draws)
    of_draws = shares.reshape(-1, draws).sum(0)  # each draw has the weight of all its lengths
    return made.texts[place], least, math.nan, float(1 / (of_draws**2).sum())


if __name__ == "__main__":
    main()
