"""The words of a command line: values that begin with a dash, escapes, prompts from elsewhere, mistakes."""

from __future__ import annotations

import io
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import App
from cyclopts.argument import Argument

from conftest import Command
from scriven.cli import COMMANDS, make_app
from scriven.cli.common import unescape
from scriven.cli.mistakes import collection_of, join_values, takes_value
from scriven.errors import UsageError, close_names, close_paths, did_you_mean
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary

DASHED = ["---", "-", "- Yes", "-7+8=", "-1", "-x", "--x=y", "--no such"]
LIMITED = {
    "--monitor.keep",
    "--model.activation",
    "--model.cell",
    "--training.optimizer",
    "--corpus.encoding",
    "--checkpoint",
    "--resume",
}  # take text, but few


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "book"
    settings, vocabulary = validate({"model": {"width": 8, "layers": 1}}), Vocabulary.of("\n -abc")
    made = create_run(folder, settings, vocabulary, {"texts": [], "corpus": ""})
    made.save(CharLM(settings.model, vocabulary.size).state_dict(), {}, {"step": 1, "validation": {}}, best=1)
    return str(folder)


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command that there is."""
    for name, (target, _) in COMMANDS.items():
        command = pkgutil.resolve_name(target)
        if isinstance(command, App):
            yield from ((name, below) for below in command if not below.startswith("-"))
        else:
            yield (name,)


def takes(argument: Argument, *kinds: type) -> bool:
    of_many = {list[str], tuple[str, ...]} if str in kinds else set()
    return bool({*kinds, *of_many} & {argument.hint, *get_args(argument.hint)})


def options(command: tuple[str, ...], *kinds: type) -> Iterator[tuple[str, Argument]]:
    """Each name of each option of a command whose value is one of these."""
    arguments = collection_of(make_app(command), command)
    for argument in arguments:
        if argument.parse and takes(argument, *kinds):
            yield from ((name, argument) for name in argument.names if name[0] == "-" and takes_value(arguments, name))


def bound(words: list[str]) -> dict[str, Any]:
    """What the command is called with."""
    app = make_app(words)
    _, arguments, _ = app.parse_args(join_values(app, words), exit_on_error=False, print_error=False)
    return dict(arguments.arguments)


def values_in(given: object) -> Iterator[str]:
    """All texts in what a command is called with."""
    if isinstance(given, dict):
        given = list(given.values())
    if hasattr(given, "model_dump"):
        given = given.model_dump()
        yield from values_in(given)
    elif isinstance(given, list | tuple):
        for each in given:
            yield from values_in(each)
    else:
        yield str(given)


def positional(command: tuple[str, ...]) -> list[str]:
    """What a command must be given: a word for each argument, and the first choice for each option."""
    arguments = collection_of(make_app(command), command)
    needed = [each for each in arguments if each.field_info.required]
    words = ["x" for each in needed if each.field_info.is_positional and not each.name.startswith("-")]
    options = [each for each in needed if not each.field_info.is_positional and get_args(each.hint)]
    return words + [f"{each.name}={get_args(each.hint)[0]}" for each in options]


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_option_that_takes_text_takes_any(command: tuple[str, ...]) -> None:
    """The options are those that the commands themselves declare; each with a value of its own, beside the others."""
    once = {id(argument): name for name, argument in options(command, str, Path) if name not in LIMITED}.values()
    besides = ["--corpus.documents", "separator"] if "--corpus.separator" in once else []
    for place in range(len(DASHED)):
        given = {name: DASHED[(place + number) % len(DASHED)] for number, name in enumerate(once)}
        words = [word for pair in given.items() for word in pair]
        found = set(values_in(bound([*command, *positional(command), *words, *besides])))
        assert not set(given.values()) - found


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_an_option_whose_value_was_forgotten_says_so(command: tuple[str, ...]) -> None:
    app = make_app(command)
    for name, _ in options(command, str, Path, int, float):
        with pytest.raises(UsageError, match=f"^{name} needs a value, but --help is another option"):
            join_values(app, [*command, name, "--help"])


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ("sample x --prompt --json", None),
        ("sample x --prompt --temperature=0.5", None),
        ("sample x --prompt=--json --json", "sample x --prompt=--json --json"),
        ("sample x --greedy --json", "sample x --greedy --json"),
        ("sample x --stop -a --stop -b -c", "sample x --stop=-a --stop=-b -c"),
        ("sample x --prompt a -- --prompt --json", "sample x --prompt a -- --prompt --json"),
        ("train x -o -y --quiet", "train x -o=-y --quiet"),
        ("sample x --json --prompt", "sample x --json --prompt"),
    ],
)
def test_values_are_joined_to_their_options(words: str, joined: str | None) -> None:
    app = make_app(words.split())
    if joined is None:
        with pytest.raises(UsageError, match="--prompt needs a value"):
            join_values(app, words.split())
    else:
        assert join_values(app, words.split()) == joined.split()


@pytest.mark.parametrize("prompt", ["- Yes", "-7+8=", "---"])
def test_a_prompt_may_begin_with_a_dash(run: str, prompt: str, command: Command) -> None:
    assert command("sample", run, "--prompt", prompt, "--length", "0").out == f"{prompt}\n"


def test_a_file_may_be_named_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("--json", "--traceback", "--resume", "-x"):
        Path(name).write_text("some text\n" * 3)
        done = command("corpus", "info", "--json", "--", name)
        assert json.loads(done.out)["texts"] == [name], done.err
    assert "there is no file --y" in command("corpus", "info", "--", "--y").err


@pytest.mark.parametrize(
    ("written", "meant"),
    [(r"\n", "\n"), (r"a\tb\r", "a\tb\r"), (r"\\n", r"\n"), (r"\\\n", "\\\n"), ("a\nb-", "a\nb-"), ("", "")],
)
def test_escapes_stand_for_characters(written: str, meant: str) -> None:
    assert unescape("--stop", written) == meant


@pytest.mark.parametrize("written", [r"\d", "\\", r"a\\\x", "\\\n"])
def test_an_escape_that_stands_for_nothing(written: str) -> None:
    with pytest.raises(UsageError, match=r"^--stop "):
        unescape("--stop", written)


def test_texts_stop_at_what_an_escape_stands_for(run: str, command: Command) -> None:
    row = json.loads(command("sample", run, "--json", "--seed", "1", "--stop", r"\n", "--stop", "-").out)
    assert row["stop"] == ["\n", "-"]
    assert row["text"] == load(run).sample(seed=1, stop=["\n", "-"])


def test_documents_are_separated_by_what_an_escape_stands_for(tmp_path: Path, command: Command) -> None:
    (tmp_path / "text.txt").write_text("a\tb\n---\nc\td\n---\n" * 9)
    flags = ["--corpus.documents", "separator", "--corpus.separator", r"\n---\n", "--json"]
    facts = json.loads(command("corpus", "info", str(tmp_path / "text.txt"), *flags).out)
    assert facts["settings"]["separator"] == "\n---\n"
    assert facts["training"]["documents"] + facts["validation"]["documents"] == 18


@pytest.mark.parametrize("text", ["abc", "ab\n", "", "-\ufffd-é\n\n"])
def test_a_prompt_is_read_as_it_is(
    run: str, text: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(text, "utf-8", newline="")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))
    words = ["sample", run, "--json", "--length", "5", "--seed", "1"]
    expected = json.loads(command(*words, "--prompt", text).out)
    assert json.loads(command(*words, "--prompt-file", str(path)).out) == expected
    assert json.loads(command(*words, "--prompt", "-").out) == expected
    assert expected["prompt"] == text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prompt", "a", "--prompt-file", "b"], "drop one"),
        (["--prompt", "-", "--interactive"], "--prompt-file"),
        (["--prompt-file", "python"], "name one"),
        (["--prompt-file", "gone.txt"], "there is no file"),
        (["--prompt-file", ""], "--prompt-file is empty"),
        (["--corpus.encoding", "cp1252"], "say how to read a prompt from a file"),
        (["--prompt", "a", "--corpus.invalid", "replace"], "say how to read a prompt from a file"),
    ],
)
def test_a_prompt_that_cannot_be_read(run: str, words: list[str], told: str, command: Command) -> None:
    done = command("sample", run, *words)
    assert (done.code, done.out) == (3 if "gone.txt" in words else 2, "")
    assert told in done.err


def test_a_prompt_of_another_encoding_is_read_as_the_error_says(run: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("aé bad cab".encode("cp1252"))
    words = ["sample", run, "--json", "--length", "1", "--seed", "1", "--prompt-file", str(path)]
    refused = command(*words)
    assert (refused.code, "read it with --corpus.encoding cp1252" in refused.err) == (3, True), refused.err
    assert json.loads(command(*words, "--corpus.encoding", "cp1252").out)["prompt"] == "aé bad cab"
    assert json.loads(command(*words, "--corpus.invalid", "replace").out)["prompt"] == "a\ufffd bad cab"


MISTAKES = {  # what somebody who is new here types, and what the answer must have in it
    "train --minuts 5 x": "there is no option --minuts; did you mean --minutes?",
    "train --width 5 x": "did you mean --model.width?",
    "train x --seed 5 --minutes 1": "did you mean --reader.seed or --training.seed?",
    "train x --batch_size 3": "did you mean --reader.batch?",
    "train x --lr 3 --minutes 1": "did you mean --training.learning-rate?",
    "train x --epoch 3": "did you mean --epochs?",
    "train x -minutes 5": "did you mean --minutes?",
    "train x --minutes": "--minutes needs a value; give one after it",
    "train x --minutes --steps 5": "--minutes needs a value, but --steps is another option\n",
    "train x --minutes five": "--minutes 'five': give a number, such as 5 or 0.5",
    "train x --minutes 5 --minutes 6": "--minutes is given twice; give it once",
    "train x --steps=-1": "--steps '-1': give 0 or more",
    "train x --model.cell lst --minutes 1": "--model.cell 'lst': give 'lstm', 'gru'",
    "train x --quiet=maybe --steps 1": "--quiet takes no value; drop maybe",
    "train boook.txt --minutes 1": "did you mean book.txt?",
    "train -- --minuts": "there is no file --minuts",
    "evaluate book --corpus.encoding cp1252": "--corpus.encoding says how to read a text, but there is none",
    "train x --training.returns 2": "--training.returns is now called --training.max-rollbacks",
    "train x --training.skips=2": "--training.skips is now called --training.max-skipped-steps",
    "train x --hlep": "there is no option --hlep; did you mean --help?",
    "train book.txt --recipe awd_lstm": "did you mean awd-lstm?",
    "train book.txt --recipe= --steps 1": "there is no recipe ''",
    "train x --settings bok.txt --steps 1": "there is no file bok.txt to read settings from; did you mean book.txt?",
    "train x --separator --- --minutes 1": "did you mean --corpus.separator?",
    "sample x --temp 1": "did you mean --temperature?",
    "sample x --tempreature=0.3": "there is no option --tempreature; did you mean --temperature?",
    "sample x --max_tokens 5": "did you mean --length?",
    "sample x --prompts hi": "did you mean --prompt?",
    "sample x -p hi": "there is no option -p; scriven sample --help-all lists them all",
    "sample x hello there": "takes only RUN, not hello there; to continue a text, give --prompt",
    "sample x --length 10.5": "--length 10.5: give a whole number",
    "sample x --length 1e3": "--length 1e3: give a whole number",
    "sample x --seed one": "--seed one: give a whole number",
    "sample x --checkpoint bset": "--checkpoint bset: give best, last or a whole number; did you mean best?",
    "sample x --checkpoint 10.5": "--checkpoint 10.5: give best, last or a whole number",
    "sample x --device gpu": "--device gpu: give auto, cpu, cuda or mps\n",
    "sample": "scriven sample needs RUN, the folder of the run",
    "sample bok": "did you mean book?",
    "score x book.txt --by lines": "give total, document, line, word, character or region; did you mean line?",
    "info a b": "scriven info takes only RUN, not b",
    "serve x --port abc": "--port abc: give a whole number",
    "sampel x": "there is no command sampel; did you mean scriven sample?",
    "generate x": "did you mean scriven sample?",
    "resume x": "did you mean scriven train --resume?",
    "help frobnicate": "there is no command frobnicate; commands are card, compare, compress, corpus, decompress",
    "frobnicate": "there is no command frobnicate; commands are card, compare, compress, corpus, decompress, doctor",
    "corpus inf x": "did you mean scriven corpus info?",
    "--minutes 5 x": "give a command before --minutes",
    "book.txt": "did you mean scriven train book.txt --minutes 5?",
    "book": "did you mean scriven sample book?",
    "verify-resume x --steps 0": "--steps 0: give 1 or more",
}
FILES_MISSING = {"sample bok", "train boook.txt --minutes 1", "train x --settings bok.txt --steps 1"}


@pytest.mark.parametrize(("words", "told"), MISTAKES.items())
def test_a_mistake_is_answered_with_what_was_meant(
    words: str, told: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(Path(run).parent)
    Path("book.txt").write_text("text\n")
    done = command(*words.split())
    assert (done.code, done.out) == (3 if words in FILES_MISSING else 2, "")
    assert done.err.startswith("scriven: ") and done.err.count("\n") == 1
    assert told in done.err


def test_close_names_are_found_whatever_their_case() -> None:
    assert close_names("readme.MD", ["README.md", "read.me", "other"]) == ["README.md"]
    assert close_names("x", ["book.txt"]) == []


def test_close_paths_are_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "book.txt").touch()
    assert close_paths(str(tmp_path / "boook.txt")) == [str(tmp_path / "book.txt")]
    assert close_paths(str(tmp_path / "no" / "book.txt")) == close_paths("a\0b") == []


def test_names_are_asked_for() -> None:
    assert [did_you_mean(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "; did you mean a?",
        "; did you mean a or b?",
        "; did you mean a, b or c?",
    ]
