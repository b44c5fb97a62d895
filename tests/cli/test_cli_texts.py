"""Texts that score and evaluate read from files: in any encoding, with any line ends, marks and forms of accents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import Command
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary


def make_run(folder: Path, symbols: str, **corpus: object) -> str:
    """A run of random weights that knows these characters."""
    settings, vocabulary = validate({"model": {"width": 8, "layers": 1}, "corpus": corpus}), Vocabulary.of(symbols)
    torch.manual_seed(1)
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    run = create_run(folder, settings, vocabulary, {"texts": ["text.txt"], "corpus": "corpus"})
    run.save(
        weights, {}, {"step": 1, "characters": 9, "validation": {"nats": 2.0, "characters": 1, "bytes": 1}}, best=1
    )
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", "\n abcdefghijklmnopqrstuvwxyz.é'\"-")


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("a\nb\n", ""),
        ("ab", ""),
        ("a\r\nb\r\n", "the text has CR LF line ends, as of Windows, but the model was trained on LF; "),
        ("a\rb\r", "the text has CR line ends, as of old Macs, but the model was trained on LF; "),
        ("a\r\nb\rc\n", "the text has mixed line ends: 1 CR LF, 1 CR, 1 LF, but the model was trained on LF; "),
    ],
)
def test_line_ends_that_the_model_does_not_know_are_named(
    run: str, tmp_path: Path, command: Command, text: str, noted: str
) -> None:
    (tmp_path / "text.txt").write_text(text, newline="")
    for words in (("score",), ("evaluate",)):
        told = command(*words, run, str(tmp_path / "text.txt")).err
        assert noted in told
        assert ("line ends" in told) == bool(noted)


def test_a_byte_order_mark_is_no_part_of_a_text_that_is_read(run: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "plain.txt").write_text("a bad cab\n", encoding="utf-8")
    (tmp_path / "marked.txt").write_text("a bad cab\n", encoding="utf-8-sig")
    plain, marked = (command("score", run, str(tmp_path / f"{name}.txt")) for name in ("plain", "marked"))
    assert plain.out == marked.out
    assert "mark" not in plain.err
    assert "note: a byte order mark at the start of the text was left out\n" in marked.err
    (tmp_path / "marked too.txt").write_text("a bad cab\n", encoding="utf-8-sig")
    told = command("evaluate", run, str(tmp_path)).err
    assert "note: 2 byte order marks at the start of sources were left out\n" in told


def test_a_byte_order_mark_is_no_part_of_a_prompt(run: str) -> None:
    model = load(run)
    assert model.score("\ufeffa bad cab").nats == model.score("a bad cab").nats
    assert model.read_ids("\ufeffab").tolist() == model.read_ids("ab").tolist()
    assert model.unknown_characters("\ufeffab") == []
    marked, plain = (model.session(seed=1) for _ in range(2))
    marked.read("\ufeffa")
    plain.read("a")
    assert marked.score("bad").nats == plain.score("bad").nats
    assert marked.score("\ufeff").characters == 1  # within a text it is a character


def test_a_text_of_another_encoding_is_named_and_read(run: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes("a café – a cab\n".encode("cp1252"))
    refused = command("score", run, str(path))
    assert refused.code == 3
    assert "it is probably cp1252" in refused.err
    assert "--corpus.encoding cp1252" in refused.err
    scored = json.loads(command("score", run, str(path), "--corpus.encoding", "cp1252", "--json").out)
    assert (scored["characters"], scored["unseen"]) == (15, 1)
    assert command("score", run, str(path), "--corpus.encoding", "cp12522").code == 2


def test_accents_in_the_other_form_are_named_with_what_to_do(run: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "text.txt"
    path.write_text("cafe\u0301 cafe\u0301", "utf-8")
    told = command("score", run, str(path), "--json")
    assert "apart (NFD), and the model knows them as one (NFC); read it with --corpus.normalize nfc\n" in told.err
    assert json.loads(told.out)["unseen"] == 2
    mended = command("score", run, str(path), "--corpus.normalize", "nfc", "--json")
    assert json.loads(mended.out)["unseen"] == 0
    assert "NFC" not in mended.err
    path.write_text("caf\u00e9 \u0302 ж", "utf-8")  # unseen, and in no form known
    assert "NFC" not in command("score", run, str(path)).err
    apart = make_run(tmp_path / "apart", "acef\u0301\n")
    assert "apart (NFD); convert it, as with uconv -x nfd" in command("score", apart, str(path)).err


def test_a_prompt_is_told_of_marks_and_of_the_other_form(run: str, tmp_path: Path, command: Command) -> None:
    told = command("sample", run, "--prompt", "\ufeffcafe\u0301", "--length", "0")
    assert told.out == "cafe\u0301\n"
    assert "note: a byte order mark at the start of the prompt was left out\n" in told.err
    assert (
        "note: the prompt has letters and accents apart (NFD), and the model knows them as one (NFC); give it in NFC"
        in (told.err)
    )
    (tmp_path / "prompt.txt").write_text("caf\u00e9", "utf-8-sig")
    told = command("sample", run, "--prompt-file", str(tmp_path / "prompt.txt"), "--length", "0")
    assert told.out == "caf\u00e9\n"
    assert told.err == "note: a byte order mark at the start of the prompt was left out\n"


def test_prompts_and_texts_are_folded_as_the_corpus_was(tmp_path: Path) -> None:
    model = load(make_run(tmp_path / "plain", "\n abcdit's\"-", punctuation="ascii"))
    assert model.unknown_characters("“it’s” — a\u00a0b") == []
    assert model.score("“it’s” —").nats == model.score('"it\'s" --').nats
