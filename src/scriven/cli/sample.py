"""`scriven sample`: writes text with a trained model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter
from cyclopts.field_info import FieldInfo

from scriven.cli.common import (
    Device,
    Encoding,
    FilePath,
    Invalid,
    Json,
    Mixing,
    RunFolder,
    Switch,
    Which,
    Whole,
    WriteOrder,
    WritingPrecision,
    name_characters,
    note,
    note_slowness,
    put_json,
    reading_settings,
    unescape,
)
from scriven.cli.novelty import describe_copies, describe_novelty, ready_index
from scriven.cli.search import (
    BEAM_OPTIONS,
    Beam,
    Draws,
    Suffix,
    SuffixFile,
    SuffixFlags,
    check_searches,
    find_middles,
    note_probabilities,
)
from scriven.errors import InputError, UsageError
from scriven.settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.corpus import Part
    from scriven.corpus.decoding import ReadCounts
    from scriven.results import WrittenText
    from scriven.rules import Rule
    from scriven.session import Model, Session

DEFAULTS = SamplingSettings()
ITEMS = 10  # texts of a model of lines, such as names, unless --count says otherwise
SEPARATOR = "-" * 16  # printed between two texts
Piece = TypeVar("Piece", bound=str)
LEAVE = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"


def _short_name(setting: FieldInfo, used: frozenset[str]) -> str | None:
    """Returns the short name of a setting's flag, if it has one."""
    return "-t" if setting.name == "temperature" else None


Prompt = Annotated[
    str,
    Parameter(
        help="text to continue, of any length; - reads all of standard input, unchanged (use printf, since echo adds a "
        "line end)"
    ),
]
PromptFile = Annotated[
    str | None,
    Parameter(help="file with the text to continue, read unchanged; also .gz, .xz, .bz2, .zst"),
]
Length = Annotated[
    Whole | None,
    Parameter(
        name=["--length", "-n"],
        help="most characters of each text (for a model of bytes: bytes); 500 unless given, and 60 with --suffix",
    ),
]
Sampling = Annotated[SamplingSettings, Parameter(name="*", show_default=False, short_alias=_short_name)]
Greedy = Annotated[Switch, Parameter(help="always pick the most likely character, like --temperature 0")]
Seed = Annotated[Whole | None, Parameter(help="the same seed gives the same text; unless given, it is random")]
Count = Annotated[
    Whole | None,
    Parameter(
        help="how many texts to write at once; the first has the given seed, the next seed + 1, and so on. Unless "
        f"given, 1, or {ITEMS} for a model of lines, such as names"
    ),
]
Stop = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="stop string: end just before it if the model writes it; may be repeated. \\n means a line feed, \\t a "
        "tab, \\r a carriage return, \\\\ a backslash",
    ),
]
UntilEnd = Annotated[
    bool | None,
    Parameter(
        help="end each text where its document ends (for a model of names: after one name), at --length at the latest. "
        "Models of documents do so unless told --no-until-end: then one document follows another. With --interactive, "
        "only those of lines do so by themselves"
    ),
]
Regex = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="the whole text, after the prompt, matches this regular expression, such as '[A-Z][a-z]{2,5}'. Only "
        "characters are drawn that can still lead there within --length. This flag and the six below may be repeated "
        "and combined: then all hold",
    ),
]
Allow = Annotated[str | None, Parameter(help="write only these characters")]
Forbid = Annotated[str | None, Parameter(help="write none of these characters")]
Contains = Annotated[list[str] | None, Parameter(negative="", help="the text has this one somewhere in it")]
Acrostic = Annotated[
    str | None, Parameter(help="the text has a line for each letter of this word, in order, that begins with it")
]
Rhyme = Annotated[str | None, Parameter(help="every line of the text ends with these characters")]
JsonSchema = Annotated[
    FilePath, Parameter(help="the text is JSON that satisfies the JSON Schema in this file; see docs/rules.md")
]
Novelty = Annotated[
    Switch,
    Parameter(
        help="for a model of documents: say at the end how many of the texts occur as documents in the training text, "
        "word for word"
    ),
]
Copied = Annotated[
    Switch,
    Parameter(
        help="say at the end what is copied from the training text: the longest stretch, and where it is there; and "
        "how many of the stretches of 5, 10, 15, ... characters are novel. scriven novelty does so for any text"
    ),
]
State = Annotated[
    FilePath, Parameter(help="continue from the state in this file, which --save-state wrote for the same checkpoint")
]
SaveState = Annotated[
    FilePath, Parameter(help="save the state after the text to this file; only another saved state is replaced")
]
Interactive = Annotated[
    Switch,
    Parameter(
        help="continue each line that you type, and remember everything before it, until the end of the input. For a "
        "model of lines, or with --until-end, each line starts a new document"
    ),
]
Choose = Annotated[
    Switch,
    Parameter(
        help="choose among the likeliest continuations, again and again, with arrow keys or digits; needs a terminal"
    ),
]


def sample(
    run: RunFolder,
    /,
    *,
    prompt: Prompt = "",
    prompt_file: PromptFile = None,
    suffix: Suffix = "",
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
    _check_numbers(length, seed)
    _check(sampling, greedy, count, interactive, as_json)
    choices = {"invalid": invalid, "encoding": encoding}  # how files with text are read
    _check_prompt(prompt, prompt_file, {} if suffix_file else choices, interactive=interactive)
    _check_novelty(novelty, copied, interactive, until_end is not False)
    rules = {"regex": regex, "allow": allow, "forbid": forbid, "contains": contains, "acrostic": acrostic}
    rule = _rule(rules | {"rhyme": rhyme, "json_schema": json_schema}, stop, sampling.novel)
    files = StateFiles(state, save_state)
    files.check(
        {"--count": count is not None and count > 1, "--json": as_json, "--novelty": novelty, "--choose": choose}
    )
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
    check_searches(SuffixFlags(suffix, suffix_file, draws), beam, count, given)
    if choose:
        _check_choosing(given | {"--copied": copied})
    from scriven.session import load

    writing = {"length": _length(length, given["--suffix"]), "stop": _stops(stop or []), **sampling.model_dump()}
    writing |= ({"rule": rule} if rule else {}) | ({"temperature": 0.0} if greedy else {})
    model = load(run, which=checkpoint, device=device, precision=precision, counts=counts, write_order=write_order)
    note_slowness(model)
    _check_end(model, "--until-end" if until_end else "--novelty" if novelty else "")
    if sampling.novel or copied:
        ready_index(model)
    lines = model.settings.corpus.documents == "lines"
    writing["until_end"] = (lines if interactive else model.ends_texts) if until_end is None else until_end
    prompt, suffix = (
        _prompt(model, prompt, prompt_file, choices),
        suffix if suffix_file is None else _prompt(model, "", suffix_file, choices),
    )
    if files.given:
        count = 1
    if count is None:  # whole items, unless all would be the same or would repeat the items of the prompt
        several = lines and not suffix and writing["until_end"] and writing["temperature"] and "\n" not in prompt
        count = min(ITEMS, beam or ITEMS) if several else 1
    _note_unknown(model, prompt + suffix)
    if choose:
        _choose(model, prompt, writing["length"])
    elif interactive or files.given:
        session = files.session(model, seed)
        if interactive:
            _converse(model, session, prompt, writing)
        else:
            session.read(prompt)
            _show(prompt, session.write(piece=_piece(), **writing), model if copied else None)
        files.save(session)
    elif beam:
        _write_likeliest(model, {"prompt": prompt, "beam": beam, **writing}, count, copied=copied, as_json=as_json)
    elif given["--suffix"]:
        asked = {"prompt": prompt, "suffix": suffix, "draws": draws, "seed": seed, **writing}
        _write_middles(model, asked, count, copied=copied, as_json=as_json)
    elif count == 1 and not (as_json or novelty):
        _show(prompt, _stream(model, prompt, seed, writing), model if copied else None)
    else:
        _write_several(model, prompt, seed, count, writing, run if novelty else "", copied=copied, as_json=as_json)


def _stream(model: Model, prompt: str, seed: int | None, writing: dict[str, Any]) -> Iterator[str]:
    """Returns what yields a text as it is written, in small pieces if somebody sees them."""
    return model.stream(prompt, seed=seed, piece=_piece(), **writing)


def _keep(pieces: Iterable[Piece], kept: list[Piece]) -> Iterator[Piece]:
    """Yields the pieces, and keeps them."""
    for piece in pieces:
        kept.append(piece)
        yield piece


def _report_copies(model: Model, texts: Iterable[str]) -> None:
    """Prints what of some texts is copied from the training text."""
    sys.stderr.write(f"{describe_copies([model.novelty(text) for text in texts])}\n")


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

    def check(self, unused: Mapping[str, bool]) -> None:
        """Raises UsageError with flags that are about several texts, and InputError if a file would be lost."""
        flags = [flag for flag, given in unused.items() if given]
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
        from scriven.session import first_seed, load_session

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

    if model.vocabulary.unit == "byte":
        raise UsageError("--choose shows characters, and this is a model of bytes; use --interactive instead")
    session = model.session()
    session.read(prompt)
    _show(prompt, iter([choose(model, session, prompt, length)]))


def _check_novelty(novelty: bool, copied: bool, interactive: bool, until_end: bool) -> None:
    """Raises UsageError when texts would not be whole documents, or not whole."""
    if copied and interactive:
        raise UsageError("--copied is about a text as a whole, and --interactive writes lines; drop one of them")
    if novelty and (interactive or not until_end):
        flag = "--interactive" if interactive else "--no-until-end"
        raise UsageError(f"--novelty compares whole documents; drop {flag}")


def _check_choosing(given: Mapping[str, bool]) -> None:
    """Raises UsageError when other flags are given that would do nothing, or without a terminal."""
    from scriven.cli.choose import check_terminal

    unused = [flag for flag, is_given in given.items() if is_given and flag != "--choose"]
    if unused:
        raise UsageError(f"with --choose you pick what comes next, so {', '.join(unused)} would do nothing; drop one")
    check_terminal()


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
    from scriven.cli.evaluate import corpus_of
    from scriven.session import first_seed

    asked = {"prompt": prompt, "seed": first_seed(seed), **writing}
    training = corpus_of(run).training if run else None
    texts: Iterable[WrittenText] = model.samples(count, **asked)
    known = None
    if training:
        texts = list(texts)
        known = _find_known(training, model, asked["prompt"], texts)
    _put_texts(model, texts, asked, known, copied=copied, as_json=as_json)
    if known:
        share = 100 * sum(known) / count
        sys.stderr.write(f"{sum(known):,} of {count:,} ({share:.1f} %) are documents of the training text\n")


def _write_likeliest(model: Model, writing: dict[str, Any], count: int, *, copied: bool, as_json: bool) -> None:
    """Writes the `count` likeliest texts that a beam finds."""
    asked = {name: writing[name] for name in BEAM_OPTIONS if name in writing}
    _put_texts(model, model.find_likeliest(count=count, **asked), asked, copied=copied, as_json=as_json)


def _write_middles(model: Model, writing: dict[str, Any], count: int, *, copied: bool, as_json: bool) -> None:
    """Writes `count` texts between a prompt and a suffix."""
    from scriven.inference.sampling import DRAWS
    from scriven.session import first_seed

    asked = {name: value for name, value in writing.items() if name != "stop"}
    asked |= {"draws": asked["draws"] or DRAWS, "seed": first_seed(asked["seed"])}
    _put_texts(model, find_middles(model, asked, count), asked, copied=copied, as_json=as_json)


def _prompt(model: Model, prompt: str, file: str | None, choices: Mapping[str, str | None]) -> str:
    """Returns the text to continue, from a file if one is named, or from standard input if the prompt is `-`.

    `choices` say how to read it. A byte order mark at its start is dropped, with a note.
    """
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
    """Returns the prompt, and prints a note if a byte order mark was dropped."""
    from scriven.corpus.encodings import describe_marks

    if tally.marks:
        note(describe_marks(tally.marks, "the prompt"))
    return prompt


def _put_texts(
    model: Model,
    texts: Iterable[WrittenText],
    asked: dict[str, Any],
    known: list[bool] | None = None,
    *,
    copied: bool,
    as_json: bool,
) -> None:
    """Prints several texts as they come, with the log-probabilities of those that a beam found.

    With `copied`, it says what of them is copied: of each as JSON, or of all together at the end.
    """
    if as_json:
        _put_json(texts, asked, known, model if copied else None)
        return
    one_line = asked["until_end"] and model.settings.corpus.documents == "lines"
    shown: list[WrittenText] = []
    _show_all(_keep(texts, shown), asked["prompt"], asked.get("suffix", ""), one_line=one_line)
    if "beam" in asked:
        note_probabilities(shown)
    if copied:
        _report_copies(model, shown)


def _show_all(texts: Iterable[WrittenText], prompt: str, suffix: str, *, one_line: bool) -> None:
    """Prints several texts, each on a line of its own or with a separator between them."""
    for n, written in enumerate(texts):
        _print_text("" if one_line or n == 0 else SEPARATOR + "\n")
        _show(prompt, iter([written, suffix]))


def _put_json(
    texts: Iterable[WrittenText], asked: dict[str, Any], known: list[bool] | None, copying: Model | None
) -> None:
    """Prints each text as JSON, with all that is needed to write it again, and what it copies, if a model says that."""
    for n, written in enumerate(texts):
        rule = {"rule": repr(asked["rule"])} if "rule" in asked else {}
        row = {**asked, **rule, "text": written, "ended": written.ended}
        row |= {"seed": asked["seed"] + n} if "seed" in asked else {"log_probability": written.log_probability}
        row |= {"effective_draws": written.effective_draws} if "suffix" in asked else {}
        copied = {"copied": describe_novelty(copying.novelty(written))} if copying else {}
        put_json(row | ({"known": known[n]} if known else {}) | copied)
        sys.stdout.flush()


def _find_known(training: Part, model: Model, prompt: str, texts: Iterable[WrittenText]) -> list[bool]:
    """Returns for each text, with its prompt, whether it is a document of the training text; only ended ones can be."""
    from scriven.inference.chunks import split_text
    from scriven.inference.surprisal import find_known

    begun = split_text(prompt, model.settings.corpus)[-1]
    found = find_known(training, [model.vocabulary.encode_read(begun + each) for each in texts])
    return [written.ended and there for written, there in zip(texts, found, strict=True)]


def _check(sampling: SamplingSettings, greedy: bool, count: int | None, interactive: bool, as_json: bool) -> None:
    """Raises UsageError when flags contradict each other."""
    flags = ["--" + name.replace("_", "-") for name in sorted(sampling.model_fields_set - {"novel"})]
    if greedy and flags:
        raise UsageError(
            f"--greedy always picks the most likely character, so {', '.join(flags)} would do nothing; drop one"
        )
    count = 1 if count is None else count
    if count < 1:
        raise UsageError(f"--count {count}: give 1 or more")
    if count > 1 and (greedy or sampling.temperature == 0):
        raise UsageError(f"--count {count}: at temperature 0 all texts are the same; drop it, or raise --temperature")
    if interactive and (count > 1 or as_json):
        raise UsageError(f"--interactive shows one text at a time; drop {'--json' if as_json else '--count'}")


def _length(length: int | None, before_suffix: bool) -> int:
    """Returns how many characters a text has at most."""
    from scriven.inference.generation import LENGTH
    from scriven.inference.search import MIDDLE

    return (MIDDLE if before_suffix else LENGTH) if length is None else length


def _check_numbers(length: int | None, seed: int | None) -> None:
    """Raises UsageError when one is below 0."""
    for flag, value in (("--length", length or 0), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: give 0 or more")


def _check_prompt(prompt: str, file: str | None, choices: Mapping[str, str | None], *, interactive: bool) -> None:
    """Raises UsageError when flags contradict each other, or do not fit the prompt."""
    if prompt and file is not None:
        raise UsageError("--prompt and --prompt-file both give the text to continue; drop one")
    if file == "":
        raise UsageError("--prompt-file is empty, perhaps from an unset variable; name a file, or drop the flag")
    if any(choices.values()) and file is None and prompt != "-":
        raise UsageError(
            "--corpus.encoding and --corpus.invalid say how to read a prompt from a file; give --prompt-file FILE, or "
            "drop them"
        )
    if interactive and (prompt == "-" or file == "-"):
        raise UsageError("--interactive reads lines from standard input; give the prompt itself, or --prompt-file FILE")


def _check_end(model: Model, flag: str) -> None:
    """Raises UsageError for a flag, if any, when the model has no documents, whose ends it could write."""
    if flag and not model.ends_texts:
        way_out = "give --length instead" if flag == "--until-end" else "drop it"
        raise UsageError(
            f"{flag}: this model has no documents, so its text never ends by itself; {way_out}, or train a model with "
            "--corpus.documents"
        )


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


def _stops(stop: list[str]) -> list[str]:
    """Returns the stop strings with their escapes replaced. Raises UsageError when one is empty."""
    if not all(stop):
        raise UsageError("--stop is empty; give a stop string, or drop the flag")
    return [unescape("--stop", each) for each in stop]


def _note_unknown(model: Model, text: str) -> None:
    """Prints a note on characters of a prompt that the model does not know."""
    unknown = model.unknown_characters(text)
    if unknown:
        note(f"the model has never seen these characters and reads them as <unk>: {name_characters(unknown)}")
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


def _show(prompt: str, pieces: Iterator[str], copying: Model | None = None) -> bool:
    """Prints a text as it comes, and a line end if it lacks one. Returns whether it had one.

    With a model, a line on standard error says what it copies of its training text.
    """
    safe = _visible if sys.stdout.isatty() else str
    last, written = prompt, list[str]()
    _print_text(_emphasize(safe(prompt)) if prompt and _colours() else safe(prompt))
    for piece in pieces:
        _print_text(safe(piece))
        last = piece or last
        if copying:
            written.append(piece)
    ended = last.endswith("\n")
    if not ended:
        _print_text("\n")
    if copying:
        _report_copies(copying, ["".join(written)])
    return ended


def _colours() -> bool:
    """Whether standard output is a terminal with text styles, and nobody turned them off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt"
    return sys.stdout.isatty() and not plain


def _emphasize(text: str) -> str:
    """Returns text in bold, which sets a prompt apart from what the model wrote."""
    return f"\x1b[1m{text}\x1b[22m"


def _print_text(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _visible(text: str) -> str:
    """Returns text without control characters."""
    from scriven.report import visible

    return "\t".join(map(visible, text.split("\t")))
