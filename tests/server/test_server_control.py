"""What a request may ask of its texts, with OpenAI's client: JSON of a schema, penalties, filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from live_server import serving
from scriven.rules import Rule
from scriven.session import Model
from scriven.settings import validate
from scriven.vocabulary import Vocabulary
from served_models import guarded_app, names_model
from small_model import predictor_of

JSON = Model(
    predictor_of(Vocabulary.of('\n {}[]:,."-+\\0123456789abcdeflnrstuE')), validate({"model": {"width": 8}}), step=3
)
MODELS = {"json": JSON, "names": names_model()}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["cab", "dab"]}},
    "required": ["a", "b"],
}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        serving(guarded_app(MODELS)) as place,
        openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=0, timeout=20) as client,
    ):
        yield client


def ask(client: openai.OpenAI, model: str = "json", **more: Any) -> list[str]:
    told = client.completions.create(model=model, prompt="a", max_tokens=60, seed=1, extra_body=more)
    return [each.text for each in told.choices]


@pytest.mark.parametrize(
    "more",
    [
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
    ],
)
def test_a_text_is_json_of_the_schema(client: openai.OpenAI, more: dict[str, Any]) -> None:
    texts = ask(client, n=3, **more)
    assert texts == list(JSON.samples(3, "a", length=60, seed=1, temperature=1.0, rule=Rule.json_schema(SCHEMA)))
    assert all(json.loads(text)["b"] in ("cab", "dab") for text in texts)


def test_a_text_is_any_object_or_plain(client: openai.OpenAI) -> None:
    for text in ask(client, n=4, response_format={"type": "json_object"}):
        assert isinstance(json.loads(text), dict)
    assert ask(client, response_format={"type": "text"}) == ask(client)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"guided_json": {"format": "date"}}, "guided_json: json_schema, at #: format is not supported"),
        ({"guided_json": "{"}, "guided_json: json_schema is not JSON"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex and guided_json both say what the text is"),
        ({"guided_json": {}, "stop": ["a"]}, "stop may end a text before it matches guided_json"),
        ({"guided_json": {"type": "string", "maxLength": 999}}, "guided_json: the rule needs more than 1,000 states"),
        ({"guided_json": {"const": "x" * 70}}, "the model does not know 'x'"),
        ({"guided_json": {"const": "a" * 70}}, "the shortest text that obeys has 72 characters, and length is 60"),
        ({"response_format": {"type": "json_object"}, "model": "names"}, "response_format: json_schema"),
    ],
)
def test_a_schema_that_cannot_hold_is_refused(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        ask(client, **more)


# --- penalties, filters, logit_bias


@pytest.mark.parametrize(
    "more",
    [
        {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1, "repeat_last_n": 20},
        {"dry_multiplier": 2.0, "dry_allowed_length": 2, "dry_base": 1.5, "dry_penalty_last_n": 99},
        {"typical_p": 0.6},
        {"mirostat_tau": 2.0, "mirostat_eta": 0.2},
    ],
)
def test_a_text_is_drawn_as_the_library_draws_it(client: openai.OpenAI, more: dict[str, Any]) -> None:
    expected = list(JSON.samples(3, "a", length=60, seed=1, temperature=1.0, **more))
    assert ask(client, n=3, **more) == expected
    assert ask(client, n=3, logprobs=1, save_state=True, **more) == expected


def test_a_bias_rules_characters_in_or_out(client: openai.OpenAI) -> None:
    a, b, c = JSON.encode("abc").tolist()
    bias = {str(a): 60.0, str(b): 60, str(c): -100.0}
    told = client.completions.create(model="json", prompt="a", max_tokens=60, seed=1, logit_bias=bias)  # type: ignore[arg-type]
    assert {*told.choices[0].text} == {*"ab"}
    for wrong in ({"x": 1.0}, {"5000": 1.0}, {"-1": 1.0}):
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            ask(client, logit_bias=wrong)
