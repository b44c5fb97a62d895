"""Measures how much a model's text repeats itself, by temperature: a table and a picture.

    python benchmarks/repetition.py RUN [RUN ...] [--length 1000] [--prompts "To be" "O "]

It is the share of all stretches of 12 characters that occurred before in the same text. Temperature 0 always takes the
most likely character. Shown is the mean over prompts, with one text for each and seed 1. The picture is repetition.png.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

STRETCH = 12
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


def repeated(text: str) -> float:
    """The share of stretches that occurred before."""
    stretches = [text[at : at + STRETCH] for at in range(len(text) - STRETCH + 1)]
    return 1 - len(set(stretches)) / len(stretches)


def write(run: Path, prompt: str, temperature: float, length: int) -> str:
    """What a model writes."""
    command = [scriven(), "sample", str(run), "--prompt", prompt, "--length", str(length), "--json"]
    command += ["--temperature", str(temperature), "--seed", "1"]
    return str(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["text"])


def main() -> None:
    """Writes, counts, prints and draws."""
    parser = arguments_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--prompts", nargs="+", default=["To be, or not to be, that is the", "O Romeo"])
    asked = parser.parse_args()
    results: list[dict[str, Any]] = []
    for run in asked.runs:
        for temperature in TEMPERATURES:
            texts = [write(run, prompt, temperature, asked.length) for prompt in asked.prompts]
            shares = list(map(repeated, texts))
            results.append(
                {"run": run.name, "temperature": temperature, "repeated": sum(shares) / len(shares), "text": texts[0]}
            )
    rows = [[each["run"], each["temperature"], f"{each['repeated']:.0%}"] for each in results]
    print(table(["run", "temperature", "repeated"], rows))
    draw(results, asked.output / "repetition.png")
    save(asked, "repetition", results)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for run in dict.fromkeys(each["run"] for each in results):
        points = [(each["temperature"], 100 * each["repeated"]) for each in results if each["run"] == run]
        axes.plot(*zip(*points, strict=True), marker="o", label=run)
    axes.set_xlabel("temperature")
    axes.set_ylabel(f"repeated stretches of {STRETCH} characters, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
