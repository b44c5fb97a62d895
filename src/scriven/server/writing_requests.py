"""The bodies of requests that ask for text: completions and chats, as OpenAI and vLLM have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from scriven.inference.sampling import DRAWS
from scriven.rules import Rule
from scriven.sampling_settings import SamplingSettings
from scriven.server.limits import LIMITS
from scriven.server.requests import (
    NULLABLE,
    FieldError,
    RequestBody,
    TokenIds,
    add_unsupported,
    show_value,
    validate_body,
)
from scriven.server.responses import ApiError, json_text

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


SIMPLE_RULES = ("allow", "forbid", "acrostic", "rhyme")  # fields of the names of the rules
BOUNDS = ("gt", "ge", "lt", "le")  # of a field
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, Field(max_length=LIMITS.stop_characters)]
Contained = Annotated[str, Field(max_length=LIMITS.rule_characters)]
Texts = Annotated[list[str], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
Prompt = (
    str | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
)


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: Annotated[bool, NULLABLE, Field(description="one more event at the end, with `usage`")] = False
    include_obfuscation: Annotated[bool, NULLABLE, Field(description="accepted, without effect")] = False
    unsupported: ClassVar[Mapping[str, Sequence[Any]]] = {"continuous_usage_stats": (False,)}


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


def _rule_field(description: str) -> Any:
    return Field("", max_length=LIMITS.rule_characters, description=f"{description}; see docs/rules.md")


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
    allow: Annotated[str, NULLABLE] = _rule_field("the text has only these characters")
    forbid: Annotated[str, NULLABLE] = _rule_field("the text has none of these characters")
    contains: Annotated[Contained | list[Contained], NULLABLE] = Field(
        [], max_length=LIMITS.rule_characters, description="the text has this one, or each of these, somewhere in it"
    )
    acrostic: Annotated[str, NULLABLE] = _rule_field("the text has a line for each letter that begins with it")
    rhyme: Annotated[str, NULLABLE] = _rule_field("every line of the text ends with these characters")
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
        rules = map(self.rule_of, self.rule_fields)
        return reduce(and_, rules) if self.rule_fields else None

    def rule_of(self, name: str) -> Rule:
        """Returns the rule that one of `rule_fields` gives. Raises UsageError as `rule`."""
        if name == "guided_regex":
            return Rule.regex(self.guided_regex)
        if name == "guided_choice":
            return Rule.choice(self.guided_choice)
        if name == "contains":
            return reduce(and_, map(Rule.contains, self._contained))
        if name in SIMPLE_RULES:
            rule: Rule = getattr(Rule, name)(getattr(self, name))
            return rule
        return Rule.json_schema(self._schema)

    @property
    def _contained(self) -> list[str]:
        """The texts that a text contains, without empty ones."""
        return [each for each in ([self.contains] if isinstance(self.contains, str) else self.contains) if each]

    @property
    def _schema(self) -> Any:
        return self.guided_json if self.guided_json is not None else self.response_format.schema_of_text

    @property
    def rule_fields(self) -> list[str]:
        """The fields that give a rule."""
        given = [*self._whole_rules, *(name for name in SIMPLE_RULES if getattr(self, name))]
        return given + (["contains"] if self._contained else [])

    @property
    def _whole_rules(self) -> list[str]:
        """The fields that say what a whole text is; at most one of them may be given."""
        given = [name for name in ("guided_regex", "guided_choice") if getattr(self, name)]
        given += ["guided_json"] if self.guided_json is not None else []
        return given + (["response_format"] if self.response_format.schema_of_text is not None else [])

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if len(self._whole_rules) > 1:
            words = f"{' and '.join(self._whole_rules)} both say what the text is; give one of them"
            raise FieldError(self._whole_rules[-1], words)
        if self.rule_fields and self.stops:
            raise FieldError("stop", f"stop may end a text before it matches {self.rule_fields[0]}; leave it out")
        if _count_characters(self._schema) > LIMITS.schema_characters:
            name = self.rule_fields[0]
            raise FieldError(name, f"{name}: the schema has more than {LIMITS.schema_characters:,} characters")
        if sum(map(len, self.guided_choice)) > LIMITS.rule_characters:
            words = f"guided_choice: its texts have more than {LIMITS.rule_characters:,} characters together"
            raise FieldError("guided_choice", words)
        if len(self._contained) > LIMITS.contained:
            raise FieldError("contains", f"contains: {len(self._contained):,} texts; give at most {LIMITS.contained}")
        if sum(map(len, self._contained)) > LIMITS.rule_characters:
            words = f"contains: its texts have more than {LIMITS.rule_characters:,} characters together"
            raise FieldError("contains", words)
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
    rule_begun: Annotated[int, NULLABLE] = Field(
        0,
        ge=0,
        le=LIMITS.prompt_characters,
        description="characters at the end of the prompt that the rules hold for too, if these obey so far",
    )
    draws: Annotated[int, NULLABLE] = Field(
        DRAWS,
        ge=1,
        le=LIMITS.infill_draws,
        description="with a suffix: continuations of the prompt that are drawn to find one that the suffix follows",
    )
    beam: Annotated[int, NULLABLE] = Field(
        0,
        ge=0,
        le=LIMITS.beam,
        description="find the n likeliest texts instead of drawing some, with a beam of this many; 0 draws",
    )
    copied: Annotated[bool, NULLABLE] = Field(
        False, description="say of each text what of it is copied from the training text; see POST /novelty"
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
            words = "the best texts are only known when all are done; leave out stream, or set n to the same number"
            raise FieldError("best_of", f"best_of {self.best_of}: {words}")
        if "max_tokens" in self.model_fields_set and self.length != self.max_tokens:
            words = f"max_completion_tokens {self.length} mean the same; give one of them"
            raise FieldError("max_tokens", f"max_tokens {self.max_tokens} and {words}")
        return self

    @model_validator(mode="after")
    def _fits_suffix(self) -> Self:
        if self.suffix:
            given = {"echo": self.echo, "logprobs": self.logprobs is not None, "save_state": self.save_state}
            given |= {"best_of": self.best_of > self.n, "stop": bool(self.stops), "logit_bias": bool(self.logit_bias)}
            given |= {"novel": self.novel > 0, "beam": self.beam > 0}
            for name in (name for name, is_given in given.items() if is_given):
                raise FieldError(name, f"{name} cannot be combined with suffix; leave it out")
            self._check_search_length("suffix")
        return self

    @model_validator(mode="after")
    def _fits_beam(self) -> Self:
        if self.beam:
            neutral = type(self).model_fields
            idle = (*SamplingSettings.model_fields, "logit_bias", "echo", "logprobs", "save_state", "best_of", "draws")
            for name in (name for name in idle if getattr(self, name) != neutral[name].default):
                words = f"{name}: a beam draws nothing, and finds texts alone; leave it out, or beam"
                raise FieldError(name, words)
            if self.n > self.beam:
                raise FieldError("n", f"n {self.n}: a beam of {self.beam} finds no more than that; raise beam")
            self._check_search_length("beam")
        return self

    def _check_search_length(self, way: str) -> None:
        """Raises FieldError if the texts to search for may be too long."""
        if self.length > LIMITS.search_length:
            words = f"max_tokens {self.length}: with {way}, send at most {LIMITS.search_length}"
            raise FieldError("max_tokens", words)


class ChatMessage(RequestBody):
    """A message of a chat."""

    role: str = Field(max_length=64, description="system, user, assistant or another name; the template may show it")
    content: str | Annotated[list[ContentPart], Field(max_length=100, fail_fast=True)]
    name: Annotated[str, NULLABLE] = Field("", description="accepted, without effect")
    unsupported: ClassVar[Mapping[str, Sequence[Any]]] = {
        "refusal": ("",),
        "tool_calls": ([],),
        "annotations": ([],),
        "audio": (),
        "function_call": (),
    }

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
                    f"stop: give at most {LIMITS.stops - 1} texts, as the chat template adds {show_value(stop).strip()}"
                )
                raise ApiError(400, message, "stop", "invalid_value")
        return validate_body(CompletionBody, values)
