"""A model of tokens on the page: it writes and reads whole tokens, and says that it has no alternatives to one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from at_the_page import read, write
from page_server import make_run
from scriven.trained_model import load

TEXT = "C Am F G\nDm  G\tC\n\nF G7 C" * 30


@pytest.fixture(scope="module", params=["none", "lines"])
def served_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("songs")
    return {
        "songs": make_run(folder / "songs", unit="token", documents=request.param, letters=TEXT, training_text=TEXT)
    }


def test_it_writes_tokens_with_spaces_between(page: Page, served_runs: dict[str, Path]) -> None:
    text = write(page, "C Am", length=12)
    model = load(served_runs["songs"])
    assert "  " not in text
    assert all(token in model.vocabulary.tokens for token in text.split())
    assert len(model.read_ids(text)) > 2 or model.ends_texts
    expect(page.locator("#write-text")).to_have_text(text, use_inner_text=False)


def test_reading_colours_whole_tokens(page: Page, served_runs: dict[str, Path]) -> None:
    text = "C  Am\tF\nzz G7 C\nC"
    score = load(served_runs["songs"]).score(text)
    read(page, text)
    expect(page.locator("#read-bits")).to_have_text(f"{score.nats / score.characters / math.log(2):.3f}")
    expect(page.locator("#read-results .figure")).to_contain_text("bits per token")
    first = page.locator("#read-places li").first  # an unknown one is most surprising
    expect(first.locator("mark")).to_have_text("zz")


def test_it_has_no_alternatives_to_a_token(page: Page) -> None:
    read(page, "C Am F")
    page.locator("#read-text .row span", has_text="Am").first.click()
    expect(page.locator("#alternatives-list")).to_contain_text("This model writes tokens")


def test_lines_are_measured_per_token(page: Page) -> None:
    read(page, "C Am F\nG7 zz C\nDm G C\n")
    page.select_option("#read-by", "lines")
    told = "Colours for bits per token of a line, from pale to dark"
    expect(page.locator("#read-key")).to_have_attribute("aria-label", told)
    page.locator("#read-places li").first.click()
    expect(page.locator("#read-note")).to_contain_text("bits per token.")


def test_compare_and_watch_count_tokens(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-facts")).to_contain_text("bits per token")
    expect(page.locator("#watch-facts")).to_contain_text("9,000 tokens")
    assert "Bits per token over" in (page.locator("#watch-plot svg").get_attribute("aria-label") or "")
    page.click("#tab-compare")
    page.fill("#compare-length", "20")
    page.click("#compare-go")
    expect(page.locator("#compare .verdict .figure").last).to_contain_text("bits per token")
