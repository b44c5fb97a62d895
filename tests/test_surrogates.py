"""Half characters come from bytes, and go out as bytes again; nothing that may stand in a text is refused."""

import io

from hypothesis import example, given
from hypothesis import strategies as st

from scriven.runtime import WRITTEN
from scriven.vocabulary import Vocabulary

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.characters(categories=["Cs"]))
STAND_FOR_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
BYTES = Vocabulary.of_bytes()


def slowly(character: str) -> bytes:
    return character.encode("utf-8", "surrogateescape" if character in STAND_FOR_BYTES else "surrogatepass")


@given(ANY_TEXT)
def test_any_text_can_be_written(text: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "utf-8", WRITTEN, newline="\n")
    stream.write(text)
    stream.flush()
    assert written.getvalue() == b"".join(map(slowly, text))
    assert BYTES.encode_read(text).tolist() == list(written.getvalue())


@given(st.text(st.characters(exclude_characters=STAND_FOR_BYTES, exclude_categories=())))
@example("a\udda9")
def test_half_characters_that_a_model_writes_byte_by_byte_come_out_as_these_bytes(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    decoder = BYTES.decoder()
    shown = "".join(decoder.feed([byte]) for byte in data) + decoder.flush()
    assert shown.encode("utf-8", WRITTEN) == data


@given(st.binary())
def test_whatever_bytes_a_model_writes_can_be_written(data: bytes) -> None:
    assert BYTES.decode(list(data)).encode("utf-8", WRITTEN) or not data
