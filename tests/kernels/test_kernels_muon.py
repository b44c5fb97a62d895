"""Muon's update against double precision, in each number format: odd sizes, tall and wide, any number of threads."""

import pytest
import torch
from kernel_variants import FORMATS, in_each_format

from scriven.kernels import muon
from scriven.kernels.native_library import native_threads

# Tests of these take a library, or `off` for torch, and the number format of the updates.
each_way = pytest.mark.parametrize(("variant", "dtype"), [("off", torch.float32), *FORMATS], indirect=["variant"])
# How far updates are from exact ones: of even matrices, and of any. bf16 has 8 bits: over 150 draws at most 0.033 is
# lost of an even matrix; small singular values lose more.
ROUNDED = {torch.bfloat16: (0.05, 0.12), torch.float32: (1e-4, 1e-3)}
SHAPES = [(1, 1), (1, 33), (17, 3), (33, 33), (32, 64), (60, 70), (256, 64), (300, 129), (1100, 96), (96, 1100)]


def even(shape: tuple[int, int], largest: float = 1.0) -> torch.Tensor:
    """A matrix whose singular values lie between half of the largest and that."""
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix: torch.Tensor = u @ torch.diag(torch.linspace(largest / 2, largest, min(shape))) @ v
    return matrix


def update_momenta(
    gradients: list[torch.Tensor], momenta: list[torch.Tensor], dtype: torch.dtype, momentum: float = 0.0
) -> list[torch.Tensor]:
    updates = [torch.full_like(gradient, torch.nan, dtype=dtype) for gradient in gradients]
    muon.update(gradients, momenta, updates, 0.5, momentum, native=muon.usable(dtype, gradients[0].device))
    return updates


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm()) / float(expected.norm())


@each_way
@pytest.mark.parametrize("shape", SHAPES)
def test_updates_are_orthogonalised_as_in_double_precision(
    shape: tuple[int, int], variant: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for matrix, most in zip((even(shape), torch.randn(shape)), ROUNDED[dtype], strict=True):
        found = update_momenta([matrix], [torch.zeros(shape)], dtype)[0]
        assert distance(found, muon.orthogonalize(matrix.double(), torch.float64)) < most


@each_way
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e17])
def test_the_size_of_a_matrix_does_not_matter_until_it_vanishes(size: float, variant: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    matrix = even((70, 40), size)
    found = update_momenta([matrix], [torch.zeros_like(matrix)], dtype)[0]
    expected = muon.orthogonalize(0.5 * matrix.double(), torch.float64)  # the norm's epsilon counts for the smallest
    assert distance(found, expected) < max(ROUNDED[dtype][0], 1e-3)


@each_way
def test_matrices_too_large_for_their_squares_and_zeros_stay_finite(variant: str, dtype: torch.dtype) -> None:
    matrices = [torch.full((40, 40), 1e25), torch.zeros(40, 40)]
    for update in update_momenta(matrices, [torch.zeros(40, 40) for _ in matrices], dtype):
        assert torch.isfinite(update).all()


@each_way
def test_momenta_move_and_updates_look_ahead(variant: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(50, 37) for _ in range(4)]
    momenta, expected = [torch.zeros(50, 37)], torch.zeros(50, 37, dtype=torch.float64)
    for gradient in gradients:
        new = 0.5 * gradient.double() * (1 - 0.9)
        expected = 0.9 * expected + new
        update = update_momenta([gradient], momenta, dtype, momentum=0.9)[0]
        torch.testing.assert_close(momenta[0].double(), expected, atol=1e-6, rtol=1e-5)
        assert distance(update, muon.orthogonalize(new + 0.9 * expected, torch.float64)) < ROUNDED[dtype][1]


@in_each_format
@pytest.mark.parametrize("shape", [(70, 40), (40, 70), (600, 64)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_and_owners_give_the_same_bits(
    variant: str, dtype: torch.dtype, shape: tuple[int, int], count: int
) -> None:
    torch.manual_seed(0)
    gradients, before = [torch.randn(count, *shape).unbind() for _ in range(2)]
    results = []
    for number in (1, 2, 3, 5):
        momenta = [each.clone() for each in before]
        with native_threads(number):
            updates = update_momenta(list(gradients), momenta, dtype, momentum=0.9)
        results.append(torch.stack([*updates, *momenta]))
    alone = [each.clone() for each in before]
    muon.update(gradients, alone, [None] * count, 0.5, 0.9, native=True)  # another worker owns them
    results.append(torch.stack([*updates, *alone]))
    assert all(torch.equal(result, results[0]) for result in results)


@each_way
def test_weights_decay_and_move_by_their_updates(variant: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = [(3, 5), (40, 10), (3, 5), (33, 33)]
    matrices = [torch.randn(shape) for shape in shapes]
    updates = [torch.randn(shape).to(dtype) for shape in shapes]
    factors = [1, 2, 1, 1]
    pairs = zip(matrices, updates, factors, strict=True)
    expected = [0.9 * matrix.double() - 0.01 * factor * update.double() for matrix, update, factor in pairs]
    muon.apply(updates, matrices, 0.9, 0.01, native=variant != "off")
    for matrix, other in zip(matrices, expected, strict=True):
        torch.testing.assert_close(matrix.double(), other, atol=1e-6, rtol=1e-6)


@in_each_format
def test_arrays_that_native_code_cannot_take_are_refused(variant: str, dtype: torch.dtype) -> None:
    matrix = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"\(3, 4\), not contiguous torch.float32 \(4, 3\)"):
        update_momenta([matrix], [matrix.T], dtype)
    with pytest.raises(ValueError, match="float64"):
        update_momenta([matrix], [matrix.double()], dtype)


@each_way
def test_a_gradient_that_is_nearly_of_rank_one_does_not_blow_up(variant: str, dtype: torch.dtype) -> None:
    """A training's first ones are. With the Gram matrix made anew once only, their updates were 300 times too large."""
    torch.manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(512, 128), full_matrices=False)
    for small in (0.001, 0.01, 0.03):
        values = torch.cat((torch.ones(1), small * torch.rand(127)))
        gradient = 0.01 * u @ torch.diag(values) @ v
        (found,) = update_momenta([gradient], [torch.zeros_like(gradient)], dtype)
        expected = muon.orthogonalize(gradient.double(), torch.float64)
        assert distance(found, expected) < 0.4  # in bf16 the smallest values drown
