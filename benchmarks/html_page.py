"""Measures how fast the page of `scriven export --to html` writes and reads in Chromium, beside native code.

    python benchmarks/html_page.py runs/book
    python benchmarks/html_page.py runs/book --with-counts

Prints characters per second of the clock and of the browser's processor time (which other programs disturb less), with
vectors of WebAssembly and in plain JavaScript, and the size of the page. Needs the system's chromium and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from playwright.sync_api import CDPSession, Page, sync_playwright

from scriven.exchange.exported import read_exported
from scriven.exchange.html_page import write_html
from scriven.trained_model import load

PROMPT = "The "
MAKE = """async (vectors) => {
    const { Model } = await import("scriven/model.js");
    const { header, arrays } = globalThis.scriven;
    globalThis.measured = new Model(header, arrays, ...(vectors ? [] : [() => null]));
}"""
WRITE = """async ([prompt, seed, length, top_p]) => {
    const settings = { temperature: 0.8, top_k: 0, top_p, min_p: 0 };
    let text = "";
    for await (const id of measured.write(prompt, settings, seed, length, async () => {})) text += measured.decode(id);
    return text;
}"""
READ = """async (text) => {
    let sum = 0;
    for await (const { nats } of measured.score(text, async () => {})) sum += nats;
    return sum;
}"""


def main() -> None:
    """Prints a row for each way to compute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run, or its name")
    parser.add_argument("--length", type=int, default=8000, help="characters (default 8000)")
    parser.add_argument("--with-counts", action="store_true", help="mix with the run's counts, which must be small")
    asked = parser.parse_args()
    print(common.machine())
    model = load(asked.run, counts="auto" if asked.with_counts else "none")
    begun = time.perf_counter(), time.process_time()
    text = model.sample(PROMPT, length=asked.length, seed=1, temperature=0.8)
    _print_row("native, writing", asked.length, time.perf_counter() - begun[0], time.process_time() - begun[1])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        made = write_html(read_exported(asked.run), path, with_counts=asked.with_counts)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("body:not(.closed)")
        session = browser.new_browser_cdp_session()
        for vectors in (True, False):
            name = "vectors" if vectors else "plain"
            page.evaluate(MAKE, vectors)
            page.evaluate(WRITE, [PROMPT, 1, 500, 1])  # the browser compiles
            written = _measure(page, session, f"{name}, writing", WRITE, [PROMPT, 1, asked.length, 1], asked.length)
            _measure(page, session, f"{name}, with top-p", WRITE, [PROMPT, 1, asked.length, 0.9], asked.length)
            _measure(page, session, f"{name}, reading", READ, text, asked.length)
            if written != text:
                print("the text is another one" + (": the counts were pruned" if made.notes[1:] else ""))
        print(f"{made.size:,} bytes")
        browser.close()


def _measure(page: Page, session: CDPSession, name: str, code: str, values: Any, length: int) -> Any:
    """Prints how long code takes in the page. Returns its result."""
    clock, processor = time.perf_counter(), _processor_seconds(session)
    found = page.evaluate(code, values)
    _print_row(name, length, time.perf_counter() - clock, _processor_seconds(session) - processor)
    return found


def _processor_seconds(session: CDPSession) -> float:
    """Returns the processor time of all of the browser's processes."""
    return sum(float(each["cpuTime"]) for each in session.send("SystemInfo.getProcessInfo")["processInfo"])


def _print_row(name: str, length: int, clock: float, processor: float) -> None:
    print(f"{name:22} {length / clock:10,.0f} characters/s of the clock {length / processor:10,.0f} of processor time")


if __name__ == "__main__":
    main()
