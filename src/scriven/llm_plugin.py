"""Scriven's runs in Simon Willison's llm: each run in runs/ of the current folder is a model, such as scriven/book.

    llm -m scriven/book "Once upon a time" -o temperature 0.7 -o length 300 -o seed 1

llm imports this module by its entry point whenever it starts, so a run is opened only when it is asked to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llm
from pydantic import Field

from scriven.errors import ScrivenError


class ScrivenModel(llm.Model):
    """A run as a model of llm. It continues the prompt, which is not repeated; there are no chats."""

    can_stream = True
    supports_conversation = False

    class Options(llm.Options):
        """What a text is written with; docs/sampling.md says more."""

        temperature: float | None = Field(
            default=None, ge=0, description="divides the logits: lower is more predictable, 0 takes the likeliest"
        )
        length: int | None = Field(default=None, ge=0, description="characters, or tokens, to write at most")
        seed: int | None = Field(default=None, ge=0, description="the same seed writes the same text")

    def __init__(self, run: str) -> None:
        """Names a run in runs/; it is not opened yet."""
        self.run, self.model_id = run, f"scriven/{run}"

    def __str__(self) -> str:
        """The line of `llm models`."""
        return f"Scriven: {self.model_id}"

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        """Yields the text after a prompt, in pieces as it is written. Raises ModelError with what Scriven says."""
        from scriven.trained_model import load  # noqa: PLC0415 - llm starts without it

        if prompt.system:
            raise llm.ModelError(f"{self.model_id} continues texts, and knows no system prompt; leave --system out")
        given = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
        try:
            model = load(self.run)
            written = ""
            for piece in model.stream(prompt.prompt, **given):
                written += piece
                yield piece
            response.set_usage(input=len(model.read_ids(prompt.prompt)), output=len(model.encode(written)))
        except ScrivenError as error:
            raise llm.ModelError(str(error)) from error


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Registers the runs in runs/."""
    from scriven.runs.summary import list_runs  # noqa: PLC0415 - so that nothing of Scriven can stop llm's start

    for path in list_runs():
        register(ScrivenModel(path.name))
