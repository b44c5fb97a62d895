"""Reads and writes ids. What a model has read is a value, a `Context`, which can be kept, copied and continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scriven import kernels
from scriven.arrays import Float64s, Ids
from scriven.errors import UsageError
from scriven.inference.chunks import StoredText
from scriven.inference.sampling import draw
from scriven.kernels import native_library, sampler
from scriven.kernels.counts import NgramMixture, NgramTable
from scriven.kernels.sampler import Sampler
from scriven.model.backends import choose_backend, single_threaded
from scriven.model.cells import CELLS
from scriven.model.language_model import CharLM, NoNetwork, State, join_rows, take_rows
from scriven.settings import SamplingSettings
from scriven.vocabulary import Vocabulary

READ_AT_ONCE = 4096  # characters of all rows together; more is not faster
LOGITS_AT_ONCE = 1 << 22  # values, 16 MB: bounds the memory for many rows or symbols


@dataclass(frozen=True)
class Context:
    """What N rows have read: the network's logits (N, V) of each row's next character, and the state (None before any).

    With a window or counts, `recent` has the last characters read (L, N); see `Predictor.next_logits`.
    Nothing changes a context's arrays, so one context can be continued many times.
    """

    logits: Tensor
    state: State | None = None
    recent: Ids | None = None

    def rows(self, numbers: Sequence[int]) -> Context:
        """Returns the context of the rows with these numbers, in that order. A number may occur many times."""
        index = torch.tensor(numbers, dtype=torch.long, device=self.logits.device)
        state = None if self.state is None else take_rows(self.state, index)
        return Context(self.logits[index], state, None if self.recent is None else self.recent[:, list(numbers)])

    def join_recent(self, ids: Ids) -> Ids:
        """Returns the last characters that are known, with ids (T, N) after them."""
        return ids if self.recent is None else np.concatenate((self.recent, ids))


def fit(contexts: Sequence[Context]) -> bool:
    """Whether contexts can share a batch: all or none have a state, and as many last characters are known of each."""
    states = {context.state is None for context in contexts}
    return len(states) == 1 and len({0 if each.recent is None else len(each.recent) for each in contexts}) == 1


def side_by_side(contexts: Sequence[Context]) -> Context:
    """Joins contexts into one, row after row.

    Raises ValueError if they do not `fit`.
    """
    if not fit(contexts):
        raise ValueError(
            "contexts share a batch only if all have read something, and as many last characters are known of each"
        )
    states = [context.state for context in contexts if context.state is not None]
    seen = [context.recent for context in contexts if context.recent is not None]
    state = join_rows(states) if states else None
    return Context(
        torch.cat([context.logits for context in contexts]), state, np.concatenate(seen, 1) if seen else None
    )


class Predictor:
    """Reads with a model, in chunks of bounded size and in one number format. It learns nothing."""

    def __init__(
        self,
        model: CharLM,
        vocabulary: Vocabulary,
        precision: str,
        window: int = 0,
        writing: str | None = None,
        check_stop: Callable[[], None] = lambda: None,
        counts: NgramMixture | None = None,
        writing_counts: NgramMixture | None = None,
        training_text: Callable[[], StoredText] | None = None,
        missing_counts: str = "",
    ) -> None:
        """`model` must be in evaluation mode, on the device where it stays. `precision` is `fp32` or `bf16`.

        With `writing`, native code on the CPU writes in that precision. It packs the weights when it is first used;
        after a change of them call `repack`. Without `writing`, torch writes, in fp32, with the current weights.

        With a `window` above 0, the next character is predicted from the last `window` ones only. They are read again
        from a zero state for every character, as in training on windows. `predict` does not use the window.

        With `counts`, what is read costs what a mixture with them says. Text is drawn from a mixture with
        `writing_counts`, by default the same.

        `training_text` opens the text of the counts, which ongoing counts read before a text that is learned from.

        `missing_counts` says why there are no counts, if the network should be mixed with some.

        `check_stop` is called before every chunk is read, and may raise to end the work.
        """
        self.model = model
        self.window = window
        self.vocabulary = vocabulary
        self.precision = precision
        self.writing = writing if not isinstance(model, NoNetwork) else None
        self.check_stop = check_stop
        self.counts = counts
        self.writing_counts = writing_counts or counts
        self.training_text = training_text
        self.missing_counts = missing_counts
        self._backend = choose_backend(model.settings, model.device, precision)
        # A single step takes as long as reading the weights. Autocast would convert them each time.
        self._step_backend = choose_backend(model.settings, model.device, "fp32")
        self._sampler: Sampler | None = None

    def with_check_stop(self, check_stop: Callable[[], None]) -> Predictor:
        """Returns a predictor like this one that calls `check_stop`."""
        return self._copy_with(check_stop=check_stop)

    def without_counts(self, because: str) -> Predictor:
        """Returns a predictor of the network, which should be mixed with counts."""
        return self._copy_with(missing_counts=because)

    def with_counts(self, counts: NgramMixture | None, writing_counts: NgramMixture | None = None) -> Predictor:
        """Returns a predictor with the same network, mixed with these counts instead."""
        return self._copy_with(counts=counts, writing_counts=writing_counts)

    def parts(self) -> dict[str, Predictor]:
        """Returns the predictors of the network and of the counts alone, of a mixture of both."""
        if self.counts is None or self.is_counts_alone:
            return {}
        return {"network": self.with_counts(None), "counts": self.counts_alone(self.counts.table)}

    def counts_alone(self, table: NgramTable) -> Predictor:
        """Returns a predictor of counts without a network, which reads as this one does."""
        nothing = NoNetwork(self.model.settings, self.vocabulary.size).eval()
        counts = NgramMixture.alone(table)
        return Predictor(
            nothing,
            self.vocabulary,
            "fp32",
            self.window,
            check_stop=self.check_stop,
            counts=counts,
            training_text=self.training_text,
        )

    def _copy_with(self, **values: Any) -> Predictor:
        names = ("model", "vocabulary", "precision", "window", "writing", "check_stop")
        names_of_counts = ("counts", "writing_counts", "training_text", "missing_counts")
        return Predictor(**{name: getattr(self, name) for name in names + names_of_counts} | values)

    @property
    def is_counts_alone(self) -> bool:
        """Whether there is no network, only counts."""
        return isinstance(self.model, NoNetwork)

    @property
    def remembered(self) -> int:
        """How many of the last characters a context has: those of the window, and those that counts look at."""
        return max(self.window, self.counts.longest if self.counts else 0)

    def remember(self, context: Context, ids: Ids) -> Ids | None:
        """Returns the last characters of a context after reading ids (T, N), or None."""
        if not self.remembered:
            return None
        return context.join_recent(self.vocabulary.clamp(ids))[-self.remembered :]

    def sampler(self) -> Sampler | None:
        """The native code that writes, with the weights that were packed last; None if torch writes."""
        if self._sampler is None:
            self.repack()
        return self._sampler

    def repack(self) -> None:
        """Packs the current weights for native code, if that writes."""
        if self.writing is not None:
            weights = self.model.state_dict()
            self._sampler = Sampler(self.model.settings, weights, self.writing, self.vocabulary.boundary)

    def scorer(self) -> Sampler | None:
        """The native code that reads given text, in int8; None if torch reads, in `precision`."""
        return self.sampler() if self.writing == "int8" else None

    @property
    def reading(self) -> str:
        """The precision of reading given text, and of its surprisals."""
        return self.precision if self.scorer() is None else "int8"

    def blank(self, rows: int = 1) -> Context:
        """Returns the context of N rows that have read nothing: the zero state, and all symbols equally likely."""
        return Context(torch.zeros(rows, self.model.vocabulary_size, device=self.model.device))

    @property
    def opening(self) -> Ids:
        """The ids read before any text (0 or 1 of them): the boundary if texts are made of documents.

        Otherwise it is one newline, or nothing if the vocabulary has no newline.
        """
        if self.vocabulary.boundary is not None:
            return np.array([self.vocabulary.boundary])
        ids = self.vocabulary.encode("\n")
        return ids[~self.vocabulary.unseen(ids)]

    def start(self) -> Context:
        """Returns the context at the beginning of a text, which predicts its first character; see `opening`."""
        return self.read(self.blank(), self.opening[:, None])

    def read(self, context: Context, ids: Ids) -> Context:
        """Returns the context after reading ids (T, N), any T, from `context` on. Unseen symbols are read as `<unk>`.

        A boundary begins a document: that row's state is zeroed before it is read.
        """
        context = self.carry(context, ids)
        return self._read_window(context) if self.window else context

    def next_logits(self, context: Context, *, writing: bool = False) -> Tensor:
        """Returns the logits (N, V) of each row's next character, mixed with the counts for reading or writing."""
        none = np.empty((0, len(context.logits)), np.int64)
        return self._mix(context.logits[None], context, none, self.writing_counts if writing else self.counts)[0]

    def carry(self, context: Context, ids: Ids) -> Context:
        """Reads like `read`, but never through the window: the state is carried on.

        With a native `scorer`, a row has the same context, to the bit, in any batch and in pieces of any size.
        """
        if self.is_counts_alone:
            return Context(context.logits, (), self.remember(context, ids))
        length = max(1, READ_AT_ONCE // ids.shape[1])
        for begin in range(0, len(ids), length):
            context = self._carry(context, self.vocabulary.clamp(ids[begin : begin + length]))
        return context

    def _carry(self, context: Context, ids: Ids) -> Context:
        native = self.scorer()
        if native is None:
            return self._after(context, ids, *self._step(context, ids, since=-1))
        self.check_stop()
        before = context.state or native.zero_state(ids.shape[1])
        threads = native_library.threads() if ids.size > 1 else 1  # one symbol takes less time than waking a thread
        *_, logits, state = sampler.score(native, context.logits, before, ids, ids, threads)
        return Context(logits, state, self.remember(context, ids))

    def _after(self, context: Context, ids: Ids, logits: Tensor, state: State) -> Context:
        """Returns the context after reading ids, of the last logits: a copy, so that the rest can be freed."""
        return Context(logits[-1].clone(), state, self.remember(context, ids))

    def _read_window(self, context: Context) -> Context:
        """Returns the context of rows that see only the last characters through the window."""
        if context.recent is None or not len(context.recent):
            return context
        seen = context.recent[-self.window :]
        logits, _ = self._step(self.blank(seen.shape[1]), seen, since=-1)
        return Context(logits[-1].clone(), context.state, context.recent)

    def generate(
        self,
        context: Context,
        settings: SamplingSettings | Sequence[SamplingSettings],
        uniforms: Float64s,
        reuse: bool = False,
    ) -> tuple[Ids, Context]:
        """Draws ids (T, N), one for each random number in `uniforms` (T, N). Returns them and the context after them.

        The settings are those of all N rows, or one for each row. A row's ids depend only on its own context, settings
        and numbers. (In torch, matrix products of one row and of many rows agree only to about 1e-6.) `<unk>` is never
        drawn. If texts are made of documents, a row that draws the boundary has ended a document, and starts another by
        reading it. With `reuse`, the given context is void afterwards, as the new one may use its arrays; nobody else
        may hold it.
        """
        sampler = self.sampler()
        if sampler is None:
            return self._generate_by_torch(context, settings, uniforms)
        recent, reuse = context.recent, reuse and not self.window
        ids, logits, state = sampler.write(
            context.logits, context.state, settings, uniforms, self.window, recent, reuse, self.writing_counts
        )
        carried = self.carry(context, ids).state if self.window and len(ids) else state
        return ids, Context(logits, carried, self.remember(context, ids) if len(ids) else recent)

    def _generate_by_torch(
        self, context: Context, settings: SamplingSettings | Sequence[SamplingSettings], uniforms: Float64s
    ) -> tuple[Ids, Context]:
        ids = np.empty(uniforms.shape, np.int64)
        for row, numbers in zip(ids, uniforms, strict=True):
            logits = self.next_logits(context, writing=True).cpu().double().numpy()
            row[:] = draw(logits, settings, numbers, [self.vocabulary.unknown])
            context = self.read(context, row[None])
        return ids, context

    def predict(self, context: Context, ids: Ids) -> tuple[Tensor, Context]:
        """Reads ids (T, N), at most a chunk. Returns the logits (T, N, V) before each, and the context after them."""
        logits, state = self._step(context, ids)
        before = torch.cat((context.logits[None], logits[:-1]))
        return self._mix(before, context, ids[:-1], self.counts), self._after(context, ids, logits, state)

    def chunk_length(self, rows: int) -> int:
        """Returns how many characters of N rows are read at once if all of their logits are wanted."""
        return max(1, min(READ_AT_ONCE // rows, LOGITS_AT_ONCE // (rows * self.model.vocabulary_size)))

    @torch.inference_mode()
    def _step(self, context: Context, ids: Ids, since: int = 0) -> tuple[Tensor, State]:
        """Returns the logits (t, N, V) after ids (T, N), from the id numbered `since` on, and the state at the end."""
        self.check_stop()
        backend = self._backend if len(ids) > 1 else self._step_backend
        with single_threaded() if ids.shape[1] == 1 else nullcontext():
            known = torch.from_numpy(self.vocabulary.clamp(ids)).to(backend.device)
            _, y, state = self.model.read(known, context.state, self._fresh(ids), backend=backend)  # (T, N, H)
            return self.model.logits(y[since:], backend), state

    def _mix(self, logits: Tensor, context: Context, ids: Ids, counts: NgramMixture | None) -> Tensor:
        """Returns the logits (T + 1, N, V) before, between and after ids (T, N), mixed with those of counts, if any.

        Before a row has read anything, all symbols stay equally likely.
        """
        if counts is None:
            return logits
        seen = context.join_recent(self.vocabulary.clamp(ids))
        mixed = logits.cpu().clone(memory_format=torch.contiguous_format)  # a context's logits never change
        after = mixed[len(mixed) - min(len(mixed), len(seen)) :]
        if len(after):
            counts.mix(after.numpy(), seen, native_library.threads() if len(ids) else 1)
        return mixed.to(logits.device)

    def _fresh(self, ids: Ids) -> Tensor | None:
        """Returns the places in ids (T, N) that begin a document, on the CPU; None if there are none."""
        begins = ids == self.vocabulary.boundary
        return torch.from_numpy(begins) if begins.any() else None


def writing_precision(asked: str, device: torch.device, cell: str = "lstm") -> str | None:
    """Returns the precision that native code writes in, int8 for `auto`; None if torch must write.

    Torch must write if the cell is a registered one. Raises UsageError if int8 is requested and torch must write, since
    torch has no int8.
    """
    if device.type != "cpu":
        because = f"the device is {device.type}"
    elif cell not in CELLS:
        because = f"the cell {cell} is registered, which torch computes"
    elif kernels.level() == "off":
        because = f"here is torch alone ({kernels.why()})"
    else:
        return "int8" if asked == "auto" else asked
    if asked == "int8":
        raise UsageError(f"precision int8 is for native code on the CPU, and {because}; use auto or fp32")
    return None
