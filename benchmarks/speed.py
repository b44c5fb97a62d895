"""Makes every table of Scriven's speed, compared with others that do the same, in one run.

    python benchmarks/speed.py TEXT --names NAMES [--peer-python PATH] [--parts training sampling scoring growth]

- training: characters/s of LSTM 2x256 (N=32 in all, T=64), LSTM 2x512 (N=64, T=128), LSTM 2x128 (N=50, T=50) and GRU
  2x256 with Adam, in `scriven train --json`, Keras on TensorFlow and on JAX, and torch's own layers (peers.py); also
  without native code, and at each lower level of kernels that the processor has, with the instructions above it masked
  for torch too. Two processes of matrix products show the machine's limit, also at levels from AVX2 on, and which
  share of it the multiplications of Scriven's steps reach.
- sampling: characters/s of one stream and of 64 in Scriven, torch and onnxruntime (writers.py), and the time of
  `scriven sample`.
- scoring: characters/s of `scriven score` for one text, and for names by line. Its start is timed alone and subtracted.
- growth: microseconds per character in training, against everything that they may depend on.

Contestants take turns (turns.py), in processes of their own. Speeds are medians over the rounds; ratios are taken
within a round, then their median. Writes speed.json, speed.md, speed.png and speed_growth.png. `--peer-python` has
Keras, TensorFlow, JAX and onnxruntime; a contestant that cannot run is shown as such. `--quick` tries everything for
seconds and measures nothing. `--compare` shows the ratios beside those recorded for this kind of processor, and ends
with 1 where one is more than 5 % lower (speed_records.py).
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import arguments_parser, machine, save
from speed_records import RECORDS, compare
from speed_tables import draw, report
from turns import Contestant, compete

from scriven.kernels import native_library

SCRIVEN = [sys.executable, "-m", "scriven"]
HERE = Path(__file__).parent
FOREVER = 1_000_000  # steps, of which only the first few seconds are run
CORES = 2
# What keeps torch and its libraries from instructions above each level of kernels.
LIMITS = {
    "portable": ("SSE41", "default"),
    "avx2": ("AVX2", "avx2"),
    "avx512": ("AVX512_CORE", "avx512"),
    "avx512bf16": ("AVX512_CORE_BF16", "avx512"),
    "neondot": ("ADVANCED_SIMD", "default"),  # both without SVE
    "neonbf16": ("ADVANCED_SIMD", "default"),
}
PRECISIONS = ("int8", "bf16", "fp32")
SAMPLE_LENGTH, SCORED = 20_000, 200_000  # characters of `scriven sample`, and of the text to score


@dataclass(frozen=True)
class Case:
    """A model and how it is trained; rows are over all workers, of which there are as many as Scriven chooses for 0."""

    cell: str = "lstm"
    width: int = 256
    layers: int = 2
    rows: int = 32
    length: int = 64
    workers: int = 0
    threads: int = 0  # of each worker; for 0, the cores are shared evenly

    def __str__(self) -> str:
        return f"{self.cell.upper()} {self.layers}x{self.width}, N={self.rows}, T={self.length}"


TRAINED = (Case(), Case(width=512, rows=64, length=128), Case(width=128, rows=50, length=50), Case(cell="gru"))
GROWN = Case(rows=64)  # from which growth goes in every direction
GROWTH: dict[str, tuple[int, ...]] = {
    "width": (64, 128, 256, 512, 1024),
    "rows": (8, 16, 32, 64, 128, 256),
    "length": (16, 32, 64, 128, 256),
    "symbols": (16, 256, 1024, 4096),
    "layers": (1, 2, 3, 4),
    "corpus": (1, 10, 100),  # times the text
    "workers": (1, 2),
    "threads": (1, 2),  # of one worker
}


def main() -> None:
    """Measures all parts, prints the tables, draws them."""
    parser = arguments_parser(__doc__)
    parser.add_argument("text", type=Path, help="UTF-8 text, as tinyshakespeare")
    parser.add_argument("--names", type=Path, help="a text of one name a line")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn; one of sampling is a third as long")
    parser.add_argument("--peer-python", default=sys.executable, help="has Keras, TensorFlow, JAX and onnxruntime")
    parser.add_argument("--compare", action="store_true", help="with the records of this kind of processor")
    parser.add_argument("--quick", action="store_true", help="a few steps of tiny models")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds = 1, 0.1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends all contestants
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked.scratch = Path(folder)
        for part in asked.parts:
            results[part] = PARTS[part](asked)
            words = report(
                results, machine()["flags"], with_aims=not asked.quick
            )  # after each part: a later one may be interrupted
            save(asked, "speed", results)
            (asked.output / "speed.md").write_text(words, encoding="utf-8")
            draw(results, asked.output)
    print(words)
    if asked.compare and compare(json.loads((asked.output / "speed.json").read_text(encoding="utf-8")), RECORDS):
        sys.exit(1)


# --- training


def measure_training(asked: Namespace) -> list[dict[str, Any]]:
    """All cases, each with everyone who takes part in it."""
    measured = []
    for case in TRAINED:
        tried = replace(case, width=case.width // 8, rows=8, length=16) if asked.quick else case
        print(tried, file=sys.stderr)
        contestants = [
            own(tried, asked, "scriven"),
            own(tried, asked, "scriven, no native code", {"SCRIVEN_KERNELS": "off"}),
            peer("keras", tried, asked, "Keras, TensorFlow", {"KERAS_BACKEND": "tensorflow"}),
            peer("keras", tried, asked, "Keras, JAX", {"KERAS_BACKEND": "jax"}),
            peer("torch-fp32", tried, asked, "torch fp32"),
            peer("torch-bf16", tried, asked, "torch bf16"),
            products("products"),
        ]
        for level in native_library.levels()[:-1] if case == TRAINED[0] else ():
            variables = limited_to(level)
            contestants.append(own(tried, asked, f"scriven, {level}", variables))
            contestants.append(peer("torch-fp32", tried, asked, f"torch fp32, {level}", variables))
            if level == "portable":  # torch multiplies by AVX2 whatever it is told
                continue
            bf16 = level in native_library.BF16_LEVELS
            contestants.append(products(f"products, {level}", "products" if bf16 else "products-fp32", variables))
        results = compete(contestants, asked.rounds, asked.seconds)
        symbols = len(set(asked.text.read_text(encoding="utf-8"))) + 1
        operations = 2 * multiplications(tried, symbols)
        measured.append({"case": str(tried), "operations_per_character": operations, "contestants": results})
    return measured


def limited_to(level: str) -> dict[str, str]:
    """The variables that keep Scriven and torch from instructions above a level of kernels."""
    onednn, torch = LIMITS[level]
    mkl = {"avx2": "AVX2", "portable": "SSE4_2"}.get(level, "AVX512")
    return {
        "SCRIVEN_KERNELS": level,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": torch,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }


def products(name: str, kind: str = "products", variables: dict[str, str] | None = None) -> Contestant:
    """The rate of torch's products, of as many processes as there are cores."""
    return Contestant(name, [sys.executable, str(HERE / "peers.py"), kind], variables, copies=CORES)


def own(
    case: Case, asked: Namespace, name: str, variables: dict[str, str] | None = None, text: Path | None = None
) -> Contestant:
    """Scriven, training a case for ever in a folder of its own."""
    folder = tempfile.mkdtemp(dir=asked.scratch)
    command = [
        *[*SCRIVEN, "train", str(text or asked.text), "--steps", str(FOREVER), "--json", "-o", f"{folder}/run"],
        *["--model.cell", case.cell, "--model.width", str(case.width), "--model.layers", str(case.layers)],
        *["--model.dropout", "0", "--reader.batch", str(case.rows), "--reader.length", str(case.length)],
        *["--training.optimizer", "adamw", "--training.weight-decay", "0"],
        *["--training.evaluations", "1", "--training.evaluation-characters", "1000"],
    ]
    if case.workers:
        command += ["--training.workers", str(case.workers), "--training.groups", str(case.workers)]
        command += ["--training.threads", str(case.threads or CORES // case.workers)]
    return Contestant(name, command, {"SCRIVEN_CACHE": str(asked.scratch / "cache")} | (variables or {}))


def peer(kind: str, case: Case, asked: Namespace, name: str, variables: dict[str, str] | None = None) -> Contestant:
    """Another program that trains the same case."""
    python = asked.peer_python if kind == "keras" else sys.executable
    command = [python, str(HERE / "peers.py"), kind, str(asked.text), "--cell", case.cell, "--width", str(case.width)]
    command += ["--rows", str(case.rows), "--length", str(case.length), "--threads", str(CORES)]
    return Contestant(name, command, variables)


def multiplications(case: Case, symbols: int) -> float:
    """How many multiplications matrix products need at least for a character, forward and backward.

    Forward, gradients of inputs and gradients of weights are a product each. What the first layer gets from its input
    is the same for equal symbols, so that it needs to be computed once a step and worker.
    """
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[case.cell]
    square = gates * case.width**2
    table = square * symbols * max(1, case.workers) / (case.rows * case.length)
    return 3 * ((2 * case.layers - 1) * square + min(table, square) + case.width * symbols)


# --- sampling


def measure_sampling(asked: Namespace) -> list[dict[str, Any]]:
    """One stream of two widths, then 64 streams; and whole commands."""
    measured = []
    for width, streams in ((256, 1), (512, 1), (256, 64)):
        tried = width // 8 if asked.quick else width
        case = f"LSTM 2x{tried}, {streams} stream{'s' if streams > 1 else ''}"
        print(case, file=sys.stderr)
        run, streamed = trained_run(asked, asked.text, tried), ["--streams", str(streams)]
        own = [sys.executable, str(HERE / "writers.py"), "scriven", str(run), *streamed]
        contestants = [Contestant(f"scriven {each}", [*own, "--precision", each]) for each in PRECISIONS]
        threads = ["--threads", str(CORES if streams > 1 else 1)]
        for name, python in (
            ("torch-cells", sys.executable),
            ("torch-layers", sys.executable),
            ("onnx-int8", asked.peer_python),
            ("onnx-fp32", asked.peer_python),
        ):
            words = [python, str(HERE / "writers.py"), name, "--width", str(tried), *streamed, *threads]
            contestants.append(Contestant(name, words))
        results = compete(contestants, asked.rounds, asked.seconds / 3)
        length = SAMPLE_LENGTH // (100 if asked.quick else 1)
        command = [*SCRIVEN, "sample", str(run), "--json", "--seed", "1", "--length", str(length)]
        seconds = [timed(command)[0] for _ in range(asked.rounds)] if streams == 1 else []
        measured.append({"case": case, "contestants": results, "command_seconds": seconds, "length": length})
    return measured


def trained_run(asked: Namespace, text: Path, width: int, *words: str) -> Path:
    """A run that knows a text a little; trained once."""
    run: Path = asked.scratch / f"{text.stem}-{width}"
    if not run.exists():
        steps = 10 if asked.quick else 400 if width <= 256 else 150
        command = [*SCRIVEN, "train", str(text), "--steps", str(steps), "--model.width", str(width), "-o", str(run)]
        command += ["--quiet", "--training.evaluations", "1", "--training.evaluation-characters", "1000", *words]
        subprocess.run(command, check=True)
    return run


# --- scoring


def measure_scoring(asked: Namespace) -> list[dict[str, Any]]:
    """Rounds over all precisions, each time with the start alone."""
    width = 32 if asked.quick else 256
    text, little = asked.scratch / "scored.txt", asked.scratch / "little.txt"
    text.write_text(asked.text.read_text(encoding="utf-8")[-SCORED // (100 if asked.quick else 1) :], encoding="utf-8")
    little.write_text("Why, then\n", encoding="utf-8")
    cases = [("one long text", trained_run(asked, asked.text, width), text, [*PRECISIONS, "auto"], ["--json"])]
    if asked.names:
        run = trained_run(asked, asked.names, width, "--corpus.documents", "lines")
        cases.append(("names by line", run, asked.names, ["fp32", "auto"], ["--by", "line", "--json"]))
    measured = []
    for name, run, file, precisions, words in cases:
        print(name, file=sys.stderr)
        characters = len(file.read_text(encoding="utf-8"))
        commands = {each: [*SCRIVEN, "score", str(run), "--precision", each, *words] for each in precisions}
        rounds = [
            {each: score(command, file, little, characters) for each, command in commands.items()}
            for _ in range(asked.rounds)
        ]
        results = {each: merged(turn[each] for turn in rounds) for each in precisions}
        measured.append({"case": name, "characters": characters, "contestants": results})
    return measured


def score(command: list[str], file: Path, little: Path, characters: int) -> dict[str, Any]:
    """The speed of a command without its start, and what it said the text costs."""
    start, _ = timed([*command, str(little)])
    seconds, told = timed([*command, str(file)])
    if start is None or seconds is None:
        return {"failure": told}
    if seconds <= start:
        return {"failure": "took no longer than its start: too short a text to measure here"}
    rows = [json.loads(line) for line in told.splitlines()]
    nats, counted = (sum(row[name] for row in rows) for name in ("nats", "characters"))
    return {"speed": characters / (seconds - start), "seconds": seconds, "nats_per_char": nats / counted}


def merged(turns: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The turns of one contestant as one result."""
    turns = list(turns)
    failure = next((turn["failure"] for turn in turns if "failure" in turn), "")
    if failure:
        return {"speeds": [], "failure": failure}
    speeds, seconds = ([turn[name] for turn in turns] for name in ("speed", "seconds"))
    nats = statistics.median(turn["nats_per_char"] for turn in turns)
    return {"speeds": speeds, "seconds": seconds, "failure": "", "nats_per_char": nats}


def timed(command: list[str]) -> tuple[float | None, str]:
    """Seconds of a command, and what it printed; no seconds, and its error, where it failed."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    return (None, done.stderr.strip()[-400:]) if done.returncode else (seconds, done.stdout)


# --- growth


def measure_growth(asked: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Microseconds a character against one thing after another."""
    cases: dict[tuple[str, int], tuple[Case, Path]] = {}
    for what, values in GROWTH.items():
        for value in values[1:2] if asked.quick else values:
            case, text = GROWN, asked.text
            if what == "symbols":
                text = random_text(asked, value)
            elif what == "corpus":
                text = repeated_text(asked, value)
            else:
                case = replace(case, workers=1) if what == "threads" else case
                case = replace(case, **{what: value})
            cases[what, value] = (replace(case, width=32) if asked.quick else case, text)
    speeds: dict[tuple[Case, Path], dict[str, Any]] = {}
    for case, text in cases.values():
        if (case, text) not in speeds:
            contestant = own(case, asked, f"{case}, {text.name}", text=text)
            speeds[case, text] = compete([contestant], min(asked.rounds, 2), asked.seconds / 2)[contestant.name]
    return {
        what: [{"value": value, **speeds[cases[what, value]]} for name, value in cases if name == what]
        for what in GROWTH
    }


def random_text(asked: Namespace, symbols: int) -> Path:
    """A text of so many characters that are equally likely."""
    path: Path = asked.scratch / f"{symbols}-symbols.txt"
    drawn = random.Random(1).choices([chr(0x4E00 + symbol) for symbol in range(symbols)], k=1_000_000)
    path.write_text("".join(drawn), encoding="utf-8")
    return path


def repeated_text(asked: Namespace, times: int) -> Path:
    """The text so many times over."""
    if times == 1:
        return Path(asked.text)
    path: Path = asked.scratch / f"{times}-times.txt"
    path.write_bytes(asked.text.read_bytes() * times)
    return path


PARTS = {
    "training": measure_training,
    "sampling": measure_sampling,
    "scoring": measure_scoring,
    "growth": measure_growth,
}

if __name__ == "__main__":
    main()
