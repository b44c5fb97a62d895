"""Tokens between spaces are a unit like characters: nothing is lost but white space, and the same model is trained."""

import itertools
import json
import pickle
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scriven
from live_server import serving
from scriven.cli import main
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.decoding import ReadCounts
from scriven.corpus.documents import LONGEST_TOKEN, split_document_text
from scriven.corpus.store import Corpus
from scriven.errors import InputError, UsageError
from scriven.exchange import plain_torch
from scriven.inference.boundaries import make_rule
from scriven.inference.chunks import read_chunks
from scriven.inference.novelty import _build_index
from scriven.inference.stream_decoder import make_decoder
from scriven.kernels import native_library
from scriven.server.app import make_app
from scriven.server.chat import ChatTemplate
from scriven.server.client_tokens import token_name
from scriven.settings import CorpusSettings
from scriven.tokens import MOST_TOKENS, UNKNOWN_TOKENS, tokens_of
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary
from served_models import guarded_app

TEXT = st.text("AB\u00e9\U0001f3b5 \t\n\r\x0b", max_size=40)
KNOWN = Vocabulary.of_tokens(["\n", "A", "B", "AB"])
LINES = Vocabulary.of_tokens(["A", "B", "AB"], separator="\n")
UNITS = CorpusSettings(unit="token"), CorpusSettings(unit="token", documents="lines")
PIPE = CorpusSettings(unit="token", documents="separator", separator="B")
Twins = tuple[Model, Model, list[list[float]]]
COMPRESSES = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
CHORDS = ("A", "Am", "C", "D", "Dm", "E7", "F", "G")


def slow_tokens(text: str) -> list[str]:
    """The slow and obvious way: character by character."""
    found, word = [], ""
    for character in text.replace("\r\n", "\n").replace("\r", "\n") + " ":
        if character not in " \t\n":
            word += character
            continue
        found += [word] if word else []
        found += ["\n"] if character == "\n" else []
        word = ""
    return found


def slow_text(tokens: list[str]) -> str:
    lines = " ".join(tokens).split("\n")
    return "\n".join(line.strip(" ") for line in lines)


def slow_odd_places(text: str) -> int:
    """Runs of spaces that are not one space between two tokens, and line ends that are not line feeds."""
    returns = len(re.findall("\r\n?", text))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    runs = [match.span() for match in re.finditer("[ \t]+", text)]
    plain = [text[a:b] == " " and a > 0 and b < len(text) and "\n" not in (text[a - 1], text[b]) for a, b in runs]
    return returns + plain.count(False)


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


# --- the vocabulary


@given(TEXT)
def test_ids_are_those_of_the_tokens_and_give_the_plain_form_back(text: str) -> None:
    assert tokens_of(text) == slow_tokens(text)
    for vocabulary in (KNOWN, LINES):
        ids = vocabulary.encode(text)
        assert [vocabulary.decode([each]) for each in ids] == slow_tokens(text)
        plain = slow_text(slow_tokens(text))
        assert vocabulary.decode(ids) == plain
        assert vocabulary.encode(plain).tolist() == ids.tolist()
        assert [name for name in slow_tokens(text) if name not in vocabulary.tokens] == [
            vocabulary.decode([each]) for each in ids[vocabulary.unseen(ids)]
        ]


@given(TEXT, st.integers(1, 5), st.sampled_from([KNOWN, LINES]))
def test_ids_that_come_in_pieces_give_the_same_text(text: str, size: int, vocabulary: Vocabulary) -> None:
    ids, decoder = vocabulary.encode(text), vocabulary.decoder()
    pieces = [decoder.feed(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert "".join(pieces) + decoder.flush() == vocabulary.decode(ids)


@given(TEXT, st.integers(0, 40))
def test_a_text_and_what_follows_it_join_without_loss(text: str, place: int) -> None:
    ids = KNOWN.encode(text)
    before, after = slow_text(tokens_of(text)[:place]), ids[place:]
    joined = before + KNOWN.decoder(after=before).feed(after)
    assert KNOWN.encode(joined).tolist() == ids.tolist()
    assert "  " not in joined


@given(TEXT)
def test_the_bytes_are_those_of_the_text_without_empty_lines(text: str) -> None:
    plain = slow_text(slow_tokens(text))
    lines = [line for line in plain.split("\n") if line]
    assert KNOWN.byte_lengths(KNOWN.encode(text)).sum() == sum(len(line.encode()) + 1 for line in lines)


def test_a_vocabulary_is_saved_as_a_list_of_tokens() -> None:
    for vocabulary in (KNOWN, LINES):
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert json.loads(KNOWN.to_json()) == {"unit": "token", "symbols": ["\n", "A", "AB", "B"]}
    assert repr(LINES) == "Vocabulary(3 tokens: 'A AB B', of documents)"
    many = [*map(str, range(10_000, 10_001 + MOST_TOKENS))]
    assert Vocabulary.of_tokens(many[1:]).size == MOST_TOKENS + 1
    for symbols in (["B", "A"], ["A", "A"], ["A B"], [""], [1], ["A\n"], "ABC", {"A": 1}, 3, None, many):
        with pytest.raises(InputError, match="damaged"):
            Vocabulary.from_json(json.dumps({"unit": "token", "symbols": symbols}))


def test_unknown_tokens_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scriven.tokens.KEPT_UNKNOWN", 600)
    line_end, first = LINES.encode("\n")[0], KNOWN.encode("first kept")
    numbers = set[int]()
    for number in range(300):
        text = f"new{number} \u00e9{number} A new{number}"
        ids = KNOWN.encode(text)
        assert KNOWN.decode(ids) == text
        assert KNOWN.byte_lengths(ids).sum() == len(text.encode()) + 1
        assert KNOWN.decode(KNOWN.encode("kept")) == "kept"  # what is looked up again stays
        assert not numbers.intersection(ids[:2].tolist())
        numbers.update(ids[:2].tolist())
    assert KNOWN.decode(first) == "\ufffd kept"
    assert KNOWN.byte_lengths(first).tolist() == [4, 5]
    assert KNOWN.encode("kept")[0] == first[1]
    assert KNOWN.encode("first")[0] not in {first[0], *numbers}
    assert LINES.encode("\n")[0] == LINES.line_end == line_end
    assert LINES.decode([line_end]) == "\n"
    held = len(UNKNOWN_TOKENS._young) + len(UNKNOWN_TOKENS._old)
    assert held == sum(map(len, UNKNOWN_TOKENS._names)) < 100


# --- texts


@given(TEXT, st.integers(1, 9), st.sampled_from([*UNITS, PIPE]))
def test_the_pieces_of_a_text_do_not_matter(text: str, size: int, chosen: CorpusSettings) -> None:
    vocabulary = KNOWN if chosen.documents == "none" else LINES
    found, tallies = [], []
    for pieces in ([text], pieces_of(text, size)):
        tally = ReadCounts()
        chunks = [*read_chunks(vocabulary, split_document_text(pieces, chosen, tally))]
        found.append(np.concatenate([np.empty(0, np.int64), *chunks]).tolist())
        tallies.append((tally.spaces, tally.documents, tally.empty, tally.separators))
    assert found[0] == found[1]
    assert tallies[0] == tallies[1]
    separator = {"none": "\0", "lines": "\r\n|\r|\n"}.get(chosen.documents, "B")
    documents = re.split(separator, text)
    assert tallies[0][0] == sum(map(slow_odd_places, documents))
    texts = [slow_tokens(each) for each in documents]
    end = [] if vocabulary.boundary is None else [vocabulary.boundary]
    assert found[0] == [
        each for tokens in texts if tokens for each in (*vocabulary.encode(" ".join(tokens)).tolist(), *end)
    ]


def test_a_text_without_spaces_is_refused() -> None:
    text = "\u5929" * (LONGEST_TOKEN + 1)
    for pieces in ([text, "\n"], [*text], [f"A {text} A\n"]):
        with pytest.raises(InputError, match="spaces do not separate"):
            [*split_document_text(pieces, UNITS[0])]


def test_a_long_run_of_spaces_is_not_kept() -> None:
    pieces = itertools.chain(["A"], itertools.repeat(" " * 1000, 500), ["B"])
    tally = ReadCounts()
    assert "".join(text for text, _ in split_document_text(pieces, UNITS[0], tally)) == "A B "
    assert tally.spaces == 1


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_a_corpus_counts_what_it_makes_plain_and_names_new_tokens(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", "F IH1 SH\nAm G  F\n" * 50 + "NEW ones\n")
    corpus = Corpus.open(build([name], UNITS[0], tmp_path / "corpus"))
    assert corpus.vocabulary.tokens == ("\n", "Am", "F", "G", "IH1", "SH")
    assert corpus.header.format == 3
    assert corpus.counts.spaces == 50
    assert corpus.counts.characters == 403
    assert corpus.counts.bytes == (tmp_path / "a.txt").stat().st_size - 50
    assert any("50 places" in note for note in corpus.notes)
    assert any("'NEW', 'ones'" in note for note in corpus.notes)
    end = corpus.validation.read(corpus.validation.characters - 3, 3)
    assert corpus.vocabulary.decode(end) == "NEW ones\n"
    assert corpus.verify()[0] == 2


def test_a_corpus_of_characters_has_the_format_that_it_had(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", "some text\n" * 30)
    assert Corpus.open(build([name], CorpusSettings(), tmp_path / "corpus")).header.format == 2


@pytest.mark.parametrize("settings", UNITS)
def test_parts_make_the_same_corpus(tmp_path: Path, settings: CorpusSettings) -> None:
    draw = random.Random(3)
    lines = (" ".join(draw.choices([*CHORDS, "\u00e9", "x" * 9], k=draw.randrange(9))) for _ in range(400))
    name = write(tmp_path / "a.txt", "\n".join(lines) + "\n")
    whole = build([name], settings, tmp_path / "whole")
    parts = [build_part([name], settings, tmp_path / f"part{n}", (n, 3)) for n in (1, 2, 3)]
    merged = merge(parts, tmp_path / "merged")
    for file in whole.iterdir():
        if file.name != "corpus.json":
            assert (merged / file.name).read_bytes() == file.read_bytes()
    both = [json.loads((folder / "corpus.json").read_text("utf-8")) for folder in (whole, merged)]
    assert both[0]["vocabulary"] == both[1]["vocabulary"]
    assert both[0]["counts"] == both[1]["counts"]


def test_an_alphabet_of_tokens_leaves_the_others_unknown(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", "A B C A\n" * 40)
    listed = write(tmp_path / "known.txt", "A\nB\n\\n\n")
    settings = CorpusSettings(unit="token", alphabet=listed)
    corpus = Corpus.open(build([name], settings, tmp_path / "corpus"))
    assert corpus.vocabulary.tokens == ("\n", "A", "B")
    assert corpus.header.unseen_tokens == ("C",)
    assert corpus.vocabulary.decode(corpus.training.read(0, 5)) == "A B C A\n"
    assert corpus.counts.unknown == 40
    write(tmp_path / "known.txt", "A B\n")
    with pytest.raises(InputError, match="not one token"):
        build([name], settings, tmp_path / "other")


@pytest.mark.parametrize("unseen", [["C", "C"], ["D", "C"], ["A", "C"], ["C D"]])
def test_a_header_names_each_unknown_token_once(tmp_path: Path, unseen: list[str]) -> None:
    name, listed = write(tmp_path / "a.txt", "A B C A D\n" * 40), write(tmp_path / "known.txt", "A\nB\n\\n\n")
    folder = build([name], CorpusSettings(unit="token", alphabet=listed), tmp_path / "corpus")
    header = json.loads((folder / "corpus.json").read_text("utf-8"))
    assert header["unseen_tokens"] == ["C", "D"]
    (folder / "corpus.json").write_text(json.dumps({**header, "unseen_tokens": unseen}), "utf-8")
    with pytest.raises(InputError, match="damaged"):
        Corpus.open(folder)


def test_each_token_has_a_name_of_its_own() -> None:
    spelled = ["<unk>", "<bos>", "token:<unk>", "bytes:\\x80", "\udc80", "a\udc80", "\udc81", "a", "\n", "bytes"]
    vocabulary = Vocabulary.from_json(json.dumps({"unit": "token", "symbols": sorted(spelled)}))
    names = [token_name(vocabulary, each) for each in range(vocabulary.size)]
    assert len({*names, "<bos>"}) == len(names) + 1
    assert names[vocabulary.unknown] == "<unk>"
    plain = ("a", "\n", "bytes")
    assert tuple(names[vocabulary.tokens.index(each)] for each in plain) == plain
    assert names[vocabulary.tokens.index("<unk>")] == "token:<unk>"


def test_a_copied_stretch_begins_after_the_space_before_its_first_token(twins: Twins) -> None:
    known = songs(1).splitlines()[3]
    for before, line, column in (("", 1, 1), ("zz", 1, 4), ("zz y", 1, 6), ("zz\ny", 2, 3), ("zz y\nzz", 2, 4)):
        text = f"{before} {known}".lstrip()
        stretch = twins[0].novelty(text).stretches[0]
        found = text.splitlines()[stretch.line - 1][stretch.column - 1 :]
        assert found.startswith(stretch.text)
        assert (stretch.line, stretch.column) == (line, column)


@pytest.mark.parametrize(("known", "line"), [("A\nB\n", 1), ("A\nB\n\\n\n", 3), ("A\nB\nC\n", 1)])
def test_only_a_known_line_end_ends_a_line(tmp_path: Path, known: str, line: int) -> None:
    name, listed = write(tmp_path / "a.txt", "A B C A\n" * 40), write(tmp_path / "known.txt", known)
    corpus = Corpus.open(build([name], CorpusSettings(unit="token", alphabet=listed), tmp_path / "corpus"))
    assert _build_index(corpus, tmp_path / "index", lambda done, total: None).find(12) == (12, line, 0)


def test_a_text_of_many_words_is_refused_with_the_way_out(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", " ".join(map(str, range(MOST_TOKENS + 5000))))
    with pytest.raises(InputError, match=r"different tokens.*characters"):
        build([name], CorpusSettings(unit="token", validation=0), tmp_path / "corpus")
    name = write(tmp_path / "b.txt", " ".join(map(str, range(140_000))))
    with pytest.raises(InputError, match=r"over 131,072 different tokens.*characters"):
        build([name], CorpusSettings(unit="token"), tmp_path / "corpus")


# --- units of scores, and stop strings


def test_words_are_tokens_and_line_ends_belong_to_them() -> None:
    ids = KNOWN.encode("A B\n\nA zz")
    assert make_rule(KNOWN, "word").ends(ids, last=True)[0].tolist() == [1, 4, 5]
    assert make_rule(KNOWN, "word", spaces="before").ends(ids, last=True)[0].tolist() == [1, 2, 5]
    assert make_rule(KNOWN, "line").ends(ids, last=True)[0].tolist() == [3, 4]
    with pytest.raises(UsageError, match="never divides a token"):
        make_rule(KNOWN, "word", punctuation="apart")


@given(st.lists(st.sampled_from(["\n", "A", "B", "AB"]), max_size=12), st.integers(1, 4))
def test_a_stop_string_is_compared_token_by_token(tokens: list[str], size: int) -> None:
    ids = KNOWN.encode(" ".join(tokens))
    stop = ["A", "B"]
    place = next((at for at in range(len(tokens)) if tokens[at : at + 2] == stop), None)
    pen, text, taken = make_decoder(KNOWN, ["A B"], after="B"), "", 0
    for start in range(0, len(ids), size):
        more, count = pen.feed(ids[start : start + size])
        text, taken = text + more, taken + count
        if pen.done:
            break
    text += pen.flush()
    wanted = tokens if place is None else tokens[:place]
    assert taken == (len(tokens) if place is None else place + 2)
    assert pen.stopped == (place is not None)
    assert "B" + text == slow_text(["B", *wanted])


def test_a_stop_string_needs_a_token() -> None:
    with pytest.raises(UsageError, match="one or more tokens"):
        make_decoder(KNOWN, [" "])


@pytest.mark.parametrize(
    ("separator", "stop", "ids", "taken"),
    [
        ("\n", "\n", [0, 3, 1], 2),
        ("\n", "A\n", [0, 1, 3, 0, 3, 1], 5),
        ("\n", "A\nAB", [0, 3, 0, 3, 1, 2], 5),
        ("\n", "\n\n", [3, 0, 3, 3, 1], 4),
        ("%%", "A %% B", [0, 3, 0, 0, 3, 2, 1], 6),
        ("%%", "%%", [0, 3, 1], 2),
        ("%%", "unknown", [0, 4, 3, 1], None),
        ("\n", "A unknown", [0, 4, 3, 1], None),
    ],
)
def test_a_stop_string_may_have_a_documents_end(separator: str, stop: str, ids: list[int], taken: int | None) -> None:
    vocabulary = Vocabulary.of_tokens(["A", "B", "AB"], separator=separator)
    for size in (1, 2, 9):
        pen, found = make_decoder(vocabulary, [stop]), 0
        for start in range(0, len(ids), size):
            found += pen.feed(np.array(ids[start : start + size]))[1]
        assert (found, pen.stopped) == ((taken, True) if taken else (len(ids), False))


# --- the same model by tokens and by characters


def songs(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(CHORDS, [9, 8, 7, 5, 3, 2, 1, 1], k=8)) + "\n" for _ in range(300))


PRIVATE = {token: chr(0x4E00 + place) for place, token in enumerate(sorted(CHORDS))} | {"\n": "\n"}
TOKENS = {character: token for token, character in PRIVATE.items()}


def private(text: str) -> str:
    """Returns a text with one private character in place of each token."""
    return "".join(PRIVATE[token] for token in tokens_of(text))


@pytest.fixture(scope="module", params=["none", "lines"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Two models of one text: of tokens, and of private characters in their order; and their losses."""
    folder = tmp_path_factory.mktemp("twins")
    models, losses = [], []
    for unit, text in (("token", songs(1)), ("character", private(songs(1)))):
        name = write(folder / f"{unit}.txt", text)
        corpus = {"unit": unit, "documents": request.param}
        settings = {"corpus": corpus, "model": {"width": 16, "layers": 1}, "training": {"workers": 1, "seed": 5}}
        run = scriven.train(name, steps=12, output=folder / unit, settings=settings, initial="none", reports=())
        losses.append([*run.metrics["training_bits_per_char"], run.best.nats, run.best.characters])
        models.append(scriven.load(run.path))
    return models[0], models[1], losses


def test_training_has_the_same_losses(twins: Twins) -> None:
    assert twins[2][0] == twins[2][1]
    assert len(twins[2][0]) > 10


def test_texts_are_the_same(twins: Twins) -> None:
    tokens, characters, _ = twins
    for seed, prompt in ((1, ""), (2, "C G"), (3, "Am F\nDm")):
        asked: dict[str, Any] = {"length": 60, "seed": seed, **({"until_end": False} if tokens.ends_texts else {})}
        text, other = tokens.sample(prompt, **asked), characters.sample(private(prompt), **asked)
        assert private(text) == other
        assert text.startswith(" ") == (bool(prompt) and not other.startswith("\n"))
        assert tokens.read_ids(prompt + text).tolist() == characters.read_ids(private(prompt) + other).tolist()
        assert "".join(tokens.stream(prompt, piece=3, **asked)) == text
        assert str(next(tokens.samples(2, prompt, **asked))) == text
    found = tokens.find_likeliest("C", beam=3, length=6, until_end=False if tokens.ends_texts else None)
    assert (
        private(found[0])
        == characters.find_likeliest(private("C"), beam=3, length=6, until_end=False if tokens.ends_texts else None)[0]
    )


@pytest.mark.parametrize("stop", [["\n"], ["A\n"], ["\nA", "C\n", "\nG"], ["A C"], [f"{each}\nA" for each in CHORDS]])
def test_stop_strings_are_the_same(twins: Twins, stop: list[str]) -> None:
    tokens, characters, _ = twins
    sessions, free = (tokens.session(seed=2), characters.session(seed=2)), 0
    for seed in range(4):
        asked: dict[str, Any] = {"length": 60, "seed": seed, "until_end": False}
        text = tokens.sample("C", stop=stop, **asked)
        assert private(text) == characters.sample(private("C"), stop=[*map(private, stop)], **asked)
        free += len(tokens.sample("C", **asked)) - len(text)
        wrote = "".join(sessions[0].write(60, stop=stop))
        assert private(wrote) == "".join(sessions[1].write(60, stop=[*map(private, stop)]))
        if stop == ["\n"]:
            assert not wrote.startswith(" ")  # it follows a line's end
    assert free > 0


def test_scores_are_the_same(twins: Twins) -> None:
    tokens, characters, _ = twins
    text = songs(2)[:400].rpartition("\n")[0]
    ours, theirs = tokens.score(text), characters.score(private(text))
    assert (ours.nats, ours.characters, ours.end_nats) == (theirs.nats, theirs.characters, theirs.end_nats)
    assert "bits per token" in repr(ours)
    rows = tokens.score_units(text, "word")
    assert [row["text"] for row in rows] == [each for each in tokens_of(text) if each != "\n"]
    assert sum(row["nats"] for row in rows) == pytest.approx(ours.nats)
    assert [row["nats"] for row in tokens.score_units(text, "line")] == [
        row["nats"] for row in characters.score_units(private(text), "line")
    ]


def test_unknown_tokens_cost_and_are_named(twins: Twins) -> None:
    tokens, characters, _ = twins
    score = tokens.score("C  H#\tG")
    assert score.nats == characters.score("\u4e02\u7000\u4e07").nats
    assert score.unseen == 1
    assert tokens.unknown_characters("C  H#\tG H#") == ["H#"]
    assert tokens.decode(tokens.encode("C  H#\tG")) == "C H# G"


@pytest.mark.parametrize("text", ["C G", "C G\n", "", "Am\nC"])
def test_a_session_from_a_file_knows_how_its_text_ended(twins: Twins, tmp_path: Path, text: str) -> None:
    session = twins[0].session(seed=4)
    session.read(text)
    session.save(tmp_path / "file")
    saved = scriven.load_session(tmp_path / "file", twins[0])
    pickled = pickle.loads(pickle.dumps(session))
    assert "".join(session.write(5)) == "".join(saved.write(5)) == "".join(pickled.write(5))


def test_a_session_puts_spaces_between_its_pieces(twins: Twins) -> None:
    session = twins[0].session(seed=4)
    session.read("C G")
    first = "".join(session.write(5))
    fork = session.fork()
    second = "".join(session.write(5))
    assert "".join(fork.write(5)) == second
    alone = twins[0].session(seed=4)
    alone.read("C G")
    assert "".join(alone.write(10)) == first + second
    middle = twins[0].infill("C G", "Am F", seed=1, length=4)
    assert twins[0].encode(f"C G{middle}Am F").tolist()[:2] == twins[0].encode("C G").tolist()
    assert "  " not in f"C G{middle}Am F"


def test_what_is_about_characters_is_refused(twins: Twins) -> None:
    tokens, _, _ = twins
    with pytest.raises(UsageError, match="rules are about characters"):
        tokens.sample(rule=scriven.Rule.regex("C+"), length=9)
    with pytest.raises(UsageError, match="model of tokens"):
        [*tokens.proofread("C G")]


# --- the server, exports and the command line


@pytest.fixture(scope="module")
def client(twins: Twins) -> Iterator[httpx.Client]:
    with serving(guarded_app({"songs": twins[0]})) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        yield client


def post(client: httpx.Client, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_server_writes_and_counts_tokens(client: httpx.Client, twins: Twins) -> None:
    model = twins[0]
    assert client.get("/tokenizer_info").json()["unit"] == "token"
    found = post(client, "/tokenize", prompt=" C\tG zz", return_token_strs=True)
    assert found["token_strs"] == ["C", "G", "<unk>"]
    assert found["tokens"][2] == model.vocabulary.unknown
    assert post(client, "/detokenize", tokens=found["tokens"]) == {"prompt": "C G \ufffd"}
    for prompt in ("C G", "C G ", "C G\n"):
        asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 9, "seed": 7, "temperature": 1.0, "ignore_eos": True}
        choice = post(client, "/v1/completions", logprobs=2, **asked)["choices"][0]
        keys: dict[str, Any] = {
            "length": 9,
            "seed": 7,
            "temperature": 1.0,
            **({"until_end": False} if model.ends_texts else {}),
        }
        assert choice["text"] == model.sample(prompt, **keys)
        begin = len(model.decode(model.read_ids(prompt)))
        offsets = [each - begin for each in choice["logprobs"]["text_offset"]]
        shown = [choice["text"][a:b] for a, b in itertools.pairwise([*offsets, len(choice["text"])])]
        assert [each.strip(" ") for each in shown] == choice["logprobs"]["tokens"]
        echoed = post(client, "/v1/completions", echo=True, **asked)["choices"][0]["text"]
        assert model.read_ids(echoed).tolist() == model.read_ids(prompt + choice["text"]).tolist()
        assert "  " not in echoed


def test_nothing_of_one_request_is_in_the_answer_to_another(client: httpx.Client, twins: Twins) -> None:
    vocabulary = twins[0].vocabulary
    begins = [vocabulary.size] if vocabulary.boundary is None else []  # marks the start of a text
    post(client, "/score", text="A secret-1234 C")
    post(client, "/v1/completions", prompt="A secret-1234 C", max_tokens=1, echo=True, logprobs=1)
    number = int(vocabulary.encode("secret-1234")[0])
    for symbol in (vocabulary.size, vocabulary.size + 1, min(number, (1 << 32) - 1)):
        error = post(client, "/detokenize", 400, tokens=[*begins, symbol])["error"]
        assert f"ids are below {vocabulary.size}" in error["message"]
        asked = {"prompt": [*begins, 0, symbol], "max_tokens": 1}
        for more in ({"echo": True}, {"stream": True}, {"beam": 2}, {"suffix": "C"}, {"logprobs": 1}):
            error = post(client, "/v1/completions", 400, **asked, **more)["error"]
            assert (error["param"], "secret" in str(error)) == ("prompt", False)
    echoed = post(client, "/v1/completions", prompt="secret-1234 C", max_tokens=0, echo=True)
    assert echoed["choices"][0]["text"].startswith("secret-1234 C")  # its own prompt


def test_what_follows_a_saved_state_begins_as_after_its_text(client: httpx.Client, twins: Twins) -> None:
    begins = not twins[0].ends_texts
    asked: dict[str, Any] = {"max_tokens": 1, "ignore_eos": True, "logit_bias": {str(twins[0].encode("C")[0]): 100}}
    for text, wanted in (("A C\n", "C"), ("A", " C"), ("", "C")):
        states = [post(client, "/states", text=text)["state"]]
        states.append(post(client, "/states", text="", state=states[0])["state"])
        states.append(
            post(client, "/v1/completions", prompt=text, max_tokens=0, save_state=True)["choices"][0]["state"]
        )
        if text and begins:  # else the end of the last document is read too
            states.append(post(client, "/score", text=text, save_state=True)["state"])
        file = client.get(f"/states/{states[0]}").content
        sent = client.post("/states", content=file, headers={"content-type": "application/octet-stream"})
        states.append(sent.json()["state"])
        for state in states:
            for more in ({}, {"beam": 1}):
                drawn = {name: value for name, value in asked.items() if not more or name != "logit_bias"}
                choice = post(client, "/v1/completions", state=state, **drawn, **more)["choices"][0]
                assert choice["text"].startswith(" ") == (wanted[0] == " " and choice["text"] != "\n")
                assert more or choice["text"] == wanted
    line = post(client, "/v1/completions", prompt="A", stop="\n", max_tokens=200, ignore_eos=True, save_state=True)
    (choice,) = line["choices"]
    if choice["finish_reason"] == "stop":
        assert post(client, "/v1/completions", state=choice["state"], **asked)["choices"][0]["text"] == "C"


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"beam": 2}, {"beam": 2, "stream": True}, {"n": 2}])
def test_a_stop_string_without_a_token_is_refused(client: httpx.Client, more: dict[str, Any]) -> None:
    error = post(client, "/v1/completions", 400, prompt="A", stop=["C", " \t"], max_tokens=3, **more)["error"]
    assert (error["param"], "one or more tokens" in error["message"]) == ("stop", True)
    assert post(client, "/v1/completions", prompt="A", stop=["C", ""], max_tokens=3)["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_refuses_a_stop_string_without_a_token(client: httpx.Client, stream: bool) -> None:
    asked = {"messages": [{"role": "user", "content": "A"}], "stop": " ", "max_tokens": 3, "stream": stream}
    error = post(client, "/v1/chat/completions", 400, **asked)["error"]
    assert (error["param"], "one or more tokens" in error["message"]) == ("stop", True)


@pytest.mark.parametrize("template", ["{content} {role}", "{role} {content}\n"])
def test_a_chat_needs_no_token_between_its_messages(twins: Twins, template: str) -> None:
    messages = [{"role": "C", "content": "A G"}]
    app = make_app({"songs": twins[0]}, chat_template=ChatTemplate.named(template))
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=20) as client:
        answer = post(client, "/v1/chat/completions", messages=messages, max_tokens=20)
    assert "\n" not in answer["choices"][0]["message"]["content"] or template.endswith("{role}")


def test_the_server_scores_tokens(client: httpx.Client, twins: Twins) -> None:
    text = "C  G\tAm\nF"
    score = post(client, "/score", text=text)
    assert score["nats"] == pytest.approx(twins[0].score(text).nats)
    rows = post(client, "/score", text=text, by="word")["units"]
    assert rows["text"] == ["C", "G", "Am", "F"]
    assert "spaces do not separate" in post(client, "/score", 400, text="x" * 2000 + " A")["error"]["message"]


def test_exports_read_the_same_tokens(tmp_path: Path, twins: Twins) -> None:
    model, text = twins[0], "C  G\tAm zz\nF E7"
    wanted = [*model.score(text).surprisals]
    alone = scriven.load(model.run, counts="none", precision="fp32").score(text)
    made = scriven.export_model(model.run, "torch", output=tmp_path / "torch").path
    plain = plain_torch.load(made)
    costs, ends = plain.nats(text)
    assert len(costs) == len(wanted)
    assert costs.numpy() == pytest.approx(alone.surprisals, abs=1e-4)
    assert float(ends.sum()) == pytest.approx(alone.end_nats, abs=1e-4)
    assert plain.decode(plain.encode("C  G\tAm F")) == "C G Am F"
    written = plain.sample("C G", length=5)
    assert model.decode(model.read_ids("C G" + written)) == "C G" + written
    with pytest.raises(UsageError, match="html page reads and writes characters"):
        scriven.export_model(model.run, "html", output=tmp_path / "page.html")


def test_the_command_line_counts_tokens(twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, text = twins[0].run, write(tmp_path / "few.txt", "C G\nAm\n")
    main(["score", run, text, "--by", "character"])
    table = capsys.readouterr().out.splitlines()
    assert "token" in table[0].split("\t")
    assert "C" in table[1].split("\t")
    main(["score", run, text])
    assert re.search(r"^bits/token +\d", capsys.readouterr().out, re.MULTILINE)
    main(["info", run])
    shown = capsys.readouterr().out
    assert "bits/token" in shown
    assert "like guessing among" in shown
    assert " tokens" in shown
    main(["evaluate", run, "--json"])
    assert json.loads(capsys.readouterr().out)["nats_per_char"] > 0
    main(["compare", run, run, text, text])
    assert re.search(r"^first bits/token +\d", capsys.readouterr().out, re.MULTILINE)
    main(["sample", run, "--prompt", "C G", "--length", "4", "--seed", "1"])
    assert capsys.readouterr().out.startswith("C G")


@pytest.mark.parametrize("twins", ["none"], indirect=True)
@pytest.mark.parametrize(
    "options", [["score"], ["score", "--adapt"], ["evaluate"], ["evaluate", "--protocol", "last-2"]]
)
def test_empty_lines_have_bits_per_token_but_none_per_byte(
    twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    command, *more = options
    text = write(tmp_path / "empty.txt", "\n \t\n\n")
    main([command, twins[0].run, text, "--json", *more])
    row = json.loads(capsys.readouterr().out)
    assert (row["characters"], row["bytes"], row["bits_per_byte"]) == (3, 0, None)
    main([command, twins[0].run, text, *more])
    assert "nan" not in (shown := capsys.readouterr().out)
    assert "bits/char" not in shown


@pytest.mark.parametrize("twins", ["none"], indirect=True)
def test_a_table_of_empty_lines_has_empty_cells(
    twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", twins[0].run, write(tmp_path / "empty.txt", "\n\n"), "--columns", "bits_per_byte,bytes", "--csv"])
    assert capsys.readouterr().out.splitlines()[1:] == [",0"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sample", "RUN", "--regex", "C+"], "rules are about characters"),
        (["sample", "RUN", "--choose"], "terminal|--choose shows characters"),
        (["proofread", "RUN", "FILE"], "a model of tokens"),
        pytest.param(["compress", "FILE", "--with", "RUN", "-o", "OUT"], "white space", marks=COMPRESSES),
        (["export", "RUN", "--to", "html", "-o", "OUT"], "has tokens"),
        (["score", "RUN", "FILE", "--by", "word", "--punctuation", "apart"], "never divides a token"),
    ],
)
def test_commands_about_characters_refuse_tokens(
    twins: Twins,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    error: str,
) -> None:
    names = {"RUN": twins[0].run, "FILE": write(tmp_path / "few.txt", "C G\n"), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as stopped:
        main([names.get(word, word) for word in words])
    assert stopped.value.code
    assert re.search(error, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
