"""Text in, text out, from a run folder with a tiny model of random weights."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scriven
from scriven.errors import InputError, UsageError
from scriven.inference import generation
from scriven.inference.chunks import split_text
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.sampling_settings import SamplingFilters, SamplingSettings
from scriven.session import Session
from scriven.settings import ModelSettings, Settings
from scriven.settings_values import validate
from scriven.trained_model import Model, WritingArguments, load, load_session
from scriven.vocabulary import Vocabulary
from small_model import favour

LETTERS = "\n abcdefgh.ß"
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)  # lone surrogates too


def make_run(
    path: Path,
    vocabulary: Vocabulary,
    corpus: dict[str, Any] | None = None,
    reader: dict[str, Any] | None = None,
    seed: int = 1,
) -> Path:
    settings: Settings = validate({"model": {"width": 16}, "corpus": corpus or {}, "reader": reader or {}})
    torch.manual_seed(seed)
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    run = create_run(path, settings, vocabulary, {"corpus": "none"})
    run.save(weights, {}, {"step": 3, "validation": {}}, best=3)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_run(tmp_path_factory.mktemp("runs") / "letters", Vocabulary.of(LETTERS)), precision="fp32")


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_run(tmp_path_factory.mktemp("runs") / "bytes", Vocabulary.of_bytes(), {"unit": "byte"}))


def test_the_same_seed_gives_the_same_text(model: Model) -> None:
    text = model.sample("a bad", length=80, seed=7)
    assert len(text) == 80
    assert model.sample("a bad", length=80, seed=7) == text
    assert "".join(model.stream("a bad", length=80, seed=7)) == text
    assert model.sample("a bad", length=80, seed=8) != text
    assert model.sample("a bad", length=80) != model.sample("a bad", length=80)


def test_samples_are_those_of_following_seeds(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "ROWS", 2)
    texts = list(model.samples(5, "a", length=40, seed=7, stop=["b"]))
    assert texts == [model.sample("a", length=40, seed=7 + n, stop=["b"]) for n in range(5)]


def test_pieces_are_no_longer_than_asked_for(model: Model) -> None:
    pieces = list(model.stream(length=100, seed=7, piece=5))
    assert "".join(pieces) == model.sample(length=100, seed=7)
    assert max(map(len, pieces)) <= 5
    with pytest.raises(UsageError, match="piece 0"):
        model.stream(piece=0)


def test_length_is_the_number_of_characters(model: Model) -> None:
    assert [len(model.sample(length=length)) for length in (0, 1, 17)] == [0, 1, 17]


@pytest.mark.parametrize("prompt", ["", "a", "never seen: ☃日", "a b " * 3000, "\ud800"])
def test_any_prompt_works(model: Model, prompt: str) -> None:
    assert len(model.sample(prompt, length=5)) == 5


def test_unknown_characters_are_named_once_in_order(model: Model) -> None:
    assert model.unknown_characters("a☃b日☃") == ["☃", "日"]


def test_temperature_zero_takes_the_likeliest(model: Model) -> None:
    assert model.sample(temperature=0, seed=1, length=30) == model.sample(top_k=1, seed=2, length=30)


@pytest.mark.parametrize("stop", [["b"], ["ab", "bc"], ["\n", "h", "ß"], ["ca.", "aa", "e d"], ["not there"]])
def test_the_text_ends_before_the_first_stop_string(model: Model, stop: list[str]) -> None:
    for seed in range(10):
        free = model.sample(length=60, seed=seed, temperature=1)
        ends = [(free.find(text) + len(text), free.find(text)) for text in stop if text in free]
        assert model.sample(length=60, seed=seed, temperature=1, stop=stop) == free[: min(ends)[1] if ends else None]


def test_writing_ends_with_all_that_was_drawn_read(model: Model) -> None:
    whole = model.session(seed=3)
    whole.read("a ")
    text = "".join(whole.write(50))
    pieces = model.session(seed=3)
    pieces.read("a ")
    assert "".join(pieces.write(20)) + "".join(pieces.write(30)) == text
    expected = model.session()
    expected.read("a " + text)
    assert whole.score("bad").nats == pytest.approx(expected.score("bad").nats, rel=1e-5)


def test_writing_that_is_left_early_has_read_what_was_given(model: Model) -> None:
    session = model.session(seed=3)
    pieces = session.write(50)
    text = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    expected = model.session()
    expected.read(text)
    assert session.score("bad").nats == pytest.approx(expected.score("bad").nats, rel=1e-5)


def test_a_fork_goes_on_by_itself(model: Model) -> None:
    session = model.session(seed=3)
    session.read("a bad ")
    fork = session.fork()
    text = "".join(session.write(30))
    session.read("something else")
    assert "".join(fork.write(30)) == text


def test_a_score_counts_every_character_once(model: Model) -> None:
    text = "a bad ☃\nbeß"
    score = model.score(text)
    assert (score.characters, score.bytes, score.unseen) == (len(text), len(text.encode()), 1)
    assert score.surprisals.shape == (len(text),)
    assert score.nats == pytest.approx(score.surprisals.sum())
    assert score.bits_per_char == pytest.approx(score.nats / len(text) / math.log(2))
    assert score.bits_per_byte == pytest.approx(score.nats / len(text.encode()) / math.log(2))
    assert score.surprisals[6] > math.log(1_000_000)  # the snowman


def test_scores_add_up_along_a_session(model: Model) -> None:
    text = "a bad face. he had a bag\n" * 3
    session = model.session()
    parts = [session.score(text[:5]), session.score(""), session.score(text[5:40]), session.score(text[40:])]
    np.testing.assert_allclose(
        np.concatenate([part.surprisals for part in parts]), model.score(text).surprisals, rtol=1e-4, atol=1e-5
    )


def test_nothing_scores_nothing(model: Model) -> None:
    score = model.score("")
    assert (score.nats, score.characters, score.unseen) == (0, 0, 0)
    assert math.isnan(score.bits_per_char)


def test_probabilities_of_the_first_character_sum_to_one(model: Model) -> None:
    known = sum(math.exp(-model.score(letter).nats) for letter in LETTERS)
    unseen = math.exp(-model.score("☃").nats) * (0x110000 - model.vocabulary.size)
    assert known + unseen == pytest.approx(1, rel=1e-5)


@given(text=ANY_TEXT)
def test_encode_and_decode_round_trip(model: Model, byte_model: Model, text: str) -> None:
    assert model.decode(model.encode(text)) == text
    assert byte_model.decode(byte_model.encode(text)) == text


def test_a_byte_model_writes_text(byte_model: Model) -> None:
    text = byte_model.sample("日本", length=200, seed=1)
    assert text
    text.encode()
    assert byte_model.unknown_characters("日本") == []
    assert byte_model.score("日本").characters == 6


def test_a_byte_that_is_not_utf8_is_one_byte(byte_model: Model) -> None:
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert byte_model.score(text).characters == 4
    (scored,) = byte_model.surprisals([text])
    assert byte_model.score(text).nats == pytest.approx(scored.nats.sum())
    assert byte_model.score("\ud800").characters == 3
    assert len(list(byte_model.samples(2, text, length=3, seed=1))) == 2


def test_text_is_prepared_as_the_corpus_was(tmp_path: Path) -> None:
    corpus = {"lowercase": True, "normalize": "nfc"}
    model = load(make_run(tmp_path / "run", Vocabulary.of("abé"), corpus), precision="fp32")
    assert model.unknown_characters("ABE\u0301") == []
    assert model.score("ABE\u0301").nats == model.score("abé").nats
    assert model.sample("AB", length=9, seed=1) == model.sample("ab", length=9, seed=1)


@pytest.mark.parametrize("method", [Model.stream, Model.sample, Model.samples, Session.write])
def test_signatures_name_all_sampling_settings_with_their_defaults(method: Any) -> None:
    parameters = inspect.signature(method).parameters
    for name, field in SamplingSettings.model_fields.items():
        if name not in SamplingFilters.__annotations__:  # which type checkers know, too
            assert parameters[name].default == field.default
    (others,) = [each for each in parameters.values() if each.kind is each.VAR_KEYWORD]
    assert others.annotation == "Unpack[SamplingFilters]"
    assert SamplingFilters.__annotations__.keys() <= SamplingSettings.model_fields.keys()


def test_type_checkers_know_the_arguments_of_sample() -> None:
    """The two signatures that they see name them by one type."""
    named = get_type_hints(WritingArguments)
    own = {name: named[name] for name in named if name not in SamplingFilters.__annotations__}
    keywords = inspect.signature(Model.sample).parameters.values()
    hints = get_type_hints(Model.sample)
    assert own == {each.name: hints[each.name] for each in keywords if each.kind is each.KEYWORD_ONLY}


def test_a_list_of_prompts_gives_the_texts_of_following_seeds(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "ROWS", 2)
    prompts = ["a", "", "a bad ", "h"]
    texts = model.sample(prompts, length=30, seed=7, temperature=1.5, stop=["c"])
    assert texts == [
        model.sample(each, length=30, seed=7 + n, temperature=1.5, stop=["c"]) for n, each in enumerate(prompts)
    ]
    assert model.sample([]) == []


def test_a_list_of_texts_gives_a_score_each(model: Model) -> None:
    assert model.score(["a bad", ""]) == [model.score("a bad"), model.score("")]


def test_what_is_read_between_two_pieces_is_remembered(model: Model) -> None:
    session, expected = model.session(seed=1), model.session(seed=1)
    pieces = session.write(30, piece=8)
    first = next(pieces)
    session.read("ad")
    assert first == "".join(expected.write(len(first)))
    expected.read("ad")
    assert "".join(pieces) == "".join(expected.write(30 - len(first)))
    assert session.next().tolist() == expected.next().tolist()


def test_the_next_symbol_has_the_probabilities_that_a_score_counts(model: Model) -> None:
    session = model.session()
    session.read("a ba")
    chances = session.next()
    assert (chances.shape, chances.sum()) == ((model.vocabulary.size,), pytest.approx(1))
    (letter,) = model.encode("d")
    assert -math.log(chances[letter]) == pytest.approx(session.score("d").nats, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_step_reads_one_symbol(model: Model, precision: Literal["fp32", "auto"]) -> None:
    model = load(model.run, precision=precision)
    session, whole = model.session(), model.session()
    steps = [session.step(letter) for letter in "a ba"]
    whole.read("a ba")
    rough = model.predictor.reading == "bf16"  # in which several symbols are read, and one alone is not
    np.testing.assert_allclose(steps[-1].probabilities, whole.next(), rtol=1e-2 if rough else 1e-4)
    assert [[part.shape for part in layer] for layer in steps[-1].state] == [[(16,), (16,)]] * 2
    assert np.array_equal(steps[-1].hidden, steps[-1].state[1][0])
    assert not np.array_equal(steps[0].hidden, steps[1].hidden)
    assert np.array_equal(session.fork().step(3).probabilities, session.step(model.decode([3])).probabilities)
    for wrong in ("", "ab"):
        with pytest.raises(UsageError, match="give one, or its id"):
            session.step(wrong)
    with pytest.raises(UsageError, match="symbol: -1 is no id"):
        session.step(-1)


def continue_text(session: Session) -> str:
    """What a session draws next, whatever pieces it comes in."""
    return "".join(session.write(40, temperature=1.5))


@pytest.mark.parametrize("text", ["", "a bad face"])
def test_a_session_is_saved_and_opened_again(model: Model, tmp_path: Path, text: str) -> None:
    session = model.session(seed=5)
    if text:
        session.read(text)
    session.save(tmp_path / "session")
    again, given = load_session(tmp_path / "session"), load_session(tmp_path / "session", model)
    pickled = pickle.dumps(session)
    expected = continue_text(session)
    assert continue_text(again) == continue_text(given) == continue_text(pickle.loads(pickled)) == expected
    assert pickle.loads(pickle.dumps(model)) is model


def test_pickles_name_what_stays(model: Model) -> None:
    """Whoever moves one of these leaves something in its place, or pickles of released versions no longer open."""
    parts = pickletools.genops(pickle.dumps(model.session(), 2))
    named = [str(each) for code, each, _ in parts if code.name == "GLOBAL"]
    assert sorted(each for each in named if each.startswith("scriven")) == [
        "scriven.inference.saved_session Origin",
        "scriven.session _unpickle",
        "scriven.trained_model _reopen",
    ]


def test_a_session_through_a_window_is_saved(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Vocabulary.of(LETTERS), reader={"kind": "windows", "length": 4})
    session = load(path, precision="fp32").session(seed=5)
    session.read("a bad")
    session.save(tmp_path / "session")
    assert continue_text(load_session(tmp_path / "session")) == continue_text(session)


def test_a_session_is_bound_to_its_weights(model: Model, tmp_path: Path) -> None:
    other = load(make_run(tmp_path / "run", Vocabulary.of("abc"), seed=2))
    model.session().save(tmp_path / "session")
    with pytest.raises(InputError, match="of other weights"):
        load_session(tmp_path / "session", other)
    with pytest.raises(UsageError, match="the model belongs to no run"):
        Model(model.predictor, model.settings).session().save(tmp_path / "other")


def test_a_file_that_is_no_session(model: Model, tmp_path: Path) -> None:
    weights = Path(model.run) / "checkpoints" / "step-00000003" / "model.safetensors"
    with pytest.raises(InputError, match="not a session that Scriven saved"):
        load_session(weights)
    model.session().save(tmp_path / "session")
    data = (tmp_path / "session").read_bytes()
    (tmp_path / "session").write_bytes(data.replace(b"PCG64", b"PCG65"))
    with pytest.raises(InputError, match="not a session that Scriven saved"):
        load_session(tmp_path / "session")
    (tmp_path / "session").write_bytes(data[:-5])
    with pytest.raises(InputError, match="damaged"):
        load_session(tmp_path / "session")


def test_a_score_is_coloured_text_in_a_notebook(model: Model, byte_model: Model, names: Model) -> None:
    shown = model.score("a <☃>")._repr_html_()
    assert re.search(r"<span style=.background: rgba[^>]*>[^<]*☃", shown)
    assert "&lt;" in shown
    assert "日" in byte_model.score("日")._repr_html_()
    assert "\n" in names.score("ab\nc")._repr_html_()


def test_reprs_are_for_people(model: Model) -> None:
    assert repr(model.score("a bad ☃")).startswith("Score(")
    assert "bits per character, 7 characters, 1 unseen)" in repr(model.score("a bad ☃"))
    assert repr(model.score("")) == "Score(no characters)"
    assert "bits per character, 1 character)" in repr(model.score("a"))
    state = [[(16,), (16,)], [(16,), (16,)]]
    assert repr(model.session().step("a")) == f"Step(probabilities (13,), hidden (16,), state {state})"
    assert repr(Settings(model=ModelSettings(width=3, cell="lstm"))) == "Settings(model=ModelSettings(width=3))"
    assert repr(model).startswith("Model(lstm 2x16, ")
    assert repr(model.vocabulary) == r"Vocabulary(12 characters: '\n .abcdefghß')"
    assert re.fullmatch(r"Session\(Model\(.*\), next '.*' \d+%, .*\)", repr(model.session()))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": -1}, "length -1"),
        ({"seed": -5}, "seed -5"),
        ({"stop": [""]}, "stop"),
        ({"stop": "end"}, "stop 'end'"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"min_p": 1.5}, "min_p 1.5"),
        ({"top_k": -3}, "top_k -3"),
    ],
)
def test_values_out_of_range_are_named(model: Model, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        model.sample(**arguments)
    with pytest.raises(UsageError, match=named):
        list(model.samples(2, **arguments))


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Vocabulary.of("ab"))
    before = torch.random.get_rng_state()
    load(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_do_not_fit_the_vocabulary(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Vocabulary.of("abc"))
    (path / "vocabulary.json").write_text(Vocabulary.of("ab").to_json(), "utf-8")
    with pytest.raises(InputError, match=r"vocabulary\.json has changed since step-00000003 was saved"):
        load(path)
    manifest = path / "checkpoints" / "step-00000003" / "manifest.json"
    values = json.loads(manifest.read_text("utf-8"))
    del values["run"]  # as in those of earlier versions
    manifest.write_text(json.dumps(values), "utf-8")
    with pytest.raises(InputError, match="do not fit"):
        load(path)


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    vocabulary, settings = Vocabulary.of("abc"), validate({"model": {"width": 4}})
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    weights["head.bias"][0] = math.nan
    create_run(tmp_path, settings, vocabulary, {"corpus": "c"}).save(weights, {}, {"step": 1, "validation": {}}, best=1)
    with pytest.raises(InputError, match=r"not finite.*--checkpoint"):
        load(tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        load(tmp_path)


# --- documents


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of lines that ends them often."""
    path = make_run(tmp_path_factory.mktemp("runs") / "names", Vocabulary.of("abcß", "\n"), {"documents": "lines"})
    model = load(path, precision="fp32")
    favour(model.predictor, model.vocabulary.boundary, 0.5)
    return model


def test_until_end_a_text_ends_by_itself(names: Model) -> None:
    free = names.sample("a", length=200, seed=1, until_end=False)
    assert "\n" in free
    ended = names.sample("a", length=200, seed=1)
    assert ended == names.sample("a", length=200, seed=1, until_end=True)
    assert ended == free.partition("\n")[0]
    assert "".join(names.stream("a", length=200, seed=1)) == ended
    (written,) = names.samples(1, "a", length=200, seed=1)
    assert (written, written.ended) == (ended, True)
    (cut,) = names.samples(1, "a", length=len(ended), seed=1, until_end=True)
    assert (cut, cut.ended) == (ended, False)
    again = pickle.loads(pickle.dumps(written))
    assert (again, again.ended, type(again)) == (ended, True, scriven.WrittenText)


def test_texts_until_their_ends_are_those_of_following_seeds(names: Model) -> None:
    texts = list(names.samples(70, length=30, seed=5, until_end=True, stop=["bc"]))
    assert texts == [names.sample(length=30, seed=5 + n, until_end=True, stop=["bc"]) for n in range(70)]
    assert {each.ended for each in texts} == {True, False}


def test_without_until_end_further_documents_follow(names: Model) -> None:
    documents = names.sample(length=300, seed=1, until_end=False).split("\n")
    assert len(documents) > 5
    session = names.session(seed=1)
    assert ["".join(session.write(300, until_end=True)) for _ in documents[:-1]] == documents[:-1]


def test_only_models_of_documents_end_by_themselves(model: Model) -> None:
    with pytest.raises(UsageError, match="ends by itself"):
        model.stream(until_end=True)
    with pytest.raises(UsageError, match="ends by itself"):
        list(model.samples(2, until_end=True))
    with pytest.raises(UsageError, match="ends by itself"):
        model.session().end()


def test_nothing_before_a_separator_is_remembered(names: Model) -> None:
    expected, *others = (
        names.sample(prompt, length=20, seed=1, until_end=False) for prompt in ("ab", "cab\nab", "cab\r\n\nab")
    )
    assert others == [expected] * 2
    session = names.session(seed=1)
    for piece in ("cab", "\n", "ab"):
        session.read(piece)
    assert "".join(session.write(20)) == expected
    session = names.session(seed=1)
    session.read("cab")
    session.end()
    session.read("ab")
    assert "".join(session.write(20)) == expected


def test_a_document_score_counts_its_end(names: Model) -> None:
    score = names.score("ab")
    assert (score.characters, score.ends, score.surprisals.shape) == (2, 1, (2,))
    assert score.total_nats == score.nats + score.end_nats > score.nats == pytest.approx(score.surprisals.sum())
    two = names.score("ab\n\nc☃\n")
    assert (two.characters, two.ends, two.unseen) == (4, 2, 1)
    assert two.total_nats == pytest.approx(score.total_nats + names.score("c☃").total_nats)
    assert names.score("\n\n").characters == names.score("").ends == 0


def test_a_session_counts_ends_where_separators_are(names: Model) -> None:
    session = names.session()
    begun, ended, after = session.score("a"), session.score("b\n"), session.score("ab")
    whole = names.score("ab")
    assert (begun.ends, ended.ends, after.ends) == (0, 1, 0)
    assert begun.nats + ended.total_nats == pytest.approx(whole.total_nats)
    assert after.nats == pytest.approx(whole.nats)


def test_the_end_of_a_line_is_no_unknown_character(names: Model) -> None:
    assert names.unknown_characters("ab\nz\r\n") == ["z"]


def test_text_is_split_as_the_corpus_was(tmp_path: Path) -> None:
    corpus = {"documents": "separator", "separator": "END", "lowercase": True}
    model = load(make_run(tmp_path / "run", Vocabulary.of("ab\nend", "END"), corpus), precision="fp32")
    assert split_text("A\nENDbEND", model.settings.corpus) == ["a\n", "b", ""]
    assert model.score("A\nENDb").ends == 2
    files = load(make_run(tmp_path / "files", Vocabulary.of("ab\n", "\n"), {"documents": "files"}), precision="fp32")
    assert split_text("a\nb", files.settings.corpus) == ["a\nb"]
    assert files.unknown_characters("a\nb") == []
    assert (files.score("a\nb").characters, files.score("a\nb").ends) == (3, 1)


def test_bytes_of_documents(tmp_path: Path) -> None:
    corpus = {"unit": "byte", "documents": "lines"}
    model = load(make_run(tmp_path / "run", Vocabulary.of_bytes("\n"), corpus), precision="fp32")
    score = model.score("dé\nß")
    assert (score.characters, score.bytes, score.ends) == (5, 5, 2)
    favour(model.predictor, model.vocabulary.boundary, 4)
    text = model.sample(length=200, seed=1, temperature=1, until_end=False)
    assert text.count("\n") > 9
    assert "\n" not in model.sample(length=200, seed=1, temperature=1)


def test_a_huge_file_is_no_session_and_is_not_read(tmp_path: Path) -> None:
    with (path := tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # more than any memory
    with pytest.raises(InputError, match="is not a session that Scriven saved"):
        load_session(path)
