"""Characters a second in training: Scriven beside Keras and torch, the same LSTM, side by side in one run.

    python benchmarks/training_speed.py TEXT [--rounds 5] [--seconds 15] [--peer-python PATH]

LSTM 2x256, embedding 256, 64 rows in all, 64 characters a row and step, Adam. Scriven runs as its users run it
(`scriven train --json`, two workers of one thread), the others as theirs do (see peers.py), with two threads. In every
round each has its turn, in a process of its own; its speed is that of its median step after a warm-up. Ratios are taken
within a round, then their median.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import StepClock, arguments_parser, save, scriven, table

WIDTH, ROWS, LENGTH, WORKERS = 256, 64, 64, 2
CONTESTANTS = ("scriven", "keras", "torch-fp32", "torch-bf16")
FOREVER = 1_000_000  # steps, of which only the first few seconds are run


def run_scriven(text: Path, seconds: float) -> dict[str, Any]:
    """Step times of `scriven train`, told to stop when enough were seen."""
    clock, precision = StepClock(seconds), ""
    with tempfile.TemporaryDirectory() as folder:
        command = [scriven(), "train", str(text), "--steps", str(FOREVER), "--json", "-o", str(Path(folder) / "run")]
        command += ["--model.width", str(WIDTH), "--model.dropout", "0", "--reader.batch", str(ROWS)]
        command += ["--reader.length", str(LENGTH), "--training.optimizer", "adamw", "--training.weight-decay", "0"]
        command += ["--training.workers", str(WORKERS), "--training.threads", "1", "--training.evaluations", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                event = json.loads(line)
                precision = event.get("precision", precision)
                if event["event"] == "stepped" and clock.enough(event["seconds"]):
                    break
            process.terminate()
            _, errors = process.communicate()
    if not clock.step_seconds():
        sys.exit(f"scriven train ended before it could be measured: {errors.strip()}")
    return {"step_seconds": clock.step_seconds(), "precision": precision}


def run_peer(python: str, peer: str, text: Path, seconds: float) -> dict[str, Any]:
    """Step times of a peer, in an interpreter that has it."""
    command = [python, str(Path(__file__).with_name("peers.py")), peer, str(text), "--seconds", str(seconds)]
    command += ["--width", str(WIDTH), "--rows", str(ROWS), "--length", str(LENGTH), "--threads", str(WORKERS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{peer} failed, is it installed for {python} (see README.md)? {result.stderr.strip()[-600:]}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def measure(contestant: str, text: Path, seconds: float, peer_python: str) -> dict[str, Any]:
    """One turn: what ran, its steps, and its characters a second."""
    if contestant == "scriven":
        measured = run_scriven(text, seconds)
    else:
        python = peer_python if contestant == "keras" else sys.executable
        measured = run_peer(python, contestant, text, seconds)
    steps = measured.pop("step_seconds")
    speed = ROWS * LENGTH / statistics.median(steps)
    print(f"{contestant}: {speed:,.0f} characters/s (median of {len(steps)} steps)", file=sys.stderr)
    return {"contestant": contestant, "characters_per_second": speed, "steps": len(steps), **measured}


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path, help="UTF-8 text, as tinyshakespeare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15, help="measured in each turn, after the warm-up")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has Keras and TensorFlow")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    asked = parser.parse_args()
    rounds = [
        [measure(name, asked.text, asked.seconds, asked.peer_python) for name in asked.contestants]
        for _ in range(asked.rounds)
    ]
    speeds = {turn["contestant"]: [] for turn in rounds[0]}  # type: dict[str, list[float]]
    for turn in (turn for turns in rounds for turn in turns):
        speeds[turn["contestant"]].append(turn["characters_per_second"])
    print(table(["", "characters/s", "lowest", "highest", "scriven is faster by", "lowest", "highest"], rows(speeds)))
    save(asked, "training_speed", rounds)


def rows(speeds: dict[str, list[float]]) -> list[list[str]]:
    """A row for each contestant: its speeds over the rounds, and Scriven's divided by it."""
    result = []
    for name, values in speeds.items():
        ratios = [own / other for own, other in zip(speeds.get("scriven", []), values, strict=False)]
        of_speed = [f"{statistic(values):,.0f}" for statistic in (statistics.median, min, max)]
        of_ratio = [f"{statistic(ratios):.2f}" if ratios else "-" for statistic in (statistics.median, min, max)]
        result.append([name, *of_speed, *of_ratio])
    return result


if __name__ == "__main__":
    main()
