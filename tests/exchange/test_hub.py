"""`scriven push`, `pull` and `card`: a model comes back, no text leaves, hostile repositories are refused."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from conftest import Command
from fake_run import make_compared, make_evaluated, make_finished, make_started, make_stepped
from hub_server import TOKEN, HubServer, hub_server
from random_run import make_random_run
from scriven.errors import InputError
from scriven.events import Event
from scriven.exchange.hub import pull_run, push_run
from scriven.report.files import FilesReport
from scriven.trained_model import load

# The hub's library calls its own HTTP library in a way that this one will not take for ever.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

STEP = "checkpoints/step-00000007"
NAMES = [
    ".gitattributes",
    "README.md",
    "checkpoints/index.json",
    *(f"{STEP}/{name}" for name in ("manifest.json", "model.safetensors", "training.safetensors")),
    "settings.toml",
    "vocabulary.json",
]
TEXT = "all the old roads lead to the halt\n" * 3
SECRETS = (b"secret", b"home", b"ann/letters", b"It was a dark night")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on this machine, on which this process is logged in."""
    monkeypatch.chdir(tmp_path)
    assert find_spec("hf_xet")  # as for people, who get hf_xet with huggingface_hub
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a log, samples and settings that name files."""
    monitor = {"prompts": ("my secret beginning",)}
    folder = make_random_run(tmp_path / "run", monitor=monitor, corpus={"alphabet": "/home/ann/letters.json"})
    report = FilesReport()
    finals: list[Event] = [make_evaluated(7, 1.5, final=True), make_compared(7, "mixture", 1.25)]
    events: list[Event] = [make_started(folder), make_stepped(7), make_evaluated(7), *finals, make_finished(7)]
    for event in events:
        report.handle(event)
    report.close()
    (folder / "samples.jsonl").write_text('{"prompt": "secret", "text": "It was a dark night"}\n', "utf-8")
    return folder


def test_a_model_comes_back(command: Command, hub: HubServer, run: Path) -> None:
    done = command("push", "run", "ann/novels", "--license", "CC-BY-4.0")
    assert (done.code, done.out) == (0, f"{hub.address}/ann/novels\n"), done.err
    assert sorted(hub.repos["ann/novels"]) == NAMES
    done = command("pull", "ann/novels", "--json")
    assert json.loads(done.out) == {"path": str(Path("runs/novels")), "repo": "ann/novels"}, done.err
    assert load("runs/novels", precision="fp32").score(TEXT) == load(run, precision="fp32").score(TEXT)
    assert command("doctor", "novels").code == 0
    again = command("pull", "ann/novels")
    assert again.code == 2 and "runs/novels" in again.err


def test_hf_xet_is_not_used(hub: HubServer, run: Path) -> None:
    push_run(str(run), "ann/novels")
    assert not constants.HF_HUB_DISABLE_XET and not any("xet" in path for path in hub.paths)  # left as it was


def test_hf_xet_is_used_where_it_is_asked_for(
    command: Command, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")  # more take up to six minutes
    done = command("push", "run", "ann/poems")
    assert done.code == 3 and hub.address in done.err and "Traceback" not in done.err, done.err
    assert any("xet" in path for path in hub.paths) and ".gitattributes" in hub.repos["ann/poems"]


def test_neither_texts_nor_names_of_files_leave(hub: HubServer, run: Path, tmp_path: Path) -> None:
    push_run(str(run), "ann/novels")
    everything = b"".join([*hub.received, *hub.repos["ann/novels"].values()])
    everything += b"".join(base64.b64decode(part) for part in everything.split(b'"') if len(part) % 4 == 0 and ok(part))
    assert b"vocabulary" in everything and len(everything) > 2000
    for each in (*SECRETS, str(tmp_path).encode()):
        assert each not in everything


def ok(part: bytes) -> bool:
    return len(part) > 20 and not {*part} - {*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="}


def test_the_card_says_what_was_measured(command: Command, hub: HubServer, run: Path, tmp_path: Path) -> None:
    done = command("card", "run", "--license", "The Poets' Own")
    assert done.code == 2 and "--license" in done.err
    done = command("card", "run", "--license", "Poets Own 1.0")
    assert done.code == 0, done.err
    head, body = done.out.split("---\n")[1:]
    assert 'license: "other"\nlicense_name: "poets-own-1.0"\nlibrary_name: "scriven"\n' in head
    assert f"| stream | network | {1.5 / math.log(2):.4f} | 1.5000 | 1,000 |" in body
    assert "mixture" not in body and "1.2500" not in body  # counts are not sent
    for words in (
        "9,000",
        "| seed | ",
        "fingerprint of step 7 | 00000007",
        "scriven pull",
        "scriven.load",
        "scriven serve",
    ):
        assert words in body
    assert "--to html" in body and "AutoModelForCausalLM" in body
    for each in (*SECRETS, str(tmp_path).encode()):
        assert each.decode() not in done.out
    push_run("run", "ann/run", licence="Poets Own 1.0")
    assert hub.repos["ann/run"]["README.md"].decode() == done.out.replace("pull USER/run", "pull ann/run")


def test_another_step_takes_the_place_of_the_first(hub: HubServer, run: Path) -> None:
    push_run(str(run), "ann/novels")
    repo = hub.repos["ann/novels"]
    repo["checkpoints/step-00000003/model.safetensors"] = b"of an earlier push"
    push_run(str(run), "ann/novels")
    assert sorted(hub.repos["ann/novels"]) == NAMES
    assert pull_run("ann/novels", Path("back")).checkpoint("best").step == 7


def test_a_card_that_was_edited_is_kept_unless_it_is_to_be_replaced(
    command: Command, hub: HubServer, run: Path
) -> None:
    push_run(str(run), "ann/novels")
    first = hub.repos["ann/novels"]["README.md"]
    push_run(str(run), "ann/novels", licence="mit")  # as it was pushed, so it is replaced
    pushed = hub.repos["ann/novels"]["README.md"]
    assert first != pushed
    for edited in (b"mine, and " + pushed, pushed.replace(b"A small", b"My small"), b"mine", b"\xff" * 200_000):
        hub.repos["ann/novels"]["README.md"] = edited
        done = command("push", "run", "ann/novels")
        assert done.code == 2 and "the card of ann/novels was edited on the hub; --edited-card keep" in done.err
        assert command("push", "run", "ann/novels", "--edited-card", "keep").code == 0
        assert hub.repos["ann/novels"]["README.md"] == edited
    assert command("push", "run", "ann/novels", "--edited-card", "replace").code == 0
    assert hub.repos["ann/novels"]["README.md"] == first
    hub.repos["ann/renamed"] = dict(hub.repos["ann/novels"])
    assert command("push", "run", "ann/renamed", "--license", "mit").code == 0
    assert b"scriven pull ann/renamed -o renamed" in hub.repos["ann/renamed"]["README.md"]


def test_a_card_says_what_a_damaged_log_lacks(command: Command, run: Path) -> None:
    log = run / "metrics.jsonl"
    whole, lines = log.read_bytes(), log.read_bytes().splitlines(keepends=True)
    log.write_bytes(whole + b'{"event": "stepped", "st')  # which a kill cut short
    done = command("card", str(run))
    assert done.code == 0 and "## Made from" in done.out and "damaged" not in done.out
    said = "The log of the training is damaged. Missing here: "
    for data, missing in (
        (b"\0" * 99, "final losses, numbers of characters, minutes of training, fingerprints."),
        (b"".join([b"{]\n", *lines]), "perhaps some of its final losses."),
        (b"".join([b"?" * 40 + b"\n", *lines[1:]]), "numbers of characters."),
        (None, "final losses, numbers of characters, minutes of training, fingerprints."),
    ):
        log.unlink()
        log.write_bytes(data) if data is not None else log.mkdir()
        done = command("card", str(run))
        assert (done.code, said + missing + "\n" in done.out) == (0, True), done.err
        examined = command("doctor", str(run))
        assert examined.code == 0 and "\nnote  metrics.jsonl: " in examined.out
        if data is not None:
            assert "damaged lines: 1 and " in examined.out
            assert "damaged, so more may be missing here" in command("info", str(run)).out


def test_a_repository_of_others_is_left_alone(command: Command, hub: HubServer, run: Path) -> None:
    hub.repos["ann/other"] = {".gitattributes": b"", "README.md": b"mine", "config.json": b"{}"}
    done = command("push", "run", "ann/other")
    assert done.code == 2 and "has files that Scriven did not push (README.md, config.json)" in done.err
    assert hub.repos["ann/other"]["README.md"] == b"mine"


def test_what_should_be_private_is_never_public(command: Command, hub: HubServer, run: Path) -> None:
    assert command("push", "run", "ann/mine", "--private").code == 0
    assert hub.private == {"ann/mine"}
    hub.repos["ann/open"] = {".gitattributes": b""}
    done = command("push", "run", "ann/open", "--private")
    assert done.code == 2 and "is public" in done.err
    assert list(hub.repos["ann/open"]) == [".gitattributes"]


def test_errors_say_the_way_out(command: Command, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (["pull", "ann/nowhere"], 3, "there is no ann/nowhere"),
        (["push", "run", "bob/novels"], 3, "You don't have the rights"),
        (["push", "run", "novels"], 2, "give USER/NAME"),
        (["pull", "../../etc"], 2, "give USER/NAME"),
        (["push", "run", "ann/novels", "--license", "wrong"], 2, "one of those we know; see --license"),
        (["push", "nothing", "ann/novels"], 3, "nothing"),
    ]
    hub.repos["ann/closed"] = {}
    hub.gated.add("ann/closed")
    cases.append((["pull", "ann/closed"], 3, "ask for access at"))
    for words, code, said in cases:
        done = command(*words)
        assert (done.code, said in done.err) == (code, True), done.err
        assert "Traceback" not in done.err and "bug" not in done.err
    hub.fails = 500
    done = command("pull", "ann/closed")
    assert done.code == 3 and "refused (500" in done.err and "try again later" in done.err
    monkeypatch.setenv("HF_TOKEN", "")
    done = command("push", "run", "ann/novels")
    assert done.code == 2 and "hf auth login" in done.err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    done = command("pull", "ann/novels")
    assert done.code == 3 and "http://127.0.0.1:1 cannot be reached" in done.err
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", "töken")
    done = command("pull", "ann/novels")
    assert done.code == 3 and "check HF_ENDPOINT and HF_TOKEN" in done.err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    "odd", [b"[]", b"{}", b"5", b"null", b'{"id": 1, "siblings": 5}', b'{"siblings": [1]}', b"<html>"]
)
def test_what_is_no_answer_of_a_hub_is_said_to_be_none(command: Command, hub: HubServer, run: Path, odd: bytes) -> None:
    hub.odd = odd
    for words in (["pull", "ann/novels"], ["push", "run", "ann/novels"]):
        done = command(*words)
        assert done.code == 3 and "bug" not in done.err and done.err.count("\n") == 1, done.err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("settings.toml", b"not = [toml"),
        ("vocabulary.json", b"{}"),
        (f"{STEP}/model.safetensors", b"\0" * 4000),
        (f"{STEP}/manifest.json", b"{}"),
        ("checkpoints/step-00000009/model.safetensors", b"more"),
    ],
)
def test_a_hostile_repository_leaves_nothing_behind(
    hub: HubServer, run: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    push_run(str(run), "ann/novels")
    repo = hub.repos["ann/novels"]
    repo[name] = data
    with pytest.raises(InputError, match=r"ann/novels is not pulled: .*; ask its author"):
        pull_run("ann/novels", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_repository_that_the_disk_has_no_room_for_is_not_fetched(
    hub: HubServer, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may put any number of bytes there, under the names of a run's files."""
    push_run(str(run), "ann/novels")
    hub.paths.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="ann/novels has 1 MB, and 1 MB are free here"):
        pull_run("ann/novels", tmp_path / "back")
    assert not [each for each in hub.paths if "resolve" in each]
    assert not (tmp_path / "back").exists()


def test_other_files_are_not_even_fetched(hub: HubServer, run: Path, tmp_path: Path) -> None:
    push_run(str(run), "ann/novels")
    hub.repos["ann/novels"] |= {"evil.py": b"raise SystemExit", "../outside": b"", "model.pkl": b"pickle"}
    hub.paths.clear()
    pull_run("ann/novels", tmp_path / "back")
    assert not [path for path in hub.paths if "evil" in path or "outside" in path or "pkl" in path or "README" in path]
    assert sorted(each.name for each in (tmp_path / "back").iterdir()) == [
        "checkpoints",
        "settings.toml",
        "vocabulary.json",
    ]
