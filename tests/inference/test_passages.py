"""Prompts that are a place of the text, and how it really went on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from scriven.corpus import Corpus
from scriven.corpus.build import build
from scriven.events import Sampled
from scriven.inference.chunks import random_passage
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.report.terminal import TerminalReport
from scriven.settings import CorpusSettings
from scriven.settings_values import merge_settings, validate
from scriven.training.request import Request
from scriven.training.start import train

TEXT = "".join(f"{number} " for number in range(1000))
SMALL = {"model": {"width": 8, "layers": 1}, "training": {"workers": 1}, "budget": {"steps": 4}}
MONITOR = {"every_steps": 2, "prompts": ["@text", "12"], "temperatures": [0.5, 1.0], "sample_length": 9, "keep": "all"}


def corpus_of(tmp_path: Path, text: str, documents: str = "none") -> Corpus:
    (tmp_path / "text.txt").write_text(text)
    settings = CorpusSettings.model_validate({"documents": documents, "validation": 0})
    return Corpus.open(build([str(tmp_path / "text.txt")], settings))


def test_a_passage_is_of_the_text_and_of_its_seed_alone(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, TEXT)
    told = []
    for seed in ([1, 2], [1, 2], [1, 3]):
        passage = random_passage(corpus.training, seed, 40, 9)
        whole = corpus.vocabulary.decode(np.concatenate([passage.given, passage.after]))
        assert whole in TEXT
        assert len(passage.given) == 40
        assert len(passage.after) == 9 or TEXT.endswith(whole)
        told.append(whole)
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize(("text", "documents"), [("ab", "none"), ("a\nbcd\n", "lines"), ("é", "none")])
def test_a_short_text_has_passages_too(tmp_path: Path, text: str, documents: str) -> None:
    corpus = corpus_of(tmp_path, text, documents)
    for seed in range(9):
        passage = random_passage(corpus.training, [seed], 40, 9)
        assert len(passage.given) + len(passage.after) <= corpus.training.characters
        assert len(passage.given) <= 1


def test_a_passage_of_documents_is_the_beginning_of_one(tmp_path: Path) -> None:
    lines = [f"{number} is the number of line {number}" for number in range(50)]
    corpus = corpus_of(tmp_path, "\n".join(lines), "lines")
    for seed in range(9):
        passage = random_passage(corpus.training, [seed], 7, 99)
        assert corpus.vocabulary.decode(np.concatenate([passage.given, passage.after])) in lines
        assert len(passage.given) == 7


def samples(request: Request) -> list[Sampled]:
    events = consume(train(request), [FilesReport()])  # which a replay reads
    return [event for event in events if isinstance(event, Sampled)]


@pytest.mark.parametrize(("reader", "given"), [({}, 40), ({"kind": "windows", "length": 12}, 12)])
def test_samples_go_on_from_places_of_the_text(tmp_path: Path, reader: dict[str, object], given: int) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    settings = validate(merge_settings(SMALL, {"reader": reader | {"batch": 4}, "monitor": MONITOR}))
    told = samples(Request((str(tmp_path / "text.txt"),), settings, tmp_path / "run"))
    assert [each.step for each in told] == [2] * 4 + [4] * 4
    first, again, fixed = told[0], told[1], told[2]
    assert (len(first.prompt), first.prompt + first.went_on in TEXT) == (given, True)
    assert (first.prompt, first.went_on) == (again.prompt, again.went_on)  # at both temperatures
    assert (fixed.prompt, fixed.went_on) == ("12", "")
    assert first.prompt != told[4].prompt
    assert samples(Request(output=tmp_path / "run", resume=2)) == told[4:]
    assert samples(Request(replay=tmp_path / "run", output=tmp_path / "again")) == told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show_sample(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    report = TerminalReport(stream)
    for temperature in (0.5, 0.8):
        report.handle(Sampled(2, "\n\tIt was", " dark\x1b[2J", temperature, 1, " bright\n"))
    report.close()
    return stream.getvalue()


def test_what_was_given_and_what_was_written_look_different(monkeypatch: pytest.MonkeyPatch) -> None:
    told = show_sample(Terminal(), monkeypatch)
    assert "\x1b[1mIt was\x1b[0m\x1b[2m dark\\x1b[2J" in told.replace("\x1b[1m    ", "\x1b[1m")
    lines = show_sample(io.StringIO(), monkeypatch).splitlines()
    assert [line.strip() for line in lines] == [
        "the text itself:",
        "It was bright",
        "the model:",
        "temperature 0.5:",
        "It was dark\\x1b[2J",
        "It was dark\\x1b[2J",
    ]
