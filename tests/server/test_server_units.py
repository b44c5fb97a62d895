"""Words, lines and documents, and states in files, over HTTP: the same as on the command line and in Python."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from conftest import Command
from live_server import post_and_leave, serving
from random_run import LETTERS, make_random_run
from scriven.inference import adaptive_mixture
from scriven.inference.adaptive import AdaptiveReader
from scriven.inference.adaptive_mixture import MixedContext, PartnersSlot
from scriven.inference.context import AdaptiveContext
from scriven.inference.predictor import Predictor
from scriven.inference.saved_session import Origin, SavedSession
from scriven.kernels import native_library
from scriven.server.app import STREAMED, UPLOADS, make_app
from scriven.server.limits import LIMITS, Limits
from scriven.server.prefill import Prefill, PrefillQueue
from scriven.server.security import Guard, policy
from scriven.settings_values import validate
from scriven.trained_model import Model, load, load_session
from scriven.vocabulary import Vocabulary
from served_models import mixed_model, tokens_model
from small_model import Text, mixture, predictor_of

TEXT = "all the old, dark\r\n roads led  to\n\nthe bar€\n a bat’s\rhat" * 3
LINES = {"accept": "application/x-ndjson", "content-type": "text/plain"}
FILE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of a text, of documents, of bytes, and one of other weights."""
    folder = tmp_path_factory.mktemp("runs")
    lines = {"corpus": {"documents": "lines"}}
    return {
        "text": make_random_run(folder / "text"),
        "lines": make_random_run(folder / "lines", Vocabulary.of(LETTERS.strip("\n"), "\n"), **lines),
        "bytes": make_random_run(folder / "bytes", Vocabulary.of_bytes(), corpus={"unit": "byte"}),
        "other": make_random_run(folder / "other", model={"width": 12}),
    }


@pytest.fixture(scope="module")
def models(runs: dict[str, Path]) -> dict[str, Model]:
    return {name: load(run, precision="fp32", device="cpu") for name, run in runs.items()}


def connect(models: dict[str, Model], limits: Limits = LIMITS) -> Iterator[httpx.Client]:
    app = Guard(make_app(models, limits), policy("127.0.0.1", limits=limits, streamed=STREAMED, uploads=UPLOADS))
    with serving(app, limits) as place, httpx.Client(base_url=place.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(models: dict[str, Model]) -> Iterator[httpx.Client]:
    yield from connect(models)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def assert_same(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    assert [*found] == [*expected]
    for name, values in expected.items():
        near = 1e-5 if name == "perplexity" else 1e-6  # torch rounds by batches
        for one, other in zip(found[name], values, strict=True):
            assert one == (pytest.approx(other, rel=near, abs=1e-6) if isinstance(other, float) else other), name


def printed_columns(command: Command, run: Path, file: Path, by: str, columns: str) -> dict[str, list[Any]]:
    """What `scriven score` prints of the units of TEXT, by column; the file's name is left out."""
    file.write_bytes(TEXT.encode())
    words = ["--by", by, "--json", "--columns", columns, "--precision", "fp32", "--device", "cpu"]
    printed = command("score", str(run), str(file), *words)
    assert printed.code == 0, printed.err
    rows = [json.loads(line) for line in printed.out.splitlines()]
    return {name: values for name, values in columns_of(rows).items() if name != "file"}


@pytest.mark.parametrize("by", ["word", "line", "document"])
@pytest.mark.parametrize("name", ["text", "lines", "bytes"])
def test_rows_are_those_of_the_command_line_and_of_python(
    name: str,
    by: Any,
    client: httpx.Client,
    models: dict[str, Model],
    runs: dict[str, Path],
    command: Command,
    tmp_path: Path,
) -> None:
    expected = printed_columns(command, runs[name], tmp_path / "text.txt", by, "all")
    assert_same(columns_of(models[name].score_units(TEXT, by=by)), expected)
    whole = client.post("/score", json={"model": name, "text": TEXT, "by": by}).json()
    assert "surprisal" not in whole
    assert_same(whole["units"], expected)
    assert sum(whole["units"]["nats"]) == pytest.approx(whole["nats"], abs=1e-6)
    assert sum(whole["units"]["characters"]) == whole["characters"]
    sent = client.post(f"/score?model={name}&by={by}", content=TEXT.encode(), headers=LINES).text.splitlines()
    *lines, total = map(json.loads, sent)
    assert_same(columns_of(lines), expected)
    assert total["model"] == name


@pytest.mark.parametrize("how", [{"spaces": "before"}, {"punctuation": "apart"}, {"separator": "|"}])
@pytest.mark.parametrize("name", ["text", "lines", "bytes"])
def test_words_are_divided_as_asked(
    name: str, how: dict[str, Any], client: httpx.Client, models: dict[str, Model]
) -> None:
    text = TEXT.replace("ar", "a|r|")
    expected = columns_of(models[name].score_units(text, by="word", **how))
    whole = client.post("/score", json={"model": name, "text": text, "by": "word", **how}).json()
    assert_same(whole["units"], expected)
    query = "&".join(f"{key}={value}" for key, value in how.items())
    pieces = [text.encode()[at : at + 5] for at in range(0, len(text.encode()), 5)]
    sent = client.post(f"/score?model={name}&by=word&{query}", content=iter(pieces), headers=LINES).text.splitlines()
    assert_same(columns_of([json.loads(line) for line in sent[:-1]]), expected)


@pytest.mark.parametrize("by", ["word", "line", "document"])
@pytest.mark.parametrize("name", ["text", "lines", "bytes"])
def test_the_entropy_at_the_start_of_a_unit_is_that_of_the_command_line_and_of_python(
    name: str,
    by: Any,
    client: httpx.Client,
    models: dict[str, Model],
    runs: dict[str, Path],
    command: Command,
    tmp_path: Path,
) -> None:
    row = models[name].score_units(TEXT, by=by, entropy=True)[0]
    expected = printed_columns(command, runs[name], tmp_path / "text.txt", by, ",".join(row))
    assert_same(columns_of(models[name].score_units(TEXT, by=by, entropy=True)), expected)
    whole = client.post("/score", json={"model": name, "text": TEXT, "by": by, "entropy": True}).json()
    assert_same(whole["units"], expected)
    assert any(value is not None for value in expected["entropy"])
    query = f"/score?model={name}&by={by}&entropy=true"
    pieces = [TEXT.encode()[at : at + 7] for at in range(0, len(TEXT.encode()), 7)]
    *lines, total = map(json.loads, client.post(query, content=iter(pieces), headers=LINES).text.splitlines())
    assert_same(columns_of(lines), expected)
    assert total["nats"] == pytest.approx(sum(row["nats"] for row in lines), abs=1e-6)


def test_columns_are_those_that_are_named(client: httpx.Client, models: dict[str, Model]) -> None:
    rows = models["text"].score_units(TEXT, entropy=True)
    columns = ["entropy", "bits", "line"]
    body = {"model": "text", "text": TEXT, "by": "word", "entropy": True, "columns": columns}
    found = client.post("/score", json=body).json()["units"]
    assert_same(found, {name: [row[name] for row in rows] for name in columns})
    sent = client.post("/score?model=text&by=word&columns=text,bits", content=TEXT.encode(), headers=LINES)
    lines = [json.loads(line) for line in sent.text.splitlines()[:-1]]
    assert_same(columns_of(lines), {name: [row[name] for row in rows] for name in ("text", "bits")})
    for wrong, said in ((["entropy"], "add entropy: true"), (["letters"], "choose some of line, word, text")):
        refused = client.post("/score", json={"model": "text", "text": "a", "by": "word", "columns": wrong})
        assert said in refused.json()["error"]["message"]


def test_the_entropy_after_a_state_is_that_of_its_place(client: httpx.Client, models: dict[str, Model]) -> None:
    state = client.post("/states", json={"model": "text", "text": "all the "}).json()["state"]
    body = {"model": "text", "text": "old roads", "state": state, "by": "word", "entropy": True}
    found = client.post("/score", json=body).json()["units"]
    expected = models["text"].score_units("all the old roads", entropy=True)[2:]
    for name in ("nats", "entropy"):
        assert found[name] == pytest.approx([row[name] for row in expected], abs=1e-6)


def test_others_take_turns_with_entropy(models: dict[str, Model]) -> None:
    for client in connect({"text": models["text"]}):
        body = {"text": "a bad cab\n" * 300, "by": "word", "entropy": True}
        with ThreadPoolExecutor(1) as others:
            scoring = others.submit(client.post, "/score", json=body)
            for _ in range(3):
                client.post("/v1/completions", json={"prompt": "a", "max_tokens": 20}).raise_for_status()
            assert not scoring.done()
            assert scoring.result().json()["characters"] == 3_000


def test_many_rows_come_as_lines_and_not_in_one_piece(models: dict[str, Model]) -> None:
    for client in connect(models, replace(LIMITS, score_rows=300)):
        text = "a bad cab\n" * 101
        refused = client.post("/score", json={"model": "text", "text": text, "by": "word"})
        assert refused.status_code == 400
        assert "at most 300 rows, or accept application/x-ndjson" in refused.json()["error"]["message"]
        assert (
            len(client.post("/score", json={"model": "text", "text": text, "by": "line"}).json()["units"]["line"])
            == 101
        )
        body = {"model": "text", "text": text, "by": "word"}
        lines = client.post("/score", json=body, headers={"accept": LINES["accept"]}).text.splitlines()
        assert len(lines) == 304


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"by": "sentence"}, "by 'sentence'"),
        ({"spaces": "before"}, "add by: word"),
        ({"entropy": "true"}, "add by: word, line or document"),
        ({"by": "line", "separator": "|"}, "add by: word"),
        ({"by": "word", "separator": "|", "punctuation": "apart"}, "leave out spaces"),
        ({"by": "word", "separator": "||"}, "give one character"),
        ({"by": "word", "separator": "|", "text": "e|\u0301"}, "cuts what is read as one character"),
    ],
)
def test_what_is_no_unit_is_refused(body: dict[str, str], said: str, client: httpx.Client) -> None:
    sent = {**body, **({"entropy": True} if "entropy" in body else {})}
    refused = client.post("/score", json={"model": "text", "text": "a|b", **sent})
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]
    query = {name: value for name, value in body.items() if name != "text"}
    content = body.get("text", "a|b").encode()
    refused = client.post("/score", params={"model": "text", **query}, content=content, headers=LINES)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"by": "word", "punctuation": "apart"}, "punctuation"),
        ({"by": "word", "separator": "A B"}, "separator"),
        ({"by": "word", "separator": "A", "spaces": "before"}, "separator"),
        ({"by": "line", "separator": "A"}, "by"),
        ({"entropy": True}, "by"),
    ],
)
def test_a_refusal_names_the_field_of_units(body: dict[str, Any], param: str) -> None:
    with TestClient(make_app({"tokens": tokens_model()})) as client:
        refused = client.post("/score", json={"text": "A B", **body})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == param


def test_a_text_costs_the_same_everywhere(
    client: httpx.Client, models: dict[str, Model], runs: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    """On the command line, in Python, over HTTP in one piece and as lines, as the page asks for it, and in lm-eval."""
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    for name in ("text", "bytes"):
        words = ["--precision", "fp32", "--device", "cpu", "--json"]
        line = json.loads(command("score", str(runs[name]), str(tmp_path / "text.txt"), *words).out)
        costs = {
            "command line": line["nats"],
            "python": models[name].score(TEXT).total_nats,
            "words": sum(row["nats"] for row in models[name].score_units(TEXT, by="word")),
            "http": client.post("/score", json={"model": name, "text": TEXT}).json()["nats"],
        }
        sent = client.post(f"/score?model={name}", content=TEXT.encode(), headers=LINES).text.splitlines()
        costs["lines"] = json.loads(sent[-1])["nats"]
        state, costs["page"] = "", 0.0
        for at in range(0, len(TEXT), 50):  # the page sends a long text in pieces, each after the state of the last
            body: dict[str, Any] = {"model": name, "text": TEXT[at : at + 50], "state": state, "save_state": True}
            answer = client.post("/score", json=body, headers={"accept": LINES["accept"]}).text.splitlines()
            last = json.loads(answer[-1])
            state, costs["page"] = last["state"], costs["page"] + last["nats"]
        body = {"model": name, "prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 0}
        given = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
        costs["completions, as lm-eval asks"] = -sum(given)
        assert costs == pytest.approx(dict.fromkeys(costs, costs["python"]), abs=1e-6)


def test_lm_eval_says_the_same(models: dict[str, Model], runs: dict[str, Path]) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval")
    from lm_eval.api.instance import Instance

    from scriven.lm_eval import ScrivenLM

    evaluated = ScrivenLM(str(runs["text"]), precision="fp32", device="cpu")
    asked = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(TEXT,), idx=0)
    (found,) = evaluated.loglikelihood_rolling([asked])
    assert found == pytest.approx(-models["text"].score(TEXT).total_nats, abs=1e-6)


# --- states in files


def write(client: httpx.Client, state: str, **body: Any) -> str:
    values = {"model": "text", "state": state, "max_tokens": 30, "temperature": 0, **body}
    answer = client.post("/v1/completions", json=values)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def upload(client: httpx.Client, data: bytes, model: str = "text") -> httpx.Response:
    return client.post(f"/states?model={model}", content=data, headers=FILE)


@pytest.mark.parametrize("text", ["", "all the old, dark "])
def test_a_state_leaves_as_a_file_and_comes_back(text: str, client: httpx.Client, runs: dict[str, Path]) -> None:
    handle = client.post("/states", json={"model": "text", "text": text}).json()["state"]
    got = client.get(f"/states/{handle}")
    assert got.headers["content-type"] == FILE["content-type"]
    assert str(runs["text"].parent).encode() not in got.content  # a folder of the server is nobody's business
    client.delete(f"/states/{handle}")
    again = upload(client, got.content).json()
    assert again["state"] != handle
    assert write(client, again["state"]) == write(client, "", prompt=text)
    assert client.get(f"/states/{handle}").status_code == 404


def test_files_are_those_of_the_command_line_and_of_python(
    client: httpx.Client, models: dict[str, Model], runs: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    words = ["--precision", "fp32", "--device", "cpu", "--greedy", "--length"]
    first = command(
        "sample", str(runs["text"]), "--prompt", "a bad ", *words, "9", "--save-state", str(tmp_path / "own")
    )
    assert first.code == 0, first.err
    handle = upload(client, (tmp_path / "own").read_bytes()).json()["state"]
    following = command("sample", str(runs["text"]), *words, "30", "--state", str(tmp_path / "own"))
    assert write(client, handle) == following.out.removesuffix("\n")
    (tmp_path / "theirs").write_bytes(client.get(f"/states/{handle}").content)
    session = load_session(tmp_path / "theirs", models["text"])
    assert "".join(session.write(30, temperature=0)) == write(client, handle)


def test_a_file_of_other_weights_or_of_nothing_is_refused(client: httpx.Client) -> None:
    handle = client.post("/states", json={"model": "text", "text": "a"}).json()["state"]
    data = client.get(f"/states/{handle}").content
    for model in ("other", "bytes"):
        refused = upload(client, data, model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_state")
        assert "of other weights, those of text at step 7" in refused.json()["error"]["message"]
    for junk in (b"", b"{}", data[:-1], data[:100], b"\xff" * 50, (1 << 60).to_bytes(8, "little") + data[8:]):
        assert upload(client, junk).status_code == 400, junk[:20]
    assert upload(client, data, "none").status_code == 404
    large = upload(client, b"a" * (LIMITS.file_bytes + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


def test_bytes_that_were_changed_are_refused_or_hurt_nobody(client: httpx.Client) -> None:
    handle = client.post("/states", json={"model": "text", "text": "all the old, dark"}).json()["state"]
    expected, data = write(client, handle), bytearray(client.get(f"/states/{handle}").content)
    random = np.random.default_rng(1)
    for place in random.integers(len(data), size=60).tolist():
        changed = data.copy()
        changed[place] ^= 1 << int(random.integers(8))
        answer = upload(client, bytes(changed))
        assert answer.status_code in {200, 400}, answer.text
        if answer.status_code == 200:
            body = {"model": "text", "state": answer.json()["state"], "max_tokens": 9}
            assert client.post("/v1/completions", json=body).status_code in {200, 500}
    assert write(client, handle) == expected


def test_a_state_of_huge_numbers_changes_no_other_text(client: httpx.Client) -> None:
    handle = client.post("/states", json={"model": "text", "text": "all the old, dark"}).json()["state"]
    saved = SavedSession.from_bytes(Path("a"), client.get(f"/states/{handle}").content)
    assert saved.context.state is not None
    huge = tuple(tuple(np.full_like(part, 3e38) for part in layer) for layer in saved.context.state)
    wild = upload(client, replace(saved, context=replace(saved.context, state=huge)).to_bytes()).json()["state"]
    expected = write(client, handle)
    body = {"model": "text", "state": wild, "max_tokens": 50, "prompt": "a"}
    assert client.post("/v1/completions", json=body).status_code in {200, 500}
    assert write(client, handle) == expected
    none = tuple(tuple(np.full_like(part, np.nan) for part in layer) for layer in saved.context.state)
    assert upload(client, replace(saved, context=replace(saved.context, state=none)).to_bytes()).status_code == 400


def test_a_state_that_learned_leaves_as_a_file_too(client: httpx.Client) -> None:
    handle = client.post("/states", json={"model": "text", "text": "a bad cab " * 9, "adapt": True}).json()["state"]
    again = upload(client, client.get(f"/states/{handle}").content).json()["state"]
    bodies = ({"model": "text", "text": "all the cab", "state": each, "adapt": True} for each in (handle, again))
    one, other = (client.post("/score", json=body).json()["nats"] for body in bodies)
    assert one == pytest.approx(other, abs=1e-6)


needs_counts = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())


@pytest.fixture(scope="module")
def counted() -> Model:
    """A model of native code, mixed with counts, so that a state of it has the last characters."""
    mixed = mixed_model()
    one = mixed.predictor
    predictor = Predictor(
        one.model, one.vocabulary, "fp32", writing="int8", counts=one.counts, training_text=one.training_text
    )
    origin = Origin(run="text", step=3, sha256="0" * 64, device="cpu", precision="auto", counts="auto")
    return Model(predictor, mixed.settings, 3, "text", origin)


def saved_after(client: httpx.Client, text: str, **body: Any) -> SavedSession:
    handle = client.post("/states", json={"model": "text", "text": text, **body}).json()["state"]
    return SavedSession.from_bytes(Path("a"), client.get(f"/states/{handle}").content)


@needs_counts
def test_last_characters_that_no_text_leaves_are_refused_and_hurt_nobody(counted: Model) -> None:
    for client in connect({"text": counted}):
        saved = saved_after(client, "a bad cab, a dab")
        recent = saved.context.recent
        assert recent is not None and len(recent) == counted.predictor.remembered
        expected = write(client, "", prompt="a bad", max_tokens=3000)
        with ThreadPoolExecutor() as pool:
            bystander = pool.submit(write, client, "", prompt="a bad", max_tokens=3000)
            for hostile in (recent[:0], None, np.concatenate((recent, recent)), recent + 1000, recent[:, [0, 0]]):
                answer = upload(client, replace(saved, context=replace(saved.context, recent=hostile)).to_bytes())
                assert answer.status_code == 400, hostile
                assert "its last characters are not this model's" in answer.json()["error"]["message"]
            blank = replace(saved, context=replace(saved.context, state=None))  # nothing was read, yet some are known
            assert upload(client, blank.to_bytes()).status_code == 400
            fewer = upload(client, replace(saved, context=replace(saved.context, recent=recent[-1:])).to_bytes())
            assert write(client, fewer.json()["state"])
            assert bystander.result() == expected


def test_models_without_last_characters_refuse_them(client: httpx.Client) -> None:
    saved = saved_after(client, "a bad cab")
    for length in (0, 1):
        known = replace(saved.context, recent=np.zeros((length, 1), np.int64))
        assert upload(client, replace(saved, context=known).to_bytes()).status_code == 400


@needs_counts
@pytest.mark.parametrize("text", ["", "a", "a bad cab, a dab"])
@pytest.mark.parametrize("kind", ["counts", "counts alone", "window"])
@pytest.mark.parametrize("letters", ["abcdehln ,", "abcdehln ,\n"])  # texts begin after a newline, if there is one
def test_sessions_of_all_kinds_are_opened_again(text: str, kind: str, letters: str) -> None:
    network = predictor_of(Vocabulary.of(letters))
    mixed = mixture(network, Text(network.vocabulary.encode("a bad cab, ed he had a dab. " * 9)))
    predictor = {
        "counts": mixed,
        "counts alone": mixed.parts()["counts"],
        "window": Predictor(network.model, network.vocabulary, "fp32", 5),
    }[kind]
    origin = Origin(run="text", step=3, sha256="0" * 64, device="cpu", precision="auto")
    model = Model(predictor, validate({"model": {"width": 8}}), 3, "text", origin)
    session = model.session(seed=1)
    session.read(text)
    again = model.continue_session(SavedSession.from_bytes(Path("a"), session._snapshot().to_bytes()))
    assert np.array_equal(again.next(), session.next())
    assert "".join(again.write(20)) == "".join(session.write(20))  # how it is cut depends on the time


@needs_counts
def test_prompts_after_states_of_other_lengths_are_read_at_the_same_time(counted: Model) -> None:
    texts = [("", "a bad cab, a dab " * 30), ("ab", "ed a cab"), ("a bad cab, a dab", "abba"), ("", "dab")]
    start = counted.predictor.start()
    starts = [counted.predictor.read(start, counted.read_ids(each)[:, None]) for each, _ in texts]
    prefills = [Prefill(counted.read_ids(text), start) for (_, text), start in zip(texts, starts, strict=True)]
    queue, first = PrefillQueue(counted.predictor), prefills[0]
    queue.add([first])
    queue.read(100)  # it is not done when the others come
    queue.add(prefills[1:])
    for _ in range(100):
        queue.read(8)
    for (_, text), start, prefill in zip(texts, starts, prefills, strict=True):
        expected = counted.predictor.read(start, counted.read_ids(text)[:, None])
        assert not len(prefill.ids)
        assert np.array_equal(prefill.context.logits, expected.logits)
        assert np.array_equal(prefill.context.recent, expected.recent)  # type: ignore[arg-type]


@needs_counts
def test_a_state_that_learned_from_too_long_a_text_is_refused(counted: Model) -> None:
    for client in connect({"text": counted}, replace(LIMITS, learned_characters=200)):
        saved = saved_after(client, "a bad cab " * 19, adapt=True)
        assert isinstance(saved.context, MixedContext) and saved.context.history is not None
        assert upload(client, saved.to_bytes()).status_code == 200
        ids = np.zeros(11, np.int64)
        longer = [
            replace(saved.context, written=ids),
            replace(saved.context, history=saved.context.history.add(ids, written=False)),
            replace(saved.context, history=saved.context.history.add(ids, written=True)),
        ]
        for context in longer:
            answer = upload(client, replace(saved, context=context).to_bytes())
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_large")
            said = answer.json()["error"]["message"]
            assert "201 characters would be read again; files of states are sent and given with at most 200" in said
        body = {"model": "text", "text": "a bad cab " * 20 + "a", "adapt": True}
        asked = client.get(f"/states/{client.post('/states', json=body).json()['state']}")  # and none of these is given
        assert (asked.status_code, asked.json()["error"]["message"]) == (400, said)


@needs_counts
def test_reading_again_can_be_stopped_and_begun_again(counted: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_mixture, "READ_AGAIN_AT_ONCE", 64)
    reader, ids = counted.adaptive, np.tile(counted.read_ids("a bad cab, a dab"), 40)
    _, _, whole = reader.read(reader.start(), ids)
    assert isinstance(whole, MixedContext)
    lost = replace(whole, partners=PartnersSlot())  # as from a file
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        reader.read(lost, ids[:5], check_stop=stop)
    again = replace(whole, partners=PartnersSlot())
    assert np.array_equal(reader.read(again, ids[:5])[0], reader.read(whole, ids[:5])[0])


def endless(begun: threading.Event, ended: threading.Event, *_: Any, check_stop: Callable[[], None], **__: Any) -> None:
    """Reads again without an end, until `check_stop` raises."""
    begun.set()
    try:
        while True:
            check_stop()
            time.sleep(0.01)
    finally:
        ended.set()


@pytest.mark.parametrize("leaves", [False, True])
def test_reading_again_ends_with_its_request_and_its_time(
    leaves: bool, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(AdaptiveReader, "read", partial(endless, begun, ended))
    body = {"model": "text", "text": "a", "adapt": True}
    for client in connect({"text": models["text"]}, replace(LIMITS, seconds=60 if leaves else 0.1)):
        blank = AdaptiveContext(models["text"].predictor.blank().logits)
        monkeypatch.setattr(models["text"].adaptive, "start", lambda blank=blank, **_: blank)
        if leaves:
            post_and_leave(f"{client.base_url}/score", body, begun.is_set)
        else:
            late = client.post("/score", json=body)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")
        assert ended.wait(20)
