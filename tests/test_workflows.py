"""What the workflows, the hooks and the issue forms name is there: targets of make, scripts, files, commands."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from scriven.cli import main

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"
CALLED = re.compile(r"\bmake ([\w-]+)")
SCRIPT = re.compile(r"(?:python|bash) ((?:\.ci|benchmarks|deploy|docs|tests)/[\w./-]+)")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def lines(path: Path) -> list[str]:
    """The commands of a workflow, with the values of the matrix `target` in their places; those of hooks."""
    if path == HOOKS:
        return [hook["entry"] for repository in read(path)["repos"] for hook in repository["hooks"]]
    found = []
    for job in read(path)["jobs"].values():
        values = job.get("strategy", {}).get("matrix", {}).get("target", [""])
        commands = [step["run"] for step in job["steps"] if "run" in step]
        found += [line.replace("${{ matrix.target }}", value) for line in commands for value in values]
    return found


def test_there_are_workflows_and_forms() -> None:
    assert {path.stem for path in WORKFLOWS} == {"docs", "tests", "weekly", "wheels"}
    assert {path.stem for path in FORMS} == {"bug", "speed", "wish"}


@pytest.mark.parametrize("path", [*WORKFLOWS, HOOKS], ids=lambda path: path.name)
def test_targets_and_scripts_that_a_workflow_calls_exist(path: Path) -> None:
    text = "\n".join(lines(path))
    assert set(CALLED.findall(text)) <= TARGETS
    assert [script for script in SCRIPT.findall(text) if not (ROOT / script).is_file()] == []
    assert CALLED.search(text) or SCRIPT.search(text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_alone_and_write_only_what_it_publishes(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job.get("permissions", {})) <= {"id-token", "pages"}
    assert "secrets." not in path.read_text("utf-8")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_for_the_machine(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = [field["attributes"].get("label", "") for field in read(path)["body"]]
    asked = [label for label in labels if label.startswith("scriven ")]
    assert "scriven info --machine" in asked
    for label in asked:
        main([label.split()[1], "--help"])
    assert "--machine" in capfd.readouterr().out


def test_the_files_that_start_a_workflow_exist() -> None:
    for path in WORKFLOWS:
        events = read(path)[True]  # YAML's `on`
        for event in events.values():
            for pattern in (event or {}).get("paths", []) if isinstance(event, dict) else ():
                assert list(ROOT.glob(pattern.removesuffix("/**"))), pattern


def test_a_package_that_a_system_lacks_is_not_installed_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    marked = re.compile(r"([\w-]+)[^;]*; (sys_platform != '\w+')")
    found = [marked.match(line) for extra in ("train", "data", "serve", "docs", "dev") for line in project[extra]]
    packages = {each[1]: each[2].replace("'", '"') for each in found if each}
    assert "uvloop" in packages
    for path in (ROOT / "requirements").glob("*.txt"):
        for name, marker in packages.items():
            lines = re.findall(rf"^{name}==.*", path.read_text("utf-8"), re.MULTILINE)
            assert all(f" ; {marker} " in line for line in lines), f"{path.name}: {lines}"


def test_the_citation_has_the_version() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert project and read(ROOT / "CITATION.cff")["version"] == project[1]
