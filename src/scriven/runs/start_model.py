"""The model of a start, read without torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from scriven import starts
from scriven.arrays import Float32s
from scriven.errors import InputError, UsageError
from scriven.model.shapes import weight_shapes
from scriven.runs.checkpoints import as_tensors
from scriven.runs.tensors import decode, finite, layout
from scriven.safe_files import parse_toml
from scriven.settings import ModelSettings
from scriven.settings_values import validate
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StartModel:
    """The model of a start, which is checked as it is read."""

    start: starts.Start

    def __str__(self) -> str:
        return f"the start {self.start.name}"

    @cached_property
    def settings(self) -> ModelSettings:
        """Its settings. Raises InputError if they are damaged, or describe a model that training cannot start from."""
        path = self.start.folder / starts.SETTINGS_FILE
        try:
            values = parse_toml(self.start.read(starts.SETTINGS_FILE).decode(), path)
            settings = validate({"model": values.get("model")}).model
        except (UsageError, ValueError) as error:
            raise starts.damage_error(path, str(error)) from None
        if settings.input != "embedding" or settings.head != "linear":
            raise starts.damage_error(path, "it needs an embedding and an output layer")
        return settings

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its vocabulary. Raises InputError if it is damaged."""
        path = self.start.folder / starts.VOCABULARY_FILE
        try:
            return Vocabulary.from_json(self.start.read(starts.VOCABULARY_FILE).decode())
        except (InputError, ValueError) as error:
            raise starts.damage_error(path, str(error).split(";")[0]) from None

    def read_arrays(self) -> dict[str, Float32s]:
        """Reads its weights, in fp32. Raises InputError if they do not fit its settings and vocabulary."""
        path, data = self.start.folder / starts.WEIGHTS_FILE, self.start.read(starts.WEIGHTS_FILE)
        kinds = {array.kind for array in layout(path, io.BytesIO(data), len(data)).values()}
        arrays = decode(path, data)
        try:
            expected = weight_shapes(self.settings, self.vocabulary.size)
        except UsageError as error:
            raise starts.damage_error(path, str(error)) from None
        if {name: value.shape for name, value in arrays.items()} != expected:
            raise starts.damage_error(path, "its arrays do not fit its settings and its vocabulary")
        if kinds != {"BF16"} or not all(map(finite, arrays.values())):
            raise starts.damage_error(path, "its arrays are not finite numbers in bf16")
        return arrays

    def read_weights(self) -> dict[str, Tensor]:
        """Reads what `read_arrays` does, as torch's arrays."""
        return as_tensors(self.read_arrays())
