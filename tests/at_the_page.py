"""What people do on the page, and what they see there."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from typing import Any

import httpx
from playwright.sync_api import Error, Locator, Page, Route, expect


def write(page: Page, prompt: str, seed: int = 7, length: int = 100) -> str:
    """What stands on the page after the model wrote."""
    page.fill("#write-prompt", prompt)
    set_dials(page, seed=seed, max_tokens=length)
    page.click("#write-go")
    return wait_for_text(page)


def set_dials(page: Page, **values: float) -> None:
    """Sets dials by the names of the API; on a small screen, behind Settings."""
    settings, more = page.locator("#write-settings"), page.locator("#write-sampling details:not(#write-rules)")
    hidden = settings.is_visible()
    if hidden:
        settings.click()
    if values.keys() & {"top_k", "top_p", "min_p"} and more.get_attribute("open") is None:
        more.locator("summary").click()
    for name, value in values.items():
        page.fill(f"#sampling-{name}", str(value))
    if hidden:
        page.keyboard.press("Escape")
        expect(page.locator("#write-sampling")).to_be_hidden()


def wait_for_text(page: Page) -> str:
    expect(page.locator("#write-go span")).to_have_text("Continue")
    return page.locator("#write-text").text_content() or ""


def complete(address: str, **choices: Any) -> str:
    """What a model writes for anybody who asks as the page does."""
    answer = httpx.post(f"{address}/v1/completions", json={"seed": 7, "temperature": 0.8, "max_tokens": 100} | choices)
    return str(answer.json()["choices"][0]["text"])


def click_character(page: Page, before: str, where: str = "write-text") -> None:
    """Clicks the character after this beginning of the text."""
    spot = page.evaluate(
        """([where, place]) => {
            const walker = document.createTreeWalker(document.getElementById(where), NodeFilter.SHOW_TEXT);
            while (walker.nextNode().length <= place) place -= walker.currentNode.length;
            walker.currentNode.parentElement.scrollIntoView({ block: "center" });
            const range = document.createRange();
            range.setStart(walker.currentNode, place);
            range.setEnd(walker.currentNode, place + 1);
            const box = range.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }""",
        [where, len(before.encode("utf-16-le")) // 2],
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


def drop_file(page: Page, where: str, name: str, data: bytes) -> None:
    """Drops a file on the element of this id."""
    page.evaluate(
        """([where, name, data]) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], name));
            const event = new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true });
            document.getElementById(where).dispatchEvent(event);
        }""",
        [where, name, b64encode(data).decode()],
    )


class HeldUploads:
    """Requests for the texts of files that are not answered until a test wants it."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, route: Route) -> None:
        self._routes.append(route)

    def answer(self, text: str) -> None:
        for route in self._routes:
            with suppress(Error):  # the page has given it up
                route.fulfill(body=text, content_type="text/plain")
