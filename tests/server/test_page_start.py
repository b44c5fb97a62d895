"""The first ten seconds on the page: what the model is, beginnings to click, a text that writes itself."""

from __future__ import annotations

import re

from playwright.sync_api import BrowserContext, Page, expect

from at_the_page import alternatives, click_character, write
from page_server import TEXT


def test_the_model_is_introduced(page: Page) -> None:
    about = page.locator("#write-about")
    expect(about).to_have_text(
        "Learned from left: 9,000 characters in 2 minutes. It finds the next letter as if it guessed among 4.1 letters."
    )
    page.select_option("#model", "bytes")
    expect(about).to_contain_text("Learned from bytes: 9,000 bytes")


def test_beginnings_of_its_own_text_can_be_clicked(page: Page, address: str) -> None:
    beginning = page.locator("#write-beginnings button").first
    text = beginning.get_attribute("value") or ""
    assert text and text in TEXT
    beginning.click()
    expect(page.locator("#write-go span")).to_have_text("Continue")
    assert page.locator("#write-text .you").text_content() == text
    expect(page.locator("#write-start")).to_be_hidden()


def test_a_first_text_writes_itself(page: Page) -> None:
    page.click("#write-keep")
    text = page.locator("#write-text").text_content() or ""
    beginning = page.locator("#write-beginnings button").first.get_attribute("value") or ""
    assert text.startswith(beginning) and len(text) == len(beginning) + 280
    page.click("#write-undo")
    expect(page.locator("#write-prompt")).to_have_value("")
    expect(page.locator("#write-keep")).to_be_visible()  # it has written another one


def test_a_letter_of_the_first_text_can_be_clicked(page: Page) -> None:
    expect(page.locator("#write-keep")).to_be_visible()
    text = page.locator("#write-example").text_content() or ""
    click_character(page, text[:60], "write-example")
    alternatives(page)
    assert page.locator("#write-text").text_content() == text
    assert page.locator("#write-here").text_content() == text[60]


def test_who_types_is_not_disturbed(page: Page) -> None:
    page.fill("#write-prompt", "a")
    expect(page.locator("#write-start")).to_be_hidden()
    page.fill("#write-prompt", "")
    expect(page.locator("#write-start")).to_be_visible()
    assert len(write(page, "a tiny ")) == 107


def test_a_server_that_is_busy_only_lacks_the_example(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.route("**/v1/completions", lambda route: route.fulfill(status=429, body="{}"))
    page.route(re.compile(r".*/runs/\w+$"), lambda route: route.fulfill(status=404, body="{}"))
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(4)
    page.unroute("**/v1/completions")
    assert len(write(page, "a tiny ")) == 107
    expect(page.locator("#write-about")).to_be_empty()
