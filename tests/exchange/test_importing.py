"""`scriven import`: models of Keras, torch and torch-rnn predict as they did, and what cannot be held is refused.

The originals are made here: by Keras on its torch backend, by torch, and, for torch-rnn, by its equations in numpy and
a file that PyPI's torchfile reads too.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fork_server
from conftest import Command
from scriven.errors import InputError, ScrivenError, UsageError
from scriven.exchange import formats, keras_file
from scriven.exchange.foreign import ForeignModel, find_symbols, read_symbols
from scriven.exchange.formats import read_file, read_foreign
from scriven.exchange.state_dict import model_of
from scriven.exchange.torch7_file import read_torch_rnn
from scriven.trained_model import load

CHARACTERS = "zyx \nabcdefg"  # in the order of the originals' numbers, which is not Scriven's
SIZE = len(CHARACTERS)
TEXT = "abc fade\nx bad egg"
NUMBERS = [CHARACTERS.index(each) for each in "\n" + TEXT]  # a text begins like a line

Nats = np.ndarray[Any, Any]


@pytest.fixture
def symbols(tmp_path: Path) -> str:
    """The file of the vocabulary."""
    path = tmp_path / "symbols.json"
    path.write_text(json.dumps(list(CHARACTERS)), encoding="utf-8")
    return str(path)


def imported_nats(command: Command, file: Path, *words: str) -> Nats:
    """What each character of the text costs in the run that the command makes of a file."""
    folder = file.parent / f"{file.stem}-run"
    done = command("import", str(file), "-o", str(folder), *words)
    assert (done.code, done.out) == (0, f"{folder}\n"), done.err
    return np.concatenate([each.nats for each in load(folder, precision="fp32").surprisals([TEXT])])


def costs(logits: Any) -> Nats:
    """What each character of the text costs by the logits (T, C) before it."""
    nats: Nats = -torch.log_softmax(torch.as_tensor(logits), -1)[range(len(TEXT)), NUMBERS[1:]].numpy()
    return nats


# --- Keras

of_keras = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")  # its own


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        import keras
    return keras


def chain(keras: Any, name: str) -> Any:
    """A model of Keras with weights that matter."""
    make = keras.layers
    one_hot, numbered = [make.Input((None, SIZE))], [make.Input((None,)), make.Embedding(SIZE, 5)]
    soft = {"activation": "softmax"}
    parts = {
        "one-hot lstm": [*one_hot, make.LSTM(16, return_sequences=True, name="a"), make.LSTM(9, return_sequences=True)],
        "gru": [*numbered, make.GRU(9, return_sequences=True), make.Dropout(0.2), make.GRU(14, return_sequences=True)],
        "rnn": [*numbered, make.SimpleRNN(9, return_sequences=True, activation="relu", use_bias=False)],
        "last": [make.Input((40, SIZE)), make.LSTM(16)],
    }[name]
    end = {
        "gru": [make.TimeDistributed(make.Dense(SIZE, **soft))],
        "rnn": [make.Dense(SIZE, use_bias=False, **soft)],
    }.get(name, [make.Dense(SIZE), make.Activation("softmax")])
    model = keras.Sequential([*parts, *end])
    random = np.random.default_rng(1)
    for layer in model.layers:
        layer.set_weights([each + random.normal(0, 0.3, each.shape) for each in layer.get_weights()])
    return model


@of_keras
@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["one-hot lstm", "gru", "rnn"])
def test_a_model_of_keras_predicts_as_it_did(
    command: Command, keras: Any, symbols: str, tmp_path: Path, name: str, ending: str
) -> None:
    model, file = chain(keras, name), tmp_path / f"model{ending}"
    model.save(file)
    ids = np.array(NUMBERS[:-1])
    read = np.eye(SIZE)[ids] if name.startswith("one-hot") else ids
    wanted = costs(np.log(model.predict(read[None], verbose=0)[0]))
    assert np.abs(imported_nats(command, file, "--vocabulary", symbols) - wanted).max() < 1e-5


@of_keras
def test_a_model_that_reads_windows_does_so_here(command: Command, keras: Any, tmp_path: Path) -> None:
    """Keras's example of text generation: one-hot windows, the loss of the last character, sorted symbols of a text."""
    model, file, text = chain(keras, "last"), tmp_path / "example.keras", tmp_path / "text.txt"
    model.save(file)
    text.write_text(CHARACTERS.upper() + CHARACTERS, encoding="utf-8")
    done = command("import", str(file), "--text", str(text), "--lowercase", "-o", str(tmp_path / "run"), "--json")
    assert json.loads(done.out)["program"] == "Keras" and "40 characters" in done.err
    window = (TEXT * 3)[:40]
    ids = [sorted(CHARACTERS).index(each) for each in window]
    (wanted,) = model.predict(np.eye(SIZE)[ids][None], verbose=0)
    run = load(tmp_path / "run", precision="fp32")
    session = run.session()
    session.read("abcde" + window)
    assert np.abs(session.next(writing=True)[:SIZE] - wanted).max() < 1e-5
    assert run.score("ABC").total_nats == run.score("abc").total_nats


@of_keras
def test_what_scriven_cannot_hold_is_refused_with_the_reason(keras: Any, tmp_path: Path) -> None:
    make = keras.layers
    read = make.Input((8,))
    embedded = make.Embedding(SIZE, 4)(read)
    twice = make.LSTM(4, return_sequences=True)
    odd = [twice(twice(embedded)), make.LSTM(4, return_sequences=True)(embedded, initial_state=[embedded[:, 0]] * 2)]
    for each in [*odd, make.LSTM(4)(make.Embedding(SIZE, 4, mask_zero=True)(read))]:
        keras.Model(read, make.Dense(SIZE)(each)).save(tmp_path / "model.keras")
        with pytest.raises(UsageError, match=r"that reads|masks|a layer GetItem"):
            read_file(tmp_path / "model.keras")
    for parts, reason in (
        ([make.Bidirectional(make.LSTM(4, return_sequences=True))], "a layer Bidirectional"),
        ([make.GRU(4, reset_after=False)], "reset_after=False"),
        ([make.LSTM(4, recurrent_activation="hard_sigmoid")], "hard_sigmoid"),
        ([make.LSTM(4, activation="elu")], "the activation elu"),
        ([make.LSTM(4, go_backwards=True)], "reads backwards"),
        ([make.LSTM(4), make.Dense(3)], "a layer Dense"),
        ([make.LSTM(4, return_sequences=True), make.GRU(4)], "one kind"),
    ):
        keras.Sequential([make.Input((8, SIZE)), *parts, make.Dense(SIZE)]).save(tmp_path / "model.keras")
        with pytest.raises(UsageError, match=reason):
            read_file(tmp_path / "model.keras")


@of_keras
def test_a_model_of_keras_with_two_inputs_is_refused(keras: Any, tmp_path: Path) -> None:
    """The second layer begins with the states of the first, which no list of layers tells."""
    make = keras.layers
    inputs = [make.Input((None, SIZE)), make.Input((None, SIZE))]
    _, *states = make.LSTM(SIZE, return_state=True)(inputs[0])
    written = make.LSTM(SIZE, return_sequences=True)(inputs[1], initial_state=states)
    keras.Model(inputs, make.Dense(SIZE)(written)).save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match="several inputs"):
        read_file(tmp_path / "model.keras")


def test_a_damaged_file_of_keras_ends_in_a_sentence(tmp_path: Path) -> None:
    path, random = tmp_path / "model.keras", np.random.default_rng(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": []}}))
        archive.writestr("model.weights.h5", b"weights" * 100)
    whole = path.read_bytes()
    for place, byte in zip(random.integers(len(whole), size=200), random.bytes(200), strict=True):
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        with pytest.raises(ScrivenError):
            keras_file.read_keras(path)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (formats.READ, "reading it does not end within 3 s"),
        ("import os; os.abort()", "reading it ends by signal 6"),
        ("raise SystemExit(1)", "reading it ends with code 1"),
    ],
)
def test_a_file_with_which_hdf5_never_ends_or_crashes_is_damaged(
    monkeypatch: pytest.MonkeyPatch, read: str, said: str
) -> None:
    """One byte of the file was changed; HDF5 loops in C then, so that no signal is heard."""
    monkeypatch.setattr(formats, "READ", read)
    monkeypatch.setattr(formats, "READ_SECONDS", 3)
    with pytest.raises(InputError, match=said):
        read_foreign(Path(__file__).with_name("endless.h5"))


def test_a_whole_file_is_read_where_no_signal_ends_a_process_after_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Windows has no such signal."""
    monkeypatch.setattr(formats, "OUT_OF_TIME", None)
    torch.save(Plain("LSTM", onehot=False).state_dict(), tmp_path / "m.pt")
    assert read_foreign(tmp_path / "m.pt").cell == "lstm"


class TooLargeToCopy:
    """A model whose copy does not fit into the memory."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise MemoryError


def test_a_model_that_fits_into_the_memory_only_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights may be one number that is repeated: a file of 2 KB."""
    monkeypatch.setattr(formats, "_limit", lambda *_: None)
    monkeypatch.setattr(formats, "read_file", lambda *_: TooLargeToCopy())
    refused = pickle.loads(formats.read_limited("m.pt", "tanh", "30", "1000000"))
    assert isinstance(refused, InputError)
    assert "of memory; save the weights alone" in str(refused)


# --- torch


class Plain(torch.nn.Module):
    """A model as people write it."""

    def __init__(self, kind: str, onehot: bool, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = None if onehot else torch.nn.Embedding(SIZE, 6)
        self.rnn = getattr(torch.nn, kind)(SIZE if onehot else 6, 10, num_layers=layers, batch_first=True)
        self.out = torch.nn.Linear(10, SIZE)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        read = torch.eye(SIZE)[ids] if self.embed is None else self.embed(ids)
        logits: torch.Tensor = self.out(self.rnn(read)[0])
        return logits


@pytest.mark.parametrize(("kind", "onehot"), [("LSTM", False), ("GRU", True), ("RNN", False)])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_state_dict_of_torch_predicts_as_it_did(
    command: Command, symbols: str, tmp_path: Path, kind: str, onehot: bool, ending: str
) -> None:
    import safetensors.torch

    model, file = Plain(kind, onehot), tmp_path / f"model{ending}"
    if ending == ".pt":
        torch.save(model.state_dict(), file)
    else:
        safetensors.torch.save_file(model.state_dict(), file)
    with torch.no_grad():
        wanted = costs(model(torch.tensor([NUMBERS[:-1]]))[0])
    assert np.abs(imported_nats(command, file, "--vocabulary", symbols) - wanted).max() < 1e-5


def test_a_checkpoint_may_have_its_symbols_beside_the_weights(command: Command, tmp_path: Path) -> None:
    model, file = Plain("LSTM", onehot=False), tmp_path / "checkpoint.pth"
    numbered = {each: number for number, each in enumerate(CHARACTERS)}
    torch.save({"step": 3, "model": model.state_dict(), "stoi": numbered}, file)
    with torch.no_grad():
        wanted = costs(model(torch.tensor([NUMBERS[:-1]]))[0])
    assert np.abs(imported_nats(command, file) - wanted).max() < 1e-5


def test_modules_of_torch_that_scriven_cannot_hold_are_refused(tmp_path: Path) -> None:
    def weights(**more: torch.Tensor) -> dict[str, Any]:
        return Plain("LSTM", onehot=True).state_dict() | more

    two = torch.nn.LSTM(4, 4, bidirectional=True).state_dict()
    for found, reason in (
        (weights(**{"norm.weight": torch.ones(10)}), "the weight norm.weight"),
        (weights(**{"attention.weight": torch.ones(10, 10), "b.weight": torch.ones(3, 3)}), "the matrices"),
        (two, "read forwards"),
        ({"transformer.wte.weight": torch.ones(5, 5)}, "no recurrent layer"),
        (weights(**{"rnn.weight_hr_l0": torch.ones(3, 10)}), "weight_hr_l0"),
    ):
        torch.save(found, tmp_path / "model.pt")
        with pytest.raises(UsageError, match=reason):
            read_file(tmp_path / "model.pt")
    one = {name: each.numpy() for name, each in Plain("GRU", onehot=True).rnn.state_dict().items()}
    several = {f"{module}.{name}": each for module in ("low", "high") for name, each in one.items()}
    with pytest.raises(UsageError, match="whose order the file does not tell"):
        model_of(several, in_order=False)


def test_weights_that_a_state_dict_may_have_otherwise(tmp_path: Path) -> None:
    """Parameters, symbols by their numbers, or beside other values of a usual name."""
    model, file = Plain("LSTM", onehot=False), tmp_path / "model.pt"
    torch.save(dict(model.named_parameters()), file)
    read_file(file).check()
    for more in (
        {"itos": dict(enumerate(CHARACTERS))},
        {"vocab": SIZE, "symbols": 3, "stoi": {each: number for number, each in enumerate(CHARACTERS)}},
    ):
        torch.save({"model": model.state_dict(), **more}, file)
        assert read_file(file).symbols == [*CHARACTERS]
    torch.save({"model": model.state_dict(), "vocab": dict.fromkeys(CHARACTERS, 7)}, file)  # how often each comes
    assert read_file(file).symbols is None


def test_weights_that_cannot_be_told_apart_or_read_are_refused(tmp_path: Path) -> None:
    weights, file = Plain("LSTM", onehot=False).state_dict(), tmp_path / "model.pt"
    table = weights["embed.weight"]
    for found, reason in (
        ({"model": weights, "best": weights}, "the weights of 2 models, model and best"),
        (weights | {"embed.weight": table.to_sparse()}, r"embed\.weight, which is sparse"),
        (weights | {"embed.weight": table.to(torch.complex64)}, "complex"),
        (weights | {"embed.weight": table.to("meta")}, "without values"),
        ({"weight_ih": torch.tensor(1.0), "weight_hh": torch.tensor(1.0)}, r"a weight_hh of \[\]"),
    ):
        torch.save(found, file)
        with pytest.raises(UsageError, match=reason):
            read_file(file)
    torch.save(weights, file)
    with pytest.raises(UsageError, match=r"--activation relu is for an nn\.RNN of torch, and torch's lstm has tanh"):
        read_foreign(file, "relu")
    with pytest.raises(UsageError, match="tells its own"):
        read_foreign(write_torch7(tmp_path / "model.t7", torch_rnn_checkpoint("nn.LSTM")[0]), "relu")


class Trap:
    """An object that runs code when pickle makes it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch trapped",)


def test_no_code_of_a_file_is_run(
    command: Command, symbols: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(), "model.pt")
    done = command("import", "model.pt", "--vocabulary", symbols)
    assert done.code == 2 and "would run code" in done.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.pt", "symbols.json"]


# --- torch-rnn


class Torch7Writer:
    """Writes values in the format of torch7's File.lua: tables and objects get numbers, others none."""

    def __init__(self) -> None:
        self.data, self.made = b"", 0

    def put(self, value: Any) -> None:
        if value is None:
            self.data += struct.pack("<i", 0)
        elif isinstance(value, bool):
            self.data += struct.pack("<ii", 5, value)
        elif isinstance(value, (int, float)):
            self.data += struct.pack("<id", 1, value)
        elif isinstance(value, str):
            self.data += struct.pack("<i", 2)
            self._string(value)
        elif isinstance(value, dict) and None not in value:
            self._begin(3)
            self._entries(value)
        elif isinstance(value, dict):
            self._object(value[None])
            self.put({name: each for name, each in value.items() if name is not None})
        else:
            self._object("torch.FloatTensor")
            strides = np.array(value.strides) // value.itemsize
            self.data += struct.pack(f"<i{2 * value.ndim + 1}q", value.ndim, *value.shape, *strides, 1)
            self._object("torch.FloatStorage")
            self.data += struct.pack("<q", value.size) + value.astype("<f4").tobytes()

    def _begin(self, kind: int) -> None:
        self.made += 1
        self.data += struct.pack("<ii", kind, self.made)

    def _object(self, name: str) -> None:
        self._begin(4)
        self._string("V 1")
        self._string(name)

    def _string(self, text: str) -> None:
        self.data += struct.pack("<i", len(text.encode())) + text.encode()

    def _entries(self, table: dict[Any, Any]) -> None:
        self.data += struct.pack("<i", len(table))
        for key, value in table.items():
            self.put(key)
            self.put(value)


def listed(*values: Any) -> dict[int, Any]:
    return dict(enumerate(values, 1))


def torch_rnn_checkpoint(kind: str) -> tuple[dict[str, Any], Callable[[], Nats]]:
    """A checkpoint of torch-rnn, and its logits (T, C) by the equations of its LSTM.lua and VanillaRNN.lua."""
    random, width, gates = np.random.default_rng(2), 7, 4 if kind == "nn.LSTM" else 1

    def draw(*shape: int) -> Nats:
        return random.normal(0, 0.4, shape).astype(np.float32)

    table, ends = draw(SIZE, 5), (draw(SIZE, width), draw(SIZE))
    cells = [(draw(before + width, gates * width), draw(gates * width)) for before in (5, width)]
    layers = [{None: kind, "weight": weight, "bias": bias} for weight, bias in cells]
    modules = listed(
        {None: "nn.LookupTable", "weight": table},
        *layers,
        {None: "nn.View"},
        {None: "nn.Linear", "weight": ends[0], "bias": ends[1]},
        {None: "nn.View"},
    )
    net = {None: "nn.Sequential", "modules": modules, "train": False}
    model = {None: "nn.LanguageModel", "net": net, "idx_to_token": listed(*CHARACTERS), "rnn_size": width}

    def logits() -> Nats:
        read = table[NUMBERS[:-1]]
        for weight, bias in cells:
            hidden, memory, out = np.zeros(width), np.zeros(width), []
            for each in read:
                sums = np.concatenate([each, hidden]) @ weight + bias
                if gates == 1:
                    hidden = np.tanh(sums)
                else:
                    keep, forget, show = (1 / (1 + np.exp(-part)) for part in np.split(sums[: 3 * width], 3))
                    memory = forget * memory + keep * np.tanh(sums[3 * width :])
                    hidden = show * np.tanh(memory)
                out.append(hidden)
            read = np.array(out)
        return np.array(read @ ends[0].T + ends[1])

    return {"opt": {"dropout": 0.5}, "model": model, "i": 100}, logits


def write_torch7(path: Path, value: Any) -> Path:
    writer = Torch7Writer()
    writer.put(value)
    path.write_bytes(writer.data)
    return path


@pytest.mark.parametrize("kind", ["nn.LSTM", "nn.VanillaRNN"])
def test_a_checkpoint_of_torch_rnn_predicts_as_it_did(command: Command, tmp_path: Path, kind: str) -> None:
    checkpoint, logits = torch_rnn_checkpoint(kind)
    file = write_torch7(tmp_path / "model.t7", checkpoint)
    assert np.abs(imported_nats(command, file) - costs(logits())).max() < 1e-5


@pytest.mark.parametrize("way", ["brackets", "bytes", "list"])
def test_a_model_of_bytes_of_torch_rnn_predicts_as_it_did(command: Command, tmp_path: Path, way: str) -> None:
    """torch-rnn writes the bytes above 127 in brackets; here "x" and "z" are those of "é", in this order."""
    checkpoint, logits = torch_rnn_checkpoint("nn.LSTM")
    names = [*CHARACTERS]
    file, words = tmp_path / "model.t7", list[str]()
    if way == "list":
        named = {"[195]" if each == "x" else "[169]" if each == "z" else each: n for n, each in enumerate(names, 1)}
        (tmp_path / "torch-rnn.json").write_text(json.dumps({"token_to_idx": named}), encoding="utf-8")
        words = ["--vocabulary", str(tmp_path / "torch-rnn.json")]
    else:
        names[names.index("x")], names[names.index("z")] = "[195]", "[169]"
    checkpoint["model"]["idx_to_token"] = listed(*names)
    write_torch7(file, checkpoint)
    if way == "bytes":
        for name, byte in (("[195]", b"\xc3"), ("[169]", b"\xa9")):
            sized = struct.pack("<i", 5) + name.encode()
            assert file.read_bytes().count(sized) == 1
            file.write_bytes(file.read_bytes().replace(sized, struct.pack("<i", 1) + byte))
    assert TEXT.count("x") == 1 and "z" not in TEXT
    wanted, folder = costs(logits()), tmp_path / "run"
    done = command("import", str(file), "-o", str(folder), *words)
    assert done.code == 0, done.err
    run, place = load(folder, precision="fp32"), TEXT.index("x")
    assert run.vocabulary.unit == "byte" and run.settings.corpus.unit == "byte"
    nats = np.concatenate([each.nats for each in run.surprisals([TEXT.replace("x", "é")])])
    assert np.abs(nats[: place + 1] - wanted[: place + 1]).max() < 1e-5
    assert all(run.score(each).total_nats > 25 for each in ("q", "0", "\0"))  # bytes that it does not know
    assert run.sample("\n", length=30, seed=1)


def test_numbers_can_be_all_bytes(command: Command, tmp_path: Path) -> None:
    torch.manual_seed(1)
    rnn, out, file = torch.nn.LSTM(256, 4), torch.nn.Linear(4, 256), tmp_path / "model.pt"
    named = {"rnn": rnn, "out": out}
    torch.save({f"{part}.{name}": each for part in named for name, each in named[part].state_dict().items()}, file)
    done = command("import", str(file), "-o", str(tmp_path / "run"))
    assert done.code == 2 and "--unit byte" in done.err
    assert command("import", str(file), "-o", str(tmp_path / "run"), "--unit", "byte").code == 0
    data = [10, *"né".encode()]
    with torch.no_grad():
        logits = out(rnn(torch.eye(256)[data[:-1]])[0])
        wanted = -torch.log_softmax(logits, -1)[range(3), data[1:]].numpy()
    nats = np.concatenate([each.nats for each in load(tmp_path / "run", precision="fp32").surprisals(["né"])])
    assert np.abs(nats - wanted).max() < 1e-5
    done = command("import", str(file), "--unit", "byte", "--text", str(file))
    assert done.code == 2 and "drop --vocabulary and --text" in done.err
    (tmp_path / "symbols.json").write_text(json.dumps(["a", "[195]", "é"]), encoding="utf-8")
    done = command("import", str(file), "--vocabulary", str(tmp_path / "symbols.json"))
    assert done.code == 3 and "symbol 2 of" in done.err and "others of it are bytes" in done.err
    (tmp_path / "symbols.json").write_text(json.dumps(["a", "\udcc3", "é"]), encoding="utf-8")
    assert read_symbols(tmp_path / "symbols.json").unit == "character"  # a text of characters may have a stray byte


def test_the_files_of_these_tests_are_those_of_torch7(tmp_path: Path) -> None:
    import torchfile

    checkpoint, _ = torch_rnn_checkpoint("nn.LSTM")
    read = torchfile.load(str(write_torch7(tmp_path / "model.t7", checkpoint)))
    model = read[b"model"]
    assert model.torch_typename() == b"nn.LanguageModel"
    assert [each.decode() for each in model[b"idx_to_token"]] == list(CHARACTERS)
    first = checkpoint["model"]["net"]["modules"][1]["weight"]
    assert np.array_equal(model[b"net"][b"modules"][0][b"weight"], first)


def test_what_is_no_model_of_torch_rnn_is_refused(tmp_path: Path) -> None:
    checkpoint, _ = torch_rnn_checkpoint("nn.LSTM")
    normed = checkpoint["model"]["net"]["modules"] | {4: {None: "nn.BatchNormalization"}}
    net = checkpoint["model"]["net"] | {"modules": normed}
    with pytest.raises(UsageError, match=r"a layer nn\.BatchNormalization"):
        read_file(write_torch7(tmp_path / "model.t7", {"model": checkpoint["model"] | {"net": net}}))
    with pytest.raises(UsageError, match="char-rnn's graphs"):
        read_file(write_torch7(tmp_path / "model.t7", {"protos": {"rnn": {None: "nn.gModule"}}}))


@pytest.mark.parametrize("sizes", [(3_000_000_000, 10_000), (1 << 62, 4)])
def test_a_tensor_of_torch7_is_as_large_as_its_numbers(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """A stride of 0 made petabytes of a few bytes."""
    writer = Torch7Writer()
    writer._object("torch.FloatTensor")
    writer.data += struct.pack("<i5q", 2, *sizes, 0, 0, 1)
    writer._object("torch.FloatStorage")
    writer.data += struct.pack("<q", 2) + bytes(8)
    (tmp_path / "m.t7").write_bytes(writer.data)
    with pytest.raises(InputError, match="larger than its numbers"):
        read_file(tmp_path / "m.t7")


def test_a_key_of_torch7_may_be_no_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="infinity"):
        read_file(write_torch7(tmp_path / "m.t7", {float("inf"): None}))


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_of_torch7_ends_in_a_sentence(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = write_torch7(tmp_path_factory.getbasetemp() / "whole.t7", torch_rnn_checkpoint("nn.LSTM")[0]).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        changed += whole[len(changed) :]
    (path := tmp_path_factory.getbasetemp() / "damaged.t7").write_bytes(changed)
    try:
        read_torch_rnn(path).check()
    except ScrivenError as error:
        assert str(error)


# --- the command


def test_an_imported_run_is_a_run_like_any_other(
    command: Command, symbols: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Plain("LSTM", onehot=False).state_dict(), "model.pt")
    assert command("import", "model.pt", "--vocabulary", symbols).out == f"{Path('runs') / 'model'}\n"
    assert len(command("sample", "model", "-n", "20", "--seed", "1").out) > 20
    assert "torch" in command("info", "model").out
    assert "imported from torch" in command("evaluate", "model").err
    Path("book.txt").write_text(TEXT * 40, encoding="utf-8")
    tuned = command("train", "book.txt", "--from", "model", "--steps", "2", "-o", "tuned")
    assert tuned.code == 0, tuned.err
    assert command("import", "model.pt", "--vocabulary", symbols).code == 2  # nothing is replaced


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ForeignModel:
    """A model of torch without symbols of its own."""
    file = tmp_path_factory.mktemp("plain") / "model.pt"
    torch.save(Plain("LSTM", onehot=False).state_dict(), file)
    return read_foreign(file)


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        ('["a", "b"]', "has 2 symbols, and the model predicts 12"),
        (json.dumps([*CHARACTERS[:-1], "the"]), "is 'the'"),
        (json.dumps([*CHARACTERS[:-1], "a"]), "has 'a' twice"),
        ("[", "is not JSON"),
        (json.dumps(dict.fromkeys(CHARACTERS, 0)), "not 0, 1, 2, ..., each once"),
    ],
)
def test_symbols_that_do_not_fit_are_told(plain: ForeignModel, tmp_path: Path, symbols: str, reason: str) -> None:
    (tmp_path / "s.json").write_text(symbols, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(reason)):
        find_symbols(plain, tmp_path / "s.json", None, lowercase=False).order(SIZE)


def test_without_fitting_symbols_no_run_is_made(command: Command, tmp_path: Path) -> None:
    file, output = str(tmp_path / "model.pt"), tmp_path / "run"
    torch.save(Plain("LSTM", onehot=False).state_dict(), file)
    (tmp_path / "s.json").write_text('["a", "b"]', encoding="utf-8")
    done = command("import", file, "--vocabulary", str(tmp_path / "s.json"), "-o", str(output))
    assert done.code == 3 and "has 2 symbols, and the model predicts 12" in done.err
    assert "--vocabulary" in command("import", file, "-o", str(output)).err
    assert not output.exists()


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.pt", "m.safetensors", "m.t7"])
@pytest.mark.parametrize("data", [b"", b"x", b"\x80" * 300])
def test_a_file_that_is_no_model_ends_in_a_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError if name != "m.pt" else ScrivenError):
        read_file(tmp_path / name)
    with pytest.raises(UsageError, match="ending"):
        (tmp_path / "m.bin").write_bytes(data)
        read_foreign(tmp_path / "m.bin")


def test_weights_that_claim_more_than_their_file_are_refused(tmp_path: Path) -> None:
    import h5py

    (path := tmp_path / "model.h5").parent.mkdir(exist_ok=True)
    config = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"name": "a"}}]}}
    config["config"]["layers"].insert(0, {"class_name": "Embedding", "config": {"name": "a"}})  # type: ignore[index]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights/a")
        group.create_dataset("huge", (1 << 40, 4), "f4", chunks=(1024, 4))
        group.attrs["weight_names"] = ["huge"]
    with pytest.raises(InputError, match="an array of shape"):
        read_file(path)


def test_a_file_of_old_torch_that_names_another_storage_is_damaged(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pt").read_bytes()
    key = re.findall(rb"\d{9,}", data)[-1]
    at = data.rindex(key)
    (tmp_path / "old.pt").write_bytes(data[:at] + b"1" * len(key) + data[at + len(key) :])
    with pytest.raises(InputError, match="is damaged, or no file that torch saved"):
        read_file(tmp_path / "old.pt")


# --- files made to do harm


def rewrite(path: Path, pickled: bytes | None = None) -> Path:
    """Compresses the parts of a file of torch, and puts other values into it."""
    with zipfile.ZipFile(path) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, pickled if pickled and name.endswith("data.pkl") else data)
    return path


def test_a_file_of_torch_that_unpacks_to_far_more_is_refused_before(tmp_path: Path) -> None:
    """One of 1 MB took 933 MB of memory."""
    weights = Plain("LSTM", onehot=False).state_dict()
    torch.save(weights | {"huge": torch.zeros(5_000_000)}, file := tmp_path / "m.pt")
    with pytest.raises(InputError, match="over 10 times the bytes of the file"):
        read_foreign(rewrite(file))
    torch.save(weights, file)
    with pytest.raises(InputError, match="over 10 times the bytes of the file"):
        read_foreign(rewrite(file, b"\x80\x02X" + struct.pack("<I", 9_000_000) + b"a" * 9_000_000 + b"."))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory")
def test_a_weight_that_is_larger_than_its_numbers_is_refused(tmp_path: Path) -> None:
    weights = Plain("LSTM", onehot=False).state_dict()
    torch.save(weights | {"out.weight": torch.zeros(1).as_strided((1 << 31, 10), (0, 0))}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="of memory; save the weights alone"):
        read_foreign(tmp_path / "m.pt").check()


def test_many_tensors_of_the_same_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a copy in memory, and takes 100 bytes of the file."""
    monkeypatch.setattr(formats, "READ_BYTES", 1 << 28)
    numbers, writer = np.zeros(1 << 18, np.float32), Torch7Writer()
    writer.put({0: numbers})
    storage = writer.made
    for place in range(1, 2000):
        writer.put(float(place))
        writer._object("torch.FloatTensor")
        writer.data += struct.pack("<i3q2i", 1, numbers.size, 1, 1, 4, storage)
    data = bytearray(writer.data)
    data[8:12] = struct.pack("<i", 2000)
    (tmp_path / "m.t7").write_bytes(data)
    with pytest.raises(ScrivenError, match="of memory" if sys.platform == "linux" else "no language model"):
        read_foreign(tmp_path / "m.t7")


def test_symbols_in_one_another_are_no_symbols(tmp_path: Path) -> None:
    """As text, 60 lists that hold the one before twice would take all memory."""
    weights = Plain("LSTM", onehot=False).state_dict()
    doubled: list[Any] = ["a"]
    for _ in range(60):
        doubled = [doubled, doubled]
    torch.save({"weights": weights, "symbols": doubled}, tmp_path / "m.pt")
    model = read_foreign(tmp_path / "m.pt")
    with pytest.raises(InputError, match="symbol 0 of the model's vocabulary is '<list>'"):
        find_symbols(model, None, None, lowercase=False).order(SIZE)
    endless: dict[str, Any] = {}
    endless["symbols"] = endless
    torch.save({"weights": weights, "symbols": endless}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="nested in one another without end"):
        read_foreign(tmp_path / "m.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of them")
@pytest.mark.parametrize("ending", [".pt", ".t7", ".keras", ".safetensors"])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"device{ending}").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match="a pipe, a device or a socket"):
            read_foreign(tmp_path / f"{name}{ending}")


def test_a_module_in_this_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports from the folder that a command given by -c is started in."""
    monkeypatch.setattr(fork_server, "READING", [None])  # so that a new Python is started, which a fork is not
    torch.save(Plain("LSTM", onehot=False).state_dict(), tmp_path / "m.pt")
    (tmp_path / "torch.py").write_text("print('trapped')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert read_foreign(Path("m.pt")).cell == "lstm"
