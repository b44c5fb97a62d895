"""Trains each classic system and Scriven's defaults for the same minutes on the same text, one after the other.

    python benchmarks/classics.py tinyshakespeare.txt --minutes 2

Every recipe (or those of --recipes) trains with --minutes instead of its own budget, and then the defaults do. All keep
the same share of the text for validation. Afterwards every best model reads the same validation characters, by the
protocol of its own reader (`last-L` or `window-L` for windows, `documents` for documents) and by `stream`, and the nats
per character are shown. Peak memory is the anonymous memory of all processes. Characters/s are those read in training,
with the time of evaluations. Writes a table, JSON, and a picture of all curves (classics.png) into --output.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from common import MB, arguments_parser, save, scriven, table, watched

DEFAULT = "scriven"  # the run without a recipe


def train(name: str, asked: Namespace) -> dict[str, Any]:
    """Trains one contestant; what it cost and reached."""
    run = asked.output / f"{asked.text.name.split('.')[0]}-{name}"
    recipe = [] if name == DEFAULT else ["--recipe", name]
    words = [
        *recipe,
        "--minutes",
        str(asked.minutes),
        "--corpus.validation",
        str(asked.validation),
        *shlex.split(asked.flags),
    ]
    command = [scriven(), "train", str(asked.text), *words, "-o", str(run), "--quiet"]
    measured = watched(command)
    if measured.exit_code:
        return {"name": name, "exit_code": measured.exit_code, "run": str(run)}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {event["event"]: event for event in events}
    stepped, started = last["stepped"], last["started"]
    return {
        "name": name,
        "run": str(run),
        "model": started["name"],
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
        "steps": stepped["step"],
        "epochs": stepped["epochs"],
        "speed": stepped["characters"] / stepped["seconds"],
        "best_step": last["finished"]["best_step"],
    }


def protocols(run: Path) -> list[str]:
    """The protocol of a run's reader, and the stream where it reads one text."""
    told = (run / "settings.toml").read_text(encoding="utf-8")
    reader = told.split("[reader]")[1].split("[")[0]
    kind, length = re.search(r'kind = "(\w+)"', reader), re.search(r"length = (\d+)", reader)
    last = 'loss = "last"' in reader
    own = f"{'last' if last else 'window'}-{length[1] if length else 0}"
    return {"documents": ["documents"], "windows": [own, "stream"]}.get(kind[1] if kind else "", ["stream"])


def losses(run: Path) -> dict[str, float]:
    """The best model's nats per character by each protocol."""
    found = {}
    for protocol in protocols(run):
        command = [scriven(), "evaluate", str(run), "--protocol", protocol, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        values = json.loads(done.stdout)
        found[protocol] = values["nats_per_char"]
    return found


def row(result: dict[str, Any]) -> list[str]:
    """A contestant as the table shows it."""
    if "losses" not in result:
        return [result["name"], f"ended with exit code {result['exit_code']}", *[""] * 5]
    own = "; ".join(f"{loss:.3f} (`{protocol}`)" for protocol, loss in result["losses"].items())
    return [
        result["name"],
        result["model"],
        own,
        f"{result['speed']:,.0f}",
        f"{result['epochs']:.2f}",
        f"{result['peak_bytes'] / MB:,.0f} MB",
        f"{result['seconds']:.0f} s",
    ]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The validation losses of all contestants over the seconds of their training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        lines = (Path(result["run"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        evaluated = [event for event in map(json.loads, lines) if event["event"] == "evaluated" and not event["final"]]
        style = {"linewidth": 2.5, "color": "black"} if result["name"] == DEFAULT else {"linewidth": 1.3}
        label = f"{result['name']}, defaults" if result["name"] == DEFAULT else result["name"]
        points = [(event["seconds"], event["nats_per_char"]) for event in evaluated]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, **style)
    axes.set_xlabel("seconds since the command began")
    axes.set_ylabel("validation loss, nats per character, each as it reads")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Trains them one after another, evaluates all, prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0, help="of each training")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the text")
    parser.add_argument("--recipes", nargs="*", help="instead of all that read one text")
    parser.add_argument("--flags", default="", help="more flags for all, as --flags='--corpus.documents lines'")
    asked = parser.parse_args()
    known = json.loads("[" + ",".join(_listed()) + "]")
    names = asked.recipes or [
        each["name"] for each in known if each["name"] not in ("stateful-tbptt", "theano-sentences")
    ]
    results = [train(name, asked) for name in [*names, DEFAULT]]
    for result in results:
        if "exit_code" not in result:
            result["losses"] = losses(Path(result["run"]))
    header = ["", "model", "nats/char", "characters/s", "epochs", "peak memory", "seconds"]
    print(table(header, map(row, results)))
    asked.output.mkdir(parents=True, exist_ok=True)
    draw([result for result in results if "losses" in result], asked.output / "classics.png")
    save(asked, "classics", results)


def _listed() -> list[str]:
    done = subprocess.run([scriven(), "recipe", "list", "--json"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() or sys.exit(done.stderr)


if __name__ == "__main__":
    main()
