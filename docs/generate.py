"""Writes docs/commands.md and the manual page docs/scriven.1 from what every command's --help-all says.

It writes docs/chosen.md from the rules that choose settings.

With --check, it fails if a file is out of date.
"""

from __future__ import annotations

import contextlib
import io
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chosen
from cyclopts import App

from scriven.cli import COMMANDS, make_app
from scriven.cli import main as scriven
from scriven.cli.help import ALL, arrange, join_lines

PAGE = Path(__file__).parent / "commands.md"
MANUAL = Path(__file__).parent / "scriven.1"
CHOSEN = Path(__file__).parent / "chosen.md"
HEAD = """# Commands

Made by `make docs` from each command's `--help-all`; do not edit. `--help` shows what most need, and
`scriven help COMMAND` too; `man scriven` has this page. Results go to standard output, everything else to standard
error. Exit codes: 0 success, 2 wrong usage, 3 bad input or a bad file, 4 training diverged, 130 and 143 interrupted or
terminated after a clean save, 1 a bug in Scriven. An error is one sentence; `--traceback` shows where it arose.

`scriven --install-completion` lets the shell complete commands, options and names of runs with the Tab key.
"""
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
ASKING_FOR_COLOUR = {"FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"}


def page() -> str:
    """The whole page, as it should be."""
    return HEAD + "".join(map(section, commands()))


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, the bare `scriven` first."""
    yield ()
    for name, (target, _) in COMMANDS.items():
        yield (name,)
        command = pkgutil.resolve_name(target)
        if isinstance(command, App):
            yield from ((name, below) for below in command if not below.startswith("-"))


def section(words: tuple[str, ...]) -> str:
    """One command: its name and its help."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        scriven([*words, ALL])
    text = "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())
    return f"\n## {' '.join(('scriven', *words))}\n\n```text\n{text}\n```\n"


# --- the manual page, in the language of man

MANUAL_HEAD = r""".\" Made by `make docs`; do not edit.
.TH SCRIVEN 1 "" scriven "User commands"
.SH NAME
scriven \- small recurrent language models, trained on your own text
.SH SYNOPSIS
.B scriven
.I command
[\fIoptions\fR] [\fIarguments\fR]
"""
MANUAL_END = r""".SH EXIT STATUS
0 success, 2 wrong usage, 3 bad input or a bad file, 4 training diverged, 130 and 143 interrupted or terminated after a
clean save, 1 a bug in Scriven.
.SH FILES
.TP
runs/
Where new runs are made. A run is named by its folder, or, if it is in runs/, by its name alone.
"""


class ManualHelp:
    """Takes a command's help from cyclopts as parts of a manual page."""

    def __init__(self, command: str) -> None:
        self.command, self.parts = command, list[str]()

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Adds a table of commands or parameters."""
        for each in arrange(panel, self.command, whole=True) if panel.entries else ():
            self.parts.append(f".PP\n.I {escape(each.title)}\n")
            for entry in each.entries:
                names = ", ".join(filter(None, [entry.positional_label, *entry.names, *entry.shorts]))
                value = f" \\fI{escape(entry.metavar)}\\fR" if entry.metavar and entry.names else ""
                default = f" [default: {entry.default}]" if entry.default else ""
                choices = f" [choices: {', '.join(entry.choices)}]" if entry.choices else ""
                said = f"{text_of(entry.description)}{default}{choices}"
                self.parts.append(f".TP\n\\fB{escape(names)}\\fR{value}\n{escape(said)}\n")

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Leaves out the line of usage, which the title has."""

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Adds the text above the tables."""
        join_lines(description)
        paragraphs = [each for each in text_of(description).split("\n\n") if each.strip()]
        self.parts.append("".join(f".PP\n{escape(each)}\n" for each in paragraphs))


def text_of(help_text: Any) -> str:
    """The plain text of a help text of cyclopts."""
    text = getattr(help_text, "primary_renderable", help_text)
    return str(getattr(text, "plain", text)).strip()


def escape(text: str) -> str:
    """Text as man shows it: no line begins a command, and dashes can be copied."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line[:1] in {".", "'"} else line for line in lines)


def manual() -> str:
    """The whole manual page, as it should be."""
    parts = [MANUAL_HEAD]
    for words in commands():
        said = ManualHelp(" ".join(words[:1]))
        app = make_app(words)
        app.help_formatter = said
        app.help_print(list(words))
        title = f".SS scriven {escape(' '.join(words))}\n" if words else ".SH DESCRIPTION\n"
        parts += [title, *said.parts, *([] if words else [".SH COMMANDS\n"])]
    return "".join([*parts, MANUAL_END])


def main() -> None:
    """Write the files, or with --check compare them."""
    for name in ASKING_FOR_COLOUR:
        os.environ.pop(name, None)
    os.environ |= PLAIN
    for path, fresh in ((PAGE, page()), (MANUAL, manual()), (CHOSEN, chosen.page())):
        if "--check" not in sys.argv:
            path.write_text(fresh, encoding="utf-8", newline="\n")
        elif not path.exists() or path.read_text(encoding="utf-8") != fresh:
            sys.exit(f"docs/{path.name} is not what the code says; make docs writes it anew")


if __name__ == "__main__":
    main()
