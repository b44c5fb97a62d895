"""Rules of what is written and what it copies, on the page: a browser, a real server, tiny models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect
from test_page import violations

from at_the_page import complete, set_dials, wait_for_text, write
from live_server import serving
from page_server import TEXT, app_of, make_run
from scriven.trained_model import load

LETTERS = "".join(sorted({*TEXT}))  # of the training text, so that what is copied can be found


def open_page(context: BrowserContext, address: str) -> Page:
    """The page, which may complain of refusals."""
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    return page


def open_rules(page: Page) -> None:
    settings = page.locator("#write-settings")
    if settings.is_visible():
        settings.click()
    if page.locator("#write-rules").get_attribute("open") is None:
        page.click("#write-rules > summary")


def test_what_is_written_obeys_all_rules(page: Page, address: str) -> None:
    open_rules(page)
    page.fill("#rule-acrostic", "ab")
    page.fill("#rule-rhyme", "end")
    page.fill("#rule-forbid", "z")
    text = write(page, "")
    lines = text.split("\n")
    assert [line[0] for line in lines] == ["a", "b"]
    assert all(line.endswith("end") and "z" not in line for line in lines)
    assert text == complete(address, model="left", acrostic="ab", rhyme="end", forbid="z")
    page.fill("#rule-acrostic", "")
    page.fill("#rule-rhyme", "")
    page.fill("#rule-forbid", "")
    page.fill("#rule-contains", "a tiny")
    page.fill("#rule-guided_regex", "[a-z ]{20,40}")
    page.click("#write-clear")
    written = write(page, "")
    assert "a tiny" in written and re.fullmatch("[a-z ]{20,40}", written)


def test_an_acrostic_goes_on_where_it_was_stopped(page: Page) -> None:
    """It began again at each press of Continue."""
    asked: list[Any] = []

    def keep(request: Request) -> None:
        if "acrostic" in (request.post_data or ""):  # the page also asks for an example when it opens
            asked.append(request.post_data_json)

    page.on("request", keep)
    open_rules(page)
    page.fill("#rule-acrostic", "abt")
    page.fill("#write-prompt", "so ")
    page.click("#write-go")
    first = wait_for_text(page)
    assert [line[:1] for line in first.removeprefix("so ").split("\n")] == [*"abt"]
    page.click("#write-edit")
    begun = first[: first.index("\n") + 2]  # as if it had been stopped there
    page.fill("#write-prompt", begun)
    page.click("#write-go")
    again = wait_for_text(page)
    assert again.startswith(begun)
    assert [line[:1] for line in again.removeprefix("so ").split("\n")] == [*"abt"]
    assert [each.get("rule_begun") for each in asked] == [None, len(begun) - 3]
    page.click("#write-go")  # nothing is left but to write the last line
    assert wait_for_text(page).removeprefix("so ").count("\n") == 2
    page.fill("#rule-acrostic", "at")
    page.click("#write-go")
    wait_for_text(page)
    assert "rule_begun" not in asked[-1]


def test_an_example_fills_in_its_rule_alone(page: Page) -> None:
    open_rules(page)
    page.fill("#rule-allow", "abc")
    page.select_option("#rule-example", label="A poem on ROSE")
    expect(page.locator("#rule-acrostic")).to_have_value("ROSE")
    expect(page.locator("#rule-allow")).to_have_value("")
    page.select_option("#rule-example", label="A list in JSON")
    expect(page.locator("#rule-guided_json")).to_have_value(re.compile('"array"'))
    page.fill("#rule-forbid", "e")
    expect(page.locator("#rule-example")).to_have_value("")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_refused_rule_has_the_servers_sentence_beside_it(
    context: BrowserContext, address: str, width: int, scheme: str
) -> None:
    page = open_page(context, address)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 844})
    open_rules(page)
    page.fill("#rule-acrostic", "a")
    page.fill("#rule-rhyme", "Ö")
    if width < 860:
        page.keyboard.press("Escape")
    page.fill("#write-prompt", "a tiny")
    page.click("#write-go")
    said = page.locator("#rule-rhyme-refusal")
    expect(said).to_have_text(re.compile("^rhyme 'Ö': the model does not know 'Ö'"))
    expect(page.locator("#rule-acrostic-refusal")).to_have_text("")
    expect(page.locator("#write-note")).to_have_text(re.compile("^Lines end with: rhyme 'Ö'"))
    expect(page.locator("#write-prompt")).to_have_value("a tiny")
    open_rules(page)
    expect(page.get_by_label("Lines end with")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Lines end with")).to_have_accessible_description(re.compile("does not know"))
    assert violations(page) == []
    page.fill("#rule-rhyme", "")
    if width < 860:
        page.keyboard.press("Escape")
    page.click("#write-go")
    assert wait_for_text(page).startswith("a tinya")
    expect(said).to_have_text("")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_rules_are_reached_by_the_keyboard(page: Page) -> None:
    page.focus("#write-rules > summary")
    page.keyboard.press("Enter")
    for name in ("example", "acrostic", "rhyme", "contains", "allow", "forbid", "guided_regex", "guided_json"):
        page.keyboard.press("Tab")
        expect(page.locator(f"#rule-{name}")).to_be_focused()
    page.focus("#rule-acrostic")
    page.keyboard.type("ab")
    page.keyboard.press("Control+Enter")
    assert [line[0] for line in wait_for_text(page).split("\n")] == ["a", "b"]


def test_a_link_holds_the_rules(context: BrowserContext, page: Page, address: str) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_rules(page)
    page.fill("#rule-acrostic", "at")
    page.fill("#rule-guided_regex", "(.+\\n?)+")
    text = write(page, "so ")
    page.click("#write-link")
    expect(page.locator("#write-note")).to_contain_text("and the rules")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert parse_qs(link.split("?")[1])["guided_regex"] == ["(.+\\n?)+"]
    other = context.new_page()
    other.goto(link)
    expect(other.locator("#rule-acrostic")).to_be_visible()
    expect(other.locator("#rule-acrostic")).to_have_value("at")
    assert wait_for_text(other) == text
    other.goto(f"{address}/#write?acrostic=%C3%96&seed=1")
    expect(other.locator("#rule-acrostic-refusal")).to_contain_text("does not know 'Ö'")


# --- what is copied


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "copier", letters=LETTERS)


@pytest.fixture
def copying(context: BrowserContext, copier: Path) -> Iterator[tuple[Page, str]]:
    """The page of a model whose training text is known, and its address."""
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    with serving(app_of({"copier": copier})) as place:
        page.goto(place.url)
        page.wait_for_selector("#model option", state="attached")
        yield page, place.url
    assert said == []


def test_the_longest_copied_stretch_is_underlined_and_named(copying: tuple[Page, str], copier: Path) -> None:
    page, address = copying
    page.check("#write-copies")
    text = write(page, "a tiny text.")
    written = text.removeprefix("a tiny text.")  # what was typed does not count
    found = httpx.post(f"{address}/novelty", json={"text": written}).json()
    assert found["longest"] == load(copier).novelty(written).longest
    expect(page.locator("#write-note")).to_contain_text(f"At most {found['longest']} characters in a row are copied")
    expect(page.locator("#write-note")).to_contain_text(f"as in {found['stretches'][0]['source']}.")
    expect(page.locator("#write-note")).to_contain_text("of its stretches of 20 characters are new.")
    assert "".join(page.locator("#write-text .copied").all_text_contents()) == found["stretches"][0]["text"]
    assert violations(page) == []
    noted = page.locator("#write-note").text_content()
    page.uncheck("#write-copies")
    expect(page.locator("#write-text .copied")).to_have_count(0)
    expect(page.locator("#write-note")).not_to_contain_text("in a row are copied")
    page.check("#write-copies")
    expect(page.locator("#write-note")).to_have_text(str(noted))  # and not twice
    page.uncheck("#write-copies")
    page.reload()
    expect(page.locator("#write-copies")).not_to_be_checked()


def test_nothing_is_compared_unless_it_is_wanted(copying: tuple[Page, str]) -> None:
    page, _ = copying
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    write(page, "a")
    assert not any(url.endswith("/novelty") for url in asked)
    page.check("#write-copies")
    expect(page.locator("#write-note")).to_contain_text("characters in a row are copied")
    assert sum(url.endswith("/novelty") for url in asked) == 1


def test_why_nothing_can_be_compared_is_said(context: BrowserContext, address: str) -> None:
    page = open_page(context, address)
    set_dials(page, max_tokens=100)
    page.check("#write-copies")
    write(page, "a")  # this model has another alphabet than its corpus
    expect(page.locator("#write-note")).to_contain_text("the training text has no index here")
