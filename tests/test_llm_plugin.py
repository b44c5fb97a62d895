"""llm's models scriven/RUN: they are listed, and write what Scriven writes, piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lazy_module import LazyModule
from random_run import make_random_run
from scriven.trained_model import load

llm, cli, plugins = LazyModule("llm"), LazyModule("llm.cli"), LazyModule("llm.plugins")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command of llm in a folder with one run."""
    from click.testing import CliRunner

    from scriven import llm_plugin

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setattr("llm.plugins.LLM_LOAD_PLUGINS", "")  # none that others have installed
    make_random_run(tmp_path / "runs" / "book")
    plugins.load_plugins()
    if not any(plugin is llm_plugin for plugin in plugins.pm.get_plugins()):
        plugins.pm.register(llm_plugin, "scriven")
    return lambda *words: CliRunner().invoke(cli.cli, words)


def test_runs_are_listed(asked: Any) -> None:
    assert "Scriven: scriven/book" in asked("models", "list").output.splitlines()
    assert "temperature" in asked("models", "list", "--options", "-q", "scriven").output


def test_a_prompt_is_continued(asked: Any) -> None:
    options = ["-o", "temperature", "0.7", "-o", "length", "60", "-o", "seed", "3"]
    done = asked("-m", "scriven/book", "a bold ", *options, "--no-log")
    assert done.exit_code == 0, done.output
    assert done.output == load("runs/book").sample("a bold ", length=60, temperature=0.7, seed=3) + "\n"


def test_a_text_comes_in_pieces(asked: Any) -> None:
    response = llm.get_model("scriven/book").prompt("a bold ", length=60, seed=3)
    pieces = [*response]
    assert len(pieces) > 1
    assert "".join(pieces) == load("runs/book").sample("a bold ", length=60, seed=3)
    assert (response.input_tokens, response.output_tokens) == (7, 60)


def test_what_cannot_be_done_is_said(asked: Any) -> None:
    assert "no system prompt" in asked("-m", "scriven/book", "a", "--system", "be brief", "--no-log").output
    assert "temperature" in asked("-m", "scriven/book", "a", "-o", "temperature", "-1", "--no-log").output
    for path in Path("runs/book/checkpoints").rglob("model.safetensors"):
        path.write_bytes(b"")
    done = asked("-m", "scriven/book", "a", "--no-log")
    assert (done.exit_code, "book" in done.output) == (1, True)
