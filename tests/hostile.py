"""Run folders made by someone who means harm, from a good one; for tests and for measuring what refusing them costs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scriven.model import CharLM
from scriven.runs import Run, create_run
from scriven.settings import ModelSettings, Settings
from scriven.vocabulary import Vocabulary

STEP = "step-00000003"
FILES = (
    "settings.toml",
    "vocabulary.json",
    "checkpoints/index.json",
    f"checkpoints/{STEP}/manifest.json",
    f"checkpoints/{STEP}/model.safetensors",
    f"checkpoints/{STEP}/training.safetensors",
)
INDEX, MANIFEST, MODEL, TRAINING = FILES[2:]


def good_run(path: Path) -> Run:
    """A small run with one checkpoint, of which nothing is wrong."""
    vocabulary = Vocabulary.of("abc\n")
    settings = Settings(model=ModelSettings(width=24, layers=1))
    torch.manual_seed(1)
    weights = CharLM(settings.model, vocabulary.size).state_dict()
    run = create_run(path, settings, vocabulary, {"texts": ["t"], "corpus": "c"})
    manifest = {"step": 3, "validation": {"nats": 1.0, "characters": 1}, "best": {"step": 3, "loss": {}}}
    run.save(weights, {"optimizer.mean": torch.zeros(900)}, manifest, best=3)
    return run


# --- what is done to a folder


def rewritten(name: str, content: bytes | str | Callable[[], str]) -> Callable[[Path], None]:
    """Another content; a large one is made when it is written."""
    return lambda run: _write(run / name, content() if callable(content) else content)


def edit_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """JSON with something changed in place."""

    def _edit(run: Path) -> None:
        values = json.loads((run / name).read_text())
        change(values)
        _write(run / name, json.dumps(values))

    return _edit


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Text with something put in the place of something else."""

    def _replace(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        _write(run / name, text.replace(old, new, 1))

    return _replace


def weights(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes of the model, in a manifest that vouches for them."""

    def _change(run: Path) -> None:
        data = make((run / MODEL).read_bytes())
        _write(run / MODEL, data)
        mark = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        edit_json(MANIFEST, lambda values: values["files"].update({"model.safetensors": mark}))(run)

    return _change


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The model with another header."""

    def _make(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        values = json.loads(data[8 : 8 + length])
        text = change(values) or json.dumps(values)
        return len(text.encode()).to_bytes(8, "little") + text.encode() + data[8 + length :]

    return weights(_make)


def entry(**more: Any) -> Callable[[Path], None]:
    """The model, with something else said of the embedding in its header."""
    return header(lambda values: values["embedding.weight"].update(more))


def end_weights_with(number: float) -> Callable[[Path], None]:
    """The model with a number at the end of its last array that is not finite."""
    return weights(lambda data: data[:-4] + torch.tensor(number).numpy().tobytes())


def replace_by_link(name: str, target: str | None = None) -> Callable[[Path], None]:
    """A symbolic link in the place of a file or folder: to a good copy of it outside, or to something else."""

    def _link(run: Path) -> None:
        outside = run.parent / ("outside-" + Path(name).name)
        (run / name).rename(outside)
        (run / name).symlink_to(target or outside)

    return _link


def sparse(name: str) -> Callable[[Path], None]:
    """A file that claims 10 GB and holds nothing."""

    def _grow(run: Path) -> None:
        with (run / name).open("wb") as file:
            file.truncate(10_000_000_000)

    return _grow


def write_sparse_state(run: Path, size: int) -> None:
    """A training state of one array that takes so many bytes, as header and manifest say, and holds nothing."""
    told = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(told).encode()
    _write(run / TRAINING, len(text).to_bytes(8, "little") + text)
    os.truncate(run / TRAINING, 8 + len(text) + size)
    mark = {"bytes": 8 + len(text) + size, "sha256": "0" * 64}
    edit_json(MANIFEST, lambda values: values["files"].update({"training.safetensors": mark}))(run)


def pipe(name: str) -> Callable[[Path], None]:
    def _pipe(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return _pipe


def folder(name: str) -> Callable[[Path], None]:
    def _make(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return _make


class Bomb:
    """What unpickling runs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("scriven-was-fooled",)


def many_symbols(count: int) -> str:
    return '{"unit": "character", "symbols": [' + ", ".join(['"\u0100"'] * count) + "]}"


def _write(path: Path, content: bytes | str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


DEEP = 100_000
HOSTILE: dict[str, Callable[[Path], None]] = {
    "pickle named .safetensors": weights(lambda _: pickle.dumps(Bomb())),
    "torch's file named .safetensors": weights(lambda _: b"PK\x03\x04" + bytes(5000)),
    "weights: an empty file": weights(lambda _: b""),
    "weights: a header of 2**60 bytes": weights(lambda data: (1 << 60).to_bytes(8, "little") + data[8:]),
    "weights: a header of 100 MB": weights(lambda data: (100_000_000).to_bytes(8, "little") + data[8:]),
    "weights: a header that is no JSON": header(lambda _: "nonsense"),
    "weights: a header that is a list": header(lambda _: "[]"),
    "weights: a key twice": header(lambda values: json.dumps(values)[:-1] + ', "head.bias": 1}'),
    "weights: nested deeply": header(lambda _: '{"a": ' + "[" * DEEP + "]" * DEEP + "}"),
    "weights: overlapping arrays": entry(data_offsets=[8, 488]),
    "weights: a hole between arrays": entry(data_offsets=[4, 484]),
    "weights: an array beyond the end": entry(data_offsets=[0, 1 << 50]),
    "weights: negative places": entry(data_offsets=[-480, 0]),
    "weights: places that are no numbers": entry(data_offsets=["0", "480"]),
    "weights: places that are missing": header(lambda values: values["embedding.weight"].pop("data_offsets") and None),
    "weights: a shape whose product overflows": entry(shape=[1 << 40, 1 << 40]),
    "weights: a shape of fractions": entry(shape=[5.0, 24.0]),
    "weights: a shape of truth": entry(shape=[True, 120]),
    "weights: a shape with 10,000 sizes": entry(shape=[1] * 10_000),
    "weights: another shape of the same size": entry(shape=[24, 5]),
    "weights: a type that does not exist": entry(dtype="F999"),
    "weights: another type of the same size": entry(dtype="I32"),
    "weights: an array is missing": header(lambda values: values.update(other=values.pop("embedding.weight"))),
    "weights: a name that commands the terminal": header(lambda v: v.update({"\x1b[2J": v.pop("head.bias")})),
    "weights: nan": end_weights_with(float("nan")),
    "weights: infinity": end_weights_with(float("inf")),
    "weights: one bit changed": lambda run: _write(run / MODEL, _flip_bit((run / MODEL).read_bytes())),
    "weights: a sparse file of 10 GB": sparse(MODEL),
    "weights: a pipe": pipe(MODEL),
    "weights: a folder": folder(MODEL),
    "weights: a link out of the folder": replace_by_link(MODEL),
    "weights: a link to /dev/zero": replace_by_link(MODEL, "/dev/zero"),
    "training state: a sparse file of 10 GB": sparse(TRAINING),
    "training state: 10 GB that the manifest vouches for": lambda run: write_sparse_state(run, 10_000_000_000),
    "training state: a pipe": pipe(TRAINING),
    "training state: a link to /dev/zero": replace_by_link(TRAINING, "/dev/zero"),
    "manifest: not JSON": rewritten(MANIFEST, "\x80"),
    "manifest: a list": rewritten(MANIFEST, "[]"),
    "manifest: a key twice": replace_text(MANIFEST, '"step": 3', '"step": 3, "step": 4'),
    "manifest: a step that is text": edit_json(MANIFEST, lambda values: values.update(step="../../../etc")),
    "manifest: another step": edit_json(MANIFEST, lambda values: values.update(step=4)),
    "manifest: a step of 4,000 digits": replace_text(MANIFEST, '"step": 3', '"step": ' + "9" * 4000),
    "manifest: files elsewhere": edit_json(
        MANIFEST, lambda values: values.update(files={"../../../../etc/passwd": {}})
    ),
    "manifest: files that are a list": edit_json(MANIFEST, lambda values: values.update(files=[1, 2])),
    "manifest: sizes that are text": edit_json(MANIFEST, lambda v: v["files"]["model.safetensors"].update(bytes="9")),
    "manifest: NaN": replace_text(MANIFEST, '"nats": 1.0', '"nats": NaN'),
    "manifest: a number beyond all": replace_text(MANIFEST, '"nats": 1.0', '"nats": 1e999'),
    "manifest: nested deeply": rewritten(MANIFEST, "[" * DEEP + "]" * DEEP),
    "manifest: four million lists": rewritten(MANIFEST, lambda: "[" + "[]," * 2_900_000 + "[]]"),
    "manifest: a sparse file of 10 GB": sparse(MANIFEST),
    "manifest: a link out of the folder": replace_by_link(MANIFEST),
    "manifest: a link to /dev/zero": replace_by_link(MANIFEST, "/dev/zero"),
    "index: a list": rewritten(INDEX, "[1]"),
    "index: a step that is a path": replace_text(INDEX, '"best": 3', '"best": "../../../etc"'),
    "index: a step that is not there": replace_text(INDEX, '"best": 3', '"best": 5'),
    "index: a negative step": replace_text(INDEX, '"best": 3', '"best": -3'),
    "index: a key twice": replace_text(INDEX, '"best": 3', '"best": 3, "best": 3'),
    "index: a million entries": rewritten(
        INDEX, lambda: json.dumps({"best": 3, "last": 3, "validation": dict.fromkeys(map(str, range(600_000)))})
    ),
    "index: a link out of the folder": replace_by_link(INDEX),
    "checkpoints: a link out of the folder": replace_by_link("checkpoints"),
    "checkpoint: a link out of the folder": replace_by_link(f"checkpoints/{STEP}"),
    "vocabulary: 10**7 entries": rewritten("vocabulary.json", lambda: many_symbols(10_000_000)),
    "vocabulary: as many entries as fit": rewritten("vocabulary.json", lambda: many_symbols(1_250_000)),
    "vocabulary: an entry twice": replace_text("vocabulary.json", '"a"', '"a", "a"'),
    "vocabulary: one symbol less": replace_text("vocabulary.json", '"a", ', ""),
    "vocabulary: a key twice": replace_text("vocabulary.json", '"unit": ', '"unit": "byte", "unit": '),
    "vocabulary: symbols that are numbers": rewritten("vocabulary.json", '{"unit": "character", "symbols": [1, 2]}'),
    "vocabulary: symbols that are an object": rewritten(
        "vocabulary.json", '{"unit": "character", "symbols": {"a": 1}}'
    ),
    "vocabulary: of bytes": rewritten("vocabulary.json", '{"unit": "byte"}'),
    "vocabulary: of documents": replace_text("vocabulary.json", '"unit"', '"separator": "x", "unit"'),
    "vocabulary: nested deeply": rewritten("vocabulary.json", "[" * DEEP),
    "vocabulary: not UTF-8": rewritten("vocabulary.json", b'{"unit": "character", "symbols": ["\xff"]}'),
    "vocabulary: a link out of the folder": replace_by_link("vocabulary.json"),
    "vocabulary: a pipe": pipe("vocabulary.json"),
    "vocabulary: a sparse file of 10 GB": sparse("vocabulary.json"),
    "settings: not TOML": rewritten("settings.toml", "model = ["),
    "settings: not UTF-8": rewritten("settings.toml", b"\xff\xfe"),
    "settings: a key twice": replace_text("settings.toml", "width = 24", "width = 24\nwidth = 12"),
    "settings: a name that is none": replace_text("settings.toml", "width = 24", "width = 24\nimport = 'os'"),
    "settings: a width that is text": replace_text("settings.toml", "width = 24", "width = 'x'"),
    "settings: the widest and deepest model": lambda run: (
        replace_text("settings.toml", "width = 24", "width = 16384")(run),
        replace_text("settings.toml", "layers = 1", "layers = 64")(run),
    )[0],
    "settings: a model that cannot be": replace_text("settings.toml", 'input = "embedding"', 'input = "onehot"\n'),
    "settings: an embedding that is a file": replace_text(
        "settings.toml", "embedding = 0", "embedding = '/etc/passwd'"
    ),
    "settings: a number that is infinite": replace_text("settings.toml", "learning_rate = 0.04", "learning_rate = inf"),
    "settings: nested deeply": rewritten("settings.toml", "a = " + "[" * DEEP),
    "settings: a key of 100,000 parts": rewritten("settings.toml", "a." * DEEP + "a = 1"),
    "settings: a width of 4,000 hexadecimal digits": replace_text(
        "settings.toml", "width = 24", "width = 0x" + "f" * 4000
    ),
    "settings: a number of 4,000 digits that is not used": replace_text(
        "settings.toml", "[run]", "[run]\na = 0x" + "f" * 4000
    ),
    "settings: 40,000 names that are none": rewritten(
        "settings.toml", lambda: "\n".join(f"a{n} = 1" for n in range(40_000))
    ),
    "settings: a path with a zero in it": replace_text("settings.toml", 'corpus = "c"', 'corpus = "c\\u0000"'),
    "settings: a run that is a number": lambda run: _write(
        run / "settings.toml", "run = 3\n" + (run / "settings.toml").read_text().partition("[run]")[0]
    ),
    "settings: a sparse file of 10 GB": sparse("settings.toml"),
    "settings: a pipe": pipe("settings.toml"),
    "settings: a link out of the folder": replace_by_link("settings.toml"),
}


def _flip_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def truncations(run: Path) -> list[tuple[str, int]]:
    """Every file of a run, with every whole number of KB that is less than its size."""
    return [(name, size) for name in FILES for size in range(0, (run / name).stat().st_size, 1024)]


def truncate(name: str, size: int) -> Callable[[Path], None]:
    return lambda run: os.truncate(run / name, size)


def copy_run(good: Path, to: Path) -> Path:
    shutil.copytree(good, to)
    return to
