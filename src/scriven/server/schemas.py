"""The types of the server's answers, for the OpenAPI document; tests validate the answers with them.

The routes make answers as dictionaries, since a long answer becomes JSON piece by piece.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

STATE = (
    "handle of the saved state after the text, if one was asked for; null if a newer checkpoint was loaded meanwhile"
)
Value = str | float | bool | None  # from a run's files, which may hold anything there


class Reply(BaseModel):
    """An object with exactly these fields, and finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class UsageReply(Reply):
    """How many symbols were read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LogprobsReply(Reply):
    """The tokens of a text, as lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int] = Field(description="characters before each, from the beginning of the prompt")


class CompletionChoiceReply(Reply):
    """A generated text, or in an event its next piece."""

    index: int
    text: str
    logprobs: LogprobsReply | None
    finish_reason: Literal["stop", "length"] | None = Field(description="null in all events before the last")
    state: str | None = Field("", description=STATE)


class CompletionReply(Reply):
    """Generated texts. Events of a stream have the same fields, with `usage` only if it was asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    unknown_characters: list[str] = Field(
        [], description="characters of the prompts that the model does not know; left out if there are none"
    )
    choices: list[CompletionChoiceReply]
    usage: UsageReply | None = None


class ModelEntryReply(Reply):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int = Field(description="when this checkpoint was loaded, in seconds since 1970")
    owned_by: Literal["scriven"]
    step: int = Field(description="training step of the served checkpoint")
    system_fingerprint: str = Field(description="the same fingerprint and seed give the same text")


class ModelListReply(Reply):
    """The served models."""

    object: Literal["list"]
    data: list[ModelEntryReply]


class TokenizerInfoReply(Reply):
    """Facts about a model's token ids."""

    model: str
    tokenizer_class: Literal["scriven"]
    unit: Literal["character", "byte"]
    vocab_size: int
    bos_token: str
    eos_token: str
    separator: str | None = Field(description="the text between two documents")
    pad_token: None
    unk_token: str
    chat_template: None


class TokensReply(Reply):
    """The ids of a text."""

    count: int
    tokens: list[int]
    token_strs: list[str] = Field([], description="only if they were asked for")


class TextReply(Reply):
    """The text of ids."""

    prompt: str


class ScoreReply(Reply):
    """How surprising a text is."""

    model: str
    system_fingerprint: str
    nats: float
    characters: int
    bytes: int
    unseen: int
    ends: int
    end_nats: float
    bits_per_char: float | None
    bits_per_byte: float | None
    state: str | None = Field("", description=STATE)
    surprisal: list[float] = Field(description="of each symbol, in nats")


class StateReply(Reply):
    """A saved state."""

    state: str
    characters: int
    expires_in: float = Field(description="seconds")


class DeletedReply(Reply):
    """A deleted state."""

    state: str
    deleted: Literal[True]


class RunEntryReply(Reply):
    """A run whose training is shown."""

    name: str
    training: bool
    steps: int


class RunsReply(RootModel[list[RunEntryReply]]):
    """All runs."""


class StepLossReply(Reply):
    """The training loss of a few steps up to this one: nats over characters."""

    step: int
    nats: float
    characters: int
    read: Value = Field(description="characters read since the beginning")
    seconds: Value
    progress: Value


class EvaluationLossReply(Reply):
    """The validation loss at a step: nats over characters."""

    step: int
    nats: float
    characters: int
    protocol: Value
    best: Value
    final: Value


class FactsReply(Reply):
    """Facts about a whole run."""

    started: dict[str, Value] = {}
    finished: dict[str, Value] | None = None


class RunMetricsReply(Reply):
    """The losses of a run."""

    training: bool
    facts: FactsReply
    steps: list[StepLossReply]
    evaluations: list[EvaluationLossReply]


class SampleTextReply(Reply):
    """A text that a model generated during training."""

    step: Value
    prompt: str
    text: str
    temperature: Value
    seed: Value


class SamplesReply(RootModel[list[SampleTextReply]]):
    """The last texts that a model generated during training."""


class LiveReply(Reply):
    """The process answers."""

    status: Literal["ok"]


class DocumentReply(RootModel[dict[str, Any]]):
    """An OpenAPI 3.1 document."""


class ErrorFieldsReply(Reply):
    """What is wrong and the way out, in OpenAI's format."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """An error answer."""

    error: ErrorFieldsReply


REPLIES = (
    CompletionReply,
    DeletedReply,
    DocumentReply,
    ErrorReply,
    LiveReply,
    ModelEntryReply,
    ModelListReply,
    RunMetricsReply,
    RunsReply,
    SamplesReply,
    ScoreReply,
    StateReply,
    TextReply,
    TokenizerInfoReply,
    TokensReply,
)
