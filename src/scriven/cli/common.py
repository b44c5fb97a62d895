"""Shared by commands: flags with their help, reading texts for a model, printing rows and notes."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token

from scriven import strict_json
from scriven.arguments import epoch_of
from scriven.cli.mistakes import UnknownOption
from scriven.errors import InputError, UsageError, format_bytes
from scriven.settings import CorpusSettings, bits_unit, symbol_word
from scriven.settings_values import validate

if TYPE_CHECKING:
    from scriven.arrays import Ids
    from scriven.corpus.decoding import LineEnds, ReadCounts
    from scriven.corpus.sources import TextSource
    from scriven.inference.surprisal import SurprisalSum
    from scriven.trained_model import Model
    from scriven.vocabulary import Vocabulary

PathOrText = TypeVar("PathOrText", Path, str)
BYTES_PER_CHARACTER = 64  # of memory, at most, of a text that is read as a whole
SHOW_SECONDS = 0.1  # at least, between two states of a progress bar
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def _parse_whole(kind: object, tokens: Sequence[Token]) -> int:
    """Parses a whole number. Raises ValueError for 10.5, which cyclopts would round."""
    return int(tokens[0].value)


def _parse_checkpoint(kind: object, tokens: Sequence[Token]) -> str | int:
    """Parses the name of a checkpoint: best, last, an epoch such as epoch:17, or a step."""
    value = tokens[0].value
    return value if value in {"best", "last"} or epoch_of(value) is not None else int(value)


def parse_resume(kind: object, tokens: Sequence[Token]) -> str | int:
    """Parses what --resume starts from: last, auto, an epoch such as epoch:17, or a step."""
    value = tokens[0].value
    return value if value in {"last", "auto"} or epoch_of(value) is not None else int(value)


def name_runs(context: object = None) -> list[str]:
    """Returns the names of the runs in `runs/`, for the shell's completion."""
    return sorted(path.parent.name for path in Path("runs").glob("*/settings.toml"))


Whole = Annotated[int, Parameter(converter=_parse_whole)]
Switch = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON, one object per line")]
RunFolder = Annotated[str, Parameter(help="folder of the run, or its name if it is in runs/", completer=name_runs)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="device to compute on")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    Parameter(help="number format of matrix products; auto takes bf16 where the processor is fast at it"),
]
ReadingPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "int8"],
    Parameter(
        help="number format of matrix products. auto takes int8 where native code runs (on CPUs): it is several times "
        "as fast, and within 0.0015 bits per character of fp32. Elsewhere auto takes bf16 on a GPU that has it, or fp32"
    ),
]
WritingPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "int8"],
    Parameter(
        help="number format of the weights when native code writes; auto takes int8, the fastest. The same seed gives "
        "the same text only at the same precision. On a GPU, or without native code, torch writes, always in fp32"
    ),
]
Mixing = Annotated[
    Literal["auto", "none"],
    Parameter(
        name="--counts",
        help="auto mixes the network with the counts of its training text where its training found that this predicts "
        "better; none leaves them out",
    ),
]
WriteOrder = Annotated[
    int | None,
    Parameter(
        converter=_parse_whole,
        help="characters of context, at most, that counts look at when they write, up to 8. Longer contexts copy the "
        "training text; 6 unless given",
    ),
]
Invalid = Annotated[
    Literal["strict", "replace", "bytes"] | None,
    Parameter(
        name="--corpus.invalid",
        help="what to do with bytes that are not valid in the encoding; as for the run's corpus unless given",
    ),
]
Encoding = Annotated[
    str | None, Parameter(name="--corpus.encoding", help="encoding of the text, such as cp1252; UTF-8 unless given")
]
Normalize = Annotated[
    Literal["none", "nfc"] | None,
    Parameter(name="--corpus.normalize", help="Unicode normalization; as for the run's corpus unless given"),
]
Which = Annotated[
    Literal["best", "last"] | int | str,
    Parameter(
        name="--checkpoint",
        converter=_parse_checkpoint,
        help="checkpoint to use: the best, the last, one by its step, or one by its epoch, such as epoch:17",
    ),
]
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]  # for - alone; see `check_named`


def path_given(kind: type[PathOrText], tokens: Sequence[Token]) -> PathOrText:
    """Returns the path given for a flag. Raises UsageError when it is empty, which would mean the current folder."""
    token = tokens[0]
    if not token.value:
        raise UsageError(f"{token.keyword} is empty, perhaps from an unset variable; name a path, or drop the flag")
    return kind(token.value)


FilePath = Annotated[Path | None, Parameter(converter=path_given)]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], converter=path_given)]


def check_named(texts: Sequence[str]) -> Sequence[str]:
    """Returns the texts. Raises UnknownOption when one looks like a flag that does not exist."""
    for text in texts:
        if text.startswith("-") and text != "-" and not Path(text).exists():
            raise UnknownOption(text)
    return texts


def unescape(flag: str, text: str) -> str:
    r"""Returns the value of a flag with `\n`, `\t`, `\r` and `\\` replaced by the characters they mean.

    Raises UsageError for any other backslash.
    """

    def _character(escape: re.Match[str]) -> str:
        if escape[1] not in ESCAPES:
            raise UsageError(
                rf"{flag} {text}: {escape[0]} has no meaning; use \n, \t or \r, or write \\ for a backslash"
            )
        return ESCAPES[escape[1]]

    return re.sub(r"\\(.?)", _character, text, flags=re.DOTALL)


def unescape_separator(corpus: CorpusSettings) -> CorpusSettings:
    """Returns settings from flags with the escapes in the separator replaced. Raises UsageError as `unescape` does."""
    if not corpus.separator:
        return corpus
    return corpus.model_copy(update={"separator": unescape("--corpus.separator", corpus.separator)})


def check_can_serve() -> None:
    """Raises UsageError if what serving needs is not installed."""
    missing = [name for name in ("starlette", "uvicorn", "httptools") if find_spec(name) is None]
    if missing:
        raise UsageError(f"{missing[0]} is not installed; to serve, pip install 'scriven[serve]'")


# --- reading

LINE_ENDS = {(True, False): "LF", (False, True): "CR", (True, True): "CR LF"}  # by whether LF and CR occur


def note_line_ends(
    vocabulary: Vocabulary, chunks: Iterable[Ids], line_ends: LineEnds, about: str = ""
) -> Iterator[Ids]:
    """Yields the chunks of a text, then prints a note if its line ends differ from those of the training text.

    `line_ends` are counted while the chunks are made. The note starts with `about`. A model of bytes knows all line
    ends, and one of tokens has only one kind, so they get no note.
    """
    yield from chunks
    known = ord("\n") in vocabulary.symbols, ord("\r") in vocabulary.symbols
    found = line_ends.feeds > 0, line_ends.returns > 0
    if vocabulary.unit != "character" or found == known or not (any(found) and any(known)):
        return
    note(
        f"{about}the text has {line_ends}, but the model was trained on {LINE_ENDS[known]}; convert the line ends, "
        "which make the score worse"
    )


def read_sources(
    model: Model,
    sources: Sequence[TextSource],
    tally: ReadCounts,
    choices: Mapping[str, str | None],
    name: str = "",
    live: Iterable[bytes] | None = None,
    *,
    keep_empty: bool = False,
) -> Iterator[Ids]:
    """Yields the text of sources as chunks of ids. `tally` counts what is read; notes start with `name`.

    `choices` are as in `reading_settings`, `keep_empty` as in `split_documents`. The bytes of a `live` text are read
    instead, as they come, line by line.
    """
    from scriven.corpus.documents import split_document_text, split_documents
    from scriven.corpus.live import read_lines_live
    from scriven.inference.chunks import read_chunks

    settings, about = reading_settings(model, choices), f"{name}: " if name else ""
    if not all(source.is_table for source in sources):  # only the training text was a table
        settings = settings.model_copy(update={"column": ""})
    if live is None:
        parts = split_documents(sources, settings, tally, keep_empty=keep_empty)
    else:
        parts = split_document_text(read_lines_live(live, sources[0].name, settings, tally), settings, tally)
    chunks = read_chunks(model.vocabulary, parts)
    chunks = note_line_ends(model.vocabulary, _note_marks(chunks, tally, about), tally.line_ends, about)
    return _note_forms(model.vocabulary, chunks, about)


def check_size(source: TextSource, command: str) -> None:
    """Raises InputError for a file that is too large for a command that reads texts as a whole."""
    from scriven.runs.tensors import physical_memory

    most = physical_memory() // BYTES_PER_CHARACTER
    if source.stamp and source.stamp[0] > most:
        raise InputError(
            f"{source.name} has {format_bytes(source.stamp[0])}, and scriven {command} reads a text as a whole, with "
            f"the memory of this machine one of at most {format_bytes(most)}; split it"
        )


def reading_settings(model: Model, choices: Mapping[str, str | None]) -> CorpusSettings:
    """Returns how a model reads a text. `choices` of the user have their names in `CorpusSettings`.

    Without a choice, the run's corpus decides, except for the encoding, which is then UTF-8. Raises UsageError
    for an invalid choice.
    """
    chosen = {name: value for name, value in choices.items() if value}
    values: dict[str, Any] = {**model.settings.corpus.model_dump(), "encoding": "utf-8", **chosen}
    if values["encoding"] != "utf-8" and "invalid" not in chosen:
        values["invalid"] = "strict"
    return validate({"corpus": values}).corpus


def _note_marks(chunks: Iterable[Ids], tally: ReadCounts, about: str) -> Iterator[Ids]:
    from scriven.corpus.encodings import describe_marks

    yield from chunks
    if tally.marks:
        note(about + describe_marks(tally.marks))


def _note_forms(vocabulary: Vocabulary, chunks: Iterable[Ids], about: str) -> Iterator[Ids]:
    from scriven.inference.surprisal import describe_form, other_form

    unseen = dict[str, None]()
    for ids in chunks:
        unseen |= dict.fromkeys(vocabulary.unseen_characters(ids))
        yield ids
    if form := other_form(vocabulary, unseen):
        flag = "read it with --corpus.normalize nfc" if form == "NFC" else "convert it, as with uconv -x nfd"
        note(f"{about}the text {describe_form(form)}; {flag}")


# --- printing

TOKEN_SHOWN = 40  # characters of a token that a note names

Row = dict[str, Any]
Form = Literal["words", "json"]
LABEL_WIDTH = 17  # of the names before values, at least, so that those of two lists stand in one column


def show(rows: Iterable[Row], form: Form) -> int:
    """Prints the rows one by one, and returns their number."""
    count = 0
    for count, row in enumerate(rows, 1):
        if form == "json":
            put_json(row)
        else:
            sys.stdout.write(("\n" if count > 1 else "") + _words(row))
    return count


def bits_name(unit: str) -> str:
    """Returns the name of losses in bits in a row of words, such as bits_per_char."""
    return bits_unit(unit).replace("/", "_per_")


def in_bits(total: SurprisalSum, unit: str) -> Row:
    """Returns what people are shown of a text's surprisal: bits per character or token first, and what that means.

    Ends of documents, where any were read, have bits of their own. The sums are in bits too.
    """
    from scriven.report import describe_choices

    loss, symbol = total.loss, symbol_word(unit)
    ends = {
        "ends": loss.ends,
        "bits_per_end": loss.end_nats / loss.ends / math.log(2) if loss.ends else math.nan,
        "bits_per_document": loss.nats_per_document / math.log(2),
    }
    return {
        bits_name(unit): loss.bits_per_char,
        "on_average": describe_choices(loss.nats_per_char, unit),
        **({"bits_per_byte": loss.bits_per_byte} if loss.bytes else {}),  # line ends of tokens have none
        **(ends if loss.ends else {}),
        "total_bits": loss.total_nats / math.log(2),
        f"{symbol}s": loss.characters,
        "bytes": loss.bytes,
        "unseen": total.unseen,
    }


def note_slowness(model: Model) -> None:
    """Prints a note if numpy alone computes the model."""
    from scriven import kernels
    from scriven.runtime import TRAIN_EXTRA

    if model.predictor.is_slow:
        code = f"native code ({kernels.why()})" if kernels.level() == "off" else "native code for this precision"
        note(f"numpy computes this model, slowly: there is neither {code} nor torch ({TRAIN_EXTRA})")


def put_json(row: Row) -> None:
    """Prints a row as a line of JSON."""
    sys.stdout.write(strict_json.write(row) + "\n")


def put_path(path: object) -> None:
    """Prints a path; on a terminal its control characters are escaped."""
    sys.stdout.write((visible_line(path) if sys.stdout.isatty() else str(path)) + "\n")


def note(text: str) -> None:
    """Prints a note for the user on standard error."""
    sys.stderr.write(f"note: {visible_line(text)}\n")


@contextmanager
def progress_bar(task: str, *, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """Shows a progress bar for a task on standard error, if that is a terminal. Yields what takes done and total."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        number, last = bar.add_task(task, total=None), 0.0

        def _show(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > SHOW_SECONDS:  # each update keeps something, which tears holes in the memory
                last = time.monotonic()
                bar.update(number, completed=done, total=total)

        yield _show


def visible_line(value: object) -> str:
    """Returns a value as one line of text that is safe to print."""
    from scriven.report import visible

    return visible(str(value)).replace("\n", "\\n")


def _words(row: Row) -> str:
    """Returns one line per value, and one per item of a list, each after its name. All values begin in one column."""
    names = {name: visible_line(name.replace("_per_", "/").replace("_", " ")) for name in row}
    width = max([LABEL_WIDTH, *map(len, names.values())])
    lines = []
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            shown = f"{item:,.4f}" if isinstance(item, float) else f"{item:,}" if isinstance(item, int) else item
            lines.append(f"{names[name]:{width}} {visible_line(shown)}\n")
    return "".join(lines)


def name_characters(characters: Sequence[str]) -> str:
    """Returns the first ten characters with their code points, or tokens, and how many more there are."""
    shown = [
        f"{c if c.isprintable() else ascii(c)[1:-1]}" + (f" (U+{ord(c):04X})" if len(c) == 1 else "")
        for c in (each if len(each) <= TOKEN_SHOWN else each[:TOKEN_SHOWN] + "..." for each in characters[:10])
    ]
    return ", ".join(shown) + (f", and {len(characters) - 10:,} more" if characters[10:] else "")
