"""Lets a person write with a model on a terminal, by choosing among the likeliest continuations."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from scriven.errors import UsageError
from scriven.report import visible

if TYPE_CHECKING:
    from rich.console import Group

    from scriven.session import Session
    from scriven.trained_model import Model

CHOICES = 9  # continuations at most, one for each digit
LONGEST = 24  # characters of a continuation at most
UNLIKELY = 0.001  # a continuation whose first character is less likely is not shown
TEXT_SHOWN = 600  # of the last characters
END, BACK = -1, -2  # instead of the place of a choice
HELP = "↑ ↓ and Enter, or a digit, choose; ← takes back; q ends"
KEYS = {  # by what a terminal sends
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[C": "take",
    b"\x1bOC": "take",
    b"\r": "take",
    b"\n": "take",
    b"\x1b[D": "back",
    b"\x1bOD": "back",
    b"\x7f": "back",
    b"\x08": "back",
    b"q": "end",
    b"\x1b": "end",
    b"\x04": "end",
}
WINDOWS_KEYS = {"H": b"\x1b[A", "P": b"\x1b[B", "M": b"\x1b[C", "K": b"\x1b[D"}  # after a first character
KEY = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
CUT = re.compile(rb"\x1b(\[[0-9;]*|O)?\Z")  # the end of what was sent, of which the rest of a key may follow
REST_SECONDS = 0.05  # that the rest of a key takes at most


class Continuation(NamedTuple):
    """Text that may come next, the probability of its first character, and the session after it."""

    text: str
    chance: float
    session: Session | None  # None for the end of a document


def check_terminal() -> None:
    """Raises UsageError unless a person can choose here, on a terminal whose lines can be drawn again."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or os.environ.get("TERM") == "dumb":
        raise UsageError("--choose needs a terminal, on which you choose; drop it, or drop what is piped in")


def find_continuations(model: Model, session: Session, most: int = LONGEST) -> list[Continuation]:
    """Returns the likeliest characters, the likeliest first, each with the likeliest rest of its word.

    A continuation has `most` characters at most.
    """
    chances, vocabulary = session.next(writing=True), model.vocabulary
    found = list[Continuation]()
    for symbol in (-chances).argsort(kind="stable").tolist():
        if len(found) == CHOICES or (found and chances[symbol] < UNLIKELY):
            break
        if symbol == vocabulary.boundary:
            found.append(Continuation("", float(chances[symbol]), None))
        elif symbol != vocabulary.unknown:
            after = session.fork()
            found.append(Continuation(_extend(model, after, symbol, most), float(chances[symbol]), after))
    return found


def _extend(model: Model, session: Session, symbol: int, most: int) -> str:
    """Reads a symbol and the likeliest ones after it, to the end of a word, and returns their text."""
    text = ""
    while symbol not in (model.vocabulary.boundary, model.vocabulary.unknown) and len(text) < min(most, LONGEST):
        character = model.decode([symbol])
        if text.strip() and not (character.isalnum() and text[-1].isalnum()):
            break
        session.read(character)
        text += character
        symbol = int(session.next(writing=True).argmax())
    return text


def choose(model: Model, session: Session, prompt: str, length: int) -> str:
    """Shows continuations of what the session has read, until the person ends it, and returns the chosen text.

    It also ends after `length` characters, or with the document.
    """
    written = [Continuation("", 1.0, session)]
    with _keys() as next_key, _screen() as show:
        while (last := written[-1].session) and (left := length - sum(len(each.text) for each in written)) > 0:
            choices, text = find_continuations(model, last, left), "".join(each.text for each in written)
            answer = _ask(next_key, lambda place: show(prompt, text, choices, place), len(choices))  # noqa: B023
            if answer == END:
                break
            if answer != BACK:
                written.append(choices[answer])
            elif len(written) > 1:
                written.pop()
    return "".join(each.text for each in written)


def _ask(next_key: Callable[[], str], show: Callable[[int], None], count: int) -> int:
    """Waits until the person chooses, and returns the place of the choice among `count`, or END or BACK."""
    place = 0
    while True:
        show(place)
        key = next_key()
        if key in ("up", "down"):
            place = (place + (1 if key == "down" else -1)) % count
        elif key in ("take", "back", "end"):
            return {"take": place, "back": BACK, "end": END}[key]
        elif key.isdigit() and 1 <= int(key) <= count:
            return int(key) - 1


# --- the terminal


@contextmanager
def _screen() -> Iterator[Callable[[str, str, list[Continuation], int], None]]:
    """Yields what draws the text and the choices on standard error; at the end they are gone."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield lambda prompt, text, choices, place: live.update(_draw(prompt, text, choices, place), refresh=True)


def _draw(prompt: str, text: str, choices: list[Continuation], place: int) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    before = visible(prompt.expandtabs(4))[-TEXT_SHOWN:]
    shown = Text.assemble((before, "bold"), visible(text.expandtabs(4))[-TEXT_SHOWN:], ("▏", "dim"))
    table = Table.grid(padding=(0, 2))
    for number, each in enumerate(choices):
        words = "the end" if each.session is None else visible(each.text).replace(" ", "␣").replace("\n", "⏎")
        style = "reverse" if number == place else ""
        chance = f"{each.chance:.0%}" if each.chance >= 0.01 else "<1%"
        mark = ">" if number == place else " "
        table.add_row(mark, f"{number + 1}", Text(words, style), chance)
    return Group(shown, Text(), table, Text(HELP, "dim"))


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Yields what waits for the next key and returns its name: up, down, take, back, end, a digit, or anything else."""
    waiting = list[str]()

    def _next() -> str:
        while not waiting:
            waiting.extend(name_keys(_read()))
        return waiting.pop(0)

    if os.name == "nt":
        yield _next
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield _next
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read() -> bytes:
    """Waits for keys, and returns what the terminal sends for them; for an end of the input, what means the end."""
    if sys.platform == "win32":
        import msvcrt

        first = msvcrt.getwch()
        return WINDOWS_KEYS.get(msvcrt.getwch(), b"") if first in "\x00\xe0" else first.encode()
    import select

    number = sys.stdin.fileno()
    sent = os.read(number, 1024) or b"q"
    while CUT.search(sent) and select.select([number], [], [], REST_SECONDS)[0]:
        sent += os.read(number, 1024) or b"q"
    return sent


def name_keys(sent: bytes) -> list[str]:
    """Returns the names of the keys for which a terminal sends these bytes."""
    return [KEYS.get(key, key.decode("ascii", "replace")) for key in KEY.findall(sent)]
