"""Which of some samples are documents of a text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scriven.inference import surprisal
from scriven.vocabulary import Vocabulary
from small_model import Shelf

LETTERS = Vocabulary.of("abc")
NAMES = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=12)


@given(documents=NAMES, samples=st.lists(st.text("abc", max_size=3), max_size=8), at_once=st.integers(1, 20))
def test_known_samples_are_those_among_the_documents(documents: list[str], samples: list[str], at_once: int) -> None:
    shelf = Shelf(*map(LETTERS.encode, documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surprisal, "DOCUMENTS_AT_ONCE", at_once)
        found = surprisal.find_known(shelf, [LETTERS.encode(sample) for sample in samples])
    assert found == [sample in documents for sample in samples]


def test_a_text_without_documents_knows_nothing() -> None:
    assert surprisal.find_known(Shelf(), [np.arange(3)]) == [False]
