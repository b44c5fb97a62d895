"""Chooses what the user does not set, from the text, the budget and the measured speed of the machine."""

from __future__ import annotations

import math
import operator
from typing import Any

from scriven.settings import Settings, symbol_word
from scriven.settings_checks import check_complete
from scriven.settings_values import merge_settings, validate
from scriven.training.optimizer import usual_learning_rate
from scriven.training.state import FEW_VALIDATED, MANY_VALIDATED
from scriven.training.workload import REFERENCE, Workload, known_here_alone

STEP_EFFICIENCY = 0.65  # of the measured speed, at most: the optimizer, exchange and evaluations take the rest
OVERHEAD_SECONDS = 8e-6  # that these take per character, at least, even if matrix products are very fast
SHARED_OVERHEAD_SECONDS = 2e-6  # the same if threads share the work of one worker, which waits for no other
ROWS = 32  # over all workers; the model learns most from a pass over the text with this number
ROWS_PER_WORKER = 32  # if the budget is a time: fewer leave the matrix units idle
FEWEST_ROWS_PER_WORKER, FEWEST_ROWS_PER_THREAD = 16, 2
STEPS_PER_EPOCH = 8  # at least, so that even a tiny text is read in many small steps
# The best width for a budget, measured. It grows with the fourth root of the budget, so that the size of the model and
# the number of characters that it reads grow at the same rate.
FITTED_WIDTH, FITTED_READABLE = 256, 7e6  # characters that the reference model could read in that budget
FITTED_CHARACTERS = 250_000  # a smaller text gets a narrower model than that, whatever the budget
WIDTH_UNIT, WIDEST = 32, 1024
PASSES_WITHOUT_DROPOUT, DROPOUT_A_DOUBLING, MOST_DROPOUT = 8.0, 0.1, 0.5
MEMBERS, PASSES_ALONE = 2, 9.0  # members of a model that would read the text more often than that alone
PASSES_ENOUGH = 200  # over a text; more gained nothing on 10 KB and 50 KB
PROCESS_BYTES = 230 << 20  # of a worker without a model: the interpreter, torch and its buffers
EVALUATION_SHARE = 0.03  # of the time
EVALUATION_SPEEDUP = 2.0  # evaluation, with samples and all, reads faster than training by this factor
EVALUATIONS, FEWEST_EVALUATIONS, MOST_EVALUATIONS = 10, 4, 40
LEAST_EVALUATED = 120_000  # characters; the loss of fewer is too noisy
# Characters that the reference model reads until a text, and a short one, becomes readable with counts.
READ_UNTIL_READABLE, READ_OF_SHORT_TEXT, SHORT_TEXT = 30_000, 500_000, 100_000


def choose_settings(given: Settings, workload: Workload) -> tuple[Settings, list[str]]:
    """Returns all settings, with the user's own unchanged, and notes on what the text or the budget made necessary.

    `given.corpus` has the corpus's own settings.

    The rules come from docs/experiments.md:

    - *Workers and rows.* On a CPU there is one worker per core, up to two, or a single one if native code shares its
      work among threads. A model learns most from a pass over the text with 32 rows in all. In a given time it learns
      most with 32 rows for each of the first two cores, but with 32 in all if products take as many at once (AMX).
      Rows are halved until a pass over the text has 8 steps, and workers are reduced with them. Without `reader.pack`,
      documents shorter than a chunk are read in proportionally more rows, if there are enough documents.
    - *Threads* affect the last bits of torch's products. So their number is one machine's cores divided by the groups,
      which does not depend on the number of workers or machines. Native code gives the same bits with any number: it
      gets as many as were measured to be fastest, with two rows each or more.
    - *Width* grows with the fourth root of the characters that the reference model could read in the budget, and at
      most with the square root of the text's size. So the model's size and what it reads grow at the same rate.
    - *The model to keep* is chosen by validation losses over enough characters: by one loss, by the mean of three, or
      not at all.
    - *Dropout* starts when a text is read more than about eight times, with 0.1 for each doubling.
    - *Members.* A text that one model would read more than about nine times in a time is read by two members, half as
      often, and in 32 rows. A model whose width is given stays one.
    """
    notes: list[str] = []
    values: dict[str, dict[str, Any]] = {"reader": {}, "model": {}, "training": {}, "monitor": {}}
    chosen = given.explicit()
    values["reader"]["kind"] = choose_reader(given)
    values["reader"]["pack"] = _packs(given)
    members = _choose_members(given, workload, chosen)
    workers, groups, rows = _choose_workers_and_rows(given, workload, chosen, members, notes)
    threads = _choose_threads(workload, groups, rows)
    values["reader"]["batch"] = rows
    values["training"] |= {"workers": workers, "groups": groups, "threads": threads}
    readable = _readable_characters(given, workload, workers, rows, chunk_length(given, workload))
    values["model"] |= {"members": members, **_choose_model(given, workload, readable, chosen, members)}
    values["training"] |= _choose_optimizer(given)
    notes += _note_on_many_passes(given, workload, readable, values["model"])
    cost = _relative_cost(given.model.layers, values["model"]["width"], values["model"]["members"])
    values["training"] |= _choose_evaluations(
        given, workload, readable / cost if given.budget.minutes else readable, notes
    )
    values["monitor"] |= _choose_kept_model(given, workload, notes)
    return check_complete(validate(merge_settings(values, chosen))), notes


def chosen_names(settings: Settings, given: Settings) -> list[str]:
    """Returns the names of the settings that were chosen since the user did not set them, such as `model.width`."""
    set_by_user = given.explicit()
    return [
        f"{section}.{name}"
        for section, group in settings
        for name, field in type(group).model_fields.items()
        if (field.json_schema_extra or {}).get("fitted") and name not in set_by_user.get(section, {})
    ]


def describe_choices(settings: Settings, given: Settings) -> str:
    """Returns a sentence with the chosen settings and their values; "" if the user set all of them."""
    words = [f"{name} {_show(operator.attrgetter(name)(settings))}" for name in chosen_names(settings, given)]
    return f"Chosen automatically: {', '.join(words)}." if words else ""


def choose_reader(given: Settings) -> Any:
    """Returns the kind of reader: the given one, or documents if the text has any, or the stream."""
    if "kind" in given.reader.model_fields_set:
        return given.reader.kind
    return "stream" if given.corpus.documents == "none" else "documents"


def _show(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def chunk_length(settings: Settings, workload: Workload) -> float:
    """Returns the characters of a row in a step: fewer than `reader.length` if it has one shorter document."""
    length = settings.reader.length
    if not workload.documents or _packs(settings):
        return length
    return max(1.0, min(length, workload.characters / workload.documents))


def _packs(settings: Settings) -> bool:
    """Whether a row starts the next document where one ends. It does not if documents are read whole."""
    return settings.reader.pack and settings.training.mean != "document"


def expected_seconds(settings: Settings, workload: Workload, share: float = 1.0) -> float:
    """Estimates the seconds for a share of the budget, with its evaluations, from the measured speed."""
    model = settings.model
    cost = _relative_cost(model.layers, model.width, model.members)
    speed = _whole_speed(workload, settings.training.workers) / cost
    read = settings.training.evaluation_characters or workload.validation_characters
    evaluated = settings.training.evaluations * read / EVALUATION_SPEEDUP
    characters = _budget_characters(settings, workload, settings.reader.batch * chunk_length(settings, workload))
    return (share * characters + evaluated) / speed + workload.overhead_seconds


def readable_seconds(characters: int, workload: Workload, workers: int) -> float:
    """Returns about how many seconds after the command a text of this size becomes readable; 0 if unknown."""
    read = READ_UNTIL_READABLE if characters >= SHORT_TEXT else READ_OF_SHORT_TEXT
    return workload.overhead_seconds + read / _whole_speed(workload, workers) if workload.speed > 0 else 0.0


def _choose_workers_and_rows(
    given: Settings, workload: Workload, chosen: dict[str, Any], members: int, notes: list[str]
) -> tuple[int, int, int]:
    """Returns the numbers of workers, of groups, and of rows over all workers."""
    training, reader = chosen.get("training", {}), chosen.get("reader", {})
    workers = _usual_workers(given, workload)
    sharing = _few_cores(given, workload) if workload.shared and not workload.tiles else 1
    rows = ROWS_PER_WORKER * max(1, max(workers, sharing) // members)
    rows = rows if given.budget.minutes else max(ROWS, FEWEST_ROWS_PER_WORKER * workers)
    length = chunk_length(given, workload)
    rows = 1 << round(math.log2(rows * given.reader.length / length)) if workload.documents else rows
    most = max(1, min(int(workload.characters / (STEPS_PER_EPOCH * length)), workload.documents or workload.characters))
    if "batch" in reader:
        rows = given.reader.batch
        if 0 < workload.documents < rows:
            notes.append(
                f"The text has {_count(workload.documents, 'document')} and reader.batch is {rows}, so some rows read "
                "the same documents at the same time, for different epochs; a smaller batch is faster."
            )
    else:
        unit, small = math.lcm(training.get("workers", 1), training.get("groups", 1)), rows > most
        rows = math.ceil(min(rows, 1 << (most.bit_length() - 1)) / unit) * unit
        if small:
            notes.append(_describe_small_text(workload, rows, symbol_word(given.corpus.unit)))
    if "workers" not in training:
        shared = math.gcd(rows, training.get("groups", 0))
        workers = max(count for count in range(1, workers + 1) if shared % count == 0)
        workers = workers if "batch" in reader or rows >= FEWEST_ROWS_PER_WORKER * workers else 1
    return workers, training.get("groups", workers), rows


def _choose_threads(workload: Workload, groups: int, rows: int) -> int:
    """Returns the number of threads of each group."""
    if rows < FEWEST_ROWS_PER_WORKER * groups:
        return 1
    threads = workload.machine_threads
    return max(1, (min(threads, rows // FEWEST_ROWS_PER_THREAD) if workload.shared else threads) // groups)


def _few_cores(given: Settings, workload: Workload) -> int:
    """Returns the number of cores, up to two; 1 if no other worker can have the model or the device is no CPU."""
    return min(2, workload.cores) if workload.device == "cpu" and not known_here_alone(given) else 1


def _usual_workers(given: Settings, workload: Workload) -> int:
    """Returns the number of workers for a text that is not small."""
    return given.explicit().get("training", {}).get("workers") or (
        1 if workload.shared else _few_cores(given, workload)
    )


def _describe_small_text(workload: Workload, rows: int, symbol: str) -> str:
    documents = f" in {_count(workload.documents, 'document')}" if workload.documents else ""
    read = f"so it is read in {_count(rows, 'row')}"
    return f"The training text is small ({workload.characters:,} {symbol}s{documents}), {read}."


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + "s" * (number != 1)


def _budget_characters(settings: Settings, workload: Workload, step_characters: float) -> float:
    """Returns the characters that a budget of steps, epochs or characters reads, at this number per step."""
    budget = settings.budget
    steps = budget.steps * step_characters * settings.training.accumulate
    return budget.characters or budget.epochs * workload.characters or steps


def _readable_characters(given: Settings, workload: Workload, workers: int, rows: int, length: float) -> float:
    """Returns the characters that the reference model could read in the budget."""
    budget = given.budget
    if not budget.minutes:
        return _budget_characters(given, workload, rows * length)
    return _whole_speed(workload, workers) * max(1.0, budget.minutes * 60 - workload.overhead_seconds)


def _whole_speed(workload: Workload, workers: int) -> float:
    """Returns the characters/s of all workers that train the reference model, with everything that a step does."""
    overhead = SHARED_OVERHEAD_SECONDS if workload.shared else OVERHEAD_SECONDS
    speed = min(STEP_EFFICIENCY * workload.speed, 1 / (1 / workload.speed + overhead))
    return speed if workload.shared else speed * workers


def _choose_members(given: Settings, workload: Workload, chosen: dict[str, Any]) -> int:
    """Chooses the number of members."""
    if {"members", "width"} & chosen.get("model", {}).keys() or not given.budget.minutes:
        return given.model.members
    readable = _readable_characters(given, workload, _usual_workers(given, workload), 0, 0)
    passes = _passes(given, workload, readable, _choose_width(workload, readable))
    return MEMBERS if passes > PASSES_ALONE else 1


def _choose_width(workload: Workload, readable: float) -> int:
    best: float = FITTED_WIDTH * (readable / FITTED_READABLE) ** 0.25
    largest = FITTED_WIDTH * math.sqrt((workload.text_characters or workload.characters) / FITTED_CHARACTERS)
    return max(WIDTH_UNIT, round(min(best, largest, WIDEST) / WIDTH_UNIT) * WIDTH_UNIT)


def _passes(given: Settings, workload: Workload, readable: float, width: int, members: int = 1) -> float:
    """Returns how often a model of this width reads the text in the budget."""
    passes = readable / workload.characters
    return passes / _relative_cost(given.model.layers, width, members) if given.budget.minutes else passes


def _choose_model(
    given: Settings, workload: Workload, readable: float, chosen: dict[str, Any], members: int
) -> dict[str, Any]:
    """Chooses the width and the dropout."""
    model = chosen.get("model", {})
    width = model.get("width") or _choose_width(workload, readable)
    passes = _passes(given, workload, readable, width, members)
    dropout = round(DROPOUT_A_DOUBLING * math.log2(max(1.0, passes / PASSES_WITHOUT_DROPOUT)), 2)
    dropout = model.get("dropout", min(MOST_DROPOUT, dropout))
    return {"width": width, "dropout": dropout, "input_dropout": dropout, "output_dropout": dropout}


def _relative_cost(layers: int, width: int, members: int = 1) -> float:
    """Returns the time that a model takes per character, relative to the reference model."""
    return members * (width / REFERENCE.width) ** 2 * layers / REFERENCE.layers


def _note_on_many_passes(given: Settings, workload: Workload, readable: float, model: dict[str, Any]) -> list[str]:
    """Returns a note if the time is far longer than a small text needs."""
    needed = PASSES_ENOUGH * workload.characters * _relative_cost(given.model.layers, model["width"], model["members"])
    if not given.budget.minutes or readable < 2 * needed:
        return []
    seconds = needed / readable * given.budget.minutes * 60
    enough = f"{max(10, round(seconds, -1)):.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return [
        f"Your text is small: in this time it is read about {readable / needed * PASSES_ENOUGH:,.0f} times. More than "
        f"{PASSES_ENOUGH} gain little, so about {enough} would do."
    ]


def _choose_optimizer(given: Settings) -> dict[str, Any]:
    """Chooses the learning rate, the weight decay and beta2 for the optimizer."""
    optimizer = given.training.optimizer
    decay = 0.1 if optimizer == "muon" else 0.0
    return {
        "learning_rate": usual_learning_rate(optimizer),
        "weight_decay": decay,
        "beta2": 0.95 if optimizer == "rmsprop" else 0.99,
    }


def _choose_kept_model(given: Settings, workload: Workload, notes: list[str]) -> dict[str, Any]:
    """Chooses how the model to keep is selected."""
    read = min(workload.validation_characters, given.training.evaluation_characters or workload.validation_characters)
    if read >= MANY_VALIDATED or not read or "choose" in given.monitor.model_fields_set:
        return {"choose": "best"}
    choice = "last" if read < FEW_VALIDATED else "smoothed"
    how = {"last": "the last model is kept", "smoothed": "the mean of three losses chooses the model to keep"}
    notes.append(
        f"The validation text is short ({_count(read, symbol_word(given.corpus.unit))}), so its loss is partly chance, "
        f"and {how[choice]}. Give a larger --corpus.validation, or --monitor.choose best to go by the lowest loss."
    )
    return {"choose": choice}


def _requested_evaluations(given: Settings, workload: Workload, trained: float) -> float:
    """Returns the number of evaluations at the requested interval; 0 if there is none."""
    step = given.reader.batch * chunk_length(given, workload) * given.training.accumulate
    every = given.monitor.every_epochs * workload.characters or given.monitor.every_steps * step
    return max(1.0, trained / every) if every else 0.0


def _choose_evaluations(given: Settings, workload: Workload, trained: float, notes: list[str]) -> dict[str, Any]:
    """Chooses how often the validation text is read, and how much of it, in about 3 % of the time.

    `trained` is the number of characters that the model reads in training.
    """
    reads = given.reader.length if given.reader.loss == "last" else 1  # characters to read for each one to predict
    budget, text = given.budget, workload.validation_characters
    evaluations = EVALUATIONS
    readable = EVALUATION_SHARE * EVALUATION_SPEEDUP * trained
    if not budget.minutes:
        readable = max(readable, EVALUATIONS * LEAST_EVALUATED)
    else:
        evaluations = max(FEWEST_EVALUATIONS, min(MOST_EVALUATIONS, round(readable / max(1, text * reads))))
    result = {"evaluations": evaluations}
    limit = (
        max(LEAST_EVALUATED, int(readable / (_requested_evaluations(given, workload, trained) or evaluations))) // reads
    )
    if limit < text and not {"evaluations", "evaluation_characters"} & given.explicit().get("training", {}).keys():
        result["evaluation_characters"] = limit
        notes.append(
            f"To save time, evaluations read the first {limit:,} of {text:,} validation "
            f"{symbol_word(given.corpus.unit)}s; --training.evaluation-characters sets another number."
        )
    return result


def expected_bytes(settings: Settings, parameters: int, vocabulary_size: int) -> int:
    """Estimates the bytes of memory of all workers: weights, gradients, optimizer and the activations of their rows."""
    workers, model, reader = settings.training.workers, settings.model, settings.reader
    weights = 4 * parameters * (6 + settings.training.groups)
    values = model.members * (model.layers * 16 * model.width + 3 * vocabulary_size)  # of each character
    return workers * (PROCESS_BYTES + weights) + 4 * values * reader.batch * reader.length
