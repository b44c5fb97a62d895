"""What OpenAI's and vLLM's completions take and these models do not offer.

A value that asks for nothing, which many clients send with every request, is taken; any other one is refused, since
the text would not be what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scriven.server.answers import json_text
from scriven.server.errors import Refused

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
            message = f"{name}{_shown(value)}: not offered by these models; leave it out{way_out}"
            raise Refused(400, message, name, "not_offered")


def add_unoffered(schema: dict[str, Any], unoffered: Mapping[str, Sequence[Any]]) -> None:
    """Adds to a JSON schema what may be given of these: the values that ask for nothing."""
    for name, neutral in unoffered.items():
        told = {"enum": [*neutral, None], "description": "not offered by these models: taken where it asks for nothing"}
        schema["properties"][name] = told


def _shown(value: Any) -> str:
    """A text, a number or a truth value; objects and lists, which may be of any depth, are not shown."""
    if isinstance(value, str) and len(value) > SHOWN:
        return f" {json_text(value[:SHOWN])}..."
    return "" if isinstance(value, dict | list) else f" {json_text(value)}"


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are equal, as JSON has it: true is not 1."""
    return isinstance(value, bool) is isinstance(neutral, bool) and bool(value == neutral)
