"""The rows of quality.py, as data, and how each kind of them is measured."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import compress
import memory
import sampling_speed
import torch
from common import MB, scriven, watched
from starts import Piece

from scriven import load, starts
from scriven.cli.evaluate import corpus_of
from scriven.inference.predictor import Predictor
from scriven.inference.protocols import is_adaptive, measure
from scriven.loss import Loss
from scriven.runs import open_run
from scriven.runtime import available_cores
from scriven.training.evaluation import READ_SAMPLE, known_share, words_of
from scriven.training.mixing import count_text

SHAKESPEARE, ALICE, NAMES = "tinyshakespeare.txt", "alice29.txt", "names.txt"
BOOKS, POEMS = "dickens_austen_17mb.txt.xz", "tang_poems_lines.txt.xz"
BOTH = ("window-256", "stream")
LINES = ("--corpus.documents", "lines")
TIMED_SECONDS = 0.3  # of a turn of writing


@dataclass(frozen=True)
class Aim:
    """A goal: `best` on processors with AMX, and on others unless `other` says otherwise."""

    best: float | None
    other: float | None = None
    at_least: bool = False
    everywhere: bool = True  # whether `best` is for all processors

    def limit(self, *, amx: bool) -> float | None:
        """The number for such a processor, if there is one."""
        return self.best if amx or self.everywhere else self.other

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        if self.everywhere:
            return f"{sign} {self.best}"
        kinds = {"with AMX": self.best, "without AMX": self.other}
        return ", ".join(f"{sign} {number} {kind}" for kind, number in kinds.items() if number is not None)


def by_kind(amx: float | None, other: float | None = None, *, at_least: bool = False) -> Aim:
    """Returns the goals on processors with AMX, and on those without."""
    return Aim(amx, other, at_least, everywhere=False)


@dataclass(frozen=True)
class Training:
    """A training for some minutes, and the protocols that its model is measured by."""

    name: str
    text: str
    minutes: float
    protocols: tuple[str, ...]
    aims: Mapping[str, Aim] = field(default_factory=dict)  # by protocol
    first: int = 0  # characters of the text; 0: all
    initial: str = "none"
    arguments: tuple[str, ...] = ()
    by_bytes: bool = False  # whether bits per byte are shown
    against: str = ""  # another row, which starts from random weights
    difference: Aim | None = None  # from that row's loss
    seeded = True

    @property
    def words(self) -> str:
        """What is measured; --list shows it."""
        piece = Piece(Path(self.text), self.first, self.minutes).name
        return " ".join([piece, "--from", self.initial, *self.arguments, "by", ", ".join(self.protocols)])

    def command(self, text: Path, run: Path, seed: int) -> list[str]:
        """What trains."""
        budget = ["--minutes", f"{self.minutes:g}", "--from", self.initial, "--training.seed", str(seed)]
        return [scriven(), "train", str(text), *budget, *self.arguments, "--quiet", "-o", str(run)]

    def measure(self, data: Path, runs: Path, seed: int) -> dict[str, Any]:
        """Trains in a new folder and measures the losses."""
        run, begun = new_folder(runs, f"{self.name}-{seed}"), time.perf_counter()
        text = Piece(data / self.text, self.first, self.minutes).file(runs)
        subprocess.run(self.command(text, run, seed), check=True)
        seconds = time.perf_counter() - begun
        values: dict[str, float | None] = {}
        for protocol in self.protocols:
            values |= losses(run, protocol)
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
        last = {event["event"]: event for event in events}
        passes = last["stepped"]["characters"] / last["started"]["training_characters"]
        model, initial = last["started"]["name"], open_run(run).origin.get("initial", "random weights")
        facts = {"model": model, "from": initial, "passes": passes, "seconds": seconds, "run": str(run)}
        return {"values": values, **facts}


@dataclass(frozen=True)
class Other:
    """A measurement that is not a loss after a training: a function of the folder of the texts and a new folder."""

    name: str
    words: str
    take: Callable[[Path, Path], dict[str, float]]
    aims: Mapping[str, Aim] = field(default_factory=dict)
    seeded = False
    against = ""
    difference = None

    def measure(self, data: Path, runs: Path, _: int) -> dict[str, Any]:
        """Measures once."""
        return {"values": self.take(data, new_folder(runs, self.name))}


def new_folder(runs: Path, name: str) -> Path:
    """A path in `runs` where nothing is yet."""
    runs.mkdir(parents=True, exist_ok=True)
    return runs / f"{name}-{len(list(runs.iterdir())):04d}"


def losses(run: Path, protocol: str) -> dict[str, float | None]:
    """Nats per symbol of the model as it is used, of its network and its counts alone; and its bits per byte."""
    predictor, text, table = load(run).predictor, corpus_of(str(run)).validation, open_run(run).counts()

    def loss(of: Predictor) -> Loss:
        return measure(protocol, of, text, lanes_at_most=1).loss

    told = loss(predictor)
    found: dict[str, float | None] = {protocol: nats(told)}
    found |= {f"{protocol} bits/byte": told.total_nats / math.log(2) / told.bytes}
    if not is_adaptive(protocol):
        found[f"{protocol} network"] = nats(loss(predictor.with_counts(None)) if predictor.counts else told)
        found[f"{protocol} counts"] = nats(loss(predictor.counts_alone(table))) if table else None
    return found


def nats(loss: Loss) -> float:
    """Nats per symbol: per character, and per end of a document."""
    return loss.total_nats / (loss.characters + loss.ends)


# --- everything but trainings


def counting(data: Path, run: Path) -> dict[str, float]:
    """The loss of counting alone, and the processor time that counting takes."""
    subprocess.run(
        [scriven(), "train", str(data / SHAKESPEARE), "--model.kind", "counts", "--quiet", "-o", run], check=True
    )
    corpus, begun = corpus_of(str(run)), time.process_time()
    count_text(corpus)
    seconds = time.process_time() - begun
    found = {protocol: losses(run, protocol)[protocol] or math.nan for protocol in BOTH}
    return found | {"s/million characters": seconds / corpus.training.characters * 1e6}


def first_readable(data: Path, run: Path) -> dict[str, float]:
    """How many words of samples are words of the training text, after a command that had 20 seconds.

    90 % count as readable, or as many as the author has in the validation text, where these are fewer.
    """
    text = Piece(data / ALICE, 50_000, 0).file(run.parent)
    begun = time.perf_counter()
    subprocess.run(
        [scriven(), "train", str(text), "--minutes", "0.3", "--from", "auto", "--quiet", "-o", run], check=True
    )
    seconds, corpus = time.perf_counter() - begun, corpus_of(str(run))
    known = set(words_of(corpus.vocabulary.decode(corpus.training.read(0, corpus.training.characters))))
    samples = load(run).samples(10, length=READ_SAMPLE, seed=1)
    words = sum(known_share(each, known) for each in samples) / 10
    author = known_share(corpus.vocabulary.decode(corpus.validation.read(0, corpus.validation.characters)), known)
    return {
        "known words": words,
        "known words of the author": author,
        "share of what is readable": words / min(0.9, author),
        "seconds": seconds,
    }


def archive_sizes(data: Path, run: Path, *, text: str, networks: tuple[str, ...] = ()) -> dict[str, float]:
    """Bits per byte of archives, by what made them, and how fast ours are made and opened.

    Archives that need a start are shown with the bytes of its weights, too.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = data / text
        if path.suffix == ".xz":
            path = Path(folder) / path.stem
            memory.write_text(data / text, path, 0)
        length = path.stat().st_size
        for each in compress.measured(path, list(networks), False):
            found[f"{each['by']}, bits/byte"] = 8 * each["bytes"] / length
            speeds = {
                f"{each['by']}, {way}, bytes/s": each[way] for way in ("compressing", "decompressing") if way in each
            }
            found |= speeds
    for name in networks:
        by = f"scriven compress --with {name}"
        found[f"{by} and its own bytes, bits/byte"] = found[f"{by}, bits/byte"] + 8 * starts.find(name).size / length
    return found


def writing(data: Path, run: Path) -> dict[str, float]:
    """Characters a second of an LSTM 2x256 in int8, alone and mixed with counts: of one text, and of 64."""
    found, counted = {}, sampling_speed.count(data / SHAKESPEARE)
    torch.set_num_threads(available_cores())
    for streams in (1, 64):
        every = sampling_speed.ways(256, streams, counted)
        ways = {name: every[name] for name in ("int8", "int8, counts")}
        for name, speed in sampling_speed.interleaved(ways, 7, TIMED_SECONDS, streams).items():
            found[f"{name}, {streams} text{'s' * (streams > 1)}, characters/s"] = speed
    return found


def peak_memory(data: Path, run: Path) -> dict[str, float]:
    """Megabytes of anonymous memory at most, of the same training, counts included, on texts of 1 and of 17 MB."""
    asked, found = Namespace(steps=150, minutes=0, width=192), {}
    for text in (SHAKESPEARE, BOOKS):
        command = memory.train_command(data / text, 1, asked, run.with_name(f"{run.name}-{text.split('.')[0]}"))
        found[f"{text}, MB"] = watched(command).peak_bytes / MB
    return found


# --- the rows


def shakespeare(minutes: float, window: Aim, stream: Aim, *more: str, **aims: Aim) -> Training:
    """Tinyshakespeare from random weights."""
    asked = {"window-256": window, "stream": stream, **aims}
    return Training(f"shakespeare-{minutes:g}", SHAKESPEARE, minutes, (*BOTH, *more), asked)


def unsuited(name: str, text: str, minutes: float, *arguments: str, protocol: str = "documents") -> list[Training]:
    """A text that no start suits, from random weights and as `--from auto` decides."""
    plain = Training(f"{name}-none", text, minutes, (protocol,), arguments=arguments, by_bytes=True)
    names = {"name": f"{name}-auto", "initial": "auto", "against": plain.name, "difference": Aim(0.005)}
    return [plain, Training(**{**vars(plain), **names})]


TRAININGS = [
    shakespeare(1, by_kind(1.38), by_kind(1.355)),
    shakespeare(2, by_kind(1.36, 1.38), by_kind(1.335, 1.355), "adaptive", adaptive=Aim(1.19)),
    shakespeare(10, by_kind(1.32), by_kind(1.30)),
    shakespeare(30, by_kind(1.30), by_kind(1.28)),
    Training(
        "shakespeare-2-start",
        SHAKESPEARE,
        2,
        BOTH,
        {"window-256": Aim(1.35), "stream": Aim(1.32)},
        initial="auto",
        against="shakespeare-2",
        difference=Aim(0.005),
    ),
    Training("alice-none", ALICE, 1, BOTH, {"stream": Aim(1.24)}),
    Training("alice-start", ALICE, 1, BOTH, {"stream": Aim(1.10)}, initial="auto"),
    Training("book-50k-none", ALICE, 1, ("stream",), first=50_000),
    Training("book-50k-start", ALICE, 1, ("stream",), {"stream": Aim(1.36)}, first=50_000, initial="auto"),
    Training("names", NAMES, 2, ("documents",), {"documents": Aim(1.88)}, arguments=LINES, by_bytes=True),
    Training(
        "poems", POEMS, 2, ("documents",), {"documents": Aim(5.65)}, arguments=LINES, by_bytes=True
    ),  # halfway between the 5.9 of a network and the 5.4 of counting alone
    Training("books-10", BOOKS, 10, ("stream",), {"stream": Aim(1.08)}),
    *unsuited("domains", "opendns-random-domains.txt", 1, *LINES),
    *unsuited("languages", "udhr_all_languages.txt.xz", 1, protocol="stream"),
]


def speeds(*ways: str) -> dict[str, Aim]:
    """What was asked of the speed of archives, made and opened."""
    aim = Aim(60_000, at_least=True)
    return {f"scriven compress{way}, {done}, bytes/s": aim for way in ways for done in ("compressing", "decompressing")}


OTHERS = [
    Other(
        "counting",
        "tinyshakespeare by counting alone, and the processor time of counting",
        counting,
        {"stream": Aim(1.49), "s/million characters": Aim(2)},
    ),
    Other(
        "readable",
        "words of samples that stand in the first 50,000 characters of alice29, 20 s after the command",
        first_readable,
        {"share of what is readable": Aim(1.0, at_least=True), "seconds": Aim(20)},
    ),
    Other(
        "compress-books",
        "archives of the books, with everything in them",
        partial(archive_sizes, text=BOOKS),
        {"scriven compress, bits/byte": Aim(1.612), **speeds("")},  # those of zpaq -m5
    ),
    Other(
        "compress-shakespeare",
        "archives of tinyshakespeare, and one with the start outside",
        partial(archive_sizes, text=SHAKESPEARE, networks=("english",)),
        {"scriven compress --with english, bits/byte": Aim(1.969), **speeds("", " --with english")},
    ),
    Other(
        "compress-alice",
        "archives of alice29, and one with the start outside",
        partial(archive_sizes, text=ALICE, networks=("english",)),
        {"scriven compress --with english, bits/byte": Aim(1.978), **speeds("", " --with english")},
    ),
    Other(
        "writing",
        "characters/s that an LSTM 2x256 writes in int8, with and without counts",
        writing,
        {
            "int8, counts, 1 text, characters/s": by_kind(80_000, 65_000, at_least=True),
            "int8, counts, 64 texts, characters/s": by_kind(400_000, 250_000, at_least=True),
        },
    ),
    Other("memory", "peak memory of a training with counts, by size of text (8 GB: memory.py)", peak_memory),
]
