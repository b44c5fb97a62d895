"""Reading and comparing on the page: a browser, a real server, tiny models."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from at_the_page import HeldUploads, alternatives, complete, drop_file, read
from fake_books import docx, epub, paragraph
from live_server import serving
from page_server import LETTERS, TEXT, app_of, make_run
from scriven.trained_model import load

# --- read


@pytest.mark.parametrize("name", ["left", "lines", "bytes"])
def test_a_text_is_coloured_by_surprise(page: Page, served_runs: dict[str, Path], name: str) -> None:
    page.select_option("#model", name)
    text = "a tiny text.\n\nit ends 😀 é\nso"
    read(page, text)
    score = load(served_runs[name]).score(text)
    letters = len(text.replace("\n", "") if name == "lines" else text)  # what ends a line is in none of its documents
    expect(page.locator("#read-bits")).to_have_text(f"{score.nats / letters / math.log(2):.3f}")
    rows = page.locator("#read-text .row")
    expect(rows).to_have_count(4)
    lines = text.split("\n")
    for row, line in zip(rows.all(), lines, strict=True):
        assert (row.text_content() or "").rstrip(" ↵").endswith(line)
    if name == "left":
        most = max(score.surprisals) / math.log(2)
        expect(page.locator("#read-places .share").first).to_have_text(f"{most:.1f} bits")
        found = "".join(page.locator("#read-places mark").all_text_contents())
        assert {"😀": "😀", "\n": "↵", " ": "␣"}.get(*[text[int(score.surprisals.argmax())]] * 2) == found[0]


def test_each_line_has_its_bits(page: Page, served_runs: dict[str, Path]) -> None:
    read(page, "a tiny text.\nits end")
    costs = load(served_runs["left"]).score("a tiny text.\nits end").surprisals / math.log(2)
    means = [costs[:13].mean(), costs[13:].mean()]
    assert page.locator("#read-text .cost").all_text_contents() == [f"{mean:.2f}" for mean in means]


def test_a_place_in_the_list_is_shown_in_the_text(page: Page) -> None:
    read(page, TEXT + "zzz" + TEXT * 10)
    page.locator("#read-places button").first.click()
    here = page.locator("#read-text .here")
    expect(here).to_be_visible()
    expect(here).to_be_in_viewport()
    expect(page.locator("#read-note")).to_contain_text("bits")


def test_of_a_long_text_only_what_is_in_sight_is_in_the_document(page: Page) -> None:
    page.click("#tab-read")
    text = "".join(f"a line of text that is the {place:06d}th\n" for place in range(9000))
    page.evaluate("text => (document.getElementById('read-source').value = text)", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible(timeout=60_000)
    assert page.locator("#read-text .row").count() < 60
    page.evaluate("() => document.getElementById('read-text').scrollTo(0, 1e9)")
    expect(page.locator("#read-text .row").last).to_contain_text("008999th")
    assert page.locator("#read-text .row").count() < 60


def test_a_file_can_be_dropped_or_opened(page: Page, tmp_path: Path) -> None:
    page.click("#tab-read")
    path = tmp_path / "letter.txt"
    path.write_text("a letter\nthat ends", "utf-8")
    page.set_input_files("#read-choose", path)
    expect(page.locator("#read-text .row").last).to_contain_text("that ends")
    page.click("#read-edit")
    expect(page.locator("#read-source")).to_have_value("a letter\nthat ends")
    drop_file(page, "read", "dropped.txt", b"dropped text")
    expect(page.locator("#read-text .row").first).to_contain_text("dropped text")


def test_a_docx_or_epub_can_be_dropped_or_opened(page: Page, tmp_path: Path) -> None:
    page.click("#tab-read")
    novel = docx(tmp_path / "novel.docx", paragraph("a dark night") + paragraph("a docx ends"))
    page.set_input_files("#read-choose", novel)
    expect(page.locator("#read-text .row").last).to_contain_text("a docx ends")
    page.click("#read-edit")
    expect(page.locator("#read-source")).to_have_value("a dark night\na docx ends\n")
    book = epub(tmp_path / "The Book.EPUB", ["<p>a chapter</p>", "<p>an epub ends</p>"])
    drop_file(page, "read", book.name, book.read_bytes())
    expect(page.locator("#read-text .row").last).to_contain_text("an epub ends")


def test_a_file_that_is_still_being_opened_comes_second_to_the_next(page: Page) -> None:
    held, note = HeldUploads(), page.locator("#read-note")
    page.route("**/extract?*", held.add)
    page.click("#tab-read")
    drop_file(page, "read", "slow.docx", b"PK")
    expect(note).to_have_text("Opening slow.docx …")
    drop_file(page, "read", "fast.txt", b"what was dropped last")
    expect(note).to_have_text("21 characters.")
    drop_file(page, "read", "stopped.docx", b"PK")
    expect(note).to_have_text("Opening stopped.docx …")
    page.click("#read-go")
    expect(page.locator("#read-go")).to_have_text("Read")
    read(page, "a tiny text")
    held.answer("too late")
    page.wait_for_timeout(300)
    expect(note).to_have_text("11 characters.")
    expect(page.locator("#read-text")).to_contain_text("a tiny text")


NOTHING = {"#read-bits": "–", "#read-places": "", "#read-means": "The fewer, the better the model predicted the text."}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "letter.txt is empty."),
        (b"%PDF-1.7\n" + bytes(range(256)) * 10, "letter.txt is neither .docx, .epub nor plain text"),
        (b"a" * 70_000 + b"\0", "letter.txt is neither .docx, .epub nor plain text"),
        ("schöne grüße".encode("latin-1"), "letter.txt is neither .docx, .epub nor plain text"),
    ],
)
def test_a_file_that_is_no_text_is_refused(page: Page, tmp_path: Path, data: bytes, said: str) -> None:
    """What was read before stood above the refusal, as if it were about that."""
    read(page, "a tiny text")
    path = tmp_path / "letter.txt"
    path.write_bytes(data)
    page.set_input_files("#read-choose", path)
    expect(page.locator("#read-note")).to_contain_text(said)
    expect(page.locator("#read-text")).to_be_hidden()
    expect(page.locator("#read-source")).to_have_value("")
    for place, words in NOTHING.items():
        expect(page.locator(place)).to_have_text(words)
    path.write_bytes(b"a word and more words " * 9 + b"\xff")  # little of it is broken
    page.set_input_files("#read-choose", path)
    expect(page.locator("#read-note")).to_contain_text("characters.")


def test_numbers_stay_those_that_people_can_think_of(page: Page) -> None:
    read(page, "€ß☃")
    expect(page.locator("#read-means")).to_have_text("Worse than guessing among all 1,114,112 characters of Unicode.")
    page.locator("#read-places button").first.click()
    expect(page.locator("#read-note")).to_have_text(
        re.compile(r"“.”: \d+\.\d bits\. The model gave it a chance of 1 in [\d.]+ million\.")
    )


def test_reading_can_be_stopped_before_it_has_begun(page: Page) -> None:
    """The page did nothing any more after that."""
    page.click("#tab-read")
    page.fill("#read-source", "a tiny text")
    page.route("**/tokenizer_info*", lambda route: None)
    page.click("#read-go")
    expect(page.locator("#read-go")).to_have_text("Stop")
    page.click("#read-go")
    expect(page.locator("#read-go")).to_have_text("Read")  # it has stopped: another click would stop it once more
    page.unroute("**/tokenizer_info*")
    page.click("#read-go")
    expect(page.locator("#read-note")).to_have_text("11 characters.")


def test_ends_of_lines_that_the_model_did_not_learn_are_told(
    context: BrowserContext, page: Page, tmp_path: Path
) -> None:
    unix, windows = tmp_path / "unix.txt", tmp_path / "windows.txt"
    unix.write_bytes(b"a line\nanother\n")
    windows.write_bytes(b"a line\r\nanother\r\n")
    assert ends_told(page, windows).endswith("The model has never seen a CR, so each one counts as very surprising.")
    expect(page.locator("#read-places mark").first).to_have_text("␍")
    expect(page.locator("#read-text .row").first).to_contain_text("a line␍")
    assert ends_told(page, unix) == ""
    learned = make_run(tmp_path / "runs" / "windows", letters=LETTERS + "\r")
    with serving(app_of({"windows": learned})) as place:
        other = context.new_page()
        other.goto(place.url)
        expect(other.locator("#model option")).to_have_count(1)
        assert ends_told(other, windows) == ""
        assert ends_told(other, unix).startswith("The model learned lines that end in CR LF")


def ends_told(page: Page, path: Path) -> str:
    page.click("#tab-read")
    page.set_input_files("#read-choose", path)
    expect(page.locator("#read-note")).to_have_text(re.compile(r"^\d+ characters\.$"))
    expect(page.locator("#read-text .row").first).to_contain_text("a line")
    return page.locator("#read-ends").text_content() or ""


def test_no_surprising_place_is_left_out(page: Page, served_runs: dict[str, Path]) -> None:
    """Of places near one another only the strongest was listed, and weaker ones from elsewhere after it."""
    text = "a tiny text zqzqz\nits lines"
    read(page, text)
    bits = sorted(load(served_runs["left"]).score(text).surprisals / math.log(2), reverse=True)
    assert page.locator("#read-places .share").all_text_contents() == [f"{each:.1f} bits" for each in bits]


def test_line_ends_can_be_left_out(page: Page, served_runs: dict[str, Path]) -> None:
    text = "a tiny text.\nits ends\n"
    costs = load(served_runs["left"]).score(text).surprisals / math.log(2)
    read(page, text)
    expect(page.locator("#read-bits")).to_have_text(f"{costs.mean():.3f}")
    page.check("#read-without-ends")
    inner = [*costs[:12], *costs[13:21]]
    expect(page.locator("#read-bits")).to_have_text(f"{sum(inner) / len(inner):.3f}")
    expect(page.locator("#read-places button")).to_have_count(len(inner))
    assert page.locator("#read-text .cost").all_text_contents() == [
        f"{each.mean():.2f}" for each in (costs[:12], costs[13:21])
    ]
    expect(page.locator("#read-text .row").first).to_have_text(re.compile(r"text\. ?$"))
    page.uncheck("#read-without-ends")
    expect(page.locator("#read-bits")).to_have_text(f"{costs.mean():.3f}")
    read_again(page, "without an end")
    expect(page.locator("#read-ends-choice")).to_be_hidden()
    expect(page.locator("#read-lines")).to_be_hidden()


def read_again(page: Page, text: str) -> None:
    page.click("#read-edit")
    page.fill("#read-source", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible()


@pytest.mark.parametrize("name", ["left", "lines"])
def test_lines_can_be_sorted_by_surprise(page: Page, name: str) -> None:
    page.select_option("#model", name)
    lines = ["a tiny text.", "zzqq 😀z", "", "it ends", "a b"]
    read(page, "\n".join(lines))
    rows = page.locator("#read-text .row")
    as_written = shown_lines(page)
    page.select_option("#read-order", "most surprising first")
    costs = [float(cost) for cost in page.locator("#read-text .cost").all_text_contents() if cost]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) >= 4
    assert sorted(shown_lines(page)) == sorted(as_written)
    page.locator("#read-places button", has=page.locator("mark", has_text="q")).first.click()
    expect(rows.filter(has_text="zzqq").locator(".here")).to_be_visible()
    page.select_option("#read-order", "least surprising first")
    costs = [float(cost) for cost in page.locator("#read-text .cost").all_text_contents() if cost]
    assert costs == sorted(costs)
    page.select_option("#read-order", "as written")
    assert [words.replace("↵", " ") for words in shown_lines(page)] == as_written


def shown_lines(page: Page) -> list[str]:
    """The visible lines without their costs; a line end that surprises is shown by a sign."""
    script = "rows => rows.map(row => [...row.children].slice(1).map(each => each.textContent).join(''))"
    return [line.replace("↵", " ").rstrip() for line in page.locator("#read-text .row").evaluate_all(script)]


def test_a_click_while_reading_shows_what_else_could_stand_there(page: Page) -> None:
    read(page, "a tiny text.\nit ends")
    page.locator("#read-text .row").nth(1).locator("span", has_text=re.compile("[a-z]")).first.click()
    other = alternatives(page).and_(page.locator(":not([aria-current])")).first
    expect(page.locator("#alternatives [aria-current]")).to_have_count(1)
    expect(page.locator("#alternatives-hint")).to_contain_text("read again")
    place = page.locator("#read-text .here")
    before = shown_lines(page)
    old, named = place.text_content() or "", (other.locator(".glyph").text_content() or "").strip()
    other.click()
    expect(page.locator("#read-edit")).to_be_visible()
    new = {"space": " ", "new line": "↵"}.get(named, named)
    expect(page.locator("#read-text .row").nth(1)).not_to_contain_text(before[1])
    page.click("#read-edit")
    changed = page.locator("#read-source").input_value()
    assert changed != "a tiny text.\nit ends"
    assert changed.startswith("a tiny text.\n")
    assert new.replace("↵", "\n") in changed and old in before[1]


def test_alternatives_while_reading_work_from_the_keyboard(page: Page) -> None:
    read(page, "a 😀 text")
    page.focus("#read-text")
    page.keyboard.press("ArrowRight")
    here = page.locator("#read-text .here")
    expect(here).to_have_text("a")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(here).to_have_text("😀")
    page.keyboard.press("Enter")
    expect(page.locator("#alternatives [aria-current]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#read-text")).to_be_focused()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    expect(here).to_have_text("t")
    page.keyboard.press("ArrowLeft")
    expect(here).to_have_text("x")


@pytest.mark.parametrize("name", ["left", "lines", "bytes"])
def test_an_empty_page_shows_examples_to_read(page: Page, name: str) -> None:
    page.select_option("#model", name)
    page.click("#tab-read")
    examples = page.locator("#read-examples .example")
    expect(examples).to_have_count(2)
    told = examples.first.locator(".share").text_content() or ""
    examples.first.click()
    expect(page.locator("#read-bits")).to_have_text(re.compile(r"\d\.\d{3}"))
    expect(page.locator("#read-edit")).to_be_visible()
    assert told == f"{float(page.locator('#read-bits').text_content() or 0):.1f} bits per character"
    page.click("#read-edit")
    expect(page.locator("#read-examples")).to_be_hidden()
    page.fill("#read-source", "")
    expect(page.locator("#read-examples")).to_be_visible()
    expect(page.locator("#read-results")).to_be_hidden()


@pytest.mark.parametrize(
    "text", ["x", "\n", "<b onclick=alert(1)>&amp;</b>", "שלום עולם\nabc", "a\u0000b\u202edef", "\r\n\r\n"]
)
def test_any_text_can_be_read(page: Page, text: str) -> None:
    page.click("#tab-read")
    page.evaluate("text => (document.getElementById('read-source').value = text)", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible()
    expect(page.locator("#read-places button").first).to_be_visible()
    page.locator("#read-places button").last.click()
    expect(page.locator("#read-text .here")).to_have_count(1)
    assert page.locator("#read-text b").count() == 0


# --- compare


def test_two_models_write_side_by_side(page: Page, address: str, served_runs: dict[str, Path]) -> None:
    page.click("#tab-compare")
    page.fill("#compare-prompt", "a tiny ")
    page.fill("#compare-seed", "3")
    page.fill("#compare-length", "120")
    page.click("#compare-go")
    expect(page.locator("#compare .verdict .figure")).to_have_count(2)
    for side in ("left", "right"):
        model = load(served_runs[side])
        text = complete(address, model=side, prompt="a tiny ", max_tokens=120, seed=3)
        expect(page.locator(f"#compare-{side}-text")).to_have_text("a tiny " + text, use_inner_text=False)
        own = model.session()
        own.read("a tiny ")
        verdict, bits = page.locator(f".column:has(#compare-{side}) .verdict"), own.score(text).bits_per_char
        expect(verdict.locator("output")).to_have_text(f"{bits:.2f}")
        expect(verdict.locator("li", has_text=side)).to_contain_text(f"{bits:.2f}")
        expect(verdict.locator("li")).to_have_count(2)


def test_one_model_is_compared_at_two_temperatures(context: BrowserContext, served_runs: dict[str, Path]) -> None:
    page = context.new_page()
    with serving(app_of({"left": served_runs["left"]})) as place:
        page.goto(place.url)
        expect(page.locator("#model option")).to_have_count(1)
        page.click("#tab-compare")
        expect(page.locator("#compare-note")).to_contain_text("Compare two temperatures, or serve another.")
        page.fill("#compare-length", "120")
        page.click("#compare-go")
        expect(page.locator("#compare .verdict .figure")).to_have_count(2)
        written = [page.locator(f"#compare-{side}-text").text_content() for side in ("left", "right")]
        assert written[0] != written[1]
        expect(page.locator("#compare-note")).to_contain_text("There is only one model here")
        page.fill("#compare-right-temperature", page.locator("#compare-left-temperature").input_value())
        expect(page.locator("#compare-note")).to_contain_text("Two of these would write the same")


def test_more_than_two_models_write(page: Page, address: str) -> None:
    page.click("#tab-compare")
    page.click("#compare-more")
    page.click("#compare-more")
    expect(page.locator("#compare-more")).to_be_hidden()
    columns = page.locator("#compare .column")
    expect(columns.locator("select")).to_have_count(4)
    assert columns.locator("select").evaluate_all("all => all.map(each => each.value)") == MODELS
    page.click("[aria-label='Remove Model 3']")
    expect(columns).to_have_count(3)
    page.fill("#compare-length", "60")
    expect(page.locator("#compare-go")).to_have_text("Write all")
    page.click("#compare-go")
    expect(page.locator("#compare .verdict .figure")).to_have_count(3)
    expect(page.locator("#compare .verdict li")).to_have_count(9)
    text = complete(address, model="bytes", prompt="", max_tokens=60, seed=1)
    expect(page.locator("#compare-fourth-text")).to_have_text(text, use_inner_text=False)


MODELS = ["left", "right", "lines", "bytes"]


def test_the_seed_is_kept_unless_it_is_let_go(page: Page) -> None:
    page.click("#tab-compare")
    page.fill("#compare-length", "60")
    page.click("#compare-go")
    expect(page.locator("#compare .verdict .figure")).to_have_count(2)
    first = page.locator("#compare-left-text").text_content()
    expect(page.locator("#compare-seed")).to_have_value("1")
    page.uncheck("#compare-locked")
    page.click("#compare-go")
    expect(page.locator("#compare-seed")).not_to_have_value("1")
    expect(page.locator("#compare .verdict .figure")).to_have_count(2)
    assert page.locator("#compare-left-text").text_content() != first


def test_before_it_is_asked_compare_shows_how_the_models_write(page: Page, address: str) -> None:
    page.click("#tab-compare")
    for side in ("left", "right"):
        text = complete(address, model=side, prompt="", max_tokens=240, seed=1)
        expect(page.locator(f"#compare-{side}-text .ahead")).to_have_text(text, use_inner_text=False)
    page.select_option("#compare-right", "bytes")
    text = complete(address, model="bytes", prompt="", max_tokens=240, seed=1)
    expect(page.locator("#compare-right-text .ahead")).to_have_text(text, use_inner_text=False)


# --- words and lines

WORDS = "a tiny text, so it\nlasts\n\nשָׁלוֹם עוֹלָם e\u0301te\u0301 👩\u200d🚀 end"


def read_by(page: Page, by: str, text: str, model: str = "left") -> None:
    """Reads a text that is coloured by characters, words or lines."""
    page.evaluate("by => localStorage.setItem('scriven-read-by', JSON.stringify(by))", by)
    page.reload()
    page.select_option("#model", model)
    page.click("#tab-read")
    expect(page.locator("#read-by")).to_have_value(by)
    page.evaluate("text => (document.getElementById('read-source').value = text)", text)
    page.click("#read-go")
    expect(page.locator("#read-edit")).to_be_visible(timeout=60_000)
    expect(page.locator("#read-places li").first).to_be_visible()


def units(page: Page) -> list[str]:
    """What is coloured as one, on all rows."""
    return page.locator("#read-text .row span:not(.cost)").all_text_contents()


@pytest.mark.parametrize("name", ["left", "lines", "bytes"])
def test_words_have_the_bits_of_the_command_line(page: Page, served_runs: dict[str, Path], name: str) -> None:
    read_by(page, "words", WORDS, model=name)
    rows = [row for row in load(served_runs[name]).score_units(WORDS) if row["characters"]]
    most = sorted(rows, key=lambda row: -row["bits"])
    shown = page.locator("#read-places li")
    expect(shown).to_have_count(len(rows))
    found = [(each.locator("mark").text_content(), each.locator(".share").text_content()) for each in shown.all()]
    expected = [(row["text"].strip() or "↵", f"{row['bits']:.1f} bits") for row in most]
    assert sorted(found) == sorted((text or "", bits) for text, bits in expected)
    assert found[0] == expected[0]
    expect(page.locator("#read-key")).to_have_attribute("aria-label", "Colours for bits per word, from pale to dark")


def test_no_word_or_mark_is_cut(page: Page) -> None:
    for by in ("words", "characters"):
        read_by(page, by, WORDS)
        pieces = units(page)
        assert not any(re.match("[\u0300-\u036f\u0591-\u05c7\u200d]", piece) for piece in pieces)
        assert not any(piece.endswith("\u200d") for piece in pieces)
        if by == "words":
            assert any("שָׁלוֹם" in piece for piece in pieces)
            assert any("e\u0301te\u0301" in piece for piece in pieces)


def test_a_word_is_told_of_in_its_place_in_the_list_and_with_its_alternatives(
    page: Page, served_runs: dict[str, Path]
) -> None:
    read(page, "a tiny text ends")
    page.select_option("#read-by", "words")
    expect(page.locator("#read-places li")).to_have_count(4)
    rows = {row["text"].strip(): row["bits"] for row in load(served_runs["left"]).score_units("a tiny text ends")}
    page.focus("#read-text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#read-text .here")).to_have_text("tiny ")
    expect(page.locator("#read-note")).to_contain_text(f"“tiny”: {rows['tiny']:.1f} bits.")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#read-text .here")).to_have_text("tiny ")
    page.keyboard.press("Enter")
    alternatives(page)
    expect(page.locator("#alternatives-hint")).to_contain_text(f"“tiny”: {rows['tiny']:.1f} bits.")
    page.keyboard.press("Escape")
    page.locator("#read-places button").first.click()
    worst = max(rows, key=lambda text: rows[text])
    expect(page.locator("#read-text .here")).to_have_text(re.compile(f"^{worst} ?$"))
    page.reload()
    page.click("#tab-read")
    expect(page.locator("#read-by")).to_have_value("words")


def test_a_line_is_coloured_as_a_whole(page: Page, served_runs: dict[str, Path]) -> None:
    read_by(page, "lines", "a tiny text.\nqqqq zzz\n\nits end")
    rows = load(served_runs["left"]).score_units("a tiny text.\nqqqq zzz\n\nits end", by="line")
    shares = page.locator("#read-places .share").all_text_contents()
    assert shares == [f"{bits:.2f} bits" for bits in sorted((row["bits_per_char"] for row in rows), reverse=True)]
    page.locator("#read-places button").first.click()
    expect(page.locator("#read-note")).to_contain_text("bits per character.")
    assert len(units(page)) == 4


def test_words_of_a_long_text_are_not_cut_by_the_pieces_that_are_sent(page: Page) -> None:
    text = ("a tiny text that is long  enough " * 1300).strip()
    read_by(page, "words", text)
    marks = {each.strip() for each in page.locator("#read-places mark").all_text_contents()}
    assert marks <= {"a", "tiny", "text", "that", "is", "long", "enough"}
