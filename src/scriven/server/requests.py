"""What clients may ask: one class a request, from which both the checks and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeVar

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
from scriven.server.limits import LIMITS
from scriven.server.responses import ApiError, json_text

SHOWN = 60  # characters of a value that a message shows

# By name: the values that ask for nothing; so does null everywhere.
COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    # OpenAI's
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    # vLLM's
    "repetition_penalty": (1,),
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
    "guided_json": (),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "structured_outputs": (),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "priority": (0,),
}


def check_offered(values: Mapping[str, Any], unoffered: Mapping[str, Sequence[Any]]) -> None:
    """Raises Refused, 400, for the first of `values` that asks for something that is not offered."""
    for name, neutral in unoffered.items():
        value = values.get(name)
        if value is not None and not any(_same(value, each) for each in neutral):
            way_out = f", or give {json_text(neutral[0])}" if neutral else ""
            message = f"{name}{_show(value)}: not offered by these models; leave it out{way_out}"
            raise ApiError(400, message, name, "not_offered")


def add_unoffered(schema: dict[str, Any], unoffered: Mapping[str, Sequence[Any]]) -> None:
    """Adds to a JSON schema what may be given of these: the values that ask for nothing."""
    for name, neutral in unoffered.items():
        told = {"enum": [*neutral, None], "description": "not offered by these models: taken where it asks for nothing"}
        schema["properties"][name] = told


def _show(value: Any) -> str:
    """A text, a number or a truth value; objects and lists, which may be of any depth, are not shown."""
    if isinstance(value, str) and len(value) > SHOWN:
        return f" {json_text(value[:SHOWN])}..."
    return "" if isinstance(value, dict | list) else f" {json_text(value)}"


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are equal, as JSON has it: true is not 1."""
    return isinstance(value, bool) is isinstance(neutral, bool) and bool(value == neutral)


PIECE = 8192  # ids that are checked at once, while no other thread of Python runs


class _Nullable:
    """Marks a field whose `null` means that it is not given."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"type": "null"}]}


def _in_pieces(ids: Any, check: Callable[[Any], Any]) -> Any:
    """TokenIds, checked a piece at a time: other threads of Python run in between."""
    if not isinstance(ids, list) or not PIECE < len(ids) <= LIMITS.prompt_characters:
        return check(ids[: LIMITS.prompt_characters + 1] if isinstance(ids, list) else ids)
    return [each for begin in range(0, len(ids), PIECE) for each in check(ids[begin : begin + PIECE])]


NULLABLE = _Nullable()
Id = Annotated[int, Field(ge=0, lt=1 << 32)]
Stop = Annotated[str, Field(max_length=LIMITS.stop_characters)]
# A list is left at the first thing that is wrong in it: there may be a million, and each would be told of.
TokenIds = Annotated[list[Id], Field(max_length=LIMITS.prompt_characters, fail_fast=True), WrapValidator(_in_pieces)]
Texts = Annotated[list[str], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
Prompt = (
    str | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=LIMITS.texts, fail_fast=True)]
)


class RequestBody(BaseModel):
    """An object whose fields are known, of the right types, finite and within bounds; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    unoffered: ClassVar[Mapping[str, Sequence[Any]]] = {}  # fields that others have, and values that ask for nothing

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        check_offered(values, cls.unoffered)
        fields, unoffered = cls.model_fields, cls.unoffered
        known = fields.keys() | unoffered.keys()
        unknown = next((name for name in values if name not in known), None)  # one is told, and there may be many
        return {
            name: value
            for name, value in values.items()
            if name == unknown or (name in fields and (value is not None or NULLABLE not in fields[name].metadata))
        }


class StreamOptions(RequestBody):
    """How a stream is told."""

    include_usage: Annotated[bool, NULLABLE, Field(description="one more event at the end, with `usage`")] = False
    include_obfuscation: Annotated[bool, NULLABLE, Field(description="taken, and without effect")] = False
    unoffered = {"continuous_usage_stats": (False,)}


class CompletionBody(RequestBody):
    """POST /v1/completions."""

    model: Annotated[str, NULLABLE] = Field("", description="name of the model; may be left out where there is one")
    prompt: Annotated[Prompt, NULLABLE] = Field("", description="what to go on from: text, texts, ids, lists of ids")
    max_tokens: Annotated[int, NULLABLE] = Field(16, ge=0, le=LIMITS.max_tokens, description="characters to write")
    max_completion_tokens: int | None = Field(None, ge=0, le=LIMITS.max_tokens, description="another name of it")
    temperature: Annotated[float, NULLABLE] = Field(1.0, ge=0, le=LIMITS.temperature)
    top_p: Annotated[float, NULLABLE] = Field(1.0, ge=0, le=1, description="0 leaves the likeliest character alone")
    top_k: Annotated[int, NULLABLE] = Field(0, ge=-1, lt=1 << 31, description="0 and -1 are no limit")
    min_p: Annotated[float, NULLABLE] = Field(0.0, ge=0, le=1)
    n: Annotated[int, NULLABLE] = Field(1, ge=1, le=LIMITS.texts, description="texts for each prompt")
    best_of: Annotated[int, NULLABLE] = Field(
        1,
        ge=1,
        le=LIMITS.texts,
        description="how many texts to write; the n with the highest log-probability a token are given",
    )
    stop: Annotated[Stop | Annotated[list[Stop], Field(max_length=LIMITS.stops, fail_fast=True)], NULLABLE] = Field(
        [], description="end before the first of these strings"
    )
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="the same seed and prompt give the same text")
    logprobs: int | None = Field(
        None, ge=0, le=LIMITS.logprobs, description="log-probabilities, and those of so many likeliest characters"
    )
    echo: Annotated[bool, NULLABLE] = Field(False, description="give the prompt too")
    stream: Annotated[bool, NULLABLE] = Field(False, description="as server-sent events")
    stream_options: Annotated[StreamOptions, NULLABLE] = StreamOptions()
    ignore_eos: Annotated[bool, NULLABLE] = Field(False, description="write on behind the end of a document")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="go on from this state, not from nothing")
    save_state: Annotated[bool, NULLABLE] = Field(False, description="keep the state after each text")
    user: Annotated[str, NULLABLE] = Field("", description="taken, and without effect")
    metadata: Annotated[dict[str, Any], NULLABLE] = Field({}, description="taken, and without effect")
    request_id: Annotated[str, NULLABLE] = Field("", description="taken, and without effect")
    prompt_cache_key: Annotated[str, NULLABLE] = Field("", description="taken, and without effect")
    safety_identifier: Annotated[str, NULLABLE] = Field("", description="taken, and without effect")
    add_special_tokens: Annotated[bool, NULLABLE] = Field(True, description="taken; there are none to add")
    unoffered = COMPLETIONS
    model_config = ConfigDict(json_schema_extra=lambda schema: add_unoffered(schema, COMPLETIONS))

    @property
    def length(self) -> int:
        """How many symbols to write of each text at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def texts(self) -> int:
        """How many texts to write for each prompt."""
        return max(self.n, self.best_of)

    @property
    def stops(self) -> list[str]:
        """The strings to stop at; an empty one stops nothing."""
        return [each for each in ([self.stop] if isinstance(self.stop, str) else self.stop) if each]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream and self.best_of > self.n:
            raise ValueError(
                f"best_of {self.best_of}: which texts are best is known once all are written; leave out stream, "
                "or ask for all of them with n"
            )
        if "max_tokens" in self.model_fields_set and self.length != self.max_tokens:
            raise ValueError(
                f"max_tokens {self.max_tokens} and max_completion_tokens {self.length} are two names of one thing; "
                "give one of them"
            )
        return self


class ScoreBody(RequestBody):
    """POST /score."""

    model: Annotated[str, NULLABLE] = Field("", description="name of the model; may be left out where there is one")
    text: str = Field(max_length=LIMITS.body_bytes, description="what to score")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="go on from this state, not from nothing")
    save_state: Annotated[bool, NULLABLE] = Field(
        False, description="keep the state after the text, which goes on: where there are documents, none ends with it"
    )


class StateBody(RequestBody):
    """POST /states."""

    model: Annotated[str, NULLABLE] = Field("", description="name of the model; may be left out where there is one")
    text: str = Field(description="what to read")
    state: Annotated[str, NULLABLE] = Field("", max_length=64, description="go on from this state, not from nothing")


class TokenizeBody(RequestBody):
    """POST /tokenize."""

    model: Annotated[str, NULLABLE] = Field("", description="name of the model; may be left out where there is one")
    prompt: str = Field(description="text")
    add_special_tokens: Annotated[bool, NULLABLE] = Field(False, description="taken; there are none to add")
    return_token_strs: Annotated[bool, NULLABLE] = Field(False, description="give each token's text too")


class DetokenizeBody(RequestBody):
    """POST /detokenize."""

    model: Annotated[str, NULLABLE] = Field("", description="name of the model; may be left out where there is one")
    tokens: TokenIds = Field(description="ids")


AnyBody = TypeVar("AnyBody", bound=RequestBody)
FORMS = {  # of fields that may have several
    "prompt": f"give a text, ids ({LIMITS.prompt_characters:,} at most), or a list of 1 to {LIMITS.texts} of these",
    "stop": f"give a text of {LIMITS.stop_characters} characters at most, or a list of {LIMITS.stops} such at most",
}


def parse_body(kind: type[AnyBody], data: bytes) -> AnyBody:
    """The body of a request, checked.

    Raises Refused, 400, naming the field and its value, where it is not what it must be.
    """
    try:
        values = strict_json.parse(data.decode("utf-8"), LIMITS.body_parts, LIMITS.body_values)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ApiError(400, f"the body is not JSON that can be read: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, f"the body must be a JSON object, not {str(values)[:40]!r}", code="invalid_json")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = [str(each) for each in first["loc"]]
    param = place[0] if place else None
    given = first["input"]
    value = repr(given[:60] if isinstance(given, str | list) else given)  # of a million, no more is shown
    said = f"{first['msg'][:1].lower()}{first['msg'][1:].removeprefix('alue error, ')}"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized field: {'.'.join(place)}", param, "unknown_field")
    if first["type"] == "missing":
        return ApiError(400, f"{param}: this field is required", param, "missing_field")
    if param is None:
        return ApiError(400, first["msg"].removeprefix("Value error, "), None, "invalid_value")
    said = FORMS.get(param, said)
    shown = value if len(value) <= 60 else value[:57] + "..."
    return ApiError(400, f"{param} {shown}: {said}", param, "invalid_value")
