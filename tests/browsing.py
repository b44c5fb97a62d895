"""Fixtures of tests that open the page in a browser; what they need is imported where they are used."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

SECONDS = 60  # for what is waited for on the page; machines that test may have other work

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="session")
def served_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from page_server import make_run

    folder = tmp_path_factory.mktemp("runs")
    return {
        "left": make_run(folder / "left"),
        "right": make_run(folder / "right", seed=2),
        "lines": make_run(folder / "lines", documents="lines"),
        "bytes": make_run(folder / "bytes", unit="byte"),
    }


@pytest.fixture(scope="module")
def address(served_runs: dict[str, Path]) -> Iterator[str]:
    from live_server import serving
    from page_server import app_of

    with serving(app_of(served_runs)) as place:
        yield place.url


@pytest.fixture(scope="module")  # it runs an event loop in this thread, in which no other test could have its own
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    # Without windows Chromium starts and draws in two thirds of the time.
    where = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if where is None and sys.platform != "linux":
        pytest.skip("no chromium is found by its name")
    assert where, "the tests of the page need a Chromium (apt-get install chromium-headless-shell, or chromium)"
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(SECONDS * 1000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page, just opened. What it complains of fails the test: errors, and what its policy forbids."""
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    yield page
    assert said == []
