"""What a training starts from: a start by name, the one that suits the text, a run, or random weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import scriven
from conftest import WORDS, Command
from scriven import starts
from scriven.corpus.build import build
from scriven.errors import InputError, UsageError
from scriven.events import Event, Finished, Started, Stepped
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.runs import open_run
from scriven.runs.start_model import StartModel
from scriven.settings import CorpusSettings, Settings
from scriven.settings_values import merge_settings, validate
from scriven.training.auto_start import known_share, mean_nats, order0_nats, start_rate
from scriven.training.request import Request
from scriven.training.start import train
from scriven.training.verify import verify_resume
from scriven.training.warm_start import similar_rows, warm_started_model
from scriven.vocabulary import Vocabulary
from small_start import MODEL, make_start, use_starts

SMALL: dict[str, Any] = {
    "budget": {"steps": 2},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "groups": 2, "threads": 1, "evaluations": 1, "precision": "fp32"},
    "monitor": {"sample_length": 0},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> starts.Start:
    """A start that has read much of what the fixture `book` has; it does not know z."""
    use_starts(tmp_path / "starts", monkeypatch)
    return make_start(tmp_path / "starts", WORDS * 20, without="z")


def begin(text: Path | str, output: Path, initial: object = None, over: dict[str, Any] | None = None) -> list[Event]:
    settings = validate(merge_settings(SMALL, over or {}))
    return follow(Request((str(text),), settings, output, initial=initial))  # type: ignore[arg-type]


def follow(request: Request) -> list[Event]:
    return list(consume(train(request), [FilesReport()]))


def first_loss(events: list[Event]) -> float:
    return next(event for event in events if isinstance(event, Stepped)).loss.nats_per_char


def notes(events: list[Event]) -> str:
    assert isinstance(events[0], Started)
    return "\n".join(events[0].notes)


def marks(events: list[Event]) -> list[str]:
    return [event.fingerprint for event in events if isinstance(event, Stepped)]


def rows_of(known: str, wanted: str, separator: str | None = None) -> dict[str, str]:
    """Which of the known characters stands for each wanted one; "" for none."""
    there, here = Vocabulary.of(known), Vocabulary.of(wanted, separator)
    rows = similar_rows(there, here)
    assert len(rows) == here.size and rows[-1] == there.unknown
    shown = ["" if row is None else chr(there.symbols[row]) for row in rows[:-1]]
    return dict(zip([*sorted(wanted), *["end"] * (separator is not None)], shown, strict=True))


def test_symbols_begin_as_the_most_similar_ones_that_are_known() -> None:
    assert rows_of("aAeE'\"-n. ", "aAéÉ’“—ñ…Ωя\u00a0") == {
        "a": "a",
        "A": "A",
        "é": "e",
        "É": "E",
        "’": "'",
        "“": '"',
        "—": "-",
        "ñ": "n",
        "…": ".",
        "Ω": "",
        "я": "",
        "\u00a0": " ",
    }
    assert rows_of("\n ", "\r\n\t\u2028") == {"\r": "\n", "\n": "\n", "\t": " ", "\u2028": "\n"}
    assert rows_of("ab", "ABÂ") == {"A": "a", "B": "b", "Â": "a"}
    assert rows_of("a\n", "a", "\n")["end"] == "\n"
    assert rows_of("a", "a", "\n")["end"] == ""


def test_bytes_are_the_same_bytes() -> None:
    rows = similar_rows(Vocabulary.of_bytes(), Vocabulary.of_bytes("\n"))
    assert rows == [*range(256), ord("\n"), 256]


def test_the_weights_are_those_of_the_start_row_by_row(tiny: starts.Start) -> None:
    vocabulary, start = Vocabulary.of("the qÉz 行", "\n"), StartModel(tiny)
    model, _ = warm_started_model(validate({"model": MODEL.model_dump()}), vocabulary, tiny.reference)
    theirs, mine = start.read_weights(), model.state_dict()
    assert torch.equal(mine["layers.0.rnn.weight_hh_l0"], theirs["layers.0.rnn.weight_hh_l0"])
    place = {chr(symbol): row for row, symbol in enumerate(start.vocabulary.symbols)}
    known = len(place)
    for name in ("embedding.weight", "head.weight", "head.bias"):
        for symbol, like in {"t": "t", "q": "q", "É": "e", " ": " "}.items():
            row = vocabulary.symbols.index(ord(symbol))
            assert torch.equal(mine[name][row], theirs[name][place[like]])
        for symbol in "z行":
            row = vocabulary.symbols.index(ord(symbol))
            assert torch.equal(mine[name][row], theirs[name][:known].mean(0))
        assert vocabulary.boundary is not None
        assert torch.equal(mine[name][vocabulary.boundary], theirs[name][place["\n"]])
        assert torch.equal(mine[name][vocabulary.unknown], theirs[name][known])


def test_tied_weights_stay_tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_starts(tmp_path, monkeypatch)
    tied = make_start(tmp_path, WORDS * 5, "tied", MODEL.model_copy(update={"tied": True}))
    settings = validate({"model": StartModel(tied).settings.model_dump()})
    model, _ = warm_started_model(settings, Vocabulary.of("the é行"), tied.reference)
    assert model.embedding is not None and model.head is not None
    assert model.embedding.weight is model.head.weight


def test_training_begins_where_the_start_ends(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    named = begin(book, tmp_path / "named", "tiny")
    assert first_loss(named) < 0.6 * first_loss(begin(book, tmp_path / "random", "none"))
    said = notes(named)
    assert "Training starts from the start tiny (learning rate 0.0025)." in said
    unknown = "The start tiny does not know 1 of the characters, which start with the weights of similar ones: 'z'"
    assert unknown in said
    run = open_run(tmp_path / "named")
    assert run.origin["initial"] == tiny.reference
    assert (run.settings.model.width, run.settings.model.layers) == (MODEL.width, MODEL.layers)
    assert run.settings.training.learning_rate == 0.0025
    assert "initial" not in open_run(tmp_path / "random").origin


@pytest.mark.parametrize(
    ("optimizer", "characters", "expected"),
    [
        ("muon", 0, 0.0025),
        ("muon", 140_000, 0.0025),
        ("muon", 1_000_000, 0.00667),
        ("muon", 9_000_000, 0.02),
        ("muon", 10**10, 0.02),
        ("adamw", 1_000_000, 0.000667),
    ],
)
def test_the_learning_rate_from_a_start_grows_with_the_text(optimizer: str, characters: int, expected: float) -> None:
    assert start_rate(optimizer, characters) == pytest.approx(expected)


def test_what_is_given_wins_over_what_a_start_brings(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    given = {"training": {"learning_rate": 0.03}, "model": {"dropout": 0.2}}
    events = begin(book, tmp_path / "run", "tiny", given)
    settings = open_run(tmp_path / "run").settings
    assert (settings.training.learning_rate, settings.model.dropout) == (0.03, 0.2)
    assert "Training starts from the start tiny." in notes(events)


def test_auto_takes_a_start_that_predicts_the_text(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    events = begin(book, tmp_path / "run", "auto")
    assert "Training starts from the start tiny, which predicts this text at" in notes(events)
    assert "--from none starts from random weights." in notes(events)
    assert open_run(tmp_path / "run").origin["initial"] == tiny.reference
    assert marks(events) == marks(begin(book, tmp_path / "named", "tiny"))


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"model": {"width": 16}}, "model.width 16 is not the start's"),
        ({"model": {"cell": "gru"}}, "model.cell 'gru' is not the start's"),
        ({"model": {"residual": True}}, "model.residual True is not the start's"),
        ({"corpus": {"unit": "byte"}}, "the text is read as bytes"),
    ],
)
def test_auto_takes_no_start_for_another_model(
    tiny: starts.Start, book: Path, tmp_path: Path, over: dict[str, Any], why: str
) -> None:
    events = begin(book, tmp_path / "run", "auto", merge_settings({"model": {"width": 24}} | {"model": {}}, over))
    assert f"Training starts from random weights, as no start suits it ({why})." in notes(events)
    assert "initial" not in open_run(tmp_path / "run").origin


def test_auto_takes_no_start_for_a_text_that_it_does_not_know(tiny: starts.Start, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("все счастливые семьи похожи друг на друга\n" * 40, encoding="utf-8")
    decided = begin(other, tmp_path / "other", "auto")
    assert "it knows 17% of the characters" in notes(decided)
    assert marks(decided) == marks(begin(other, tmp_path / "none", "none"))  # to have asked for one costs nothing
    backwards = tmp_path / "backwards.txt"
    backwards.write_text("".join(reversed(WORDS)) * 40)
    said = notes(begin(backwards, tmp_path / "backwards", "auto"))
    assert "no start suits it (it predicts the text at" in said and "bits per character, untrained)" in said


def test_auto_takes_no_start_where_more_than_its_width_would_be_made(
    tiny: starts.Start, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scriven.training.auto_start.WIDEST", 0.5)
    assert "which predicts this text at" in notes(begin(book, tmp_path / "small", "auto"))  # however long it trains
    monkeypatch.setattr("scriven.training.auto_start.LARGE_TEXT", 10)
    assert "text and budget are enough for a larger model" in notes(begin(book, tmp_path / "run", "auto"))


def test_auto_takes_the_start_that_predicts_the_text_best(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    make_start(tiny.folder.parent, "".join(reversed(WORDS)) * 20, "backward")
    begin(book, tmp_path / "run", "auto")
    assert open_run(tmp_path / "run").origin["initial"] == tiny.reference


def test_without_starts_auto_says_nothing(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_starts(tmp_path / "no-starts", monkeypatch)
    events = begin(book, tmp_path / "run", "auto")
    assert "start" not in notes(events)
    assert marks(events) == marks(begin(book, tmp_path / "none", "none"))


def test_the_environment_names_what_training_starts_from(
    tiny: starts.Start, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIVEN_FROM", "auto")
    begin(book, tmp_path / "run")
    assert open_run(tmp_path / "run").origin["initial"] == tiny.reference
    scriven.train(book, output=tmp_path / "none", initial="none", steps=1, settings={**SMALL, "budget": {}}, reports=[])
    assert "initial" not in open_run(tmp_path / "none").origin
    small = {**SMALL, "model": {"width": 24, "layers": 1}, "budget": {}}
    scriven.train(book, output=tmp_path / "recipe", recipe="char-rnn", steps=1, settings=small, reports=[])
    assert "initial" not in open_run(tmp_path / "recipe").origin  # a known system had no start


def test_a_path_is_a_run_though_a_start_has_its_name(
    tiny: starts.Start, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(book, Path("tiny"), "none", {"model": {"width": 8}})
    for number, named in enumerate((Path("tiny"), "./tiny")):
        begin(book, Path(f"run{number}"), named)
        assert open_run(f"run{number}").origin["initial"] == str(tmp_path / "tiny")
    begin(book, Path("other"), "tiny")
    assert open_run("other").origin["initial"] == tiny.reference


def test_what_does_not_exist_is_refused_before_the_text_is_read(tiny: starts.Start, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no start 'tinny'; .*did you mean tiny"):
        begin("missing.txt", tmp_path / "run", "tinny")
    with pytest.raises(InputError, match=r"no-run does not exist"):
        begin("missing.txt", tmp_path / "run", tmp_path / "no-run")
    with pytest.raises(UsageError, match="initial is empty"):
        scriven.train("missing.txt", steps=1, initial="")


def test_a_start_of_another_shape_or_unit_is_refused_by_its_name(
    tiny: starts.Start, book: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"has model\.width 24, not 8, .* drop model\.width, or give --from none$"):
        begin(book, tmp_path / "run", "tiny", {"model": {"width": 8}})
    with pytest.raises(InputError, match=r"the start tiny reads characters .* add --corpus\.unit character"):
        begin(book, tmp_path / "run", "tiny", {"corpus": {"unit": "byte"}})
    assert not (tmp_path / "run").exists()


def test_documents_start_from_a_start_that_knows_none(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    events = begin(book, tmp_path / "run", "auto", {"corpus": {"documents": "lines"}})
    assert open_run(tmp_path / "run").origin["initial"] == tiny.reference
    assert first_loss(events) < 1.5


def test_a_run_from_a_start_resumes_and_is_replayed_to_the_same_bits(
    tiny: starts.Start, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = begin(book, tmp_path / "whole", "tiny", {"budget": {"steps": 4}})
    longer = validate(merge_settings(SMALL, {"budget": {"steps": 4}}))
    first = follow(Request((str(book),), longer, tmp_path / "cut", initial="tiny", until=2))
    rest = follow(Request(output=tmp_path / "cut", resume="last"))
    assert marks(first) + marks(rest) == marks(whole)
    monkeypatch.setenv("SCRIVEN_FROM", "none")
    again = follow(Request(output=tmp_path / "again", replay=tmp_path / "whole"))
    assert marks(again) == marks(whole)
    assert isinstance(again[-1], Finished) and "all have the same bits" in " ".join(again[-1].notes)
    monkeypatch.setenv("SCRIVEN_FROM", "tiny")  # a run from random weights stays one
    begin(book, tmp_path / "random", "none")
    follow(Request(output=tmp_path / "random-again", replay=tmp_path / "random"))
    assert "initial" not in open_run(tmp_path / "random-again").origin


def test_a_replay_is_refused_if_the_start_has_changed(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    begin(book, tmp_path / "run", "tiny")
    for path in tiny.folder.iterdir():
        path.unlink()
    tiny.folder.rmdir()
    with pytest.raises(InputError, match="the start 'tiny' is not in this version"):
        follow(Request(output=tmp_path / "again", replay=tmp_path / "run"))
    make_start(tiny.folder.parent, WORDS * 7)
    with pytest.raises(InputError, match="the start tiny of this version of scriven has the hash"):
        follow(Request(output=tmp_path / "again", replay=tmp_path / "run"))
    longer = validate({"budget": {"steps": 3}})
    follow(Request(output=tmp_path / "run", resume="last", settings=longer))  # which needs no start


def test_from_goes_with_neither_resume_nor_replay(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    begin(book, tmp_path / "run", "tiny")
    with pytest.raises(UsageError, match="give one of them"):
        follow(Request(output=tmp_path / "run", resume="last", initial="auto"))
    with pytest.raises(UsageError, match="--replay takes"):
        follow(Request(output=tmp_path / "again", replay=tmp_path / "run", initial="none"))


def test_resuming_exactly_is_proven_from_a_start(
    tiny: starts.Start, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIVEN_FROM", "auto")
    verdict, settings = verify_resume(Request((str(book),), validate(merge_settings(SMALL, {"budget": {}}))), 2)
    assert verdict.equal, verdict.differences
    assert settings.model.width == MODEL.width


def test_two_workers_begin_with_the_same_bits(tiny: starts.Start, book: Path, tmp_path: Path) -> None:
    one = begin(book, tmp_path / "one", "auto")
    two = begin(book, tmp_path / "two", "auto", {"training": {"workers": 2}})
    assert marks(one) == marks(two)


def test_the_command_line_takes_names_and_says_what_it_started_from(
    tiny: starts.Start, book: Path, tmp_path: Path, command: Command
) -> None:
    small = ["--steps", "1", "--reader.batch", "4", "--monitor.sample-length", "0"]
    done = command("train", str(book), "--from", "auto", *small, "--json", "-o", str(tmp_path / "run"))
    assert done.code == 0, done.err
    started = json.loads(done.out.splitlines()[0])
    assert any("Training starts from the start tiny" in note for note in started["notes"])
    assert f"initial           {tiny.reference}" in command("info", str(tmp_path / "run")).out
    done = command("train", str(book), "--from", "", *small)
    assert done.code == 2 and "--from is empty" in done.err
    done = command("train", str(book), "--from", "tini", *small)
    assert done.code == 2 and "did you mean tiny" in done.err


def test_the_measures_of_a_text_and_of_a_start(tiny: starts.Start, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abz" * 40)
    corpus = scriven.Corpus.open(build([str(text)], CorpusSettings(validation=0)))
    assert order0_nats(corpus) == pytest.approx(1.0986, abs=1e-4)
    assert known_share(StartModel(tiny), corpus) == pytest.approx(2 / 3)
    model, _ = warm_started_model(Settings(model=MODEL), corpus.vocabulary, tiny.reference)
    assert 0 < mean_nats(model, corpus.training) < 20
    assert mean_nats(model, corpus.training) == mean_nats(model, corpus.training)
    text.write_text("a")
    single = scriven.Corpus.open(build([str(text)], CorpusSettings(validation=0)))
    assert mean_nats(model, single.training) == float("inf")


def test_a_worker_in_another_process_finds_the_same_start(tiny: starts.Start) -> None:
    code = "import sys; from scriven import starts; print(starts.from_reference(sys.argv[1]).reference)"
    done = subprocess.run([sys.executable, "-c", code, tiny.reference], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tiny.reference


def test_weights_are_pulled_towards_those_that_training_began_with(
    tiny: starts.Start, book: Path, tmp_path: Path
) -> None:
    held = begin(book, tmp_path / "held", "tiny", {"training": {"pull": 100, "learning_rate": 0.05, "warmup": 0}})
    begin(book, tmp_path / "free", "tiny", {"training": {"learning_rate": 0.05, "warmup": 0}})
    first, _ = warm_started_model(
        open_run(tmp_path / "free").settings, open_run(tmp_path / "free").vocabulary, tiny.reference
    )
    for name, value in first.state_dict().items():
        free, near = (
            open_run(tmp_path / run).checkpoint("last").weights()[name].sub(value).abs().max()
            for run in ("free", "held")
        )
        assert near <= 0.05 * free + 1e-6, name
    assert first_loss(held) > 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_a_run_that_is_pulled_resumes_to_the_same_bits_and_needs_the_start(
    tiny: starts.Start, book: Path, tmp_path: Path, optimizer: str
) -> None:
    over = {"training": {"pull": 1.0, "optimizer": optimizer}, "budget": {"steps": 4}}
    whole = begin(book, tmp_path / "whole", "tiny", over)
    assert marks(whole) != marks(begin(book, tmp_path / "free", "tiny", {**over, "training": {"optimizer": optimizer}}))
    request = Request((str(book),), validate(merge_settings(SMALL, over)), tmp_path / "cut", initial="tiny", until=2)
    first = follow(request)
    assert marks(first) + marks(follow(Request(output=tmp_path / "cut", resume="last"))) == marks(whole)
    longer = validate({"budget": {"steps": 5}})
    for path in tiny.folder.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="the start 'tiny' is not in this version"):
        follow(Request(output=tmp_path / "cut", resume="last", settings=longer))


ENGLISH = "She had been to the village that morning, and she had seen nobody there whom she could have asked about it. "
CODE = "def read(path):\n    with open(path) as file:\n        return [line.strip() for line in file if line]\n\n\n"


@pytest.mark.parametrize(
    ("text", "taken"),
    [(ENGLISH * 40, "english"), (CODE * 40, "general"), ("asdjkh qweoiu zxmnb fjgh " * 99, ""), ("0" * 3000, "")],
    ids=["English", "Python", "noise", "one character"],
)
def test_auto_takes_the_start_of_the_package_that_suits_a_text(text: str, taken: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text)
    begin(tmp_path / "text.txt", tmp_path / "run", "auto", {"budget": {"steps": 1}})
    initial = open_run(tmp_path / "run").origin.get("initial", "")
    assert initial == (starts.find(taken).reference if taken else "")
