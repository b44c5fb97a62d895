"""Everything that a request may ask for is bounded, here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _bound(value: float, means: str) -> Any:
    return field(default=value, metadata={"means": means})


@dataclass(frozen=True)
class Limits:
    """What a server takes on. A request that asks for more is refused, and told which bound it met."""

    body_bytes: int = _bound(4 << 20, "bytes of a request's body; a text to score as plain text has no bound")
    body_parts: int = _bound(10_000, "arrays, objects and keys of a JSON body; one that can be meant has some hundred")
    body_values: int = _bound(210_000, "values in the arrays and objects of a JSON body, before it is read")
    all_body_bytes: int = _bound(64 << 20, "bytes of the bodies of all requests at the same time; then 503")
    prompt_characters: int = _bound(
        200_000, "characters of all prompts of a request, of a text kept as a state, or ids to make text of"
    )
    score_characters: int = _bound(1_000_000, "characters of a text to score whose answer comes in one piece")
    texts: int = _bound(128, "texts that a request may ask for: prompts times n")
    max_tokens: int = _bound(100_000, "characters to write of each text")
    stops: int = _bound(16, "strings to stop at")
    stop_characters: int = _bound(256, "characters of a string to stop at")
    logprobs: int = _bound(20, "likeliest characters told at each place")
    logprobs_values: int = _bound(
        500_000, "log-probabilities of one answer: places times (1 + logprobs), over all of its texts"
    )
    temperature: float = _bound(100.0, "temperature")
    rows: int = _bound(128, "texts read or written at the same time, of each model")
    queue: int = _bound(1024, "texts that wait for a row, of each model; then 429")
    queue_characters: int = _bound(8_000_000, "characters of the prompts that wait, of each model; then 429")
    scores: int = _bound(8, "texts that are scored at the same time; then 429")
    seconds: float = _bound(300.0, "seconds that a request may take, waiting included; then 503, or the stream's end")
    states: int = _bound(1024, "states kept; then the one that was not used for longest goes")
    state_bytes: int = _bound(256 << 20, "bytes of all states kept; then likewise")
    followers: int = _bound(64, "pages that follow a run in training at the same time; then 429")
    follow_seconds: float = _bound(300.0, "seconds that one request follows a run; then the page asks again")
    state_seconds: float = _bound(3600.0, "seconds that a state is kept after it was last used")
    body_seconds: float = _bound(30.0, "seconds that a body may take to come in; of a streamed one, each piece of it")
    body_rate: float = _bound(16_384, "bytes per second at least of a streamed body, after the first body_seconds")
    connections: int = _bound(4096, "connections open at the same time; then 503")
    idle_seconds: float = _bound(30.0, "seconds from the start of a connection, or from an answer, to the next request")
    stall_seconds: float = _bound(30.0, "seconds that a client may leave unread what was sent; then it is cut")
    head_bytes: int = _bound(65_536, "bytes of the head of a request, or of what else is sent that is no body")

    def table(self) -> list[tuple[str, float, str]]:
        """Each bound: its name, its value, and what it bounds."""
        return [(each.name, getattr(self, each.name), each.metadata["means"]) for each in fields(self)]


LIMITS = Limits()
