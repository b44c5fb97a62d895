"""POST /score: how surprising a text of any length is. The answer is one JSON object, or lines of JSON.

The text is in a JSON body, or is the body itself (`text/plain`, UTF-8). A plain body is scored while it arrives, in
bounded memory, and the client should read the lines at the same time. A client that cannot, such as a browser, sends a
long text in several requests, each with the state after the one before.

With `by`, the answer has the sums of words, lines or documents, as `scriven score --by` prints them.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import itertools
import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from scriven.arrays import Float64s, Ids
from scriven.corpus.decoding import ReadCounts, depends_on_context, prepare_pieces
from scriven.corpus.documents import split_document_text
from scriven.corpus.encodings import drop_marks
from scriven.errors import InputError
from scriven.inference.chunks import read_chunks
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.protocols import ADAPTIVE
from scriven.inference.surprisal import Scored, SurprisalSum, tally
from scriven.inference.unit_tables import Columns
from scriven.inference.units import UnitSurprisals
from scriven.server.disconnects import DisconnectAwareResponse, run_unless_disconnected
from scriven.server.engine import NOTHING, PREFILL_SECONDS, SYMBOLS_PER_PIECE
from scriven.server.jobs import Job
from scriven.server.requests import ScoreBody, UnitBody, validate_body
from scriven.server.responses import (
    LINES,
    PLAIN,
    ApiError,
    json_in_pieces,
    long_answer,
    media_type_of,
    overflow,
    payload_too_large,
    run_apart,
    timed_out,
)
from scriven.server.shared import RequestHandle, ServedModel, ServerState, parse_request, server_of
from scriven.server.unit_rows import UnitRows, make_unit_rows

PIECE_SIZE = 1 << 16  # bytes of a text, or symbols, that are scored at once
LINES_AT_ONCE = 128  # lines of units that are sent together
LINES_AHEAD = 256  # lines held at most for a client that does not read them yet


async def score(request: Request) -> Response:
    """POST /score: scores a text."""
    server = server_of(request)
    plain = media_type_of(request.headers.get("content-type", "")) == PLAIN
    if plain:
        served = server.model_named(request.query_params.get("model", ""))
        source: Iterable[str] = _ArrivingText(request, _plain_body_bound(served, server))
        start = server.starting_context(served, "", adapt=_read_switch(request, "adapt"), saves=False)
        units = make_unit_rows(served.model, _read_query(request), start[0])
        text = _ScoredText(server, served, source, *start, units=units)
    else:
        body = await parse_request(request, ScoreBody)
        served = server.model_named(body.model)
        continues = bool(body.state or body.save_state)
        start = server.starting_context(served, body.state, adapt=body.adapt, saves=body.save_state)
        units = make_unit_rows(served.model, body, start[0])
        text = _ScoredText(server, served, [body.text], *start, continues=continues, saved=body.save_state, units=units)
    surprisals = _surprisals(text)
    if LINES in request.headers.get("accept", ""):
        lines = _lines(text, surprisals)
        first = await (anext(lines) if plain else run_unless_disconnected(request, _first_line(lines)))
        return DisconnectAwareResponse(_read_ahead(first, lines), LINES, watch=not plain)
    whole = _whole(text, surprisals)
    values = await (whole if plain else run_unless_disconnected(request, whole))
    return await long_answer(values["characters"], lambda: values)


def _read_query(request: Request) -> UnitBody:
    """Returns what the query says of units. Raises ApiError, 400, for what is no such value."""
    values: dict[str, Any] = {key: value for key, value in request.query_params.items() if key in UnitBody.model_fields}
    values |= {"entropy": _read_switch(request, "entropy")}
    values |= {"columns": values["columns"].split(",")} if "columns" in values else {}
    return validate_body(UnitBody, values)


def _read_switch(request: Request, name: str) -> bool:
    """Whether the query asks for something. Raises ApiError, 400, for a value that is not true or false."""
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise ApiError(400, f"{name} {value[:60]!r}: give true or false", name, "invalid_value")
    return value == "true"


@dataclass
class _ScoredText:
    """A text to score: its pieces, and the context after the part that is already scored.

    `characters` is how many the context had read before. If the text `continues` from or into a state, it is read as it
    is: its last document does not end with it. With `saved`, the state after the text is saved. With `units`, the
    answer has their rows.
    """

    server: ServerState
    served: ServedModel
    pieces: Iterable[str]
    context: Context
    characters: int = 0
    continues: bool = False
    saved: bool = False
    units: UnitRows | None = None
    last: int | None = None  # the last id that was read

    def chunks(self) -> Iterator[Ids]:
        """The ids, in chunks that are never empty."""
        model, units = self.served.model, self.units
        if self.continues:
            chunks: Iterable[Ids] = map(model.read_ids, self.pieces)
        else:
            settings = model.settings.corpus
            pieces = prepare_pieces(drop_marks(self.pieces), settings)
            texts = split_document_text(pieces, settings, units.tally if units else ReadCounts())
            chunks = _refuse_long_tokens(read_chunks(model.vocabulary, texts))
        return _split_long(units.strip(chunks) if units else chunks)

    def response(self, total: SurprisalSum) -> dict[str, Any]:
        """The sums, and the handle of the saved state if one is wanted."""
        values = {"model": self.served.name, "system_fingerprint": self.served.fingerprint, **_sums(total)}
        if isinstance(self.context, AdaptiveContext):
            values["protocol"] = ADAPTIVE
        if not self.saved:
            return values
        characters = self.characters + total.loss.characters
        last = None if self.last is None else self.served.model.decode([self.last])
        return {**values, "state": self.server.save_state(self.served, self.context, characters, last)}


def _refuse_long_tokens(chunks: Iterable[Ids]) -> Iterator[Ids]:
    """Yields the same chunks. Raises ApiError, 400, for a token that is too long to be one."""
    try:
        yield from chunks
    except InputError as error:
        raise ApiError(400, f"text: {error}", "text", "invalid_value") from None


def _plain_body_bound(served: ServedModel, server: ServerState) -> float:
    """How many bytes a plain body may have. It is bounded if preparing the text may need all of it in memory."""
    settings = served.model.settings.corpus
    return server.limits.body_bytes if depends_on_context(settings) else math.inf


class _ArrivingText:
    """The body of a request as pieces of text, while it arrives. Another thread iterates over it."""

    def __init__(self, request: Request, limit: float) -> None:
        self._body = request.stream()
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._next: Future[bytes] | None = None

    def __iter__(self) -> Iterator[str]:
        """Raises ApiError if the body is too long or not UTF-8, and ClientDisconnect."""
        decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
        while piece := self._take():
            size += len(piece)
            if size > self._limit:
                raise payload_too_large("text", self._limit)
            yield _decode(decoder, piece)
        yield _decode(decoder, b"", final=True)

    def _take(self) -> bytes:
        self._next = asyncio.run_coroutine_threadsafe(self._piece(), self._loop)
        try:
            return self._next.result()
        except CancelledError:
            raise ClientDisconnect from None

    async def _piece(self) -> bytes:
        data = bytearray()
        while len(data) < PIECE_SIZE and (chunk := await anext(self._body, None)) is not None:
            data += chunk
        return bytes(data)

    def close(self) -> None:
        """Stops waiting for the rest of the body."""
        if self._next is not None:
            self._next.cancel()


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> str:
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the text is not UTF-8 ({error.reason})", code="invalid_text") from None


async def _surprisals(text: _ScoredText) -> AsyncGenerator[Scored]:
    """Yields the text with its surprisals, block by block; documents end with a boundary.

    Raises ApiError, 429, if too many texts are being scored.
    """
    server, served, pieces = text.server, text.served, text.pieces
    loop, chunks = asyncio.get_running_loop(), text.chunks()
    reader = None if text.units is None else text.units.begin_entropy(served.model.predictor, text.context)
    with (
        server.scores.hold(),
        served.hold(),
        contextlib.closing(pieces) if isinstance(pieces, _ArrivingText) else contextlib.nullcontext(),
    ):
        while (ids := await loop.run_in_executor(server.threads, next, chunks, None)) is not None:
            if reader is not None:
                blocks = _read_units(text, reader, ids)
            elif isinstance(text.context, AdaptiveContext):
                blocks = _learn(text, text.context, ids)
            else:
                blocks = _read(text, ids)
            async with contextlib.aclosing(blocks):
                async for scored in blocks:
                    text.context = scored.context
                    text.last = int(scored.ids[-1]) if len(scored.ids) else text.last
                    yield scored
        if reader is not None:
            async for scored in _read_units(text, reader, NOTHING, last=True):
                yield scored


async def _learn(text: _ScoredText, context: AdaptiveContext, ids: Ids) -> AsyncGenerator[Scored]:
    async with contextlib.aclosing(text.server.learn(text.served, context, ids)) as pieces:
        async for piece, nats, after in pieces:
            yield Scored(piece, nats, after, None)


async def _read(text: _ScoredText, ids: Ids) -> AsyncGenerator[Scored]:
    """Yields pieces of ids (T,) as the engine reads them."""
    done, context = 0, text.context
    async with RequestHandle(text.server, text.served, [Job(ids, context, (), 0)]) as work:
        while done < len(ids):
            updates = await work.updates()
            nats = np.concatenate([np.empty(0), *(each.surprisals.nats for each in updates if each.surprisals)])
            context = next((each.context for each in updates if each.context is not None), context)
            yield Scored(ids[done : done + len(nats)], nats, context, None)
            done += len(nats)


async def _read_units(
    text: _ScoredText, reader: UnitSurprisals, ids: Ids, *, last: bool = False
) -> AsyncGenerator[Scored]:
    """Yields pieces of ids (T,) with the entropy before each unit, which are read in turns of the engine."""
    engine, loop = text.served.engine, asyncio.get_running_loop()
    until = loop.time() + text.server.limits.seconds
    for begin in range(0, max(1, len(ids)), SYMBOLS_PER_PIECE):
        piece = ids[begin : begin + SYMBOLS_PER_PIECE]
        await run_apart(len(piece), partial(reader.add, piece, last=last))
        while (scored := await asyncio.wrap_future(engine.call(partial(_advance, reader)))) is None:
            if loop.time() > until:
                raise timed_out(text.server.limits.seconds)
        if not np.isfinite(scored.nats).all():
            raise overflow()
        engine.read += len(scored.ids)
        yield scored


def _advance(reader: UnitSurprisals) -> Scored | None:
    """Reads units for a part of a turn. Returns the piece at its end. Runs in the engine's thread."""
    until, scored = time.monotonic() + PREFILL_SECONDS, None
    while scored is None and time.monotonic() < until:
        scored = reader.advance()
    return scored


def _split_long(chunks: Iterable[Ids]) -> Iterator[Ids]:
    """Yields the chunks in parts of at most PIECE_SIZE ids, none empty."""
    for chunk in chunks:
        for begin in range(0, len(chunk), PIECE_SIZE):
            yield chunk[begin : begin + PIECE_SIZE]


async def _lines(text: _ScoredText, surprisals: AsyncGenerator[Scored]) -> AsyncGenerator[bytes]:
    """Yields a line for each block, or unit, and one with the sums.

    After the first line, an error becomes a line too.
    """
    total, begun = SurprisalSum(), False
    try:
        async with contextlib.aclosing(surprisals) as blocks:
            async for scored in blocks:
                offset = total.loss.characters
                total += tally(text.served.model.vocabulary, scored.ids, scored.nats)
                for lines in await _block_lines(text, scored, offset):
                    begun = True
                    yield lines
        for lines in _unit_lines([] if text.units is None else await text.units.finish()):
            begun = True
            yield lines
        yield _line(text.response(total))
    except ApiError as refused:
        if not begun:
            raise
        yield refused.body + b"\n"


async def _block_lines(text: _ScoredText, scored: Scored, offset: int) -> Iterator[bytes]:
    """Returns the lines of a block that begins after `offset` characters."""
    if text.units is None:
        shown = scored.nats[scored.ids != text.served.model.vocabulary.boundary]
        return iter([_line({"offset": offset, "surprisal": _round(shown)})])
    return _unit_lines(await text.units.take(scored))


def _unit_lines(tables: Iterable[Columns]) -> Iterator[bytes]:
    """Yields a line for each row, LINES_AT_ONCE of them together."""
    for table in tables:
        rows = zip(*table.values(), strict=True)
        while some := list(itertools.islice(rows, LINES_AT_ONCE)):
            yield b"".join(_line(dict(zip(table, row, strict=True))) for row in some)


async def _first_line(lines: AsyncGenerator[bytes]) -> bytes:
    return await anext(lines)


async def _read_ahead(first: bytes, lines: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yields `first` and then `lines`; makes up to LINES_AHEAD lines before the client reads them.

    Many clients send everything before they read. Without this, client and server could wait for each other forever.
    """
    made: asyncio.Queue[bytes | None] = asyncio.Queue(LINES_AHEAD)
    made.put_nowait(first)

    maker = asyncio.create_task(_fill(lines, made))
    try:
        while (line := await made.get()) is not None:
            yield line
        await maker  # raises the error that ended it
    finally:
        maker.cancel()
        await asyncio.gather(maker, return_exceptions=True)


async def _fill(lines: AsyncGenerator[bytes], made: asyncio.Queue[bytes | None]) -> None:
    try:
        async with contextlib.aclosing(lines):
            async for line in lines:
                await made.put(line)
    except Exception:
        await made.put(None)
        raise
    await made.put(None)


def _line(values: dict[str, Any]) -> bytes:
    return json_in_pieces(values).encode() + b"\n"


async def _whole(text: _ScoredText, surprisals: AsyncGenerator[Scored]) -> dict[str, Any]:
    """The sums, and all surprisals or the columns of all units.

    Raises ApiError, 400, if the text is too long for an answer in one piece.
    """
    total, parts, vocabulary = SurprisalSum(), [np.empty(0)], text.served.model.vocabulary
    units, limits = text.units, text.server.limits
    columns: Columns = {} if units is None else {name: [] for name in units.names}
    async with contextlib.aclosing(surprisals) as blocks:
        async for scored in blocks:
            total += tally(vocabulary, scored.ids, scored.nats)
            _check_size("characters", total.loss.characters, limits.score_characters)
            if units is None:
                parts.append(scored.nats[scored.ids != vocabulary.boundary])
            else:
                _extend(columns, await units.take(scored), limits.score_rows)
    if units is None:
        return {**text.response(total), "surprisal": _round(np.concatenate(parts))}
    _extend(columns, await units.finish(), limits.score_rows)
    return {**text.response(total), "units": columns}


def _extend(columns: Columns, tables: Iterable[Columns], most: int) -> None:
    """Appends rows to the columns. Raises ApiError, 400, if there are too many."""
    for table in tables:
        for name, values in table.items():
            columns[name] += values
            _check_size("rows", len(columns[name]), most)


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise ApiError(400, f"text: send at most {most:,} {what}, or accept {LINES}", "text", "too_large")


def _round(nats: Float64s) -> Float64s:
    """Rounds to the digits that are exact, which makes answers shorter."""
    return nats.round(5)


def _sums(total: SurprisalSum) -> dict[str, Any]:
    loss = total.loss
    return {
        "nats": loss.nats,
        "characters": loss.characters,
        "bytes": loss.bytes,
        "unseen": total.unseen,
        "ends": loss.ends,
        "end_nats": loss.end_nats,
        "bits_per_char": loss.bits_per_char if loss.characters else None,
        "bits_per_byte": loss.bits_per_byte if loss.bytes else None,
    }
