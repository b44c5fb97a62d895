"""Rules by JSON Schema, against the `jsonschema` package and obvious code."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from scriven.errors import UsageError
from scriven.rules import Rule
from scriven.rules.alphabet import REFUSED
from scriven.rules.automaton import Automaton
from scriven.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of("\n\t " + "".join(map(chr, range(33, 127))) + "éß")


def accepts(automaton: Automaton, text: str) -> bool:
    state = automaton.advance(0, VOCABULARY.encode(text))
    return state != REFUSED and bool(automaton.distance[state] == 0)


def obeys(schema: Any, text: str) -> bool:
    return accepts(Rule.json_schema(schema).compile(VOCABULARY), text)


def some_text(automaton: Automaton, random: np.random.Generator, left: int = 80) -> str:
    """A text that obeys: characters drawn from those that are allowed, structure as likely as letters."""
    ids, state, left = list[int](), 0, max(left, automaton.least)
    while left and not (automaton.distance[state] == 0 and random.random() < 0.5):
        allowed = automaton.allowed(state, left).nonzero()[0]
        if not len(allowed):
            break
        after = automaton.next[state][automaton.columns[allowed]]
        ids.append(int(random.choice(allowed[after == random.choice(np.unique(after))])))
        state, left = automaton.advance(state, np.array(ids[-1:])), left - 1
    return VOCABULARY.decode(ids)


simple = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2, "maxLength": 4},
        {"type": "string", "pattern": '^[a-c"\\\\\\\\]+\\s?$'},
        {"type": "string", "pattern": "ab|\\W"},
        {"type": "string", "pattern": "^(x|[^y-z]{2})"},
        {"type": "integer"},
        {"type": "integer", "minimum": -12, "maximum": 205},
        {"type": "integer", "exclusiveMinimum": 7.5},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None, [True, {"b": '"\n'}]]},
        {"type": ["integer", "null"]},
        {"const": "é"},
        {"title": "anything"},
        True,
    ]
)


def grown(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c d", '"'])
    counts = st.sampled_from([{}, {"minItems": 2}, {"maxItems": 2}, {"minItems": 1, "maxItems": 3}, {"maxItems": 0}])
    objects = st.tuples(st.dictionaries(names, parts, max_size=3), st.sets(names, max_size=2)).map(
        lambda each: {"type": "object", "properties": each[0], "required": sorted(each[1])}
    )
    return st.one_of(
        st.tuples(parts, counts).map(lambda each: {"type": "array", "items": each[0], **each[1]}),
        objects,
        parts.map(lambda each: {"type": "object", "additionalProperties": each}),
        st.lists(parts, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
    )


@given(schema=st.recursive(simple, grown, max_leaves=4), seed=st.integers(0, 99))
def test_texts_that_obey_satisfy_the_schema(schema: Any, seed: int) -> None:
    try:
        automaton = Rule.json_schema(schema).compile(VOCABULARY, states=100_000)
    except UsageError as error:
        assume("with all repetitions written out" not in str(error))
        raise
    text = some_text(automaton, np.random.default_rng(seed))
    assert accepts(automaton, text)
    value = json.loads(text)
    assert not [*Draft202012Validator(schema).iter_errors(value)]


@given(low=st.integers(-3000, 3000), size=st.integers(0, 2000), value=st.integers(-5000, 5000))
def test_whole_numbers_within_bounds(low: int, size: int, value: int) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + size}
    for each in (value, low, low + size, low - 1, low + size + 1):
        assert obeys(schema, str(each)) == (low <= each <= low + size)
    assert not obeys({"type": "integer", "minimum": low}, "01")


def test_properties_come_in_their_order_and_may_be_left_out() -> None:
    properties = {name: {"const": 1} for name in "abcd"}
    schema = {"type": "object", "properties": properties, "required": ["b", "d"], "additionalProperties": False}
    for number in range(16):
        names = [each for place, each in enumerate("abcd") if number >> place & 1]
        text = json.dumps(dict.fromkeys(names, 1))
        assert obeys(schema, text) == ({"b", "d"} <= {*names})
        assert obeys({**schema, "required": []}, text)
    assert not obeys(schema, '{"d":1,"b":1}')
    assert obeys(schema, '{"b":1,"d":1}')
    assert not obeys(schema, '{"b":1,"d":1,}')
    assert not obeys(schema, '{"b":1,"d":1,"e":1}')


def test_a_schema_within_itself_goes_down_three_times() -> None:
    node = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
        "required": ["v"],
    }
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    assert obeys(schema, '{"v":1,"next":{"v":2,"next":{"v":3}}}')
    assert not obeys(schema, '{"v":1,"next":{"v":2,"next":{"v":3,"next":{"v":4}}}}')
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert obeys(tree, "[[],[[]]]")
    with pytest.raises(UsageError, match="no value satisfies it"):
        Rule.json_schema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})


def test_a_reference_leads_to_an_item_of_an_array() -> None:
    schema = {"anyOf": [{"const": "a"}, {"type": "array", "items": {"$ref": "#/anyOf/0"}, "maxItems": 1}]}
    assert all(obeys(schema, text) for text in ('"a"', "[]", '["a"]'))
    assert not obeys(schema, "[[]]")
    for place in ("#/anyOf/2", "#/anyOf/-1", "#/anyOf/00", "#/anyOf/a"):
        with pytest.raises(UsageError, match="there is no such place"):
            Rule.json_schema({**schema, "anyOf": [*schema["anyOf"], {"$ref": place}][::2]})


@pytest.mark.parametrize(
    ("schema", "place", "said"),
    [
        ({"oneOf": [{}]}, "#", "oneOf is not supported; give anyOf"),
        ({"properties": {"a": {"type": "string", "format": "date"}}}, "#/properties/a", "format is not supported"),
        ({"type": "array", "uniqueItems": True}, "#", "uniqueItems is not supported"),
        ({"type": "number", "minimum": 0}, "#", "only integers have bounds here"),
        ({"type": "text"}, "#", 'type "text": give one of object, array'),
        ({"$ref": "other.json"}, "#", "only places in this schema"),
        ({"$ref": "#/$defs/no"}, "#", "there is no such place"),
        ({"const": 1, "minimum": 2}, "#", "minimum beside const"),
        ({"type": "string", "pattern": "^a|b$"}, "#", "an anchor belongs to one alternative"),
        ({"type": "string", "pattern": "a(?=b)"}, "#", "looking ahead"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "#", "pattern beside a length"),
        ({"minLength": -1}, "#", "minLength -1: give 0 or"),
        ({"minItems": 3, "maxItems": 2}, "#", "contradict each other"),
        ({"items": [1]}, "#/items", "a schema is an object, true or false, not [1]"),
        ({"properties": [1]}, "#", "properties: give an object"),
        ({"anyOf": {}}, "#/anyOf", "give an array"),
        ({"allOf": [{}, {}]}, "#", "allOf: only one schema"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(schema: Any, place: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Rule.json_schema(schema)
    assert f"json_schema, at {place}: " in str(refused.value)
    assert said in str(refused.value)


def nested(depth: int) -> Any:
    return {"type": "array", "items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "schema",
    [
        nested(40),
        {"$defs": {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(25)}, "$ref": "#/$defs/a0"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 99, "items": {"type": "array", "minItems": 99}},
        {"enum": ["x" * 50_000]},
        {"properties": {str(n): {} for n in range(500)}},
        {"items": {"type": "string", "pattern": "(a|b)*a(a|b){20}"}},
        "{" * 9,
        "x" * 100_001,
    ],
)
def test_hostile_schemas_are_refused(schema: Any) -> None:
    with pytest.raises(UsageError, match=r"more than|is not JSON|has no such place|there is no such"):
        Rule.json_schema(schema).compile(VOCABULARY, states=1000)


def test_a_pattern_of_open_classes_is_refused_at_once() -> None:
    """Such a schema, sent to a server, kept it from all other work for a minute."""
    begun = time.process_time()
    with pytest.raises(UsageError, match="this class is never closed"):
        Rule.json_schema({"type": "string", "pattern": "^" + "[" * 9000})
    assert time.process_time() - begun < 2


def test_a_schema_of_many_free_values_is_refused_at_once() -> None:
    """Its tree has half a million parts, most of them the same. To compare them at each level took seconds."""
    schema: dict[str, Any] = {"type": "object", "properties": {f"p{n}": {} for n in range(900)}}
    for _ in range(27):
        schema = {"anyOf": [schema, {"type": "null"}, {"type": "null"}]}
    begun = time.process_time()
    with pytest.raises(UsageError, match="more than 5,000 parts"):
        Rule.json_schema(schema).compile(VOCABULARY)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("reference", ["#name", "name", "#name/more"])
def test_a_reference_that_is_no_place_is_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="only places in this schema"):
        Rule.json_schema({"$ref": reference, "$defs": {"more": {"$anchor": "name", "const": 1}}})


def test_any_object_fits_in_the_states_of_a_server() -> None:
    automaton = Rule.json_schema({"type": "object"}).compile(VOCABULARY, states=1000)
    for text in ("{}", '{"a": [1, -2.5e3, {"b": "\\"", "c": null}], "c": true}', '{"a":{"b":[]}}'):
        assert accepts(automaton, text)
    for text in ('{"a": }', '{"a":{"b":{"c":{}}}}', " {}"):
        assert not accepts(automaton, text)


def test_a_rule_by_schema_is_a_value() -> None:
    rule = Rule.json_schema({"type": "integer", "title": "é"}) & Rule.forbid("1")
    assert rule == eval(repr(rule), {"Rule": Rule})
    assert Rule.json_schema('{"type": "integer"}') == Rule.json_schema({"type": "integer"})
    with pytest.raises(UsageError, match=re.escape("json_schema is not JSON")):
        Rule.json_schema({"const": float("nan")})
    with pytest.raises(UsageError, match=re.escape("the model does not know '€' (U+20AC)")):
        Rule.json_schema({"const": "€"}).compile(VOCABULARY)
