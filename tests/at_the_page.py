"""What people do on the page, and what they see there."""

from __future__ import annotations

from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect


def write(page: Page, prompt: str, seed: int = 7, length: int = 100) -> str:
    """What stands on the page after the model wrote."""
    page.fill("#write-prompt", prompt)
    page.fill("#sampling-seed", str(seed))
    page.fill("#sampling-max_tokens", str(length))
    page.click("#write-go")
    return wait_for_text(page)


def wait_for_text(page: Page) -> str:
    expect(page.locator("#write-go")).to_have_text("Continue")
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


def alternatives(page: Page) -> Locator:
    buttons = page.locator("#alternatives button")
    expect(buttons.first).to_be_visible()
    return buttons


def read(page: Page, text: str) -> None:
    page.click("#tab-read")
    page.fill("#read-source", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible()
