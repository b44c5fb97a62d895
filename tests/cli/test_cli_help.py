"""Help: what most need first, everything in groups with --help-all, the manual page, completion by the shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import Command
from scriven.cli import make_app
from scriven.cli.help import GROUPS, MOST_NEEDED, TWICE, expand_help
from scriven.cli.mistakes import collection_of

ROOT = Path(__file__).parents[2]
LONGEST = 60  # lines of `train --help` at most


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def options_in(told: str) -> list[str]:
    """The long options that tables of help list, where each begins a row."""
    return re.findall(r"^│ (--[a-z][a-z.0-9-]*)", told, re.MULTILINE)


def options_of(name: str) -> set[str]:
    arguments = collection_of(make_app([name]), [name])
    return {each.name for each in arguments if each.parse and each.name.startswith("--") and each.show}


def test_help_of_training_is_short_and_says_how_to_see_the_rest(command: Command) -> None:
    told = command("train", "--help").out
    assert told.count("\n") <= LONGEST
    assert options_in(told) == [*MOST_NEEDED["train"]] and len(MOST_NEEDED["train"]) == 12
    assert "scriven train --help-all shows all" in told


@pytest.mark.parametrize("name", MOST_NEEDED)
def test_all_help_lists_each_option_once(name: str, command: Command) -> None:
    # names so long that they are cut between two lines are not cut in a wide terminal
    os.environ["COLUMNS"] = "200"
    listed = options_in(command(name, "--help-all").out)
    assert sorted(listed) == sorted(options_of(name) - TWICE)
    assert len(listed) == len({*listed})


def test_no_source_is_read_for_the_help_of_settings(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cyclopts read that of pydantic's models too, for each group of settings: 0.8 s of the 1.4 s of this help."""
    monkeypatch.setattr("inspect.getsource", lambda found: pytest.fail(f"the source of {found} was read"))
    assert command("train", "--help-all").code == 0


def test_all_help_of_training_is_in_groups(command: Command) -> None:
    told = command("train", "--help-all").out
    assert re.findall(r"^╭─ (\w+) ", told, re.MULTILINE) == ["Arguments", "Parameters", *GROUPS["train"]]


@pytest.mark.parametrize("words", [["train", "--help-all"], ["sample", "--help-all"], ["evaluate", "--help"]])
def test_no_default_says_that_nothing_is_given(words: list[str], command: Command) -> None:
    told = " ".join(re.sub("[│\n]", " ", command(*words).out).split())
    assert not re.search(r"\[default: (0(\.0)?|False|\"\")\]", told)
    assert "[default: auto]" in told


def test_options_that_are_not_listed_can_be_given() -> None:
    assert options_of("train") >= TWICE


def test_short_flags_stand_for_long_ones(command: Command) -> None:
    told = command("sample", "--help").out
    assert "--length -n" in told and "--temperature -t" in told
    given = make_app(["sample"]).parse_args(["sample", "book", "-n", "7", "-t", "0.3"])[1].arguments
    assert (given["length"], given["sampling"].temperature) == (7, 0.3)


def test_help_is_a_command(command: Command) -> None:
    assert command("help").out == command("--help").out == command().out
    assert command("help", "train").out == command("train", "--help").out
    assert command("help", "corpus", "build").out == command("corpus", "build", "--help").out
    assert expand_help(["train", "help"]) == ["train", "help"]


def test_commands_are_listed_in_the_order_in_which_they_are_needed(command: Command) -> None:
    listed = re.findall(r"^│ ([a-z-]+) ", command("--help").out, re.MULTILINE)
    assert listed[:4] == ["train", "sample", "score", "serve"]
    assert "worker" not in listed


def test_the_version_has_a_short_flag(command: Command) -> None:
    assert command("-V").out == command("--version").out
    assert re.fullmatch(r"scriven \d+\.\d+\S*\n", command("-V").out)


# --- completion


def test_completion_is_installed_where_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [sys.executable, "-m", "scriven", "--install-completion", "--shell", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".local/share/bash-completion/completions/scriven"
    assert "--corpus.documents" in script.read_text("utf-8")
    assert str(script) in (tmp_path / ".bashrc").read_text("utf-8")
    if bash := shutil.which("bash"):
        typed = f"source {script}; COMP_WORDS=(scriven sam); COMP_CWORD=1; _scriven; echo ${{COMPREPLY[@]}}"
        shown = subprocess.run([bash, "-c", typed], capture_output=True, text=True, timeout=60, check=False)
        assert shown.stdout.split() == ["sample"]


# --- the manual page


def test_the_manual_page_is_in_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    (page,) = build["wheel"]["shared-data"]
    assert build["wheel"]["shared-data"][page] == "share/man/man1/scriven.1"
    assert (ROOT / page).exists()


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_page_is_read_without_warnings() -> None:
    words = ["groff", "-man", "-Tutf8", "-ww", str(ROOT / "docs" / "scriven.1")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    shown = re.sub(".\x08|\x1b\\[[0-9;]*m", "", done.stdout)
    for word in ("--corpus.documents", "scriven verify-resume", r"\n means a line feed", "EXIT STATUS"):
        assert word in " ".join(shown.split())
