"""Errors as OpenAI's API tells them: `{"error": {"message", "type", "param", "code"}}` and a fitting status."""

from __future__ import annotations

from scriven.errors import shortage
from scriven.server.answers import json_text

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_SECONDS = 1  # after which a client that was turned away may come again


class Refused(Exception):
    """A request that is not done: its status, what is wrong and the way out, the field, and a word for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def body(self) -> bytes:
        """The JSON that says so."""
        kind = TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json_text({"error": error}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {"retry-after": str(RETRY_SECONDS)} if self.status in {429, 503} else {}


def full(what: str) -> Refused:
    """Too much is going on for one more request."""
    return Refused(429, f"{what}; try again in a moment", code="queue_full")


def too_large(what: str, most: float) -> Refused:
    """Something comes that has more bytes than it may."""
    return Refused(413, f"the {what} has more than {most:,} bytes; send less at once", code="body_too_large")


def mistake(error: BaseException) -> Refused:
    """What we did wrong ourselves; where the system lacked something, that."""
    if lacking := shortage(error):
        return Refused(503, f"this machine has not enough {lacking} for this now; ask for less, or later", code=lacking)
    return Refused(500, "a mistake in the server itself; its log shows where", code="internal")


def overflow() -> Refused:
    """The model computes numbers that are not finite."""
    return Refused(
        500,
        "this model's numbers overflow: its weights are finite, but too large to compute with; "
        "serve another checkpoint of its run, or train it again with a lower learning rate",
        code="model_overflows",
    )


def late(seconds: float) -> Refused:
    """A request took longer than requests may."""
    return Refused(503, f"the request took longer than {seconds:g} s; ask for less, or later", code="timeout")
