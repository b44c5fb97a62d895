"""What the page keeps of what was written: after a reload, as a tree of branches, in a link; and its colours."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from at_the_page import alternatives, click_character, complete, set_dials, wait_for_text, write
from scriven.trained_model import load

HTML = "<b>bold</b> <img src=x onerror=alert(1)> &amp; <!--"


def reopen(page: Page) -> None:
    page.reload()
    page.wait_for_selector("#model option", state="attached")


def open_history(page: Page) -> Locator:
    page.click("#write-history")
    rows = page.locator("#history-list button")
    expect(rows.first).to_be_visible()
    return rows


def branch(page: Page, before: str) -> str:
    """The text after the likeliest other character was put after this beginning."""
    click_character(page, before)
    alternatives(page).and_(page.locator(":not([aria-current])")).first.click()
    expect(page.locator("#alternatives")).to_be_hidden()
    return wait_for_text(page)


def test_text_prompt_and_dials_survive_a_reload(page: Page) -> None:
    text = write(page, "a tiny ")
    set_dials(page, temperature=1.2, top_k=7)
    reopen(page)
    assert wait_for_text(page) == text
    expect(page.locator("#sampling-temperature")).to_have_value("1.2")
    expect(page.locator("#sampling-top_k")).to_have_value("7")
    expect(page.locator("#sampling-seed")).to_have_value("7")
    page.click("#write-edit")
    page.fill("#write-prompt", text + " and more")
    reopen(page)
    expect(page.locator("#write-prompt")).to_have_value(text + " and more")
    page.click("#write-go")
    expect(page.locator("#write-note")).to_contain_text("characters in")
    assert "".join(page.locator("#write-text .you").all_text_contents()).endswith(" and more")


def test_branches_are_a_tree_and_can_be_gone_back_to(page: Page) -> None:
    first = write(page, "a tiny ")
    other = branch(page, first[:40])
    page.click("#write-clear")
    last = write(page, "another ")
    rows = open_history(page)
    expect(rows).to_have_count(3)
    depths = page.locator("#history-list li").evaluate_all(
        "rows => rows.map(row => row.style.getPropertyValue('--depth'))"
    )
    assert depths == ["0", "0", "1"]  # the newest text, the first one, its branch
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")
    for row, text in ((1, first), (2, other), (0, last)):
        rows.nth(row).click()
        expect(rows.nth(row)).to_be_focused()
        assert wait_for_text(page) == text
    page.keyboard.press("Escape")
    page.click("#write-undo")
    assert wait_for_text(page) == other


def test_history_survives_and_can_be_forgotten(context: BrowserContext, page: Page, address: str) -> None:
    write(page, "a tiny ")
    page.click("#write-clear")
    text = write(page, "another ")
    other = context.new_page()
    other.goto(address)
    other.click("#write-clear")
    write(other, "in another tab ")
    other.close(run_before_unload=True)
    page.wait_for_function("() => localStorage.getItem('scriven-texts').includes('another tab')")
    expect(open_history(page)).to_have_count(2)
    reopen(page)
    rows = open_history(page)
    expect(rows).to_have_count(3)
    page.click("#history-forget")
    expect(rows).to_have_count(1)
    page.keyboard.press("Escape")
    reopen(page)
    assert wait_for_text(page) == text
    expect(open_history(page)).to_have_count(1)


def test_what_you_edit_is_not_lost(page: Page) -> None:
    write(page, "a tiny ")
    page.click("#write-edit")
    page.fill("#write-prompt", "mine alone")
    rows = open_history(page)
    expect(rows).to_have_count(2)
    rows.first.click()
    rows.filter(has_text="mine alone").click()
    expect(page.locator("#write-prompt")).to_have_value("mine alone")


def test_a_link_writes_the_same_text_again(context: BrowserContext, page: Page, address: str) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.select_option("#model", "right")
    set_dials(page, temperature=1.3, top_k=9, min_p=0.02)
    text = write(page, "a tiny & 😀 # ")
    page.click("#write-link")
    expect(page.locator("#write-note")).to_contain_text("The link is copied.")
    link = page.evaluate("() => navigator.clipboard.readText()")
    reader = context.browser.new_context(reduced_motion="reduce") if context.browser else context
    other = reader.new_page()
    other.goto(link)
    assert wait_for_text(other) == text
    expect(other.locator("#model")).to_have_value("right")
    expect(other.locator("#sampling-top_k")).to_have_value("9")
    expect(other.locator("#sampling-seed")).to_have_value("7")
    assert other.url == f"{address}/#write"
    other.reload()
    assert wait_for_text(other) == text
    reader.close()


def test_a_link_of_a_branch_has_what_stands_before(context: BrowserContext, page: Page) -> None:
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    text = branch(page, write(page, "a tiny ")[:40])
    page.click("#write-link")
    expect(page.locator("#write-note")).to_contain_text("The link is in the address bar")
    reopen(page)
    assert wait_for_text(page) == text


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("prompt=a&temperature=abc", "temperature=abc"),
        ("prompt=a&temperature=", "temperature="),
        ("prompt=a&max_tokens=1e9", "max_tokens=1e9"),
        ("prompt=a&seed=-1", "seed=-1"),
        ("prompt=a&top_k=1.5", "top_k=1.5"),
        ("prompt=a&constructor=1", "constructor=1"),
        ("prompt=a&model=gone", "model=gone"),
    ],
)
def test_what_is_broken_in_a_link_is_told(page: Page, query: str, refused: str) -> None:
    page.evaluate("query => (location.hash = `write?${query}`)", query)
    expect(page.locator("#write-note")).to_have_text(f"This page could not use a part of the link: {refused}.")
    assert len(wait_for_text(page)) == 501


def test_a_link_does_not_lose_the_text_before(page: Page) -> None:
    text = write(page, "a tiny ")
    page.evaluate("() => (location.hash = 'write?prompt=b&seed=3&max_tokens=50')")
    expect(page.locator("#write-note")).to_contain_text("seed 3")
    assert wait_for_text(page).startswith("b")
    rows = open_history(page)
    rows.nth(1).click()
    assert wait_for_text(page) == text


@pytest.mark.parametrize("model", ["left", "lines", "bytes"])
def test_letters_are_coloured_by_surprise(page: Page, served_runs: dict[str, Path], model: str) -> None:
    page.select_option("#model", model)
    text = write(page, "a tiny ")
    coloured = page.locator("#write-text [class*=' s']")
    expect(coloured.first).to_be_visible()
    if model == "left":
        bits = load(served_runs["left"]).score(text).surprisals / math.log(2)
        strong = "".join(page.locator("#write-text .s3, #write-text .s4, #write-text .s5").all_text_contents())
        assert strong == "".join(letter for letter, each in list(zip(text, bits, strict=True))[7:] if each >= 5)
    page.click("#write-surprise")
    expect(coloured).to_have_count(0)
    assert page.locator("#write-text").text_content() == text
    reopen(page)
    expect(page.locator("#write-surprise")).not_to_be_checked()


@pytest.mark.parametrize(
    "prompt", [HTML, "שלום עולם, בראשית ברא", "مرحبا " * 20, "x" * 10_000, "a\u0301\u200d🏳️‍🌈\u202e"]
)
def test_any_prompt_stands_as_it_is(page: Page, prompt: str) -> None:
    text = write(page, prompt)
    assert text.startswith(prompt) and len(text.encode("utf-16-le")) > len(prompt.encode("utf-16-le"))
    assert page.locator("#write-text .you").text_content() == prompt
    assert page.locator("#write-text img").count() == 0
    reopen(page)
    assert wait_for_text(page) == text
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_arrow_keys_follow_the_direction_of_the_text(page: Page) -> None:
    write(page, "שלום")
    page.locator("#write-text").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    expect(page.locator("#write-here")).to_have_text("ש")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#write-here")).to_have_text("ל")


def test_any_link_can_be_followed(page: Page, address: str) -> None:
    query = urlencode({"prompt": HTML, "seed": 5, "temperature": 0.73, "max_tokens": 77, "model": "left"})
    page.goto("about:blank")
    page.goto(f"{address}/#write?{query}")
    assert wait_for_text(page) == HTML + complete(
        address, model="left", prompt=HTML, seed=5, temperature=0.73, max_tokens=77
    )


def test_a_list_goes_on_line_by_line(page: Page, address: str) -> None:
    page.select_option("#model", "lines")
    expect(page.locator("#write-several")).to_be_checked()
    text = write(page, "a ")
    assert text == "a " + complete(address, model="lines", prompt="a ", ignore_eos=True)
    page.click("#write-clear")
    page.click("#write-several")
    line = write(page, "a ", length=4000)
    assert line == "a " + complete(address, model="lines", prompt="a ", max_tokens=4000) and "\n" not in line
    expect(page.locator("#write-note")).to_contain_text("The text ended by itself.")
    page.click("#write-go")
    page.wait_for_function("() => document.getElementById('write-text').textContent.includes('\\n')")
    assert wait_for_text(page).startswith(line + "\n")
    page.select_option("#model", "left")
    expect(page.locator("#write-several")).to_be_hidden()


def test_the_oldest_texts_are_forgotten_first(page: Page) -> None:
    """Of 400,000 characters and more, the oldest go that nothing came from; never what stands on the page."""
    left = page.evaluate(
        """async () => {
            const { Versions } = await import("/versions.js");
            const versions = new Versions();
            const text = (letter, length) => [{ text: letter.repeat(length), by: "you" }];
            const first = versions.add(text("a", 150_000), null);
            versions.add(text("b", 150_000), null);
            versions.add(text("a", 150_001), first);
            const last = versions.add(text("c", 150_000), null);
            const huge = versions.add(text("d", 500_000), null);
            const texts = new Versions(JSON.parse(JSON.stringify(versions.list)));
            const wholes = texts.list.map(({ id }) => texts.passagesOf(id)[0].text);
            return wholes.map((whole) => whole.at(-1) + whole.length);
        }"""
    )
    assert left == ["a150000", "d500000"]


def test_a_full_store_is_told(page: Page) -> None:
    page.evaluate(
        "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; }"
    )
    text = write(page, "a tiny ")
    open_history(page)
    expect(page.locator("#history-hint")).to_have_text(
        "Your browser does not keep these texts: they end with this page."
    )
    page.keyboard.press("Escape")
    assert wait_for_text(page) == text


@pytest.mark.parametrize("stored", ["{", "null", "[]", "7", '{"versions": 1}', '{"versions": [{}], "current": "x"}'])
def test_a_broken_store_hinders_nothing(page: Page, stored: str) -> None:
    page.evaluate("stored => addEventListener('pagehide', () => localStorage.setItem('scriven-texts', stored))", stored)
    reopen(page)
    assert len(write(page, "a tiny ")) == 107
    expect(open_history(page).first).to_be_visible()


def test_an_edit_can_be_undone_and_brought_back(page: Page) -> None:
    """What was typed went with the step back, and the step after it went too far."""
    text = write(page, "a tiny ")
    page.click("#write-edit")
    page.fill("#write-prompt", text + " mine")
    page.click("#write-undo")
    assert wait_for_text(page) == text
    page.click("#write-redo")
    assert wait_for_text(page) == text + " mine"
    page.click("#write-undo")
    page.click("#write-undo")
    expect(page.locator("#write-prompt")).to_have_value("a tiny ")


def test_history_does_not_disturb_writing(page: Page) -> None:
    first = write(page, "a tiny ")
    page.click("#write-clear")
    page.emulate_media(reduced_motion="no-preference")
    page.route("**/v1/completions", lambda route: None)  # it waits for an answer
    page.fill("#write-prompt", "another ")
    page.click("#write-go")
    rows = open_history(page)
    expect(page.locator("#write-go span")).to_have_text("Stop")
    rows.last.click()
    assert wait_for_text(page) == first


def test_what_was_forgotten_stays_so(page: Page) -> None:
    """The store grew without a bound: what was forgotten on the page was taken for another tab's."""
    kept = page.evaluate(
        """async () => {
            const { storeTexts, loadTexts } = await import("/kept_texts.js");
            const { Versions } = await import("/versions.js");
            const versions = new Versions();
            for (const letter of "abcdefgh") {
                const current = versions.add([{ text: letter.repeat(100_000), by: "you" }], null);
                storeTexts({ current, draft: null, versions: versions.list });
            }
            return loadTexts().versions.map(({ added }) => added[0].text[0]).join("");
        }"""
    )
    assert kept == "efgh"
