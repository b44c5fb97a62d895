"""The types of answers, for the OpenAPI document.

The routes make answers as dictionaries, since a long answer becomes JSON piece by piece; tests validate them with these
types.
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


class StretchReply(Reply):
    """A stretch of a text that is in the training text, too."""

    text: str
    length: int
    start: int = Field(description="its first character in the text, from 0 on; `line` and `column` count from 1")
    line: int
    column: int
    source: str = Field(description="where in the training text it is, for people")
    character: int = Field(description="its first character in the training text, from 0 on")


class CopiedReply(Reply):
    """What of a text is copied from the training text, as `scriven novelty --json` says it."""

    characters: int
    longest: int = Field(description="characters of the longest stretch that is in the training text")
    stretches: list[StretchReply] = Field(description="the longest ones that do not overlap")
    novel: dict[str, float] = Field(description="by length, the share of stretches that are not in the training text")


class NoveltyReply(CopiedReply):
    """What of a text is copied, for a model."""

    model: str
    system_fingerprint: str


class CompletionChoiceReply(Reply):
    """A generated text, or in an event its next piece."""

    index: int
    text: str
    logprobs: LogprobsReply | None
    finish_reason: Literal["stop", "length"] | None = Field(description="null in all events before the last")
    state: str | None = Field("", description=STATE)
    effective_draws: float | None = Field(
        None, description="with a suffix: how many draws of equal weight would be as good; null at temperature 0"
    )
    log_probability: float | None = Field(
        None, description="only with a beam: of the text at temperature 1, with the stop string or the end after it"
    )
    copied: CopiedReply | None = Field(None, description="only if it was asked for; in a stream, in the last event")


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


class ChatTokenReply(Reply):
    """A token of a chat's answer."""

    token: str
    logprob: float | None
    bytes: list[int]


class ChatTokenWithTopReply(ChatTokenReply):
    """A token, and those that were likeliest in its place."""

    top_logprobs: list[ChatTokenReply]


class ChatLogprobsReply(Reply):
    """The tokens of an answer."""

    content: list[ChatTokenWithTopReply]
    refusal: None


class ChatMessageReply(Reply):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoiceReply(Reply):
    """An answer. Events have `delta` in place of `message`: its next piece, and in the first one the role."""

    index: int
    message: ChatMessageReply
    logprobs: ChatLogprobsReply | None
    finish_reason: Literal["stop", "length"]


class ChatReply(Reply):
    """Answers to the messages of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    unknown_characters: list[str] = Field(
        [], description="characters of the prompt that the model does not know; left out if there are none"
    )
    choices: list[ChatChoiceReply]
    usage: UsageReply


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
    unit: Literal["character", "byte", "token"]
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
    protocol: Literal["adaptive"] = Field("adaptive", description="only if the model learned while it read")
    state: str | None = Field("", description=STATE)
    surprisal: list[float] = Field([], description="of each symbol, in nats; left out with `by`")
    units: dict[str, list[Value]] = Field(
        {}, description="only with `by`: the columns of scriven score --by, with a value for each unit"
    )


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


class IntroductionReply(Reply):
    """What a person asks about a run first."""

    name: str
    texts: list[str] = Field(description="the names of the texts that it learned from, without their folders")
    training_characters: int
    seconds: float | None = Field(description="of training")
    bits_per_char: float | None = Field(description="of the model as it is used, on validation text")
    network_alone: bool = Field(description="whether that is without its counts, as their mixture was not measured")
    unit: Literal["character", "byte", "token"]
    beginnings: list[str] = Field(description="a few starts of paragraphs or documents of the training text")


class StepLossReply(Reply):
    """The training loss of a few steps up to this one: nats over characters."""

    step: int
    nats: float
    characters: int
    read: Value = Field(description="characters read since the beginning")
    seconds: Value
    progress: Value


class EvaluationLossReply(Reply):
    """The validation loss of the network at a step: nats over characters."""

    step: int
    nats: float
    characters: int
    protocol: Value
    best: Value
    final: Value


class FactsReply(Reply):
    """Facts about a whole run. At its end: nats over characters of the kept model as it is used."""

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


class TrainingReply(Reply):
    """A training that this server runs, or has run."""

    name: str
    state: Literal["training", "stopping", "ended", "failed"]
    error: str = Field(description="why it failed")


class TrainingsReply(Reply):
    """What may be trained, and what is."""

    refusal: str = Field(description="why no training may be started; empty if one may")
    texts: list[str] = Field(description="the owner's texts")
    trainings: list[TrainingReply]


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
