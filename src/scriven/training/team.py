"""Workers come together around a plan: they compare themselves, and stop when one of them is asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from scriven.corpus.build import Progress, build
from scriven.corpus.store import Corpus, is_corpus
from scriven.errors import InputError, Interrupted
from scriven.signals import StopFlag, leave_where_asked
from scriven.training.alike import check_alike
from scriven.training.launch import Place, join, join_leader, start_workers, use_device
from scriven.training.parallel import Workers
from scriven.training.plan import Plan
from scriven.training.request import text_hash

Stop = Callable[[], int]  # the number of a signal that asks to stop, or 0


@contextlib.contextmanager
def leading(plan: Plan, place: Place | None, stop: Stop) -> Iterator[tuple[Workers, Stop]]:
    """The workers of a plan, led by this process, and what any of them was asked. On an error, the others are ended.

    Raises Interrupted where one was asked to stop before they begin, InputError where they do not fit together.
    """
    workers = join(place, stop) if place else start_workers(plan.settings.training.workers, stop)
    try:
        asked = _anywhere(workers, stop)
        with workers.pausing(partial(leave_where_asked, asked)):
            check_alike(workers)
            workers.broadcast(plan.to_json())
            _with_own_corpus(plan, workers, (), asked)
        yield workers, asked
    except BaseException:
        workers.end()  # they have nothing to save
        raise
    finally:
        workers.close()


@contextlib.contextmanager
def following(texts: tuple[str, ...], place: Place | None, stop: Stop) -> Iterator[tuple[Plan, Workers, Stop]]:
    """Rank 0's plan, for this worker, the workers, and what any of them was asked. Raises as `leading` does."""
    with contextlib.closing(join(place, stop) if place else join_leader(stop)) as workers:
        asked = _anywhere(workers, stop)
        with workers.pausing(partial(leave_where_asked, asked)):
            check_alike(workers)
            plan = Plan.from_json(workers.broadcast(None))
            plan = _with_own_corpus(plan, workers, texts, asked)
        yield plan, workers, asked


def _anywhere(workers: Workers, stop: Stop) -> Stop:
    """`stop` of all workers: what one of them is asked, all are."""
    if isinstance(stop, StopFlag):  # which hears of signals whatever this process waits for
        stop.then(workers.tell_to_stop)
        stop.last = workers.end
    return lambda: workers.asked_to_stop(stop())


def stoppable(progress: Progress | None, stop: Stop) -> Progress:
    """`progress`, which ends the work that reports to it when there was a signal to stop."""

    def _report(done: int, total: int | None) -> None:
        if number := stop():
            raise Interrupted("stopped while the text was read; nothing was trained yet, so just start again", number)
        if progress:
            progress(done, total)

    return _report


def _with_own_corpus(plan: Plan, workers: Workers, texts: tuple[str, ...], stop: Stop) -> Plan:
    """The plan with the corpus as this worker sees it: at the same place as rank 0, else made of the texts here.

    The first worker of every machine makes it, the others wait for that. Raises InputError where it is another text.
    """
    use_device(plan.settings.training.device, workers.local_rank)
    everyone = torch.zeros(workers.size, 1)
    for turn in (0, 1):
        if (workers.local_rank > 0) == turn:
            corpus = _seen(plan, texts, stop)
        workers.gather(everyone[:1], workers.size)  # nobody goes on before everyone is here
    if text_hash(corpus) != workers.broadcast(text_hash(corpus)):
        raise InputError(
            f"worker {workers.rank} has another text in {corpus.name} than the first worker; give both the same, or a "
            "corpus on a disk that all machines see"
        )
    return replace(plan, corpus=corpus.name)


def _seen(plan: Plan, texts: tuple[str, ...], stop: Stop) -> Corpus:
    if not texts or is_corpus([plan.corpus]):
        return Corpus.open(plan.corpus)
    if is_corpus(texts):
        return Corpus.open(texts[0])
    return Corpus.open(build(texts, plan.settings.corpus, progress=stoppable(None, stop)))
