"""The house rules that a program can count: how functions, classes and docstrings are worded; see docs/shapes.md."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from scriven.sampling_settings import SamplingSettings
from scriven.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scriven"
SHAPES = (ROOT / "docs" / "shapes.md").read_text("utf-8")
OWN_WORDS = {"lane", "group", "boundary", "ring", "reading", "writing"}
PARTICIPLES = 0.01  # of all functions, that are named by a bare participle at most
IDIOMS = 0.02  # of all docstrings, that have a private idiom at most
MODULES = 216  # Python files of the package at most
TRAINER_ATTRIBUTES = 14  # at most: what a checkpoint holds is in its state
IRREGULAR = {
    "told",
    "kept",
    "said",
    "held",
    "given",
    "taken",
    "made",
    "found",
    "seen",
    "known",
    "written",
    "begun",
    "gone",
    "done",
    "left",
    "sent",
    "spent",
    "built",
    "drawn",
    "chosen",
    "broken",
    "hidden",
    "met",
    "led",
    "fed",
    "understood",
    "thrown",
    "torn",
    "worn",
    "shown",
    "grown",
    "lost",
    "laid",
    "paid",
}
# At commit 12b1061 these rules find 368 of 1,407 docstrings, and 144 functions, 11 properties among them.
IDIOM = re.compile(
    r"""
    \bso\ (?:many|much|long|far|few)\b(?!\ (?:that|as))
    | \b(?:is|are|was|were|be|been|it)\ told\b | \btells?\ (?:of|what|whether|which|how)\b | \btold\b
    | \b(?:go|goes|gone|going|went)\ on\b
    | \bwhere\ (?:there\ (?:is|are|was)|it\ is|they\ are|that\ is|none)\b | \bnone\ (?:where|if|that|is)\b
    | \bby\ (?:other|the\ same)\ means\b | \bforet(?:ell|old|elling)\b
    | \b(?:of|from|to|in|after|before|by)\ which\b
    | \bwhat\ (?:was|are|has|comes?|came|goes|stands?|lies|else)\b
    | \bbeside\b | \bwhatever\b | \bthat\ of\b
    | \b(?:lies?|lay|stands?|stood)\ (?:on|in|there|beside|for|elsewhere)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(root: Path = PACKAGE) -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(root.rglob("*.py")):
        name = str(path.relative_to(root))
        yield from ((name, node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))


def is_participle(name: str) -> bool:
    """Whether a function's name is a bare participle; that of a value, as `done`, is no function's."""
    word = name.strip("_")
    regular = word.endswith("ed") and word not in ("feed", "seed", "need", "speed", "embed", "proceed")
    return "_" not in word and (word in IRREGULAR or regular)


def is_property(node: Function) -> bool:
    return any("property" in ast.unparse(each) for each in node.decorator_list)


def named_by_participles(root: Path = PACKAGE) -> tuple[list[str], int]:
    functions = [(file, node) for file, node in nodes(root) if isinstance(node, Function) and not is_property(node)]
    return [f"{file}:{node.lineno} {node.name}" for file, node in functions if is_participle(node.name)], len(functions)


def docstrings(root: Path = PACKAGE) -> Iterator[tuple[str, str]]:
    for file, node in nodes(root):
        if isinstance(node, Function | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
            yield f"{file}:{getattr(node, 'lineno', 1)}", text


def with_idioms(root: Path = PACKAGE) -> tuple[list[str], int]:
    texts = list(docstrings(root))
    return [f"{place} {found[0]!r}" for place, text in texts if (found := IDIOM.search(text))], len(texts)


def test_functions_are_named_by_verbs() -> None:
    found, count = named_by_participles()
    assert len(found) <= PARTICIPLES * count, "\n".join(found)


def test_docstrings_are_in_plain_words() -> None:
    found, count = with_idioms()
    assert len(found) <= IDIOMS * count, "\n".join(found)


def public_nodes(node: ast.AST, path: str) -> Iterator[tuple[str, ast.AST]]:
    """The functions and classes that are public by name, and the methods of the latter."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Function | ast.ClassDef) and not each.name.startswith("_"):
            if not any(ast.unparse(decorator) == "overload" for decorator in each.decorator_list):
                yield f"{path}.{each.name}", each
            if isinstance(each, ast.ClassDef):
                yield from public_nodes(each, f"{path}.{each.name}")
        elif isinstance(each, ast.If | ast.Try | ast.With):
            yield from public_nodes(each, path)


def test_all_that_is_public_has_a_docstring() -> None:
    modules = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    found = [*modules.items(), *(each for path, module in modules.items() for each in public_nodes(module, path))]
    assert len(found) > 1000
    assert [path for path, node in found if not ast.get_docstring(node)] == []  # type: ignore[arg-type]
    groups = {section: type(values) for section, values in [*Settings(), ("sampling", SamplingSettings())]}
    settings = {f"{name}.{key}": field for name, group in groups.items() for key, field in group.model_fields.items()}
    assert [name for name, field in settings.items() if not field.description] == []


def test_a_class_name_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for file, node in nodes():
        if isinstance(node, ast.ClassDef):
            places[node.name.strip("_")].append(f"{file}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def attributes(file: str, name: str) -> set[str]:
    """What the methods of a class set on `self`."""
    (found,) = (node for path, node in nodes() if path == file and isinstance(node, ast.ClassDef) and node.name == name)
    stored = (node for node in ast.walk(found) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}


def test_a_trainer_has_few_attributes() -> None:
    found = attributes("training/loop.py", "Trainer")
    assert {"state", "learner"} <= found
    assert len(found) <= TRAINER_ATTRIBUTES, sorted(found)


def test_there_are_few_rooms() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) <= MODULES


def test_the_words_of_our_own_are_defined_once() -> None:
    table = SHAPES.partition("## Words")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) == sorted(OWN_WORDS | {"word"})


def test_shapes_names_what_there_is() -> None:
    """Each `package.name` there is a module, a name that the package exports, or a setting."""
    settings = {f"{section}.{name}" for section, values in Settings() for name in type(values).model_fields}
    packages = {path.parent.name: path.read_text("utf-8") for path in PACKAGE.glob("*/__init__.py")}
    for package, name in re.findall(r"\b([a-z_]+)\.([A-Za-z_]+)\b", SHAPES):
        if package in packages and f"{package}.{name}" not in settings:
            module = PACKAGE / package / f"{name}.py"
            assert module.exists() or re.search(rf"\b{name}\b", packages[package]), f"{package}.{name}"


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
    pages = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert re.findall(r"^\| \[\d{4}\]\((.*?)\)", index, re.MULTILINE) == pages


@pytest.mark.parametrize(
    ("text", "idiom"),
    [
        ("How many rows each gets who wants so many: as many, unless others want more, too.", True),
        ("What a checkpoint keeps of a training; it is told to nobody.", True),
        ("Characters/s of one worker's training step, of so many threads.", True),
        ("Max-min fair division of `rows` among requests.", False),
        ("The training state in a checkpoint, validated before use.", False),
    ],
)
def test_the_pattern_knows_private_words_from_plain_ones(text: str, *, idiom: bool) -> None:
    assert (IDIOM.search(text) is not None) is idiom
