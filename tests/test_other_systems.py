"""macOS and Windows: no module needs what they lack when it is imported, and no source names it unguarded."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from masked_system import LINUX_NAMES, MASKED_MODULES, UNIX_NAMES

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "scriven"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this is such a system itself")
def test_every_module_is_imported_without_what_a_system_lacks() -> None:
    words = [sys.executable, str(HERE / "masked_system.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*MASKED_MODULES]
    assert all(int(line.split()[1]) > 150 for line in done.stdout.splitlines())


def unguarded(path: Path) -> list[str]:
    """Names that only some systems have, in functions that ask neither for the system nor for the name."""
    text = path.read_text("utf-8")
    names = {word for table in (LINUX_NAMES, UNIX_NAMES) for words in table.values() for word in words.split()}
    modules = {module.__name__ for module in LINUX_NAMES}
    found, lines = [], text.splitlines()  # ast.get_source_segment would split the whole file for each function
    for function in (node for node in ast.walk(ast.parse(text)) if isinstance(node, FUNCTIONS)):
        body = text if isinstance(function, ast.Module) else "\n".join(lines[function.lineno - 1 : function.end_lineno])
        guarded = re.search(r"sys\.platform|os\.name|hasattr\(|except \([^)]*AttributeError|ModuleNotFoundError", body)
        for node in ast.walk(function) if not guarded else ():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                found += [f"{path.name}:{node.lineno} {node.value.id}.{node.attr}"] if node.attr in names else []
    return sorted(set(found))


def test_names_that_a_system_lacks_are_used_where_they_are_asked_for() -> None:
    assert [line for path in sorted(PACKAGE.rglob("*.py")) for line in unguarded(path)] == []


def test_an_unguarded_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import os\n\n\ndef count() -> int:\n    return len(os.sched_getaffinity(0))\n")
    assert unguarded(tmp_path / "bad.py") == ["bad.py:5 os.sched_getaffinity"]
