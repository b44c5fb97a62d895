"""The commands sample, score, evaluate and info, as a user types them, with a tiny model of random weights."""

from __future__ import annotations

import gzip
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scriven
from scriven.cli import main
from scriven.cli.sample import StateFiles
from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.errors import InputError
from scriven.model import CharLM
from scriven.model.cells import RecurrentLayer
from scriven.rules import Rule
from scriven.runs import create_run, open_run
from scriven.settings_values import validate
from scriven.trained_model import Model, load
from scriven.vocabulary import Vocabulary

LETTERS = "\n abcdefghijklmnopqrstuvwxyz."
TEXT = "a tiny text.\nits lines end\n\nexcept the last" * 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    settings, vocabulary = validate({"model": {"width": 8, "layers": 1}}), Vocabulary.of(LETTERS)
    corpus = build([str(folder / "text.txt")], settings.corpus, folder / "corpus")
    torch.manual_seed(1)
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    made = create_run(folder / "tiny", settings, vocabulary, {"texts": ["text.txt"], "corpus": str(corpus)})
    validation = {"nats": 20.0, "characters": 10, "bytes": 10}
    made.save(weights, {}, {"step": 1200, "characters": 34567, "validation": validation}, best=1200)
    return str(folder / "tiny")


@pytest.fixture(scope="module")
def model(run: str) -> Model:
    return load(run)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("one line\nand é\n\n\ttwo", "utf-8")
    return path


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code and message of a command that fails with nothing on standard output."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capsys.readouterr()
    assert out == ""
    assert isinstance(ended.value.code, int)
    return ended.value.code, err


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def table(text: str) -> list[dict[str, str]]:
    head, *lines = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    return [dict(zip(head, line, strict=True)) for line in lines]


# --- sample


def test_sample_prints_the_prompt_and_what_follows(run: str, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", run, "--prompt", "the ", "--length", "30", "--seed", "5", "--temperature", "0.5", "--top-k", "9"])
    out, err = capsys.readouterr()
    written = model.sample("the ", length=30, seed=5, temperature=0.5, top_k=9)
    assert out == "the " + written + ("" if written.endswith("\n") else "\n")
    assert err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_sample_on_a_terminal_has_the_prompt_in_bold(run: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    written = model.sample("the \x1b", length=9, seed=5)
    for variables, shown in (
        ({"TERM": "xterm"}, "\x1b[1mthe \\x1b\x1b[22m"),
        ({"TERM": "dumb"}, "the \\x1b"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "the \\x1b"),
    ):
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdout", stream := Terminal())
        main(["sample", run, "--prompt", "the \x1b", "--length", "9", "--seed", "5"])
        assert stream.getvalue().startswith(shown + written)


def test_sample_names_characters_never_seen(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", run, "--prompt", "Ah, é\x1b", "--length", "3"])
    out, err = capsys.readouterr()
    assert out.startswith("Ah, é\x1b")
    assert all(name in err for name in ("A (U+0041)", "é (U+00E9)", "\\x1b (U+001B)", ", (U+002C)"))
    assert "h (U+0068)" not in err


def test_sample_count_separates_texts_of_following_seeds(
    run: str, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sample", run, "--count", "3", "--length", "9", "--seed", "5", "--stop", "a", "--stop", "e"])
    shown = capsys.readouterr().out.split("----------------\n")
    expected = [model.sample(length=9, seed=seed, stop=["a", "e"]) for seed in (5, 6, 7)]
    assert [text.removesuffix("\n") for text in shown] == [text.removesuffix("\n") for text in expected]


def test_sample_json_says_how_to_get_the_same_text(run: str, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", run, "--json", "--count", "2", "--prompt", "a", "--length", "9"])
    for row in rows(capsys.readouterr().out):
        assert row["text"] == model.sample(row["prompt"], length=row["length"], seed=row["seed"])


def test_sample_by_rules(run: str, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--regex", "[a-d ]+", "--contains", "cab", "--contains", "dad", "--allow", "abcd ", "--forbid", "b"]
    assert "these contradict each other" in failure(capsys, "sample", run, "--length", "30", *flags)[1]
    main(["sample", run, "--length", "30", "--count", "3", "--seed", "4", "--json", *flags[:-2]])
    shown = rows(capsys.readouterr().out)
    rule = Rule.regex("[a-d ]+") & Rule.allow("abcd ") & Rule.contains("cab") & Rule.contains("dad")
    assert [row["text"] for row in shown] == list(model.samples(3, length=30, seed=4, rule=rule))
    assert shown[0]["rule"] == repr(rule)
    main(["sample", run, "--length", "40", "--acrostic", "be", "--rhyme", "ing", "--seed", "1"])
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert [line[0] + line[-3:] for line in lines] == ["bing", "eing"]


def test_sample_continues_from_a_state(
    run: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    main(["sample", run, "--prompt", "the ", "--length", "30", "--seed", "5", "--save-state", first])
    text = "the " + model.sample("the ", length=30, seed=5)
    assert capsys.readouterr().out in (text, text + "\n")
    main(["sample", run, "--state", first, "--length", "9", "--prompt", "an", "--seed", "2", "--save-state", second])
    more = "an" + model.sample(text + "an", length=9, seed=2)
    assert capsys.readouterr().out in (more, more + "\n")
    texts = set[str]()
    for _ in range(2):
        main(["sample", run, "--state", second, "--length", "40", "--save-state", second])
        texts.add(capsys.readouterr().out)
    assert len(texts) == 2
    for flags in (["--count", "2"], ["--json"], ["--novelty"]):
        assert f"{flags[0]}: a state is one text's" in failure(capsys, "sample", run, "--state", first, *flags)[1]
    (tmp_path / "mine").write_text("a letter")
    assert "is no saved state" in failure(capsys, "sample", run, "--save-state", str(tmp_path / "mine"))[1]
    assert "mine is" in failure(capsys, "sample", run, "--state", str(tmp_path / "mine"))[1]
    assert (tmp_path / "mine").read_text() == "a letter"
    assert "no folder" in failure(capsys, "sample", run, "--save-state", str(tmp_path / "none" / "state"))[1]
    with pytest.raises(InputError, match="is no saved state"):  # the file came while the text was written
        StateFiles(None, tmp_path / "mine").save(model.session(seed=1))
    assert (tmp_path / "mine").read_text() == "a letter"


def test_a_state_belongs_to_its_checkpoint(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, other = str(tmp_path / "state"), tmp_path / "other"
    main(["sample", run, "--length", "3", "--save-state", state])
    opened = open_run(Path(run))
    made = create_run(other, opened.settings, opened.vocabulary, {"texts": ["text.txt"], "corpus": "none"})
    torch.manual_seed(2)
    weights = CharLM(opened.settings.model, opened.vocabulary.size).state_dict()
    validation = {"nats": 20.0, "characters": 10, "bytes": 10}
    made.save(weights, {}, {"step": 1, "characters": 1, "validation": validation}, best=1)
    capsys.readouterr()
    assert "the session is of other weights" in failure(capsys, "sample", str(other), "--state", state)[1]


def test_sample_by_a_schema(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["a", "be"]}')
    flags = ["--json-schema", str(tmp_path / "schema.json"), "--length", "4"]
    assert "does not know '\"' (U+0022)" in failure(capsys, "sample", run, *flags)[1]
    (tmp_path / "schema.json").write_text('{"enum": [null, true]}')
    main(["sample", run, "--seed", "1", *flags])
    assert capsys.readouterr().out in ("null\n", "true\n")
    (tmp_path / "schema.json").write_text('{"format": "date"}')
    assert "format is not supported" in failure(capsys, "sample", run, *flags)[1]
    assert failure(capsys, "sample", run, "--json-schema", str(tmp_path / "none.json"))[0] == 3


def test_greedy_is_temperature_zero(run: str, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", run, "--greedy", "--length", "9", "--json"])
    assert rows(capsys.readouterr().out)[0]["text"] == model.sample(length=9, temperature=0)


def test_interactive_remembers_what_the_screen_shows(
    run: str, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo"))
    main(["sample", run, "--interactive", "--prompt", "zero ", "--length", "8", "--seed", "5"])
    expected, session = "", model.session(seed=5)
    session.read("zero ")
    for line in ("one\n", "two\n"):
        session.read(line)
        written = "".join(session.write(8))
        end = "" if written.endswith("\n") else "\n"
        session.read(end)
        expected += written + end
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--greedy", "--temperature", "0.5"], "--temperature"),
        (["--greedy", "--top-k", "3", "--min-p", "0.1"], "--min-p, --top-k"),
        (["--greedy", "--count", "2"], "--count 2"),
        (["--temperature", "0", "--count", "2"], "--count 2"),
        (["--interactive", "--count", "2"], "--count"),
        (["--interactive", "--json"], "--json"),
        (["--count", "0"], "--count 0"),
        (["--length", "-1"], "--length -1: give 0 or more"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["--stop", ""], "--stop is empty"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "--top-p"),
        (["--top-q", "0"], "--top-q"),
        (["--until-end"], "--until-end: this model has no documents"),
        (["--regex", "(a"], "pattern '(a', character 1: this group is never closed"),
        (["--regex", "a{9}", "--length", "8"], "the shortest text that obeys has 9 characters, and length is 8"),
        (["--contains", "é"], "the model does not know 'é' (U+00E9)"),
        (["--acrostic", ""], "acrostic is empty"),
        (["--rhyme", "a", "--stop", "b"], "--stop ends a text anywhere"),
        (["--until-end", "--count", "2"], "ends by itself"),
        (["--until-end", "--interactive"], "ends by itself"),
        (["--novelty"], "--novelty: this model has no documents"),
        (["--novelty", "--no-until-end"], "--no-until-end"),
        (["--novelty", "--until-end", "--interactive"], "--interactive"),
    ],
)
def test_sample_refuses_what_cannot_be_meant(
    run: str, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    code, message = failure(capsys, "sample", run, *flags)
    assert code == 2
    assert named in message
    assert message.count("\n") == 1


# --- score


def test_score_totals(run: str, model: Model, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = text.read_text("utf-8")
    expected = model.score(content)
    main(["score", run, str(text), "--json"])
    row = rows(capsys.readouterr().out)[0]
    assert (row["characters"], row["bytes"], row["unseen"]) == (len(content), len(content.encode()), 2)
    assert row["nats"] == pytest.approx(expected.nats)
    assert row["bits_per_char"] == pytest.approx(expected.bits_per_char)
    assert row["bits_per_byte"] == pytest.approx(expected.bits_per_byte)
    main(["score", run, str(text), "--tsv"])
    assert {"file", *table(capsys.readouterr().out)[0]} == row.keys()
    main(["score", run, str(text)])
    assert f"bits/char         {expected.bits_per_char:.4f}" in capsys.readouterr().out


def test_score_by_line_sums_up_to_the_total(
    run: str, model: Model, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", run, str(text), "--by", "line", "--json"])
    lines = rows(capsys.readouterr().out)
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert [line["characters"] for line in lines] == [9, 6, 1, 4]
    assert [line["unseen"] for line in lines] == [0, 1, 0, 1]
    assert sum(line["nats"] for line in lines) == pytest.approx(model.score(text.read_text("utf-8")).nats)


def test_score_by_character_is_a_table_that_nothing_breaks(
    run: str, model: Model, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", run, str(text), "--by", "character"])
    shown = table(capsys.readouterr().out)
    content = text.read_text("utf-8")
    assert [row["character"].encode().decode("unicode_escape") for row in shown if row["unseen"] == "0"] == [
        character for character in content if character in LETTERS
    ]
    assert [row["character"] for row in shown if row["unseen"] == "1"] == ["é", "\\t"]
    nats = model.score(content).surprisals
    assert [float(row["nats"]) for row in shown] == pytest.approx(nats.tolist(), abs=1e-5)
    assert [float(row["bits"]) for row in shown] == pytest.approx((nats / math.log(2)).tolist(), abs=1e-5)


def test_score_reads_compressed_files_and_standard_input(
    run: str, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = text.with_suffix(".txt.gz")
    packed.write_bytes(gzip.compress(text.read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    for name in (str(text), str(packed), "-"):
        main(["score", run, name])
    out = capsys.readouterr().out
    assert out == 3 * out[: len(out) // 3]


def test_score_of_invalid_utf8(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 ole")
    code, message = failure(capsys, "score", run, str(path))
    assert code == 3
    assert "byte 3" in message and "--corpus.invalid" in message
    main(["score", run, str(path), "--corpus.invalid", "replace", "--json"])
    assert rows(capsys.readouterr().out)[0]["unseen"] == 1


def test_score_of_nothing(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").touch()
    code, message = failure(capsys, "score", run, str(tmp_path / "empty.txt"))
    assert code == 3
    assert "empty" in message


@pytest.mark.parametrize("by", ["total", "line", "character"])
def test_score_refuses_two_forms(run: str, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure(capsys, "score", run, "x.txt", "--json", "--tsv", "--by", by)
    assert code == 2
    assert "--json and --tsv" in message


# --- evaluate


def test_evaluate_names_the_text_and_the_protocol(
    run: str, model: Model, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", run, str(text), "--json"])
    stream = rows(capsys.readouterr().out)[0]
    assert (stream["text"], stream["protocol"], stream["step"]) == (str(text), "stream", 1200)
    assert stream["nats"] == pytest.approx(model.score(text.read_text("utf-8")).nats)
    main(["evaluate", run, str(text), "--json", "--protocol", "window-256"])
    window = rows(capsys.readouterr().out)[0]
    assert (window["protocol"], window["characters"]) == ("window-256", stream["characters"] - 1)


def test_evaluate_reads_the_validation_text_of_the_run(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", run, "--json"])
    row = rows(capsys.readouterr().out)[0]
    assert row["text"] == f"validation text of {run}"
    assert row["characters"] == math.ceil(len(TEXT) / 10)


def test_evaluate_builds_a_corpus_again_that_is_gone(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_run(run)
    (tmp_path / "text.txt").write_text(TEXT + LETTERS, "utf-8")
    origin = {"texts": [str(tmp_path / "text.txt")], "corpus": str(tmp_path / "gone")}
    vocabulary = Vocabulary.of(LETTERS.replace("z", ""))
    other = create_run(tmp_path / "run", opened.settings, vocabulary, origin)
    weights = CharLM(other.settings.model, vocabulary.size).state_dict()
    other.save(weights, {}, {"step": 1, "characters": 2, "validation": {}}, best=1)
    code, message = failure(capsys, "evaluate", str(other.path))
    assert code == 3
    assert "other characters now" in message
    (tmp_path / "text.txt").write_text(LETTERS.replace("z", "") * 50, "utf-8")
    main(["evaluate", str(other.path), "--json"])
    out, err = capsys.readouterr()
    assert rows(out)[0]["characters"] == len(LETTERS[1:]) * 5
    assert "was gone" in err


def test_evaluate_reads_as_the_model_was_trained_and_says_where_that_is_the_only_way(
    run: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of windows with relu may overflow where its memory is carried on and on: no loss is then told."""
    opened = open_run(run)
    windows = {"kind": "windows", "length": 8, "loss": "last"}
    settings = validate({"model": {"width": 8, "layers": 1, "cell": "rnn", "activation": "relu"}, "reader": windows})
    made = create_run(tmp_path / "relu", settings, opened.vocabulary, opened.origin)
    model = CharLM(settings.model, opened.vocabulary.size)
    for layer in model.layers:
        assert isinstance(layer, RecurrentLayer)
        torch.nn.init.constant_(layer.rnn.bias_ih_l0, 1.0)
        torch.nn.init.constant_(layer.rnn.weight_hh_l0, 1.0)
    made.save(model.state_dict(), {}, {"step": 1, "characters": 2, "validation": {}}, best=1)
    text.write_text("a tiny text" * 20)
    main(["evaluate", str(made.path), str(text), "--json"])
    row = rows(capsys.readouterr().out)[0]
    assert (row["protocol"], row["characters"]) == ("last-8", 220)
    assert math.isfinite(row["nats"])
    code, message = failure(capsys, "evaluate", str(made.path), str(text), "--protocol", "stream", "--json")
    assert code == 3
    assert "--protocol last-8" in message and "nan" not in message


def test_evaluate_needs_a_character_to_foretell(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a")
    code, message = failure(capsys, "evaluate", run, str(tmp_path / "a.txt"), "--protocol", "window-256")
    assert code == 3
    assert "too short for window-256" in message


# --- documents

NAMES = "anna\nbob\r\n\ncarol\ndan\neve\nfay\nab\nba\na\nb\nc\n"


def document_run(folder: Path, corpus: dict[str, Any], text: str) -> str:
    """A run of documents with weights that end them often."""
    (folder / "text.txt").write_bytes(text.encode())
    settings = validate({"model": {"width": 8, "layers": 1}, "corpus": corpus, "reader": {"kind": "documents"}})
    made = Corpus.open(build([str(folder / "text.txt")], settings.corpus, folder / "corpus"))
    torch.manual_seed(1)
    weights = CharLM(settings.model, made.vocabulary.size).state_dict()
    weights["head.bias"][made.vocabulary.boundary] = 0.7
    origin = {"texts": ["text.txt"], "corpus": str(folder / "corpus")}
    run = create_run(folder / "run", settings, made.vocabulary, origin)
    run.save(weights, {}, {"step": 1, "characters": 2, "validation": {}}, best=1)
    return str(run.path)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    return document_run(tmp_path_factory.mktemp("names"), {"documents": "lines"}, NAMES)


def test_sample_until_end_gives_one_name_a_line(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = load(names)
    main(["sample", names, "--until-end", "--count", "20", "--seed", "3", "--length", "40"])
    out, err = capsys.readouterr()
    assert out == "".join(model.sample(length=40, seed=3 + n, until_end=True) + "\n" for n in range(20))
    assert err == ""
    main(["sample", names, "--count", "1", "--seed", "3", "--prompt", "an"])
    assert capsys.readouterr().out == "an" + model.sample("an", seed=3, until_end=True) + "\n"


def test_sample_of_lines_gives_ten_whole_ones_by_itself(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = load(names)
    main(["sample", names, "--seed", "3"])
    assert capsys.readouterr().out == "".join(model.sample(seed=3 + n) + "\n" for n in range(10))
    main(["sample", names, "--greedy"])
    assert capsys.readouterr().out == model.sample(temperature=0) + "\n"
    main(["sample", names, "--seed", "3", "--prompt", "anna\nan"])  # the items of a prompt are not repeated ten times
    assert capsys.readouterr().out == "anna\nan" + model.sample("anna\nan", seed=3) + "\n"
    main(["sample", names, "--seed", "3", "--length", "60", "--no-until-end"])
    free = model.sample(length=60, seed=3, until_end=False)
    assert "\n" in free and capsys.readouterr().out == free.removesuffix("\n") + "\n"


def test_sample_tells_how_many_names_are_in_the_list(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", names, "--until-end", "--count", "60", "--seed", "3", "--novelty", "--length", "5"]
    main([*words, "--json"])
    out, err = capsys.readouterr()
    training = Corpus.open(Path(names).parent / "corpus").training
    listed = {
        load(names).decode(training.read(int(first), int(length)))
        for first, length in zip(*training.bounds(np.arange(training.documents)), strict=True)
    }
    found = rows(out)
    assert {row["known"] for row in found} == {row["ended"] for row in found} == {True, False}
    assert all(row["known"] == (row["ended"] and row["text"] in listed) for row in found)
    count = sum(row["known"] for row in found)
    assert err == f"{count} of 60 ({100 * count / 60:.1f} %) are documents of the training text\n"
    main(words)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("".join(row["text"] + "\n" for row in found), err)


def test_a_prompt_is_part_of_the_name(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--until-end", "--novelty", "--json", "--count", "20", "--seed", "1"]
    main(["sample", names, "--prompt", "ca\na", *words])
    for row in rows(capsys.readouterr().out):
        assert row["known"] == (row["ended"] and "a" + row["text"] in {"anna", "ab", "a"})


@pytest.mark.parametrize("flags", [[], ["--until-end"]])
def test_interactive_completes_each_line(
    flags: list[str], names: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("an\nb"))
    main(["sample", names, "--interactive", *flags, "--seed", "5"])
    session, expected = load(names).session(seed=5), ""
    for line in ("an", "b"):
        session.read(line)
        expected += line + "".join(session.write(until_end=True)) + "\n"
        session.end()
    assert capsys.readouterr().out == expected


def test_score_of_lines_counts_their_ends(names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = tmp_path / "names.txt", load(names)
    path.write_bytes("anna\r\n\nbö\neve".encode())
    main(["score", names, str(path), "--json"])
    out, err = capsys.readouterr()
    (total,) = rows(out)
    assert err == "note: 1 empty line was skipped\n"
    assert (total["characters"], total["ends"], total["unseen"], total["bytes"]) == (9, 3, 1, 10)
    main(["score", names, str(path), "--by", "line", "--json"])
    lines = rows(capsys.readouterr().out)
    assert [(line["line"], line["text"]) for line in lines] == [(1, "anna"), (2, ""), (3, "bö"), (4, "eve")]
    assert (lines[1]["characters"], lines[1]["total_nats"], lines[1]["nats_per_char"]) == (0, 0, None)
    for line, name in zip([lines[0], *lines[2:]], ("anna", "bö", "eve"), strict=True):
        expected = model.score(name)
        assert line["nats"] == pytest.approx(expected.nats, rel=1e-5)
        assert line["total_nats"] == pytest.approx(expected.total_nats, rel=1e-5)
    for key in ("characters", "ends", "nats", "end_nats", "total_nats"):
        assert sum(line[key] for line in lines) == pytest.approx(total[key], rel=1e-5)
    main(["score", names, str(path), "--by", "line"])
    assert [line["line"] for line in table(capsys.readouterr().out)] == ["1", "2", "3", "4"]


def test_score_by_character_shows_where_documents_end(
    names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("ab\nc")
    main(["score", names, str(path), "--by", "character", "--json"])
    found = rows(capsys.readouterr().out)
    assert [(row["line"], row["position"], row["character"], row["end"]) for row in found] == [
        (1, 1, "a", 0),
        (1, 2, "b", 0),
        (1, 3, "", 1),
        (2, 1, "c", 0),
        (2, 2, "", 1),
    ]
    model = load(names)
    both = model.score("ab").total_nats + model.score("c").total_nats
    assert sum(row["nats"] for row in found) == pytest.approx(both, rel=1e-5)


def test_evaluate_reads_documents_where_the_run_did(
    names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("anna\nbo\n")
    exact = ["--json", "--precision", "fp32"]  # bf16 depends on how many documents are read side by side
    main(["evaluate", names, str(path), *exact])
    row = rows(capsys.readouterr().out)[0]
    assert (row["protocol"], row["characters"], row["ends"]) == ("documents", 6, 2)
    main(["evaluate", names, str(path), *exact, "--protocol", "stream"])
    assert rows(capsys.readouterr().out)[0]["total_nats"] == pytest.approx(row["total_nats"], rel=1e-5)
    main(["evaluate", names, "--json"])
    own = rows(capsys.readouterr().out)[0]
    validation = Corpus.open(Path(names).parent / "corpus").validation
    assert (own["ends"], own["characters"]) == (validation.documents, validation.characters)


def test_documents_of_several_lines(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    corpus = {"documents": "separator", "separator": "%%", "unit": "byte"}
    run = document_run(tmp_path, corpus, "a\nb%%c\nd%%é%%a\n" * 9)
    main(["score", run, str(tmp_path / "text.txt"), "--by", "line", "--json"])
    lines = rows(capsysbinary.readouterr().out.decode())
    assert [line["document"] for line in lines] == list(range(1, 29))
    assert lines[2]["characters"] == 2
    main(["sample", run, "--until-end", "--count", "3", "--length", "20"])
    assert capsysbinary.readouterr().out.count(b"----------------\n") == 2  # random bytes need not be UTF-8


def test_a_half_character_is_shown_as_its_bytes(run: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A model of bytes may write the three bytes of one by chance, on which the command once ended."""
    main(["sample", run, "--prompt", "a\udda9\udcff", "--length", "0"])
    assert capsysbinary.readouterr().out == b"a\xed\xb6\xa9\xff\n"


@pytest.mark.parametrize(("ends", "noted"), [("\n", False), ("\r\n", True)])
def test_other_line_ends_are_noted(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: str, noted: bool
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(f"a{ends}b{ends}", newline="")
    for command in ("score", "evaluate"):
        main([command, run, str(path)])
        assert ("CR LF line ends, as of Windows, but the model was trained on LF" in capsys.readouterr().err) == noted


def test_a_model_of_cr_lf_is_told_of_lf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = document_run(tmp_path, {"documents": "separator", "separator": "%%"}, "a\r\nb\r\n%%" * 20)
    assert any("CR LF line ends" in note for note in Corpus.open(tmp_path / "corpus").notes)
    for name, noted in (("other.txt", True), ("text.txt", False)):
        (tmp_path / "other.txt").write_text("a\nb\n", newline="")
        main(["score", run, str(tmp_path / name)])
        assert ("LF line ends, but the model was trained on CR LF" in capsys.readouterr().err) == noted


def test_a_model_tells_what_it_is(run: str) -> None:
    assert repr(load(run)) == f"Model(lstm 1x8, {run}, step 1200)"


def test_evaluate_by_other_protocols(run: str, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol, characters in (("last-3", 20), ("window-2", 19)):
        main(["evaluate", run, str(text), "--json", "--protocol", protocol])
        row = rows(capsys.readouterr().out)[0]
        assert (row["protocol"], row["characters"]) == (protocol, characters)
        assert "ends" not in row
    for protocol, named in (("window", "window-LENGTH"), ("documents", "knows no documents")):
        code, message = failure(capsys, "evaluate", run, str(text), "--protocol", protocol)
        assert code == 2
        assert named in message


# --- checkpoints


@pytest.mark.parametrize("words", [["sample", "--seed", "1"], ["score", "{text}"], ["evaluate", "{text}"]])
def test_another_checkpoint_can_be_used(
    run: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    opened = open_run(run)
    two = create_run(tmp_path / "two", opened.settings, opened.vocabulary, opened.origin)
    for step, best in ((1, 1), (2, 1)):
        weights = CharLM(two.settings.model, two.vocabulary.size).state_dict()
        two.save(weights, {}, {"step": step, "characters": 9, "validation": {}}, best=best)
    outputs = []
    for chosen in ([], *(["--checkpoint", which] for which in ("best", "1", "last", "2"))):
        main([words[0], str(two.path), *(word.format(text=text) for word in words[1:]), *chosen])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2] != outputs[3] == outputs[4]
    code, message = failure(capsys, "sample", str(two.path), "--checkpoint", "7")
    assert code == 3
    assert "steps 1, 2" in message


def test_a_checkpoint_is_named_by_its_epoch(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_run(run)
    other = create_run(tmp_path / "run", opened.settings.model_copy(), opened.vocabulary, opened.origin)
    other = replace(other, settings=validate({"monitor": {"keep": "all"}}))
    model = CharLM(opened.settings.model, opened.vocabulary.size)
    for step, epochs in ((10, 0.5), (20, 1 - 1e-12), (30, 1.5), (40, 17.001)):
        torch.nn.init.uniform_(model.head.weight, -step, step)  # type: ignore[union-attr]
        told = {"step": step, "epochs": epochs, "characters": 9, "validation": {"nats": 20.0, "characters": 10}}
        other.save(model.state_dict(), {}, told, best=10)
    written = {}
    for which in ("10", "20", "40", "epoch:0", "epoch:1", "epoch:17"):
        main(["sample", str(other.path), "--seed", "1", "--checkpoint", which])
        written[which] = capsys.readouterr().out
    assert [written[f"epoch:{epoch}"] for epoch in (0, 1, 17)] == [written[step] for step in ("10", "20", "40")]
    assert len(set(written.values())) == 3
    code, message = failure(capsys, "sample", str(other.path), "--checkpoint", "epoch:2")
    assert code == 3
    assert "no checkpoint of epoch 2; it has those of epochs 0, 1, 17" in message
    main(["info", str(other.path)])
    assert "step 40 (epoch 17.00): 9 characters read, validation loss 2.8854 bits/char" in capsys.readouterr().out


# --- info


def test_info_tells_about_a_run(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", run, "--json"])
    row = rows(capsys.readouterr().out)[0]
    assert (row["model"], row["symbols"], row["best_step"]) == ("lstm 1x8", len(LETTERS) + 1, 1200)
    assert row["parameters"] == sum(weight.numel() for weight in open_run(run).checkpoint("best").weights().values())
    assert row["checkpoints"] == [{"step": 1200, "epochs": None, "characters": 34567, "validation_nats_per_char": 2.0}]
    main(["info", run])
    assert "step 1,200: 34,567 characters read, validation loss 2.8854 bits/char" in capsys.readouterr().out


def test_info_of_a_damaged_checkpoint(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_run(run)
    broken = create_run(tmp_path / "run", opened.settings, opened.vocabulary, opened.origin)
    broken.save({}, {}, {"step": 7, "validation": {}}, best=7)
    main(["info", str(broken.path)])
    assert "step 7: 0 characters read, not validated" in capsys.readouterr().out
    (broken.checkpoint(7).path / "manifest.json").write_text("{")
    main(["info", str(broken.path)])
    assert "step 7: cannot read" in capsys.readouterr().out


def test_info_tells_about_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--machine", "--json"])
    row = rows(capsys.readouterr().out)[0]
    assert row["device"] in {"cpu", "cuda"}
    assert row["precision"] in {"fp32", "bf16"}
    assert row["scriven"] and row["device_because"] and row["precision_because"]
    by = "torch" if row["kernels"] == "off" else "native code"
    assert row["writing"].endswith(by) and row["scoring"].endswith(by)


@pytest.mark.parametrize("words", [["info"], ["info", "x", "--machine"]])
def test_info_needs_one_thing_to_tell_about(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure(capsys, *words)
    assert code == 2
    assert "--machine" in message


# --- all of them


@pytest.mark.parametrize("words", [["sample"], ["score", "x"], ["evaluate"], ["info"]])
def test_a_folder_that_is_no_run(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("text")
    files = [str(tmp_path / name) for name in words[1:]]
    code, message = failure(capsys, words[0], str(tmp_path), *files)
    assert code == 3
    assert "not a run folder" in message


@pytest.mark.parametrize("command", ["sample", "score", "evaluate", "info"])
def test_help_does_not_import_torch(command: str) -> None:
    program = (
        f"import sys; from scriven.cli import main; main(['{command}', '--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "folder of the run" in done.stdout


def test_a_reader_that_goes_away_is_no_error(run: str) -> None:
    """As `scriven sample RUN | head`: quiet, and it ends rather than write on."""
    command = [sys.executable, "-m", "scriven", "sample", run, "--length", "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_package_gives_what_a_library_user_needs(run: str) -> None:
    assert len(scriven.load(run).sample("a", length=3)) == 3
