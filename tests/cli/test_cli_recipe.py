"""Recipes from the command line: listed, shown, copied, changed, trained."""

import json
from pathlib import Path

import pytest

from conftest import Command
from scriven import recipes
from scriven.cli import main
from scriven.runs import open_run


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2


def test_recipes_are_listed_and_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipe", "list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipes.names()
    main(["recipe", "list", "--json"])
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == recipes.names()
    main(["recipe", "show", "char-rnn"])
    assert capsys.readouterr().out == recipes.text("char-rnn")


def test_a_wrong_name_is_told_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    run("recipe", "show", "charrnn")
    run("train", "book.txt", "--recipe", "charrnn")
    errors = capsys.readouterr().err
    assert errors.count("torch-rnn") == 2


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_trains(name: str, book: Path, tmp_path: Path) -> None:
    small = ["--steps", "2", "--reader.batch", "4", "--training.workers", "1", "--quiet", "--model.width", "8"]
    small += ["--training.evaluation-characters", "200", "--monitor.sample-length", "5"]
    embedding = ["--model.embedding", "8"] if name in ("awd-lstm", "awd-lstm-small") else []
    main(["train", str(book), "--recipe", name, *small, *embedding, "-o", str(tmp_path / "run")])
    settings = open_run(tmp_path / "run").settings
    assert settings.reader.kind == recipes.values(name)["reader"]["kind"]
    assert settings.training.learning_rate == recipes.values(name)["training"]["learning_rate"]
    assert settings.budget.steps == 2  # what is said beside a recipe wins, its own budget goes


def test_a_copied_recipe_can_be_changed(book: Path, tmp_path: Path, command: Command) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(recipes.text("torch-rnn").replace("width = 128", "width = 9").replace("epochs = 50.0", "steps = 1"))
    done = command("train", str(book), "--settings", str(mine), "-o", str(tmp_path / "run"), "--quiet")
    assert done.code == 0, done.err
    assert open_run(tmp_path / "run").settings.model.width == 9
