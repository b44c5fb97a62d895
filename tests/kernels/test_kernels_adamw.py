"""AdamW and the norm of a gradient at every level against torch's, in odd sizes and any number of threads."""

import math

import pytest
import torch
from kernel_variants import VARIANTS, at_each_variant_and_off, kernels_of

from scriven.kernels import native_library
from scriven.kernels.adamw import AdamW, norm
from scriven.kernels.native_library import native_threads

SIZES = (1, 3, 17, 0, 8192, 20_001)


def gradients(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(size) for size in SIZES]


@at_each_variant_and_off
def test_the_norm_is_that_of_all_values(variant: str) -> None:
    found = gradients(0)
    assert norm(found) == pytest.approx(float(torch.cat(found).double().norm()), rel=1e-6)
    for value in (math.nan, math.inf):
        found[4][5] = value
        assert not math.isfinite(norm(found))


@at_each_variant_and_off
def test_steps_are_those_of_torchs_adamw(variant: str) -> None:
    values = torch.randn(sum(SIZES))
    expected = torch.nn.Parameter(values.clone())
    reference = torch.optim.AdamW([expected], lr=0.01, betas=(0.9, 0.99), weight_decay=0)
    rule = AdamW(values, 0.99)
    for seed in range(4):
        found = gradients(seed)
        expected.grad = torch.cat(found)
        reference.step()
        rule.step([3 * gradient for gradient in found], 1 / 3, 0.01)
    torch.testing.assert_close(values, expected.detach(), atol=1e-6, rtol=1e-5)


def test_levels_and_threads_give_the_same_bits() -> None:
    results = []
    for variant in VARIANTS:
        for number in (1, 3):
            torch.manual_seed(0)
            rule = AdamW(torch.randn(sum(SIZES)), 0.99)
            with kernels_of(variant), native_threads(number):
                for seed in range(3):
                    rule.step(gradients(seed), norm(gradients(seed)), 0.01)
            results.append(torch.stack([rule.values, rule.mean, rule.square]))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.skipif(native_library.level() == "off", reason="needs the native library")
def test_gradients_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="another size"):
        AdamW(torch.zeros(5), 0.99).step([torch.zeros(4)], 1.0, 0.1)
    with pytest.raises(ValueError, match="contiguous"):
        norm([torch.zeros(4, 4).T])
