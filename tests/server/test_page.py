"""The page as people use it: a browser, a real server, tiny models. Needs Debian's chromium-headless-shell."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from at_the_page import alternatives, click_character, complete, read, set_dials, wait_for_text, write
from live_server import serving
from page_server import LETTERS, TEXT, app_of
from scriven.trained_model import load

WORDS = {" ": "space", "\n": "new line"}  # for characters that leave no mark


# --- write


def test_the_model_goes_on_from_the_prompt(page: Page, address: str) -> None:
    text = write(page, "a tiny ")
    assert text == "a tiny " + complete(address, model="left", prompt="a tiny ")
    expect(page.locator("#write-note")).to_contain_text("100 characters")
    assert page.locator("#write-text .you").text_content() == "a tiny "


def test_sliders_say_how_it_writes(page: Page, address: str) -> None:
    choices = {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.02}
    set_dials(page, **choices)
    assert write(page, "") == complete(address, model="left", **choices)
    page.reload()
    expect(page.locator("#sampling-top_k")).to_have_value("5")


def test_another_model_can_be_asked(page: Page, address: str) -> None:
    page.select_option("#model", "right")
    assert write(page, "a") == "a" + complete(address, model="right", prompt="a")


def test_it_writes_on_and_what_it_did_can_be_undone(page: Page) -> None:
    first = write(page, "a")
    page.click("#write-go")
    expect(page.locator("#write-note")).to_contain_text("100 characters in")
    page.wait_for_timeout(50)
    second = wait_for_text(page)
    assert second.startswith(first) and len(second) > len(first)
    page.click("#write-undo")
    assert wait_for_text(page) == first
    page.click("#write-undo")
    expect(page.locator("#write-prompt")).to_have_value("a")
    page.click("#write-redo")
    page.click("#write-redo")
    assert wait_for_text(page) == second


def test_writing_stops_where_it_stands(context: BrowserContext, page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")  # so that the text comes in over some pictures of the screen
    set_dials(page, max_tokens=4000)
    page.click("#write-go")
    expect(page.locator("#write-text .model")).to_contain_text(re.compile("."))
    page.keyboard.press("Escape")
    stood = wait_for_text(page)
    page.wait_for_timeout(200)
    assert 0 < len(stood) < 4000
    assert wait_for_text(page) == stood


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
    assert wait_for_text(page).startswith(first[:20] + "dog" + first[23:])
    assert page.locator("#write-text .you").all_text_contents()[0] == "a tiny "
    assert "dog" in "".join(page.locator("#write-text .you").all_text_contents())


def test_a_text_can_be_cleared_and_brought_back(page: Page) -> None:
    first = write(page, "a")
    page.click("#write-clear")
    expect(page.locator("#write-prompt")).to_have_value("")
    page.click("#write-undo")
    assert wait_for_text(page) == first


def test_characters_that_the_model_never_saw_are_named(page: Page) -> None:
    write(page, "a tiny €\u200b")
    expect(page.locator("#write-note")).to_contain_text("The model has never seen “€”, U+200B.")
    page.click("#write-clear")
    expect(page.locator("#write-go span")).to_have_text("Write")
    write(page, "a tiny ")
    assert "never seen" not in (page.locator("#write-note").text_content() or "")


def test_buttons_that_can_do_nothing_are_not_there(page: Page) -> None:
    buttons = [f"#write-{name}" for name in ("undo", "redo", "edit", "clear", "copy", "save")]
    for button in buttons:
        expect(page.locator(button)).to_be_hidden()
    write(page, "a tiny ")
    page.click("#write-undo")
    page.click("#write-undo")
    expect(page.locator("#write-redo")).to_be_visible()
    for button in set(buttons) - {"#write-redo"}:
        expect(page.locator(button)).to_be_hidden()


def test_a_text_can_be_copied_and_saved(context: BrowserContext, page: Page) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.locator("#write-copy")).to_be_hidden()
    text = write(page, "a 😀 ")
    page.focus("#write-clear")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#write-note")).to_have_text("Copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == text
    page.keyboard.press("Tab")
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "left.txt"
    assert saved.value.path().read_text("utf-8") == text
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.click("#write-copy")
    expect(page.locator("#write-note")).to_contain_text("Save the text instead")


# --- branching


def test_a_click_shows_what_else_could_stand_there(page: Page, served_runs: dict[str, Path]) -> None:
    text = write(page, "a tiny ")
    click_character(page, text[:40])
    buttons = alternatives(page)
    expect(page.locator("#alternatives [aria-current]")).to_have_count(1)
    model = load(served_runs["left"])
    shares = {letter: math.exp(-model.score(text[:40] + letter).surprisals[-1]) for letter in LETTERS}
    best = max(shares, key=lambda letter: shares[letter])
    assert (page.locator("#alternatives [aria-current]").text_content() or "").startswith(WORDS.get(text[40], text[40]))
    first = buttons.first.text_content() or ""
    assert first.startswith(WORDS.get(best, best))
    assert abs(100 * shares[best] - float(re.findall(r"([\d.]+) %", first)[0])) < 1


def test_another_character_begins_a_branch(page: Page) -> None:
    text = write(page, "a tiny ")
    click_character(page, text[:40])
    other = alternatives(page).and_(page.locator(":not([aria-current])")).first
    named = (other.locator(".glyph").text_content() or "").strip()
    other.click()
    branch = wait_for_text(page)
    letter = {word: character for character, word in WORDS.items()}.get(named, named)
    assert branch[:41] == text[:40] + letter
    assert len(branch) == 141
    assert page.locator("#write-text .you").last.text_content() == letter
    page.click("#write-undo")
    assert wait_for_text(page) == text


def test_branching_works_from_the_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    while page.evaluate("() => document.activeElement.id") != "write-prompt":
        page.keyboard.press("Tab")
    page.keyboard.type("a tiny ")
    page.keyboard.press("Control+Enter")
    text = wait_for_text(page)
    expect(page.locator("#write-text")).to_be_focused()
    page.keyboard.press("ArrowRight")  # to the first character that the model wrote
    page.keyboard.press("ArrowRight")
    expect(page.locator("#write-here")).to_have_text(text[8])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")  # lines are ragged, so the two need not have led back
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#write-here")).to_have_text(text[8])
    page.keyboard.press("Enter")
    expect(page.locator("#alternatives [aria-current]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(page.locator("#write-text")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#alternatives [aria-current]")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    branch = wait_for_text(page)
    assert branch[:8] == text[:8] and branch[:9] != text[:9]
    page.keyboard.press("Control+z")
    assert wait_for_text(page) == text
    page.keyboard.press("Control+Shift+z")
    assert wait_for_text(page) == branch


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


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What hinders people on the page as it is now, with the elements."""
    found = Axe().run(page).response["violations"]
    return [(each["help"], [node["html"] for node in each["nodes"]]) for each in found]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_no_view_hinders_anybody(page: Page, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.locator("#write-keep")).to_be_visible()
    assert violations(page) == []
    text = write(page, "a tiny ")
    click_character(page, text[:9])
    alternatives(page)
    assert violations(page) == []
    page.keyboard.press("Escape")
    for button in ("#write-history", "#write-settings")[: 1 if width > 860 else 2]:
        page.click(button)
        assert violations(page) == []
        page.keyboard.press("Escape")
    read(page, TEXT[:200] + "qqq")
    assert violations(page) == []
    page.click("#tab-watch")
    expect(page.locator("#watch-plot circle").first).to_be_visible()
    assert violations(page) == []
    page.click("#tab-compare")
    page.fill("#compare-length", "50")
    page.click("#compare-go")
    expect(page.locator("#compare .verdict .figure").last).to_contain_text("bits per character")
    assert violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_it_asks_nobody_else(context: BrowserContext, address: str) -> None:
    page, asked = context.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(address)] == []


def test_it_works_where_the_browser_keeps_nothing(context: BrowserContext, address: str) -> None:
    """A browser that may keep nothing throws an error on the first look at what it keeps."""
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    page.click("#theme")
    assert len(write(page, "a tiny ")) == 107
    assert errors == []


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
    expect(page.locator("#write-note")).to_have_text("The server is not responding.")


def test_a_server_with_a_token_asks_for_it(context: BrowserContext, served_runs: dict[str, Path]) -> None:
    page, token = context.new_page(), "a-token-of-24-characters"
    with serving(app_of({"left": served_runs["left"]}, token)) as place:
        page.goto(place.url)
        page.fill("#token-input", token)
        page.keyboard.press("Enter")
        expect(page.locator("#model option")).to_have_count(1)
        write(page, "a")
        page.reload()
        expect(page.locator("#model option")).to_have_count(1)
        other = context.new_page()
        other.goto(f"{place.url}/#token={token}")
        expect(other.locator("#model option")).to_have_count(1)
        assert token not in other.url


@pytest.mark.parametrize("model", ["left", "bytes"])
def test_what_is_no_character_is_not_offered(page: Page, address: str, model: str) -> None:
    """Taken, the name of an unknown character or of half of one would stand in the text."""
    asked = {"model": model, "prompt": "él", "max_tokens": 1, "logprobs": 20}
    top = httpx.post(f"{address}/v1/completions", json=asked).json()["choices"][0]["logprobs"]["top_logprobs"][0]
    expected = [text for text in list(top)[:20] if text != "<unk>" and not text.startswith("bytes:")]
    script = "async model => (await (await import('/api.js')).likeliestCharacters(model, 'él', 20)).map(e => e.text)"
    found = page.evaluate(script, model)
    assert found[: len(expected)] == expected
    assert len(found) - len(expected) in {0, 1}  # the one that was drawn is told too, however rare
    assert len(expected) < 20
