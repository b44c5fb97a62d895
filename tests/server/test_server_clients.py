"""Clients that know nothing of Scriven, over a real socket: what they ask, and what they make of the answers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fork_server import PYTHON
from lazy_module import LazyModule
from live_server import Place, serving
from scriven.server.limits import LIMITS
from scriven.trained_model import Model
from served_models import guarded_app, names_model, text_model

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

TOKEN = "a-token-of-some-length"
PROMPT = "a bad cab, "


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {"text": text_model(), "names": names_model()}


@pytest.fixture(scope="module")
def place(models: dict[str, Model]) -> Iterator[Place]:
    with serving(guarded_app(models, token=TOKEN)) as place:
        yield place


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client


# --- the openai package


def test_openai_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["text", "names"]
    assert client.models.retrieve("names").id == "names"


def test_openai_gets_the_text_that_the_library_writes(client: openai.OpenAI, models: dict[str, Model]) -> None:
    told = client.completions.create(model="text", prompt=PROMPT, max_tokens=60, seed=5, temperature=0.7, n=2)
    texts = [models["text"].sample(PROMPT, length=60, seed=seed, temperature=0.7) for seed in (5, 6)]
    assert [choice.text for choice in told.choices] == texts
    assert [choice.finish_reason for choice in told.choices] == ["length", "length"]
    assert told.object == "text_completion"
    assert told.usage is not None
    assert told.usage.prompt_tokens == len(PROMPT)
    assert told.usage.completion_tokens == 120


def test_openai_may_ask_for_what_is_not_openais(client: openai.OpenAI, models: dict[str, Model]) -> None:
    more = {"top_k": 3, "min_p": 0.05}
    told = client.completions.create(model="text", prompt=PROMPT, max_tokens=60, seed=5, top_p=0.9, extra_body=more)
    text = models["text"].sample(PROMPT, length=60, seed=5, temperature=1.0, top_k=3, min_p=0.05, top_p=0.9)
    assert told.choices[0].text == text


def test_openai_gives_several_prompts_in_any_form(client: openai.OpenAI, models: dict[str, Model]) -> None:
    prompts = ["a", "bad, ", "c.\n"]
    told = client.completions.create(model="text", prompt=prompts, max_tokens=30, seed=1)
    texts = [models["text"].sample(prompt, length=30, seed=1, temperature=1.0) for prompt in prompts]
    assert [choice.text for choice in told.choices] == texts
    ids = [models["text"].read_ids(prompt).tolist() for prompt in prompts]
    again = client.completions.create(model="text", prompt=ids, max_tokens=30, seed=1)
    assert [choice.text for choice in again.choices] == texts
    assert client.completions.create(model="text", prompt=ids[1], max_tokens=30, seed=1).choices[0].text == texts[1]


def test_openai_streams(client: openai.OpenAI, models: dict[str, Model]) -> None:
    asked = client.completions.create(
        model="text", prompt=PROMPT, max_tokens=500, seed=5, stream=True, stream_options={"include_usage": True}
    )
    events = list(asked)
    assert "".join(event.choices[0].text for event in events if event.choices) == models["text"].sample(
        PROMPT, length=500, seed=5, temperature=1.0
    )
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "length"
    assert [event.usage is None for event in events] == [True] * (len(events) - 1) + [False]
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 500
    assert len({event.id for event in events}) == 1


def test_openai_streams_several_texts_at_once(client: openai.OpenAI, models: dict[str, Model]) -> None:
    texts = ["", "", ""]
    for event in client.completions.create(model="text", prompt="a", max_tokens=99, seed=5, n=3, stream=True):
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == list(models["text"].samples(3, "a", length=99, seed=5, temperature=1.0))


@pytest.mark.parametrize("stream", [False, True])
def test_openai_stops_before_a_string(client: openai.OpenAI, models: dict[str, Model], stream: bool) -> None:
    text = models["text"].sample(PROMPT, length=300, seed=5, temperature=1.0)
    stop = text[100:104]
    told: Any = client.completions.create(
        model="text", prompt=PROMPT, max_tokens=300, seed=5, stop=[stop, "never so"], stream=stream
    )
    events = list(told) if stream else [told]
    assert "".join(event.choices[0].text for event in events) == text[: text.index(stop)]
    assert events[-1].choices[0].finish_reason == "stop"


def test_openai_ends_where_a_document_ends(client: openai.OpenAI, models: dict[str, Model]) -> None:
    told = client.completions.create(model="names", prompt="ab", max_tokens=300, seed=5)
    assert told.choices[0].finish_reason == "stop"
    assert told.choices[0].text == models["names"].sample("ab", length=300, seed=5, until_end=True, temperature=1.0)


@pytest.mark.parametrize("name", ["text", "names"])
def test_openai_gets_the_log_probability_of_a_given_text(
    client: openai.OpenAI, models: dict[str, Model], name: str
) -> None:
    text = "abba\ncab"
    told = client.completions.create(model=name, prompt=text, max_tokens=0, echo=True, logprobs=3)
    logprobs = told.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.tokens == list(text)
    assert logprobs.text_offset == list(range(len(text)))
    session = models[name].session(seed=0)
    nats = session.score(text)
    assert -sum(value for value in logprobs.token_logprobs if value is not None) == pytest.approx(nats.total_nats)
    assert told.choices[0].text == text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["text", "names"])
def test_openai_gets_log_probabilities_of_what_is_written(
    client: openai.OpenAI, models: dict[str, Model], name: str, stream: bool
) -> None:
    told: Any = client.completions.create(
        model=name, prompt="ab", max_tokens=40, seed=5, logprobs=4, stream=stream, extra_body={"ignore_eos": True}
    )
    events = list(told) if stream else [told]
    text = "".join(event.choices[0].text for event in events)
    parts = [event.choices[0].logprobs for event in events]
    values = [value for part in parts for value in part.token_logprobs]
    tops = [top for part in parts for top in part.top_logprobs]
    assert [token for part in parts for token in part.tokens] == list(text)
    assert [place for part in parts for place in part.text_offset] == list(range(2, 42))  # after the prompt
    session = models[name].session(seed=0)
    session.read("ab")
    assert -sum(values) == pytest.approx(session.score(text).total_nats, rel=1e-4)
    for token, value, top in zip(text, values, tops, strict=True):
        assert top[token] == value
        assert 4 <= len(top) <= 5
        assert sum(map(math.exp, top.values())) < 1 + 1e-6
        assert value <= max(top.values())


def test_openai_gets_the_log_probability_of_a_documents_end(client: openai.OpenAI, models: dict[str, Model]) -> None:
    told = client.completions.create(model="names", prompt="ab", max_tokens=300, seed=5, logprobs=2).choices[0]
    assert told.finish_reason == "stop"
    assert told.logprobs is not None
    assert told.logprobs.tokens == [*told.text, "\n"]
    session = models["names"].session(seed=0)
    session.read("ab")
    nats = session.score(told.text + "\n").total_nats
    assert -sum(told.logprobs.token_logprobs or []) == pytest.approx(nats, rel=1e-4)


def test_openai_may_ask_for_nothing_in_particular(client: openai.OpenAI, models: dict[str, Model]) -> None:
    more: dict[str, Any] = {
        "repetition_penalty": 1.0,
        "top_k": -1,
        "guided_regex": None,
        "metadata": {},
        "max_completion_tokens": 40,
    }
    told = client.completions.create(
        model="text",
        prompt=PROMPT,
        seed=5,
        frequency_penalty=0,
        presence_penalty=0,
        logit_bias={},
        suffix="",
        stop="",
        best_of=1,
        user="me",
        extra_body={**more, "response_format": {"type": "text"}},
    )
    assert told.choices[0].text == models["text"].sample(PROMPT, length=40, seed=5, temperature=1.0)


def test_openai_gets_the_likeliest_character_with_top_p_0(client: openai.OpenAI, models: dict[str, Model]) -> None:
    told = client.completions.create(model="text", prompt=PROMPT, max_tokens=40, top_p=0)
    assert told.choices[0].text == models["text"].sample(PROMPT, length=40, temperature=0.0)


@pytest.mark.parametrize(("name", "n"), [("text", 1), ("text", 3), ("names", 2)])
def test_openai_gets_the_best_of_several(client: openai.OpenAI, models: dict[str, Model], name: str, n: int) -> None:
    """Those of the highest log probability per token, the best first."""
    prompts, asked = ["ab", "c"], {"max_tokens": 12, "seed": 3, "temperature": 1.2}
    told = client.completions.create(model=name, prompt=prompts, best_of=5, n=n, **asked)
    every = client.completions.create(model=name, prompt=prompts, n=5, logprobs=0, **asked)
    expected = []
    for first in (0, 5):
        means = {
            choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
            for choice in every.choices[first : first + 5]
        }
        assert len(means) > 2
        expected += sorted(means, key=lambda text: -means[text])[:n]
    assert [choice.text for choice in told.choices] == expected
    assert [choice.index for choice in told.choices] == list(range(2 * n))
    assert told.choices[0].logprobs is None
    assert told.usage == every.usage  # all that was written


def test_only_texts_that_are_given_have_states(client: openai.OpenAI) -> None:
    extra = {"save_state": True}
    told = client.completions.create(model="text", prompt="ab", best_of=4, n=2, max_tokens=9, extra_body=extra)
    assert len({choice.model_extra["state"] for choice in told.choices if choice.model_extra}) == 2


@pytest.mark.parametrize("echo", [False, True])
def test_openai_gets_offsets_from_the_beginning_of_the_prompt(client: openai.OpenAI, echo: bool) -> None:
    told = client.completions.create(
        model="text", prompt=["€ß ", "a"], max_tokens=5, seed=1, echo=echo, logprobs=0, n=2
    )
    for choice, prompt in zip(told.choices, ["€ß ", "€ß ", "a", "a"], strict=True):
        text = choice.text if echo else prompt + choice.text
        assert choice.logprobs is not None
        assert choice.logprobs.text_offset == list(range(0 if echo else len(prompt), len(text)))
        assert [text[place] for place in choice.logprobs.text_offset] == choice.logprobs.tokens


def test_openai_goes_on_from_a_state(client: openai.OpenAI, models: dict[str, Model]) -> None:
    first = client.completions.create(
        model="text", prompt=PROMPT, max_tokens=20, seed=1, extra_body={"save_state": True}
    ).choices[0]
    more = {"state": getattr(first, "state")}  # noqa: B009 - a field that openai does not know
    second = client.completions.create(model="text", prompt="", max_tokens=20, seed=2, extra_body=more)
    text = models["text"].sample(PROMPT + first.text, length=20, seed=2, temperature=1.0)
    assert second.choices[0].text == text


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"frequency_penalty": 101}, "frequency_penalty"),
        ({"logit_bias": {"5000": 1}}, "logit_bias"),
        ({"best_of": 129}, "best_of"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"prompt": [0, 2**31]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[]]}, None),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"seed": 1.5}, "seed"),
        ({"suffix": "x", "max_tokens": 501}, "max_tokens"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"extra_body": {"state": "nothing"}}, "state"),
    ],
)
def test_openai_is_told_what_is_wrong(client: openai.OpenAI, wrong: dict[str, Any], param: str | None) -> None:
    asked = {"model": "text", "prompt": "a", "max_tokens": 3, **wrong}
    if wrong == {"prompt": [[]]}:
        assert client.completions.create(**asked).choices[0].text
        return
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.completions.create(**asked)
    assert caught.value.param == param
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


def test_openai_raises_the_errors_that_its_users_catch(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nothing", prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another-token-than-that").models.list()


def test_openai_is_told_to_come_back_where_too_much_waits(models: dict[str, Model]) -> None:
    limits = dataclasses.replace(LIMITS, queue=1, rows=1)
    with (
        serving(guarded_app({"text": text_model()}, limits), limits) as place,
        openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=0, timeout=20) as client,
    ):
        long: dict[str, Any] = {"model": "text", "prompt": "a", "max_tokens": 100_000, "logprobs": 0}
        streams = [client.completions.create(**long, stream=True)]
        next(iter(streams[0]))  # it has the row, and waits no longer
        streams.append(client.completions.create(**long, stream=True))
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(10):
                streams.append(client.completions.create(model="text", prompt="a", max_tokens=9, stream=True))
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for stream in streams:
            stream.close()
        assert client.with_options(max_retries=9).completions.create(model="text", prompt="a", seed=1).choices[0].text


# --- curl


def curl(place: Place, path: str, *words: str, token: str = TOKEN) -> tuple[str, bytes]:
    """The head and the body that curl shows."""
    command = ["curl", "-sS", "-N", "-i", "-m", "20", "-H", f"Authorization: Bearer {token}", *words, place.url + path]
    told = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    head, _, body = told.rpartition(b"\r\n\r\n") if b"100 Continue" in told else told.partition(b"\r\n\r\n")
    return head.decode(), body


def test_curl_shows_events_as_they_come(place: Place, models: dict[str, Model]) -> None:
    asked = {"model": "text", "prompt": "ß ", "max_tokens": 400, "seed": 3, "stream": True}
    head, body = curl(place, "/v1/completions", "-d", json.dumps(asked))
    assert head.startswith("HTTP/1.1 200")
    assert "content-type: text/event-stream; charset=utf-8" in head
    assert body.isascii()
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    told = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = models["text"].sample("ß ", length=400, seed=3, temperature=1.0)
    assert "".join(event["choices"][0]["text"] for event in told) == text
    assert "ß" in text


def test_curl_is_told_at_once_that_a_file_is_too_large(place: Place, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (LIMITS.body_bytes + 1))
    head, body = curl(place, "/v1/completions", "--data-binary", f"@{large}")
    assert "413" in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_curl_needs_the_token(place: Place) -> None:
    head, body = curl(place, "/v1/models", token="another-token-of-some-length")
    assert "401" in head.splitlines()[0]
    assert json.loads(body)["error"]["type"] == "authentication_error"


def _run(command: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **given)


# --- lm-eval

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{before}}}}"
target_delimiter: ""
{more}
"""
CHOICE = 'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{best}}"\nmetric_list: [{metric: acc}]'
WRITE = 'doc_to_target: "{{choices[0]}}"\ngeneration_kwargs: {until: ["d"], max_gen_toks: 30}\n'
WRITE += "metric_list: [{metric: exact_match}]"
ROLLING = 'doc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]'
QUESTIONS = [
    {"before": "a bad", "choices": [" cab", " dad", ", a"], "best": 1, "text": "a bad cab"},
    {"before": "cab,", "choices": [" bad", "e", " ace\n"], "best": 0, "text": "\nabba\n\ncab€\n" * 9},
    {"before": "b", "choices": ["c", "a", "b"], "best": 2, "text": "b"},
]


# By lm-eval's own code, for all servers in one process: it takes long to import, and longer to list its own tasks.
EVALUATION = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
folder, token, places = json.loads(sys.argv[1])
manager = TaskManager(include_path=folder, include_defaults=False)
for name, url in places.items():
    given = f"model={name},base_url={url}/v1/completions,auth_token={token},num_concurrent=2,max_length=200000"
    tasks = ["choice", "write", "rolling"]
    done = simple_evaluate("local-completions", given, tasks, batch_size=2, task_manager=manager, bootstrap_iters=0)
    with open(f"{folder}/{name}.json", "w") as file:
        json.dump(done["samples"], file, default=str)
"""


def evaluate(places: dict[str, Place], folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What lm-eval logs of each question, by model and task."""
    data = folder / "questions.json"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    tasks = (("choice", "multiple_choice", CHOICE), ("write", "generate_until", WRITE))
    for task, kind, more in (*tasks, ("rolling", "loglikelihood_rolling", ROLLING)):
        (folder / f"{task}.yaml").write_text(TASK.format(name=task, data=data, kind=kind, more=more))
    environment = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"OPENAI_API_KEY": TOKEN}
    given = json.dumps([str(folder), TOKEN, {name: place.url for name, place in places.items()}])
    done = _run([*PYTHON, "-c", EVALUATION, given], env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in places}


def test_lm_eval_gets_the_models_own_numbers(models: dict[str, Model], tmp_path: Path) -> None:
    """A model of documents too: where the one character that lm-eval asks for on top is the end of a document."""
    with ExitStack() as stack:
        served = {name: stack.enter_context(serving(guarded_app({name: models[name]}, token=TOKEN))) for name in models}
        for name, logs in evaluate(served, tmp_path).items():
            compare(models[name], logs, documents=name == "names")


def compare(model: Model, logs: dict[str, list[dict[str, Any]]], documents: bool) -> None:
    """Whether what lm-eval got of each question is what the library says."""
    for row in logs["choice"]:
        for choice, told in zip(row["doc"]["choices"], row["filtered_resps"], strict=True):
            session = model.session(seed=0)
            session.read(row["doc"]["before"])
            assert float(told[0]) == pytest.approx(-session.score(choice).total_nats, abs=1e-3)
    for row in logs["write"]:
        before = row["doc"]["before"]
        text = model.sample(before, length=30, temperature=0.0, stop=["d"], until_end=documents)
        assert row["resps"][0][0] == text
    for row in logs["rolling"]:
        score = model.score(row["doc"]["text"])
        told, size = row["bits_per_byte"]
        if documents:  # whose ends lm-eval counts as characters, but the last one's
            assert told == pytest.approx(-model.session(seed=0).score(row["doc"]["text"]).total_nats, rel=1e-6)
        else:
            assert -told / size / math.log(2) == pytest.approx(score.bits_per_byte, abs=1e-6)


# --- schemathesis


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.parametrize("examples", ["4", pytest.param("60", marks=pytest.mark.thorough)])
def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_told_of(
    examples: str, place: Place, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{place.url}/openapi.json", "-H"]
    command += [f"Authorization: Bearer {TOKEN}", "--checks", CHECKS, "--max-examples", examples]
    command += ["--phases", "examples,coverage,fuzzing", "--seed", "1", "--request-timeout", "10"]
    done = _run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
