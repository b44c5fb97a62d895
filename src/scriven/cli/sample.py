"""`scriven sample`: write text with a trained model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    RunFolder,
    Switch,
    Which,
    Whole,
    note,
    put_json,
    unescape,
)
from scriven.errors import UsageError
from scriven.settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.corpus import Part
    from scriven.corpus.decoding import ReadCounts
    from scriven.session import Model, Written

DEFAULTS = SamplingSettings()
SEPARATOR = "-" * 16  # a line of its own between two texts
LEAVE = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"


def sample(
    run: RunFolder,
    /,
    *,
    prompt: str = "",
    prompt_file: str | None = None,
    length: Whole = 500,
    sampling: Annotated[SamplingSettings, Parameter(name="*", show_default=False)] = DEFAULTS,
    greedy: Switch = False,
    seed: Whole | None = None,
    count: Whole = 1,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    until_end: Switch = False,
    novelty: Switch = False,
    interactive: Switch = False,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
) -> None:
    """Write text with a trained model, shown as it is written: the prompt, and what the model writes after it.

    Characters of the prompt that the model has never seen are read as <unk>, and named.

    Parameters
    ----------
    prompt
        text to go on from; any text, of any length; - reads it from standard input, all of it as it is (printf, unlike
        echo, puts no line end after it)
    prompt_file
        file that has the text to go on from, all of it as it is; also .gz, .xz, .bz2, .zst
    length
        characters to write (bytes, where the model's unit is the byte)
    sampling
        how the next character is drawn
    greedy
        always take the likeliest character, as --temperature 0
    seed
        number that decides the text: the same one gives the same text; by chance where not given
    count
        how many texts to write, side by side; text n is the one of seed + n
    stop
        end before this string where the model writes it; may be given several times; \\n is a line feed, \\t a tab,
        \\r a carriage return, \\\\ a backslash
    until_end
        end each text where its document ends (a name, where the model was trained on a list of names), at --length at
        the latest; else a model of documents goes on with further ones
    novelty
        with --until-end: say at last how many of the texts are documents of the training text, word for word
    interactive
        go on from each line typed, remembering everything before; ends at the end of the input. With --until-end each
        line begins a document of its own
    precision
        number format of the weights that native code writes with; auto is int8, the fastest. The same seed gives the
        same text within one precision. Where torch writes (on a GPU, or without native code) it is always fp32
    """
    _check(sampling, greedy, count, interactive, as_json)
    _check_numbers(length, seed)
    choices = {"invalid": invalid, "encoding": encoding}
    _check_prompt(prompt, prompt_file, choices, interactive=interactive)
    if novelty and (interactive or not until_end):
        raise UsageError("--novelty compares whole documents; give --until-end with it, and not --interactive")
    from scriven.cli.evaluate import corpus_of
    from scriven.session import first_seed, load

    stops = _stops(stop or [])
    writing = {"length": length, "stop": stops, "until_end": until_end, **sampling.model_dump()}
    writing |= {"temperature": 0.0} if greedy else {}
    model = load(run, which=checkpoint, device=device, precision=precision)
    _check_end(model, until_end)
    prompt = _prompt(model, prompt, prompt_file, choices)
    _note_unknown(model, prompt)
    if interactive:
        _converse(model, prompt, seed, writing)
    elif count == 1 and not (as_json or novelty):
        from scriven.inference.generation import LIVE, UNSEEN

        piece = LIVE if sys.stdout.isatty() else UNSEEN
        _show(prompt, model.stream(prompt, seed=seed, piece=piece, **writing))
    else:
        asked = {"prompt": prompt, "seed": first_seed(seed), **writing}
        training = corpus_of(run).training if novelty else None
        texts: Iterable[Written] = model.texts(count, **asked)
        known = None
        if training:
            texts = list(texts)
            known = _find_known(training, model, prompt, texts)
        if as_json:
            _put_json(texts, asked, known)
        else:
            _show_all(texts, prompt, one_line=until_end and model.settings.corpus.documents == "lines")
        if known:
            share = 100 * sum(known) / count
            sys.stderr.write(f"{sum(known):,} of {count:,} ({share:.1f} %) are documents of the training text\n")


def _prompt(model: Model, prompt: str, file: str | None, choices: Mapping[str, str | None]) -> str:
    """The text to go on from: of a file where one is named, of standard input where the prompt is `-`.

    `choices` say how it is read. A byte order mark at its start is left out, which is said.
    """
    from scriven.cli.texts import reading_settings
    from scriven.corpus.decoding import ReadCounts, decode_source
    from scriven.corpus.encodings import drop_marks
    from scriven.corpus.sources import find

    tally = ReadCounts()
    if file is None and prompt != "-":
        return _note_marks("".join(drop_marks([prompt], tally.add_mark)), tally)
    sources = find(["-" if file is None else file]).sources
    if len(sources) > 1:
        raise UsageError(f"--prompt-file {file}: these are {len(sources):,} files; name one")
    return _note_marks("".join(decode_source(sources[0], reading_settings(model, choices), tally)), tally)


def _note_marks(prompt: str, tally: ReadCounts) -> str:
    """The prompt, with a note where a byte order mark was left out of it."""
    from scriven.corpus.encodings import describe_marks

    if tally.marks:
        note(describe_marks(tally.marks, "the prompt"))
    return prompt


def _show_all(texts: Iterable[Written], prompt: str, *, one_line: bool) -> None:
    """Print several texts: one a line where each is of one line, else with a line between two of them."""
    for n, written in enumerate(texts):
        _print_text("" if one_line or n == 0 else SEPARATOR + "\n")
        _show(prompt, iter([written.text]))


def _put_json(texts: Iterable[Written], asked: dict[str, Any], known: list[bool] | None) -> None:
    """Print each text with what gives the same text again."""
    for n, written in enumerate(texts):
        row = {**asked, "seed": asked["seed"] + n, "text": written.text, "ended": written.ended}
        put_json(row | ({"known": known[n]} if known else {}))
        sys.stdout.flush()


def _find_known(training: Part, model: Model, prompt: str, texts: Iterable[Written]) -> list[bool]:
    """For each text, with its prompt, whether it is a document of the training text; one that did not end is none."""
    from scriven.inference.chunks import split_text
    from scriven.inference.surprisal import find_known

    begun = split_text(prompt, model.settings.corpus)[-1]
    found = find_known(training, [model.vocabulary.encode_read(begun + each.text) for each in texts])
    return [written.ended and there for written, there in zip(texts, found, strict=True)]


def _check(sampling: SamplingSettings, greedy: bool, count: int, interactive: bool, as_json: bool) -> None:
    """Raises UsageError where flags contradict each other."""
    flags = ["--" + name.replace("_", "-") for name in sorted(sampling.model_fields_set)]
    if greedy and flags:
        raise UsageError(f"--greedy takes the likeliest character and leaves nothing to {', '.join(flags)}; drop one")
    if count < 1:
        raise UsageError(f"--count {count}: give 1 or more texts to write")
    if count > 1 and (greedy or sampling.temperature == 0):
        raise UsageError(f"--count {count}: without chance all texts are the same; drop it, or raise --temperature")
    if interactive and (count > 1 or as_json):
        raise UsageError(f"--interactive writes one text to read; drop {'--json' if as_json else '--count'}")


def _check_numbers(length: int, seed: int | None) -> None:
    """Raises UsageError where one is below 0."""
    for flag, value in (("--length", length), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: give 0 or more")


def _check_prompt(prompt: str, file: str | None, choices: Mapping[str, str | None], *, interactive: bool) -> None:
    """Raises UsageError where flags contradict each other, or say nothing of the prompt that there is."""
    if prompt and file is not None:
        raise UsageError("--prompt and --prompt-file both say what to go on from; drop one")
    if file == "":
        raise UsageError("--prompt-file is empty, as a variable is that was not set; name a file, or drop the flag")
    if any(choices.values()) and file is None and prompt != "-":
        raise UsageError(
            "--corpus.encoding and --corpus.invalid are for a prompt that is read; give it with --prompt-file FILE, or "
            "drop them"
        )
    if interactive and (prompt == "-" or file == "-"):
        raise UsageError("--interactive reads lines from standard input; give the prompt itself, or --prompt-file FILE")


def _check_end(model: Model, until_end: bool) -> None:
    """Raises UsageError where texts are to end by themselves that never do."""
    if until_end and model.vocabulary.boundary is None:
        raise UsageError(
            "--until-end: no text of this model ends by itself; give a --length instead, or train one with "
            "--corpus.documents"
        )


def _stops(stop: list[str]) -> list[str]:
    """The stop strings that the flags give. Raises UsageError when one is empty."""
    if not all(stop):
        raise UsageError("--stop is empty; give the text to end before, or drop the flag")
    return [unescape("--stop", each) for each in stop]


def _note_unknown(model: Model, text: str) -> None:
    """Say on standard error which characters of a prompt the model does not know, and what is done."""
    unknown = model.unknown_characters(text)
    if unknown:
        shown = [f"{c if c.isprintable() else ascii(c)[1:-1]} (U+{ord(c):04X})" for c in unknown[:10]]
        more = f", and {len(unknown) - 10:,} more" if unknown[10:] else ""
        note(f"the model has never seen, and reads as <unk>: {', '.join(shown)}{more}")
        from scriven.inference.surprisal import describe_form, other_form

        if form := other_form(model.vocabulary, unknown):
            note(f"the prompt {describe_form(form)}; give it in {form}")


def _converse(model: Model, prompt: str, seed: int | None, writing: dict[str, Any]) -> None:
    """Lines in, text out. The model has read what the screen shows, line ends included."""
    session, until_end = model.session(seed=seed), writing["until_end"]
    model.pen(until_end=until_end)  # which is refused before anything is typed, where it must be
    if sys.stdin.isatty():
        sys.stderr.write(f"Type a line, and the model goes on from it; {LEAVE} on a line of its own leaves.\n")
    session.read(prompt)
    while line := _next_line():
        line = line.removesuffix("\n") + ("" if until_end else "\n")
        _note_unknown(model, line)
        session.read(line)
        ended = _show(line if until_end else "", session.write(**writing))
        if until_end:
            session.end()
        elif not ended:
            session.read("\n")


def _next_line() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline()


def _show(prompt: str, pieces: Iterator[str]) -> bool:
    """Print a text as it comes, and a line end where it has none; whether it had one."""
    safe = _visible if sys.stdout.isatty() else str
    last = prompt
    _print_text(_emphasize(safe(prompt)) if prompt and _colours() else safe(prompt))
    for piece in pieces:
        _print_text(safe(piece))
        last = piece or last
    ended = last.endswith("\n")
    if not ended:
        _print_text("\n")
    return ended


def _colours() -> bool:
    """Whether standard output is a terminal that shows text in several ways, and nobody asked it not to."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt"
    return sys.stdout.isatty() and not plain


def _emphasize(text: str) -> str:
    """Text in bold, as what was given is beside what was written."""
    return f"\x1b[1m{text}\x1b[22m"


def _print_text(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _visible(text: str) -> str:
    """Text that cannot command the terminal."""
    from scriven.report import visible

    return "\t".join(map(visible, text.split("\t")))
