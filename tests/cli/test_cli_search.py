"""`scriven sample` with flags that search for a text, as a user types them."""

from __future__ import annotations

import pytest
from test_cli_inference import failure, rows

from scriven.cli import main
from scriven.session import Model, load
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
