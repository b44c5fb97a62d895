"""Rules that a text obeys from its first character to its last; see docs/rules.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scriven.arguments import check_text, check_texts
from scriven.errors import UsageError
from scriven.rules.patterns import (
    ANY,
    IN_LINE,
    LINE_END,
    Alternatives,
    Node,
    any_of,
    literal,
    parse,
    repeated,
)
from scriven.rules.patterns import Sequence as Tree

if TYPE_CHECKING:
    from scriven.rules.automaton import Automaton
    from scriven.vocabulary import Vocabulary

Value = str | tuple[str, ...]
STATES = 10_000  # of an automaton at most
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Rule:
    """A rule for the text that a model writes. `one & other` is a rule, too: both hold.

    The functions below make rules. `parts` has the kind and the value of each.
    """

    parts: tuple[tuple[str, Value], ...]

    def __and__(self, other: Rule) -> Rule:
        return Rule(self.parts + other.parts)

    def __repr__(self) -> str:
        return " & ".join(f"Rule.{kind}({value!r})" for kind, value in self.parts)

    @classmethod
    def regex(cls, pattern: str) -> Rule:
        """Returns the rule that the whole text matches a regular expression, such as `[A-Z][a-z]{2,5}`.

        Raises UsageError for a pattern with more than docs/rules.md lists.
        """
        return cls._of("regex", check_text("pattern", pattern))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Rule:
        """Returns the rule that the text is one of these. Raises UsageError if there are none."""
        if not texts:
            raise UsageError("choice: give at least one text")
        return cls._of("choice", tuple(check_texts("choice", list(texts))))

    @classmethod
    def allow(cls, characters: str) -> Rule:
        """Returns the rule that the text has only these characters."""
        return cls._of("allow", _check_some("allow", characters))

    @classmethod
    def forbid(cls, characters: str) -> Rule:
        """Returns the rule that the text has none of these characters."""
        return cls._of("forbid", _check_some("forbid", characters))

    @classmethod
    def contains(cls, text: str) -> Rule:
        """Returns the rule that the text has this one somewhere in it."""
        return cls._of("contains", _check_some("contains", text))

    @classmethod
    def acrostic(cls, word: str) -> Rule:
        """Returns the rule that the text has a line for each letter of a word, in order, that begins with it."""
        return cls._of("acrostic", _check_line("acrostic", word))

    @classmethod
    def rhyme(cls, suffix: str) -> Rule:
        """Returns the rule that every line of the text ends with these characters, the last one too."""
        return cls._of("rhyme", _check_line("rhyme", suffix))

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Rule:
        """Returns the rule that the text is JSON that satisfies a JSON Schema, a dict or its JSON text.

        Raises UsageError for a schema with more than docs/rules.md lists.
        """
        from scriven.rules.json_schema import schema_text  # noqa: PLC0415 - most rules need none of it

        return cls._of("json_schema", schema_text(schema))

    @classmethod
    def _of(cls, kind: str, value: Value) -> Rule:
        tree(kind, value)  # raises now, and not when it is used
        return cls(((kind, value),))

    def describe(self) -> str:
        """Returns the rule in words for a message."""
        return " and ".join(f"{kind} {_shorten(repr(value))}" for kind, value in self.parts)

    def compile(self, vocabulary: Vocabulary, *, until_end: bool = False, states: int = STATES) -> Automaton:
        """Returns the automaton over the symbols of a vocabulary; see `scriven.rules.automaton`.

        With `until_end`, the boundary of a model of documents ends a text. Raises UsageError if no text obeys, saying
        why, and if the rule needs more than `states` states.
        """
        return _compile(self, vocabulary, bool(until_end), states)


@lru_cache(32)
def _compile(rule: Rule, vocabulary: Vocabulary, until_end: bool, states: int) -> Automaton:
    from scriven.rules.automaton import compile_automaton, unknown_literals  # noqa: PLC0415 - it imports numpy

    nodes = [tree(*part) for part in rule.parts]
    found = compile_automaton(nodes, vocabulary, until_end=until_end, states=states)
    if not found.missing:
        return found
    unknown = unknown_literals(nodes, vocabulary)
    if unknown:
        names = ", ".join(f"{each!r} (U+{ord(each):04X})" for each in unknown[:10])
        raise UsageError(
            f"{rule.describe()}: the model does not know {names}, and no text obeys the rule without them; "
            "change the rule"
        )
    alone = (compile_automaton([node], vocabulary, until_end=until_end, states=states) for node in nodes)
    if len(nodes) > 1 and not any(each.missing for each in alone):
        raise UsageError(f"{rule.describe()}: these contradict each other, no text obeys all; drop one")
    raise UsageError(f"{rule.describe()}: no text of the characters that this model knows obeys; change the rule")


@lru_cache(64)
def tree(kind: str, value: Value) -> Node:
    """Returns the tree of a part of a rule. Raises UsageError for a pattern that is not valid."""
    if not isinstance(value, str):
        return Alternatives(tuple(map(literal, value)))
    if kind == "json_schema":
        from scriven.rules.json_schema import schema_tree  # noqa: PLC0415 - most rules need none of it

        return schema_tree(value)
    return parse(value) if kind == "regex" else _simple_tree(kind, value)


def _simple_tree(kind: str, value: str) -> Node:
    line = repeated(IN_LINE)
    if kind in ("allow", "forbid"):
        return repeated(any_of(value, negated=kind == "forbid"))
    if kind == "contains":
        return Tree((repeated(ANY), literal(value), repeated(ANY)))
    if kind == "acrostic":
        lines: list[Node] = [LINE_END, *(Tree((literal(letter), line)) for letter in value)]
        return Tree((lines[1], *(part for each in lines[2:] for part in (LINE_END, each))))
    ending = Tree((line, literal(value)))
    return Tree((repeated(Tree((ending, LINE_END))), ending))


def _check_some(name: str, value: str) -> str:
    if not check_text(name, value):
        raise UsageError(f"{name} is empty; give at least one character")
    return value


def _check_line(name: str, value: str) -> str:
    if "\n" in _check_some(name, value):
        raise UsageError(f"{name} {value!r}: it has a line end, but is about single lines; leave that out")
    return value


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
