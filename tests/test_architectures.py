"""The models that benchmarks/architectures.py compares with Scriven's, and the comparison itself on a tiny text."""

import importlib
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import WORDS
from scriven.kernels.scan import scan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
models: Any = importlib.import_module("architecture_models")
architectures: Any = importlib.import_module("architectures")

V = 30
TRANSFORMER = models.Design(kind="transformer", layers=2, width=16, rows=4, length=12, rate=0.02)
MINGRU = replace(TRANSFORMER, kind="mingru")
BOTH = pytest.mark.parametrize("design", [TRANSFORMER, MINGRU], ids=lambda design: design.kind)


def random_model(design: Any) -> Any:
    """A model without the zeros that its weights begin with."""
    torch.manual_seed(5)
    model = models.CharacterModel(design, V).eval()
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.3)
    return model


def random_ids(steps: int, rows: int = 3) -> Tensor:
    return torch.randint(V, (steps, rows), generator=torch.Generator().manual_seed(7))


@BOTH
@torch.inference_mode()
def test_no_character_is_predicted_from_itself_or_later_ones(design: Any) -> None:
    model, ids = random_model(design), random_ids(12)
    changed = ids.clone()
    changed[8:] = (changed[8:] + 1) % V
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:8], after[:8])
    assert not torch.isclose(before[8:], after[8:]).all(-1).any()


@torch.inference_mode()
def test_a_layer_of_attention_sees_as_many_characters_as_in_training() -> None:
    model, ids = random_model(replace(TRANSFORMER, layers=1)), random_ids(40)
    logits = model(ids)[0]
    torch.testing.assert_close(logits[-1], model(ids[-12:])[0][-1])
    assert not torch.isclose(logits[-1], model(ids[-11:])[0][-1]).all(-1).any()


@torch.inference_mode()
def test_attention_depends_on_distances_alone() -> None:
    x = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    rotated = models.rotate(x[:, :, :1].expand(x.shape))
    products = (rotated @ rotated.transpose(-1, -2))[0, 0]
    for distance in range(6):
        along = products.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand(along.shape))


@torch.inference_mode()
def test_mingru_reads_in_chunks_as_at_once() -> None:
    model, ids = random_model(MINGRU), random_ids(20)
    whole, _ = model(ids)
    states, parts = None, []
    for chunk in (ids[:1], ids[1:3], ids[3:13], ids[13:]):
        logits, states = model(chunk, states)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_scan_is_the_parallel_one_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(50, 2, 4, generator=generator) for _ in range(2))
    first = torch.rand(2, 4, generator=generator)
    torch.testing.assert_close(models.Scan.apply(a, b, first), models.scan_log(a.log(), b.log(), first.log()))


def test_gradients_of_the_scan_are_right() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(5, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    first = torch.rand(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(models.Scan.apply, (a, b, first))


@torch.inference_mode()
def test_mingru_is_the_one_of_scriven() -> None:
    ours = models.MinGRU(6)
    x = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x, None)[0], scan(ours.inputs(x), torch.zeros(2, 6)))


@BOTH
def test_training_lowers_the_loss(design: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = itertools.count()
    monkeypatch.setattr(models.time, "process_time", lambda: float(next(steps)))  # the same number on any processor
    known = sorted(set(WORDS))
    ids = torch.tensor([known.index(each) for each in WORDS * 20])
    torch.manual_seed(1)
    model = models.CharacterModel(design, len(known))
    losses = models.train(model, ids, 60, bf16=False)
    assert losses[0] == pytest.approx(math.log(len(known)), abs=0.2)
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_rows_read_the_text_on_as_a_ring() -> None:
    chunks = models.read_chunks(torch.arange(10), 2, 3)
    assert next(chunks).tolist() == [[0, 5], [1, 6], [2, 7], [3, 8]]
    assert next(chunks).tolist() == [[3, 8], [4, 9], [5, 0], [6, 1]]


@pytest.mark.parametrize("length", [1, 2, 7, 20, 100, 101, 102])
def test_losses_count_each_character_but_the_first(length: int) -> None:
    model, ids = random_model(MINGRU), random_ids(length + 1, 1)[:, 0]
    logits, _ = model(ids[:-1, None])
    whole = torch.nn.functional.cross_entropy(logits[:, 0], ids[1:]).item()
    assert models.measure_stream(model, ids) == pytest.approx(whole, rel=1e-5)
    assert models.measure_windows(model, ids, 1000) == pytest.approx(whole, rel=1e-5)
    pairs, _ = model(ids[None, :-1])
    alone = torch.nn.functional.cross_entropy(pairs[0], ids[1:]).item()
    assert models.measure_windows(model, ids, 1) == pytest.approx(alone, rel=1e-5)


def test_matrices_are_cut_into_squares() -> None:
    assert [part.shape for part in models.squares(torch.zeros(12, 4))] == [(4, 4)] * 3
    assert [part.shape for part in models.squares(torch.zeros(4, 16))] == [(4, 4)] * 4


def test_the_parts_of_a_text_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("".join(chr(33 + number % 90) for number in range(1000)).encode() + b"\r\n" * 50)
    content = path.read_bytes().decode()
    last, before = (architectures.read_text(path, grid=grid) for grid in (False, True))
    assert last.training + last.validation == content
    assert len(last.validation) == 110
    assert before.training + before.validation == content[: len(content) * 9 // 10]


def test_the_comparison_runs_and_keeps_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.txt"
    path.write_text(WORDS * 60, encoding="utf-8")
    monkeypatch.setattr(architectures, "CHOSEN", [TRANSFORMER, MINGRU, replace(MINGRU, kind="lstm")])
    monkeypatch.setattr(sys, "argv", ["architectures.py", str(path), "--minutes", "0.002", "--output", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        architectures.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "architectures.json").read_text("utf-8"))["results"]
    assert [each["kind"] for each in found] == ["transformer", "mingru", "lstm"]
    assert all(0 < each["window"] < 4 and each["passes"] > 0 for each in found)
    assert [each["stream"] is None for each in found] == [True, False, False]
    assert all(0.12 <= each["seconds"] < 2 for each in found[:2])
    assert capsys.readouterr().out.count("| words | 0.002 |") == 3
