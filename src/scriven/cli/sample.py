"""`scriven sample`: writes text with a trained model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scriven.cli.common import (
    Device,
    Encoding,
    Invalid,
    Json,
    Mixing,
    RunFolder,
    Which,
    WriteOrder,
    WritingPrecision,
    name_characters,
    note,
    note_slowness,
    reading_settings,
)
from scriven.cli.novelty import ready_index
from scriven.cli.sample_checks import (
    SuffixFlags,
    check_choosing,
    check_end,
    check_flags,
    check_novelty,
    check_numbers,
    check_prompt,
    check_searches,
    choose_length,
    read_stops,
)
from scriven.cli.sample_options import (
    ITEMS,
    Acrostic,
    Allow,
    Beam,
    Choose,
    Contains,
    Copied,
    Count,
    Draws,
    Forbid,
    Greedy,
    Interactive,
    JsonSchema,
    Length,
    Novelty,
    Prompt,
    PromptFile,
    Regex,
    Rhyme,
    Sampling,
    SaveState,
    Seed,
    State,
    Stop,
    Suffix,
    SuffixFile,
    UntilEnd,
)
from scriven.cli.sample_texts import find_middles, put_texts, show_text
from scriven.errors import InputError, UsageError
from scriven.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.corpus import Part
    from scriven.corpus.decoding import ReadCounts
    from scriven.results import WrittenText
    from scriven.rules import Rule
    from scriven.session import Session
    from scriven.trained_model import Model

DEFAULTS = SamplingSettings()
BEAM_OPTIONS = ("prompt", "beam", "length", "stop", "until_end", "rule")
WITHOUT_STATE = ("--count", "--json", "--novelty", "--choose")
LEAVE = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"


def sample(
    run: RunFolder,
    /,
    *,
    prompt: Prompt = "",
    prompt_file: PromptFile = None,
    suffix: Suffix = None,
    suffix_file: SuffixFile = None,
    draws: Draws = None,
    length: Length = None,
    sampling: Sampling = DEFAULTS,
    greedy: Greedy = False,
    seed: Seed = None,
    count: Count = None,
    beam: Beam = None,
    stop: Stop = None,
    until_end: UntilEnd = None,
    regex: Regex = None,
    allow: Allow = None,
    forbid: Forbid = None,
    contains: Contains = None,
    acrostic: Acrostic = None,
    rhyme: Rhyme = None,
    json_schema: JsonSchema = None,
    state: State = None,
    save_state: SaveState = None,
    novelty: Novelty = False,
    copied: Copied = False,
    interactive: Interactive = False,
    choose: Choose = False,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: WritingPrecision = "auto",
    counts: Mixing = "auto",
    write_order: WriteOrder = None,
) -> None:
    """Write text with a trained model. The prompt and the text after it are shown as they are written.

    A model of lines, such as names, writes 10 whole lines.

    Characters of the prompt that the model has never seen are read as <unk>, and a note names them.
    """
    check_numbers(length, seed)
    check_flags(sampling, greedy, count, interactive, as_json)
    choices = {"invalid": invalid, "encoding": encoding}  # how files with text are read
    check_prompt(prompt, prompt_file, {} if suffix_file else choices, interactive=interactive)
    check_novelty(novelty, copied, interactive, until_end is not False)
    rules = {"regex": regex, "allow": allow, "forbid": forbid, "contains": contains, "acrostic": acrostic}
    rule = _rule(rules | {"rhyme": rhyme, "json_schema": json_schema}, stop, sampling.novel)
    files = StateFiles(state, save_state)
    given = {
        "--json": as_json,
        "--interactive": interactive,
        "--novelty": novelty,
        "--choose": choose,
        "--seed": seed is not None,
        "--greedy": greedy,
        "--stop": bool(stop),
        "a rule such as --regex": rule is not None,
        "--count": bool(count and count > 1),
        "--until-end": until_end is True,
        "--no-until-end": until_end is False,
        "--state": state is not None,
        "--save-state": save_state is not None,
        "--beam": beam is not None,
        "--suffix": bool(suffix) or suffix_file is not None,
        "--draws": draws is not None,
        **{"--" + name.replace("_", "-"): True for name in sorted(sampling.model_fields_set)},
    }
    files.check(given)
    check_searches(SuffixFlags(suffix, suffix_file, draws), beam, count, given)
    if choose:
        check_choosing(given | {"--copied": copied})
    from scriven.trained_model import load

    writing = {
        "length": choose_length(length, given["--suffix"]),
        "stop": read_stops(stop or []),
        **sampling.model_dump(),
    }
    writing |= ({"rule": rule} if rule else {}) | ({"temperature": 0.0} if greedy else {})
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts, write_order=write_order)
    note_slowness(model)
    check_end(model, "--until-end" if until_end else "--novelty" if novelty else "")
    if sampling.novel or copied:
        ready_index(model)
    lines = model.settings.corpus.documents == "lines"
    writing["until_end"] = (lines if interactive else model.ends_texts) if until_end is None else until_end
    prompt, suffix = (
        _prompt(model, prompt, prompt_file, choices),
        suffix or "" if suffix_file is None else _prompt(model, "", suffix_file, choices, "--suffix-file"),
    )
    if files.given:
        count = 1
    if count is None:  # whole items, unless all would be the same or would repeat the items of the prompt
        several = lines and not suffix and writing["until_end"] and writing["temperature"] and "\n" not in prompt
        count = min(ITEMS, beam or ITEMS) if several else 1
    _note_unknown(model, prompt, suffix)
    if choose:
        _choose(model, prompt, writing["length"])
    elif interactive or files.given:
        session = files.session(model, seed)
        if interactive:
            _converse(model, session, prompt, writing)
        else:
            session.read(prompt)
            show_text(prompt, session.write(piece=_piece(), **writing), model if copied else None)
        files.save(session)
    elif beam:
        _write_likeliest(model, {"prompt": prompt, "beam": beam, **writing}, count, copied=copied, as_json=as_json)
    elif given["--suffix"]:
        asked = {"prompt": prompt, "suffix": suffix, "draws": draws, "seed": seed, **writing}
        _write_middles(model, asked, count, copied=copied, as_json=as_json)
    elif count == 1 and not (as_json or novelty):
        show_text(prompt, _stream(model, prompt, seed, writing), model if copied else None)
    else:
        _write_several(model, prompt, seed, count, writing, run if novelty else "", copied=copied, as_json=as_json)


def _stream(model: Model, prompt: str, seed: int | None, writing: dict[str, Any]) -> Iterator[str]:
    """Returns what yields a text as it is written, in small pieces if somebody sees them."""
    return model.stream(prompt, seed=seed, piece=_piece(), **writing)


def _piece() -> int:
    """Returns how many symbols are written at once at most."""
    from scriven.inference.generation import LIVE, UNSEEN

    return LIVE if sys.stdout.isatty() else UNSEEN


@dataclass(frozen=True)
class StateFiles:
    """The files that a text continues from, and that the state after it is saved to."""

    before: Path | None
    after: Path | None

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return bool(self.before or self.after)

    def check(self, given: Mapping[str, bool]) -> None:
        """Raises UsageError with flags that are about several texts, and InputError if a file would be lost."""
        flags = [flag for flag in WITHOUT_STATE if given[flag]]
        if self.given and flags:
            raise UsageError(f"{flags[0]}: a state is one text's, continued or saved as it is shown; drop one of them")
        if self.after is not None and not self.after.parent.is_dir():
            raise InputError(f"--save-state {self.after}: there is no folder {self.after.parent}; make it first")
        self._check_replaceable()

    def _check_replaceable(self) -> None:
        """Raises InputError if the file to write is there and is not a saved state."""
        if self.after is None or not os.path.lexists(self.after):
            return
        from scriven.inference.saved_session import SavedSession

        try:
            SavedSession.read(self.after)
        except InputError:
            raise InputError(
                f"--save-state {self.after} is there already, and is no saved state; choose another name"
            ) from None

    def session(self, model: Model, seed: int | None) -> Session:
        """Returns the session to write in. Raises InputError if its file is not a state of this checkpoint."""
        from scriven.arguments import first_seed
        from scriven.trained_model import load_session

        if self.before is None:
            return model.session(seed=seed)
        return load_session(self.before, model, seed=first_seed(seed))

    def save(self, session: Session) -> None:
        """Saves the session, if a file was named. Raises InputError if it cannot be written, or would replace another.

        Another program may have made a file of that name while the text was written.
        """
        if self.after is not None:
            self._check_replaceable()
            session.save(self.after)


def _choose(model: Model, prompt: str, length: int) -> None:
    """Lets a person write by choosing, and prints the text at the end."""
    from scriven.cli.choose import choose

    if (unit := model.vocabulary.unit) != "character":
        raise UsageError(f"--choose shows characters, and this is a model of {unit}s; use --interactive instead")
    session = model.session()
    session.read(prompt)
    show_text(prompt, iter([choose(model, session, prompt, length)]))


def _write_several(
    model: Model,
    prompt: str,
    seed: int | None,
    count: int,
    writing: dict[str, Any],
    run: str,
    *,
    copied: bool,
    as_json: bool,
) -> None:
    """Writes `count` texts. With a `run`, it says how many of them are documents of its training text.

    With `copied`, it says what of them is copied: of each as JSON, or of all together at the end.
    """
    from scriven.arguments import first_seed
    from scriven.cli.evaluate import corpus_of

    asked = {"prompt": prompt, "seed": first_seed(seed), **writing}
    training = corpus_of(run).training if run else None
    texts: Iterable[WrittenText] = model.samples(count, **asked)
    known = None
    if training:
        texts = list(texts)
        known = _find_known(training, model, asked["prompt"], texts)
    put_texts(model, texts, asked, known, copied=copied, as_json=as_json)
    if known:
        share = 100 * sum(known) / count
        sys.stderr.write(f"{sum(known):,} of {count:,} ({share:.1f} %) are documents of the training text\n")


def _write_likeliest(model: Model, writing: dict[str, Any], count: int, *, copied: bool, as_json: bool) -> None:
    """Writes the `count` likeliest texts that a beam finds."""
    asked = {name: writing[name] for name in BEAM_OPTIONS if name in writing}
    put_texts(model, model.find_likeliest(count=count, **asked), asked, copied=copied, as_json=as_json)


def _write_middles(model: Model, writing: dict[str, Any], count: int, *, copied: bool, as_json: bool) -> None:
    """Writes `count` texts between a prompt and a suffix."""
    from scriven.arguments import first_seed
    from scriven.inference.sampling import DRAWS

    asked = {name: value for name, value in writing.items() if name != "stop"}
    asked |= {"draws": asked["draws"] or DRAWS, "seed": first_seed(asked["seed"])}
    put_texts(model, find_middles(model, asked, count), asked, copied=copied, as_json=as_json)


def _prompt(
    model: Model, prompt: str, file: str | None, choices: Mapping[str, str | None], flag: str = "--prompt-file"
) -> str:
    """Returns the text to continue, from a file if one is named, or from standard input if the prompt is `-`.

    `choices` say how to read it, and `flag` named the file. A byte order mark at its start is dropped, with a note.
    """
    from scriven.corpus.decoding import ReadCounts, decode_source
    from scriven.corpus.encodings import drop_marks
    from scriven.corpus.sources import find

    tally = ReadCounts()
    if file is None and prompt != "-":
        return _note_marks("".join(drop_marks([prompt], tally.add_mark)), tally)
    sources = find(["-" if file is None else file]).sources
    if len(sources) > 1:
        raise UsageError(f"{flag} {file}: these are {len(sources):,} files; name one")
    return _note_marks("".join(decode_source(sources[0], reading_settings(model, choices), tally)), tally)


def _note_marks(prompt: str, tally: ReadCounts) -> str:
    """Returns the prompt, and prints a note if a byte order mark was dropped."""
    from scriven.corpus.encodings import describe_marks

    if tally.marks:
        note(describe_marks(tally.marks, "the prompt"))
    return prompt


def _find_known(training: Part, model: Model, prompt: str, texts: Iterable[WrittenText]) -> list[bool]:
    """Returns for each text, with its prompt, whether it is a document of the training text; only ended ones can be."""
    from scriven.inference.chunks import split_text
    from scriven.inference.surprisal import find_known

    begun = split_text(prompt, model.settings.corpus)[-1]
    found = find_known(training, [model.vocabulary.encode_read(begun + each) for each in texts])
    return [written.ended and there for written, there in zip(texts, found, strict=True)]


def _rule(given: Mapping[str, str | list[str] | Path | None], stop: list[str] | None, novel: int) -> Rule | None:
    """Returns the rule that all flags give together, if any. Raises UsageError for a rule with --stop or --novel."""
    from scriven.rules import Rule
    from scriven.safe_files import read_text

    texts = {kind: read_text(each) if isinstance(each, Path) else each for kind, each in given.items()}
    values = {kind: [each] if isinstance(each, str) else each or [] for kind, each in texts.items()}
    parts = [getattr(Rule, kind)(value) for kind, several in values.items() for value in several]
    if parts and stop:
        raise UsageError("--stop ends a text anywhere, so the whole could break the rule; drop one of them")
    if parts and novel:
        raise UsageError(f"--novel {novel} may leave nothing that the rule allows, which breaks it; drop one of them")
    return reduce(Rule.__and__, parts) if parts else None


def _note_unknown(model: Model, *texts: str) -> None:
    """Prints a note on characters of a prompt, and what comes after it, that the model does not know."""
    unknown = [*dict.fromkeys(each for text in texts for each in model.unknown_characters(text))]
    if unknown:
        symbols = "tokens" if model.vocabulary.unit == "token" else "characters"
        note(f"the model has never seen these {symbols} and reads them as <unk>: {name_characters(unknown)}")
        from scriven.inference.surprisal import describe_form, other_form

        if form := other_form(model.vocabulary, unknown):
            note(f"the prompt {describe_form(form)}; give it in {form}")


def _converse(model: Model, session: Session, prompt: str, writing: dict[str, Any]) -> None:
    """Continues each line typed. The model reads exactly what the screen shows, with line ends."""
    until_end = writing["until_end"]
    model.pen(until_end=until_end)  # an error comes before anything is typed
    if sys.stdin.isatty():
        sys.stderr.write(f"Type a line, and the model continues it; {LEAVE} on a new line ends.\n")
    session.read(prompt)
    while line := _next_line():
        line = line.removesuffix("\n") + ("" if until_end else "\n")
        _note_unknown(model, line)
        session.read(line)
        ended = show_text(line if until_end else "", session.write(**writing))
        if until_end:
            session.end()
        elif not ended:
            session.read("\n")


def _next_line() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline()
