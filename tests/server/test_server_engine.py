"""The engine: what is read and written for many requests at once is what is read and written for each alone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scriven.inference.context import Context
from scriven.inference.generation import LIVE, Generation
from scriven.inference.predictor import Predictor
from scriven.inference.surprisal import read_rows
from scriven.kernels import native_library
from scriven.sampling_settings import SamplingSettings
from scriven.server import engine
from scriven.server.disconnects import DisconnectAwareResponse
from scriven.server.jobs import Job, JobUpdate, fair_shares
from scriven.server.limits import LIMITS, Limits
from scriven.server.prefill import surprisals_from_logits
from scriven.server.responses import ApiError
from scriven.server.shared import RequestHandle, ServedModel, ServerState
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.trained_model import Model
from small_model import favour, predictor

WAYS = [None, *(["fp32", "int8"] if native_library.level() != "off" else [])]  # torch and native code
FEW = replace(LIMITS, rows=5, queue=40)
DEADLINE = 60.0  # seconds


def model_of(way: str | None, window: int = 0, letters: str = "\n abcde,") -> Model:
    plain = predictor(letters, "\n" if "\n" not in letters else None)
    settings: Settings = validate({"model": {"width": 8}})
    return Model(Predictor(plain.model, plain.vocabulary, "fp32", window, way), settings)


@pytest.mark.parametrize("symbols", [2, 9, 75])
def test_costs_of_texts_side_by_side_are_those_of_each_alone(symbols: int) -> None:
    random = np.random.default_rng(symbols)
    with_symbols = predictor("".join(map(chr, range(97, 96 + symbols))))
    logits, ids = random.normal(0, 9, (65, with_symbols.vocabulary.size)), random.integers(0, symbols, 65)
    together = surprisals_from_logits(logits, ids, 20, with_symbols)
    for row in range(65):
        alone, one = (
            surprisals_from_logits(logits[row : row + 1], ids[row : row + 1], 3, with_symbols),
            together.row(row, 3),
        )
        assert alone.likeliest and one.likeliest and together.row(row, 0).likeliest is None
        assert np.array_equal(alone.nats, one.nats) and np.array_equal(alone.ids, one.ids)
        assert all(map(np.array_equal, alone.likeliest, one.likeliest))


def line(model: Model, seed: int, length: int, *, keep: bool = False) -> Generation:
    settings = SamplingSettings(temperature=[0.0, 0.7, 1.5][seed % 3], top_k=seed % 4)
    return Generation(np.random.default_rng(seed), settings, length, model.pen(["ab"] if seed % 2 else []), keep)


def job(model: Model, seed: int) -> Job:
    """Prompts and texts of many lengths, told of in every way."""
    ids = np.random.default_rng(seed).integers(0, model.vocabulary.size + 2, seed * 37 % 300)
    lines = tuple(line(model, seed + n, (seed * 13 + n) % 50, keep=seed % 3 == 0) for n in range(seed % 4))
    told = [None, 0, 2][seed % 3]
    return Job(ids, model.predictor.start(), lines, told, [None, 3][seed % 2])


def serve(model: Model, limits: Limits, use: Callable[[ServerState, ServedModel], Any]) -> Any:
    """What the coroutine gives that `use` makes, while the engine runs."""
    served = ServedModel("it", model, limits)
    served.engine.start()
    try:
        return asyncio.run(use(ServerState({"it": served}, limits), served))
    finally:
        served.engine.stop()
        assert served.engine.rows == served.engine.waiting_jobs == served.engine.waiting_symbols == 0


async def run_jobs(server: ServerState, served: ServedModel, jobs: list[Job]) -> list[JobUpdate]:
    """All that becomes of jobs."""
    told: list[JobUpdate] = []
    ends = sum(1 + len(each.generations) for each in jobs)
    async with RequestHandle(server, served, jobs) as work:
        while sum(news.done for news in told) < ends:
            told += await work.updates()
    return told


def summary(told: list[JobUpdate], number: int) -> list[Any]:
    """What was told of one job, however it was cut into pieces."""
    found: list[Any] = []
    for which in (None, 0, 1, 2):
        news = [each for each in told if each.job == number and each.generation == which]
        details = [each.surprisals for each in news if each.surprisals is not None]
        found += ["".join(each.text for each in news), sum(each.symbols for each in news), len(news) > 0]
        found += [np.concatenate([np.empty(0), *(each.ids for each in details)]).tolist()]
        found += [np.concatenate([np.empty(0), *(each.nats for each in details)]).tolist()]
        found += [
            np.concatenate([np.empty(0), *(each.likeliest[1].ravel() for each in details if each.likeliest)]).tolist()
        ]
        found += [each.context.logits.tolist() for each in news if each.context is not None]
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("window", "letters"), [(0, "\n abcde,"), (20, "\n abcde,"), (0, " abcde,")])
def test_what_becomes_of_a_request_does_not_depend_on_others(way: str | None, window: int, letters: str) -> None:
    torch.set_num_threads(1)
    model = model_of(way, window, letters)

    async def together(server: ServerState, served: ServedModel) -> list[list[JobUpdate]]:
        return await asyncio.gather(*(run_jobs(server, served, [job(model, seed)]) for seed in range(16)))

    async def alone(server: ServerState, served: ServedModel) -> list[list[JobUpdate]]:
        return [await run_jobs(server, served, [job(model, seed)]) for seed in range(16)]

    for one, other in zip(serve(model, LIMITS, together), serve(model, FEW, alone), strict=True):
        assert_alike(summary(one, 0), summary(other, 0), exact=way is not None)


def assert_alike(one: list[Any], other: list[Any], *, exact: bool) -> None:
    """Equal, to the bit where native code writes; as far as matrix products of one and many rows agree in torch."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        if exact or not isinstance(left, list):
            assert left == right
        else:
            assert np.allclose(np.array(left), np.array(right), atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_it_writes_what_the_library_writes(way: str | None) -> None:
    model = model_of(way)
    prompts = ["abc", "", "dead bad cab", "a,b " * 100]
    jobs = [
        Job(model.read_ids(prompt), model.predictor.start(), (line(model, seed, 90),))
        for seed, prompt in enumerate(prompts)
    ]
    told = serve(model, LIMITS, lambda server, served: run_jobs(server, served, jobs))
    for seed, prompt in enumerate(prompts):
        asked = line(model, seed, 90)
        expected = model.sample(
            prompt, length=90, seed=seed, stop=["ab"] if seed % 2 else [], **asked.settings.model_dump()
        )
        assert "".join(news.text for news in told if news.job == seed) == expected


@pytest.mark.parametrize("way", WAYS)
def test_costs_and_contexts_are_those_of_reading(way: str | None) -> None:
    model = model_of(way)
    ids = model.read_ids("a bad cab, € " * 50)
    start = model.predictor.start()
    jobs = [Job(ids, start, (), told, None) for told in (None, 0, 3)]
    told = serve(model, LIMITS, lambda server, served: run_jobs(server, served, jobs))
    nats, _, after = read_rows(model.predictor, ids[:, None], start)
    for number in (1, 2):
        details = [news.surprisals for news in told if news.job == number and news.surprisals is not None]
        assert np.allclose(np.concatenate([each.nats for each in details]), nats[:, 0], atol=1e-4)
    best = np.concatenate([each.likeliest[1][:, 0] for each in details if each.likeliest is not None])
    assert (best >= -nats[:, 0] - 1e-4).all()
    for context in (news.context for news in told if news.context is not None):
        assert np.allclose(context.logits, after.logits, atol=1e-4)


def test_a_kept_context_is_that_after_the_text() -> None:
    model = model_of(WAYS[-1])
    asked = line(model, 4, 43, keep=True)
    told = serve(
        model,
        LIMITS,
        lambda server, served: run_jobs(
            server, served, [Job(model.read_ids("abc"), model.predictor.start(), (asked,))]
        ),
    )
    text = "".join(news.text for news in told)
    kept = next(news.context for news in told if news.generation == 0 and news.context is not None)
    expected = model.predictor.read(model.predictor.start(), model.read_ids("abc" + text)[:, None])
    assert np.allclose(kept.logits, expected.logits, atol=1e-5)


def test_what_waits_for_rows_is_counted_and_too_much_is_refused() -> None:
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        long = Job(model.read_ids("a"), model.predictor.start(), (line(model, 2, 100_000),))
        async with contextlib.AsyncExitStack() as works:
            for _ in range(5):
                await (
                    await works.enter_async_context(RequestHandle(server, served, [replace_line(model, long)]))
                ).updates()
            many = [job(model, 7) for _ in range(20)]
            one, other = run_jobs(server, served, many), run_jobs(server, served, [job(model, 7)])
            waiting = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
            await until(lambda: served.engine.waiting_jobs == 21)
            assert served.engine.rows == 5
            with pytest.raises(ApiError, match="21 texts are already waiting"):
                RequestHandle(server, served, many)
        await asyncio.gather(*waiting)

    serve(model, FEW, use)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [0, 20])
def test_a_request_for_much_makes_room_and_its_texts_stay_the_same(way: str | None, window: int) -> None:
    """One request once had every row until it was done: for minutes, while others waited and were refused."""
    torch.set_num_threads(1)
    model = model_of(way, window)
    start, ids = model.predictor.start(), model.read_ids("a bad cab")

    def much() -> list[Job]:
        return [
            Job(ids[: n + 1], start, tuple(line(model, 8 * n + k, 60, keep=True) for k in range(8))) for n in (0, 4)
        ]

    async def crowded(server: ServerState, served: ServedModel) -> list[JobUpdate]:
        async with RequestHandle(server, served, much()) as work:
            told = await work.updates()
            while sum(news.done for news in told) < 2 + 16:
                await run_jobs(server, served, [job(model, 3)])
                told += await work.updates()
        return told

    alone = serve(model, LIMITS, lambda server, served: run_jobs(server, served, much()))
    together = serve(model, FEW, crowded)
    for number in (0, 1):
        assert_alike(summary(together, number), summary(alone, number), exact=way is not None)


def test_another_request_gets_rows_at_once() -> None:
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        lines = tuple(line(model, 2, 10_000_000) for _ in range(20))
        async with RequestHandle(server, served, [Job(model.read_ids("a"), model.predictor.start(), lines)]) as work:
            while not any(news.symbols for news in await work.updates()):
                pass
            assert served.engine.rows == 5
            for seed in (7, 5, 6):
                assert (await run_jobs(server, served, [job(model, seed)]))[-1].done

    serve(model, FEW, use)


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(0, 12))
def test_rows_are_shared_as_evenly_as_they_are_wanted(wanted: list[int], more: int) -> None:
    rows = len(wanted) + more
    given = fair_shares(wanted, rows)
    assert sum(given) == min(rows, sum(wanted))
    assert all(got <= wants for got, wants in zip(given, wanted, strict=True))
    least = min((got for got, wants in zip(given, wanted, strict=True) if got < wants), default=20)
    assert max(given, default=0) <= least + 1


def replace_line(model: Model, asked: Job) -> Job:
    return replace(asked, generations=(line(model, 2, 100_000),))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def test_what_is_cancelled_frees_its_rows() -> None:
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        reading = Job(np.zeros(1_000_000, np.int64), model.predictor.start(), (line(model, 0, 5),))
        writing = Job(model.read_ids("a"), model.predictor.start(), (line(model, 0, 1_000_000),))
        for each in (reading, writing):
            async with RequestHandle(server, served, [each, *(job(model, 9) for _ in range(30))]):
                await until(lambda: served.engine.rows > 0)
            assert (await run_jobs(server, served, [job(model, 2)]))[-1].done
            await until(lambda: served.engine.rows == served.engine.waiting_jobs == 0)

    serve(model, FEW, use)


def test_a_stream_that_ends_before_its_first_piece_drops_its_work() -> None:
    """Its client read nothing, and left: what would have made pieces never began, and once left the work behind."""
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        work = RequestHandle(server, served, [Job(model.read_ids("a"), served.start, (line(model, 0, 10_000_000),))])
        await DisconnectAwareResponse(nothing(), "text/plain", within=work)({}, disconnect, unread)

    serve(model, LIMITS, use)


async def nothing() -> AsyncGenerator[bytes]:
    yield b""


async def disconnect() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def unread(message: Any) -> None:
    await asyncio.Event().wait()


def test_a_request_that_takes_too_long_is_given_up() -> None:
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        with pytest.raises(ApiError, match=r"longer than 0\.1 s") as caught:
            await run_jobs(server, served, [Job(model.read_ids("a"), served.start, (line(model, 0, 10_000_000),))])
        assert caught.value.status == 503

    serve(model, replace(LIMITS, seconds=0.1), use)


@pytest.mark.parametrize("way", WAYS)
def test_a_text_that_is_read_slowly_holds_up_no_other(way: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes step by step where the likeliest symbols are asked for; the others once waited for 2,048 steps."""
    model, now = model_of(way), [0.0]
    monkeypatch.setattr(engine, "time", Mock(monotonic=lambda: now[0]))

    async def use(server: ServerState, served: ServedModel) -> int:
        reads = SlowReads(served.engine, now)
        for name in ("read", "predict"):
            monkeypatch.setattr(model.predictor, name, reads.slow(getattr(model.predictor, name)))
        with contextlib.ExitStack() as ends:
            ends.callback(reads.allow, 1 << 30)  # also where the other text is never done: the engine must end
            async with RequestHandle(server, served, [Job(np.zeros(20_000, np.int64), served.start, (), 2)]) as work:
                await work.updates()
                begun = served.engine.read
                other = Job(np.empty(0, np.int64), served.start, (line(model, 0, 5),))
                answer = asyncio.ensure_future(run_jobs(server, served, [other]))
                await asyncio.sleep(0)  # the engine has been asked for it
                reads.allow(begun + 1000)
                await answer
                return served.engine.read - begun

    assert serve(model, replace(LIMITS, seconds=DEADLINE), use) < 2000


class SlowReads:
    """Reading, each time as long as all that may be read in a turn, and no further than is allowed.

    The engine reads on while the requests' thread waits for the processor: how far would be chance.
    """

    def __init__(self, reader: engine.Engine, now: list[float]) -> None:
        """At first the engine may read one piece; `now` is the time that it goes by."""
        self._reader, self._now = reader, now
        self._most = 1
        self._changed = threading.Condition()

    def allow(self, symbols: int) -> None:
        """Lets the engine read on until it has read this many symbols since its start."""
        with self._changed:
            self._most = symbols
            self._changed.notify_all()

    def slow(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """This way to read, made slow."""

        def slow(*given: Any) -> Any:
            with self._changed:
                self._changed.wait_for(lambda: self._reader.read < self._most)
            self._now[0] += engine.PREFILL_SECONDS
            return read(*given)

        return slow


def test_a_text_is_written_while_two_callers_always_have_another_function_ready() -> None:
    """Each function queues the next of its own, as two searches do whose requests' thread is quick."""
    model = model_of(WAYS[-1])
    called: list[int] = []  # what was written before each function

    async def use(server: ServerState, served: ServedModel) -> None:
        reader = served.engine

        def again() -> None:
            called.append(reader.written)
            if reader.written < 300 and len(called) < 10_000:
                reader.call(again)

        other = Job(model.read_ids("a"), served.start, (line(model, 0, 300),))
        async with RequestHandle(server, served, [other]) as work:
            for _ in range(2):
                reader.call(again)
            done = False
            while not done:
                done = any(news.generation == 0 and news.done for news in await work.updates())

    serve(model, replace(LIMITS, seconds=DEADLINE), use)
    assert len(called) < 10_000  # a turn runs one function, and writes a block of the text
    meanwhile = [written for written in called if 0 < written < 300]
    assert len(meanwhile) > 2 and meanwhile == sorted(set(meanwhile))


def test_a_client_that_reads_slowly_has_no_more_time_than_others() -> None:
    model = model_of(WAYS[-1])

    async def use(server: ServerState, served: ServedModel) -> None:
        async with RequestHandle(
            server, served, [Job(model.read_ids("a"), served.start, (line(model, 0, 1_000_000),))]
        ) as work:
            with pytest.raises(ApiError, match=r"longer than 0\.1 s"):
                for _ in range(50):
                    await work.updates()
                    await asyncio.sleep(0.02)  # there is news whenever the client is ready for some

    serve(model, replace(LIMITS, seconds=0.1), use)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(RuntimeError("no"), 500, "an internal error of the server"), (MemoryError(), 503, "does not have enough memory")],
)
def test_a_mistake_ends_those_requests_alone_that_met_it(
    error: Exception, status: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(None)

    async def use(server: ServerState, served: ServedModel) -> list[JobUpdate]:
        with monkeypatch.context() as patched:
            patched.setattr(model.predictor, "generate", Mock(side_effect=error))
            with pytest.raises(ApiError, match=said) as refused:
                await run_jobs(server, served, [Job(model.read_ids("a"), served.start, (line(model, 0, 20),))])
        assert refused.value.status == status
        return await run_jobs(server, served, [Job(model.read_ids("a"), served.start, (line(model, 0, 20),))])

    assert sum(news.symbols for news in serve(model, LIMITS, use)) == 20
    assert "a turn of the engine failed" in caplog.text


def test_a_document_ends_its_text() -> None:
    plain = predictor(" abcde,", "\n")
    favour(plain, plain.vocabulary.boundary, 0.5)
    model = Model(plain, validate({"model": {"width": 8}, "corpus": {"documents": "lines"}}))
    asked = Generation(np.random.default_rng(1), SamplingSettings(temperature=1.0), 500, model.pen((), until_end=True))
    start: Context = model.predictor.start()
    told = serve(
        model, LIMITS, lambda server, served: run_jobs(server, served, [Job(np.empty(0, np.int64), start, (asked,))])
    )
    assert asked.pen.ended
    assert "\n" not in "".join(news.text for news in told)


def test_requests_join_and_leave_between_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block waits to be let through: who comes in one is in the next one, who goes in one is not in the next."""
    model = model_of(WAYS[-1])
    blocks: list[tuple[int, int]] = []  # symbols and rows of each, as it begins
    let, write = threading.Semaphore(0), model.predictor.generate

    def held(context: Context, settings: Any, uniforms: Any, **more: Any) -> Any:
        blocks.append(uniforms.shape)
        assert let.acquire(timeout=20)
        return write(context, settings, uniforms, **more)

    monkeypatch.setattr(model.predictor, "generate", held)

    async def next_block() -> int:
        """The rows of the next block, which is let begin and no more."""
        number = len(blocks)
        let.release()
        async with asyncio.timeout(20):
            while len(blocks) == number:
                await asyncio.sleep(0.001)
        return blocks[number][1]

    async def use(server: ServerState, served: ServedModel) -> None:
        endless = [Job(model.read_ids("a"), served.start, (line(model, 0, 10_000_000),)) for _ in range(3)]
        async with RequestHandle(server, served, endless[:2]):
            assert [await next_block() for _ in range(4)][1:] == [2, 2, 2]
            async with RequestHandle(server, served, endless[2:]):
                assert await next_block() == 3
            assert await next_block() == 2
        let.release(1000)

    serve(model, LIMITS, use)
    assert max(length for length, _ in blocks) <= LIVE
