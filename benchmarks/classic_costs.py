"""Measures what the two classic systems that ran out of memory cost in Scriven: memory, speed, padding, waiting.

    python benchmarks/classic_costs.py BOOK --scratch FOLDER [--seconds 30] [--peer-python PATH]

BOOK is a text of about 17 MB (also .xz). There are two tables:

- Keras' text generation example: `scriven train --recipe keras-text-generation` on the whole text, one-hot as in the
  original and with an embedding, compared with Keras itself on the first 200,000 characters (keras_windows.py, if an
  interpreter with Keras is given). Windows/s are those of the median step. Peak memory is anonymous memory (RssAnon) of
  all processes, from the text to the end of the training.
- Stateful TBPTT: 125,973 sequences of 1,000 characters, one per line, made from the text. `--recipe stateful-tbptt` has
  a batch of 50, of 64 and of 1 (with tanh), with an update per chunk and, for the last, also per sequence.

"Waiting" is the share of the time that steps waited for their batch.
"""

from __future__ import annotations

import json
import lzma
import statistics
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import MB, arguments_parser, save, scriven, table, watched

SEQUENCES, SEQUENCE = 125_973, 1000
WARMUP = 10  # steps


def train(text: Path, words: list[str], asked: Namespace, name: str) -> dict[str, Any]:
    """Trains for about --seconds, and gives what the steps took."""
    run = asked.output / name
    minutes = asked.seconds / 60
    command = [scriven(), "train", str(text), "--minutes", f"{minutes:.3f}", *words, "-o", str(run), "--quiet"]
    measured = watched(command, variables={"SCRIVEN_CACHE": str(asked.scratch / name)})
    if measured.exit_code:
        sys.exit(f"{' '.join(command)} ended with exit code {measured.exit_code}")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = list(map(json.loads, lines))
    steps = [event for event in events if event["event"] == "stepped"][WARMUP:]
    seconds = [after["seconds"] - before["seconds"] for before, after in pairwise(steps)]
    counted = sum(step["loss"]["characters"] + step["loss"].get("ends", 0) for step in steps[1:])
    return {
        "what": name,
        "command": " ".join(words),
        "peak_bytes": measured.peak_bytes,
        "step_seconds": statistics.median(seconds),
        "counted_per_second": counted / sum(seconds),
        "read_per_second": (steps[-1]["characters"] - steps[0]["characters"]) / sum(seconds),
        "waiting_share": sum(step["waited"] for step in steps[1:]) / sum(seconds),
        "first_loss": steps[0]["nats_per_char"],
        "last_loss": steps[-1]["nats_per_char"],
    }


def windows(book: Path, asked: Namespace) -> list[dict[str, Any]]:
    """Keras' example here and, where it can be run, there."""
    recipe = ["--recipe", "keras-text-generation", "--monitor.every-epochs", "0"]
    results = [
        train(book, recipe, asked, "one-hot"),
        train(book, [*recipe, "--model.input", "embedding"], asked, "embedding"),
    ]
    pretrained = [*recipe, "--model.input", "embedding", "--model.embedding", str(asked.output / "embedding")]
    results.append(train(book, [*pretrained, "--model.freeze-embedding"], asked, "pretrained-frozen"))
    results.append(train(book, pretrained, asked, "pretrained-trained"))
    for result in results:
        result["windows_per_second"] = 128 / result["step_seconds"]
    if asked.peer_python:
        script = Path(__file__).with_name("keras_windows.py")
        command = [asked.peer_python, str(script), str(asked.text), "--seconds", str(asked.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout.splitlines()[-1])
        peer = {"what": "Keras, one-hot", "windows_per_second": 128 / statistics.median(told.pop("step_seconds"))}
        results.append(peer | told)
    return results


def sequences(text: str, path: Path) -> None:
    """The sequences, one a line: the text over and over, each time from another place on."""
    flat = " ".join(text.split())
    with path.open("w", encoding="utf-8") as file:
        for number in range(SEQUENCES):
            start = (number * SEQUENCE + number * SEQUENCE // len(flat) * 377) % (len(flat) - SEQUENCE)
            file.write(flat[start : start + SEQUENCE].replace("\n", " ") + "\n")


def stateful(path: Path, asked: Namespace) -> list[dict[str, Any]]:
    """The recipe at every batch size that its author could not have."""
    recipe = ["--recipe", "stateful-tbptt"]
    one = ["--model.activation", "tanh"]  # with relu one sequence alone diverges within some ten updates
    cases = {
        "batch-50": [],
        "batch-64": ["--reader.batch", "64"],
        "batch-1": [*one, "--reader.batch", "1"],
        "batch-1-update-a-sequence": [*one, "--reader.batch", "1", "--training.accumulate", "41"],
    }
    return [train(path, [*recipe, *words], asked, name) for name, words in cases.items()]


def main() -> None:
    """Measures and prints both tables."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--scratch", type=Path, required=True, help="folder with room for 1 GB")
    parser.add_argument("--seconds", type=float, default=40, help="of each training, from the text to the end")
    parser.add_argument("--peer-python", default="", help="interpreter that has Keras")
    parser.add_argument("--only", choices=["windows", "stateful"], help="one table only")
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    data = asked.text.read_bytes()
    text = (lzma.decompress(data) if asked.text.suffix == ".xz" else data).decode()
    results: dict[str, list[dict[str, Any]]] = {}
    if asked.only != "stateful":
        results["windows"] = windows(asked.text, asked)
        print(table(["", "windows/s", "peak memory", "waiting"], map(window_row, results["windows"])))
    if asked.only != "windows":
        path = asked.scratch / "sequences.txt"
        sequences(text, path)
        results["stateful"] = stateful(path, asked)
        header = ["", "characters/s", "peak memory", "waiting", "loss, from", "to"]
        print(table(header, map(stateful_row, results["stateful"])))
    save(asked, "classic_costs", results)


def window_row(result: dict[str, Any]) -> list[str]:
    """A row of the table of windows."""
    if "peak_bytes" not in result:
        whole = result["arrays_of_the_whole_text_bytes"] / 1e9
        return [result["what"], f"{result['windows_per_second']:,.0f}", f"its arrays need {whole:.1f} GB", "-"]
    peak, waiting = f"{result['peak_bytes'] / MB:,.0f} MB", f"{result['waiting_share']:.2%}"
    return [result["what"], f"{result['windows_per_second']:,.0f}", peak, waiting]


def stateful_row(result: dict[str, Any]) -> list[str]:
    """A row of the table of sequences."""
    return [
        result["what"],
        f"{result['counted_per_second']:,.0f}",
        f"{result['peak_bytes'] / MB:,.0f} MB",
        f"{result['waiting_share']:.2%}",
        f"{result['first_loss']:.3f}",
        f"{result['last_loss']:.3f}",
    ]


if __name__ == "__main__":
    main()
