"""The bounds of everything that a request may ask for, and the bodies of requests. There are no other bounds.

One class for each body defines both the checks and the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema

from scriven import strict_json
from scriven.inference.sampling import DRAWS, WIDEST
from scriven.rules import Rule
from scriven.server.responses import ApiError, json_text
from scriven.settings import SamplingSettings


def _bound(value: float, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """The bounds of a server. A request beyond one is refused with a message that names the bound."""

    body_bytes: int = _bound(4 << 20, "bytes of a request body; plain text to score has no bound")
    body_parts: int = _bound(10_000, "arrays, objects and keys in a JSON body; real ones have a few hundred at most")
    body_values: int = _bound(210_000, "values in the arrays and objects of a JSON body, counted before it is parsed")
    all_body_bytes: int = _bound(128 << 20, "bytes of all bodies at the same time, four of the largest; then 503")
    file_bytes: int = _bound(32 << 20, "bytes of a .docx or .epub file whose text is asked for, or of a state's file")
    file_xml_bytes: int = _bound(128 << 20, "bytes of XML in such a file, once unpacked; then 400")
    file_characters: int = _bound(16_000_000, "characters of its text; then 400")
    file_seconds: float = _bound(30.0, "seconds to read such a file; then 400")
    files: int = _bound(2, "such files read at the same time, once they have arrived; then 429")
    prompt_characters: int = _bound(
        200_000, "characters of all prompts of a request, or of a text to save as a state; ids to detokenize"
    )
    score_characters: int = _bound(1_000_000, "characters of a text to score if the answer is in one piece")
    score_rows: int = _bound(50_000, "words, lines or documents of a text to score if the answer is in one piece")
    texts: int = _bound(128, "texts of one request: prompts times n")
    max_tokens: int = _bound(100_000, "characters to generate for each text")
    messages: int = _bound(1000, "messages of a chat")
    stops: int = _bound(16, "stop strings")
    stop_characters: int = _bound(256, "characters of a stop string")
    biases: int = _bound(1024, "characters of a logit_bias")
    rule_characters: int = _bound(1000, "characters of a guided_regex, or of all texts of a guided_choice")
    schema_characters: int = _bound(20_000, "characters of a JSON Schema, in guided_json or response_format")
    rule_states: int = _bound(1000, "states of the automaton that these become; then 400")
    infill_length: int = _bound(500, "characters between a prompt and a suffix")
    infill_draws: int = _bound(WIDEST, "continuations that are drawn for each text before a suffix")
    infill_texts: int = _bound(16, "texts of one request before a suffix: prompts times n")
    logprobs: int = _bound(20, "most likely characters at each position")
    logprobs_values: int = _bound(
        500_000, "log-probabilities in one answer: positions times (1 + logprobs), in all of its texts"
    )
    temperature: float = _bound(100.0, "temperature")
    rows: int = _bound(128, "texts of each model that are read or generated at the same time")
    queue: int = _bound(1024, "texts of each model that wait for a row; then 429")
    queue_characters: int = _bound(8_000_000, "characters of prompts of each model that wait; then 429")
    scores: int = _bound(8, "texts scored, or written after a state that learned, at the same time; then 429")
    seconds: float = _bound(300.0, "seconds for a request, with waiting; then 503, or the end of the stream")
    states: int = _bound(1024, "saved states; then the least recently used one is deleted")
    state_bytes: int = _bound(256 << 20, "bytes of all saved states; then the least recently used one is deleted")
    adaptive_states: int = _bound(
        16, "saved states that learn while they read, and have weights of their own; then 429"
    )
    counting_states: int = _bound(
        2, "states that learn with counts and hold these, those used last; to others, their text is read again first"
    )
    followers: int = _bound(64, "pages that follow a run at the same time; then 429")
    follow_seconds: float = _bound(300.0, "seconds that one request follows a run; then the page sends another")
    trainings: int = _bound(1, "trainings that pages may run at the same time; then 429")
    new_runs: int = _bound(100, "new runs that pages may start while the server runs; then 429")
    training_minutes: float = _bound(10_080.0, "minutes of a training that a page starts")
    state_seconds: float = _bound(3600.0, "seconds until an unused state is deleted")
    body_seconds: float = _bound(30.0, "seconds for a body to arrive; for a streamed body, for each piece")
    body_rate: float = _bound(16_384, "least bytes per second of a streamed body, after the first body_seconds")
    connections: int = _bound(4096, "open connections; then 503")
    idle_seconds: float = _bound(30.0, "seconds from the start of a connection, or from an answer, to the next request")
    stall_seconds: float = _bound(30.0, "seconds that a client may not read the answer; then the connection is closed")
    head_bytes: int = _bound(65_536, "bytes of the head of a request, and of anything else that is not a body")

    def table(self) -> list[tuple[str, float, str]]:
        """Each bound's name, value and meaning."""
        return [(each.name, getattr(self, each.name), each.metadata["meaning"]) for each in fields(self)]


LIMITS = Limits()


# --- bodies

CHARACTERS_SHOWN = 60  # characters of a value that a message shows

# Fields that are not supported, and the values that change nothing; null never does.
UNSUPPORTED_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    # OpenAI's
    "store": (False,),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    # vLLM's
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "logits_processors": ([],),
    "guided_grammar": ("",),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "structured_outputs": (),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "priority": (0,),
}


UNSUPPORTED_CHATS: Mapping[str, tuple[Any, ...]] = {
    **UNSUPPORTED_COMPLETIONS,
    "parallel_tool_calls": (True, False),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
CHAT_LENGTH = 500  # characters of an answer, unless max_tokens says so


def check_supported(values: Mapping[str, Any], unsupported: Mapping[str, Sequence[Any]]) -> None:
    """Raises ApiError, 400, for the first of `values` that asks for an unsupported feature."""
    for name, neutral in unsupported.items():
        value = values.get(name)
        if value is not None and not any(_same(value, each) for each in neutral):
            way_out = f", or set it to {json_text(neutral[0])}" if neutral else ""
            message = f"{name}{_show(value)}: not supported by these models; leave it out{way_out}"
            raise ApiError(400, message, name, "not_offered")


def add_unsupported(schema: dict[str, Any], unsupported: Mapping[str, Sequence[Any]]) -> None:
    """Adds the unsupported fields to a JSON schema, with the values that are accepted."""
    for name, neutral in unsupported.items():
        description = "not supported; accepted with a value that changes nothing"
        schema["properties"][name] = {"enum": [*neutral, None], "description": description}


def _show(value: Any) -> str:
    """A text, number or boolean for a message; "" for objects and lists, which may be nested deeply."""
    if isinstance(value, str) and len(value) > CHARACTERS_SHOWN:
        return f" {json_text(value[:CHARACTERS_SHOWN])}..."
    return "" if isinstance(value, dict | list) else f" {json_text(value)}"


def _same(value: Any, neutral: Any) -> bool:
    """Whether two values are equal as JSON: true is not 1."""
    return isinstance(value, bool) is isinstance(neutral, bool) and bool(value == neutral)


BOUNDS = ("gt", "ge", "lt", "le")  # of a field
IDS_PER_CHECK = 8192  # ids checked at once, while no other thread of Python can run


class _Nullable:
    """Marks a field that accepts null, which means the same as leaving it out."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"type": "null"}]}


def _in_pieces(ids: Any, check: Callable[[Any], Any]) -> Any:
    """Checks ids piece by piece, so that other threads of Python run in between."""
    if not isinstance(ids, list) or not IDS_PER_CHECK < len(ids) <= LIMITS.prompt_characters:
        return check(ids[: LIMITS.prompt_characters + 1] if isinstance(ids, list) else ids)
    return [each for begin in range(0, len(ids), IDS_PER_CHECK) for each in check(ids[begin : begin + IDS_PER_CHECK])]


NULLABLE = _Nullable()
Id = Annotated[int, Field(ge=0, lt=1 << 32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, Field(max_length=LIMITS.stop_characters)]
# Checking a list stops at its first error: there may be a million, and each would become part of the message.
TokenIds = Annotated[list[Id], Field(max_length=LIMITS.prompt_characters, fail_fast=True), WrapValidator(_in_pieces)]
Texts = Annotated[list[str], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
Prompt = (
    str | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
)


class RequestBody(BaseModel):
    """A frozen object with known fields only, each of the right type, finite and within its bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    unsupported: ClassVar[
        Mapping[str, Sequence[Any]]
    ] = {}  # fields of other servers, and their values that change nothing

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        check_supported(values, cls.unsupported)
        fields, unsupported = {each.alias or name: each for name, each in cls.model_fields.items()}, cls.unsupported
        known = fields.keys() | unsupported.keys()
        unknown = next(
            (name for name in values if name not in known), None
        )  # only the first is reported, since there may be many
        return {
            name: value
            for name, value in values.items()
            if name == unknown or (name in fields and (value is not None or NULLABLE not in fields[name].metadata))
        }


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: Annotated[bool, NULLABLE, Field(description="one more event at the end, with `usage`")] = False
    include_obfuscation: Annotated[bool, NULLABLE, Field(description="accepted, without effect")] = False
    unsupported = {"continuous_usage_stats": (False,)}


class SchemaFormat(RequestBody):
    """The `json_schema` of a response_format, as OpenAI has it."""

    name: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    description: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    strict: Annotated[bool, NULLABLE] = Field(True, description="accepted: every text satisfies the schema")
    schema_: dict[str, Any] = Field(alias="schema", description="a JSON Schema; see docs/rules.md")


class ResponseFormat(RequestBody):
    """What the text is, as OpenAI says it."""

    type: Annotated[Literal["text", "json_object", "json_schema"], NULLABLE] = "text"
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and the field json_schema, with a schema, need each other")
        return self

    @property
    def schema_of_text(self) -> Any:
        """The schema; None for plain text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


def _count_characters(schema: Any) -> int:
    """Returns the length of a schema as JSON text. Raises ValueError if it is nested too deeply to be written."""
    try:
        return len(schema if isinstance(schema, str) else json_text(schema))
    except RecursionError:
        raise ValueError("the schema is nested too deeply; give one with fewer schemas within one another") from None


def _like_setting(name: str, **changes: Any) -> Any:
    """Returns the field of a setting of sampling, with its default, bounds and description unless these are changed."""
    setting = SamplingSettings.model_fields[name]
    bounds = {each: getattr(bound, each) for bound in setting.metadata for each in BOUNDS if hasattr(bound, each)}
    return Field(**{"default": setting.default, "description": setting.description, **bounds, **changes})


class ContentPart(RequestBody):
    """A part of a message."""

    type: Literal["text"]
    text: str


class TextBody(RequestBody):
    """What completions and chats have in common."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    max_completion_tokens: int | None = Field(
        None, ge=0, le=LIMITS.max_tokens, description="another name for max_tokens"
    )
    temperature: Annotated[float, NULLABLE] = _like_setting("temperature", default=1.0, le=LIMITS.temperature)
    top_p: Annotated[float, NULLABLE] = _like_setting(
        "top_p", gt=None, ge=0, description="0 allows only the most likely character"
    )
    top_k: Annotated[int, NULLABLE] = _like_setting("top_k", ge=-1, lt=1 << 31, description="0 and -1 mean no limit")
    min_p: Annotated[float, NULLABLE] = _like_setting("min_p")
    typical_p: Annotated[float, NULLABLE] = _like_setting("typical_p")
    mirostat_tau: Annotated[float, NULLABLE] = _like_setting("mirostat_tau")
    mirostat_eta: Annotated[float, NULLABLE] = _like_setting("mirostat_eta")
    repetition_penalty: Annotated[float, NULLABLE] = _like_setting("repetition_penalty")
    presence_penalty: Annotated[float, NULLABLE] = _like_setting("presence_penalty")
    frequency_penalty: Annotated[float, NULLABLE] = _like_setting("frequency_penalty")
    repeat_last_n: Annotated[int, NULLABLE] = _like_setting("repeat_last_n")
    dry_multiplier: Annotated[float, NULLABLE] = _like_setting("dry_multiplier")
    dry_base: Annotated[float, NULLABLE] = _like_setting("dry_base")
    dry_allowed_length: Annotated[int, NULLABLE] = _like_setting("dry_allowed_length")
    dry_penalty_last_n: Annotated[int, NULLABLE] = _like_setting("dry_penalty_last_n")
    novel: Annotated[int, NULLABLE] = _like_setting("novel")
    logit_bias: Annotated[dict[str, Bias], NULLABLE] = Field(
        {}, max_length=LIMITS.biases, description="what is added to the logits of characters, by id"
    )
    n: Annotated[int, NULLABLE] = Field(1, ge=1, le=LIMITS.texts, description="texts for each prompt")
    stop: Annotated[Stop | Annotated[list[Stop], Field(max_length=LIMITS.stops, fail_fast=True)], NULLABLE] = Field(
        [], description="ends the text before the first of these strings"
    )
    guided_regex: Annotated[str, NULLABLE] = Field(
        "", max_length=LIMITS.rule_characters, description="the whole text matches this; see docs/rules.md"
    )
    guided_choice: Annotated[list[Stop], NULLABLE] = Field(
        [], max_length=LIMITS.rule_characters, fail_fast=True, description="the text is one of these"
    )
    guided_json: dict[str, Any] | str | None = Field(
        None, description="the text is JSON that satisfies this JSON Schema; see docs/rules.md"
    )
    response_format: Annotated[ResponseFormat, NULLABLE] = Field(
        ResponseFormat(), description="the same as OpenAI has it: json_schema, json_object (any object), or text"
    )
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="the same seed and prompt give the same text")
    stream: Annotated[bool, NULLABLE] = Field(False, description="return server-sent events")
    stream_options: Annotated[StreamOptions, NULLABLE] = StreamOptions()
    ignore_eos: Annotated[bool, NULLABLE] = Field(False, description="continue after the end of a document")
    user: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    metadata: Annotated[dict[str, Any], NULLABLE] = Field({}, description="accepted, without effect")
    request_id: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    prompt_cache_key: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    safety_identifier: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        return [each for each in ([self.stop] if isinstance(self.stop, str) else self.stop) if each]

    @property
    def sampling(self) -> SamplingSettings:
        """How characters are drawn."""
        values = {name: getattr(self, name) for name in SamplingSettings.model_fields}
        top_k, top_p = (max(0, self.top_k), self.top_p) if self.top_p else (1, 1.0)
        return SamplingSettings(**{**values, "top_k": top_k, "top_p": top_p})

    @property
    def rule(self) -> Rule | None:
        """The rule that the texts obey, if any. Raises UsageError for a pattern or schema that is not valid."""
        if self.guided_regex:
            return Rule.regex(self.guided_regex)
        if self.guided_choice:
            return Rule.choice(self.guided_choice)
        return None if self._schema is None else Rule.json_schema(self._schema)

    @property
    def _schema(self) -> Any:
        return self.guided_json if self.guided_json is not None else self.response_format.schema_of_text

    @property
    def rule_fields(self) -> list[str]:
        """The fields that give a rule."""
        given = [name for name in ("guided_regex", "guided_choice") if getattr(self, name)]
        given += ["guided_json"] if self.guided_json is not None else []
        return given + (["response_format"] if self.response_format.schema_of_text is not None else [])

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if len(self.rule_fields) > 1:
            raise ValueError(f"{' and '.join(self.rule_fields)} both say what the text is; give one of them")
        if self.rule_fields and self.stops:
            raise ValueError(f"stop may end a text before it matches {self.rule_fields[0]}; leave it out")
        if _count_characters(self._schema) > LIMITS.schema_characters:
            raise ValueError(f"{self.rule_fields[0]}: the schema has more than {LIMITS.schema_characters:,} characters")
        if sum(map(len, self.guided_choice)) > LIMITS.rule_characters:
            raise ValueError(f"guided_choice: its texts have more than {LIMITS.rule_characters:,} characters together")
        return self


class CompletionBody(TextBody):
    """POST /v1/completions."""

    prompt: Annotated[Prompt, NULLABLE] = Field("", description="text to continue: a text, texts, ids, or lists of ids")
    max_tokens: Annotated[int, NULLABLE] = Field(16, ge=0, le=LIMITS.max_tokens, description="characters to generate")
    best_of: Annotated[int, NULLABLE] = Field(
        1,
        ge=1,
        le=LIMITS.texts,
        description="texts to generate for each prompt; the n with the highest mean log-probability are returned",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=LIMITS.logprobs,
        description="return log-probabilities, also of this number of the most likely characters",
    )
    echo: Annotated[bool, NULLABLE] = Field(False, description="return the prompt too")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="saved state to continue from")
    save_state: Annotated[bool, NULLABLE] = Field(False, description="save the state after each text")
    suffix: Annotated[str, NULLABLE] = Field(
        "", max_length=LIMITS.prompt_characters, description="text that follows: generate the text before it"
    )
    draws: Annotated[int, NULLABLE] = Field(
        DRAWS,
        ge=1,
        le=LIMITS.infill_draws,
        description="with a suffix: continuations of the prompt that are drawn to find one that the suffix follows",
    )
    add_special_tokens: Annotated[bool, NULLABLE] = Field(True, description="accepted; there are no special tokens")
    unsupported = UNSUPPORTED_COMPLETIONS
    model_config = ConfigDict(json_schema_extra=lambda schema: add_unsupported(schema, UNSUPPORTED_COMPLETIONS))

    @property
    def length(self) -> int:
        """How many symbols to generate for each text at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def texts(self) -> int:
        """How many texts to generate for each prompt."""
        return max(self.n, self.best_of)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream and self.best_of > self.n:
            raise ValueError(
                f"best_of {self.best_of}: the best texts are only known when all are done; leave out stream, "
                "or set n to the same number"
            )
        if "max_tokens" in self.model_fields_set and self.length != self.max_tokens:
            raise ValueError(
                f"max_tokens {self.max_tokens} and max_completion_tokens {self.length} mean the same; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _fits_suffix(self) -> Self:
        if self.suffix:
            given = {"echo": self.echo, "logprobs": self.logprobs is not None, "save_state": self.save_state}
            given |= {"best_of": self.best_of > self.n, "stop": bool(self.stops), "logit_bias": bool(self.logit_bias)}
            given |= {"novel": self.novel > 0}
            for name in (name for name, is_given in given.items() if is_given):
                raise ValueError(f"{name} cannot be combined with suffix; leave it out")
            if self.length > LIMITS.infill_length:
                raise ValueError(f"max_tokens {self.length}: with suffix, send at most {LIMITS.infill_length}")
        return self


class ChatMessage(RequestBody):
    """A message of a chat."""

    role: str = Field(max_length=64, description="system, user, assistant or another name; the template may show it")
    content: str | Annotated[list[ContentPart], Field(max_length=100, fail_fast=True)]
    name: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    unsupported = {"refusal": ("",), "tool_calls": ([],), "annotations": ([],), "audio": (), "function_call": ()}

    @property
    def text(self) -> str:
        """What the message says."""
        return self.content if isinstance(self.content, str) else "".join(each.text for each in self.content)


class ChatBody(TextBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=LIMITS.messages, fail_fast=True)] = Field(
        description="one prompt is made of them, by the server's template"
    )
    max_tokens: int | None = Field(
        None, ge=0, le=LIMITS.max_tokens, description=f"characters to generate; unless given, {CHAT_LENGTH}"
    )
    logprobs: Annotated[bool, NULLABLE] = Field(False, description="return log-probabilities")
    top_logprobs: Annotated[int, NULLABLE] = Field(0, ge=0, le=LIMITS.logprobs, description="also of this number")
    unsupported = UNSUPPORTED_CHATS
    model_config = ConfigDict(json_schema_extra=lambda schema: add_unsupported(schema, UNSUPPORTED_CHATS))

    def completion(self, prompt: str, stop: str) -> CompletionBody:
        """Returns the completion of a prompt that is the same, and that also ends before `stop`, unless it has a rule.

        Raises ApiError, 400, if something does not go together.
        """
        values = self.model_dump(exclude_unset=True, by_alias=True, exclude={"messages", "logprobs", "top_logprobs"})
        if self.max_tokens is None:
            values = {name: value for name, value in values.items() if name != "max_tokens"}
            values |= {} if self.max_completion_tokens is not None else {"max_tokens": CHAT_LENGTH}
        values |= {"prompt": prompt, "logprobs": self.top_logprobs if self.logprobs else None}
        if stop and not self.rule_fields:
            values["stop"] = [*dict.fromkeys([*self.stops, stop])]
            if len(values["stop"]) > LIMITS.stops:
                message = (
                    f"stop: give at most {LIMITS.stops - 1} texts, as the chat template adds {_show(stop).strip()}"
                )
                raise ApiError(400, message, "stop", "invalid_value")
        return validate_body(CompletionBody, values)


ADAPT = "learn from the text after it was scored, with weights of the state's own; a state that learns goes on learning"


class UnitBody(RequestBody):
    """The units of a text, as `scriven score --by` has them; with plain text, the query of POST /score has these."""

    by: Annotated[Literal["", "word", "line", "document"], NULLABLE] = Field(
        "", description="answer with the sums of each, in place of the surprisal of each symbol"
    )
    spaces: Annotated[Literal["after", "before"], NULLABLE] = Field(
        "after", description="which white space belongs to a word"
    )
    punctuation: Annotated[Literal["with", "apart"], NULLABLE] = Field(
        "with", description="whether punctuation belongs to words, or is apart"
    )
    separator: Annotated[str, NULLABLE] = Field(
        "", max_length=4, description="character between words that the model does not read"
    )

    @model_validator(mode="after")
    def _about_words(self) -> Self:
        chosen = (self.spaces, self.punctuation) != ("after", "with")
        if self.by != "word" and (chosen or self.separator):
            raise ValueError("spaces, punctuation and separator say what a word is; add by: word")
        if self.separator and chosen:
            raise ValueError("with separator, words end at your separators alone; leave out spaces and punctuation")
        return self


class ScoreBody(UnitBody):
    """POST /score."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    text: str = Field(max_length=LIMITS.body_bytes, description="text to score")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="saved state to continue from")
    save_state: Annotated[bool, NULLABLE] = Field(
        False, description="save the state after the text; its last document is then not ended"
    )
    adapt: Annotated[bool, NULLABLE] = Field(False, description=ADAPT)


class StateBody(RequestBody):
    """POST /states."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    text: str = Field(description="text to read")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="saved state to continue from")
    adapt: Annotated[bool, NULLABLE] = Field(False, description=ADAPT)


class TokenizeBody(RequestBody):
    """POST /tokenize."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    prompt: str = Field(description="text")
    add_special_tokens: Annotated[bool, NULLABLE] = Field(False, description="accepted; there are no special tokens")
    return_token_strs: Annotated[bool, NULLABLE] = Field(False, description="return the text of each token too")


class DetokenizeBody(RequestBody):
    """POST /detokenize."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    tokens: TokenIds = Field(description="ids")


class TrainingBody(RequestBody):
    """POST /trainings."""

    name: str = Field(max_length=256, description="name of the run")
    text: Annotated[str, NULLABLE] = Field("", description="text to train on")
    file: Annotated[str, NULLABLE] = Field("", max_length=256, description="or one of the owner's texts")
    minutes: float = Field(gt=0, le=LIMITS.training_minutes, description="how long to train, or to train further")
    documents: Annotated[Literal["none", "lines"], NULLABLE] = Field("none", description="what counts as one document")
    resume: Annotated[bool, NULLABLE] = Field(False, description="go on with the run of this name, on its own text")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.text) + bool(self.file) + self.resume != 1:
            raise ValueError("give a text, or the file of one, or resume a run; one of these three")
        if not self.resume and not re.fullmatch(r"[\w-]{1,60}", self.name):
            raise ValueError("name: use 1 to 60 letters, digits, - or _")
        if any("\ud800" <= each <= "\udfff" for each in self.text):
            raise ValueError("text: it has half a character (a lone surrogate); send it without")
        return self


AnyBody = TypeVar("AnyBody", bound=RequestBody)
FORMS = {  # fields that accept several types
    "prompt": f"give a text, at most {LIMITS.prompt_characters:,} ids, or a list of 1 to {LIMITS.texts} of these",
    "stop": f"give a text of at most {LIMITS.stop_characters} characters, or a list of at most {LIMITS.stops} texts",
}


def parse_body(kind: type[AnyBody], data: bytes) -> AnyBody:
    """The validated body of a request.

    Raises ApiError, 400, with the field and its value if something is not valid.
    """
    try:
        values = strict_json.parse(data.decode("utf-8"), LIMITS.body_parts, LIMITS.body_values)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, f"the body must be a JSON object, not {str(values)[:40]!r}", code="invalid_json")
    return validate_body(kind, values)


def validate_body(kind: type[AnyBody], values: Mapping[str, Any]) -> AnyBody:
    """The body of these values. Raises ApiError, 400, as `parse_body`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _describe_error(error) from None


def _describe_error(error: ValidationError) -> ApiError:
    """The first error, as one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = [str(each) for each in first["loc"]]
    param = place[0] if place else None
    problem = f"{first['msg'][:1].lower()}{first['msg'][1:].removeprefix('alue error, ')}"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized field: {'.'.join(place)}", param, "unknown_field")
    if first["type"] == "missing":
        return ApiError(400, f"{param}: this field is required", param, "missing_field")
    if param is None:
        return ApiError(400, first["msg"].removeprefix("Value error, "), None, "invalid_value")
    problem, given = FORMS.get(param, problem), first["input"]
    value = repr(given[:60] if isinstance(given, str | list) else given)  # only the first of what may be a million
    shown = value if len(value) <= 60 else value[:57] + "..."
    return ApiError(400, f"{param} {shown}: {problem}", param, "invalid_value")
