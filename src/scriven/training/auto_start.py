"""Decides what a new training starts from: random weights, a run, or the start that suits the text best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from scriven import runtime, starts
from scriven.corpus.store import Corpus, Part
from scriven.model import CharLM
from scriven.model.backends import single_threaded
from scriven.runs import open_run
from scriven.runs.folder import locate_run
from scriven.runs.start_model import StartModel
from scriven.settings import Settings
from scriven.settings_values import merge_settings, validate
from scriven.training.auto_settings import choose_settings
from scriven.training.optimizer import usual_learning_rate
from scriven.training.warm_start import similar_rows, warm_started_model
from scriven.training.workload import Workload

# Settings of the model that do not change what its weights mean. All others must be those of the start.
FREE = {
    "dropout",
    "input_dropout",
    "output_dropout",
    "embedding_dropout",
    "variational",
    "weight_drop",
    "freeze_embedding",
}
LEAST_KNOWN = 0.98  # of the text's characters: a start must know them, or one like each
LARGE_TEXT = 5_000_000  # characters: with less text a start helps, however long training takes
WIDEST = 1.5  # times a start's width: if a large text and budget are enough for more, none is needed
WINDOWS, WINDOW = 8, 512  # pieces of the text, and their characters, that a start has to predict before any training
MOST_SURPRISED = 0.85  # of the entropy of single characters: 0.4 to 0.65 for texts that the starts suit, others above 1
# A high learning rate forgets what a start knows, a low one does not learn what a large text adds. So the usual rate is
# multiplied by the root of the text's size over this one, between two limits; see docs/starts.md.
USUAL_RATE_TEXT, LOWEST_RATE, HIGHEST_RATE = 36_000_000, 1 / 16, 1 / 2


@dataclass(frozen=True)
class FirstWeights:
    """What a training starts from, the requested settings with what that adds, and a sentence that says why."""

    initial: str  # a run's folder, a start's reference, or "" for random weights
    settings: Settings
    note: str = ""


def named_initial(asked: str | Path | None) -> str:
    """Returns what the user names: `auto`, "" for random weights, a start's reference, or a run's folder.

    None means the default. The name of a start means the start; a path, or a string with a slash, is a run. Raises
    InputError or UsageError if there is no such start or run.
    """
    asked = runtime.default_from() if asked is None else asked
    if isinstance(asked, str):
        if asked in (starts.AUTO, starts.NONE):
            return "" if asked == starts.NONE else asked
        if starts.is_reference(asked):
            return starts.from_reference(asked).reference
        if asked in starts.names():
            return starts.find(asked).reference
        if starts.NAME.fullmatch(asked) and not Path(asked).exists() and not locate_run(asked):
            return starts.find(asked).reference  # which raises, with the names that there are
    return str(open_run(asked).path)


def choose_initial(named: str, given: Settings, corpus: Corpus, workload: Workload) -> FirstWeights:
    """Returns what a training starts from, given the result of `named_initial`.

    `auto` takes the start that predicts the text best, of those that suit it. `given` has the requested settings.
    """
    if named != starts.AUTO:
        settings = inherited_settings(named, given, corpus.training.characters)
        if not starts.is_reference(named):
            return FirstWeights(named, settings)
        start = StartModel(starts.from_reference(named))
        return FirstWeights(named, settings, f"Training starts from {start}{_describe_rate(given, settings)}.")
    chosen, least, reasons = None, math.inf, dict[str, str]()
    for name in starts.names():
        start = StartModel(starts.find(name))
        loss, limit = math.inf, MOST_SURPRISED * order0_nats(corpus)
        if not (reason := unsuitable(start, given, corpus, workload)):
            loss = zero_shot_nats(start, given, corpus)
            reason = "" if loss <= limit else f"it predicts the text at {_bits(loss)} bits per character, untrained"
        reasons[name] = reason
        if not reason and loss < least:
            chosen, least = start, loss
    if chosen is None:
        return FirstWeights("", given, _describe_none(reasons) if reasons else "")
    settings = inherited_settings(chosen.start.reference, given, corpus.training.characters)
    return FirstWeights(
        chosen.start.reference,
        settings,
        f"Training starts from {chosen}, which predicts this text at {_bits(least)} bits per character before it has "
        f"read any{_describe_rate(given, settings)}; --from none starts from random weights.",
    )


def inherited_settings(initial: str, given: Settings, characters: int) -> Settings:
    """Returns the requested settings, with those that a run's folder or a start adds. Requested ones win.

    Both add the settings of their model; a start leaves out its dropout and what else is free, and adds a lower
    learning rate, which depends on the number of characters of the training text.
    """
    shaped = _shaped_settings(initial, given)
    if not starts.is_reference(initial) or "learning_rate" in given.training.model_fields_set:
        return shaped
    rate = start_rate(given.training.optimizer, characters)
    return validate(merge_settings({"training": {"learning_rate": rate}}, shaped.explicit()))


def start_rate(optimizer: str, characters: int) -> float:
    """Returns the learning rate for training from a start on a text of this size, to three digits."""
    factor = min(HIGHEST_RATE, max(LOWEST_RATE, math.sqrt(characters / USUAL_RATE_TEXT)))
    return float(f"{factor * usual_learning_rate(optimizer):.3g}")


def _shaped_settings(initial: str, given: Settings) -> Settings:
    """Returns the requested settings, with the model's of a run's folder or a start. Requested ones win."""
    if not initial:
        return given
    if starts.is_reference(initial):
        model = StartModel(starts.from_reference(initial)).settings.model_dump(exclude=FREE)
    else:
        model = open_run(initial).settings.model.model_dump()
    return validate(merge_settings({"model": model}, given.explicit()))


def unsuitable(start: StartModel, given: Settings, corpus: Corpus, workload: Workload) -> str:
    """Returns why a start does not suit these settings, text and budget, before reading anything; "" if it may."""
    asked, own = given.explicit().get("model", {}), start.settings
    if differing := [name for name, value in asked.items() if name not in FREE and value != getattr(own, name)]:
        return f"model.{differing[0]} {asked[differing[0]]!r} is not the start's"
    if corpus.vocabulary.unit != start.vocabulary.unit:
        return f"the text is read as {corpus.vocabulary.unit}s"
    if (known := known_share(start, corpus)) < LEAST_KNOWN:
        return f"it knows {known:.0%} of the characters"
    free, _ = choose_settings(given, workload)
    if corpus.training.characters > LARGE_TEXT and free.model.width > WIDEST * own.width:
        return "text and budget are enough for a larger model"
    return ""


def known_share(start: StartModel, corpus: Corpus) -> float:
    """Returns the share of the training text's characters that a start knows, or knows a similar one of."""
    frequencies = np.array(corpus.header.frequencies, np.float64)  # (C,)
    rows = similar_rows(start.vocabulary, corpus.vocabulary)[: len(frequencies)]
    known = np.array([row is not None for row in rows])
    return float(frequencies[known].sum() / max(frequencies.sum(), 1))


def order0_nats(corpus: Corpus) -> float:
    """Returns the entropy of single characters of the training text: the loss if only their frequencies are known."""
    counts = np.array([each for each in corpus.header.frequencies if each], np.float64)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if len(counts) else 0.0


def zero_shot_nats(start: StartModel, given: Settings, corpus: Corpus) -> float:
    """Returns a start's loss on pieces of the training text before any training, in nats per character.

    It is infinite for a text of one character. It is measured in one thread and in fp32, so that it depends on nothing
    else.
    """
    settings = _shaped_settings(start.start.reference, given)
    model, _ = warm_started_model(settings, corpus.vocabulary, start.start.reference)
    return mean_nats(model, corpus.training)


def mean_nats(model: CharLM, text: Part) -> float:
    """Returns a model's mean loss on evenly spread pieces of a text; infinite for less than two characters."""
    length = min(WINDOW, text.characters)
    if length < 2:
        return math.inf
    firsts = np.linspace(0, text.characters - length, WINDOWS).astype(np.int64).tolist()
    ids = text.read_all(firsts, [length] * WINDOWS).reshape(WINDOWS, length).T  # (T, N)
    read = torch.from_numpy(np.minimum(ids, model.unknown))
    with single_threaded(), torch.inference_mode():
        logits, _ = model.eval()(read[:-1])
        return float(functional.cross_entropy(logits.flatten(0, 1), read[1:].flatten()))


def _describe_none(reasons: dict[str, str]) -> str:
    """Returns why no start is taken, given the reason against each; what all have in common is said once."""
    shared = set(reasons.values())
    why = shared.pop() if len(shared) == 1 else "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return f"Training starts from random weights, as no start suits it ({why})."


def _describe_rate(given: Settings, settings: Settings) -> str:
    if "learning_rate" in given.training.model_fields_set:
        return ""
    return f" (learning rate {settings.training.learning_rate:g})"


def _bits(nats: float) -> str:
    return f"{nats / math.log(2):.2f}"
