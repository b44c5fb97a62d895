"""Which native libraries run here, and how a test uses one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from scriven.kernels import native_library
from scriven.kernels.interface import library_file
from scriven.kernels.native_library import FOLDER, Native

FEATURES = native_library.features()


def _runs_here(variant: str) -> bool:
    level, needs = native_library.VARIANTS[variant]
    there = (FOLDER / library_file(variant)).exists()
    return there and level in native_library.levels() and needs <= FEATURES


VARIANTS = tuple(filter(_runs_here, native_library.VARIANTS))  # up to SCRIVEN_KERNELS, as everywhere
# Tests of these take a fixture `variant`; with `off` torch does the work.
at_each_variant = pytest.mark.parametrize("variant", VARIANTS, indirect=True)
_BF16 = [variant for variant in VARIANTS if native_library.VARIANTS[variant][0] in native_library.BF16_LEVELS]
FORMATS = [(variant, torch.float32) for variant in VARIANTS] + [(variant, torch.bfloat16) for variant in _BF16]
# Tests of these take `variant` and the number format that it trains in, `dtype`.
in_each_format = pytest.mark.parametrize(("variant", "dtype"), FORMATS, indirect=["variant"])
at_each_variant_and_off = pytest.mark.parametrize("variant", ("off", *VARIANTS), indirect=True)


@cache
def _native(variant: str) -> Native:
    if variant == "off":
        return native_library.find("off")
    loaded = native_library._load(FOLDER / library_file(variant))
    return Native(loaded, native_library.VARIANTS[variant][0], FEATURES, f"the test uses {variant}")


@contextmanager
def kernels_of(variant: str) -> Iterator[None]:
    """While this lasts, kernels are those of one library; with `off` torch does the work."""
    found = _native(variant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_library, "_native", lambda: found)
        yield
