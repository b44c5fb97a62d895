"""The options of `scriven sample`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.field_info import FieldInfo

from scriven.cli.common import FilePath, Switch, Whole
from scriven.sampling_settings import SamplingSettings

ITEMS = 10  # texts of a model of lines, such as names, unless --count says otherwise


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
Beam = Annotated[
    Whole | None,
    Parameter(
        help="find the likeliest texts instead of drawing some, with a beam of this many: always the same ones, with "
        "their log-probabilities. --count says how many of them to show"
    ),
]
Suffix = Annotated[
    str | None,
    Parameter(
        help="text that follows: write what stands between the prompt and this, --length characters at most (60 "
        "unless given). For a model of documents, it ends the document, unless --no-until-end is given"
    ),
]
SuffixFile = Annotated[str | None, Parameter(help="file with the text that follows, read unchanged")]
Draws = Annotated[
    Whole | None,
    Parameter(
        help="with --suffix: how many continuations of the prompt are drawn to find one that the suffix follows; 256 "
        "unless given. With --greedy, how many a beam keeps"
    ),
]
