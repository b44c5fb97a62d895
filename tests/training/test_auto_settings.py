"""What is chosen for the user: by text, budget and speed; what is given wins; everything fits together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scriven.corpus.build import open_or_build
from scriven.settings import Optimizer, Settings
from scriven.settings_values import merge_settings, validate
from scriven.training import workload
from scriven.training.auto_settings import choose_settings, expected_seconds, readable_seconds
from scriven.training.workload import Compute, Workload, choose_threads, describe_workload, measure_speed


def facts(characters: int = 1_000_000, cores: int = 2, speed: float = 80_000.0) -> Workload:
    return Workload(characters, characters // 9, cores, "cpu", speed, 5.0)


def settings_for(minutes: float, over: dict[str, Any] | None = None, **more: Any) -> Settings:
    return choose_settings(validate(merge_settings({"budget": {"minutes": minutes}}, over or {})), facts(**more))[0]


def test_one_minute_and_an_hour_do_not_train_the_same_model() -> None:
    assert settings_for(1).model.width < settings_for(60).model.width
    assert settings_for(1).model.dropout < settings_for(60).model.dropout


def test_a_faster_machine_trains_a_larger_model() -> None:
    assert settings_for(10, speed=5_000.0).model.width < settings_for(10, speed=500_000.0).model.width


def test_a_small_text_gets_a_smaller_model_than_a_large_one_that_is_read_as_often() -> None:
    assert settings_for(1, characters=50_000).model.width <= settings_for(20, characters=1_000_000).model.width


@pytest.mark.parametrize(("workers", "machines"), [(1, 1), (2, 1), (4, 1), (2, 2), (4, 4)])
def test_threads_do_not_depend_on_how_many_workers_there_are(workers: int, machines: int) -> None:
    """They decide the last bits; they were the cores of all machines over workers."""
    given = {"training": {"workers": workers, "groups": 4}, "reader": {"batch": 64}, "budget": {"minutes": 5.0}}
    settings, _ = choose_settings(validate(given), replace(facts(cores=8 * machines), own_cores=8))
    assert settings.training.threads == 2


@pytest.mark.parametrize(("rows", "threads"), [(16, 8), (32, 16), (64, 32), (256, 64)])
def test_a_thread_that_shares_the_work_has_two_rows_or_more(rows: int, threads: int) -> None:
    given = validate({"reader": {"batch": rows}, "budget": {"minutes": 5.0}})
    settings, _ = choose_settings(given, replace(facts(cores=64), own_cores=64, shared=True))
    assert settings.training.threads == threads


def test_where_products_take_32_rows_at_once_a_step_has_no_more() -> None:
    given, shared = validate({"budget": {"minutes": 2.0}}), replace(facts(), shared=True)
    assert choose_settings(given, shared)[0].reader.batch == 64
    assert choose_settings(given, replace(shared, tiles=True))[0].reader.batch == 32


@pytest.mark.parametrize(
    ("cores", "fastest", "tried"),
    [
        (1, 1, [1]),
        (2, 2, [2]),
        (8, 8, [8, 4]),
        (64, 16, [64, 32, 64, 16, 32, 8]),
        (6, 3, [6, 3, 6, 1]),
        (8, 2, [8, 4, 8, 2, 4]),
    ],
)
def test_as_many_threads_are_used_as_are_fastest(
    monkeypatch: pytest.MonkeyPatch, cores: int, fastest: int, tried: list[int]
) -> None:
    asked = list[int]()

    def speed(device: torch.device, precision: str, cell: str, threads: int = 1) -> float:
        asked.append(threads)
        return 1000.0 / max(threads / fastest, fastest / threads)

    monkeypatch.setattr(workload, "measure_speed", speed)
    assert choose_threads(torch.device("cpu"), "fp32", "lstm", cores) == (fastest, 1000.0)
    assert asked == tried
    measured = replace(facts(cores=cores), own_cores=cores, shared=True, fastest_threads=fastest)
    settings, _ = choose_settings(validate({"budget": {"minutes": 5.0}}), measured)
    assert settings.training.threads == fastest


@pytest.mark.parametrize(
    ("training", "measured"),
    [({"threads": 2}, 2), ({"threads": 2, "workers": 3}, 6), ({"threads": 3, "groups": 4}, 8), ({"threads": 1}, 1)],
)
def test_the_speed_is_that_of_the_threads_that_the_user_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, training: dict[str, int], measured: int
) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 50, encoding="utf-8")
    settings = validate({"training": training})
    corpus = open_or_build([str(tmp_path / "text.txt")], settings.corpus)
    monkeypatch.setattr(workload, "available_cores", lambda: 8)
    monkeypatch.setattr(workload, "has_native_code", lambda *_: True)
    monkeypatch.setattr(workload, "measure_speed", lambda *given: 100.0 * given[3])
    compute = Compute(torch.device("cpu"), "fp32")
    found = describe_workload(corpus, settings, compute, 1, 0.0, measured=True)
    assert (found.fastest_threads, found.speed) == (measured, 100.0 * measured)


def test_a_busy_moment_takes_no_threads_away(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([300.0, 500.0, 900.0])  # of 8 threads, of 4, and of 8 again
    monkeypatch.setattr(workload, "measure_speed", lambda *_: next(speeds))
    assert choose_threads(torch.device("cpu"), "fp32", "lstm", 8) == (8, 900.0)


def test_one_machine_alone_uses_all_its_cores() -> None:
    for cores, shared in ((1, False), (2, False), (2, True), (8, False), (8, True)):
        settings, _ = choose_settings(
            validate({"budget": {"minutes": 5.0}}), replace(facts(cores=cores), own_cores=cores, shared=shared)
        )
        assert settings.training.workers * settings.training.threads == cores


@given(
    characters=st.integers(2, 10**12),
    minutes=st.floats(0.1, 10_000),
    cores=st.integers(1, 64),
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "training": st.fixed_dictionaries({}, optional={"workers": st.integers(1, 4), "seed": st.integers(0, 9)}),
            "reader": st.fixed_dictionaries({}, optional={"batch": st.sampled_from([12, 24, 96])}),
            "model": st.fixed_dictionaries({}, optional={"width": st.integers(1, 99), "dropout": st.just(0.33)}),
        },
    ),
)
def test_what_is_given_wins_and_everything_fits_together(
    characters: int, minutes: float, cores: int, chosen: dict[str, Any]
) -> None:
    settings = settings_for(minutes, chosen, characters=characters, cores=cores)
    for section, values in chosen.items():
        for name, value in values.items():
            assert getattr(getattr(settings, section), name) == value
    training = settings.training
    assert settings.reader.batch % training.groups == 0
    assert training.groups % training.workers == 0
    assert training.workers * training.threads <= max(cores, training.workers)


def test_a_tiny_text_is_read_in_fewer_rows_and_it_is_said() -> None:
    settings, notes = choose_settings(validate({"budget": {"minutes": 1}}), facts(characters=900))
    assert settings.reader.batch == 1
    assert settings.training.workers == 1
    assert "900 characters" in notes[0]


def test_a_huge_validation_text_is_read_in_part_and_it_is_said() -> None:
    settings, notes = choose_settings(validate({"budget": {"minutes": 2}}), facts(characters=8 * 10**9))
    assert 10_000 <= settings.training.evaluation_characters < 10**7
    assert any("validation characters" in note for note in notes)
    assert settings_for(2).training.evaluation_characters == 0


def test_each_optimizer_has_a_learning_rate_of_its_own() -> None:
    names: list[Optimizer] = ["muon", "adamw", "sgd", "rmsprop"]
    rates = [settings_for(1, {"training": {"optimizer": name}}).training.learning_rate for name in names]
    assert len(set(rates)) == 4


@pytest.mark.parametrize("budget", [{"steps": 100}, {"epochs": 2.0}, {"characters": 10**6}])
def test_other_budgets_are_fitted_too(budget: dict[str, Any]) -> None:
    settings, _ = choose_settings(validate({"budget": budget}), facts())
    assert settings.training.evaluation_characters == 0
    assert expected_seconds(settings, facts()) > expected_seconds(settings, facts(), 0.5) > 5.0


def lines(count: int, mean: int) -> Workload:
    return Workload(count * (mean + 1), count * mean // 9, 2, "cpu", 80_000.0, 5.0, count, count * mean)


def test_rows_are_as_many_as_for_one_text_and_no_more_than_documents() -> None:
    given = validate({"budget": {"minutes": 1}, "corpus": {"documents": "lines"}, "model": {"members": 1}})
    assert [choose_settings(given, lines(30_000, mean))[0].reader.batch for mean in (6, 31, 1000)] == [64, 64, 64]
    assert choose_settings(given, lines(40, 500))[0].reader.batch <= 40
    settings, notes = choose_settings(given, lines(1, 10**6))
    assert (settings.reader.batch, settings.training.workers) == (1, 1)
    assert "in 1 document)" in notes[0]


@pytest.mark.parametrize("over", [{"training": {"mean": "document"}}, {"reader": {"pack": False}}], ids=str)
def test_where_a_row_has_one_document_a_step_shorter_ones_are_read_in_more_rows(over: dict[str, Any]) -> None:
    given = validate({"budget": {"minutes": 1}, "corpus": {"documents": "lines"}, "model": {"members": 1}, **over})
    fitted = [choose_settings(given, lines(30_000, mean))[0].reader for mean in (6, 31, 1000)]
    assert [(each.batch, each.pack) for each in fitted] == [(512, False), (128, False), (64, False)]


def test_where_threads_share_the_work_one_worker_has_all_cores() -> None:
    given, four = validate({"budget": {"minutes": 1}}), facts(cores=4)
    alone = choose_settings(given, replace(four, shared=True))[0]
    assert (alone.training.workers, alone.training.groups, alone.training.threads) == (1, 1, 4)
    several = choose_settings(given, four)[0]
    assert (several.training.workers, several.training.groups, several.training.threads) == (2, 2, 2)
    assert alone.reader.batch == several.reader.batch == 64


def test_the_reader_is_that_of_the_text() -> None:
    assert settings_for(1).reader.kind == "stream"
    given = validate({"budget": {"minutes": 1}, "corpus": {"documents": "files"}})
    assert choose_settings(given, lines(300, 900))[0].reader.kind == "documents"
    assert settings_for(1, {"reader": {"kind": "windows"}}).reader.kind == "windows"


def test_what_is_dropped_beside_the_layers_is_as_between_them_unless_it_is_given() -> None:
    model = settings_for(1, {"model": {"dropout": 0.4, "input_dropout": 0.1}}).model
    assert (model.input_dropout, model.dropout, model.output_dropout) == (0.1, 0.4, 0.4)


def test_a_protocol_that_reads_much_for_each_character_reads_fewer_of_them() -> None:
    windows = {"reader": {"kind": "windows", "length": 40, "loss": "last"}}
    assert settings_for(2, windows).training.evaluation_characters < 40_000
    assert settings_for(2).training.evaluation_characters == 0


def test_speed_is_measured() -> None:
    assert measure_speed(torch.device("cpu"), "fp32", "gru") > 100


def test_a_text_is_readable_later_on_a_slower_machine_and_if_it_is_short() -> None:
    def seconds(characters: int, speed: float) -> float:
        return readable_seconds(characters, facts(characters, speed=speed), 1)

    assert seconds(1_000_000, 1000.0) > seconds(1_000_000, 2000.0) > 5  # which the start takes
    assert seconds(50_000, 1000.0) > seconds(150_000, 1000.0) == seconds(17_000_000, 1000.0)
    assert seconds(50_000, math.nan) == 0


def test_a_note_says_when_a_text_needs_less_time() -> None:
    def said(characters: int, minutes: float) -> list[str]:
        budget = {"minutes": minutes} if minutes else {"epochs": 1000}
        _, notes = choose_settings(validate({"budget": budget}), facts(characters=characters))
        return [note for note in notes if "would do" in note]

    assert not said(10**6, 10)
    assert not said(10_000, 0)
    assert "about 10 seconds would do" in said(9_000, 10)[0]
    assert "minutes would do" in said(150_000, 8 * 60)[0]


@pytest.mark.parametrize("shared", [False, True])
def test_a_text_that_would_be_read_often_is_read_by_two_members_half_as_often(*, shared: bool) -> None:
    def _choose(minutes: float, **model: int) -> Settings:
        given = validate({"budget": {"minutes": minutes}, "model": model})
        return choose_settings(given, replace(facts(), shared=shared))[0]

    often, seldom, alone = _choose(20), _choose(1), _choose(20, members=1).model
    assert (often.model.members, seldom.model.members) == (2, 1)
    assert (often.reader.batch, seldom.reader.batch) == (32, 64)
    assert alone.width == often.model.width
    assert alone.dropout > often.model.dropout
    assert _choose(1, members=3).model.members == 3


@pytest.mark.parametrize("given", [{"model": {"width": 64}}, {"budget": {"minutes": 0.0, "epochs": 50.0}}])
def test_a_model_whose_width_is_given_and_one_without_a_clock_stay_one(given: dict[str, Any]) -> None:
    assert settings_for(20.0, given).model.members == 1


def test_members_cost_time() -> None:
    chosen = {"budget": {"minutes": 0.0, "epochs": 5.0}, "model": {"width": 192}}
    one, two = (settings_for(0, merge_settings(chosen, {"model": {"members": members}})) for members in (1, 2))
    assert expected_seconds(two, facts()) == pytest.approx(2 * expected_seconds(one, facts()), rel=0.1)
