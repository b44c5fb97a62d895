"""How well `scriven proofread` finds planted typos: precision, recall and F1, beside a list of words and counts alone.

    python benchmarks/proofread.py RUN

Typos are planted in the validation text of a run, which it has not learned from: a letter is replaced, deleted,
inserted, or exchanged with the next one. Each way chooses what it needs (a gain in bits; how often a word must occur)
on the first part of the text by F1, and is measured on the rest. A typo is found if a suggestion is at its place, and
mended if that gives the text as it was. Suggestions elsewhere are wrong, even where the printed book has an error of
its own.
"""

from __future__ import annotations

import bisect
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import arguments_parser, save, table

from scriven.inference.predictor import Predictor
from scriven.inference.proofreading import find_edits
from scriven.runs.folder import open_run
from scriven.runs.recovery import open_run_corpus
from scriven.trained_model import load

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
APART = 60  # characters between two typos, at least
AROUND = 20  # characters before and after a typo that must be as they were, for it to be mended
NEAR = 2  # characters between a typo and a suggestion that finds it, at most
LEAST_BITS, MOST_BITS = 8, 31


@dataclass(frozen=True)
class Planted:
    """A text with typos: their places in it, and in the text as it was."""

    text: str
    original: str
    places: list[int]
    origins: list[int]


@dataclass(frozen=True)
class Found:
    """A suggestion: what becomes of a part of the text, and how sure it is."""

    begin: int
    end: int
    better: str | None
    score: float


def main() -> None:
    """Measures all ways, and prints a table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--typos", type=int, default=1000)
    parser.add_argument("--chosen-on", type=int, default=300, help="typos that thresholds are chosen on")
    parser.add_argument("--each", type=int, default=150, help="characters of text for each typo")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run, model = open_run(str(arguments.run)), load(str(arguments.run))
    corpus, random = open_run_corpus(run), np.random.default_rng(arguments.seed)
    sizes = [count * arguments.each for count in (arguments.chosen_on, arguments.typos)]
    text = model.decode(corpus.validation.read(0, sum(sizes)))
    parts = [
        plant(text[begin : begin + size], size // arguments.each, random)
        for begin, size in zip((0, sizes[0]), sizes, strict=True)
    ]
    words = Counter(words_of(model.decode(corpus.training.read(0, corpus.training.characters))))
    ways = {"model": model.predictor, **{f"{name} alone": each for name, each in model.predictor.parts().items()}}
    rows = []
    for name, predictor in ways.items():
        chosen = [*edits(predictor, parts[0].text)]
        seconds = time.perf_counter()
        found = [*edits(predictor, parts[1].text)]
        seconds = time.perf_counter() - seconds
        least = max(range(LEAST_BITS, MOST_BITS), key=lambda bits: measure(parts[0], at_least(chosen, bits))["f1"])
        rows.append({"way": f"{name}, {least} bits", "seconds": seconds, **measure(parts[1], at_least(found, least))})
        for bits in range(LEAST_BITS, MOST_BITS, 2) if name == "model" else ():
            rows.append({"way": f"{name}, {bits} bits", **measure(parts[1], at_least(found, bits))})
        print(rows[-1], flush=True)
    least = max(
        (1, 2, 3, 5, 10, 20), key=lambda count: measure(parts[0], [*unlisted(words, count, parts[0].text)])["f1"]
    )
    listed = [*unlisted(words, least, parts[1].text)]
    rows.append({"way": f"words that occur {least} times", **measure(parts[1], listed)})
    print(table(list(rows[0]), ([show(row.get(name, "")) for name in rows[0]] for row in rows)))
    save(arguments, "proofread", rows)


def show(value: object) -> str:
    """A cell of the table."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def plant(text: str, count: int, random: np.random.Generator) -> Planted:
    """Plants typos at letters, APART characters from one another; a quarter of each kind."""
    letters = [at for at in range(AROUND, len(text) - AROUND) if text[at].isalpha() and text[at + 1].isalpha()]
    taken: list[int] = []
    for at in random.permutation(letters).tolist():
        place = bisect.bisect(taken, at)
        if all(abs(at - other) >= APART for other in taken[max(0, place - 1) : place + 1]):
            taken.insert(place, at)
        if len(taken) == count:
            break
    made, begin, places = "", 0, []
    for number, at in enumerate(taken):
        made += text[begin:at]
        places.append(len(made))
        here, after = text[at : at + 2]
        others = [letter for letter in LETTERS if letter != here.lower()]
        kind = ("replace", "insert", "delete", "exchange")[number % 4]
        kind = "replace" if kind == "exchange" and here == after else kind
        letter = others[random.integers(len(others))]
        changed = {"replace": letter, "insert": letter + here, "delete": "", "exchange": after + here}[kind]
        made, begin = made + changed, at + 1 + (kind == "exchange")
    return Planted(made + text[begin:], text, places, taken)


def edits(predictor: Predictor, text: str) -> Iterator[Found]:
    """What a model suggests."""
    for edit in find_edits(predictor, predictor.vocabulary.encode(text), LEAST_BITS * math.log(2)):
        better = predictor.vocabulary.decode(edit.inserted)
        yield Found(edit.place, edit.place + edit.removed, better, edit.gain / math.log(2))


def at_least(found: Iterable[Found], bits: float) -> list[Found]:
    """The suggestions that gain so many bits."""
    return [each for each in found if each.score >= bits]


def words_of(text: str) -> Iterator[str]:
    """The words of a text, in lower case."""
    return (match[0].lower() for match in WORD.finditer(text))


def unlisted(words: Counter[str], least: int, text: str) -> Iterator[Found]:
    """Words that do not occur `least` times in the training text, with the most frequent one that is one edit away."""
    for match in WORD.finditer(text):
        word = match[0].lower()
        if words[word] < least:
            near = [each for each in one_edit_away(word) if words[each] >= least]
            best = max(near, key=lambda each: words[each], default=None)
            if best is not None and match[0][0].isupper():
                best = best[0].upper() + best[1:]
            yield Found(*match.span(), best, 0.0)


def one_edit_away(word: str) -> set[str]:
    """All texts that one edit makes of a word."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    letters = LETTERS + "'"
    return {
        *(first + last[1:] for first, last in cuts if last),
        *(first + last[1] + last[0] + last[2:] for first, last in cuts if len(last) > 1),
        *(first + letter + last[1:] for first, last in cuts if last for letter in letters),
        *(first + letter + last for first, last in cuts for letter in letters),
    }


def measure(planted: Planted, found: Sequence[Found]) -> dict[str, float]:
    """Precision, recall and F1 of mended typos, and of found ones, each typo once."""
    mended, seen = set[int](), set[int]()
    for each in found:
        for number in near_typos(planted, each):
            seen.add(number)
            if mends(planted, each, number):
                mended.add(number)
    counts = {"": len(mended), "found_": len(seen)}
    values = {}
    for name, right in counts.items():
        precision, recall = right / max(1, len(found)), right / len(planted.places)
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        values |= {f"{name}precision": precision, f"{name}recall": recall, f"{name}f1": f1}
    return values | {"suggestions": len(found)}


def near_typos(planted: Planted, each: Found) -> list[int]:
    """The number of the typo that a suggestion is at, if any."""
    first = bisect.bisect_left(planted.places, each.begin - NEAR)
    return [number for number in range(first, len(planted.places)) if planted.places[number] <= each.end + NEAR][:1]


def mends(planted: Planted, each: Found, number: int) -> bool:
    """Whether a suggestion gives the text as it was, around a typo."""
    if each.better is None:
        return False
    place, origin = planted.places[number], planted.origins[number]
    begin = min(place - AROUND, each.begin)
    text = planted.text[begin : each.begin] + each.better + planted.text[each.end :][: 2 * AROUND]
    return planted.original[origin - (place - begin) :].startswith(text[: place - begin + AROUND])


if __name__ == "__main__":
    main()
