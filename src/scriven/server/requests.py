"""The bodies of requests: how each is checked, and those that score, save states, tokenize and train.

One class for each body defines both the checks and the OpenAPI document. Bodies that ask for text are in
writing_requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
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

CHARACTERS_SHOWN = 60  # characters of a value that a message shows


def check_supported(values: Mapping[str, Any], unsupported: Mapping[str, Sequence[Any]]) -> None:
    """Raises ApiError, 400, for the first of `values` that asks for an unsupported feature."""
    for name, neutral in unsupported.items():
        value = values.get(name)
        if value is not None and not any(_same(value, each) for each in neutral):
            way_out = f", or set it to {json_text(neutral[0])}" if neutral else ""
            message = f"{name}{show_value(value)}: not supported by these models; leave it out{way_out}"
            raise ApiError(400, message, name, "not_offered")


def add_unsupported(schema: dict[str, Any], unsupported: Mapping[str, Sequence[Any]]) -> None:
    """Adds the unsupported fields to a JSON schema, with the values that are accepted."""
    for name, neutral in unsupported.items():
        description = "not supported; accepted with a value that changes nothing"
        schema["properties"][name] = {"enum": [*neutral, None], "description": description}


def show_value(value: Any) -> str:
    """A text, number or boolean for a message; "" for objects and lists, which may be nested deeply."""
    if isinstance(value, str) and len(value) > CHARACTERS_SHOWN:
        return f" {json_text(value[:CHARACTERS_SHOWN])}..."
    return "" if isinstance(value, dict | list) else f" {json_text(value)}"


def _same(value: Any, neutral: Any) -> bool:
    """Whether two values are equal as JSON: true is not 1."""
    return isinstance(value, bool) is isinstance(neutral, bool) and bool(value == neutral)


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
# Checking a list stops at its first error: there may be a million, and each would become part of the message.
TokenIds = Annotated[list[Id], Field(max_length=LIMITS.prompt_characters, fail_fast=True), WrapValidator(_in_pieces)]


class FieldError(ValueError):
    """Says what is wrong with a field that does not go together with others."""

    def __init__(self, param: str, message: str) -> None:
        """`param` names the field that is to be changed or left out."""
        super().__init__(message)
        self.param = param


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


Column = Annotated[str, Field(max_length=40)]
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
    columns: Annotated[list[Column], NULLABLE] = Field(
        [], max_length=50, description="names of the columns to answer with, in their order; all unless given"
    )
    entropy: Annotated[bool, NULLABLE] = Field(
        False, description="one more column: the entropy, in bits, of the character that comes next where a unit begins"
    )

    @model_validator(mode="after")
    def _about_words(self) -> Self:
        chosen = (self.spaces, self.punctuation) != ("after", "with")
        if self.by != "word" and (chosen or self.separator):
            raise FieldError("by", "spaces, punctuation and separator say what a word is; add by: word")
        if (self.entropy or self.columns) and not self.by:
            raise FieldError("by", "entropy and columns are about units; add by: word, line or document")
        if self.separator and chosen:
            words = "with separator, words end at your separators alone; leave out spaces and punctuation"
            raise FieldError("separator", words)
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


def _check_novelty_length(text: str) -> str:
    if len(text) > LIMITS.novelty_characters:
        raise ValueError(f"string should have at most {LIMITS.novelty_characters} characters")
    return text


# With a bound of pydantic's own, a lone surrogate is refused, which means a byte here.
NovelText = Annotated[
    str, AfterValidator(_check_novelty_length), Field(json_schema_extra={"maxLength": LIMITS.novelty_characters})
]


class NoveltyBody(RequestBody):
    """POST /novelty."""

    model: Annotated[str, NULLABLE] = Field(
        "", description="name of the model; may be left out if the server has only one"
    )
    text: NovelText = Field(description="text that is compared with the training text of the model")
    stretches: Annotated[int, NULLABLE] = Field(
        1,
        ge=0,
        le=LIMITS.novelty_stretches,
        description="how many stretches to name: the longest that are copied and do not overlap",
    )


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
    first = error.errors(include_url=False)[0]
    place = [str(each) for each in first["loc"]]
    param = place[0] if place else None
    said = first["msg"].removeprefix("Value error, ")
    problem = f"{said[:1].lower()}{said[1:]}"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized field: {'.'.join(place)}", param, "unknown_field")
    if first["type"] == "missing":
        return ApiError(400, f"{param}: this field is required", param, "missing_field")
    if param is None:
        cause = first.get("ctx", {}).get("error")
        at_fault = cause.param if isinstance(cause, FieldError) else None
        return ApiError(400, said, at_fault, "invalid_value")
    problem, given = FORMS.get(param, problem), first["input"]
    value = repr(given[:60] if isinstance(given, str | list) else given)  # only the first of what may be a million
    shown = value if len(value) <= 60 else value[:57] + "..."
    return ApiError(400, f"{param} {shown}: {problem}", param, "invalid_value")
