"""The bounds of everything that a request may ask for. There are no other bounds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from scriven.inference.sampling import WIDEST


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
    learned_characters: int = _bound(
        200_000, "characters that a state learned from whose file is sent or asked for, as they are read again"
    )
    score_characters: int = _bound(1_000_000, "characters of a text to score if the answer is in one piece")
    score_rows: int = _bound(50_000, "words, lines or documents of a text to score if the answer is in one piece")
    texts: int = _bound(128, "texts of one request: prompts times n")
    max_tokens: int = _bound(100_000, "characters to generate for each text")
    messages: int = _bound(1000, "messages of a chat")
    stops: int = _bound(16, "stop strings")
    stop_characters: int = _bound(256, "characters of a stop string")
    biases: int = _bound(1024, "characters of a logit_bias")
    rule_characters: int = _bound(
        1000, "characters of a guided_regex, of all texts of a guided_choice or of contains, or of another rule"
    )
    contained: int = _bound(16, "texts of contains")
    schema_characters: int = _bound(20_000, "characters of a JSON Schema, in guided_json or response_format")
    rule_states: int = _bound(1000, "states of the automaton that these become; then 400")
    search_length: int = _bound(500, "characters of a text that is searched for, by a beam or before a suffix")
    infill_draws: int = _bound(WIDEST, "continuations that are drawn for each text before a suffix")
    infill_texts: int = _bound(16, "texts of one request before a suffix: prompts times n")
    beam: int = _bound(64, "texts that a beam keeps")
    beam_prompts: int = _bound(16, "prompts of one request with a beam")
    novelty_characters: int = _bound(
        200_000, "characters of a text, or of all texts of a request, whose copied stretches are looked for"
    )
    novelty_stretches: int = _bound(20, "copied stretches of a text that are named")
    novelties: int = _bound(128, "requests whose copied stretches are looked for, or wait for that; then 429")
    index_characters: int = _bound(
        100_000_000, "characters of a training text that the server itself indexes; then 400, until scriven novelty did"
    )
    index_waiters: int = _bound(64, "requests that wait for the index of a training text at the same time; then 429")
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
