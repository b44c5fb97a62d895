"""`scriven sample` with flags that search for a text, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli_inference import failure, rows

from scriven.cli import main
from scriven.trained_model import Model, load
from scriven.vocabulary import Vocabulary
from test_session import make_run

LETTERS = "\n abcdefgh"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_run(tmp_path_factory.mktemp("runs") / "letters", Vocabulary.of(LETTERS)))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    letters, corpus = Vocabulary.of(LETTERS.strip("\n"), "\n"), {"documents": "lines"}
    return str(make_run(tmp_path_factory.mktemp("runs") / "names", letters, corpus))


@pytest.fixture(scope="module")
def model(run: str) -> Model:
    return load(run)


def test_a_beam_prints_the_likeliest_texts(run: str, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = model.find_likeliest("a b", beam=4, count=2, length=6)
    asked = ["sample", run, "--prompt", "a b", "--beam", "4", "--length", "6"]
    main(asked)
    out, err = capsys.readouterr()
    assert out == f"a b{found[0]}" + "\n" * (not found[0].endswith("\n"))
    assert err == f"note: log-probabilities, in nats: {found[0].log_probability:.2f}\n"
    main([*asked, "--count", "2", "--json", "--regex", "[a-d]+"])
    obeying = rows(capsys.readouterr().out)
    assert [row["text"] for row in obeying] != list(found)
    assert [sorted(row) for row in obeying] == 2 * [
        ["beam", "ended", "length", "log_probability", "prompt", "rule", "stop", "text", "until_end"]
    ]
    main([*asked, "--count", "2", "--json"])
    shown = rows(capsys.readouterr().out)
    assert [(row["text"], row["log_probability"]) for row in shown] == [(each, each.log_probability) for each in found]


def test_a_beam_of_a_model_of_lines_prints_several(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", names, "--beam", "3", "--length", "5"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.count(",") == 3
    main(["sample", names, "--beam", "30", "--length", "5", "--json"])
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--beam", "0"], "--beam 0: give 1 or more"),
        (["--beam", "5000"], "beam 5,000: give at most 1,024"),
        (["--beam", "2", "--count", "3"], "--count 3: a beam of 2 finds no more than that"),
        (["--beam", "2", "--seed", "3"], "draws nothing, so --seed would do nothing"),
        (["--beam", "2", "--temperature", "1", "--interactive"], "so --interactive, --temperature would do nothing"),
        (["--beam", "2", "--until-end"], "--until-end: this model has no documents"),
    ],
)
def test_flags_that_contradict_a_beam_are_refused(
    run: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failure(capsys, "sample", run, *flags)
    assert code == 2
    assert said in err


def test_a_suffix_follows_what_is_written(
    run: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"length": 8, "draws": 30, "temperature": 0.5}
    middle = model.infill("a b", "cab", seed=5, **asked)  # type: ignore[arg-type]
    flags = ["--prompt", "a b", "--length", "8", "--draws", "30", "--temperature", "0.5", "--seed", "5"]
    main(["sample", run, *flags, "--suffix", "cab"])
    assert capsys.readouterr().out == f"a b{middle}cab\n"
    (tmp_path / "after.txt").write_text("cab", "utf-8")
    main(["sample", run, *flags, "--suffix-file", str(tmp_path / "after.txt"), "--count", "2", "--json"])
    shown = rows(capsys.readouterr().out)
    assert [row["text"] for row in shown] == [middle, model.infill("a b", "cab", seed=6, **asked)]  # type: ignore[arg-type]
    assert [row["seed"] for row in shown] == [5, 6]
    assert shown[0]["effective_draws"] == middle.effective_draws
    assert (shown[0]["suffix"], shown[0]["draws"], "stop" in shown[0]) == ("cab", 30, False)
    main(["sample", run, "--prompt", "a b", "--suffix", "-", "--greedy", "--length", "4"])
    out, err = capsys.readouterr()
    assert out.startswith("a b")
    assert out.endswith("-\n")
    assert "- (U+002D)" in err  # the model does not know it


def test_few_effective_draws_are_said(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", run, "--suffix", "cab", "--draws", "1", "--length", "0", "--seed", "1"])
    out, err = capsys.readouterr()
    assert out == "cab\n"
    assert "note: 1.0 effective draws of 1: " in err


def test_the_suffix_of_a_name_ends_it(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", names, "--prompt", "a", "--suffix", "e", "--seed", "3", "--draws", "20"])
    middle = load(names).infill("a", "e", seed=3, draws=20)
    assert capsys.readouterr().out == f"a{middle}e\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--suffix", "a", "--suffix-file", "b"], "--suffix and --suffix-file both give the text that follows"),
        (["--suffix", ""], "--suffix is empty"),
        (["--suffix-file", "-"], "--suffix-file '-': name a file"),
        (["--draws", "3"], "--draws is for the text before a suffix"),
        (["--suffix", "a", "--draws", "0"], "--draws 0: give 1 or more"),
        (["--suffix", "a", "--draws", "9999"], "draws 9,999: give at most 1,024"),
        (["--suffix", "a", "--stop", "b", "--beam", "2"], "--stop, --beam cannot be combined with a suffix"),
        (["--suffix", "a", "--save-state", "new"], "--save-state cannot be combined with a suffix"),
    ],
)
def test_flags_that_contradict_a_suffix_are_refused(
    run: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failure(capsys, "sample", run, *flags)
    assert code == 2
    assert said in err


def test_an_empty_file_is_no_suffix(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    code, err = failure(capsys, "sample", run, "--suffix-file", str(tmp_path / "empty"))
    assert code == 2
    assert "suffix is empty; give the text that follows" in err
