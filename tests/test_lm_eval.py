"""lm-eval's model `scriven`: its answers are the library's own, as those of local-completions by the server are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from random_run import LETTERS, make_random_run
from scriven.errors import UsageError
from scriven.trained_model import Model, load
from scriven.vocabulary import Vocabulary

pytest.importorskip("lm_eval", reason="needs lm-eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from scriven.lm_eval import ScrivenLM

QUESTIONS = [("the bad", " road"), ("", "hello"), ("the bad", "e"), ("a\nbee", "\nto€ "), ("all", "")]


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


@pytest.fixture(scope="module", params=["text", "lines"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScrivenLM, Model]:
    """A run as lm-eval opens it by name, and as the library does."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    lines = request.param == "lines"
    vocabulary = Vocabulary.of(LETTERS.strip("\n"), "\n") if lines else None
    run = make_random_run(folder, vocabulary, **({"corpus": {"documents": "lines"}} if lines else {}))
    made = get_model("scriven").create_from_arg_string(f"run={run},precision=fp32", {"batch_size": 4, "device": None})
    assert isinstance(made, ScrivenLM)
    return made, load(run, precision="fp32", device="cpu")


def test_a_continuation_costs_what_a_session_says(pair: tuple[ScrivenLM, Model]) -> None:
    evaluated, model = pair
    answers = evaluated.loglikelihood(requests("loglikelihood", *QUESTIONS))
    for (context, continuation), (found, greedy) in zip(QUESTIONS, answers, strict=True):
        session = model.session(seed=0)
        session.read(context)
        assert found == pytest.approx(-session.score(continuation).total_nats, abs=1e-4)
        assert greedy is (continuation == "")
    likeliest = model.sample("the bad", length=3, temperature=0, until_end=False if model.ends_texts else None)
    ((_, greedy),) = evaluated.loglikelihood(requests("loglikelihood", ("the bad", likeliest)))
    assert greedy


def test_an_accent_is_read_with_the_letter_before_it(tmp_path: Path) -> None:
    """The letter with the accent is one symbol, which the context alone does not have."""
    run = make_random_run(tmp_path / "run", corpus={"normalize": "nfc"})
    evaluated, session = (
        ScrivenLM(str(run), precision="fp32", device="cpu"),
        load(run, precision="fp32").session(seed=0),
    )
    session.read("b")
    ((found, _),) = evaluated.loglikelihood(requests("loglikelihood", ("be", "\u0301e")))
    assert found == pytest.approx(-session.score("\u00e9e").total_nats, abs=1e-4)


def test_a_text_is_read_whole(pair: tuple[ScrivenLM, Model]) -> None:
    evaluated, model = pair
    text = "all the old, dark\nroads led to the bar€\n" * 90
    (found,) = evaluated.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert found == pytest.approx(-model.session(seed=0).score(text).total_nats, rel=1e-6)


def test_text_is_written_up_to_a_stop(pair: tuple[ScrivenLM, Model]) -> None:
    evaluated, model = pair
    asked = [
        {"until": ["d", "\n"], "max_gen_toks": 30},
        {"until": "", "do_sample": True, "temperature": 0.7, "seed": 3},
    ]
    found = evaluated.generate_until(requests("generate_until", *(("the ", each) for each in asked)))
    assert found[0] == model.sample("the ", length=30, temperature=0, stop=["d", "\n"])
    assert found[1] == model.sample("the ", length=256, temperature=0.7, seed=3)


def test_what_is_not_known_is_refused(pair: tuple[ScrivenLM, Model], tmp_path: Path) -> None:
    evaluated, _ = pair
    with pytest.raises(UsageError, match="num_beams"):
        evaluated.generate_until(requests("generate_until", ("a", {"until": [], "num_beams": 4})))
    with pytest.raises(UsageError, match="pretrained"):
        get_model("scriven").create_from_arg_string(f"run={tmp_path},pretrained=gpt2")
