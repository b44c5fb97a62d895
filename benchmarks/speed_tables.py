"""Shows the results of speed.py as Markdown, and as pictures.

    python benchmarks/speed_tables.py speed.json [--output FOLDER]

It makes both again from the measurements.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import arguments_parser, table

Results = dict[str, Any]  # of all parts, or of the contestants of a case by name

KERAS = ("Keras, TensorFlow", "Keras, JAX")
TORCH = ("torch fp32", "torch bf16")
SMALL, LARGE = "LSTM 2x256, N=32, T=64", "LSTM 2x512, N=64, T=128"
NARROW, GRU = "LSTM 2x128, N=50, T=50", "GRU 2x256, N=32, T=64"
# How many times faster than the best of some others Scriven is to train, by what the processor multiplies.
AIMS: dict[str, dict[str, dict[tuple[str, ...], float]]] = {
    "amx": {
        SMALL: {KERAS: 12, ("torch bf16",): 3},
        LARGE: {KERAS: 12, ("torch bf16",): 2.5},
        GRU: {TORCH: 8},
    },
    "bf16": {
        SMALL: {KERAS: 6, ("torch bf16",): 1.6, ("torch fp32",): 2.6},
        LARGE: {KERAS: 6, ("torch bf16",): 1.9, ("torch fp32",): 3.0},
        NARROW: {("torch bf16",): 1.6, ("torch fp32",): 2.6},
        GRU: {TORCH: 2.5},
    },
    "fp32": {each: {("torch fp32",): 1.45} for each in (SMALL, LARGE, NARROW, GRU)},
}
PRODUCTS = "products"  # the contestant that only multiplies; at a lower level, also with that
LOOPS = ("torch-cells", "torch-layers")
GROWN = {
    "width": "width H",
    "rows": "rows N",
    "length": "length T",
    "symbols": "symbols V",
    "layers": "layers L",
    "corpus": "corpus, times the text",
    "workers": "workers",
    "threads": "threads of one worker",
}


def report(results: Results, flags: list[str], *, with_aims: bool = True) -> str:
    """All tables, with a heading each; at last, what of the aims for a processor with these flags was reached."""
    makers = {"training": training, "sampling": sampling, "scoring": scoring, "growth": growth}
    parts = [f"## {name.capitalize()}\n\n{makers[name](part)}\n" for name, part in results.items()]
    reached = list(aims(results, flags)) if with_aims else []
    if reached:
        parts.append("## Aims\n\n" + table(["what", "reached", "aim"], reached) + "\n")
    return "\n".join(parts)


# --- numbers


def speed(contestants: Results, name: str) -> float:
    """The median speed over the rounds; 0 where it has none."""
    return statistics.median(contestants[name]["speeds"] or [0.0]) if name in contestants else 0.0


def best(contestants: Results, *names: str) -> str:
    """The fastest of some contestants."""
    return max(names, key=lambda name: speed(contestants, name))


def ratio(contestants: Results, name: str, other: str) -> float:
    """How many times faster one is than another, in the median round; nan where one of them has no speed."""
    pairs = zip(*(contestants.get(each, {"speeds": []})["speeds"] for each in (name, other)), strict=False)
    ratios = [own / its for own, its in pairs]
    return statistics.median(ratios) if ratios else float("nan")


def share(case: Results, level: str = "") -> float:
    """The share of the machine's own rate of products, or a lower level's, that multiplications of training come to."""
    names = (f"{each}, {level}" if level else each for each in ("scriven", PRODUCTS))
    return case["operations_per_character"] * ratio(case["contestants"], *names)


def spread(values: list[float]) -> list[str]:
    """The median, the least and the most."""
    if not values:
        return ["-"] * 3
    return [f"{statistic(values):,.0f}" for statistic in (statistics.median, min, max)]


def times(value: float) -> str:
    """A ratio, `-` for nan."""
    return f"{value:.2f}" if value == value else "-"  # noqa: PLR0124 - nan differs from itself


# --- tables


def training(cases: list[Results]) -> str:
    """A table for each case."""
    return "\n\n".join(map(trained, cases))


def trained(case: Results) -> str:
    """Everyone's speed, and how many times faster Scriven is."""
    contestants, rows = case["contestants"], []
    for name, result in contestants.items():
        if not name.startswith(PRODUCTS):
            own = times(ratio(contestants, "scriven", name))
            rows.append([name, result.get("precision", "-"), *spread(result["speeds"]), own])
    words = table(["", "precision", "characters/s", "lowest", "highest", "scriven is faster by"], rows)
    rate, precision = speed(contestants, PRODUCTS), contestants[PRODUCTS].get("precision", "-")
    lower = [name.removeprefix(f"{PRODUCTS}, ") for name in contestants if name.startswith(f"{PRODUCTS}, ")]
    levels = "".join(
        f" At {level} it is {speed(contestants, f'{PRODUCTS}, {level}') / 1e9:,.0f} GFLOP/s, and the step's share "
        f"{share(case, level):.0%}."
        for level in lower
    )
    return (
        f"### {case['case']}\n\n{words}{failures(contestants)}\n\nProducts of two processes at once: "
        f"{rate / 1e9:,.0f} GFLOP/s in {precision}; a character needs "
        f"{case['operations_per_character'] / 1e6:.2f} million operations in products, so Scriven's whole "
        f"step reaches **{share(case):.0%}** of that rate.{levels}"
    )


def sampling(cases: list[Results]) -> str:
    """A table for each case."""
    parts = []
    for case in cases:
        contestants = case["contestants"]
        rows = [
            [name, *spread(result["speeds"]), times(ratio(contestants, "scriven int8", name))]
            for name, result in contestants.items()
        ]
        words = table(["", "characters/s", "lowest", "highest", "scriven int8 is faster by"], rows)
        if seconds := [each for each in case["command_seconds"] if each]:
            words += f"\n\n`scriven sample --length {case['length']}` takes {statistics.median(seconds):.2f} s in all."
        parts.append(f"### {case['case']}\n\n{words}{failures(contestants)}")
    return "\n\n".join(parts)


def scoring(cases: list[Results]) -> str:
    """One table of all cases."""
    rows, failed = [], {}
    for case in cases:
        exact = case["contestants"].get("fp32", {}).get("nats_per_char")
        for name, result in case["contestants"].items():
            nats = result.get("nats_per_char")
            off = f"{nats - exact:+.6f}" if nats and exact else "-"
            whole = f"{statistics.median(result['seconds']):.2f}" if result.get("seconds") else "-"
            rows.append([f"{case['case']}, `--precision {name}`", *spread(result["speeds"]), whole, off])
            failed[f"{case['case']}, {name}"] = result
    header = ["", "characters/s", "lowest", "highest", "whole command, s", "nats/char above fp32"]
    return table(header, rows) + failures(failed)


def growth(axes: dict[str, list[Results]]) -> str:
    """A table for everything that the cost may depend on."""
    parts = []
    for what, points in axes.items():
        values = [str(point["value"]) for point in points]
        rows = [["us/character", *(f"{microseconds(point):.2f}" for point in points)]]
        parts.append(table([GROWN[what], *values], rows))
    return "\n\n".join(parts)


def microseconds(point: Results) -> float:
    """That a character takes; nan where nothing was measured."""
    return 1e6 / statistics.median(point["speeds"]) if point["speeds"] else float("nan")


def failures(contestants: Results) -> str:
    """Who did not run, and why."""
    lines = [f"\n{name} did not run: {each['failure'].splitlines()[-1]}" for name, each in contestants.items()
             if each["failure"]]  # fmt: skip
    return "\n".join(["", *lines]) if lines else ""


def aims(results: Results, flags: list[str]) -> Iterator[list[str]]:
    """What was to be reached on a processor with these flags, of the parts that were measured."""
    wanted = AIMS["amx" if "amx_bf16" in flags else "bf16" if "avx512_bf16" in flags else "fp32"]
    for case in results.get("training", []):
        contestants = case["contestants"]
        for others, least in wanted.get(case["case"], {}).items():
            other = best(contestants, *others)
            yield [f"{case['case']}: against {other}", times(ratio(contestants, "scriven", other)), f">= {least}"]
        for own in (each for each in contestants if each in ("scriven, avx512", "scriven, avx2")):
            other = own.replace("scriven", "torch fp32")
            yield [f"{case['case']}: {own} against {other}", times(ratio(contestants, own, other)), ">= 1.45"]
    if "sampling" in results:
        yield from sampling_aims(results["sampling"])
    for case, least in zip(results.get("scoring", []), (100_000, 300_000), strict=False):
        yield [f"{case['case']}, characters/s", f"{speed(case['contestants'], 'auto'):,.0f}", f">= {least:,}"]


def sampling_aims(cases: list[Results]) -> Iterator[list[str]]:
    """Of one stream against all others, of many in all."""
    wanted = ((100_000, 25, 6), (12_000, 8, 3), (400_000, 0, 0))
    for case, (least, against_torch, against_onnx) in zip(cases, wanted, strict=True):
        contestants, own = case["contestants"], "scriven int8"
        yield [f"{case['case']}: characters/s", f"{speed(contestants, own):,.0f}", f">= {least:,}"]
        if against_torch:
            loop = best(contestants, *LOOPS)
            yield [f"{case['case']}: against {loop}", times(ratio(contestants, own, loop)), f">= {against_torch}"]
            onnx = times(ratio(contestants, own, "onnx-int8"))
            yield [f"{case['case']}: against onnx-int8", onnx, f">= {against_onnx}"]


# --- pictures


def draw(results: Results, folder: Path) -> None:
    """speed.png, a bar for everyone in every case; speed_growth.png, the cost of a character against each thing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No pictures: matplotlib is not there (the extra plot)")
        return
    cases = [*results.get("training", []), *results.get("sampling", [])]
    if cases:
        columns = min(3, len(cases))
        figure = Figure(figsize=(5 * columns, 3.6 * -(-len(cases) // columns)), dpi=130, layout="constrained")
        for place, case in enumerate(cases, 1):
            bars(figure.add_subplot(-(-len(cases) // columns), columns, place), case)
        figure.savefig(folder / "speed.png")
    if "growth" in results:
        figure = Figure(figsize=(14, 6), dpi=130, layout="constrained")
        panels = figure.subplots(2, 4, sharey=True)
        for axes, (what, points) in zip(panels.flat, results["growth"].items(), strict=False):
            values = [point["value"] for point in points]
            axes.plot(values, list(map(microseconds, points)), marker="o", color="#2a6f97")
            axes.set(xscale="log", yscale="log", xlabel=GROWN[what])
            axes.set_xticks(values, list(map(str, values)), minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.25, which="both")
        for axes in panels[:, 0]:
            axes.set_ylabel("us a character, training")
        figure.savefig(folder / "speed_growth.png")


def bars(axes: Any, case: Results) -> None:
    """Characters a second of all contestants of a case, Scriven's in another colour."""
    contestants = case["contestants"]
    names = [name for name in reversed(contestants) if not name.startswith(PRODUCTS) and contestants[name]["speeds"]]
    speeds = [speed(contestants, name) for name in names]
    colours = ["#c1553b" if name.startswith("scriven") else "#8d99ae" for name in names]
    drawn = axes.barh(names, speeds, color=colours)
    axes.bar_label(drawn, [f"{value:,.0f}" for value in speeds], padding=3, fontsize=8)
    axes.set_xlim(0, 1.25 * max(speeds, default=1))
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(f"{case['case']}: characters/s", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Makes the tables and pictures again."""
    parser = arguments_parser(__doc__)
    parser.add_argument("measured", type=Path)
    asked = parser.parse_args()
    measured = json.loads(asked.measured.read_text(encoding="utf-8"))
    results = measured["results"]
    words = report(results, measured["machine"]["flags"], with_aims=not measured["arguments"]["quick"])
    print(words)
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "speed.md").write_text(words, encoding="utf-8")
    draw(results, asked.output)


if __name__ == "__main__":
    main()
