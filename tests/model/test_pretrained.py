"""Embeddings from files and models: whatever is written is read, whatever is wrong is named."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scriven.errors import InputError, UsageError
from scriven.model import CharLM, pretrained
from scriven.model.pretrained import Embeddings, from_rows, place, read_embeddings
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of("abc \n")
SAFE = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
SYMBOLS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")
TOKENS = st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc", "Nd"]), min_size=2, max_size=4).filter(
    lambda token: "\\" not in token and not token.replace("_", "").isdigit()
)


def make_model(**chosen: object) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelSettings.model_validate({"width": 4, **chosen}), VOCABULARY.size)


def write_file(path: Path, text: str) -> str:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return str(path)


@given(
    data=st.data(),
    width=st.integers(1, 4),
    header=st.booleans(),
    escaped=st.booleans(),
    end=st.sampled_from(["\n", " \n", "\r\n"]),
)
@SAFE
def test_what_is_written_as_text_is_read(
    tmp_path: Path, data: st.DataObject, width: int, header: bool, escaped: bool, end: str
) -> None:
    symbols = data.draw(st.lists(SYMBOLS, min_size=1, max_size=6, unique=True))
    tokens = data.draw(st.lists(TOKENS, max_size=3))
    values = torch.tensor(
        [[data.draw(st.floats(-10, 10, width=32)) for _ in range(width)] for _ in [*symbols, *tokens]]
    )
    names = [*symbols, *tokens]
    shown = [f"\\u{ord(name):04x}" if escaped and len(name) == 1 and ord(name) < 0x10000 else name for name in names]
    lines = [" ".join([name, *map(repr, row)]) for name, row in zip(shown, values.tolist(), strict=True)]
    head = f"{len(lines)} {width}{end}" if header else ""
    path = write_file(tmp_path / "vectors.txt", head + "".join(line + end for line in lines))
    found = read_embeddings(path)
    assert found.symbols == tuple(map(ord, symbols))
    assert found.skipped == len(tokens)
    assert torch.equal(found.values, values[: len(symbols)])
    assert found.width == width


@given(st.binary(max_size=60))
@SAFE
def test_any_file_is_read_or_refused_in_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(data)
    try:
        assert read_embeddings(str(path)).values.isfinite().all()
    except InputError as error:
        assert str(path) in str(error)


def test_symbols_may_be_written_as_in_python_and_the_first_of_a_symbol_counts(tmp_path: Path) -> None:
    path = write_file(tmp_path / "v.txt", "\\n 1 2\n\\\\ 3 4\n\\u2028 5 6\n\\ 7 8\n  9 10\n</s> 0 0\n")
    found = read_embeddings(path)
    assert found.symbols == (0x0A, 0x5C, 0x2028, 0x20)
    assert found.values[-1].tolist() == [9, 10]
    assert found.skipped == 2


def test_a_byte_that_is_not_utf_8_is_the_symbol_that_it_is_in_a_text(tmp_path: Path) -> None:
    assert read_embeddings(write_file(tmp_path / "v.txt", "\udcff 1 2\n")).symbols == (0xDCFF,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no embeddings"),
        ("hello\n", "no embeddings"),
        ("3 0\n", "no embeddings"),
        ("a 1 2\nb 1\n", "line 2 .* 2 finite numbers"),
        ("a 1 2\nb 1 2 3\n", "line 2 .* 2 finite numbers"),
        ("a 1 2\nlonger 1 2 3\n", "line 2 .* 2 finite numbers"),
        ("a 1 2\nb 1 x\n", "line 2 .* 2 finite numbers"),
        ("2 2\na 1 2\nb 1 nan\n", "line 3 .* 2 finite numbers"),
        ("a 1 2\nb 1e300 2\n", "line 2 .* 2 finite numbers"),
        ("3 2\na 1 2\n", "3 rows, but has 1"),
        (f"1 {'9' * 30}\na 1 2\n", "line 2 .* 1 finite numbers"),
        (f"{'9' * 5000} 2\na 1 2\n", "line 2 .* 1 finite numbers"),
        ("the 1 2\nof 1 2\n", "no embedding of a single character among 2"),
    ],
)
def test_what_is_wrong_in_a_text_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_embeddings(write_file(tmp_path / "v.txt", text))


def test_a_line_without_an_end_and_a_device_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line was read until its end, or that of the memory."""
    monkeypatch.setattr(pretrained, "LONGEST_LINE", 100)
    for text in ("a" * 300, "a 1 2\nb 1 " + "2" * 300):
        (tmp_path / "vectors").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"should be a symbol and numbers|line 2 .* must be a symbol"):
            read_embeddings(str(tmp_path / "vectors"))
    if sys.platform != "win32":
        (tmp_path / "zeros").symlink_to("/dev/zero")
        with pytest.raises(InputError, match="a pipe, a device or a socket"):
            read_embeddings(str(tmp_path / "zeros"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("v.txt", "v.safetensors"):
        with pytest.raises(InputError, match=name):
            read_embeddings(str(tmp_path / name))
    with pytest.raises(InputError, match="directory"):
        read_embeddings(str(tmp_path))


def test_safetensors_are_read(tmp_path: Path) -> None:
    path, values = str(tmp_path / "v.safetensors"), torch.randn(4, 3)
    save_file({"any": values}, path, {"symbols": json.dumps(["a", "\n", "the", "a"])})
    found = read_embeddings(path)
    assert (found.symbols, found.skipped) == ((0x61, 0x0A), 2)
    assert torch.equal(found.values, values[:2])
    assert found.width == 3


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a": torch.zeros(2, 3)}, None, "symbols"),
        ({"a": torch.zeros(2, 3)}, {"symbols": "a, b"}, "symbols"),
        ({"a": torch.zeros(2, 3)}, {"symbols": "[1, 2]"}, "symbols"),
        ({"a": torch.zeros(2, 3)}, {"symbols": '["a"]'}, "1 symbols for 2 rows"),
        ({"a": torch.zeros(2, 3)}, {"symbols": "[" * 2000}, "symbols"),
        ({"a": torch.zeros(2, 3, dtype=torch.complex64)}, {"symbols": '["a", "b"]'}, "embeddings are floating-point"),
        ({"a": torch.zeros(2)}, {"symbols": '["a", "b"]'}, "one array"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(1)}, {"symbols": '["a", "b"]'}, "one array"),
        ({"a": torch.full((2, 3), torch.inf)}, {"symbols": '["a", "b"]'}, "finite"),
        ({"a": torch.zeros(1, 3)}, {"symbols": '["the"]'}, "no embedding"),
    ],
)
def test_what_is_wrong_in_safetensors_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str
) -> None:
    save_file(tensors, tmp_path / "v.safetensors", metadata)
    with pytest.raises(InputError, match=message):
        read_embeddings(str(tmp_path / "v.safetensors"))


def test_a_file_that_only_says_that_it_is_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a safetensors file"):
        read_embeddings(write_file(tmp_path / "v.safetensors", "a 1 2\n"))


def test_embeddings_are_put_where_their_symbols_are() -> None:
    model = make_model()
    assert model.embedding is not None
    before = model.embedding.weight.detach().clone()
    values = torch.randn(3, 4)
    missing = place(model, VOCABULARY, Embeddings(tuple(map(ord, "cza")), values))
    assert list(map(chr, missing)) == ["\n", " ", "b"]
    row = {symbol: VOCABULARY.symbols.index(ord(symbol)) for symbol in "abc"}
    assert torch.equal(model.embedding.weight[row["a"]], values[2])
    assert torch.equal(model.embedding.weight[row["c"]], values[0])
    assert torch.equal(model.embedding.weight[row["b"]], before[row["b"]])
    assert torch.equal(model.embedding.weight[-1], before[-1])


def test_a_tied_output_layer_gets_them_too() -> None:
    model = make_model(tied=True)
    place(model, VOCABULARY, Embeddings((ord("a"),), torch.ones(1, 4)))
    assert model.head is not None
    assert model.head.weight[VOCABULARY.symbols.index(ord("a"))].tolist() == [1, 1, 1, 1]


def test_another_models_embeddings_are_of_its_known_symbols() -> None:
    other = Vocabulary.of("bcd", separator="\n")
    weight = torch.randn(other.size, 4)
    model = make_model()
    missing = place(model, VOCABULARY, from_rows(other, weight))
    assert list(map(chr, missing)) == ["\n", " ", "a"]
    assert model.embedding is not None
    assert torch.equal(model.embedding.weight[VOCABULARY.symbols.index(ord("b"))], weight[0])


def test_bytes_and_characters_share_ascii_only() -> None:
    found = from_rows(Vocabulary.of_bytes(), torch.randn(257, 4))
    vocabulary = Vocabulary.of("a\u00e9")
    torch.manual_seed(0)
    model = CharLM(ModelSettings(width=4), vocabulary.size)
    assert place(model, vocabulary, found) == [0xE9]


def test_embeddings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"width 3 .* 4 wide"):
        place(make_model(), VOCABULARY, Embeddings((ord("a"),), torch.zeros(1, 3)))
    with pytest.raises(InputError, match="none of the text's 5 symbols"):
        place(make_model(), VOCABULARY, Embeddings((ord("z"),), torch.zeros(1, 4)))
    with pytest.raises(UsageError, match="onehot"):
        place(make_model(input="onehot"), VOCABULARY, Embeddings((ord("a"),), torch.zeros(1, 4)))
