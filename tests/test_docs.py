"""What the documents tell people to type works, with budgets cut to a few steps and models to a few weights."""

import gzip
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
import uvicorn

from conftest import WORDS
from plays import put_plays
from scriven import recipes
from scriven.cli import main
from scriven.kernels import native_library
from typed_commands import rewritten

ROOT = Path(__file__).parents[1]
# docs/experiments.md is no manual: its commands are a record of what was run, for minutes, on texts that are not here.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "experiments.md"}),
    *sorted((ROOT / "docs" / "classics").glob("*.md")),
]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
JOINED = re.compile(r"\| scriven |^scriven .*[|>]|<\(scriven ")  # lines of several programs, or with files of output

NAVAJO = (
    "Bílaʼ ashdlaʼii Tʼáá ałtso yiníkʼehgo bidizhchį dóó\nhazʼą́ągo baa nitsáhákees.\n"  # with letters of two characters
)

# What stands in place of what is written, as in typed_commands.py.
PYTHON_BUDGET = re.compile(r"\b(?:minutes|epochs|steps|characters)=[\d.]+")
PYTHON_SMALL = (
    'steps=4, settings={"model": {"width": 16}, "reader": {"batch": 4, "length": 16}, "monitor": {"sample_length": 10},'
    ' "training": {"workers": 1, "threads": 1, "evaluations": 1, "evaluation_characters": 500}}'
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that is to be typed, in order."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text("utf-8"))]


def lines(page: Path) -> Iterator[str]:
    """The lines of the blocks for the shell; those that end in a backslash joined to the next."""
    for language, text in blocks(page):
        if language == "sh":
            yield from text.replace("\\\n", " ").splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the documents speak of, as the current one."""
    monkeypatch.chdir(tmp_path)
    text = WORDS * 40
    put_plays(text)
    write_docx(Path("novel.docx"), text)
    for name in ("book.txt", "letters.txt", "letter.txt", "notes/monday.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    Path("letters").mkdir()
    Path("letters/first.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name, content in documents().items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    return tmp_path


def write_docx(path: Path, text: str) -> None:
    """Writes a text as a word processor does."""
    paragraphs = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in text.splitlines())
    with ZipFile(path, "w") as archive:
        archive.writestr(
            "_rels/.rels", '<Relationships><Relationship Type="/officeDocument" Target="a.xml"/></Relationships>'
        )
        archive.writestr("a.xml", f'<w:document xmlns:w="word"><w:body>{paragraphs}</w:body></w:document>')


def documents() -> dict[str, str]:
    """Files of many documents, and what texts of documents are trained with, by name."""
    parts = ("Ann", "bo", "Chi", "dee", "el", "Fran", "gil", "Hu")
    names = [first + second.lower() for first in parts for second in parts]
    sentences = [f"{name} sits down by the river to think of life.\n" for name in names]
    symbols = sorted(set("".join(sentences).lower()) - {"\n", "x"})
    logged = [f"12:{number % 60:02} {name} sat down to think\n" for number, name in enumerate(names * 4)]
    vectors = [f"{symbol} {number / 9:.3f} 0.5 -1\n" for number, symbol in enumerate(symbols)]
    return {
        "names.txt": "\n".join(names),
        "chat.txt": "%%".join(sentences),
        "shakespeare.txt": "".join(sentences) * 2,
        "sentences.txt": "".join(sentences),
        "held-out.txt": "".join(sentences[::9]),
        "sequences.txt": "".join(line.strip() * 2 + "\n" for line in sentences),
        "alphabet.json": json.dumps([*symbols, "<unk>"]),
        "vectors.txt": f"{len(vectors)} 3\n" + "".join(vectors),
        "items.csv": "item,condition,region,text\n1,long,1,A bad\n1,long,2,cab\n1,short,1,A cab\n",
        "usual.log": "".join(logged),
        "today.log": "".join([*logged[:20], "12:21 Ann jumps, 99 quick dogs!\n"]),
        "udhr.txt": NAVAJO * 40,
        "words.txt": "F IH1 SH\nK AE1 T\nD AO1 G\nF AE1 T  \n" * 20,
        "chords.txt": "C Am F G\nDm G C C\n\nF G Em Am\n" * 20,
        "mine.toml": recipes.text("char-rnn"),
        **{f"poems/{name}.txt": sentence for name, sentence in zip(names[:8], sentences[:8], strict=True)},
    }


def serve_nobody(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    """Stands in for serving until Ctrl-C."""
    for each in sockets:
        each.close()


def write_scriven(folder: Path) -> Path:
    """Writes a program `scriven` that runs what `rewritten` makes of its arguments. Returns its folder."""
    program = folder / "bin" / "scriven"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport shlex, sys\n"
        f"sys.path[:] = {sys.path}\n"
        "from scriven.cli import main\n"
        "from typed_commands import rewritten\n"
        "main(rewritten(shlex.join(['scriven', *sys.argv[1:]])))\n"
    )
    program.chmod(0o755)
    return program.parent


def run_pipe(line: str, programs: Path) -> None:
    """Runs a line in which programs are joined, by the shell. One may end before it has read all, as `head` does."""
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    words = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode in {0, 128 + signal.SIGPIPE}, f"{line!r} ended with {done.returncode}: {done.stderr}"


def run_line(line: str) -> None:
    try:
        main(rewritten(line))
    except SystemExit as end:
        assert not end.code, f"{line!r}, run as {rewritten(line)}, ended with {end.code}"


NATIVE = {"compress.md", "counts.md", "surprisal.md"}  # pages of what torch does not compute


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_can_be_typed_works(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NATIVE and native_library.level() == "off":
        pytest.skip("needs native code")
    if page.name in NATIVE:
        Path("book.txt").write_text(WORDS * 120, encoding="utf-8")  # long enough to be counted, beside a network
    if page.name == "exports.md" and find_spec("onnxruntime") is None:
        pytest.skip("needs onnxruntime")
    monkeypatch.setattr("uvicorn.Server.run", serve_nobody)
    monkeypatch.setattr("webbrowser.open", bool)
    programs = write_scriven(folder)
    for language, text in blocks(page):
        if language == "python":
            exec(PYTHON_BUDGET.sub(PYTHON_SMALL, text), {})
        for line in text.replace("\\\n", " ").splitlines():
            _, torchrun, launched = line.partition(" -m scriven ")  # of which one process is run here
            command = "scriven " + launched if torchrun else line
            if language == "sh" and JOINED.search(line):
                run_pipe(line, programs)
                continue
            assert not torchrun or " -o " in launched, f"{line!r} is refused: what torchrun starts needs -o"
            if language == "sh" and command.startswith("scriven "):
                monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WORDS.encode() * 40)))
                run_line(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_and_extras_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].keys()
    for line in lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if "pip" in words:
            assert {extra for names in re.findall(r"\[([\w,]+)\]", line) for extra in names.split(",")} <= extras, line


def test_what_a_target_installs_for_itself_is_not_locked() -> None:
    """Neither by name, nor by what comes with it: all of it may be in the environment whose versions are locked."""
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    itself = re.findall(r"pip install --quiet (?:-c \S+ )?'?([a-z][\w-]+)", makefile)
    (kept,) = re.findall(r"pip freeze --exclude-editable \| (.*) > constraints", makefile)
    versions = [f"{name}==1.0\n" for name in [*itself, "build", "pyproject_hooks", "builder", "torch"]]
    words = ["sh", "-c", kept]
    done = subprocess.run(words, input="".join(versions), capture_output=True, text=True, timeout=60, check=True)
    assert {"atheris", "pip-tools"} <= {*itself}
    assert done.stdout.splitlines() == ["builder==1.0", "torch==1.0"]


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / "docs" / "decisions").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.md")],
    ids=lambda page: page.name,
)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_recipe_has_a_page() -> None:
    trained = [line for page in PAGES if page.parent.name == "classics" for line in lines(page)]
    words = [shlex.split(line) for line in trained if "--recipe" in line]
    assert sorted({line[line.index("--recipe") + 1] for line in words}) == recipes.names()


def test_the_command_that_the_pages_name_is_installed() -> None:
    command = Path(sys.executable).with_name("scriven")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("scriven ")


def test_the_command_reference_is_what_help_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_budgets_are_cut_and_what_is_given_stays() -> None:
    words = rewritten("scriven train book.txt --minutes 5 --model.width 200 -o 'my run' | tee log # five minutes")
    assert words[:7] == ["train", "book.txt", "--model.width", "200", "-o", "my run", "--steps"]
    assert not {"--minutes", "|", "tee"} & set(words)
    assert words.count("--model.width") == words.count("--training.workers") == 1
    resumed = rewritten("scriven train --resume -o runs/book --minutes 10")
    assert resumed == ["train", "--resume", "-o", "runs/book", "--steps", "8"]
    begun = rewritten("scriven train book.txt --epochs 1 --resume auto -o runs/book")
    assert (begun[begun.index("--steps") + 1], begun[begun.index("--model.width") + 1]) == ("4", "16")
    assert rewritten("scriven train --resume 3030") == ["train", "--resume", "4", "--steps", "8"]
    assert rewritten("scriven sample runs/book --checkpoint epoch:17")[2:] == ["--checkpoint", "4"]
    assert rewritten("scriven sample runs/book --checkpoint=30") == ["sample", "runs/book", "--checkpoint", "4"]
    assert rewritten('scriven sample runs/book --stop "\\n"') == ["sample", "runs/book", "--stop", "\\n"]
