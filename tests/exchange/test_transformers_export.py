"""`scriven export --to transformers`: Auto classes open it, and it computes and writes what Scriven does."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import Command
from lazy_module import LazyModule
from random_run import LETTERS, make_random_run
from scriven.errors import UsageError
from scriven.exchange.exported import read_exported
from scriven.exchange.folders import write_transformers
from scriven.trained_model import Model, load
from scriven.vocabulary import Vocabulary

transformers = LazyModule("transformers")

TEXT = "all the old, dark\nroads led to the bar€ and the halt\n\nHello"
LINES = {"corpus": {"documents": "lines"}}
MODELS: dict[str, tuple[Vocabulary | None, dict[str, Any]]] = {
    "text": (None, {}),
    "relu": (None, {"model": {"activation": "relu", "cell": "gru"}}),
    "members": (None, {"model": {"members": 2, "tied": True, "residual": True, "norm": "rms"}}),
    "mingru": (None, {"model": {"cell": "mingru", "input": "onehot", "head": "none"}}),
    "lines": (Vocabulary.of(LETTERS.strip("\n"), "\n"), LINES),
    "pieces": (
        Vocabulary.of(LETTERS, "He"),
        {"corpus": {"documents": "separator", "separator": "He", "lowercase": True}},
    ),
    "bytes": (Vocabulary.of_bytes(), {"corpus": {"unit": "byte"}}),
    "tokens": (Vocabulary.of_tokens([*TEXT.split(), "a", "\n"]), {"corpus": {"unit": "token"}}),
    "no line end": (Vocabulary.of(LETTERS.strip("\n")), {}),
    "windows": (None, {"reader": {"kind": "windows", "length": 5}}),
}
WITHOUT_DOCUMENTS = [name for name in MODELS if name not in ("lines", "pieces")]


@dataclass
class Opened:
    """A run, and its export as transformers opens it."""

    folder: Path
    own: Model
    model: Any
    tokenizer: Any

    def read(self, text: str) -> torch.Tensor:
        """The ids (1, T) of a text."""
        ids: torch.Tensor = self.tokenizer(text, return_tensors="pt").input_ids
        return ids

    def nats(self, ids: torch.Tensor) -> np.ndarray[Any, Any]:
        """The nats of each id after the first (T - 1,), by the model's logits."""
        with torch.no_grad():
            logits = self.model(ids).logits[0, :-1].double().log_softmax(-1)
        found: np.ndarray[Any, Any] = -logits.gather(1, ids[0, 1:, None])[:, 0].numpy()
        return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    found = {}
    for number, (name, (vocabulary, settings)) in enumerate(MODELS.items()):
        folder = tmp_path_factory.mktemp(f"model-{number}")
        run = make_random_run(folder / "run", vocabulary, **settings)
        assert write_transformers(read_exported(str(run)), folder / "exported") < 1e-5
        own = load(run, counts="none", precision="fp32", device="cpu")
        found[name] = Opened(folder, own, *open_with_auto(folder / "exported"))
    return found


def open_with_auto(folder: Path) -> tuple[Any, Any]:
    made = (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    model, tokenizer = (each.from_pretrained(folder) for each in made)
    return model, tokenizer


@pytest.mark.parametrize("name", WITHOUT_DOCUMENTS)
def test_a_text_costs_what_score_says(name: str, opened: dict[str, Opened]) -> None:
    here, score = opened[name], opened[name].own.score(TEXT)
    ids = here.read(TEXT)
    unknown = here.own.vocabulary.unseen_nats * (ids[0, 1:] == here.own.vocabulary.unknown).numpy()
    np.testing.assert_allclose(
        here.nats(ids) + here.own.predictor.vocabulary.unseen(here.own.read_ids(TEXT)) * unknown,
        score.surprisals,
        atol=1e-5,
    )
    assert here.model(ids, labels=ids).loss.item() == pytest.approx(score.total_nats / score.characters, abs=1e-5)


@pytest.mark.parametrize("name", ["lines", "pieces"])
def test_documents_cost_what_score_says_with_their_ends(name: str, opened: dict[str, Opened]) -> None:
    here, separator = opened[name], "\n" if name == "lines" else "He"
    text = separator.join(("all a bold", "dark roads led", "to a bar"))
    score, ids = here.own.score(text), here.read(text + here.tokenizer.eos_token)
    assert (ids == here.tokenizer.eos_token_id).sum() == 4
    assert score.ends == 3
    mean = score.total_nats / (score.characters + score.ends)
    assert here.model(ids, labels=ids).loss.item() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_save_pretrained_writes_is_the_same(name: str, opened: dict[str, Opened], tmp_path: Path) -> None:
    here, ids = opened[name], opened[name].read(TEXT)
    here.model.save_pretrained(tmp_path)
    here.tokenizer.save_pretrained(tmp_path)
    model, tokenizer = open_with_auto(tmp_path)
    assert torch.equal(model(ids).logits, here.model(ids).logits)
    assert torch.equal(tokenizer(TEXT, return_tensors="pt").input_ids, ids)
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", "vocabulary.json"]
    for folder in (tmp_path, here.folder / "exported"):
        assert sorted(path.name for path in folder.iterdir()) == names
    saved, exported = (load_file(folder / "model.safetensors") for folder in (tmp_path, here.folder / "exported"))
    assert {name: each.tobytes() for name, each in saved.items()} == {
        name: each.tobytes() for name, each in exported.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_generate_writes_what_sample_does_at_temperature_0(name: str, opened: dict[str, Opened]) -> None:
    here, prompt = opened[name], "all a "
    ids = here.model.generate(here.read(prompt), max_new_tokens=40, do_sample=False)
    written = here.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert written == prompt + here.own.sample(prompt, length=40, temperature=0)


def test_a_prompt_is_read_once(opened: dict[str, Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    here, lengths = opened["text"], list[int]()
    read = here.model.network.read

    def note_and_read(ids: torch.Tensor, *more: Any) -> Any:
        lengths.append(len(ids))
        return read(ids, *more)

    monkeypatch.setattr(here.model.network, "read", note_and_read)
    here.model.generate(here.read("all the "), max_new_tokens=4, do_sample=True)
    assert lengths == [9, 1, 1, 1]


@pytest.mark.parametrize("name", ["text", "members", "mingru", "lines", "no line end"])
def test_a_state_goes_from_one_call_to_the_next(name: str, opened: dict[str, Opened]) -> None:
    here, ids = opened[name], opened[name].read("all the old, dark roads")
    with torch.no_grad():
        whole = here.model(ids, use_cache=False)
        assert whole.cache is None
        first = here.model(ids[:, :1])
        second = here.model(ids[:, 1:7], cache=first.cache)
        kept = copy.deepcopy(second.cache)
        rest = here.model(ids[:, 7:], cache=second.cache).logits
        again = here.model(ids[:, 7:], cache=kept, logits_to_keep=2).logits
    found = torch.cat((first.logits, second.logits, rest), 1)
    torch.testing.assert_close(found, whole.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, rest[:, -2:], atol=1e-5, rtol=1e-5)


def test_generate_goes_on_from_a_state(opened: dict[str, Opened]) -> None:
    here, ids = opened["text"], opened["text"].read("all the old")
    asked = {"do_sample": False, "max_new_tokens": 10}
    begun = here.model.generate(ids, return_dict_in_generate=True, **asked)
    rest = here.model.generate(begun.sequences[:, -1:], cache=begun.cache, **asked)
    assert torch.equal(rest[:, 1:], here.model.generate(ids, do_sample=False, max_new_tokens=20)[:, -10:])
    empty = transformers.DynamicCache()
    assert here.model(ids, cache=empty).cache is empty
    with pytest.raises(UsageError, match="attention"):
        here.model(ids, cache=transformers.DynamicCache(config=transformers.GPT2Config()))


def test_prompts_of_several_lengths_are_written_side_by_side(opened: dict[str, Opened]) -> None:
    here, prompts = opened["text"], ["a", "all the old", "he led"]
    alone = [here.model.generate(here.read(each), max_new_tokens=12, do_sample=False) for each in prompts]
    wanted = [here.tokenizer.decode(ids[0], skip_special_tokens=True) for ids in alone]
    for special in (True, False):
        given = here.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special)
        ids = here.model.generate(**given, max_new_tokens=12, do_sample=False)
        found = here.tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert (found == wanted) is special
        for row, prompt in enumerate(prompts):
            single = here.tokenizer(prompt, return_tensors="pt", add_special_tokens=special)
            once = here.model.generate(**single, max_new_tokens=12, do_sample=False)
            assert here.tokenizer.decode(once[0], skip_special_tokens=True) == found[row]


def test_beams_find_a_likelier_text(opened: dict[str, Opened]) -> None:
    here, ids = opened["text"], opened["text"].read("the ")
    greedy, best = (here.model.generate(ids, max_new_tokens=8, do_sample=False, num_beams=each) for each in (1, 12))
    assert here.nats(best).sum() <= here.nats(greedy).sum() + 1e-5
    sampled = here.model.generate(ids, max_new_tokens=30, do_sample=True, num_return_sequences=5)
    assert len({tuple(row) for row in sampled.tolist()}) == 5
    assert not torch.isin(sampled[:, 1:], torch.tensor([here.own.vocabulary.unknown, 14, 15])).any()


def test_padding_and_what_has_no_label_cost_nothing(opened: dict[str, Opened]) -> None:
    here, texts = opened["text"], ["all the old", "he led"]
    for side in ("left", "right"):
        given = here.tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
        loss = here.model(**given, labels=given.input_ids).loss.item()
        scores = [here.own.score(each) for each in texts]
        mean = sum(each.nats for each in scores) / sum(each.characters for each in scores)
        assert loss == pytest.approx(mean, abs=1e-5)
    labels = given.input_ids.clone()
    labels[:, :5] = -100
    alone = [here.nats(here.read(each))[4:].sum() for each in texts]
    assert here.model(**given, labels=labels, num_items_in_batch=2).loss.item() == pytest.approx(
        sum(alone) / 2, abs=1e-4
    )


def test_a_model_can_be_trained_further(opened: dict[str, Opened]) -> None:
    here = opened["members"]
    model = copy.deepcopy(here.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ids, losses = here.read("all the old roads " * 5), []
    for _ in range(8):
        output = model(ids, labels=ids)
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.cache is None
    assert losses[-1] < losses[0] - 0.5


def test_text_comes_back(opened: dict[str, Opened]) -> None:
    for name, here in opened.items():
        text = "a <bos>, called ho\nto" if name != "no line end" else "a bold road"
        text = "".join(each for each in text if each in LETTERS) if name != "bytes" else text + "€"
        text = "all the old,\na bar€" if name == "tokens" else text
        ids = here.tokenizer(text).input_ids
        assert here.tokenizer.decode(ids, skip_special_tokens=True) == text
        assert here.tokenizer(here.tokenizer.bos_token + text).input_ids == ids
        assert ids[0] == here.tokenizer.bos_token_id == here.model.config.bos_token_id
        assert len(here.tokenizer) == here.tokenizer.vocab_size == here.model.config.vocab_size
        assert here.tokenizer.convert_tokens_to_string(here.tokenizer.tokenize(text)) == (
            text.replace("\n", "<boundary>") if name == "lines" else text
        )
    assert opened["text"].tokenizer.decode(opened["text"].read("a€")[0]) == "<bos>a<unk>"
    assert opened["tokens"].tokenizer.decode(opened["tokens"].read(" a  never")[0]) == "<bos> a <unk>"


def test_a_token_with_the_name_of_a_special_one_is_refused(tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", Vocabulary.of_tokens(["a", "<unk>"]), corpus={"unit": "token"})
    with pytest.raises(UsageError, match="the token <unk>, which is the name of a special one"):
        write_transformers(read_exported(str(run)), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_new_model_has_weights_of_its_own(opened: dict[str, Opened]) -> None:
    config = transformers.AutoConfig.from_pretrained(opened["text"].folder / "exported")
    model = transformers.AutoModelForCausalLM.from_config(config)
    logits = model(opened["text"].read("a bad")).logits[..., :-2]
    assert logits.isfinite().all()
    assert 0 < logits.std() < 3


def test_the_command_says_what_stays_behind(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_random_run(tmp_path / "run", reader={"kind": "windows", "length": 5})
    done = command("export", "run", "--to", "transformers", "--json")
    told = json.loads(done.out)
    assert (done.code, told["path"]) == (0, "run-transformers")
    assert told["largest_difference"] < 1e-5
    assert "windows of 5 characters" in done.err
    assert "secret" not in "".join(path.read_text("utf-8", "ignore") for path in Path("run-transformers").iterdir())
    assert command("export", "run", "--to", "transformers").code == 2
    make_random_run(tmp_path / "counts", model={"kind": "counts"})
    assert "scriven pack" in command("export", "counts", "--to", "transformers").err
