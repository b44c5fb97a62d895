"""Shows help: of a command with many options first those that most need, and with --help-all every one, in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from cyclopts.argument import ArgumentCollection
    from cyclopts.help import HelpEntry, HelpPanel

HELP, ALL = "--help", "--help-all"
HELP_FLAGS = (HELP, "-h", ALL)
DOCUMENTED = "----------"  # under the heading, in the docstring of a command that explains its options there
MOST_NEEDED = {  # by command: the options that --help shows
    "train": (
        "--minutes",
        "--epochs",
        "--output",
        "--resume",
        "--from",
        "--corpus.documents",
        "--corpus.column",
        "--recipe",
        "--settings",
        "--device",
        "--keep",
        "--watch",
    ),
    "sample": (
        "--prompt",
        "--prompt-file",
        "--length",
        "--temperature",
        "--min-p",
        "--seed",
        "--count",
        "--stop",
        "--until-end",
        "--interactive",
        "--choose",
        "--json",
    ),
}
GROUPS = {  # by command: titles, and how the names of their options begin; the first that fits counts
    "train": {
        "Text": ("--corpus.",),
        "Reading": ("--reader.",),
        "Model": ("--model.",),
        "Training": ("--training.", "--device", "--precision"),
        "Checkpoints": ("--keep", "--resume", "--replay", "--monitor.choose", "--monitor.save-minutes"),
        "Watching": ("--monitor.", "--watch", "--log", "--verbose", "--quiet", "--json"),
    }
}
TWICE = {"--training.device", "--training.precision", "--monitor.keep"}  # have a shorter name, which is shown
NOTHING = {"False", '""', "0", "0.0"}  # defaults that say only that an option is not given


def expand_help(words: Sequence[str]) -> list[str]:
    """Returns the words, with `help COMMAND` as `COMMAND --help`."""
    return [*words[1:], HELP] if words[:1] == ["help"] else list(words)


class CommandApp(App):
    """An app that looks for the help of options in docstrings only if that of its command has some.

    For settings, which have theirs beside them, cyclopts would read the source of each class, again and again.
    """

    def assemble_argument_collection(
        self, *, default_parameter: Parameter | None = None, parse_docstring: bool = False
    ) -> ArgumentCollection:
        """Returns the command's options: the same ones each time if they are only shown, and not parsed."""
        if parse_docstring and default_parameter is None:
            return self._shown
        return super().assemble_argument_collection(
            default_parameter=default_parameter, parse_docstring=parse_docstring
        )

    @cached_property
    def _shown(self) -> ArgumentCollection:
        explained = DOCUMENTED in (getattr(self.default_command, "__doc__", None) or "")
        return super().assemble_argument_collection(parse_docstring=explained)


class CommandHelp:
    """Shows the help of one command, with lines as wide as the terminal. Docstrings have lines as wide as the code.

    `whole` shows all options of a command that has many.
    """

    def __init__(self, command: str, *, whole: bool) -> None:
        self._command, self._whole = command, whole

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Prints a table of commands or parameters, and says how to see what it leaves out."""
        from cyclopts.help import DefaultFormatter

        for each in arrange(panel, self._command, whole=self._whole):
            DefaultFormatter()(console, options, each)
        if panel.format == "parameter" and (ending := self._describe_rest(panel)):
            console.print(ending, highlight=False)

    def _describe_rest(self, panel: HelpPanel) -> str:
        """Returns a sentence on what the tables of a panel leave out; "" if that is nothing."""
        if self._whole:
            switches = [entry.negative_names[0] for entry in panel.entries if "no-" in "".join(entry.negative_names)]
            return f"To turn a switch off that is on, put no- before its name, as in {switches[0]}." if switches else ""
        if self._command not in MOST_NEEDED or not any(entry.names for entry in panel.entries):
            return ""
        shown = {*TWICE, *MOST_NEEDED[self._command]}
        more = sum(not shown & {*entry.names} for entry in panel.entries)
        return f"There are {more} more options: scriven {self._command} {ALL} shows all of them."

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Prints the line of usage."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Prints the text above the tables."""
        join_lines(description)
        console.print(description)


def arrange(panel: HelpPanel, command: str, *, whole: bool) -> Iterator[HelpPanel]:
    """Yields the panels that a command's help shows instead of this one: `whole`, or with what most need."""
    if panel.format != "parameter" or not any(entry.names for entry in panel.entries):
        for entry in panel.entries:
            join_lines(entry.description)
        yield panel
        return
    entries = [_plain(entry) for entry in panel.entries if not TWICE & {*entry.names}]
    needed, groups = MOST_NEEDED.get(command), GROUPS.get(command, {})
    if needed and not whole:
        by_name = {name: entry for entry in entries for name in entry.names}
        yield panel.copy(entries=[by_name[name] for name in needed])
        return
    titles = [_title(entry, groups) for entry in entries]
    for title in ["", *groups]:
        found = [entry for entry, its in zip(entries, titles, strict=True) if its == title]
        if found:
            yield panel.copy(title=title or panel.title, entries=found)


def _title(entry: HelpEntry, groups: dict[str, tuple[str, ...]]) -> str:
    return next((title for title, begins in groups.items() if entry.names[0].startswith(begins)), "")


def _plain(entry: HelpEntry) -> HelpEntry:
    """Returns an entry without the opposite of a switch, and without a default that says nothing."""
    join_lines(entry.description)
    return entry.copy(negative_names=(), default=None if entry.default in NOTHING else entry.default)


def join_lines(help_text: Any) -> None:
    """Joins the lines of each paragraph of a help text."""
    from rich.text import Text

    text = getattr(help_text, "primary_renderable", None)
    if isinstance(text, Text):
        help_text.primary_renderable = Text(re.sub(r"(?<!\n)\n(?!\n)", " ", text.plain))
