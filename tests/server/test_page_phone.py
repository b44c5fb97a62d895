"""The page on a phone: the text has the screen, and Write stays in reach."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from at_the_page import set_dials, write


def test_the_text_has_the_screen_and_write_stays_in_reach(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#sampling-temperature")).to_be_hidden()
    write(page, "a tiny ", length=2000)
    expect(page.locator("#write-go")).to_be_in_viewport()
    page.evaluate("() => document.querySelector('#write .sheet').scrollTo(0, 0)")
    expect(page.locator("#write-go")).to_be_in_viewport()
    sheet = page.locator("#write .sheet").bounding_box()
    assert sheet is not None
    assert sheet["height"] > 0.75 * 844
    assert page.evaluate("() => document.documentElement.scrollHeight <= innerHeight")


def test_dials_are_behind_settings(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    set_dials(page, temperature=1.5, min_p=0.02)
    page.set_viewport_size({"width": 1400, "height": 900})
    expect(page.locator("#write-settings")).to_be_hidden()
    expect(page.locator("#sampling-temperature")).to_have_value("1.5")
