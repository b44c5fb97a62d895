"""Networks that other programs trained, and the run that Scriven makes of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from scriven.arguments import ImportedUnit
from scriven.arrays import Float32s
from scriven.corpus.inputs import read_entries, read_utf8
from scriven.errors import InputError, UsageError
from scriven.kernels.native_library import level
from scriven.model.shapes import GATES, weight_shapes
from scriven.runs.claim import check_new_run, create_run
from scriven.runs.folder import IMPORTED, Run
from scriven.safe_files import create_folder
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary, byte_values

SYMBOL_NAMES = ("symbols", "chars", "vocab", "itos", "stoi", "idx_to_token", "token_to_idx")  # of lists of symbols
BRACKETED = re.compile(r"\[(12[89]|1[3-9]\d|2[0-4]\d|25[0-5])\]")  # a byte above 127, as torch-rnn writes it
MOST_UNPACKED = 10  # bytes in memory for each one of a file; weights can hardly be compressed
NONE = -1  # the place of `<unk>`, which is the last
MOVING = "A run of Scriven itself is moved with scriven pack and scriven unpack"
UNKNOWN_NATS = 30.0  # how much less likely `<unk>` is than the likeliest symbol of all: too little to change another


@dataclass(frozen=True)
class ForeignLayer:
    """A recurrent layer in torch's layout, G blocks of H rows by gate in the order of GATES; D is its input's width."""

    weight_ih: Float32s  # (G*H, D)
    weight_hh: Float32s  # (G*H, H)
    bias_ih: Float32s  # (G*H,)
    bias_hh: Float32s  # (G*H,)
    activation: str = "tanh"

    @property
    def width(self) -> int:
        """The number of its units, H."""
        return int(self.weight_hh.shape[1])


@dataclass(frozen=True)
class ForeignModel:
    """A network of another program, with C symbols, in the order of that program's ids."""

    program: str  # which made it
    cell: str
    embedding: Float32s | None  # (C, D); None if the first layer reads one-hot vectors
    layers: Sequence[ForeignLayer]
    head_weight: Float32s  # (C, H)
    head_bias: Float32s  # (C,)
    symbols: Sequence[Any] | None = None  # if the file has them, as they are in it
    window: int = 0  # characters that the model reads from a zero state for each that it predicts; 0: all of them

    def check(self) -> None:
        """Raises InputError unless the shapes fit one another and all numbers are finite."""
        gates = len(GATES[self.cell])
        before, size = (self.head_bias.shape[0] if self.embedding is None else self.embedding.shape[-1]), None
        for depth, layer in enumerate(self.layers, 1):
            rows, size = gates * layer.width, layer.width
            for name, wanted in {
                "weight_ih": (rows, before),
                "weight_hh": (rows, size),
                "bias_ih": (rows,),
                "bias_hh": (rows,),
            }.items():
                if (found := getattr(layer, name).shape) != wanted:
                    raise _unfit(f"{name} of recurrent layer {depth} is {list(found)}, and {list(wanted)} would fit")
            before = size
        symbols = self.head_weight.shape[0]
        if self.head_weight.shape != (symbols, before) or self.head_bias.shape != (symbols,):
            raise _unfit(f"its output layer is {list(self.head_weight.shape)}, and its last layer is {before} wide")
        if self.embedding is not None and len(self.embedding) != symbols:
            raise _unfit(f"it reads {len(self.embedding):,} symbols, and predicts {symbols:,}")
        if not all(np.isfinite(each).all() for each in self._arrays()):
            raise InputError("a weight is no finite number, so the model predicts nothing; use an earlier checkpoint")

    def _arrays(self) -> list[Float32s]:
        layers = [each for layer in self.layers for each in (layer.weight_ih, layer.weight_hh, layer.bias_ih)]
        own = [*layers, *(layer.bias_hh for layer in self.layers), self.head_weight, self.head_bias]
        return own if self.embedding is None else [*own, self.embedding]


@dataclass(frozen=True)
class Symbols:
    """The characters of a foreign model's ids 0, 1, 2, ...; with the unit byte, U+0000 to U+00FF are the bytes."""

    characters: tuple[str, ...]
    source: str = field(compare=False)  # for messages
    unit: ImportedUnit = "character"

    def order(self, count: int) -> list[int]:
        """Returns the foreign id of each symbol of the vocabulary, NONE for a byte that the model does not know.

        Raises InputError unless there are `count`, each of one character and standing once.
        """
        for number, each in enumerate(self.characters):
            if len(each) != 1:
                raise InputError(
                    f"symbol {number} of {self.source} is {each[:40]!r}, and a model of Scriven has symbols of one "
                    "character; it holds no words or pieces of words"
                )
        if len({*self.characters}) < len(self.characters):
            twice = next(each for each in self.characters if self.characters.count(each) > 1)
            raise InputError(f"{self.source} has {twice!r} twice, and each symbol has one number; correct it")
        if len(self.characters) != count:
            raise InputError(
                f"{self.source} has {len(self.characters):,} symbols, and the model predicts {count:,}; give the "
                "vocabulary or the text that it was trained with. A model that Scriven exported also predicts <unk>. "
                f"{MOVING}"
            )
        numbers = {ord(each): number for number, each in enumerate(self.characters)}
        return [numbers.get(symbol, NONE) for symbol in self.vocabulary.symbols]

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the run."""
        return Vocabulary.of_bytes() if self.unit == "byte" else Vocabulary.of("".join(self.characters))


def find_symbols(
    model: ForeignModel,
    vocabulary: Path | None,
    text: Path | None,
    *,
    lowercase: bool,
    unit: ImportedUnit = "character",
) -> Symbols:
    """Returns the symbols of a foreign model: those of a file, of the text that it was trained on, or its own.

    With the unit byte its numbers are the bytes. Raises UsageError unless there is one source of symbols; InputError if
    it cannot be read.
    """
    if vocabulary is not None and text is not None:
        raise UsageError("--vocabulary and --text both give the symbols; give one of them")
    if unit == "byte":
        if vocabulary is not None or text is not None:
            raise UsageError("--unit byte says that the model's numbers are the bytes; drop --vocabulary and --text")
        return Symbols(tuple(map(chr, range(256))), "the list of all bytes", "byte")
    if vocabulary is not None:
        return read_symbols(vocabulary)
    if text is not None:
        return symbols_of_text(text, lowercase=lowercase)
    if model.symbols is None:
        raise UsageError(
            f"a file of {model.program} does not tell which character a number stands for; give --vocabulary FILE with "
            "the symbols in order, --text FILE, the text that it was trained on, or --unit byte"
        )
    return _make_symbols(model.symbols, "the model's vocabulary")


def _make_symbols(entries: Sequence[Any], source: str) -> Symbols:
    """Returns the symbols of a list. They are bytes if some are as torch-rnn writes bytes above 127, or such bytes.

    Raises InputError for other symbols among bytes in brackets.
    """
    names = tuple(map(_name_of, entries))
    values = [_value_of_byte(each) for each in names]
    bytes_alone = [value for value in values if value is not None]
    if len(bytes_alone) < len(names) and any(map(BRACKETED.fullmatch, names)):
        number = values.index(None)
        raise InputError(
            f"symbol {number} of {source} is {names[number][:40]!r}, and others of it are bytes; correct it"
        )
    if len(bytes_alone) < len(names) or max(bytes_alone, default=0) < 128:  # all ASCII
        return Symbols(names, source)
    return Symbols(tuple(map(chr, bytes_alone)), source, "byte")


def _name_of(entry: Any) -> str:
    """Returns a symbol as text. For anything but text and digits, which a hostile file may have, names its type."""
    digit = type(entry) is int and 0 <= entry <= 9
    return str(entry) if isinstance(entry, str) or digit else f"<{type(entry).__name__}>"


def _value_of_byte(name: str) -> int | None:
    """Returns the byte that a symbol stands for, if it can be one."""
    if found := BRACKETED.fullmatch(name):
        return int(found[1])
    spelled = byte_values(name)
    return int(spelled[0]) if len(spelled) == 1 else None


def read_symbols(path: Path) -> Symbols:
    """Reads the symbols in a JSON file or plain text, in the order of their ids.

    JSON may be a list of symbols, an object of symbols and ids, either way round, or an object with one of these under
    a usual name, as torch-rnn writes it. Plain text has a symbol on each line. Raises InputError.
    """

    def _choose(values: Any) -> list[Any] | None:
        found = entries_of(values)
        if found is None and isinstance(values, dict):
            raise InputError(f"{path}: the symbols' numbers are not 0, 1, 2, ..., each once; correct it")
        return found

    return _make_symbols([*read_entries(path, _choose)], str(path))


def symbols_of_text(path: Path, *, lowercase: bool) -> Symbols:
    """Returns the distinct characters of a text in the order of their code points, as Keras's examples number them.

    Raises InputError if it cannot be read as UTF-8.
    """
    text = read_utf8(path, "the text").replace("\r\n", "\n").replace("\r", "\n")  # as Python's open reads it
    return Symbols(tuple(sorted({*(text.lower() if lowercase else text)})), f"the text {path}")


def entries_of(values: Any) -> list[Any] | None:
    """Returns the symbols in a JSON value, in the order of their ids, or None for another kind of value."""
    if isinstance(values, list):
        return values
    if not isinstance(values, dict):
        return None
    for name in SYMBOL_NAMES:
        if isinstance(values.get(name), list | dict):
            return entries_of(values[name])
    if all(isinstance(each, int) for each in values.values()):
        return _in_order({number: symbol for symbol, number in values.items()}, len(values))
    if all(str(key).isdecimal() for key in values):
        return _in_order({int(key): symbol for key, symbol in values.items()}, len(values))
    return None


def _in_order(symbols: Mapping[int, Any], count: int) -> list[Any] | None:
    """Returns symbols by their ids, or None unless these are `count` numbers from 0 or 1 on."""
    numbers = sorted(symbols)
    first = numbers[0] if numbers and numbers[0] == 1 else 0
    return [symbols[each] for each in numbers] if numbers == [*range(first, first + count)] else None


def write_imported(model: ForeignModel, symbols: Symbols, folder: Path, *, lowercase: bool = False) -> Run:
    """Makes a run of a foreign model in a new folder. Returns it.

    The run computes what the model does. Its vocabulary has `<unk>` besides, which is exp(-UNKNOWN_NATS) times as
    likely as the symbol of the largest bias, so that it takes nothing from others. Narrower layers are filled up with
    units whose weights, and so whose states, are zero. Raises InputError if the model or its symbols do not fit;
    UsageError if the folder's name is taken.
    """
    model.check()
    order, vocabulary = symbols.order(len(model.head_bias)), symbols.vocabulary
    settings = _settings_of(model, lowercase=lowercase, unit=symbols.unit)
    weights = _weights_of(model, order)
    shapes = weight_shapes(settings.model, vocabulary.size)
    assert {name: each.shape for name, each in weights.items()} == shapes
    check_new_run(folder)
    origin = {"texts": [], "corpus": "", "scriven": version("scriven"), "kernels": level()}
    with create_folder(folder) as work:
        made = create_run(work, settings, vocabulary, origin | {IMPORTED: model.program})
        made.save(weights, {}, {"step": 0, "validation": {}}, best=0)
    return Run(folder, made.settings, made.vocabulary, made.origin, made.setting_seals)


def _settings_of(model: ForeignModel, *, lowercase: bool, unit: ImportedUnit) -> Settings:
    read = {"kind": "windows", "length": model.window} if model.window else {"kind": "stream"}
    two_biases = any(layer.bias_hh.any() for layer in model.layers)
    network = {
        "cell": model.cell,
        "width": max(layer.width for layer in model.layers),
        "layers": len(model.layers),
        "activation": ",".join(layer.activation for layer in model.layers),
        "counts": "none",
        "hidden_bias": two_biases,
        **({"input": "onehot"} if model.embedding is None else {"embedding": model.embedding.shape[1]}),
    }
    return validate({"model": network, "reader": read, "corpus": {"lowercase": lowercase, "unit": unit}})


def _weights_of(model: ForeignModel, order: Sequence[int]) -> dict[str, Float32s]:
    """Returns the weights by the names of a checkpoint, for symbols in this order and `<unk>`.

    Bytes that the model does not know are as `<unk>` is.
    """
    order = [*order, NONE]
    gates, width = len(GATES[model.cell]), max(layer.width for layer in model.layers)
    found: dict[str, Float32s] = {}
    if model.embedding is not None:
        found["embedding.weight"] = _with_mean(model.embedding)[order]
    for depth, layer in enumerate(model.layers):
        name, inputs = f"layers.{depth}.rnn", layer.weight_ih
        if depth:
            inputs = _widen(inputs, 1, width)
        elif model.embedding is None:
            inputs = _with_mean(inputs.T)[order].T
        found |= {
            f"{name}.weight_ih_l0": _widen_gates(inputs, gates, width),
            f"{name}.weight_hh_l0": _widen_gates(_widen(layer.weight_hh, 1, width), gates, width),
            f"{name}.bias_ih_l0": _widen_gates(layer.bias_ih, gates, width),
            f"{name}.bias_hh_l0": _widen_gates(layer.bias_hh, gates, width),
        }
    head, bias = model.head_weight, model.head_bias
    likely = int(bias.argmax())
    found["head.weight"] = _widen(np.concatenate([head, head[likely, None]])[order], 1, width)
    found["head.bias"] = np.append(bias, bias[likely] - np.float32(UNKNOWN_NATS))[order]
    return {name: np.ascontiguousarray(each, np.float32) for name, each in found.items()}


def _with_mean(table: Float32s) -> Float32s:
    """Returns a table (C, D) with a row more for `<unk>`, the mean of all others, as it is read."""
    return np.concatenate([table, table.mean(0, keepdims=True)])


def _widen(array: Float32s, axis: int, size: int) -> Float32s:
    """Returns an array with zeros at the end of an axis, so that it has this size."""
    return np.pad(array, [(0, size - length if each == axis else 0) for each, length in enumerate(array.shape)])


def _widen_gates(array: Float32s, gates: int, width: int) -> Float32s:
    """Returns an array whose rows are blocks, one for each gate, with `width` rows in each."""
    blocks = array.reshape(gates, -1, *array.shape[1:])
    return _widen(blocks, 1, width).reshape(gates * width, *array.shape[1:])


def reorder_gates(array: Float32s, order: Sequence[int]) -> Float32s:
    """Returns the rows of an array, G blocks of H, with the blocks in this order."""
    blocks = array.reshape(len(order), -1, *array.shape[1:])
    return np.concatenate([blocks[place] for place in order])


def _unfit(why: str) -> InputError:
    return InputError(f"the model's weights do not fit one another: {why}; save it anew with its own program")


def check_unpacked(archive: ZipFile, path: Path) -> None:
    """Raises InputError if the files in an archive would take far more bytes than the archive has."""
    if sum(each.file_size for each in archive.infolist()) > MOST_UNPACKED * path.stat().st_size:
        raise InputError(f"{path}: its weights would take over {MOST_UNPACKED} times the bytes of the file")


def refuse_part(what: str, why: str) -> UsageError:
    """Returns the error for a model that has a part that no model of Scriven has."""
    return UsageError(f"the model has {what}, and {why}; it cannot be held, and was not imported")
