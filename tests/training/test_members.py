"""A model of several members: each trains as a model alone does, and all of them are one run to everything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scriven
from scriven.cli import main
from scriven.corpus import Corpus
from scriven.errors import UsageError
from scriven.events import Event, Started, Stepped
from scriven.runs import open_run
from scriven.settings_values import merge_settings, validate
from scriven.training.request import Request
from scriven.training.start import train
from scriven.training.verify import verify_resume
from scriven.training.warm_start import warm_started_model

PAIR: dict[str, Any] = {
    "budget": {"steps": 8},
    "model": {"width": 16, "members": 2, "counts": "none"},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "groups": 1, "threads": 1, "precision": "fp32", "clip": 0.1},
    "monitor": {"sample_length": 0, "save_minutes": 0},
}
ALONE = {"model": {"members": 1}}


def run(text: Path, output: Path, over: dict[str, Any] | None = None, **more: Any) -> list[Event]:
    return list(train(Request((str(text),), validate(merge_settings(PAIR, over or {})), output, **more)))


def weights(path: Path) -> dict[str, Tensor]:
    return open_run(path).checkpoint("last").weights()


def member(number: int, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"members.{number}."
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"training": {"optimizer": "adamw", "learning_rate": 0.01}},
        {"training": {"optimizer": "sgd", "clip": 1.0, "clip_value": 0.01}},
        {"training": {"accumulate": 2, "groups": 2, "activation_penalty": 0.1, "slowness_penalty": 0.1}},
        {"model": {"cell": "gru", "layers": 1}, "training": {"pull": 0.01}},
    ],
    ids=str,
)
def test_each_member_trains_as_a_model_alone_does(over: dict[str, Any], book: Path, tmp_path: Path) -> None:
    """The second one alone, too: from a run with the weights that it begins with. Clipping is by the own norm."""
    events = run(book, tmp_path / "pair", over)
    pair = open_run(tmp_path / "pair")
    assert isinstance(pair.corpus_path, Path)
    corpus = Corpus.open(pair.corpus_path)
    model, _ = warm_started_model(pair.settings, corpus.vocabulary)
    sizes = [0.0] * len([event for event in events if isinstance(event, Stepped)])
    for number, begun in enumerate(model.networks):
        scriven.save_run(begun, corpus, tmp_path / f"begun-{number}", step=0)
        alone = tmp_path / f"alone-{number}"
        stepped = run(book, alone, merge_settings(over, ALONE), initial=str(tmp_path / f"begun-{number}"))
        found, expected = member(number, weights(tmp_path / "pair")), weights(alone)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
        norms = [event.gradient_norm for event in stepped if isinstance(event, Stepped)]
        sizes = [size + norm**2 / 2 for size, norm in zip(sizes, norms, strict=True)]
    norms = [event.gradient_norm for event in events if isinstance(event, Stepped)]
    assert norms == pytest.approx([size**0.5 for size in sizes], rel=1e-3)


@pytest.mark.parametrize("over", [{}, {"corpus": {"documents": "lines"}, "model": {"cell": "gru"}}], ids=str)
def test_it_resumes_to_the_same_bits(over: dict[str, Any], book: Path) -> None:
    chosen = merge_settings(PAIR, {"model": {"dropout": 0.2, "counts": "auto"}, "training": {"groups": 2}})
    settings = validate(merge_settings({**chosen, "budget": {}}, over))
    verdict, _ = verify_resume(Request((str(book),), settings), 3)
    assert verdict.equal, verdict.differences


def test_it_is_one_run_that_tells_of_its_members(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = run(book, tmp_path / "run", {"model": {"counts": "auto"}})
    (started,) = [event for event in events if isinstance(event, Started)]
    run(book, tmp_path / "alone", merge_settings({"budget": {"steps": 1}}, ALONE))
    main(["info", str(tmp_path / "run"), "--layers", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["members"]) == ("2 members of lstm 2x16", 2)
    assert told["parameters"] == started.parameters == 2 * sum(layer["parameters"] for layer in told["layers"])
    main(["info", str(tmp_path / "alone"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "lstm 2x16" and "members" not in told and 2 * told["parameters"] == started.parameters
    main(["doctor", str(tmp_path / "run")])
    model = scriven.load(tmp_path / "run")
    assert len(model.sample(length=20, seed=1)) == 20
    assert model.score("the cat").nats > 0


def test_it_goes_on_from_a_run_of_as_many_members_only(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "run")
    still = {"training": {"learning_rate": 1e-9, "adamw_learning_rate": 1e-9}}
    run(book, tmp_path / "more", still, initial=str(tmp_path / "run"))
    mine, theirs = weights(tmp_path / "run"), weights(tmp_path / "more")
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4)
    run(book, tmp_path / "one", merge_settings(PAIR, ALONE))
    with pytest.raises(UsageError, match=r"has model\.members 1, not 2, .* drop model\.members"):
        run(book, tmp_path / "two", initial=str(tmp_path / "one"))
    with pytest.raises(UsageError, match=r"has .*model\.members 1, not 2"):
        run(book, tmp_path / "two", {"model": {"width": 192}}, initial="english")


def test_sessions_and_forks_are_exact(book: Path, tmp_path: Path) -> None:
    run(book, tmp_path / "run", {"model": {"counts": "auto"}, "corpus": {"validation": 0.3}})
    model = scriven.load(tmp_path / "run")
    session = model.session(seed=3)
    session.read("the cat ")
    fork = session.fork()
    session.save(tmp_path / "session")
    text = "".join(session.write(40))
    assert "".join(fork.write(40)) == "".join(scriven.load_session(tmp_path / "session").write(40)) == text
    whole = model.score("the cat sat on the mat")
    assert model.session().score("the cat sat on the mat").nats == whole.nats
