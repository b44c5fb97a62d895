"""What the documents tell people to type works, with budgets cut to a few steps and models to a few weights."""

import gzip
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import WORDS
from scriven.cli import main

ROOT = Path(__file__).parents[1]
# docs/experiments.md is no manual: its commands are a record of what was run, for minutes, on texts that are not here.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "experiments.md"}),
]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL_SYNTAX = {"|", ">", ">>", "<", "&&", ";"}

# What stands in place of what is written: any budget, and additions to every new training that does not give them.
BUDGET = re.compile(r"--(?:minutes|epochs|steps|characters)[ =]\S+")
STEPS, MORE_STEPS = "--steps 4", "--steps 8"  # of a new run, of a resumed one
SMALL = {
    "--model.width": "16",
    "--reader.batch": "4",
    "--reader.length": "16",
    "--training.workers": "1",
    "--training.threads": "1",
    "--training.evaluations": "1",
    "--training.evaluation-characters": "500",
}
PYTHON_BUDGET = re.compile(r"\b(?:minutes|epochs|steps|characters)=[\d.]+")
PYTHON_SMALL = (
    'steps=4, settings={"model": {"width": 16}, "reader": {"batch": 4, "length": 16},'
    ' "training": {"workers": 1, "threads": 1}}'
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that is to be typed, in order."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text("utf-8"))]


def lines(page: Path) -> Iterator[str]:
    """The lines of the blocks for the shell; those that end in a backslash joined to the next."""
    for language, text in blocks(page):
        if language == "sh":
            yield from text.replace("\\\n", " ").splitlines()


def rewritten(line: str) -> list[str]:
    """The words of a `scriven` line as they are run here, up to where the shell takes over."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in SHELL_SYNTAX), len(words))]
    if words[0] != "train":
        return words
    resumes = "--resume" in words
    words = shlex.split(BUDGET.sub("", shlex.join(words)) + " " + (MORE_STEPS if resumes else STEPS))
    small = [] if resumes else [word for flag, value in SMALL.items() if flag not in words for word in (flag, value)]
    return words + small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the documents speak of, as the current one."""
    monkeypatch.chdir(tmp_path)
    text = WORDS * 40
    for name in ("book.txt", "letters.txt", "letter.txt", "notes/monday.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    Path("letters").mkdir()
    Path("letters/first.txt.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def run_line(line: str) -> None:
    try:
        main(rewritten(line))
    except SystemExit as end:
        assert not end.code, f"{line!r}, run as {rewritten(line)}, ended with {end.code}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_what_a_page_says_can_be_typed_works(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for language, text in blocks(page):
        if language == "python":
            exec(PYTHON_BUDGET.sub(PYTHON_SMALL, text), {})
        for line in text.replace("\\\n", " ").splitlines():
            if language == "sh" and line.startswith("scriven "):
                monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WORDS.encode() * 40)))
                run_line(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_extras_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].keys()
    for line in lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if "pip" in words:
            assert {extra for names in re.findall(r"\[([\w,]+)\]", line) for extra in names.split(",")} <= extras, line


def test_the_command_that_the_pages_name_is_installed() -> None:
    command = Path(sys.executable).with_name("scriven")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("scriven ")


def test_the_command_reference_is_what_help_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_budgets_are_cut_and_what_is_given_stays() -> None:
    words = rewritten("scriven train book.txt --minutes 5 --model.width 200 -o 'my run' | tee log # five minutes")
    assert words[:7] == ["train", "book.txt", "--model.width", "200", "-o", "my run", "--steps"]
    assert not {"--minutes", "|", "tee"} & set(words)
    assert words.count("--model.width") == words.count("--training.workers") == 1
    resumed = rewritten("scriven train --resume -o runs/book --minutes 10")
    assert resumed == ["train", "--resume", "-o", "runs/book", "--steps", "8"]
    assert rewritten('scriven sample runs/book --stop "\\n"') == ["sample", "runs/book", "--stop", "\\n"]
