"""What the user does not set is chosen here, from the text, the budget and the measured speed of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from scriven.batches import epoch_reads
from scriven.corpus.store import Corpus, Part
from scriven.errors import UsageError
from scriven.model import CharLM, autocast_context, choose_device, choose_precision
from scriven.model.cells import has_native_code
from scriven.model.device import available_cores, tune_cpu
from scriven.settings import Cell, ModelSettings, Settings, check_complete, merge_settings, validate
from scriven.training.optimizer import LEARNING_RATES
from scriven.training.state import FEW_VALIDATED, MANY_VALIDATED

REFERENCE = ModelSettings()  # the model whose speed is measured
REFERENCE_ROWS, REFERENCE_LENGTH, REFERENCE_VOCABULARY = 32, 64, 100
STEP_EFFICIENCY = 0.65  # of the measured speed that is left beside optimizer, exchange and evaluations, at the most
OVERHEAD_SECONDS = 8e-6  # a character that these take at the least, however fast its products are
SHARED_OVERHEAD_SECONDS = 2e-6  # the same where threads share all work, and no worker has another to wait for
ROWS = 32  # of text in all, where each pass over the text should teach the most
ROWS_PER_WORKER = 32  # where time counts: fewer starve the matrix units
FEWEST_ROWS_PER_WORKER = 16
STEPS_PER_EPOCH = 8  # at the least, so that a tiny text is still read in many small steps
# The best width for two minutes, measured. It grows with the fourth root of the budget: size and reading grow alike.
FITTED_WIDTH, FITTED_READABLE = 256, 15e6  # characters that the reference model could have read
FITTED_CHARACTERS = 250_000  # a smaller text gets a narrower model than that, whatever the budget
WIDTH_UNIT, WIDEST = 32, 1024
PASSES_WITHOUT_DROPOUT, DROPOUT_A_DOUBLING, MOST_DROPOUT = 8.0, 0.1, 0.5
START_SECONDS = 4.0  # from the choice of settings to the first step, other workers' start included
PROCESS_BYTES = 230 << 20  # of a worker before it has a model: the interpreter, torch and its buffers
EVALUATION_SHARE = 0.03  # of the time
EVALUATION_SPEEDUP = 3.0  # reading is so much faster than training
EVALUATIONS, FEWEST_EVALUATIONS, MOST_EVALUATIONS = 10, 4, 40
LEAST_EVALUATED = 120_000  # characters; fewer tell too little


@dataclass(frozen=True)
class Workload:
    """What the choice depends on."""

    characters: int  # that an epoch reads: of the training text, the ends of its documents, of all its windows
    validation_characters: int
    cores: int  # of all machines
    device: str
    speed: float  # characters/s of one worker training the reference model; see `measure_speed`
    overhead_seconds: float = 0.0  # of a time budget that are gone when training begins
    documents: int = 0  # of the training text
    text_characters: int = 0  # of the training text itself; as many as an epoch reads where 0
    own_cores: int = 0  # of the machine that the first worker is on; all of them where 0
    shared: bool = False  # whether native code shares the work of one worker among all cores; so `speed` was measured

    @property
    def machine_cores(self) -> int:
        """Cores of the first worker's machine: the same number, however many machines take part."""
        return self.own_cores or self.cores


@dataclass(frozen=True)
class Compute:
    """What a model is trained with: its device and its precision, "fp32" or "bf16"."""

    device: torch.device
    precision: str

    def apply(self, settings: Settings) -> Settings:
        """Returns all of the settings, with this device and precision."""
        chosen = {"training": {"device": self.device.type, "precision": self.precision}}
        return validate(merge_settings(settings.model_dump(), chosen))


def choose_compute(settings: Settings, text: Part) -> Compute:
    """Returns the device and precision for the settings and the training text on this machine.

    Raises UsageError if they do not exist.
    """
    training, cell = settings.training, settings.model.cell
    device = choose_device(training.device)
    if training.workers > 1 and device.type == "mps":
        raise UsageError("several workers need CPUs or CUDA; drop --training.workers or --training.device mps")
    native = has_native_code(settings.model, "bf16")
    fresh = _starts_within_chunks(settings, text) and has_native_code(settings.model, "fp32")
    return Compute(device, choose_precision(training.precision, device, cell, native=native, fresh=fresh))


def _starts_within_chunks(settings: Settings, text: Part) -> bool:
    """Whether documents begin in the middle of most chunks, as documents shorter than a chunk of all rows do."""
    chunk = settings.reader.batch * settings.reader.length
    return choose_reader(settings) == "documents" and _packs(settings) and text.characters < text.documents * chunk


def describe_workload(
    corpus: Corpus, settings: Settings, compute: Compute, machines: int, begun: float, *, measured: bool
) -> Workload:
    """Returns what the choice of settings depends on. `begun` is when the command began.

    The speed is measured on this machine, or nan if not `measured`.
    """
    text, cores = corpus.training, available_cores()
    device, precision, cell = compute.device, compute.precision, settings.model.cell
    shared = device.type == "cpu" and has_native_code(settings.model, precision)
    speed = measure_speed(device, precision, cell, cores if shared else 1) if measured else math.nan
    return Workload(
        characters=epoch_reads(text, settings.reader),
        validation_characters=corpus.validation.characters,
        cores=cores * machines,
        device=device.type,
        speed=speed * (machines if shared else 1),
        overhead_seconds=time.monotonic() - begun + START_SECONDS,
        documents=text.documents,
        text_characters=text.characters,
        own_cores=cores,
        shared=shared,
    )


def measure_speed(device: torch.device, precision: str, cell: Cell, threads: int = 1) -> float:
    """Measures the training speed in characters/s of the reference model with this cell, on `threads` threads.

    The fastest of a few; about 0.3 s.
    """
    with torch.random.fork_rng(devices=[]):
        model = CharLM(REFERENCE.model_copy(update={"cell": cell}), REFERENCE_VOCABULARY).to(device)
    ids = torch.zeros(REFERENCE_LENGTH, REFERENCE_ROWS, dtype=torch.int64, device=device)
    seconds = []
    with tune_cpu(threads):
        for _ in range(4):
            begun = time.perf_counter()
            with autocast_context(device, precision):
                _, y, _ = model.read(ids)
                losses = model.losses(y, ids)
            torch.autograd.backward(losses, torch.ones_like(losses))
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return ids.numel() / min(seconds)


def choose_settings(given: Settings, facts: Workload) -> tuple[Settings, list[str]]:
    """All settings, the user's first, and sentences about what the text or the budget made necessary.

    `given.corpus` is the corpus' own settings.

    The rules come from docs/experiments.md:

    - *Workers and rows.* On a CPU one worker a core, up to two; but one alone where native code shares its work among
      threads. 32 rows in all learn the most from a pass; within a time budget, 32 rows for each of the first two cores
      learn the most in the time. Rows are halved until a pass over the text is
      8 steps, and workers with them. Without `reader.pack`, documents shorter than a chunk are read in
      proportionally more rows, as far as there are documents.
    - *Threads* decide the last bits of torch's products. So they are one machine's cores over groups, which do not
      depend on how many workers or machines there are.
    - *Width* grows with the fourth root of what the reference model could read in the budget, so that the model's size
      and what it reads grow alike, and at most with the square root of the text's size.
    - *The model that is kept* is chosen by validation losses that are read from enough characters: by one loss, by
      the mean of three, or not at all.
    - *Dropout* is for texts that are read more than about eight times, 0.1 for each doubling.
    """
    notes: list[str] = []
    values: dict[str, dict[str, Any]] = {"reader": {}, "model": {}, "training": {}, "monitor": {}}
    chosen = given.explicit()
    values["reader"]["kind"] = choose_reader(given)
    values["reader"]["pack"] = _packs(given)
    workers, groups, rows = _workers_and_rows(given, facts, chosen, notes)
    threads = max(1, facts.machine_cores // groups) if rows >= FEWEST_ROWS_PER_WORKER * groups else 1
    values["reader"]["batch"] = rows
    values["training"] |= {"workers": workers, "groups": groups, "threads": threads}
    readable = _readable(given, facts, workers, rows, chunk_length(given, facts))
    values["model"] |= _model(given, facts, readable, chosen)
    values["training"] |= _training(given)
    values["training"] |= _evaluations(given, facts, workers, readable, notes)
    values["monitor"] |= _choice(given, facts, notes)
    return check_complete(validate(merge_settings(values, chosen))), notes


def describe_choices(settings: Settings, given: Settings) -> str:
    """Names the settings that were chosen, and their values, in one sentence; "" if the user set all of them."""
    chosen = given.explicit()
    words = [
        f"{section}.{name} {_show(getattr(getattr(settings, section), name))}"
        for section, group in settings
        for name, field in type(group).model_fields.items()
        if (field.json_schema_extra or {}).get("fitted") and name not in chosen.get(section, {})
    ]
    return f"Fitted: {', '.join(words)}." if words else ""


def choose_reader(given: Settings) -> Any:
    """The kind of reader: the one that is given, else documents where the text has them, else the stream."""
    if "kind" in given.reader.model_fields_set:
        return given.reader.kind
    return "stream" if given.corpus.documents == "none" else "documents"


def _show(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def chunk_length(settings: Settings, facts: Workload) -> float:
    """Characters that a row has in a step: fewer than `reader.length` where it has one document, which is shorter."""
    length = settings.reader.length
    if not facts.documents or _packs(settings):
        return length
    return max(1.0, min(length, facts.characters / facts.documents))


def _packs(settings: Settings) -> bool:
    """Whether a row begins the next document where one ends; it does not where documents are read whole."""
    return settings.reader.pack and settings.training.mean != "document"


def expected_seconds(settings: Settings, facts: Workload, share: float = 1.0) -> float:
    """How long that share of the budget will take, from the measured speed; evaluations included."""
    speed = _whole_speed(facts, settings.training.workers) / _cost(settings.model.width, settings.model.layers)
    read = settings.training.evaluation_characters or facts.validation_characters
    evaluated = settings.training.evaluations * read / EVALUATION_SPEEDUP
    characters = _budget_characters(settings, facts, settings.reader.batch * chunk_length(settings, facts))
    return (share * characters + evaluated) / speed + facts.overhead_seconds


def _workers_and_rows(
    given: Settings, facts: Workload, chosen: dict[str, Any], notes: list[str]
) -> tuple[int, int, int]:
    """How many processes, groups, and rows of text in all."""
    training, reader = chosen.get("training", {}), chosen.get("reader", {})
    pair = min(2, facts.cores) if facts.device == "cpu" else 1
    workers = training.get("workers") or (1 if facts.shared else pair)
    rows = ROWS_PER_WORKER * max(workers, pair if facts.shared else 1)
    rows = rows if given.budget.minutes else max(ROWS, FEWEST_ROWS_PER_WORKER * workers)
    length = chunk_length(given, facts)
    rows = 1 << round(math.log2(rows * given.reader.length / length)) if facts.documents else rows
    most = max(1, min(int(facts.characters / (STEPS_PER_EPOCH * length)), facts.documents or facts.characters))
    if "batch" in reader:
        rows = given.reader.batch
        if 0 < facts.documents < rows:
            notes.append(
                f"The text has {_count_of(facts.documents, 'document')} and reader.batch is {rows}: some rows read the "
                "same documents side by side, as of different epochs; a smaller batch is faster."
            )
    else:
        unit, small = math.lcm(training.get("workers", 1), training.get("groups", 1)), rows > most
        rows = math.ceil(min(rows, 1 << (most.bit_length() - 1)) / unit) * unit
        if small:
            notes.append(_small(facts, rows))
    if "workers" not in training:
        shared = math.gcd(rows, training.get("groups", 0))
        workers = max(count for count in range(1, workers + 1) if shared % count == 0)
        workers = workers if "batch" in reader or rows >= FEWEST_ROWS_PER_WORKER * workers else 1
    return workers, training.get("groups", workers), rows


def _small(facts: Workload, rows: int) -> str:
    documents = f" in {_count_of(facts.documents, 'document')}" if facts.documents else ""
    read = f"it is read in {_count_of(rows, 'row')}"
    return f"The text is small, {facts.characters:,} characters{documents} to train on: {read}."


def _count_of(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + "s" * (number != 1)


def _budget_characters(settings: Settings, facts: Workload, step_characters: float) -> float:
    """Returns the characters that a budget of steps, epochs or characters reads, at this number per step."""
    budget = settings.budget
    steps = budget.steps * step_characters * settings.training.accumulate
    return budget.characters or budget.epochs * facts.characters or steps


def _readable(given: Settings, facts: Workload, workers: int, rows: int, length: float) -> float:
    """Characters that the reference model could read in the budget."""
    budget = given.budget
    if not budget.minutes:
        return _budget_characters(given, facts, rows * length)
    return _whole_speed(facts, workers) * max(1.0, budget.minutes * 60 - facts.overhead_seconds)


def _whole_speed(facts: Workload, workers: int) -> float:
    """Characters/s of all workers that train the reference model, all that a step does besides included."""
    overhead = SHARED_OVERHEAD_SECONDS if facts.shared else OVERHEAD_SECONDS
    speed = min(STEP_EFFICIENCY * facts.speed, 1 / (1 / facts.speed + overhead))
    return speed if facts.shared else speed * workers


def _model(given: Settings, facts: Workload, readable: float, chosen: dict[str, Any]) -> dict[str, Any]:
    """Width and dropout."""
    model = chosen.get("model", {})
    best = FITTED_WIDTH * (readable / FITTED_READABLE) ** 0.25
    largest = FITTED_WIDTH * math.sqrt((facts.text_characters or facts.characters) / FITTED_CHARACTERS)
    width = model.get("width") or max(WIDTH_UNIT, round(min(best, largest, WIDEST) / WIDTH_UNIT) * WIDTH_UNIT)
    passes = readable / facts.characters
    if given.budget.minutes:
        passes /= _cost(width, given.model.layers)
    dropout = round(DROPOUT_A_DOUBLING * math.log2(max(1.0, passes / PASSES_WITHOUT_DROPOUT)), 2)
    dropout = model.get("dropout", min(MOST_DROPOUT, dropout))
    return {"width": width, "dropout": dropout, "input_dropout": dropout, "output_dropout": dropout}


def _cost(width: int, layers: int) -> float:
    """Time that a model takes for a character, in units of the reference model's."""
    return (width / REFERENCE.width) ** 2 * layers / REFERENCE.layers


def _training(given: Settings) -> dict[str, Any]:
    """Learning rate, weight decay and the decay of squares of the optimizer chosen."""
    optimizer = given.training.optimizer
    decay = 0.1 if optimizer == "muon" else 0.0
    return {
        "learning_rate": LEARNING_RATES[optimizer],
        "weight_decay": decay,
        "beta2": 0.95 if optimizer == "rmsprop" else 0.99,
    }


def _choice(given: Settings, facts: Workload, notes: list[str]) -> dict[str, Any]:
    """By what the model that is kept is chosen."""
    read = min(facts.validation_characters, given.training.evaluation_characters or facts.validation_characters)
    if read >= MANY_VALIDATED or not read or "choose" in given.monitor.model_fields_set:
        return {"choose": "best"}
    choice = "last" if read < FEW_VALIDATED else "smoothed"
    how = {"last": "the last model is kept", "smoothed": "the model to keep is chosen by the mean of three losses"}
    notes.append(
        f"The validation text is short, {_count_of(read, 'character')}, and its loss partly chance: {how[choice]}; a "
        "larger --corpus.validation tells more, --monitor.choose best takes the lowest loss all the same."
    )
    return {"choose": choice}


def _requested_evaluations(given: Settings, facts: Workload, trained: float) -> float:
    """Returns how many evaluations the requested interval makes; 0 without an interval."""
    step = given.reader.batch * chunk_length(given, facts) * given.training.accumulate
    every = given.monitor.every_epochs * facts.characters or given.monitor.every_steps * step
    return max(1.0, trained / every) if every else 0.0


def _evaluations(given: Settings, facts: Workload, workers: int, trained: float, notes: list[str]) -> dict[str, Any]:
    """How often the validation text is read, and how much of it: about 3 % of the time."""
    reads = given.reader.length if given.reader.loss == "last" else 1  # characters, to foretell one
    budget, text = given.budget, facts.validation_characters
    evaluations = EVALUATIONS
    readable = max(EVALUATION_SHARE * EVALUATION_SPEEDUP * trained, EVALUATIONS * LEAST_EVALUATED)
    if budget.minutes:
        readable = (
            EVALUATION_SHARE * budget.minutes * 60 * facts.speed * EVALUATION_SPEEDUP * (1 if facts.shared else workers)
        )
        evaluations = max(FEWEST_EVALUATIONS, min(MOST_EVALUATIONS, round(readable / max(1, text * reads))))
    result = {"evaluations": evaluations}
    limit = (
        max(LEAST_EVALUATED, int(readable / (_requested_evaluations(given, facts, trained) or evaluations))) // reads
    )
    if limit < text and not {"evaluations", "evaluation_characters"} & given.explicit().get("training", {}).keys():
        result["evaluation_characters"] = limit
        notes.append(
            f"Evaluations read the first {limit:,} of {text:,} validation characters, for the time that there is; "
            "--training.evaluation-characters says otherwise."
        )
    return result


def expected_bytes(settings: Settings, parameters: int, vocabulary_size: int) -> int:
    """Estimates the bytes of memory of all workers: weights, gradients, optimizer and the activations of their rows."""
    workers, model, reader = settings.training.workers, settings.model, settings.reader
    weights = 4 * parameters * (6 + settings.training.groups)
    values = model.layers * 16 * model.width + 3 * vocabulary_size  # a character's, kept for the backward pass
    return workers * (PROCESS_BYTES + weights) + 4 * values * reader.batch * reader.length
