"""What a person and a program are told about a run."""

import dataclasses
import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_run import make_compared, make_evaluated, make_finished, make_sampled, make_started, make_stepped, training
from scriven.errors import format_bytes
from scriven.events import Event, Skipped
from scriven.loss import Loss
from scriven.report import visible
from scriven.report.terminal import JsonReport, TerminalReport, Throughput
from scriven.report.words import duration, next_commands, percent

ESCAPE = "\x1b"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def show_events(
    events: list[Event], stream: io.StringIO | None = None, *, quiet: bool = False, verbose: bool = False
) -> str:
    stream = stream or io.StringIO()
    report = TerminalReport(stream, quiet=quiet, verbose=verbose)
    for event in events:
        report.handle(event)
    report.close()
    return stream.getvalue()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "90")


def test_a_pipe_gets_plain_lines() -> None:
    text = show_events(list(training("runs/book")))
    assert all(c == "\n" or c.isprintable() for c in text)
    for words in (
        "Training lstm 2x192 (500,000 parameters) on 9,000 characters (1,000 more for validation), for about 5 min, "
        "into runs/book.\n",
        "step 60  validation 2.0438 bits/char, like guessing among 4.1 characters  best so far\n",
        "    It was a dark night.",
        "Done after 100 steps and 1 min 30 s.",
        "On text that it has not seen: 2.0198 bits/char, like guessing among 4.1 characters.\n",
    ):
        assert words in text


def test_who_wants_to_know_sees_how_it_was_measured() -> None:
    text = show_events(list(training("runs/book")), verbose=True)
    for words in (
        "cpu, bf16, 2 workers, 128 characters a step; 600 MB of memory.\n",
        "like guessing among 4.1 characters (stream, 1,000 characters)  best so far",
        "Best validation loss, at step 100: 2.0198 bits/char",
    ):
        assert words in text and words not in show_events(list(training("runs/book")))


def test_details_are_shown_to_who_wants_them() -> None:
    started = dataclasses.replace(make_started(notes=("It is long.", "The text is tiny.")), details=("It is long.",))
    assert "note: The text is tiny.\n" in show_events([started]) and "long" not in show_events([started])
    assert "note: It is long.\n" in show_events([started], verbose=True)


def test_the_first_line_says_what_the_weights_are_from() -> None:
    started = dataclasses.replace(make_started(), start="the start english")
    assert ", for about 5 min, from the start english, into runs/book.\n" in show_events([started])


def test_the_end_says_how_to_do_better() -> None:
    advice = "For a better model, train for longer: scriven train --resume -o runs/book --minutes 3"
    finished = dataclasses.replace(make_finished(5), advice=advice)
    assert f"\n{advice}\nNext:\n  scriven sample runs/book\n" in show_events([make_started(), finished])


def test_short_documents_are_sampled_whole_and_several_at_once() -> None:
    names = dataclasses.replace(make_finished(5), best=Loss(nats=100.0, characters=700, ends=100))
    letters = dataclasses.replace(make_finished(5), best=Loss(nats=100.0, characters=70_000, ends=100))
    assert "\n  scriven sample runs/book --count 20\n" in show_events([make_started(), names])
    assert "\n  scriven sample runs/book\n" in show_events([make_started(), letters])


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (0.0, "and 1 min 30 s.\n"),
        (0.28, "and 1 min 30 s. It has read 28 % of your text.\n"),
        (5.72, "and 1 min 30 s. It has read your text 5.7 times.\n"),
    ],
)
def test_the_end_says_how_much_of_the_text_was_read(epochs: float, said: str) -> None:
    *events, finished = training("runs/book")
    step = dataclasses.replace(make_stepped(100), epochs=epochs)
    assert said in show_events([*events, step, finished])


def test_a_pipe_is_told_about_steps_every_ten_seconds_at_most() -> None:
    events: list[Event] = [make_stepped(step, 1000, step / 10) for step in range(1, 1000)]
    lines = show_events([make_started(), *events]).splitlines()[1:]
    assert len(lines) == 10
    assert lines[1].split("  ")[0] == " 10 %"


def test_a_terminal_gets_a_bar_which_is_gone_at_the_end() -> None:
    stream = Terminal()
    report = TerminalReport(stream)
    for event in (make_started(), make_stepped(1), make_evaluated(1), make_stepped(2), make_stepped(3)):
        report.handle(event)
    shown = stream.getvalue()
    assert ESCAPE in shown
    for words in ("━", "step 3, learning rate 0.04", "validation 2.1640 bits/char", "characters/s"):
        assert words in shown
    report.handle(make_finished(3))
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_no_colour_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[36m" in show_events([make_started(), make_stepped(1), make_finished(1)], Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in show_events([make_started(), make_stepped(1), make_finished(1)], Terminal())


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert ESCAPE not in show_events(list(training("runs/book")), Terminal())


def test_quiet_is_silent() -> None:
    assert show_events(list(training("runs/book")), Terminal(), quiet=True) == ""


def test_standard_output_stays_free(capsys: pytest.CaptureFixture[str]) -> None:
    report = TerminalReport()
    for event in training("runs/book"):
        report.handle(event)
    report.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Done" in captured.err


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_the_model_writes_cannot_command_the_terminal(stream: type[io.StringIO]) -> None:
    text = show_events([make_sampled(1, "[red]no[/red] :smile: \x1b[2J\x07\r\u202e \ud800 \u200bé")], stream())
    assert "[red]no[/red] :smile: \\x1b[2J\\x07\\r\\u202e \\ud800 \\u200bé" in text
    assert "\x1b[2J" not in text


def test_a_sample_is_six_lines_at_most() -> None:
    lines = show_events([make_sampled(1, "word " * 2000)]).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("    word") and len(line) <= 100 for line in lines)
    assert len(show_events([make_sampled(1, "a\n" * 50)]).splitlines()) == 6


def test_notes_are_shown_at_both_ends() -> None:
    text = show_events([make_started(notes=("The text is tiny.",)), make_finished(5, notes=("It overfitted.",))])
    assert "note: The text is tiny." in text
    assert "note: It overfitted." in text


def test_a_resumed_run_says_from_where() -> None:
    assert "Resuming runs/book from step 40, 40 % done: lstm 2x192, on 9,000" in show_events([make_started(step=40)])
    assert "Going on" not in show_events([make_started()])


def test_the_end_gives_every_final_loss_with_its_protocol() -> None:
    windows = dataclasses.replace(make_evaluated(80, 1.41, final=True), protocol="window-256")
    text = show_events(
        [make_started(), make_evaluated(80, 1.4), make_evaluated(80, 1.39, final=True), windows, make_finished(100)],
        verbose=True,
    )
    assert "2.0053 bits/char, like guessing among 4.0 characters (stream: read once in order" in text
    assert "2.0342 bits/char, like guessing among 4.1 characters (window-256: in windows of 256 characters" in text


def test_the_end_gives_the_best_loss_where_nothing_was_measured_again() -> None:
    text = show_events([make_started(), make_evaluated(80, 1.4), make_finished(100, "interrupted")], verbose=True)
    assert "Stopped after 100 steps" in text
    assert "Best validation loss, at step 100: 2.0198 bits/char, like guessing among 4.1 characters (stream:" in text


def test_the_end_tells_a_mixture_from_its_parts() -> None:
    network, mixture = make_evaluated(80, 1.4, final=True), make_compared(80, "mixture", 1.3)
    counts, early = make_compared(80, "counts", 1.5), make_compared(0, "counts", 1.5, final=False)
    finished = dataclasses.replace(make_finished(100), best=mixture.loss)
    measured: list[Event] = [make_started(), early, network, mixture, counts, finished]
    brief = "On text that it has not seen: 1.8755 bits/char, like guessing among 3.7 characters"
    assert f"{brief}; counting alone: 2.1640 bits/char.\n" in show_events(measured)
    assert f"{brief}.\n" in show_events([each for each in measured if each not in (early, counts)])
    text = show_events(measured, verbose=True)
    assert "counting alone: 2.1640 bits/char, like guessing among 4.5 characters (stream: read once" in text
    assert "\n  1.8755 bits/char, like guessing among 3.7 characters (stream: read once" in text
    assert "\n    the network alone: 2.0198, counting alone: 2.1640\n" in text
    alone = show_events([make_started(), early, network, counts, make_finished(100)], verbose=True)
    assert "\n  2.0198 bits/char, like" in alone
    assert "\n    counting alone: 2.1640\n" in alone
    short = show_events([make_started(), make_evaluated(80, 1.4), mixture, counts, make_finished(100)], verbose=True)
    assert "\n  1.8755 bits/char" in short
    finished = dataclasses.replace(make_finished(100), network_alone=True)
    hurried: list[Event] = [make_started(), make_evaluated(80, 1.4), counts, finished]
    assert "(network alone), at step 100: 2.0198 bits/char" in show_events(hurried, verbose=True)
    assert "not seen (network alone): 2.0198 bits/char" in (shown := show_events(hurried))
    assert "no time to measure that: scriven evaluate" in " ".join(shown.split())


def test_evaluations_beside_counts_are_called_those_of_the_network_alone() -> None:
    started, plain, live = dataclasses.replace(make_started(), counts=True), io.StringIO(), Terminal()
    seen: list[Event] = [
        started,
        make_evaluated(80),
        make_stepped(81),
        make_evaluated(90, best=False),
        make_stepped(99),
    ]
    assert "step 80  validation, network alone: 2.1640 bits/char" in show_events(seen, plain)
    assert "validation, network alone: 2.1640 bits/char" in show_events(seen, live)
    assert "alone" not in show_events([make_started(), *seen[1:]])


def test_documents_are_counted_as_wholes_and_no_number_is_nan() -> None:
    lines = dataclasses.replace(make_evaluated(80), loss=Loss(900.0, 400, ends=10, end_nats=13.0), protocol="documents")
    assert (
        "3.2461 bits/char, like guessing among 9.5 characters, 1.8755 bits/end, 131.7181 bits/document"
        in show_events([make_started(), lines])
    )
    spoilt = [Loss(0.0, 0), Loss(math.nan, 10), Loss(math.inf, 3, ends=2, end_nats=math.nan)]
    for loss in spoilt:
        seen: list[Event] = [dataclasses.replace(make_evaluated(80), loss=loss)]
        seen += [dataclasses.replace(make_stepped(81), loss=loss)]
        seen += [dataclasses.replace(make_finished(81), best=loss), Skipped(82, 0.8, math.nan, math.nan, 1, 1, 90.0)]
        for stream in (io.StringIO(), Terminal()):
            text = show_events([make_started(), make_stepped(1), *seen], stream)
            assert not re.search(r"\b(nan|inf)\b", text), text


def test_no_validation_is_said() -> None:
    assert "There was no validation" in show_events(
        [make_started(), dataclasses.replace(make_finished(5), best=Loss(0.0, 0))]
    )


def test_the_next_commands_are_ready_to_paste() -> None:
    assert next_commands("my runs/book", make_finished(100)) == [
        "scriven sample 'my runs/book'",
        "scriven score 'my runs/book' FILE",
        "scriven serve 'my runs/book' --open",
    ]
    assert next_commands("book", make_finished(100, "interrupted"))[0] == "scriven train --resume -o book"


def test_speed_and_time_left_come_from_the_events_clocks() -> None:
    pace = Throughput()
    pace.note(make_started())
    assert pace.left == 300
    assert math.isnan(pace.speed)
    pace.note(make_stepped(1, 4, 0.25))
    assert pace.left == pytest.approx(300 * 3 / 4)  # one step says how much is done, not how fast
    pace = Throughput()
    pace.note(make_started())
    for step in range(1, 51):
        pace.note(make_stepped(step, 100, step / 4))
    assert pace.speed == pytest.approx(128 * 4)
    assert pace.left == pytest.approx(50 / 4)
    pace.note(make_evaluated(50))
    pace.note(make_stepped(51, 100, 1000.0))
    assert pace.speed == pytest.approx(128 * 4)  # a slow evaluation does not count as a slow step


def test_the_loss_shown_is_of_all_recent_characters() -> None:
    pace = Throughput()
    for step, loss in ((1, Loss(10.0, 10)), (2, Loss(90.0, 30))):
        pace.note(dataclasses.replace(make_stepped(step), loss=loss))
    assert pace.loss == Loss(100.0, 40)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = JsonReport()
    events = [*training("runs/book", last=20), make_sampled(20, "é\u2028\ud800\n")]
    for event in events:
        report.handle(event)
    report.close()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.isascii()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [record["event"] for record in records] == [type(event).__name__.lower() for event in events]
    assert records[1]["nats_per_char"] == 2.0
    assert records[-1]["text"] == "é\u2028\ufffd\n"  # of half a character many readers refuse the whole line


@given(st.text())
def test_visible_text_is_safe_and_ordinary_text_stays(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")  # no half characters
    assert ESCAPE not in shown
    assert not any("\x7f" <= c <= "\x9f" or (c < " " and c != "\n") for c in shown)
    assert visible(shown) == shown


def test_ordinary_text_is_shown_as_it_is() -> None:
    for text in ("To be, or not to be?\n", "naïve café", "日本語", "می\u200cخواهم", "👩\u200d🚀"):
        assert visible(text) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (119.9, "2 min"),
        (150, "2 min 30 s"),
        (3_660, "1 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_are_named_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_and_shares() -> None:
    assert [format_bytes(count) for count in (1, 600_000_000, 1_500_000_000)] == ["1 MB", "600 MB", "1.5 GB"]
    assert [percent(share) for share in (0.0, 0.5, 0.999, 1.0)] == ["  0 %", " 50 %", " 99 %", "100 %"]
