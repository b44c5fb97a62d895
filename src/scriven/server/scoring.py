"""POST /score: how surprising a text is, of any length: in one piece, or in lines of JSON as it is read.

A text comes as JSON, or as it is (`text/plain`, UTF-8). What comes as it is is scored while it still comes, in bounded
memory; a client that asks for lines should read them meanwhile. One that cannot, as browsers cannot, sends a long text
in pieces, each with the state after the one before.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from scriven.arrays import Float64s, Ids
from scriven.corpus.decoding import depends_on_context, prepare_pieces
from scriven.corpus.documents import split_document_text
from scriven.corpus.encodings import drop_marks
from scriven.inference.chunks import read_chunks
from scriven.inference.predictor import Context
from scriven.inference.surprisal import SurprisalSum, tally
from scriven.server.jobs import Job
from scriven.server.requests import ScoreBody
from scriven.server.responses import ApiError, long_answer, pieces
from scriven.server.shared import (
    DisconnectAwareResponse,
    RequestHandle,
    ServedModel,
    ServerState,
    body_of,
    server_of,
    unless_gone,
)

LINES = "application/x-ndjson"
PIECE = 1 << 16  # bytes of a text that are scored at once
AHEAD = 256  # lines kept at most for a client that does not read them yet


async def score(request: Request) -> Response:
    """Tell how surprising a text is."""
    server = server_of(request)
    plain = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/plain"
    if plain:
        served = server.model_named(request.query_params.get("model", ""))
        pieces: Iterable[str] = _Arriving(request, _text_bound(served, server))
        text = _ScoredText(server, served, pieces, served.start)
    else:
        body = await body_of(request, ScoreBody)
        served = server.model_named(body.model)
        goes_on = bool(body.state or body.save_state)
        text = _ScoredText(server, served, [body.text], *server.context(served, body.state), goes_on, body.save_state)
    costs = _costs(text)
    if LINES in request.headers.get("accept", ""):
        lines = _lines(text, costs)
        first = await (anext(lines) if plain else unless_gone(request, _first(lines)))
        return DisconnectAwareResponse(_ahead(first, lines), LINES, watch=not plain)
    whole = _whole(text, costs)
    told = await (whole if plain else unless_gone(request, whole))
    return await long_answer(len(told["surprisal"]), lambda: told)


@dataclass
class _ScoredText:
    """A text to score: its pieces, and the context after what was scored so far, of so many characters.

    One that goes on is what stands there and no more: its last document may not have ended.
    """

    server: ServerState
    served: ServedModel
    pieces: Iterable[str]
    context: Context
    characters: int = 0
    goes_on: bool = False
    kept: bool = False

    def chunks(self) -> Iterator[Ids]:
        """The ids, in chunks that are not empty."""
        model = self.served.model
        if self.goes_on:
            return _split_long(map(model.read_ids, self.pieces))
        settings = model.settings.corpus
        pieces = prepare_pieces(drop_marks(self.pieces), settings)
        return _split_long(read_chunks(model.vocabulary, split_document_text(pieces, settings)))

    def response(self, total: SurprisalSum) -> dict[str, Any]:
        """The sums, and the handle of the state after the text where it is to be kept; None where it cannot be used."""
        told = {"model": self.served.name, "system_fingerprint": self.served.fingerprint, **_sums(total)}
        if not self.kept:
            return told
        characters = self.characters + total.loss.characters
        return {**told, "state": self.server.keep(self.served, self.context, characters)}


def _text_bound(served: ServedModel, server: ServerState) -> float:
    """How many bytes a text may have that comes as it is; to be normalised, it may have to be held as a whole."""
    settings = served.model.settings.corpus
    return server.limits.body_bytes if depends_on_context(settings) else math.inf


class _Arriving:
    """The body of a request as pieces of text, for another thread to iterate over."""

    def __init__(self, request: Request, limit: float) -> None:
        self._body = request.stream()
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._next: Future[bytes] | None = None

    def __iter__(self) -> Iterator[str]:
        """Raises Refused where the body is too long, or no UTF-8, and ClientDisconnect."""
        decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
        while piece := self._take():
            size += len(piece)
            if size > self._limit:
                raise ApiError(
                    413, f"the text has more than {self._limit:,} bytes; send less at once", code="body_too_large"
                )
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
        while len(data) < PIECE and (chunk := await anext(self._body, None)) is not None:
            data += chunk
        return bytes(data)

    def close(self) -> None:
        """Wait for no more of it."""
        if self._next is not None:
            self._next.cancel()


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> str:
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the text is not UTF-8 ({error.reason})", code="invalid_text") from None


async def _costs(text: _ScoredText) -> AsyncGenerator[tuple[Ids, Float64s]]:
    """The ids of a text, boundaries where documents end, and the nats that each costs, (T,), block by block.

    Raises Refused, 429, where too many texts are scored.
    """
    server, served, pieces = text.server, text.served, text.pieces
    loop, chunks = asyncio.get_running_loop(), text.chunks()
    with (
        server.scoring(),
        served.hold(),
        contextlib.closing(pieces) if isinstance(pieces, _Arriving) else contextlib.nullcontext(),
    ):
        while (ids := await loop.run_in_executor(server.threads, next, chunks, None)) is not None:
            done = 0
            async with RequestHandle(server, served, [Job(ids, text.context, (), 0)]) as work:
                while done < len(ids):
                    news = await work.news()
                    nats = np.concatenate([np.empty(0), *(each.details.nats for each in news if each.details)])
                    yield ids[done : done + len(nats)], nats
                    done += len(nats)
                    text.context = next((each.context for each in news if each.context is not None), text.context)


def _split_long(chunks: Iterable[Ids]) -> Iterator[Ids]:
    """None is empty, or much longer than a piece."""
    for chunk in chunks:
        for begin in range(0, len(chunk), PIECE):
            yield chunk[begin : begin + PIECE]


async def _lines(text: _ScoredText, costs: AsyncGenerator[tuple[Ids, Float64s]]) -> AsyncGenerator[bytes]:
    """A line for each block, and one of the sums; or one of what went wrong where that is not the first."""
    total, vocabulary = SurprisalSum(), text.served.model.vocabulary
    try:
        async with contextlib.aclosing(costs) as blocks:
            async for ids, nats in blocks:
                offset = total.loss.characters
                total += tally(vocabulary, ids, nats)
                yield _line({"offset": offset, "surprisal": _round(nats[ids != vocabulary.boundary])})
        yield _line(text.response(total))
    except ApiError as refused:
        if not total.loss.characters:
            raise
        yield refused.body + b"\n"


async def _first(lines: AsyncGenerator[bytes]) -> bytes:
    return await anext(lines)


async def _ahead(first: bytes, lines: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The first line, and the others; some more are made while the client does not read.

    Many clients read nothing before they have sent everything, and would else wait for us while we wait for them.
    """
    made: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)
    made.put_nowait(first)

    maker = asyncio.create_task(_make(lines, made))
    try:
        while (line := await made.get()) is not None:
            yield line
        await maker  # and raise what ended it
    finally:
        maker.cancel()
        await asyncio.gather(maker, return_exceptions=True)


async def _make(lines: AsyncGenerator[bytes], made: asyncio.Queue[bytes | None]) -> None:
    try:
        async with contextlib.aclosing(lines):
            async for line in lines:
                await made.put(line)
    except Exception:
        await made.put(None)
        raise
    await made.put(None)


def _line(values: dict[str, Any]) -> bytes:
    return "".join(pieces(values)).encode() + b"\n"


async def _whole(text: _ScoredText, costs: AsyncGenerator[tuple[Ids, Float64s]]) -> dict[str, Any]:
    """The sums, and all that each symbol costs. Raises Refused, 400, for a text that is too long for that."""
    total, parts, vocabulary = SurprisalSum(), [np.empty(0)], text.served.model.vocabulary
    most = text.server.limits.score_characters
    async with contextlib.aclosing(costs) as blocks:
        async for ids, nats in blocks:
            total += tally(vocabulary, ids, nats)
            parts.append(nats[ids != vocabulary.boundary])
            if total.loss.characters > most:
                raise ApiError(400, f"text: give {most:,} characters at most, or accept {LINES}", "text", "too_large")
    return {**text.response(total), "surprisal": _round(np.concatenate(parts))}


def _round(nats: Float64s) -> Float64s:
    """As many digits as are true, and fewer bytes."""
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
