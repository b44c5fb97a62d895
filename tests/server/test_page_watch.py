"""Watching trainings on the page, and starting them: a browser, a real server, tiny models."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from at_the_page import HeldUploads, drop_file, write
from fake_books import docx, paragraph
from fake_run import make_evaluated, make_finished, make_sampled, make_started, make_stepped
from live_server import serving
from page_server import app_of, make_run
from scriven.loss import Loss
from scriven.report.files import FilesReport
from scriven.server.app import PAGE_FOLDER
from scriven.server.limits import LIMITS
from scriven.server.renewal import ServedCheckpoint
from scriven.server.trainings import TrainingPolicy

TEXT = "It was a dark night, and the rain fell on the roof.\n" * 60
SLOW = 120_000  # milliseconds that a training may take to start or end on a busy machine


def test_the_curves_of_a_run_are_shown(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-plot svg circle")).to_have_count(5)
    label = page.locator("#watch-plot svg").get_attribute("aria-label") or ""
    bits = (1.4 + 1 / 100) / math.log(2)
    assert f"Validation: {bits:.3f} at step 100" in label
    expect(page.locator("#watch-state")).to_have_text("Finished")
    used = 1.4 / math.log(2)  # of the model as it is used
    expect(page.locator("#watch-facts")).to_contain_text(f"{used:.3f} bits per character")


def test_samples_are_on_a_slider(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-step")).to_have_text("100")
    page.focus("#watch-when")
    page.keyboard.press("Home")
    expect(page.locator("#watch-step")).to_have_text("20")
    expect(page.locator("#watch-samples")).to_contain_text("It was a dark night.")
    expect(page.locator("#watch-plot circle").first).to_have_class("dot run0 here")


def test_a_run_in_training_is_followed(page: Page, served_runs: dict[str, Path]) -> None:
    page.click("#tab-watch")
    page.select_option("#watch-run", "right")
    expect(page.locator("#watch-plot svg circle")).to_have_count(5)
    facts, report = page.locator("#watch-facts"), FilesReport()
    expect(facts).to_contain_text("On unseen text2.020 bits per character")
    report.handle(replace(make_started(served_runs["right"], step=100), counts=True))
    for event in (make_stepped(101), make_evaluated(120, 1.2), make_sampled(120, "quite new")):
        report.handle(event)
    expect(page.locator("#watch-state")).to_have_text("Training now")
    expect(page.locator("#watch-plot svg circle")).to_have_count(6)
    expect(page.locator("#watch-samples")).to_contain_text("quite new")
    expect(facts).to_contain_text("Best so far1.731 bits per character, by the network alone")
    report.handle(replace(make_finished(120), best=Loss(1000.0, 1000)))
    report.close()
    expect(facts).to_contain_text("On unseen text1.443 bits per character")
    expect(facts).not_to_contain_text("alone")
    expect(page.locator("#watch-state")).to_have_text("Finished")


# --- several runs


def test_runs_are_drawn_over_one_another(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-plot polyline.validation")).to_have_count(1)
    others = page.locator("#watch-others button")
    expect(others).to_have_text(["right", "lines", "bytes"])
    others.nth(0).click()
    others.nth(2).click()
    expect(page.locator("#watch-plot polyline.validation")).to_have_count(3)
    assert others.evaluate_all("all => all.map(each => each.ariaPressed)") == ["true", "false", "true"]
    names = page.locator("#watch-plot text[class^=name]")
    expect(names).to_have_count(3)  # a run has a curve at once, and a name once its numbers have come
    assert sorted(names.all_text_contents()) == ["bytes", "left", "right"]
    assert Axe().run(page).response["violations"] == []
    others.nth(0).click()
    expect(page.locator("#watch-plot polyline.validation")).to_have_count(2)
    page.select_option("#watch-run", "bytes")
    expect(page.locator("#watch-plot polyline.validation")).to_have_count(1)
    expect(page.locator("#model")).to_have_value("bytes")


def test_the_axis_has_steps_minutes_or_epochs(page: Page) -> None:
    page.click("#tab-watch")
    ticks = page.locator("#watch-plot text[text-anchor=middle]")
    expect(ticks.last).to_have_text("100")
    page.select_option("#watch-unit", "minutes")  # a step took a second
    expect(ticks.last).to_have_text("1.5")
    page.select_option("#watch-unit", "epochs")  # 100 steps of 128 characters, of a text of 9,000
    expect(ticks.last).to_have_text("1")


def test_values_are_told_under_the_pointer_and_by_arrow_keys(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-plot circle")).to_have_count(5)
    # In one go, since events may draw the plot anew at any time.
    circle = "plot => { const { x, y } = plot.querySelectorAll('circle')[1].getBoundingClientRect(); return [x, y]; }"
    x, y = page.locator("#watch-plot").evaluate(circle)
    page.mouse.move(x + 3, y + 40)
    values = page.locator("#watch-values")
    bits = (1.4 + 1 / 40) / math.log(2)
    expect(values).to_contain_text(re.compile(rf"Step (39|40|41).*training, {bits:.3f} validation at step 40"))
    page.mouse.move(5, 5)
    expect(values).to_have_text("")
    page.focus("#watch-plot")
    page.keyboard.press("ArrowRight")
    expect(values).to_contain_text("Step 20")
    page.keyboard.press("ArrowRight")
    expect(values).to_contain_text("Step 40")


def test_the_curve_is_clipped_to_quantiles(page: Page) -> None:
    """One step of a thousand bits would press all others to the ground."""
    found = page.evaluate(
        """async () => {
            const { bounds } = await import("/plot.js");
            const training = Array.from({ length: 200 }, (_, x) => ({ x, bits: 2 + (x % 10) / 10 }));
            training[120].bits = 1000;
            return [bounds([{ training, validation: [] }]), bounds([{ training: [], validation: [] }])];
        }"""
    )
    assert 1.8 < found[0][0] < 2.1 and 2.7 < found[0][1] < 3.1
    assert found[1] == [0, 1]


def test_logs_of_all_kinds_can_be_watched(context: BrowserContext, tmp_path: Path) -> None:
    """Runs of other lengths, without steps, with losses that are no numbers; and one whose folder vanishes."""
    runs = {name: make_run(tmp_path / name) for name in ("long", "bare", "wild", "gone")}
    (tmp_path / "bare" / "metrics.jsonl").unlink()
    with (tmp_path / "wild" / "metrics.jsonl").open("a") as log:
        log.write('{"event":"stepped","step":101,"loss":{"nats":NaN,"characters":9}}\n{"event":"stepped","st')
    with (tmp_path / "long" / "metrics.jsonl").open("a") as log:
        for step in range(101, 5000):
            log.write(json.dumps({"event": "stepped", "step": step, "loss": {"nats": 2.0, "characters": 1}}) + "\n")
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    with serving(app_of(runs)) as place:
        page.goto(f"{place.url}/#watch")
        expect(page.locator("#watch-others button")).to_have_count(3)
        for name in ("bare", "wild", "gone"):
            page.locator("#watch-others button", has_text=name).click()
        expect(page.locator("#watch-plot polyline.validation")).to_have_count(4)
        assert "NaN" not in page.locator("#watch-plot svg").evaluate("svg => svg.outerHTML")
        for path in sorted((tmp_path / "gone").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        page.select_option("#watch-run", "gone")
        expect(page.locator("#watch-state")).to_have_text("Not trained yet")
        page.select_option("#watch-unit", "minutes")
        page.select_option("#watch-run", "bare")
        expect(page.locator("#watch-samples")).to_contain_text("It was a dark night.")
        page.close()
    assert said == []


# --- training


def test_a_model_is_trained_from_the_page(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page, old = context.new_page(), make_run(tmp_path / "runs" / "old")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a story.txt").write_text(TEXT, "utf-8")
    policy = TrainingPolicy(ServedCheckpoint, tmp_path / "texts")
    with serving(app_of({"old": old}, trainings=policy)) as place:
        page.goto(f"{place.url}/#watch")
        page.click("#train-new")
        assert Axe().run(page).response["violations"] == []
        page.fill("#train-text", TEXT)
        page.fill("#train-name", "old")
        page.keyboard.press("Enter")
        expect(page.locator("#train-note")).to_contain_text("There is a run old already")
        page.select_option("#train-file", "a story.txt")
        expect(page.locator("#train-name")).to_have_value("a-story")
        page.click("#train-dialog .main")
        expect(page.locator("#train-dialog")).to_be_hidden(timeout=SLOW)
        expect(page.locator("#watch-state")).to_have_text("Training now")
        expect(page.locator("#train-new")).to_be_hidden()
        expect(page.locator("#watch-plot polyline.training")).to_have_attribute(
            "points", re.compile(r"\d"), timeout=SLOW
        )
        page.click("#train-stop")
        expect(page.locator("#watch-state")).to_have_text("Stopped, and saved", timeout=SLOW)
        expect(page.locator("#model option")).to_have_count(2, timeout=SLOW)
        page.click("#train-more")
        expect(page.locator("#train-text")).to_be_hidden()
        page.click("#train-dialog .main")
        expect(page.locator("#train-stop")).to_be_enabled(timeout=SLOW)
        page.click("#train-stop")
        expect(page.locator("#train-more")).to_be_visible(timeout=SLOW)
        page.click("#tab-write")
        page.select_option("#model", "a-story")
        assert len(write(page, "It ")) == 103
        page.close()


def test_a_first_model_is_trained_from_the_page(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server without a run, from the first look to a text by the new model, without a restart."""
    monkeypatch.chdir(tmp_path)
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.set_viewport_size({"width": 390, "height": 844})
    with serving(app_of({}, trainings=TrainingPolicy(ServedCheckpoint))) as place:
        page.goto(f"{place.url}/#write")
        expect(page.locator("#watch-first")).to_contain_text("There is no model here yet.")
        for hidden in ("#tabs", "#watch-chart", "#watch-about", "#train-bar", "#pick"):
            expect(page.locator(hidden)).to_be_hidden()
        expect(page.locator("#train-first")).to_be_in_viewport()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert Axe().run(page).response["violations"] == []
        page.click("#train-first")
        page.fill("#train-text", "a")
        page.fill("#train-name", "short")
        page.click("#train-dialog .main")
        expect(page.locator("#train-says")).to_contain_text("short failed: ", timeout=SLOW)
        expect(page.locator("#watch-first")).to_be_visible()
        page.click("#train-first")
        novel = docx(tmp_path / "my novel.docx", "".join(map(paragraph, TEXT.splitlines())))
        page.set_input_files("#train-choose", novel)
        expect(page.locator("#train-name")).to_have_value("my-novel")
        page.click("#train-dialog .main")
        expect(page.locator("#watch-chart")).to_be_visible(timeout=SLOW)
        expect(page.locator("#watch-first")).to_be_hidden()
        expect(page.locator("#watch-plot polyline.training")).to_have_attribute(
            "points", re.compile(r"\d"), timeout=SLOW
        )
        assert Axe().run(page).response["violations"] == []
        page.click("#train-stop")
        page.click("#train-write", timeout=SLOW)
        expect(page.locator("#write-about")).to_contain_text("Learned from my-novel")
        assert len(write(page, "It ")) == 103
        page.close()
    assert said == []


def test_a_training_that_fails_says_why_on_the_page(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page, old = context.new_page(), make_run(tmp_path / "runs" / "old")
    with serving(app_of({"old": old}, trainings=TrainingPolicy(ServedCheckpoint))) as place:
        page.goto(f"{place.url}/#watch")
        expect(page.locator("#watch-plot polyline.training")).to_be_visible()  # also of a run alone
        page.click("#train-new")
        expect(page.locator("#train-file")).to_be_hidden()
        novel = docx(tmp_path / "my novel.docx", paragraph("a dark night"))
        drop_file(page, "train-text", novel.name, novel.read_bytes())
        expect(page.locator("#train-text")).to_have_value("a dark night\n")
        expect(page.locator("#train-name")).to_have_value("my-novel")
        page.set_input_files("#train-choose", {"name": "A.docx", "mimeType": "", "buffer": b"PK\x03\x04\0\0"})
        expect(page.locator("#train-note")).to_contain_text("A.docx is damaged and cannot be read")
        expect(page.locator("#train-text")).to_have_value("a dark night\n")
        page.fill("#train-text", "a")
        page.fill("#train-name", "short")
        page.click("#train-dialog .main")
        expect(page.locator("#train-says")).to_contain_text("short failed: ", timeout=SLOW)
        expect(page.locator("#watch-run")).to_have_value("old")
        page.close()


def test_only_the_last_file_that_is_opened_counts(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start waits for it, closing the form forgets it, and one that is too long is refused before anybody waits."""
    monkeypatch.chdir(tmp_path)
    page, held = context.new_page(), HeldUploads()
    text, start, note = (page.locator(f"#train-{name}") for name in ("text", "go", "note"))
    with serving(app_of({}, trainings=TrainingPolicy(ServedCheckpoint))) as place:
        page.goto(place.url)
        page.route("**/extract?*", held.add)
        page.click("#train-first")
        drop_file(page, "train-text", "slow.docx", b"PK")
        expect(note).to_have_text("Opening slow.docx …")
        expect(start).to_be_disabled()
        drop_file(page, "train-text", "fast.txt", b"what was dropped last")
        expect(text).to_have_value("what was dropped last")
        expect(start).to_be_enabled()
        drop_file(page, "train-text", "late.docx", b"PK")
        page.click("#train-cancel")
        page.click("#train-first")
        held.answer("too late")
        page.set_input_files("#train-choose", {"name": "long.txt", "mimeType": "", "buffer": b"a" * 4_000_000})
        expect(note).to_contain_text("no text of over 4 MB. Put the file into the folder")
        expect(text).to_have_value("what was dropped last")
        expect(page.locator("#train-name")).to_have_value("fast")
        expect(start).to_be_enabled()
        page.close()
    longest = re.search(r"LONGEST = ([\de]+);", (PAGE_FOLDER / "trainings.js").read_text("utf-8"))
    assert longest
    assert float(longest[1]) == 4e6 < LIMITS.body_bytes - 10_000


def test_a_server_that_trains_nothing_offers_to_write_only(page: Page) -> None:
    page.click("#tab-watch")
    expect(page.locator("#watch-plot circle")).to_have_count(5)
    expect(page.locator("#train-write")).to_be_visible()
    for name in ("new", "more", "stop"):
        expect(page.locator(f"#train-{name}")).to_be_hidden()
    page.click("#train-write")
    expect(page.locator("#write")).to_be_visible()
