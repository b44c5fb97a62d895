"""From a request (texts, settings, where to) to a training: corpus, fitted settings, run folder, workers, loop."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from scriven.batches import epoch_reads
from scriven.corpus.build import Progress, build
from scriven.corpus.header import NAME as CORPUS_FILE
from scriven.corpus.store import Corpus
from scriven.errors import InputError, Interrupted, UsageError
from scriven.events import Event, Started
from scriven.kernels.library import level
from scriven.model import choose_device, choose_precision
from scriven.model.cells import has_native_code
from scriven.model.compute import available_cores, cpu_prepared
from scriven.model.language_model import parameter_count
from scriven.model.pretrained import Embeddings
from scriven.runs import Checkpoint, Run, create_run, open_run, run_corpus, writing
from scriven.runs.folder import SETTINGS_FILE
from scriven.settings import Settings, consistent, merged, overlaid, possible, validated
from scriven.training.fit import (
    Facts,
    chunk_length,
    expected_seconds,
    fit,
    fitted_words,
    measure_speed,
    reader_kind,
)
from scriven.training.initial import initial_model, new_symbols, pretrained
from scriven.training.loop import Trainer
from scriven.training.parallel import Workers, join_workers, start_workers
from scriven.training.plan import Done, Plan, used_share
from scriven.training.stop import ignore_interrupts

RUNS = Path("runs")
PROCESS_BYTES = 230 << 20  # of a worker before it has a model: the interpreter, torch and its buffers
SYMBOLS_SHOWN = 20
START_SECONDS = 4.0  # from a plan to the first step, other workers' start included
CHANGEABLE = {"budget", "monitor", "device", "precision", "workers", "threads", "evaluations"}


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    texts: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)  # what is not set in it is fitted
    output: Path | None = None  # the run folder; runs/NAME where None
    resume: Literal["last"] | int | None = None  # checkpoint to go on from
    initial: Path | None = None  # run whose weights to start from
    begun: float = field(default_factory=time.monotonic)  # when the command began


def train(request: Request, stop: Callable[[], int] = lambda: 0, progress: Progress | None = None) -> Generator[Event]:
    """Trains; yields events. `stop()` gives the number of a signal that asks to stop, or 0; `progress` is `build`'s.

    Raises UsageError for settings that contradict each other, InputError for what cannot be read or written,
    DivergedError when the loss is not finite.
    """
    request = replace(request, settings=_absolute(request.settings))
    resumed = _resumed(request) if request.resume is not None else None
    corpus = _corpus(request, resumed, _stoppable(progress, stop))
    checkpoint = None
    if resumed and request.resume is not None:
        checkpoint = resumed.checkpoint(request.resume)
        _check_goes_on(resumed, checkpoint, corpus)
    settings, embeddings = (resumed.settings, None) if resumed else _asked(request, corpus)
    embedding = embeddings.source if embeddings else ""
    if settings.training.workers > 1 and settings.training.device not in ("auto", "cpu"):
        raise UsageError("several workers are for the CPU so far; drop --training.workers or --training.device")
    device = choose_device(settings.training.device)
    native = has_native_code(settings.model, "bf16")
    precision = choose_precision(settings.training.precision, device, settings.model.cell, native)
    path = resumed.path if resumed else request.output or _free_folder(request.texts[0])
    facts = _facts(request, corpus, settings, device, precision)
    notes = _other_kernels(resumed) if resumed else []
    if not resumed:
        settings, notes = _fitted(request, settings, facts, path)
        notes += _initial_notes(request, settings, corpus, embeddings)
    with writing(path):
        computing = {"training": {"device": device.type, "precision": precision}}
        settings = validated(merged(settings.model_dump(), computing))
        origin = resumed.origin if resumed else _origin(request, corpus, embedding)
        origin = origin | {"corpus": str(corpus.path.resolve()), "kernels": level()}
        run = create_run(path, settings, corpus.vocabulary, origin)
        plan = Plan(
            settings,
            str(corpus.path.resolve()),
            resume=str(checkpoint.path) if checkpoint else "",
            initial=str(request.initial or ""),
            embedding=embedding,
            used_seconds=time.monotonic() - request.begun,
        )
        with contextlib.closing(_workers(plan)) as workers, cpu_prepared(settings.training.threads):
            trainer = Trainer(plan, workers, run, stop)
            yield _started(trainer, run, facts, (*corpus.notes, *notes))
            yield from trainer.events()


def _stoppable(progress: Progress | None, stop: Callable[[], int]) -> Progress:
    """`progress`, which ends the work that reports to it when there was a signal to stop."""

    def _report(done: int, total: int | None) -> None:
        if stop():
            raise Interrupted("stopped while the text was read; nothing was trained yet, so just start again", stop())
        if progress:
            progress(done, total)

    return _report


def work() -> None:
    """Trains as one of the workers that `train` started, told what to do by rank 0."""
    ignore_interrupts()
    with contextlib.closing(join_workers()) as workers:
        plan = Plan.from_json(workers.broadcast(None))
        with cpu_prepared(plan.settings.training.threads):
            for _ in Trainer(plan, workers, None, lambda: 0).events():
                pass


def _workers(plan: Plan) -> Workers:
    workers = start_workers(plan.settings.training.workers)
    workers.broadcast(plan.to_json())
    return workers


# --- what the request means


def _corpus(request: Request, resumed: Run | None, progress: Progress | None) -> Corpus:
    """The corpus of the texts: one built before, one in the cache, or built now."""
    if resumed and not request.texts:
        return run_corpus(resumed, progress)
    if not request.texts:
        raise UsageError("no text to train on; name a file, a folder, - for standard input, python or shakespeare")
    if len(request.texts) == 1 and (Path(request.texts[0]) / CORPUS_FILE).is_file():
        return Corpus.open(request.texts[0])
    settings = resumed.settings.corpus if resumed else request.settings.corpus
    return Corpus.open(build(request.texts, settings, progress=progress))


def _absolute(settings: Settings) -> Settings:
    """The same settings with whole paths, so that a corpus can be built again from any folder."""
    files = {name: getattr(settings.corpus, name) for name in ("alphabet", "validation_file")}
    files = {name: str(Path(file).resolve()) for name, file in files.items() if file and Path(file).exists()}
    return validated(merged(settings.given(), {"corpus": files})) if files else settings


def _resumed(request: Request) -> Run:
    """The run to go on with, its settings changed where that is allowed."""
    if request.initial:
        raise UsageError("--resume goes on with a run and --from starts a new one; give one of them")
    run = open_run(request.output or _newest_folder(request.texts))
    asked = request.settings.given()
    embedding = asked.get("model", {}).get("embedding")
    if isinstance(embedding, str) and str(Path(embedding).resolve()) == run.origin.get("embedding"):
        del asked["model"]["embedding"]  # the one that it started with
    for section, values in asked.items():
        for name, value in values.items():
            old = getattr(getattr(run.settings, section), name)
            if value != old and section not in CHANGEABLE and name not in CHANGEABLE:
                raise UsageError(
                    f"{section}.{name} of {run.path} is {old!r} and cannot become {value!r} when it is resumed; "
                    "start a new run, with --from to keep its weights"
                )
    settings = consistent(validated(overlaid(run.settings.model_dump(), asked)))
    if not settings.budget:
        raise UsageError("the budget given is 0; give a larger one, or none to go on with the run's")
    return replace(run, settings=settings)


def _other_kernels(run: Run) -> list[str]:
    """A sentence, where other native kernels made the run so far than would now."""
    before = run.origin.get("kernels", level())
    if before == level():
        return []
    return [f"Its kernels were {before} so far and are {level()} now: it goes on from there, but not to the same bits."]


def _check_goes_on(run: Run, checkpoint: Checkpoint, corpus: Corpus) -> None:
    """Raises InputError when the corpus is another one, UsageError when the checkpoint has used up the whole budget."""
    if run.origin.get("text") != text_hash(corpus):
        raise InputError(
            f"the text is not the one that {run.path} was trained on, or is read in another way; give that one, or "
            f"start another run from its model with --from {run.path}"
        )
    manifest = checkpoint.manifest
    if not set(vars(Done())) <= set(manifest):
        raise InputError(
            f"{checkpoint.path} was saved by an earlier version of scriven and cannot be gone on with; start another "
            f"run from its model with --from {run.path}"
        )
    done = Done(**{name: manifest[name] for name in vars(Done())})
    same = manifest["budget"] == run.settings.budget.model_dump()
    share = done.progress if same else used_share(Plan(run.settings, ""), done)
    if share >= 1:
        name, value = next((name, value) for name, value in run.settings.budget if value)
        raise UsageError(
            f"{run.path} has used up its budget at step {done.step:,}; give a larger one to go on, as in "
            f"--resume --{name} {2 * value:g}"
        )


def text_hash(corpus: Corpus) -> str:
    """A hash of the text as ids, from the hashes that the corpus was built with."""
    header = corpus.header
    parts = (header.training, header.validation)
    files = [file.sha256 for part in parts for file in part.files]
    return hashlib.sha256(json.dumps([header.vocabulary, files]).encode()).hexdigest()


def _name(texts: tuple[str, ...]) -> str:
    """A run's name from its first text's: of the file, or of its folder where that has no letters, as *.txt."""
    first = texts[0] if texts else ""
    path = Path("stdin" if first == "-" else first).absolute()
    names = (re.sub(r"[^\w-]+", "-", name.split(".")[0]).strip("-") for name in (path.name, path.parent.name))
    return next(filter(None, names), "run")


def _free_folder(text: str) -> Path:
    """runs/NAME, or the first runs/NAME-2, -3, ... that is not there yet."""
    name, number = _name((text,)), 1
    while (path := RUNS / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def _newest_folder(texts: tuple[str, ...]) -> Path:
    """The run of this text, or of any where none is named, that was written to last."""
    named = re.compile(re.escape(_name(texts)) + r"(-\d+)?" if texts else ".*")
    found = [path for path in RUNS.glob("*") if (path / SETTINGS_FILE).is_file() and named.fullmatch(path.name)]
    if not found:
        raise InputError(f"there is no run of {' '.join(texts) or 'any text'} in {RUNS} to resume; name it with -o")
    return max(found, key=lambda path: (path / SETTINGS_FILE).stat().st_mtime)


def _asked(request: Request, corpus: Corpus) -> tuple[Settings, Embeddings | None]:
    """The settings asked for, the corpus' own among them, and the embeddings where a file or a run of them was named.

    Raises UsageError when a corpus that was built before has other settings than those asked for.
    """
    settings = request.settings
    for name, value in settings.given().get("corpus", {}).items():
        if value != (has := getattr(corpus.settings, name)):
            raise UsageError(
                f"corpus.{name} of {corpus.path} is {has!r}, not {value!r}; build it anew, or drop the flag"
            )
    chosen = merged(settings.given(), {"corpus": corpus.settings.model_dump()})
    chosen = merged(chosen, {"reader": {"kind": reader_kind(validated(chosen))}})
    named = settings.model.embedding
    embeddings = pretrained(named) if isinstance(named, str) and named else None
    if embeddings:
        chosen = merged(chosen, {"model": {"embedding": embeddings.width}})
    settings = possible(validated(chosen))
    _check_text(settings, corpus)
    return settings, embeddings


def _check_text(settings: Settings, corpus: Corpus) -> None:
    """Raises UsageError when the text does not have what the settings need."""
    longest = corpus.training.document_lengths()[2] + 1 if corpus.training.documents else 0
    if settings.training.mean == "document" and longest > settings.reader.length:
        raise UsageError(
            f"training.mean document needs whole documents in a step: the longest one has {longest - 1:,} characters "
            f"and its end, and reader.length is {settings.reader.length}; give --reader.length {longest}"
        )
    if settings.training.averaging != "none" and not corpus.validation.characters:
        raise UsageError(
            f"training.averaging {settings.training.averaging} begins when the validation loss stops falling, and "
            "there is no validation text; drop it, or leave some with --corpus.validation"
        )


def _facts(request: Request, corpus: Corpus, settings: Settings, device: torch.device, precision: str) -> Facts:
    """What the settings that are not given are fitted to."""
    text, cores = corpus.training, available_cores()
    shared = device.type == "cpu" and has_native_code(settings.model, precision)
    return Facts(
        epoch_reads(text, settings.reader),
        corpus.validation.characters,
        cores,
        device.type,
        measure_speed(device, precision, settings.model.cell, cores if shared else 1),
        time.monotonic() - request.begun + START_SECONDS,
        documents=text.documents,
        text_characters=text.characters,
        shared=shared,
    )


def _fitted(request: Request, given: Settings, facts: Facts, path: Path) -> tuple[Settings, list[str]]:
    """All settings of a new run."""
    if (path / SETTINGS_FILE).exists() and open_run(path).steps():
        raise UsageError(f"{path} holds a run already; go on with it (--resume) or choose another folder with -o")
    if not given.budget:
        raise UsageError("how long to train is not said; give --minutes, --epochs, --steps or --characters")
    if request.initial:
        inherited = {"model": open_run(request.initial).settings.model.model_dump()}
        given = validated(merged(inherited, given.given()))
    settings, notes = fit(given, facts)
    return settings, [*filter(None, [fitted_words(settings, given)]), *notes]


def _origin(request: Request, corpus: Corpus, embedding: str) -> dict[str, Any]:
    """Where a run comes from: the run table of its settings.toml."""
    known = [str(Path(text).resolve()) if Path(text).exists() else text for text in request.texts]
    known = [text.encode("utf-8", "replace").decode() for text in known]  # a file's name may hold anything
    origin = {"texts": known, "text": text_hash(corpus), "scriven": version("scriven")}
    started = {"initial": request.initial or "", "embedding": embedding}
    return origin | {name: str(Path(path).resolve()) for name, path in started.items() if path}


def _initial_notes(request: Request, settings: Settings, corpus: Corpus, embeddings: Embeddings | None) -> list[str]:
    """What should be known of the weights that training starts from; those of others are tried here."""
    initial, missing = str(request.initial or ""), list[int]()
    if initial or embeddings:
        _, missing = initial_model(settings, corpus.vocabulary, initial, embeddings)
    notes = _new_symbols(request, corpus) if initial else []
    if embeddings:
        notes += _missing_symbols(embeddings, [chr(symbol) for symbol in missing])
    elif settings.model.freeze_embedding and not initial:
        notes.append("The embedding is frozen as it is drawn by chance: model.embedding names no pretrained one.")
    return notes


def _new_symbols(request: Request, corpus: Corpus) -> list[str]:
    assert request.initial
    new = new_symbols(open_run(request.initial).vocabulary, corpus.vocabulary)
    return (
        [f"{request.initial} did not know {len(new)} of the characters, which got new rows: {_some(new)}"]
        if new
        else []
    )


def _missing_symbols(embeddings: Embeddings, missing: list[str]) -> list[str]:
    source, skipped = embeddings.source, embeddings.skipped
    lacks = f"{source} lacks {len(missing)} of the characters, which begin by chance: {_some(missing)}"
    unused = f"{source} has {skipped:,} entries that are not single characters, or there twice; they are not used"
    return [*([lacks] if missing else []), *([unused] if skipped else [])]


def _some(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:SYMBOLS_SHOWN])) + (" ..." if len(symbols) > SYMBOLS_SHOWN else "")


def _started(trainer: Trainer, run: Run, facts: Facts, notes: tuple[str, ...]) -> Started:
    plan, settings, corpus = trainer.plan, trainer.settings, trainer.corpus
    left = settings.budget.minutes * 60 - trainer.done.seconds
    if not plan.timed:
        left = expected_seconds(settings, facts, 1 - trainer.done.progress)
    parameters = parameter_count(settings.model, corpus.vocabulary.size)
    reader, model = settings.reader, settings.model
    return Started(
        run=str(run.path),
        name=f"{model.cell} {model.layers}x{model.width}",
        parameters=parameters,
        training_characters=corpus.training.characters,
        validation_characters=corpus.validation.characters,
        characters_per_step=round(reader.batch * chunk_length(settings, facts) * settings.training.accumulate),
        workers=trainer.workers.size,
        device=settings.training.device,
        precision=settings.training.precision,
        expected_seconds=left,
        expected_bytes=expected_bytes(settings, parameters, corpus.vocabulary.size),
        step=trainer.done.step,
        progress=trainer.done.progress,
        notes=notes,
    )


def expected_bytes(settings: Settings, parameters: int, vocabulary_size: int) -> int:
    """An estimate of the memory of all workers: each one's weights, gradients, optimizer, and its rows' activations."""
    workers, model, reader = settings.training.workers, settings.model, settings.reader
    weights = 4 * parameters * (6 + settings.training.groups)
    values = model.layers * 16 * model.width + 3 * vocabulary_size  # a character's, kept for the backward pass
    return workers * (PROCESS_BYTES + weights) + 4 * values * reader.batch * reader.length
