"""`scriven export --to html`: the page in one file writes the same text as `scriven sample`, and scores alike.

Chromium opens the file itself, without a server and offline. Needs Debian's chromium-headless-shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from at_the_page import alternatives, click_character, read, set_dials, wait_for_text, write
from conftest import Command
from random_run import LETTERS, make_random_run
from scriven.exchange import html_page
from scriven.exchange.exported import read_exported
from scriven.exchange.html_page import ALPHABET, encode_bytes, prune_counts, write_html
from scriven.kernels import native_library
from scriven.runs import create_run
from scriven.runs.tensors import decode
from scriven.settings_values import validate
from scriven.starts import PACKAGED
from scriven.trained_model import Model, load
from scriven.training.request import Request
from scriven.training.start import train
from scriven.vocabulary import Vocabulary

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"layers": 3},
    "lstm of relu": {"activation": "relu,tanh"},
    "gru": {"cell": "gru", "width": 19},
    "rnn": {"cell": "rnn", "activation": "tanh,relu", "width": 70},
    "mingru": {"cell": "mingru"},
    "one-hot, without an output layer": {"input": "onehot", "head": "none"},
    "tied, residual and rms": {"tied": True, "residual": True, "norm": "rms", "layers": 3, "width": 33},
    "layer norm, another embedding": {"norm": "layer", "embedding": 5, "cell": "gru"},
    "two members": {"members": 2, "norm": "rms"},
}
HOSTILE = "\n\r\t\0 \"&'<>\\`{}/scriptSCRIPT!-\u2028\u2029\ufeff\ufffe\ud800é漢😀𝄞"
SYMBOLS = Vocabulary.of("".join(map(chr, range(32, 232))) + "\n")
TEXT = "a bad cab, a\n code\r\n dé bead 😀 or the cold\n" * 3
CHOICES: tuple[dict[str, Any], ...] = (
    {"seed": 1, "temperature": 1.0},
    {"seed": 2**31 - 1, "temperature": 0.8, "top_k": 5, "top_p": 0.9},
    {"seed": 2**40 + 7, "temperature": 1.5, "min_p": 0.05},
    {"seed": 3, "temperature": 0.7, "top_p": 0.6},
    {"seed": 0, "temperature": 0.0},
)
GENERATE = """async (fields) => {
    const api = await import("scriven/api.js");
    let text = "";
    for await (const piece of api.generate(fields)) text += piece.text;
    return text;
}"""
SCORE = """async (text) => {
    const api = await import("scriven/api.js");
    const found = [];
    const { separator } = await api.tokenizerFacts();
    for await (const nats of api.score("", text, separator)) found.push(...nats);
    return found;
}"""

Open = Callable[[Path], Page]


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Open]:
    """Opens a file without a network. What the page complains of fails the test, and all that it would load."""
    context.set_offline(True)
    said: list[str] = []

    def _open(path: Path) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("request", lambda request: said.append(request.url) if _is_foreign(request.url, path) else None)
        page.goto(path.as_uri())
        page.wait_for_selector("body:not(.closed)")
        return page

    yield _open
    assert said == []


def _is_foreign(url: str, path: Path) -> bool:
    return not url.startswith(("data:", "blob:", path.as_uri()))


def export(run: Path, **options: bool) -> Path:
    path = run.with_suffix(".html")
    write_html(read_exported(str(run)), path, **options)
    return path


def fields(prompt: str, length: int, **choices: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": length, **choices}


@pytest.mark.parametrize("name", MODELS)
def test_texts_and_surprisals_are_scrivens(name: str, open_page: Open, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", model=MODELS[name])
    page, model = open_page(export(run)), load(run)
    for choices in CHOICES:
        wanted = model.sample("a bad ", length=200, **choices)
        assert page.evaluate(GENERATE, fields("a bad ", 200, **choices)) == wanted, choices
    np.testing.assert_allclose(page.evaluate(SCORE, TEXT), model.score(TEXT).surprisals, rtol=0, atol=1e-6)


def test_the_commands_agree(command: Command, open_page: Open, tmp_path: Path) -> None:
    run, path, text = make_random_run(tmp_path / "run"), tmp_path / "page.html", tmp_path / "text.txt"
    done = command("export", str(run), "--to", "html", "-o", str(path), "--json")
    assert json.loads(done.out)["bytes"] == path.stat().st_size
    text.write_text("a bad cab\n", "utf-8")
    page = open_page(path)
    words = ["--prompt", "the ", "--seed", "7", "-n", "120", "-t", "0.9", "--counts", "none"]
    wanted = command("sample", str(run), *words)
    assert "the " + page.evaluate(GENERATE, fields("the ", 120, seed=7, temperature=0.9)) in wanted.out
    rows = command("score", str(run), str(text), "--by", "character", "--json", "--counts", "none").out.splitlines()
    nats = [json.loads(row)["nats"] for row in rows if "nats" in json.loads(row)]
    np.testing.assert_allclose(page.evaluate(SCORE, "a bad cab\n"), nats[: len("a bad cab\n")], rtol=0, atol=1e-6)


@pytest.mark.parametrize("top", [{"top_k": 40}, {"top_p": 0.9}, {"top_k": 150, "top_p": 0.95, "min_p": 0.002}])
def test_many_symbols_are_filtered_alike(top: dict[str, Any], open_page: Open, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", SYMBOLS)
    wanted = load(run).sample("A", length=300, seed=1, temperature=1.0, **top)
    assert open_page(export(run)).evaluate(GENERATE, fields("A", 300, seed=1, temperature=1.0, **top)) == wanted


@pytest.mark.parametrize("documents", ["lines", "files", "separator"])
def test_models_of_documents(documents: str, open_page: Open, tmp_path: Path) -> None:
    separator = {"lines": "\n", "files": "\n", "separator": "%%"}[documents]
    kinds: dict[str, Any] = {"documents": documents} | ({"separator": separator} if documents == "separator" else {})
    vocabulary = Vocabulary.of(LETTERS.replace("\n", "\n" if documents != "lines" else ""), separator)
    run = make_random_run(tmp_path / "run", vocabulary, corpus=kinds)
    page, model = open_page(export(run)), load(run)
    for seed in range(4):
        asked = fields("ab", 100, seed=seed, temperature=1.2)
        several = model.sample("ab", length=100, seed=seed, temperature=1.2, until_end=False)
        assert page.evaluate(GENERATE, asked | {"ignore_eos": True}) == several
        ended = model.sample("ab", length=100, seed=seed, temperature=1.2)
        assert page.evaluate(GENERATE, asked) == ended
    text = separator.join(["a bad", "", "cab", "bead\u00e9", ""])
    np.testing.assert_allclose(page.evaluate(SCORE, text), model.score(text).surprisals, rtol=0, atol=1e-6)


def test_a_text_is_prepared_as_in_training(open_page: Open, tmp_path: Path) -> None:
    corpus = {"lowercase": True, "punctuation": "ascii", "normalize": "nfc"}
    run = make_random_run(tmp_path / "run", Vocabulary.of(LETTERS + "\u00e9'-."), corpus=corpus)
    page, model = open_page(export(run)), load(run)
    text = "A BAD ‘Cab’ — de\u0301, \u00c9…\n"
    asked = fields(text, 60, seed=1, temperature=1.0)
    assert page.evaluate(GENERATE, asked) == model.sample(text, length=60, seed=1, temperature=1.0)
    np.testing.assert_allclose(page.evaluate(SCORE, text), model.score(text).surprisals, rtol=0, atol=1e-6)


def test_hostile_symbols_and_names_do_no_harm(open_page: Open, tmp_path: Path) -> None:
    folder = tmp_path / "</script><script>alert(1)</script>".replace("/", "∕")
    path = export(make_random_run(folder, Vocabulary.of(HOSTILE)))
    assert path.read_bytes().isascii()
    page, model = open_page(path), load(folder)
    expect(page).to_have_title(f"{folder.name} - Scriven")
    prompt = "</script><!--\u2028\u2029😀𝄞\0"
    wanted = model.sample(prompt, length=200, seed=1, temperature=1.4)
    asked = fields(prompt, 200, seed=1, temperature=1.4)
    points = f"async (fields) => Array.from(await ({GENERATE})(fields), (each) => each.codePointAt(0))"
    assert page.evaluate(points, asked) == [*map(ord, wanted)]
    np.testing.assert_allclose(page.evaluate(SCORE, prompt), model.score(prompt).surprisals, rtol=0, atol=1e-6)


def test_plain_javascript_gives_the_same(open_page: Open, tmp_path: Path) -> None:
    """Where the browser has no vectors of WebAssembly; the sums are exact integers either way."""
    run = make_random_run(tmp_path / "run", model={"width": 37})
    found = open_page(export(run)).evaluate(
        """async () => {
            const { Model } = await import("scriven/model.js");
            const { header, arrays } = globalThis.scriven;
            const write = async (...compiler) => {
                const ids = [];
                const model = new Model(header, arrays, ...compiler);
                const settings = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 };
                for await (const id of model.write("a", settings, 1, 200, async () => {})) ids.push(id);
                return ids;
            };
            return [await write(() => null), await write()];
        }"""
    )
    assert len(found[0]) == 200
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 + 3, 10**50])
def test_random_numbers_are_numpys(seed: int, open_page: Open, tmp_path: Path) -> None:
    found = open_page(export(make_random_run(tmp_path / "run"))).evaluate(
        """async (seed) => {
            const { Random } = await import("scriven/pcg64.js");
            const random = new Random(BigInt(seed));
            return Array.from({ length: 50 }, () => random.next());
        }""",
        str(seed),
    )
    assert found == np.random.default_rng(seed).random(50).tolist()


# --- counts

WORDS = ["the cat", "a rat", "sat", "on a mat", "and", "spat", "ran", "at noon"]
SMALL: dict[str, Any] = {
    "budget": {"steps": 4},
    "model": {"width": 8, "layers": 1},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "threads": 1, "precision": "fp32"},
    "monitor": {"every_steps": 4, "sample_length": 0},
}


@pytest.fixture(scope="module", params=["none", "lines"])
def counted_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network is mixed with counts, some of them above 255."""
    folder, random = tmp_path_factory.mktemp("counts"), np.random.default_rng(1)
    (folder / "tale.txt").write_text("\n".join(" ".join(random.choice(WORDS, 5)) for _ in range(700)))
    settings = validate({**SMALL, "corpus": {"documents": request.param}})
    list(train(Request((str(folder / "tale.txt"),), settings, folder / "run", initial="none")))
    return folder / "run"


def test_counts_come_along_where_asked(counted_run: Path, open_page: Open, tmp_path: Path) -> None:
    made = write_html(read_exported(str(counted_run)), tmp_path / "page.html", with_counts=True)
    assert "passages of the text can be made out" in " ".join(made.notes)
    assert "pruned" not in " ".join(made.notes)
    assert_as_model(open_page(tmp_path / "page.html"), load(counted_run))
    write_html(read_exported(str(counted_run)), tmp_path / "alone.html")
    assert_as_model(open_page(tmp_path / "alone.html"), load(counted_run, counts="none"))


def assert_as_model(page: Page, model: Model) -> None:
    """Compares what the page writes and scores with a model."""
    for choices in CHOICES[:3]:
        for prompt in ("", "the cat s"):
            until_end = False if model.ends_texts else None
            wanted = model.sample(prompt, length=300, until_end=until_end, **choices)
            found = page.evaluate(GENERATE, fields(prompt, 300, ignore_eos=True, **choices))
            assert found == wanted, (prompt, choices)
    text = "the cat sat\nand a rat spat zebras at \nnoon"
    np.testing.assert_allclose(page.evaluate(SCORE, text), model.score(text).surprisals, rtol=0, atol=1e-6)


def test_large_counts_are_pruned(
    counted_run: Path, open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_page, "COUNTS_BYTES", 5000)
    exported = read_exported(str(counted_run))
    made = write_html(exported, tmp_path / "page.html", with_counts=True)
    assert "were pruned to 1 MB, so a seed gives another text" in " ".join(made.notes)
    whole, mixture, model = exported.run.counts(), exported.checkpoint.mixture, load(counted_run)
    assert whole is not None and mixture is not None
    table = prune_counts(exported, whole)
    assert table.bytes < 8000 < whole.bytes
    pruned = Model(model.predictor.with_counts(*mixture.mixtures(table)), model.settings, step=model.step)
    assert_as_model(open_page(tmp_path / "page.html"), pruned)


# --- as people use it


def test_people_write_choose_and_read(open_page: Open, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run")
    page, model = open_page(export(run)), load(run)
    expect(page.locator("#tab-watch")).to_have_count(0)
    set_dials(page, temperature=1)
    text = write(page, "a bad ")
    assert text == "a bad " + model.sample("a bad ", length=100, seed=7, temperature=1.0)
    click_character(page, text[:9])
    found = alternatives(page)
    session = model.session()
    session.read(text[:9])
    likeliest = model.decode([int(session.next(writing=True)[:-1].argmax())])
    assert found.first.locator(".glyph").text_content() == {" ": "space", "\n": "new line"}.get(likeliest, likeliest)
    found.nth(1).click()
    assert wait_for_text(page).startswith(text[:9])
    text_read = TEXT.replace("\r", "")  # a field of a page has no returns
    read(page, text_read)
    bits = float(page.locator("#read-bits").text_content() or "")
    assert bits == pytest.approx(model.score(text_read).bits_per_char, abs=0.001)
    page.set_input_files("#read-choose", {"name": "novel.docx", "mimeType": "", "buffer": b"PK"})
    expect(page.locator("#read-note")).to_contain_text("Save novel.docx as plain text")
    page.reload()
    page.wait_for_selector("body:not(.closed)")
    page.click("#tab-write")
    assert wait_for_text(page).startswith(text[:9])


def test_what_the_browser_keeps_is_of_one_file(open_page: Open, tmp_path: Path) -> None:
    one = open_page(export(make_random_run(tmp_path / "one")))
    write(one, "a bad ")
    other = open_page(export(make_random_run(tmp_path / "other", Vocabulary.of("\nab"))))
    expect(other.locator("#write-prompt")).to_have_value("")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_no_view_hinders_anybody(open_page: Open, tmp_path: Path, scheme: Any, width: int) -> None:
    page = open_page(export(make_random_run(tmp_path / "run")))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.locator("#write-keep")).to_be_visible()
    prompt = page.locator("#write-prompt")
    assert prompt.evaluate("(field) => field.scrollHeight <= field.clientHeight")  # its hint is not cut off
    assert violations(page) == []
    text = write(page, "a bad ")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#write-go")).to_be_in_viewport()
    click_character(page, text[:9])
    alternatives(page)
    assert violations(page) == []
    page.keyboard.press("Escape")
    read(page, TEXT)
    assert violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def violations(page: Page) -> list[tuple[str, list[str]]]:
    found = Axe().run(page).response["violations"]
    return [(each["help"], [node["html"] for node in each["nodes"]]) for each in found]


# --- the file


def trained_run(folder: Path, width: int) -> Path:
    """A run of two layers of a start's trained weights: its first cells, and the first 65 of its symbols."""
    path = PACKAGED / "english" / "model.safetensors"
    weights = decode(path, path.read_bytes())
    cut = {name: _first(name, array, width) for name, array in weights.items()}
    settings = validate({"model": {"width": width, "layers": 2}})
    run = create_run(folder, settings, Vocabulary.of("".join(map(chr, range(32, 96)))), {"texts": [], "corpus": ""})
    run.save(cut, {}, {"step": 1, "validation": {}}, best=1)
    return folder


def _first(name: str, array: Any, width: int) -> Any:
    rows = [array[:65]] if name.startswith(("embedding", "head")) else [gate[:width] for gate in np.split(array, 4)]
    return np.ascontiguousarray(np.concatenate(rows)[..., :width] if array.ndim > 1 else np.concatenate(rows))


@pytest.mark.parametrize(("width", "most"), [(192, 750_000), (256, 1_300_000)])
def test_a_page_is_small(width: int, most: int, tmp_path: Path) -> None:
    assert export(trained_run(tmp_path / "run", width)).stat().st_size <= most


def test_bytes_come_back_from_the_text(open_page: Open, tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(1003)
    text = encode_bytes(data).replace("\n", "")
    places = np.array([ALPHABET.index(each) for each in text]).reshape(-1, 7)
    numbers = [sum(int(digit) * len(ALPHABET) ** place for place, digit in enumerate(row)) for row in places]
    assert b"".join(number.to_bytes(6, "little") for number in numbers)[: len(data)] == data
    assert len(ALPHABET) ** 7 >= 1 << 48
    assert not set(ALPHABET) & set("\0\n\r<")


def test_no_name_and_no_text_is_in_it(tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run")
    header = json.dumps(html_page._header(read_exported(str(run))))
    assert not re.search("secret|/home|/tmp|corpus", header)


def test_modules_are_the_pages_own_and_can_be_thinned() -> None:
    modules = dict(html_page._modules())
    assert {"scriven/write.js", "scriven/read.js", "scriven/alternatives.js", "scriven/model.js"} <= modules.keys()
    assert not {"scriven/watch.js", "scriven/compare.js", "scriven/app.js"} & modules.keys()
    for name, source in modules.items():
        assert not re.findall(r'from "\./', source), name
        assert all(line.count("`") % 2 == 0 for line in source.splitlines()), f"{name}: a template of several lines"


@pytest.mark.parametrize(
    ("sections", "unit", "words"),
    [
        ({"corpus": {"unit": "byte"}}, "byte", "this model has bytes"),
        ({"reader": {"kind": "windows", "length": 6}}, "character", "windows of 6 characters"),
        ({"model": {"width": 4096, "layers": 1}}, "many", "4,001 symbols"),
    ],
)
def test_what_a_page_cannot_hold_is_refused(
    sections: dict[str, Any], unit: str, words: str, command: Command, tmp_path: Path
) -> None:
    symbols = Vocabulary.of("".join(map(chr, range(0x4E00, 0x4E00 + 4000))))
    vocabulary = {"byte": Vocabulary.of_bytes(), "character": Vocabulary.of(LETTERS), "many": symbols}[unit]
    if unit == "many":
        sections = {"model": {"width": 300, "layers": 1}}
    run = make_random_run(tmp_path / "run", vocabulary, **sections)
    done = command("export", str(run), "--to", "html", "-o", str(tmp_path / "page.html"))
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "page.html").exists()


def test_a_flag_of_another_format_is_refused(command: Command, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run")
    assert "--with-counts is for --to html" in command("export", str(run), "--to", "onnx", "--with-counts").err
    assert "not mixed with counts" in command("export", str(run), "--to", "html", "--with-counts").err
    assert "--precision is for --to onnx" in command("export", str(run), "--to", "html", "--precision", "int8").err
