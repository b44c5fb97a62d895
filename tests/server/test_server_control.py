"""What a request may ask of its texts, with OpenAI's client: JSON of a schema, penalties, filters, chats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from lazy_module import LazyModule
from live_server import serving
from scriven.errors import UsageError
from scriven.inference import generation
from scriven.kernels.suffixes import Block, SuffixTable, sort_suffixes
from scriven.rules import Rule
from scriven.server import indexes
from scriven.server.app import make_app
from scriven.server.chat import ChatTemplate
from scriven.server.writing_requests import ChatMessage
from scriven.settings_values import validate
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary
from served_models import guarded_app, names_model
from small_model import predictor_of

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

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
    told = client.completions.create(model="json", prompt="a", max_tokens=60, seed=1, logit_bias=bias)
    assert {*told.choices[0].text} == {*"ab"}
    for wrong in ({"x": 1.0}, {"5000": 1.0}, {"-1": 1.0}):
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            ask(client, logit_bias=wrong)


def test_nothing_is_copied_once_there_is_an_index(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "REFUSAL_SECONDS", 0.0)
    with pytest.raises(openai.BadRequestError, match="scriven novelty RUN FILE builds it on the server"):
        ask(client, novel=3)
    text = JSON.encode("".join(JSON.samples(3, "a", length=60, seed=1, temperature=1.0))).astype(np.uint8)
    suffixes = SuffixTable([Block(0, text, sort_suffixes(text, JSON.vocabulary.size))])
    monkeypatch.setattr(JSON, "_index", SimpleNamespace(suffixes=suffixes, is_cut=False))
    texts = ask(client, n=3, novel=3)
    assert texts == list(JSON.samples(3, "a", length=60, seed=1, temperature=1.0, novel=3))
    assert max(suffixes.match(JSON.encode(each)).lengths.max() for each in texts) == 2
    with pytest.raises(openai.BadRequestError, match="novel: a rule might be broken"):
        ask(client, novel=3, guided_regex="[a-z]+")


# --- chats

MESSAGES: Any = [{"role": "system", "content": "ab"}, {"role": "user", "content": [{"type": "text", "text": "a cab"}]}]


def test_a_chat_continues_its_messages(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(
        model="json", messages=MESSAGES, max_tokens=40, seed=1, n=2, logprobs=True, top_logprobs=2
    )
    expected = list(JSON.samples(2, "ab\na cab", length=40, seed=1, temperature=1.0))
    assert [each.message.content for each in told.choices] == expected
    assert {each.message.role for each in told.choices} == {"assistant"}
    assert told.object == "chat.completion"
    assert told.usage is not None
    assert told.usage.prompt_tokens == 8
    same = client.completions.create(model="json", prompt="ab\na cab", max_tokens=40, seed=1, n=2, logprobs=2)
    for choice, other in zip(told.choices, same.choices, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert other.logprobs is not None
        assert [each.token for each in choice.logprobs.content] == other.logprobs.tokens
        assert [each.logprob for each in choice.logprobs.content] == other.logprobs.token_logprobs
        assert all(2 <= len(each.top_logprobs) <= 3 for each in choice.logprobs.content)
        assert choice.finish_reason == other.finish_reason


def test_a_chat_streams_as_openais_client_reads_it(client: openai.OpenAI) -> None:
    asked: Any = {"model": "json", "messages": MESSAGES, "max_tokens": 300, "seed": 1}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert parts[-1].usage == whole.usage
    deltas = [each.choices[0].delta for each in parts[:-1]]
    assert "".join(each.content or "" for each in deltas) == whole.choices[0].message.content
    assert [each.role for each in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    with client.chat.completions.stream(**asked) as stream, pytest.raises(openai.LengthFinishReasonError) as long:
        stream.get_final_completion()
    final = long.value.completion
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].message.role == "assistant"


def test_a_chat_may_ask_for_json(client: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    told = client.chat.completions.create(model="json", messages=MESSAGES, response_format=schema, seed=2)
    assert json.loads(told.choices[0].message.content or "")["b"] in ("cab", "dab")


CHAT = [{"role": "user", "content": "hi {role}"}, {"role": "assistant", "content": "{content}"}]


def test_a_template_names_roles_and_ends_an_answer() -> None:
    roles = ChatTemplate.named("roles")
    messages = [ChatMessage.model_validate(each) for each in CHAT]
    assert roles.prompt(messages) == "user: hi {role}\nassistant: {content}\nassistant: "
    assert roles.stop == "\n"
    odd = ChatMessage.model_validate({"role": "{content}", "content": "{role}"})
    assert roles.prompt([odd]) == "{content}: {role}\nassistant: "
    assert ChatTemplate.named("<{content}>").prompt(messages[:1]) == "<hi {role}><"
    with pytest.raises(UsageError, match="--chat-template 'x': give plain or roles, or a text"):
        ChatTemplate.named("x")
    for text in ("{x}", "{content}{x}", "{role}{content}{}"):
        with pytest.raises(UsageError, match=r"\{x?\} is no field of a message; give \{role\} and \{content\}"):
            ChatTemplate.named(text)
    assert ChatTemplate.named('{"{role}": "{content}"}\n').stop == '"}\n'
    with pytest.raises(UsageError, match="it has 257 characters that end an answer; give at most 256"):
        ChatTemplate.named("{content}" + 257 * ".")
    app = make_app({"json": JSON}, chat_template=ChatTemplate.named("a{content}b{role}"))
    with TestClient(app) as local:
        asked = {"messages": [{"role": "d", "content": "c"}], "max_tokens": 50, "seed": 3}
        told = local.post("/v1/chat/completions", json=asked).json()["choices"][0]
        assert told["message"]["content"] == JSON.sample("acbda", length=50, seed=3, temperature=1.0, stop=["b"])
        stops = [*map(str, range(16))]
        refused = local.post("/v1/chat/completions", json={**asked, "stop": stops}).json()["error"]["message"]
        assert refused == 'stop: give at most 15 texts, as the chat template adds "b"'
        assert local.post("/v1/chat/completions", json={**asked, "stop": [*stops[1:], "b"]}).status_code == 200


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: not supported"),
        ({"response_format": {"type": "xml"}}, "response_format 'xml': input should be"),
        ({"response_format": {"type": "text", "scheme": {}}}, "unrecognized field: response_format.scheme"),
        ({"response_format": {"type": "json_object"}, "stop": "a"}, "stop may end a text"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "mean the same"),
    ],
)
def test_a_chat_that_is_wrong_is_refused(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**{"model": "json", "messages": MESSAGES, **more})


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_schema_nested_as_deeply_as_can_be_read_is_no_internal_error(path: str) -> None:
    """There are depths that Python's JSON reader takes, and its writer, which is called deeper, does not."""
    messages = '"messages": [{"role": "user", "content": "x"}], ' * ("chat" in path)
    with TestClient(make_app({"json": JSON}), raise_server_exceptions=False) as local:
        for depth in range(800, 1000, 8):
            schema = '{"a":' * depth + "{}" + "}" * depth
            told = local.post(path, content=f'{{{messages}"guided_json": {schema}}}')
            assert told.status_code == 400, depth


# --- rules by the names of the flags


LINES = Rule.regex("[a-d\n]{9,}")


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"allow": "abc "}, Rule.allow("abc ")),
        ({"forbid": "ae"}, Rule.forbid("ae")),
        ({"contains": "cab"}, Rule.contains("cab")),
        ({"contains": ["cab", "", "dab"]}, Rule.contains("cab") & Rule.contains("dab")),
        ({"acrostic": "bad"}, Rule.acrostic("bad")),
        ({"rhyme": "ab"}, Rule.rhyme("ab")),
        (
            {"guided_regex": "[a-d\n]{9,}", "acrostic": "ad", "rhyme": "b"},
            Rule.regex("[a-d\n]{9,}") & Rule.acrostic("ad") & Rule.rhyme("b"),
        ),
    ],
)
def test_a_text_obeys_all_rules_at_once(client: openai.OpenAI, more: dict[str, Any], rule: Rule) -> None:
    assert ask(client, n=2, **more) == list(JSON.samples(2, "a", length=60, seed=1, temperature=1.0, rule=rule))


@pytest.mark.parametrize(
    ("more", "field", "said"),
    [
        ({"acrostic": "ab\nc"}, "acrostic", "it has a line end"),
        ({"acrostic": "ab", "rhyme": "ö"}, "rhyme", "the model does not know 'ö'"),
        ({"rhyme": "ab", "guided_regex": "("}, "guided_regex", "this group is never closed"),
        ({"rhyme": "ab", "forbid": "b"}, "forbid", "these contradict each other"),
        ({"allow": "a", "stop": "b"}, "stop", "stop may end a text before it matches allow"),
        ({"contains": ["a"] * 17}, "contains", "contains: 17 texts; give at most 16"),
        ({"contains": "a" * 61}, "contains", "the shortest text that obeys has 61 characters"),
        ({"response_format": {"type": "json_schema"}}, "response_format", ": type json_schema and the field"),
        ({"forbid": "a" * 1001}, "forbid", "at most 1000 characters"),
        ({"contains": ["a" * 500, "a" * 501]}, "contains", "its texts have more than 1,000 characters together"),
        ({"contains": ["a" * 500, "b" * 500], "allow": "ab"}, "allow", "the rule needs more than 1,000 states"),
    ],
)
def test_a_rule_that_cannot_hold_names_its_field(
    client: openai.OpenAI, more: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **more)
    assert said in str(refused.value)
    assert refused.value.param == field


def test_a_rule_goes_on_where_the_prompt_stopped_in_it(client: openai.OpenAI) -> None:
    def lines(prompt: str, begun: int, **more: Any) -> list[str]:
        fields = {"acrostic": "bad", **more, "rule_begun": begun}
        told = client.completions.create(model="json", prompt=prompt, max_tokens=60, seed=1, extra_body=fields)
        return str(prompt[len(prompt) - begun :] + told.choices[0].text).split("\n")

    assert [each[:1] for each in lines("dab", 0)] == [*"bad"]
    assert [each[:1] for each in lines("dab", 1)] == [*"bad"]
    assert [each[:1] for each in lines("ccbcd\nac", 6)] == [*"bad"]
    assert [each[:1] for each in lines("ccbcd\nac", 2, acrostic="ad")] == [*"ad"]
    assert lines("ccbcd\nad\nd", 8)[:2] == ["bcd", "ad"]
    (whole,) = lines("ad", 2, acrostic="", guided_regex="ad[ab]{9}")
    assert len(whole) == 11
    anew = lines("ccbcd\nac", 2)  # does not obey, so that it begins there
    assert [anew[0][2:3], *(each[:1] for each in anew[1:])] == [*"bad"]
    with pytest.raises(openai.BadRequestError, match="rule_begun is about the end of one text"):
        lines(["b"], 1)  # type: ignore[arg-type]


def test_rules_that_are_too_much_work_are_tried_once(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    begin = generation.begin_rule

    def begin_rule(*values: Any, **options: Any) -> Any:
        tried.append(values[0])
        return begin(*values, **options)

    monkeypatch.setattr("scriven.server.completions.begin_rule", begin_rule)
    with pytest.raises(openai.BadRequestError, match="as much work"):
        ask(client, contains=["a" * 500, "b" * 500], rhyme="a", acrostic="ab")
    assert len(tried) == 1
