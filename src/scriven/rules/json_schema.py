"""Makes the tree of the JSON texts that satisfy a JSON Schema, of a subset without counting and without negation.

All texts that match satisfy the schema, but not all JSON texts that satisfy it match. There is white space only after a
comma or a colon, at most one space. Properties come in the schema's order, and others are never written. Strings have
the escapes `\\"`, `\\\\`, `\\n`, `\\t` and `\\r`, and numbers at most 15 digits before and after the point.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from scriven import strict_json
from scriven.errors import UsageError
from scriven.rules.patterns import (
    Alternatives,
    CharacterSet,
    Node,
    Repeat,
    Selection,
    any_of,
    literal,
    parse,
    repeated,
)
from scriven.rules.patterns import Sequence as Tree

LONGEST = 100_000  # characters of a schema
MOST_SCHEMAS = 2000  # within one, each counted as often as a reference leads there
DEEPEST = 30  # schemas within one another
RECURSION = 3  # times that a schema may be within itself; deeper, it is left out
FREE_DEPTH = 2  # arrays and objects within a value that may be anything
DIGITS = 15  # of a whole number: all programs read these exactly

ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
ANNOTATIONS |= {"$schema", "$id", "$comment", "$defs", "definitions"}  # say nothing about the text
KEYWORDS = {  # by type
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
ALONE = ("$ref", "const", "enum", "anyOf", "allOf")  # which say all by themselves
KNOWN = {"type", *ALONE, *(each for those in KEYWORDS.values() for each in those)}
NEUTRAL = {"uniqueItems": False, "nullable": False}  # keywords that are accepted with a value that says nothing
WAYS_OUT = {
    "oneOf": "give anyOf, if no value satisfies two of its schemas",
    "format": "give a pattern",
    "minProperties": "make properties required",
    "prefixItems": "give an object with a property for each item",
    "multipleOf": "give an enum",
}
SPACE = Repeat(any_of(" "), 0, 1)
COMMA, COLON = Tree((any_of(","), SPACE)), Tree((any_of(":"), SPACE))
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
BARRED = ((0, 31), (34, 34), (92, 92), (0xD800, 0xDFFF))  # never in a string as they are
CHARACTER = Alternatives((CharacterSet(BARRED, negated=True), Tree((any_of("\\"), any_of('"\\ntr')))))
STRING = Tree((any_of('"'), repeated(CHARACTER), any_of('"')))
DIGIT = CharacterSet(((48, 57),))
INTEGER = parse(f"-?(0|[1-9][0-9]{{,{DIGITS - 1}}})")
NUMBER = Tree((INTEGER, parse(f"(\\.[0-9]{{1,{DIGITS}}})?([eE][+-]?[0-9]{{1,2}})?")))
BOOLEAN, NULL = Alternatives((literal("true"), literal("false"))), literal("null")
SIMPLE: dict[str, Node] = {"number": NUMBER, "boolean": BOOLEAN, "null": NULL}
TYPES: dict[str, tuple[type, ...]] = {  # of the values of `const` and `enum`
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
PIECES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)  # of a pattern: escapes, classes, characters


def schema_text(schema: object) -> str:
    """Returns a schema, a dict or JSON text, as JSON text on one line.

    Raises UsageError if it cannot be written as JSON, or is too long.
    """
    try:
        value = strict_json.parse(schema) if isinstance(schema, str) else schema
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"json_schema is not JSON: {error}; give a dict, or its JSON text") from None
    if len(text) > LONGEST:
        raise UsageError(f"json_schema has {len(text):,} characters; give at most {LONGEST:,}")
    return text


def schema_tree(text: str) -> Node:
    """Returns the tree of the texts that satisfy a schema in JSON.

    Raises UsageError, with the place, for a keyword that is not supported, and if there are no such texts.
    """
    found = _Builder(strict_json.parse(text)).root()
    if found is None:
        raise UsageError(f"json_schema: no value satisfies it, with a schema within itself {RECURSION} times at most")
    return found


class _Builder:
    """Makes trees of schemas. A tree is None for a schema that no value satisfies."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MOST_SCHEMAS
        self._depth = 0
        self._open: Counter[str] = Counter()  # references that are being followed

    def root(self) -> Node | None:
        return self._build(self._root, "#")

    def _build(self, schema: Any, place: str) -> Node | None:
        self._left -= 1
        if self._left < 0 or self._depth >= DEEPEST:
            _refuse(place, f"more than {MOST_SCHEMAS:,} schemas, or {DEEPEST} within one another; give a smaller one")
        self._depth += 1
        found = self._of_schema(schema, place)
        self._depth -= 1
        return found

    def _of_schema(self, schema: Any, place: str) -> Node | None:
        if isinstance(schema, bool):
            return _anything(FREE_DEPTH) if schema else None
        if not isinstance(schema, dict):
            _refuse(place, f"a schema is an object, true or false, not {_shown(schema)}")
        said = _check_keywords(schema, place)
        for name in ALONE:
            if name in said:
                return self._alone(name, said, place)
        return self._of_types(said, place)

    def _alone(self, name: str, said: Mapping[str, Any], place: str) -> Node | None:
        value, others = said[name], sorted(said.keys() - {name, "type"})
        if others:
            _refuse(place, f"{others[0]} beside {name}: these cannot be combined; say all within {name}")
        if name in ("const", "enum"):
            return _one_of([value] if name == "const" else _array(value, f"{place}/{name}"), said.get("type"), place)
        if "type" in said:
            _refuse(place, f"type beside {name}: these cannot be combined; say all within {name}")
        if name == "$ref":
            return self._reference(value, place)
        schemas = _array(value, f"{place}/{name}")
        if name == "allOf" and len(schemas) != 1:
            _refuse(place, "allOf: only one schema in it is supported; write what it says together as one")
        return _any_node([self._build(each, f"{place}/{name}/{at}") for at, each in _distinct(schemas).items()])

    def _reference(self, reference: Any, place: str) -> Node | None:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            _refuse(place, f"$ref {_shown(reference)}: only places in this schema, such as #/$defs/name, are followed")
        if self._open[reference] >= RECURSION:
            return None
        target = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            inside = {str(at): each for at, each in enumerate(target)} if isinstance(target, list) else target
            if not isinstance(inside, dict) or name not in inside:
                _refuse(place, f"$ref {_shown(reference)}: there is no such place in this schema")
            target = inside[name]
        self._open[reference] += 1
        found = self._build(target, reference)
        self._open[reference] -= 1
        return found

    def _of_types(self, said: Mapping[str, Any], place: str) -> Node | None:
        """Returns the tree of values of the types named, or else of those that have the keywords."""
        types = said.get("type", [name for name, keywords in KEYWORDS.items() if said.keys() & keywords])
        if not types and "type" not in said:
            return _anything(FREE_DEPTH)
        several = types if isinstance(types, list) else [types]
        for each in several:
            if not isinstance(each, str) or each not in KEYWORDS:
                _refuse(place, f"type {_shown(each)}: give one of {', '.join(KEYWORDS)}")
        return _any_node([self._of_type(each, said, place) for each in dict.fromkeys(several)])

    def _of_type(self, name: str, said: Mapping[str, Any], place: str) -> Node | None:
        if name == "object":
            return self._object(said, place)
        if name == "array":
            return self._array(said, place)
        if name == "string":
            return _string(said, place)
        if name == "integer":
            return _integer(said, place)
        bounds = sorted(KEYWORDS["integer"] & said.keys())
        if name == "number" and bounds:
            _refuse(place, f"{bounds[0]} of a number: only integers have bounds here; give integer, or leave it out")
        return SIMPLE[name]

    def _array(self, said: Mapping[str, Any], place: str) -> Node | None:
        least, most = _counts(said, "minItems", "maxItems", place)
        item = self._build(said.get("items", True), f"{place}/items") if most != 0 else None
        if item is None:
            return None if least else literal("[]")
        return Tree((any_of("["), Repeat(item, least, most, COMMA), any_of("]")))

    def _object(self, said: Mapping[str, Any], place: str) -> Node | None:
        properties, required = said.get("properties", {}), _array(said.get("required", []), f"{place}/required")
        if not isinstance(properties, dict):
            _refuse(place, f"properties: give an object of schemas, not {_shown(properties)}")
        if not all(isinstance(each, str) for each in required):
            _refuse(place, f"required: give the names of properties, not {_shown(required)}")
        others = said.get("additionalProperties", True)
        if not properties and not required:
            return self._free_object(others, place)
        names = list(dict.fromkeys([*properties, *required]))
        parts = list[tuple[Node, bool]]()
        for name in names:
            value = self._build(properties.get(name, others), f"{place}/properties/{name}")
            if value is None and name in required:
                return None
            if value is not None:
                parts.append((Tree((_json(name), COLON, value)), name in required))
        inside = Selection(tuple(each for each, _ in parts), tuple(each for _, each in parts), COMMA)
        return Tree((any_of("{"), inside, any_of("}")))

    def _free_object(self, others: Any, place: str) -> Node:
        """Returns the tree of objects with any names, whose values satisfy a schema."""
        value = self._build(others, f"{place}/additionalProperties")
        if value is None:
            return literal("{}")
        return Tree((any_of("{"), Repeat(Tree((STRING, COLON, value)), 0, None, COMMA), any_of("}")))


@lru_cache(FREE_DEPTH + 1)  # one tree for all places, as its parts are many
def _anything(depth: int) -> Node:
    """Returns the tree of any value, with arrays and objects this deep within one another."""
    parts: list[Node] = [STRING, NUMBER, BOOLEAN, NULL]
    if depth:
        inner = _anything(depth - 1)
        parts.append(Tree((any_of("["), Repeat(inner, 0, None, COMMA), any_of("]"))))
        parts.append(Tree((any_of("{"), Repeat(Tree((STRING, COLON, inner)), 0, None, COMMA), any_of("}"))))
    return Alternatives(tuple(parts))


def _refuse(place: str, problem: str) -> NoReturn:
    raise UsageError(f"json_schema, at {place if len(place) <= 80 else place[:77] + '...'}: {problem}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_keywords(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns the keywords that say something. Raises UsageError for one that is not supported."""
    said = {name: value for name, value in schema.items() if name not in ANNOTATIONS}
    for name, value in [*said.items()]:
        if name in NEUTRAL and value is NEUTRAL[name]:
            del said[name]
        elif name not in KNOWN:
            way_out = WAYS_OUT.get(name, "leave it out")
            _refuse(place, f"{name[:60]} is not supported; {way_out}")
    return said


def _array(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(place, f"give an array, not {_shown(value)}")
    return value


def _distinct(values: Sequence[Any]) -> dict[int, Any]:
    """Returns the values that differ as JSON, by their places. To compare their trees would take far longer."""
    places = {json.dumps(each): at for at, each in reversed([*enumerate(values)])}
    return {at: values[at] for at in sorted(places.values())}


def _any_node(nodes: Sequence[Node | None]) -> Node | None:
    found = [each for each in nodes if each is not None]
    return found[0] if len(found) == 1 else Alternatives(tuple(found)) if found else None


def _json(value: Any) -> Tree:
    """Returns the tree of one value, without white space."""
    return literal(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _one_of(values: Sequence[Any], types: Any, place: str) -> Node | None:
    """Returns the tree of the values that have one of the types, if any are named."""
    named = types if isinstance(types, list) else [] if types is None else [types]
    for each in named:
        if not isinstance(each, str) or each not in TYPES:
            _refuse(place, f"type {_shown(each)}: give one of {', '.join(TYPES)}")
    kept = [each for each in values if not named or any(_is_a(each, name) for name in named)]
    return _any_node([_json(each) for each in _distinct(kept).values()])


def _is_a(value: Any, name: str) -> bool:
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[name]) and isinstance(value, bool) is (name == "boolean")


def _counts(said: Mapping[str, Any], least: str, most: str, place: str) -> tuple[int, int | None]:
    """Returns two bounds. Raises UsageError unless they are whole numbers from 0 on, in order."""
    for name in (least, most):
        value = said.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            _refuse(place, f"{name} {_shown(value)}: give 0 or a positive whole number")
    low, high = said.get(least, 0), said.get(most)
    if high is not None and low > high:
        _refuse(place, f"{least} {low} and {most} {high} contradict each other")
    return low, high


def _string(said: Mapping[str, Any], place: str) -> Node:
    least, most = _counts(said, "minLength", "maxLength", place)
    inside: Node = Repeat(CHARACTER, least, most)
    if "pattern" in said:
        if least or most is not None:
            _refuse(place, "pattern beside a length: these cannot be combined; say the length in the pattern")
        inside = _pattern(said["pattern"], place)
    return Tree((any_of('"'), inside, any_of('"')))


def _pattern(pattern: Any, place: str) -> Node:
    """Returns the tree of the strings that have a match of a pattern in them, without their quotes."""
    if not isinstance(pattern, str):
        _refuse(place, f"pattern {_shown(pattern)}: give a text")
    begins = pattern.startswith("^")
    ends = re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) is not None
    inner = pattern[begins : len(pattern) - ends]
    try:
        node = _encode(parse(inner))
    except UsageError as error:
        _refuse(place, str(error))
    # Only now, as finding the pieces takes long if classes are never closed.
    if (begins or ends) and _has_alternatives(inner):
        _refuse(place, f"pattern {_shown(pattern)}: an anchor belongs to one alternative; write ^(a|b)$")
    free = (repeated(CHARACTER),)
    return Tree((*(() if begins else free), node, *(() if ends else free)))


def _has_alternatives(pattern: str) -> bool:
    """Whether a pattern has alternatives outside of all groups."""
    depth = 0
    for piece in PIECES.findall(pattern):
        depth += (piece == "(") - (piece == ")")
        if piece == "|" and depth == 0:
            return True
    return False


def _encode(node: Node) -> Node:
    """Returns the tree with characters as they are written in a JSON string."""
    if isinstance(node, CharacterSet):
        kept = CharacterSet(node.ranges, node.kinds, node.negated, BARRED)
        return Alternatives((kept, *(literal(ESCAPES[each]) for each in ESCAPES if node.has(each))))
    if isinstance(node, Repeat):
        return Repeat(_encode(node.part), node.least, node.most)
    assert isinstance(node, Tree | Alternatives)
    return type(node)(tuple(map(_encode, node.parts)))


def _integer(said: Mapping[str, Any], place: str) -> Node | None:
    """Returns the tree of the whole numbers within bounds."""
    most = 10**DIGITS - 1
    low, high = -most, most
    for name in sorted(KEYWORDS["integer"] & said.keys()):
        bound = said[name]
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            _refuse(place, f"{name} {_shown(bound)}: give a number")
        if name.endswith("inimum"):
            low = max(low, math.floor(bound) + 1 if name.startswith("ex") else math.ceil(bound))
        else:
            high = min(high, math.ceil(bound) - 1 if name.startswith("ex") else math.floor(bound))
    if (low, high) == (-most, most):
        return INTEGER
    positive, negative = _from_to(max(low, 0), high), _from_to(max(-high, 1), -low)
    return _any_node([positive, negative and Tree((any_of("-"), negative))])


def _from_to(low: int, high: int) -> Node | None:
    """Returns the tree of the whole numbers from `low`, at least 0, to `high`, or None without any."""
    if low > high:
        return None
    parts = list[Node]()
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        parts.append(_digits(str(first), str(last)))
    return _any_node(parts)


def _digits(low: str, high: str) -> Node:
    """Returns the tree of the numbers between two of the same number of digits."""
    rest = len(low) - 1
    if not low:
        return Tree(())
    if low[0] == high[0]:
        return Tree((literal(low[0]), _digits(low[1:], high[1:])))
    first, last, parts = int(low[0]), int(high[0]), list[Node]()
    if low[1:] != "0" * rest:
        parts.append(Tree((literal(low[0]), _digits(low[1:], "9" * rest))))
        first += 1
    if high[1:] != "9" * rest:
        parts.append(Tree((literal(high[0]), _digits("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        parts.append(Tree((CharacterSet(((48 + first, 48 + last),)), Repeat(DIGIT, rest, rest))))
    return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))
