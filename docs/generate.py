"""Writes docs/commands.md from what every command's --help says; with --check, fails if the file is out of date."""

from __future__ import annotations

import contextlib
import io
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from scriven.cli import COMMANDS
from scriven.cli import main as scriven

PAGE = Path(__file__).parent / "commands.md"
HEAD = """# Commands

Made by `make docs` from each command's `--help`; do not edit. Results go to standard output, everything else to
standard error. Exit codes: 0 success, 2 wrong usage, 3 bad input or a bad file, 4 training diverged, 130 and 143
interrupted or terminated after a clean save, 1 a bug in Scriven. An error is one sentence; `--traceback`
shows where it arose.
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
        scriven([*words, "--help"])
    text = "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())
    return f"\n## {' '.join(('scriven', *words))}\n\n```text\n{text}\n```\n"


def main() -> None:
    """Write the page, or with --check compare it."""
    for name in ASKING_FOR_COLOUR:
        os.environ.pop(name, None)
    os.environ |= PLAIN
    fresh = page()
    if "--check" not in sys.argv:
        PAGE.write_text(fresh, encoding="utf-8", newline="\n")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != fresh:
        sys.exit(f"docs/{PAGE.name} is not what --help says; make docs writes it anew")


if __name__ == "__main__":
    main()
