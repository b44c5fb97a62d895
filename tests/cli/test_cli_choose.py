"""`sample --choose`, on a terminal of its own: keys choose, digits too, a key takes back, and the text is printed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from page_server import LETTERS, make_run
from scriven.cli.choose import CHOICES, find_continuations, name_keys
from scriven.session import Session
from scriven.trained_model import Model, load

if sys.platform == "win32":
    pytest.skip("there is no pty", allow_module_level=True)
import pty

SECONDS = 60
UP, DOWN, LEFT, RIGHT = b"\x1b[A", b"\x1b[B", b"\x1b[D", b"\x1b[C"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("chosen") / "book")


def type_keys(run: Path, keys: list[bytes], *flags: str) -> tuple[int, str, str]:
    """Types keys, each once the screen has changed. Returns the exit code, what is printed, and what was on screen."""
    ours, theirs = pty.openpty()
    code = "from scriven.cli import main; main()"
    words = [sys.executable, "-c", code, "sample", str(run), "--choose", *flags]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
    process = subprocess.Popen(words, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    screen = b""
    try:
        for key in keys:
            screen += read_until(ours, b"q ends")
            os.write(ours, key)
        screen += read_rest(ours)
        out, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        os.close(ours)
    return process.returncode, out.decode(), screen.decode()


def read_until(terminal: int, words: bytes) -> bytes:
    """What a terminal shows, up to these words."""
    shown, end = b"", time.monotonic() + SECONDS
    while words not in shown:
        assert time.monotonic() < end, shown
        shown += os.read(terminal, 1 << 16)
    return shown


def read_rest(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            more = os.read(terminal, 1 << 16)
        except OSError:  # so Linux says that the other end is closed
            return shown
        if not more:
            return shown
        shown += more


def expected(run: Path, prompt: str, places: list[int]) -> str:
    """The text after these choices."""
    model = load(run)
    session = model.session()
    session.read(prompt)
    text = prompt
    for place in places:
        chosen = find_continuations(model, session)[place]
        assert chosen.session
        text, session = text + chosen.text, chosen.session
    return text


@pytest.mark.parametrize(
    ("keys", "places"),
    [
        ([b"q"], []),
        ([b"1", b"3", b"q"], [0, 2]),
        ([DOWN, DOWN, b"\r", UP, RIGHT, b"q"], [2, CHOICES - 1]),
        ([b"2", LEFT, b"\x7f", b"1", b"\x1b"], [0]),
        ([b"2", b"x", b"0", b"1", b"\x04"], [1, 0]),
    ],
    ids=["nothing", "digits", "arrows", "taken back", "other keys"],
)
def test_a_text_is_chosen_on_a_terminal(keys: list[bytes], places: list[int], run: Path) -> None:
    code, out, screen = type_keys(run, keys, "--prompt", "a text")
    assert code == 0, screen
    assert out.rstrip("\n") == expected(run, "a text", places).rstrip("\n")
    assert "q ends" in screen and ">" in screen


def test_it_ends_at_the_length(run: Path) -> None:
    code, out, _ = type_keys(run, [b"1"], "--length", "1", "--prompt", "a")
    assert (code, out.rstrip("\n")) == (0, expected(run, "a", [0])[:2].rstrip("\n"))


def test_a_document_may_end(tmp_path: Path) -> None:
    model = load(make_run(tmp_path / "lines", documents="lines"))
    session = model.session()
    ends = [each for each in find_continuations(model, session) if each.session is None]
    assert len(ends) <= 1
    boundary = model.vocabulary.boundary
    likely = np.argsort(-session.next(), kind="stable")[:CHOICES]
    assert (boundary in likely) == bool(ends)
    assert all(each.text == "" for each in ends)


def test_continuations_are_the_likeliest_and_the_session_stays(run: Path) -> None:
    model = load(run)
    session = model.session()
    session.read("a tiny ")
    before = session.next()
    found = find_continuations(model, session)
    assert (session.next() == before).all()
    known = [each for each in np.argsort(-before, kind="stable").tolist() if each != model.vocabulary.unknown]
    assert [each.text[0] for each in found] == [model.decode([each]) for each in known[: len(found)]]
    assert [each.chance for each in found] == sorted((each.chance for each in found), reverse=True)
    for each in found:
        assert set(each.text) <= set(LETTERS)
        assert each.session and (each.session.next() == after(model, "a tiny ", each.text).next()).all()


def after(model: Model, prompt: str, text: str) -> Session:
    """A session that has read a prompt at once, and then a text character by character."""
    session = model.session()
    session.read(prompt)
    for character in text:
        session.step(character)
    return session


def test_keys_are_known_by_what_a_terminal_sends() -> None:
    assert name_keys(UP + DOWN + b"\x1bOC" + b"1q") == ["up", "down", "take", "1", "end"]
    assert name_keys(b"\x1b") == ["end"]
    assert name_keys(b"") == []
    assert name_keys("é".encode()) == ["�", "�"]
    for unknown in (b"\x1b[3~", b"\x1b[5~", b"\x1b[1;5C", b"\x1b[H", b"\x1bOP"):
        assert name_keys(unknown) == [unknown.decode()]


def test_a_continuation_is_no_longer_than_asked_and_of_what_is_written(run: Path) -> None:
    model = load(run)
    session = model.session()
    session.read("a")
    assert max(len(each.text) for each in find_continuations(model, session, 2)) <= 2
    chances = session.next(writing=True)
    assert find_continuations(model, session)[0].chance == chances.max()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--choose needs a terminal"),
        (["--json"], "--json would do nothing"),
        (["--count", "2", "--temperature", "0.5"], "--count, --temperature would do nothing"),
        (["--seed", "1"], "--seed would do nothing"),
        (["--interactive"], "--interactive would do nothing"),
        (["--no-until-end"], "--no-until-end would do nothing"),
    ],
)
def test_where_nobody_can_choose_it_is_one_sentence(words: list[str], said: str, run: Path, command: Command) -> None:
    done = command("sample", str(run), "--choose", *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err
