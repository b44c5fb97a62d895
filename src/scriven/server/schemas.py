"""What the server answers, as types: the OpenAPI document has them, and tests hold the answers against them.

Answers are made as dictionaries, since a long one is written as JSON piece by piece.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

STATE = "handle of the state after the text, there where it was asked for; null where a newer checkpoint was taken up"
Value = str | float | bool | None  # of a run's files, which may say anything there


class Reply(BaseModel):
    """An object with these fields and no others, whose numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class UsageReply(Reply):
    """How many symbols were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LogprobsReply(Reply):
    """The tokens of a text; lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int] = Field(description="characters before each, from the beginning of the prompt")


class CompletionChoiceReply(Reply):
    """A text, or in an event what came of it."""

    index: int
    text: str
    logprobs: LogprobsReply | None
    finish_reason: Literal["stop", "length"] | None = Field(description="null in events before the last")
    state: str | None = Field("", description=STATE)


class CompletionReply(Reply):
    """Texts. An event of a stream is one, too, and has no `usage` where that was not asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    unknown_characters: list[str] = Field([], description="of the prompts; there where there are any")
    choices: list[CompletionChoiceReply]
    usage: UsageReply | None = None


class ModelEntryReply(Reply):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="when this checkpoint was taken up, in seconds since 1970")
    owned_by: Literal["scriven"]
    step: int = Field(description="training step of the checkpoint that is served")
    system_fingerprint: str = Field(description="while it is the same, a seed gives the same text")


class ModelListReply(Reply):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelEntryReply]


class TokenizerInfoReply(Reply):
    """What is to be known of ids."""

    model: str
    tokenizer_class: Literal["scriven"]
    unit: Literal["character", "byte"]
    vocab_size: int
    bos_token: str
    eos_token: str
    separator: str | None = Field(description="what stands between two documents")
    pad_token: None
    unk_token: str
    chat_template: None


class TokensReply(Reply):
    """The ids of a text."""

    count: int
    tokens: list[int]
    token_strs: list[str] = Field([], description="there where they were asked for")


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
    surprisal: list[float] = Field(description="nats of each symbol")


class StateReply(Reply):
    """A state that is kept."""

    state: str
    characters: int
    expires_in: float = Field(description="seconds")


class DeletedReply(Reply):
    """A state that is kept no longer."""

    state: str
    deleted: Literal[True]


class RunEntryReply(Reply):
    """A run whose training is shown."""

    name: str
    training: bool
    steps: int


class RunsReply(RootModel[list[RunEntryReply]]):
    """All of them."""


class StepLossReply(Reply):
    """The training loss of some steps, up to this one: nats over characters."""

    step: int
    nats: float
    characters: int
    read: Value = Field(description="characters since the beginning")
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
    """What is known of a run as a whole."""

    started: dict[str, Value] = {}
    finished: dict[str, Value] | None = None


class RunMetricsReply(Reply):
    """What a training told of its losses."""

    training: bool
    facts: FactsReply
    steps: list[StepLossReply]
    evaluations: list[EvaluationLossReply]


class SampleTextReply(Reply):
    """A text that a model wrote in training."""

    step: Value
    prompt: str
    text: str
    temperature: Value
    seed: Value


class SamplesReply(RootModel[list[SampleTextReply]]):
    """What a training wrote, the last texts of it."""


class LiveReply(Reply):
    """The process answers."""

    status: Literal["ok"]


class DocumentReply(RootModel[dict[str, Any]]):
    """A document as OpenAPI 3.1 has it."""


class ErrorFieldsReply(Reply):
    """What is wrong and the way out, as OpenAI's errors have it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """A request that was not done."""

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
