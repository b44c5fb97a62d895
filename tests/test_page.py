"""The page as people use it: a browser, a real server, tiny models. Needs Debian's chromium."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from fake_run import evaluated, finished, sampled, started, stepped
from live_server import serving
from page_server import LETTERS, TEXT, app_of, make_run
from scriven.report.files import FilesReport
from scriven.session import load

VIEWS = ("write", "read", "watch", "compare")
WORDS = {" ": "space", "\n": "new line"}  # for characters that leave no mark
LARGEST = 150_000  # bytes of everything that the page transfers before it is used


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "left": make_run(folder / "left"),
        "right": make_run(folder / "right", seed=2),
        "lines": make_run(folder / "lines", documents="lines"),
        "bytes": make_run(folder / "bytes", unit="byte"),
    }


@pytest.fixture(scope="module")
def address(runs: dict[str, Path]) -> Iterator[str]:
    with serving(app_of(runs)) as place:
        yield place.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    where = shutil.which("chromium")
    assert where, "the tests of the page need the system's chromium (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page, just opened. What it complains of fails the test: errors, and what its policy forbids."""
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    yield page
    assert said == []


def write(page: Page, prompt: str, seed: int = 7, length: int = 100) -> str:
    """What stands on the page after the model wrote."""
    page.fill("#write-prompt", prompt)
    page.fill("#dial-seed", str(seed))
    page.fill("#dial-max_tokens", str(length))
    page.click("#write-go")
    return written(page)


def written(page: Page) -> str:
    expect(page.locator("#write-go")).to_have_text("Write on")
    return page.locator("#write-text").text_content() or ""


def complete(address: str, **choices: Any) -> str:
    """What a model writes for anybody who asks as the page does."""
    answer = httpx.post(f"{address}/v1/completions", json={"seed": 7, "temperature": 0.8, "max_tokens": 100} | choices)
    return str(answer.json()["choices"][0]["text"])


def click_character(page: Page, before: str) -> None:
    """Clicks the character after this beginning of the text."""
    spot = page.evaluate(
        """place => {
            const walker = document.createTreeWalker(document.getElementById("write-text"), NodeFilter.SHOW_TEXT);
            while (walker.nextNode().length <= place) place -= walker.currentNode.length;
            walker.currentNode.parentElement.scrollIntoView({ block: "center" });
            const range = document.createRange();
            range.setStart(walker.currentNode, place);
            range.setEnd(walker.currentNode, place + 1);
            const box = range.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }""",
        len(before.encode("utf-16-le")) // 2,
    )
    page.mouse.click(*spot)


# --- write


def test_the_model_goes_on_from_the_prompt(page: Page, address: str) -> None:
    text = write(page, "a tiny ")
    assert text == "a tiny " + complete(address, model="left", prompt="a tiny ")
    expect(page.locator("#write-note")).to_contain_text("100 characters")
    assert page.locator("#write-text .you").text_content() == "a tiny "


def test_sliders_say_how_it_writes(page: Page, address: str) -> None:
    page.fill("#dial-temperature", "1.5")
    page.fill("#dial-top_k", "5")
    page.fill("#dial-top_p", "0.9")
    page.fill("#dial-min_p", "0.02")
    choices = {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.02}
    assert write(page, "") == complete(address, model="left", **choices)
    page.reload()
    expect(page.locator("#dial-top_k")).to_have_value("5")


def test_another_model_can_be_asked(page: Page, address: str) -> None:
    page.select_option("#model", "right")
    assert write(page, "a") == "a" + complete(address, model="right", prompt="a")


def test_it_writes_on_and_what_it_did_can_be_undone(page: Page) -> None:
    first = write(page, "a")
    page.click("#write-go")
    expect(page.locator("#write-note")).to_contain_text("100 characters in")
    page.wait_for_timeout(50)
    second = written(page)
    assert second.startswith(first) and len(second) > len(first)
    page.click("#write-undo")
    assert written(page) == first
    page.click("#write-undo")
    expect(page.locator("#write-prompt")).to_have_value("a")
    page.click("#write-redo")
    page.click("#write-redo")
    assert written(page) == second


def test_writing_stops_where_it_stands(context: BrowserContext, page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")  # so that the text comes in over some pictures of the screen
    page.fill("#dial-max_tokens", "4000")
    page.click("#write-go")
    expect(page.locator("#write-text .model")).to_contain_text(re.compile("."))
    page.keyboard.press("Escape")
    stood = written(page)
    page.wait_for_timeout(200)
    assert 0 < len(stood) < 4000
    assert written(page) == stood


def test_text_streams_in_bit_by_bit(page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate(
        """() => {
            window.lengths = [];
            const text = document.getElementById("write-text");
            const note = () => window.lengths.push(text.textContent.length);
            new MutationObserver(note).observe(text, { childList: true, characterData: true, subtree: true });
        }"""
    )
    write(page, "", length=200)
    lengths = page.evaluate("() => window.lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 10


def test_an_edited_text_is_gone_on_from(page: Page) -> None:
    first = write(page, "a tiny ")
    page.click("#write-edit")
    page.fill("#write-prompt", first[:20] + "dog" + first[23:])
    page.click("#write-go")
    assert written(page).startswith(first[:20] + "dog" + first[23:])
    assert page.locator("#write-text .you").all_text_contents()[0] == "a tiny "
    assert "dog" in "".join(page.locator("#write-text .you").all_text_contents())


def test_a_text_can_be_cleared_and_brought_back(page: Page) -> None:
    first = write(page, "a")
    page.click("#write-clear")
    expect(page.locator("#write-prompt")).to_have_value("")
    page.click("#write-undo")
    assert written(page) == first


# --- branching


def alternatives(page: Page) -> Locator:
    buttons = page.locator("#others button")
    expect(buttons.first).to_be_visible()
    return buttons


def test_a_click_shows_what_else_could_stand_there(page: Page, runs: dict[str, Path]) -> None:
    text = write(page, "a tiny ")
    click_character(page, text[:40])
    buttons = alternatives(page)
    expect(page.locator("#others [aria-current]")).to_have_count(1)
    model = load(runs["left"])
    shares = {letter: math.exp(-model.score(text[:40] + letter).surprisals[-1]) for letter in LETTERS}
    best = max(shares, key=lambda letter: shares[letter])
    assert (page.locator("#others [aria-current]").text_content() or "").startswith(WORDS.get(text[40], text[40]))
    first = buttons.first.text_content() or ""
    assert first.startswith(WORDS.get(best, best))
    assert abs(100 * shares[best] - float(re.findall(r"([\d.]+) %", first)[0])) < 1


def test_another_character_begins_a_branch(page: Page) -> None:
    text = write(page, "a tiny ")
    click_character(page, text[:40])
    other = alternatives(page).and_(page.locator(":not([aria-current])")).first
    named = (other.locator(".glyph").text_content() or "").strip()
    other.click()
    branch = written(page)
    letter = {word: character for character, word in WORDS.items()}.get(named, named)
    assert branch[:41] == text[:40] + letter
    assert len(branch) == 141
    assert page.locator("#write-text .you").last.text_content() == letter
    page.click("#write-undo")
    assert written(page) == text


def test_branching_works_from_the_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    while page.evaluate("() => document.activeElement.id") != "write-prompt":
        page.keyboard.press("Tab")
    page.keyboard.type("a tiny ")
    page.keyboard.press("Control+Enter")
    text = written(page)
    expect(page.locator("#write-text")).to_be_focused()
    page.keyboard.press("ArrowRight")  # to the first character that the model wrote
    page.keyboard.press("ArrowRight")
    expect(page.locator("#write-here")).to_have_text(text[8])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#others [aria-current]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#others")).to_be_hidden()
    expect(page.locator("#write-text")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#others [aria-current]")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    branch = written(page)
    assert branch[:8] == text[:8] and branch[:9] != text[:9]
    page.keyboard.press("Control+z")
    assert written(page) == text
    page.keyboard.press("Control+Shift+z")
    assert written(page) == branch


def test_characters_of_two_units_are_one(page: Page) -> None:
    write(page, "a 😀😀 b")
    page.locator("#write-text").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    for expected in (" ", "😀", "😀", " ", "b"):
        page.keyboard.press("ArrowRight")
        expect(page.locator("#write-here")).to_have_text(expected)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#write-here")).to_have_text("😀")


# --- read


def read(page: Page, text: str) -> None:
    page.click("#tab-read")
    page.fill("#read-source", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible()


@pytest.mark.parametrize("name", ["left", "lines", "bytes"])
def test_a_text_is_coloured_by_surprise(page: Page, runs: dict[str, Path], name: str) -> None:
    page.select_option("#model", name)
    text = "a tiny text.\n\nit ends 😀 é\nso"
    read(page, text)
    score = load(runs[name]).score(text)
    letters = len(text.replace("\n", "") if name == "lines" else text)  # what ends a line is in none of its documents
    expect(page.locator("#read-bits")).to_have_text(f"{score.nats / letters / math.log(2):.3f}")
    rows = page.locator("#read-text .row")
    expect(rows).to_have_count(4)
    lines = text.split("\n")
    for row, line in zip(rows.all(), lines, strict=True):
        assert (row.text_content() or "").rstrip(" ↵").endswith(line)
    if name == "left":
        most = max(score.surprisals) / math.log(2)
        expect(page.locator("#read-places .share").first).to_have_text(f"{most:.1f} bits")
        found = "".join(page.locator("#read-places mark").all_text_contents())
        assert {"😀": "😀", "\n": "↵", " ": "␣"}.get(*[text[int(score.surprisals.argmax())]] * 2) == found[0]


def test_each_line_has_its_bits(page: Page, runs: dict[str, Path]) -> None:
    read(page, "a tiny text.\nits end")
    costs = load(runs["left"]).score("a tiny text.\nits end").surprisals / math.log(2)
    means = [costs[:13].mean(), costs[13:].mean()]
    assert page.locator("#read-text .cost").all_text_contents() == [f"{mean:.2f}" for mean in means]


def test_a_place_in_the_list_is_shown_in_the_text(page: Page) -> None:
    read(page, TEXT + "zzz" + TEXT * 10)
    page.locator("#read-places button").first.click()
    here = page.locator("#read-text .here")
    expect(here).to_be_visible()
    expect(here).to_be_in_viewport()
    expect(page.locator("#read-note")).to_contain_text("bits")


def test_of_a_long_text_only_what_is_in_sight_is_in_the_document(page: Page) -> None:
    page.click("#tab-read")
    text = "".join(f"a line of text that is the {place:06d}th\n" for place in range(9000))
    page.evaluate("text => (document.getElementById('read-source').value = text)", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible(timeout=60_000)
    assert page.locator("#read-text .row").count() < 60
    page.evaluate("() => document.getElementById('read-text').scrollTo(0, 1e9)")
    expect(page.locator("#read-text .row").last).to_contain_text("008999th")
    assert page.locator("#read-text .row").count() < 60


def test_a_file_can_be_dropped_or_opened(page: Page, tmp_path: Path) -> None:
    page.click("#tab-read")
    path = tmp_path / "letter.txt"
    path.write_text("a letter\nthat ends", "utf-8")
    page.set_input_files("#read-choose", path)
    expect(page.locator("#read-text .row").last).to_contain_text("that ends")
    page.click("#read-edit")
    expect(page.locator("#read-source")).to_have_value("a letter\nthat ends")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["dropped text"], "dropped.txt"));
            document.getElementById("read").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    expect(page.locator("#read-text .row").first).to_contain_text("dropped text")


# --- watch


def test_the_curves_of_a_run_are_shown(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-plot svg circle")).to_have_count(5)
    label = page.locator("#watch-plot svg").get_attribute("aria-label") or ""
    bits = (1.4 + 1 / 100) / math.log(2)
    assert f"Validation: {bits:.3f} at step 100" in label
    expect(page.locator("#watch-state")).to_have_text("Finished")
    expect(page.locator("#watch-facts")).to_contain_text(f"{bits:.3f} bits per character")


def test_samples_are_on_a_slider(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-step")).to_have_text("100")
    page.focus("#watch-when")
    page.keyboard.press("Home")
    expect(page.locator("#watch-step")).to_have_text("20")
    expect(page.locator("#watch-samples")).to_contain_text("It was a dark night.")
    expect(page.locator("#watch-plot circle.here title")).to_contain_text("Step 20")


def test_a_run_in_training_is_followed(page: Page, runs: dict[str, Path]) -> None:
    page.click("#tab-watch")
    page.select_option("#model", "right")
    expect(page.locator("#watch-plot svg circle")).to_have_count(5)
    report = FilesReport()
    report.handle(started(runs["right"], step=100))
    for event in (stepped(101), evaluated(120, 1.2), sampled(120, "quite new")):
        report.handle(event)
    expect(page.locator("#watch-state")).to_have_text("Training now")
    expect(page.locator("#watch-plot svg circle")).to_have_count(6)
    expect(page.locator("#watch-samples")).to_contain_text("quite new")
    report.handle(finished(120))
    report.close()
    expect(page.locator("#watch-state")).to_have_text("Finished")


# --- compare


def test_two_models_write_side_by_side(page: Page, address: str, runs: dict[str, Path]) -> None:
    page.click("#tab-compare")
    page.fill("#compare-prompt", "a tiny ")
    page.fill("#compare-seed", "3")
    page.fill("#compare-length", "120")
    page.click("#compare-go")
    expect(page.locator("#compare .column .note").last).to_contain_text("Bits per character")
    for side in ("left", "right"):
        model = load(runs[side])
        text = complete(address, model=side, prompt="a tiny ", max_tokens=120, seed=3)
        expect(page.locator(f"#compare-{side}-text")).to_have_text("a tiny " + text, use_inner_text=False)
        own = model.session()
        own.read("a tiny ")
        expect(page.locator(f".column:has(#compare-{side}) .note")).to_contain_text(
            f"{own.score(text).bits_per_char:.2f} to {side}"
        )


# --- the whole


def test_tabs_are_walked_with_arrow_keys(page: Page) -> None:
    page.focus("#tab-write")
    for name in ("read", "watch", "compare", "write"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#tab-{name}")).to_be_focused()
        expect(page.locator(f"#{name}")).to_be_visible()
        assert page.url.endswith(f"#{name}")


def test_it_can_be_light_or_dark(page: Page) -> None:
    colour = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_no_view_hinders_anybody(page: Page, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    axe = Axe()
    text = write(page, "a tiny ")
    click_character(page, text[:9])
    alternatives(page)
    assert axe.run(page).response["violations"] == []
    page.keyboard.press("Escape")
    read(page, TEXT[:200] + "qqq")
    assert axe.run(page).response["violations"] == []
    page.click("#tab-watch")
    expect(page.locator("#watch-plot circle").first).to_be_visible()
    assert axe.run(page).response["violations"] == []
    page.click("#tab-compare")
    page.fill("#compare-length", "50")
    page.click("#compare-go")
    expect(page.locator("#compare .column .note").last).to_contain_text("Bits per character")
    assert axe.run(page).response["violations"] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_it_asks_nobody_else_and_transfers_little(context: BrowserContext, address: str) -> None:
    page, asked = context.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(address)] == []
    entries = "['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))"
    sizes = page.evaluate(f"() => {entries}.map((each) => each.transferSize)")
    assert len(sizes) > 10
    assert sum(sizes) <= LARGEST


def test_what_goes_wrong_is_told(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    refusal = '{"error": {"message": "too much waits; try again in a moment"}}'
    page.route("**/v1/completions", lambda route: route.fulfill(status=429, body=refusal))
    page.click("#write-go")
    expect(page.locator("#write-note")).to_have_text("Too much waits; try again in a moment.")
    page.route("**/v1/completions", lambda route: route.abort())
    page.click("#write-go")
    expect(page.locator("#write-note")).to_have_text("The server does not answer.")


def test_a_server_with_a_token_asks_for_it(context: BrowserContext, runs: dict[str, Path]) -> None:
    page, token = context.new_page(), "a-token-of-24-characters"
    with serving(app_of({"left": runs["left"]}, token)) as place:
        page.goto(place.url)
        page.fill("#gate-token", token)
        page.keyboard.press("Enter")
        expect(page.locator("#model option")).to_have_count(1)
        write(page, "a")
        page.reload()
        expect(page.locator("#model option")).to_have_count(1)
        other = context.new_page()
        other.goto(f"{place.url}/#token={token}")
        expect(other.locator("#model option")).to_have_count(1)
        assert token not in other.url
