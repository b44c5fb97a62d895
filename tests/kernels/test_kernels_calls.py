"""The structs that Python passes to native code: native/calls.h and the structures in kernels/*.py are the same."""

from __future__ import annotations

import ast
import ctypes
import re
from collections.abc import Iterator

import pytest

from scriven.kernels import (  # noqa: F401 - they have the structures
    adamw,
    context_mixing,
    counts,
    cross_entropy,
    encode,
    muon,
    native_library,
    recurrent,
    sampler,
    scan,
    suffixes,
)
from scriven.kernels.interface import DECLARATION, library_file
from scriven.kernels.native_library import FOLDER, VARIANTS, NativeStruct, fields

STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\};", re.MULTILINE | re.DOTALL)
KINDS: dict[object, str] = {ctypes.c_int64: "int64_t", ctypes.c_double: "double", ctypes.c_float: "float"}


def structures() -> dict[str, type[NativeStruct]]:
    found = (each for each in NativeStruct.__subclasses__() if each.__module__.startswith("scriven."))
    return {each.__name__.lstrip("_"): each for each in found}


def declared_fields(body: str) -> Iterator[tuple[str, str]]:
    """The names and types of a struct's fields, `*` for addresses, as native/calls.h has them."""
    for declaration in re.sub(r"//[^\n]*", "", body).split(";")[:-1]:
        kind, first, rest = re.fullmatch(
            r"\s*((?:const )?\w+ (?:\*const )?)([*\w]+)((?:, [*\w]+)*)", declaration
        ).groups()  # type: ignore[union-attr]
        for name in (first, *rest.split(", ")[1:]):
            yield name.lstrip("*"), "*" if "*" in kind + name else kind.split()[-1]


def kind_of(field: type) -> str:
    is_address = field is ctypes.c_void_p or hasattr(field, "contents")
    return "*" if is_address else KINDS.get(field) or field.__name__.lstrip("_")


def test_both_sides_have_the_same_structs_with_the_same_fields() -> None:
    text = (FOLDER / "native" / "calls.h").read_text("utf-8")
    there = {name: list(declared_fields(body)) for name, body in STRUCT.findall(text)}
    assert len(there) == text.count("struct ")
    here = {name: [(field, kind_of(kind)) for field, kind, *_ in each._fields_] for name, each in structures().items()}
    assert here == there


def built_variants() -> list[str]:
    return [variant for variant in VARIANTS if (FOLDER / library_file(variant)).exists()]


@pytest.mark.skipif(not built_variants(), reason=native_library.why())
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_sides_have_structs_of_the_same_size(variant: str) -> None:
    """Of every library, also of those that cannot run here: what tells the sizes is portable in all of them."""
    if variant not in built_variants():
        pytest.skip(f"the compiler did not know {variant}")
    size = ctypes.CDLL(str(FOLDER / library_file(variant)))["scriven_struct_size"]
    size.argtypes, size.restype = [ctypes.c_char_p], ctypes.c_int64
    assert {name: size(name.encode()) for name in structures()} == {
        name: ctypes.sizeof(each) for name, each in structures().items()
    }
    assert size(b"Unknown") == 0


def calls() -> Iterator[tuple[str, list[str | None]]]:
    """The structures that are made in kernels/*.py, and the fields that each is given."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name = node.func.id.lstrip("_")
                if name in structures() and (node.args or node.keywords):  # else it is all zeros
                    assert not node.args, f"{name} takes fields by keyword"
                    yield name, [each.arg for each in node.keywords]


def test_every_field_is_given_and_no_other() -> None:
    found = list(calls())
    assert {name for name, _ in found} == structures().keys() - {"Drawing"}  # arrays of which numpy makes
    for name, given in found:
        assert sorted(map(str, given)) == sorted(field for field, *_ in structures()[name]._fields_), name


def test_what_takes_more_than_a_few_values_takes_a_struct() -> None:
    declared = [text for path in (FOLDER / "native").glob("*.cpp") for text in DECLARATION.findall(path.read_text())]
    assert len(declared) > 20
    for declaration in declared:
        name, arguments = re.search(r"(scriven_\w+)\((.*)\)", " ".join(declaration.split())).groups()  # type: ignore[union-attr]
        assert arguments.count(",") < 4, name
        if takes := re.fullmatch(r"const scriven::(\w+) \*call", arguments):
            assert native_library._signature(structures()[takes[1]])[0] == name


class _TwoWords(NativeStruct):
    _fields_ = fields(ctypes.c_int64, "one two")


def test_a_call_without_its_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if native_library.level() != "off":
        with pytest.raises(RuntimeError, match="has no scriven_two_words"):
            native_library.call(_TwoWords(one=1, two=2))
    monkeypatch.setattr(native_library, "_native", lambda: native_library.find("off"))
    with pytest.raises(RuntimeError, match="scriven_two_words needs the native library"):
        native_library.call_for_count(_TwoWords(one=1, two=2))
