"""Writes an export as one HTML file: the page's Write and Read with the network in int8, for a browser alone.

The file is ASCII. It holds two compressed streams, each encoded as text: a header in JSON (see `_header`), which has
the page and its modules too, and the arrays. `open.js` unpacks them. The modules of server/page are put in without
their comments; `local_api.js` stands for `api.js`, and computes what a server would answer.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float32s
from scriven.errors import UsageError
from scriven.exchange.exported import ExportedModel, check_cell_is_own
from scriven.inference.chunks import chunks_of, documents_of
from scriven.kernels.counts import NgramCounter, NgramMixture, NgramTable
from scriven.kernels.packing import CELLS, LAYER_WEIGHTS, TABLE_BYTES, gate_biases, round_to_int8, symbol_sums
from scriven.runs.recovery import open_run_corpus
from scriven.safe_files import check_free, create_file
from scriven.settings import reader_window

COUNTS_BYTES = 1_000_000  # of the counts in a file, before they are compressed; larger ones are pruned
ENTRY, OPENER, API = "local_app.js", "open.js", "api.js"
LINE = 1000  # characters of the archive
# 7 digits of this base have 48 bits. Left out is what HTML or a transfer as text may change, and what ends an element.
ALPHABET = "".join(chr(point) for point in range(1, 127) if point not in {*range(7, 14), 26, 27, ord("<")})
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'wasm-unsafe-eval' data:"  # modules are data, and WebAssembly is compiled
)
IMPORT = re.compile(r'^(import [^;"]*")\./([\w.]+)(";)$', re.MULTILINE)
COMMENT = re.compile(r"^ *(?:/\*\*?(?: .*?\*/|\n.*?\*/)|//[^\n]*)\n|^ +", re.MULTILINE | re.DOTALL)
OF_SERVERS = re.compile(
    r'<button [^>]*id="tab-(?:watch|compare)".*?</button>'
    r'|<section id="(?:watch|compare)".*?</section>|<dialog .*?</dialog>'
    r"|/\* --- (?:watch|compare) \*/.*?(?=/\* --- )",
    re.DOTALL,
)
PAGE = """<!doctype html>
<html lang="en" data-scope="{SCOPE}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{NAME} - Scriven</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{ICON}" type="image/svg+xml">
<style>
.closed > :not(#opening) { visibility: hidden; }
#opening { position: fixed; margin: 40px 16px; font: 17px sans-serif; }
</style>
</head>
<body class="closed">
<main id="opening">Opening the model, which is in this page ...
<noscript> It computes in your browser, and needs JavaScript.</noscript></main>
<script type="text/plain" id="header"{HEADER}</script>
<script type="text/plain" id="arrays"{ARRAYS}</script>
<script>
{OPENER}</script>
</body>
</html>
"""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class HtmlExport:
    """The bytes of the file, and notes on its counts."""

    size: int
    notes: list[str]


def write_html(model: ExportedModel, path: Path, *, with_counts: bool = False) -> HtmlExport:
    """Writes the page with a model to a new file.

    Raises UsageError if the page cannot hold the model, or if the name is taken; InputError if its counts have to be
    pruned, and the training text is not there.
    """
    check_page_holds(model)
    check_free(path, replace=False)
    whole = _whole_counts(model) if with_counts else None
    table = prune_counts(model, whole) if whole is not None and whole.bytes > COUNTS_BYTES else whole
    header, arrays = _header(model), _network(model)
    if table is not None:
        description, counts = _counts(model, table)
        header["counts"], arrays = description, arrays | counts
    data = make_page(header, arrays).encode("ascii")
    with create_file(path, replace=False) as file:
        file.write(data)
    return HtmlExport(len(data), _count_notes(whole, table))


def check_page_holds(model: ExportedModel) -> None:
    """Raises UsageError for a model that the page does not compute as Scriven does."""
    check_cell_is_own(model, "html")
    settings, vocabulary = model.settings, model.vocabulary
    if vocabulary.unit != "character":
        raise UsageError(
            f"an html page reads and writes characters, and this model has {vocabulary.unit}s; use scriven serve for a "
            "page, or --to torch"
        )
    if window := reader_window(model.run.settings.reader):
        raise UsageError(
            f"the model was trained on windows of {window:,} characters, which it reads anew for each character; an "
            "html page would be too slow for that: use scriven serve, or train with --reader.kind stream"
        )
    blocks = max(-(-width // 16) for width in model.widths[1:2])
    size = 4 * vocabulary.size * CELLS[settings.cell] * 16 * blocks
    if size > TABLE_BYTES // 2:
        raise UsageError(
            f"the sums of the first layer take {size / 1e6:,.0f} MB for {vocabulary.size:,} symbols, too much for an "
            f"html page (at most {TABLE_BYTES / 2e6:,.0f} MB); use scriven serve, or train with a smaller --model.width"
        )


# --- what the file holds


def _header(model: ExportedModel) -> dict[str, Any]:
    """Returns the header without arrays: names, modules, and what `model.js` has to know of network and text."""
    settings, vocabulary, config = model.settings, model.vocabulary, model.config
    return {
        "name": model.run.path.resolve().name,
        "body": OF_SERVERS.sub("", _page_file("index.html")).partition("<body>")[2].partition("</body>")[0],
        "style": OF_SERVERS.sub("", _page_file("style.css")),
        "modules": dict(_modules()),
        "network": {
            "cell": settings.cell,
            "gates": CELLS[settings.cell],
            "activations": settings.activations,
            "widths": model.widths[1:],
            "members": settings.members,
            "residual": settings.residual,
            "norm": settings.norm,
            "symbols": vocabulary.size,
            "boundary": vocabulary.boundary,
        },
        "text": {
            "symbols": [chr(symbol) for symbol in vocabulary.symbols],
            "separator": vocabulary.separator or "",
            "boundary": vocabulary.boundary,
            "unknown": vocabulary.unknown,
            "unknownNats": vocabulary.unseen_nats,
            "opening": config["opening"],
            "documents": config["documents"],
            **config["text"],
        },
    }


def _modules() -> Iterator[tuple[str, str]]:
    """Yields the modules that the page needs, by the names that they are imported by."""
    waiting, seen = [ENTRY], {ENTRY}
    while waiting:
        name = waiting.pop()
        text = _source("local_api.js" if name == API else name)
        found = [match[2] for match in IMPORT.finditer(text) if match[2] not in seen]
        waiting, seen = waiting + found, seen | {*found}
        yield f"scriven/{name}", _thin(IMPORT.sub(r"\1scriven/\2\3", text))


def _page_file(name: str) -> str:
    """Returns a file of the server's page."""
    return files("scriven.server").joinpath("page", name).read_text("utf-8")


def _thin(source: str) -> str:
    """Returns the source of a module without the comments that have lines of their own, and without indentation."""
    return COMMENT.sub("", source)


def _source(name: str) -> str:
    """Returns the source of a module: one of this package, or of the server's page."""
    own = files("scriven.exchange").joinpath("page", name)
    return own.read_text("utf-8") if own.is_file() else _page_file(name)


def _network(model: ExportedModel) -> Arrays:
    """Returns the network's arrays: what native code packs in int8, in the order of torch's gates."""
    settings, arrays = model.settings, Arrays()
    shares = settings.split_weights(model.original)
    for member, weights in enumerate(shares):
        for depth in range(settings.layers):
            for name, array in _layer(settings.cell, weights, depth).items():
                arrays |= _packed(f"network.{member}.{depth}.{name}", array, name in ("input", "hidden"))
        if settings.head != "none":
            arrays |= _packed(f"network.{member}.head", np.float32(1 / len(shares)) * weights["head.weight"], True)
    if settings.head != "none":
        biases = [np.float32(1 / len(shares)) * weights["head.bias"] for weights in shares]
        arrays["network.head.bias"] = np.add.reduce(biases)
    return arrays


def _layer(cell: str, weights: dict[str, Float32s], depth: int) -> dict[str, Float32s]:
    """Returns the arrays of one layer. `sums` are its table (V, G*H), or, of later layers, the biases (G*H,)."""
    names = {name: f"layers.{depth}.rnn.{name}_l0" for name in LAYER_WEIGHTS}
    of = {name: weights[full] for name, full in names.items() if full in weights}
    bias, apart = gate_biases(cell, of)
    first = symbol_sums(weights.get("embedding.weight"), of["weight_ih"], bias) if depth == 0 else bias
    found = {"sums": first.astype(np.float32), "hidden": of.get("weight_hh"), "apart": apart}
    found |= {"input": of["weight_ih"] if depth else None}
    found |= {"norm": weights.get(f"norms.{depth}.weight"), "shift": weights.get(f"norms.{depth}.bias")}
    return {name: array for name, array in found.items() if array is not None}


def _packed(name: str, array: Float32s, is_matrix: bool) -> Arrays:
    """Returns an array by its name, or a matrix in int8 with its scales."""
    if not is_matrix:
        return {name: array}
    rounded, scales = round_to_int8(array)
    return {name: rounded, f"{name}.scale": scales}


# --- counts


def _whole_counts(model: ExportedModel) -> NgramTable:
    """Returns the counts of a run. Raises UsageError without any."""
    table = None if model.checkpoint.mixture is None else model.run.counts()
    if table is None:
        raise UsageError(
            "the network of this checkpoint is not mixed with counts, so there are none to put in; drop --with-counts"
        )
    return table


def _count_notes(whole: NgramTable | None, table: NgramTable | None) -> list[str]:
    """Returns what people should know who get the counts of a run."""
    found = []
    if table is not None:
        found.append("counts of the training text are in the page, and passages of the text can be made out from them")
    if whole is not None and table is not whole:
        found.append(
            f"the counts have {whole.bytes / 1e6:.1f} MB and were pruned to 1 MB, so a seed gives another text than "
            "scriven sample; without --with-counts it gives the text of scriven sample --counts none"
        )
    return found


def prune_counts(model: ExportedModel, table: NgramTable) -> NgramTable:
    """Returns a table of the same training text and longest contexts that takes at most about `COUNTS_BYTES`."""
    text, boundary = open_run_corpus(model.run).training, table.boundary
    total = text.characters + (text.documents if boundary is not None else 0)
    with NgramCounter(
        table.symbols, total, boundary=boundary, longest=table.longest, table_bytes=COUNTS_BYTES
    ) as counter:
        whole = text.characters if boundary is None else text.documents
        for ids in chunks_of(text, 0, whole) if boundary is None else documents_of(text, boundary, 0, whole):
            counter.count(model.vocabulary.clamp(ids))
        return counter.finish()[0]


def _counts(model: ExportedModel, table: NgramTable) -> tuple[dict[str, Any], Arrays]:
    """Returns the description and the arrays of counts, and the weights of both mixtures."""
    mixture = model.checkpoint.mixture
    assert mixture is not None  # or there would be no table
    reading, writing = mixture.mixtures(table)
    arrays = table.arrays | {"discounts": table.arrays["discounts"] * reading.discount}
    arrays["levels"] = arrays["levels"].astype(np.float64)
    found = {f"counts.{name}": array for name, array in arrays.items()}
    return {"reach": table.reach, "reading": _weights(reading), "writing": _weights(writing)}, found


def _weights(mixture: NgramMixture) -> dict[str, Any]:
    return {"longest": mixture.longest, "weights": mixture.weights.tolist()}


# --- the file


def make_page(header: dict[str, Any], arrays: Arrays) -> str:
    """Returns the file's text."""
    listed = [[name, array.dtype.name, array.size] for name, array in arrays.items()]
    packed = json.dumps({**header, "arrays": listed}, ensure_ascii=True, allow_nan=False).encode()
    data = b"".join(map(_planes, arrays.values()))
    icon = _page_file("icon.svg").strip().replace("#", "%23").replace('"', "'")
    values = {
        "NAME": html.escape(header["name"]),
        "SCOPE": f"{zlib.crc32(packed + data):08x}-",
        "POLICY": POLICY,
        "ICON": html.escape(f"data:image/svg+xml,{icon}"),
        "HEADER": _content(zlib.compress(packed, 9)),
        "ARRAYS": _content(_compress(data)),
        "OPENER": _thin(_source(OPENER)),
    }
    return re.sub(r"\{([A-Z]+)\}", lambda match: values[match[1]], PAGE).encode("ascii", "xmlcharrefreplace").decode()


def _planes(array: npt.NDArray[Any]) -> bytes:
    """Returns the bytes of an array, the last ones of all numbers first; the sign of a float32 is moved to its end.

    So its exponent is one byte, and all exponents stand together.
    """
    values = np.ascontiguousarray(array).reshape(-1)
    if values.dtype == np.float32:
        bits = values.view(np.uint32)
        values = bits << np.uint32(1) | bits >> np.uint32(31)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little.view(np.uint8).reshape(-1, little.itemsize).T).tobytes()


def _content(data: bytes) -> str:
    """Returns the last attribute and the content of an element that holds bytes."""
    return f' data-bytes="{len(data)}">{encode_bytes(data)}'


def _compress(data: bytes) -> bytes:
    """Returns a compressed stream. Weights repeat nothing, so that it makes use of the bytes' frequencies alone."""
    compressor = zlib.compressobj(9, strategy=zlib.Z_RLE)
    return compressor.compress(data) + compressor.flush()


def encode_bytes(data: bytes) -> str:
    """Returns bytes as ASCII text: each 6 bytes are a number of 7 digits, the first one the lowest."""
    values = np.pad(np.frombuffer(data, np.uint8), (0, -len(data) % 6)).reshape(-1, 6)
    numbers = values.astype(np.int64) @ (1 << np.arange(0, 48, 8))
    places = numbers[:, None] // len(ALPHABET) ** np.arange(7) % len(ALPHABET)
    text = np.frombuffer(ALPHABET.encode(), np.uint8)[places].tobytes().decode()
    return "\n".join(text[begin : begin + LINE] for begin in range(0, len(text), LINE))
