"""POST /v1/chat/completions: a thin template over completions. The models continue a text, and were not taught more.

The template makes one prompt of all messages. Its answer is the text that the model writes after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from scriven.errors import UsageError
from scriven.server.completions import respond
from scriven.server.limits import LIMITS
from scriven.server.shared import parse_request, server_of
from scriven.server.writing_requests import ChatBody, ChatMessage
from scriven.tokens import tokens_of

TEMPLATES = {"plain": "{content}", "roles": "{role}: {content}\n"}  # by name
FIELD = re.compile(r"\{\w*\}")
ANSWERS = "assistant"  # the role of what the model writes


@dataclass(frozen=True)
class ChatTemplate:
    """How a message is written: a text with `{content}`, and perhaps `{role}`.

    With `{content}` alone, messages are the lines of a text, and the answer continues the last one.
    """

    text: str = TEMPLATES["plain"]

    def __post_init__(self) -> None:
        others = [each for each in FIELD.findall(self.text) if each not in ("{content}", "{role}")]
        if others:
            raise UsageError(
                f"--chat-template {self.text!r}: {others[0]} is no field of a message; give {{role}} and {{content}}"
            )
        if self.text.count("{content}") != 1:
            raise UsageError(
                f"--chat-template {self.text!r}: give {' or '.join(TEMPLATES)}, or a text with {{content}} in it once, "
                "such as '{role}: {content}\\n'"
            )
        if len(self.stop) > LIMITS.stop_characters:
            raise UsageError(
                f"--chat-template: after {{content}}, it has {len(self.stop):,} characters that end an answer; give at "
                f"most {LIMITS.stop_characters}"
            )

    @classmethod
    def named(cls, name: str) -> ChatTemplate:
        """Returns the template of a name, or of a text. Raises UsageError for a text without `{content}`."""
        return cls(TEMPLATES.get(name, name))

    def prompt(self, messages: Sequence[ChatMessage]) -> str:
        """Returns the text that the model continues."""
        texts = [each.text for each in messages]
        if self.text == TEMPLATES["plain"]:
            return "\n".join(texts)
        before = self.text.partition("{content}")[0].replace("{role}", ANSWERS)
        return "".join(self._write(each.role, text) for each, text in zip(messages, texts, strict=True)) + before

    @property
    def stop(self) -> str:
        """What ends an answer: the text between one message and the next role, or "" for none."""
        return self.text.partition("{content}")[2].partition("{role}")[0]

    def _write(self, role: str, content: str) -> str:
        begin, _, end = self.text.partition("{content}")  # first, as a role may be the word {content}
        return begin.replace("{role}", role) + content + end.replace("{role}", role)


@dataclass
class ChatShape:
    """Changes answers and events of completions into those of chats. One belongs to one request."""

    stream: bool
    _begun: set[int] = field(default_factory=set)  # choices whose role was sent

    def __call__(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Returns an answer of a chat, or an event."""
        kind = "chat.completion.chunk" if self.stream else "chat.completion"
        return {**reply, "id": "chat" + reply["id"], "object": kind, "choices": [*map(self._choice, reply["choices"])]}

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        text, logprobs = choice["text"], choice["logprobs"]
        said: dict[str, Any] = {"role": ANSWERS, "content": text, "refusal": None}
        if self.stream:
            said = {"content": text} if choice["index"] in self._begun else {"role": ANSWERS, "content": text}
            self._begun.add(choice["index"])
        shaped = {"delta" if self.stream else "message": said, "logprobs": logprobs and _shape_logprobs(logprobs)}
        return {**{name: value for name, value in choice.items() if name not in ("text", "logprobs")}, **shaped}


def _shape_logprobs(logprobs: dict[str, Any]) -> dict[str, Any]:
    tops = logprobs["top_logprobs"] or [{}] * len(logprobs["tokens"])
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    return {
        "content": [
            {**_token(name, value), "top_logprobs": [_token(*each) for each in (top or {}).items()]}
            for name, value, top in rows
        ],
        "refusal": None,
    }


def _token(name: str, value: float | None) -> dict[str, Any]:
    return {"token": name, "logprob": value, "bytes": list(name.encode("utf-8", "replace"))}


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions: answers messages."""
    body = await parse_request(request, ChatBody)
    template: ChatTemplate = request.app.state.chat_template
    vocabulary = server_of(request).model_named(body.model).model.vocabulary
    writes_stop = vocabulary.unit != "token" or bool(tokens_of(template.stop))  # a model of tokens writes no lone space
    completion = body.completion(template.prompt(body.messages), template.stop if writes_stop else "")
    return await respond(request, completion, ChatShape(body.stream))


__all__ = ["TEMPLATES", "ChatShape", "ChatTemplate", "chat_completions"]
