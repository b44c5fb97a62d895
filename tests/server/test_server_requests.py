"""Bodies of requests: what is right is taken, everything else refused in one sentence, whatever it is."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scriven import strict_json
from scriven.server import requests
from scriven.server.limits import LIMITS
from scriven.server.openapi import BODIES
from scriven.server.requests import DetokenizeBody, RequestBody, TokenizeBody, parse_body
from scriven.server.responses import ApiError
from scriven.server.writing_requests import CompletionBody

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({*CompletionBody.model_fields, *CompletionBody.unsupported})
DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_body(CompletionBody, body)
    assert caught.value.status == 400
    assert json.loads(caught.value.body)["error"]["type"] == "invalid_request_error"
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", -1, "temperature -1: input should be greater than or equal to 0"),
        ("temperature", "1", "temperature '1': input should be a valid number"),
        ("temperature", True, "temperature True: input should be a valid number"),
        ("max_tokens", LIMITS.max_tokens + 1, "should be less than or equal to 100000"),
        ("max_tokens", 1.5, "max_tokens 1.5"),
        ("n", 0, "n 0"),
        ("top_p", -0.1, "top_p -0.1"),
        ("top_k", -2, "top_k -2"),
        ("prompt", {"a": 1}, "give a text, at most 200,000 ids, or a list of 1 to 128 of these"),
        ("prompt", [1, "a"], "give a text"),
        ("prompt", [[1], "a"], "give a text"),
        ("prompt", [-1], "give a text"),
        ("stop", ["a"] * 17, "or a list of at most 16 texts"),
        ("logprobs", 21, "logprobs 21"),
        ("presence_penalty", 101, "presence_penalty 101"),
        ("frequency_penalty", False, "frequency_penalty False: input should be a valid number"),
        ("repetition_penalty", 0, "repetition_penalty 0: input should be greater than or equal to 0.01"),
        ("repeat_last_n", 4097, "repeat_last_n 4097"),
        ("typical_p", 0, "typical_p 0"),
        ("dry_base", 0.5, "dry_base 0.5"),
        ("logit_bias", {"5": 101}, "logit_bias 101"),
        ("logit_bias", {"5": DEEP}, "logit_bias"),
        ("logit_bias", {str(n): 1 for n in range(1025)}, "logit_bias"),
        ("length_penalty", 0.5, "length_penalty 0.5: not supported by these models; leave it out, or set it to 1"),
        ("use_beam_search", True, "use_beam_search true: not supported by these models"),
        ("suffix", 5, "suffix 5"),
        ("draws", 1025, "draws 1025"),
        ("guided_regex", "a" * 1001, "guided_regex"),
        ("guided_choice", ["a" * 256] * 4, "guided_choice: its texts have more than 1,000 characters together"),
        ("guided_choice", "a", "guided_choice"),
        ("guided_json", {"const": "a" * 20_000}, "guided_json: the schema has more than 20,000 characters"),
        ("guided_json", [1], "guided_json"),
        ("response_format", {"type": "xml"}, "response_format 'xml': input should be 'text'"),
        ("response_format", {"type": "json_schema"}, "with a schema, need each other"),
        ("response_format", {"type": "json_object", "json_schema": {"schema": {}}}, "need each other"),
        ("response_format", {"type": "json_object", "strict": True}, "unrecognized field: response_format.strict"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"schema": {}, "scheme": {}}},
            "unrecognized field: response_format.json_schema.scheme",
        ),
        ("response_format", "text", "response_format 'text'"),
        ("metadata", "x", "metadata 'x'"),
        ("max_completion_tokens", -1, "max_completion_tokens -1"),
        ("frequency", 1, "unrecognized field: frequency"),
        ("stream_options", {"what": 1}, "unrecognized field: stream_options.what"),
        ("state", "x" * 65, "state"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any, said: str) -> None:
    refused = refusal(json.dumps({field: value}).encode())
    assert said in str(refused)
    assert len(str(refused)) < 300


@pytest.mark.parametrize(
    ("kind", "field", "item"),
    [(CompletionBody, "prompt", each) for each in ("0.5", "1", '""', "[]", "[0.5]", "null")]
    + [(CompletionBody, "stop", '""'), (DetokenizeBody, "tokens", "0.5")],
)
def test_a_long_list_is_left_at_the_first_mistake(kind: type[RequestBody], field: str, item: str) -> None:
    """A body within its bound once took 24 s and 2.8 GB to be refused: each of its items had an error of its own."""
    count = 200_001
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match="more than 10,000 parts" if item.startswith("[") else field):
            parse_body(kind, f'{{"{field}": [{",".join([item] * count)}]}}'.encode())
        assert tracemalloc.get_traced_memory()[1] < 200 * count
    finally:
        tracemalloc.stop()


TEXT = st.text(st.sampled_from('a,:[{"\\'), max_size=6)
LISTS = st.recursive(TEXT | st.integers(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner))


@settings(max_examples=40)
@given(LISTS)
def test_parts_and_values_are_counted_outside_of_texts_alone(value: Any) -> None:
    text = json.dumps(value)
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    parts, commas = sum(map(bare.count, "[{:")), bare.count(",")
    strings = text.count('"')
    assert strict_json.parse(text, parts + strings, commas + 1) == value
    if commas:
        with pytest.raises(ValueError, match=f"more than {commas:,} values"):
            strict_json.parse(text, parts + strings, commas)
    if parts:
        with pytest.raises(ValueError, match=f"more than {parts - 1:,} parts"):
            strict_json.parse(text, parts - 1)


@pytest.mark.parametrize("text", ["," * 300_000, "[{:" * 30_000, '\\"' * 100_000 + "," * 300_000])
def test_what_stands_in_a_text_is_no_part_of_a_body(text: str) -> None:
    assert parse_body(TokenizeBody, json.dumps({"prompt": text}).encode()).prompt == text


@pytest.mark.parametrize("count", [1, 128])
def test_as_many_ids_as_may_be_read_are_taken_and_one_more_is_not(count: int) -> None:
    row = list(range(LIMITS.prompt_characters))
    prompt: list[Any] = row if count == 1 else [row[start::count] for start in range(count)]
    assert parse_body(CompletionBody, json.dumps({"prompt": prompt}).encode()).prompt == prompt


def test_more_ids_than_may_be_read_are_refused() -> None:
    row = list(range(LIMITS.prompt_characters))
    refused = refusal(json.dumps({"prompt": [*row, 0]}).encode())
    assert "prompt [0, 1, 2" in str(refused) and "at most 200,000 ids" in str(refused)
    assert "more than 210,000 values" in str(refusal(json.dumps({"prompt": row * 5}).encode()))
    with pytest.raises(ApiError, match="at most 200000 items"):
        parse_body(DetokenizeBody, json.dumps({"tokens": [*row, 0]}).encode())


def test_a_long_list_is_read_and_checked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call of C, in which no other thread of Python ran, a million numbers took 150 ms."""
    read, pieces, ids = list[str](), list[int](), list(range(3 * requests.IDS_PER_CHECK + 5))

    def integer(text: str) -> int:
        read.append(text)
        return int(text)

    def check(piece: list[int]) -> list[int]:
        pieces.append(len(piece))
        return piece

    monkeypatch.setattr(strict_json, "_integer", integer)
    assert parse_body(DetokenizeBody, json.dumps({"tokens": ids}).encode()).tokens == ids
    assert len(read) == len(ids)
    assert requests._in_pieces(ids, check) == ids
    assert pieces == [requests.IDS_PER_CHECK] * 3 + [5]


NO_BODIES = [b"", b"{", b"[]", b"1", b"\xff", b'{"n": NaN}', b'{"n": 1e999}', b'{"n": 1, "n": 2}', b"[" * 100_000]


@pytest.mark.parametrize("body", NO_BODIES)
def test_a_body_that_is_no_object_of_finite_numbers_is_refused(body: bytes) -> None:
    refusal(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name, values in CompletionBody.unsupported.items() for value in values),
        ("frequency_penalty", 0.0),
        ("presence_penalty", -0.0),
        ("repetition_penalty", 1.0),
        ("user", "me"),
        ("metadata", {}),
        ("metadata", {"run": "5"}),
        ("n", 1),
        ("best_of", 1),
        ("echo", False),
        ("stream_options", {"continuous_usage_stats": False}),
    ],
)
def test_what_asks_for_nothing_is_taken(field: str, value: Any) -> None:
    """As many clients send it with every request."""
    taken = parse_body(
        CompletionBody, json.dumps({field: value}).encode("utf-8-sig")
    ).model_dump()  # the mark is no part
    neutral = parse_body(CompletionBody, b"{}").model_dump()
    assert taken | {field: None} == neutral | {field: None}


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"stop": ""}, "stops", []),
        ({"stop": ["", "a"]}, "stops", ["a"]),
        ({"stop": "a"}, "stops", ["a"]),
        ({"max_completion_tokens": 7}, "length", 7),
        ({"max_completion_tokens": 7, "max_tokens": 7}, "length", 7),
        ({"max_completion_tokens": None, "max_tokens": 5}, "length", 5),
        ({}, "length", 16),
        ({"n": 3, "best_of": 1}, "texts", 3),
        ({"n": 3, "best_of": 5}, "texts", 5),
    ],
)
def test_what_may_be_said_in_several_ways(values: dict[str, Any], name: str, expected: Any) -> None:
    assert getattr(parse_body(CompletionBody, json.dumps(values).encode()), name) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_completion_tokens": 7, "max_tokens": 8}, "mean the same"),
        ({"best_of": 2, "stream": True}, "leave out stream"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in str(refusal(json.dumps(values).encode()))


def test_null_is_as_if_not_given() -> None:
    assert parse_body(CompletionBody, json.dumps(dict.fromkeys(FIELDS)).encode()) == parse_body(CompletionBody, b"{}")


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_anything_is_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        body = parse_body(CompletionBody, json.dumps(values).encode())
    except ApiError as refused:
        assert refused.status == 400
    else:
        assert 0 <= body.temperature <= LIMITS.temperature


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    for kind in BODIES:
        try:
            parse_body(kind, body)
        except ApiError as refused:
            assert refused.status == 400


def test_of_unknown_fields_one_is_told() -> None:
    """Each of 300,000 once became an error, for which everybody waited two seconds."""
    many = {f"field{number}": None for number in range(1000)}
    with pytest.raises(ApiError, match=r"^unrecognized field: field0$"):
        parse_body(CompletionBody, json.dumps(many).encode())
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate({**many, "stream_options": many})
    assert caught.value.error_count() == 2
