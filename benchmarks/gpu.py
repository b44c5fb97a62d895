"""Checks and times Scriven on a GPU, in less than eight minutes, and writes a report.

    make gpu GPU_PYTHON=python3 TEXT=tinyshakespeare.txt
    python benchmarks/gpu.py TEXT [--device cuda] [--quick]

- correctness: the losses of the first steps in fp32 on the GPU and on the CPU, from the same weights.
- resume: `scriven verify-resume` of a run on the GPU: a training that is stopped and resumed has the same bits.
- speed: characters/s in training, against torch's own `nn.LSTM` in bf16 on the same GPU (peers.py), in turns.
- memory: the most bytes that torch holds on the GPU in training.
- use: characters/s of `Model.score` and of writing 64 texts at once on the GPU.

It needs a build of torch for the GPU. Without such a device nothing is checked, and the exit code is 2. A check that
fails makes the exit code 1. With `--device cpu --quick` the script itself can be tried anywhere; that is no result.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import MB, arguments_parser, save, table
from turns import Contestant, compete

import scriven

NO_DEVICE, FAILED = 2, 1  # exit codes
FIRST_STEPS = 20  # whose losses are compared
CLOSE_NATS = 2e-3  # between losses in fp32 of two devices, which sum in different orders
CASES = ((256, 64, 64), (512, 256, 128), (1024, 512, 128))  # width, rows, characters of a chunk
TINY = ((16, 8, 16),)
FOREVER = 1_000_000  # steps
STREAMS, WRITTEN, SCORED = 64, 500, 100_000  # texts at once, characters of each, characters of a text


def main() -> None:
    """Makes all checks, prints the table, writes gpu.json."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path, help="UTF-8 text, as tinyshakespeare")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--quick", action="store_true", help="tiny models, for moments")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here, so nothing was checked", file=sys.stderr)
        sys.exit(NO_DEVICE)
    if asked.quick:
        asked.rounds, asked.seconds = 1, 0.1
    begun, results = time.perf_counter(), dict[str, Any](device=describe_device(asked.device))
    with tempfile.TemporaryDirectory() as folder:
        asked.scratch = Path(folder)
        for name, check in CHECKS.items():
            results[name] = check(asked)
            results["seconds"] = time.perf_counter() - begun
            save(asked, "gpu", results)  # after each one: a later one may fail
    rows = [(name, *row) for name in CHECKS for row in results[name]["rows"]]
    print(table(["check", "what", "result"], rows))
    failed = [name for name in CHECKS if not results[name].get("passed", True)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def describe_device(device: str) -> str:
    """Returns the name of the device."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def train(
    asked: Namespace, device: str, shape: tuple[int, int, int], steps: int, precision: str
) -> tuple[Path, list[float]]:
    """Trains on a device; returns the run, and the loss of each step in nats per character."""
    width, rows, length = shape
    settings = {
        "model": {"width": width, "counts": "none", "dropout": 0.0},
        "reader": {"batch": rows, "length": length},
        "training": {"device": device, "precision": precision, "evaluations": 1, "evaluation_characters": 1000},
        "monitor": {"sample_length": 0},
    }
    output = Path(tempfile.mkdtemp(dir=asked.scratch), "run")
    events = scriven.train_events(asked.text, steps=steps, output=output, initial="none", settings=settings)
    return output, [event.loss.nats_per_char for event in events if isinstance(event, scriven.Stepped)]


# --- checks


def check_losses(asked: Namespace) -> dict[str, Any]:
    """Compares the losses of the first steps on both devices."""
    shape = TINY[0] if asked.quick else CASES[0]
    (_, here), (_, there) = (train(asked, device, shape, FIRST_STEPS, "fp32") for device in ("cpu", asked.device))
    apart = max(abs(one - other) for one, other in zip(here, there, strict=True))
    row = (f"{FIRST_STEPS} losses in fp32, GPU and CPU", f"at most {apart:.1e} nats apart")
    return {"passed": apart <= CLOSE_NATS, "nats_apart": apart, "rows": [row]}


def check_resume(asked: Namespace) -> dict[str, Any]:
    """Runs `scriven verify-resume` on a run of this device."""
    shape, precision = TINY[0] if asked.quick else CASES[0], "fp32" if asked.quick else "bf16"
    run, _ = train(asked, asked.device, shape, FIRST_STEPS // 2, precision)
    words = [sys.executable, "-m", "scriven", "verify-resume", str(run), "--steps", str(FIRST_STEPS // 2)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    same = done.returncode == 0
    row = ("a training that was stopped and resumed", "the same bits" if same else "OTHER bits, or it failed")
    return {"passed": same, "said": done.stdout + done.stderr, "rows": [row]}


def measure_speed(asked: Namespace) -> dict[str, Any]:
    """Trains each case in Scriven and in torch, in turns."""
    rows, measured = [], {}
    for case in TINY if asked.quick else CASES:
        results = compete([own(asked, case), peer(asked, case)], asked.rounds, asked.seconds)
        speeds = {name: statistics.median(each["speeds"] or [0.0]) for name, each in results.items()}
        ratios = [a / b for a, b in zip(*(each["speeds"] for each in results.values()), strict=False)]
        said = " / ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
        ratio = f"; {statistics.median(ratios):.2f} times" if ratios else ""
        rows.append(("LSTM 2x{}, N={}, T={}, characters/s".format(*case), said + ratio))
        measured[str(case)] = results
    broken = [each["failure"] for results in measured.values() for each in results.values() if each["failure"]]
    return {"passed": not broken, "cases": measured, "rows": rows}


def own(asked: Namespace, case: tuple[int, int, int]) -> Contestant:
    """Scriven, training without an end."""
    width, rows, length = case
    folder = tempfile.mkdtemp(dir=asked.scratch)
    command = [
        *[sys.executable, "-m", "scriven", "train", str(asked.text), "--steps", str(FOREVER), "--json"],
        *["-o", f"{folder}/run", "--training.device", asked.device, "--training.optimizer", "adamw"],
        *["--training.weight-decay", "0"],
        *["--model.width", str(width), "--model.dropout", "0", "--model.counts", "none"],
        *["--reader.batch", str(rows), "--reader.length", str(length)],
        *["--training.evaluations", "1", "--training.evaluation-characters", "1000"],
    ]
    return Contestant("scriven", command, {"SCRIVEN_CACHE": str(asked.scratch / "cache")})


def peer(asked: Namespace, case: tuple[int, int, int]) -> Contestant:
    """torch's own layers, training without an end."""
    width, rows, length = case
    precision = "fp32" if asked.quick else "bf16"  # not every CPU computes in bf16
    command = [sys.executable, str(Path(__file__).with_name("peers.py")), f"torch-{precision}", str(asked.text)]
    command += ["--width", str(width), "--rows", str(rows), "--length", str(length), "--device", asked.device]
    return Contestant(f"torch {precision}", command)


def measure_memory(asked: Namespace) -> dict[str, Any]:
    """Trains each case for a few steps, and asks torch what it held."""
    rows, peaks = [], {}
    for case in TINY if asked.quick else CASES:
        if asked.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train(asked, asked.device, case, FIRST_STEPS + 1, "auto")
        peak = torch.cuda.max_memory_allocated() if asked.device == "cuda" else None
        peaks[str(case)] = peak
        held = "not known for this device" if peak is None else f"{peak / MB:,.0f} MB"
        rows.append(("LSTM 2x{}, N={}, T={}".format(*case), held))
    return {"peak_bytes": peaks, "rows": rows}


def measure_use(asked: Namespace) -> dict[str, Any]:
    """Scores a text and writes many texts at once, with a run that has hardly been trained."""
    shape = TINY[0] if asked.quick else CASES[0]
    run, _ = train(asked, asked.device, shape, FIRST_STEPS, "auto")
    text = asked.text.read_text(encoding="utf-8")[: 1000 if asked.quick else SCORED]
    written = 20 if asked.quick else WRITTEN
    model = scriven.load(run, device=asked.device)
    model.score(text[:100])  # the first call prepares the device
    scoring = seconds_of(lambda: model.score(text))
    writing = seconds_of(lambda: list(model.samples(STREAMS, length=written, seed=1)))
    speeds = {"scoring": len(text) / scoring, f"writing {STREAMS} texts": STREAMS * written / writing}
    rows = [(name, f"{each:,.0f} characters/s") for name, each in speeds.items()]
    return {"characters_per_second": speeds, "rows": rows}


def seconds_of(action: Callable[[], object]) -> float:
    """Returns how long a call takes, with all that it leaves to the device."""
    begun = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


CHECKS = {
    "losses": check_losses,
    "resume": check_resume,
    "speed": measure_speed,
    "memory": measure_memory,
    "use": measure_use,
}

if __name__ == "__main__":
    main()
