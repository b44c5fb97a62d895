"""Validation documents that training has too are counted, said, and left out where wanted, in bounded memory."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scriven.corpus import Corpus, Part, inputs, shards
from scriven.corpus.build import build, build_part, merge
from scriven.corpus.shards import Draft, HashedDraft, are_duplicates, copy_others
from scriven.errors import UsageError
from scriven.settings_values import validate
from scriven.vocabulary import code_points

DOCUMENTS = st.lists(st.text("ab😀", min_size=1, max_size=4), max_size=12)


def make_hashed_draft(folder: Path, name: str, documents: Sequence[str], piece: int) -> HashedDraft:
    """Documents appended in pieces of so many characters."""
    made = HashedDraft(Draft(io.BytesIO(), folder / f"{name}-documents.npy"), folder / f"{name}-hashes")
    text, ends = "".join(documents), np.cumsum([len(each) for each in documents]).astype(np.int64)
    for start in range(0, len(text), piece):
        stop = start + piece
        inside = ends[(ends > start) & (ends <= stop)] - start
        made.append(code_points(text[start:stop]), inside)
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(DOCUMENTS, DOCUMENTS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_documents_are_compared_whole_whatever_the_pieces(
    tmp_path: Path, training: list[str], validation: list[str], one: int, other: int, at_once: int
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "HASHES_AT_ONCE", at_once)
        patch.setattr(shards, "BLOCK_CHARACTERS", other)
        rest = Draft(io.BytesIO(), tmp_path / "c-documents.npy")
        with (
            make_hashed_draft(tmp_path, "a", training, one) as known,
            make_hashed_draft(tmp_path, "b", validation, other) as held,
        ):
            flags = [bool(flag) for some in are_duplicates(held, known) for flag in some]
            assert flags == [document in training for document in validation]
            assert copy_others(held.draft, are_duplicates(held, known), rest) == sum(flags)
        kept = [document for document in validation if document not in training]
        assert rest.ends.documents == len(kept)
        assert "".join(chr(point) for symbols, _ in rest.read_back() for point in symbols.tolist()) == "".join(kept)


def test_hashes_differ_for_what_is_alike(tmp_path: Path) -> None:
    alike = ["a" * length for length in range(1, 200)] + ["ab", "ba", "aab", "aba", "baa", "\0", "\0\0", "\0a", "a\0"]
    with make_hashed_draft(tmp_path, "a", alike, 7) as made:
        found = np.concatenate(list(made.blocks()))
    assert len(set(found.tolist())) == len(set(alike))


NAMES = [f"name {number % 60}" for number in range(100)]  # 40 are there twice


def build_corpus(folder: Path, names: Sequence[str], **corpus: Any) -> Corpus:
    (folder / "names.txt").write_text("\n".join(names), "utf-8")
    chosen = validate({"corpus": {"documents": "lines", **corpus}}).corpus
    return Corpus.open(build([str(folder / "names.txt")], chosen))


def texts_of(corpus: Corpus, part: Part) -> list[str]:
    firsts, lengths = part.bounds(np.arange(part.documents))
    return [corpus.vocabulary.decode(part.read(first, length)) for first, length in zip(firsts, lengths, strict=True)]


@pytest.mark.parametrize("chosen", [{}, {"validation": 20}, {"validation": 0.3, "unit": "byte"}])
def test_they_are_counted_and_said_and_can_be_left_out(tmp_path: Path, chosen: dict[str, Any]) -> None:
    corpus = build_corpus(tmp_path, NAMES, **chosen)
    training, validation = texts_of(corpus, corpus.training), texts_of(corpus, corpus.validation)
    twice = [name for name in validation if name in training]
    assert corpus.counts.duplicates == len(twice) > 0
    assert (
        f"{len(twice)} of {len(validation)} validation documents are also in the training text, word for word, so the "
        "validation loss is too low; leave them out with --corpus.duplicates drop"
    ) in corpus.notes
    dropped = build_corpus(tmp_path, NAMES, duplicates="drop", **chosen)
    assert texts_of(dropped, dropped.training) == training
    assert texts_of(dropped, dropped.validation) == [name for name in validation if name not in training]
    assert dropped.counts.documents == corpus.counts.documents - len(twice)
    assert (
        f"{len(twice)} of {len(validation)} validation documents were left out, as they are also in the training text"
        in dropped.notes
    )
    dropped.verify()
    assert not [path for path in Path(dropped.name).iterdir() if "hashes" in path.name or "first" in path.name]


def test_a_validation_file_is_compared_too_and_parts_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PIECE_BYTES", 5)
    (tmp_path / "held.txt").write_text("name 3\nsomeone\nname 7", "utf-8")
    held = str(tmp_path / "held.txt")
    assert build_corpus(tmp_path, NAMES, validation_file=held).counts.duplicates == 2
    for policy in ("keep", "drop"):
        texts = [str(tmp_path / "names.txt")]
        chosen = build_corpus(tmp_path, NAMES, validation_file=held, duplicates=policy).settings
        corpus = Corpus.open(build(texts, chosen, tmp_path / f"{policy}-whole"))  # whose key is of the file of now
        parts = [build_part(texts, chosen, tmp_path / f"{policy}-{n}", (n, 3)) for n in (1, 2, 3)]
        merged = merge(parts, tmp_path / policy)
        for path in Path(corpus.name).iterdir():
            assert (merged / path.name).read_bytes() == path.read_bytes()
    assert texts_of(corpus, corpus.validation) == ["someone"]


def test_where_none_is_left_it_is_said(tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path, ["anna"] * 30, duplicates="drop")
    assert corpus.validation.documents == corpus.validation.characters == 0
    assert (
        "3 of 3 validation documents were left out, as they are also in the training text; none is left, so give a "
        "--corpus.validation-file"
    ) in corpus.notes
    assert build_corpus(tmp_path, ["a", "b", "c"]).counts.duplicates == 0


@pytest.mark.parametrize("chosen", [{"documents": "none"}, {"validation": 0}])
def test_without_documents_that_validate_there_is_nothing_to_drop(tmp_path: Path, chosen: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"corpus.duplicates drop would do nothing"):
        build_corpus(tmp_path, NAMES, duplicates="drop", **chosen)
