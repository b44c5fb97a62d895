"""Reads and writes ids. What a model has read is a value, a `Context`, which can be kept, copied and continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from scriven import kernels
from scriven.arrays import Bools, Float32s, Float64s, Ids, State, as_numpy
from scriven.errors import UsageError
from scriven.inference.chunks import StoredText
from scriven.inference.context import RULE, Context
from scriven.inference.numpy_network import NumpyNetwork
from scriven.inference.sampling import draw, draw_after
from scriven.kernels import native_library, sampler
from scriven.kernels.counts import NgramMixture, NgramTable
from scriven.kernels.sampler import Sampler
from scriven.model.shapes import GATES
from scriven.penalties import Past, adjust
from scriven.rules.automaton import RulePlace
from scriven.runtime import needing_torch
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scriven.inference.torch_network import TorchNetwork
    from scriven.model.language_model import CharLM

READ_AT_ONCE = 4096  # characters of all rows together; more is not faster
LOGITS_AT_ONCE = 1 << 22  # values, 16 MB: bounds the memory for many rows or symbols


class Predictor:
    """Reads with a model, in chunks of bounded size and in one number format. It learns nothing."""

    def __init__(
        self,
        model: CharLM | NumpyNetwork,
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
        """`model` is a module of torch in evaluation mode, on the device where it stays, or arrays of numpy.

        The `precision` in which torch reads is `fp32` or `bf16`. With `writing`, native code on the CPU writes in that
        precision. It packs the weights when it is first used; after a change of them call `repack`. Without `writing`,
        torch or numpy writes, in fp32, with the current weights.

        With a `window` above 0, the next character is predicted from the last `window` ones only. They are read again
        from a zero state for every character, as in training on windows. `predict` does not use the window.

        With `counts`, what is read costs what a mixture with them says. Text is drawn from a mixture with
        `writing_counts`, by default the same.

        `training_text` opens the text of the counts, which ongoing counts read before a text that is learned from.

        `missing_counts` says why there are no counts, if the network should be mixed with some.

        `check_stop` is called before every chunk is read, and may raise to end the work.
        """
        self._given = model
        self.is_counts_alone = model.is_empty  # no network, only counts
        self.window = window
        self.vocabulary = vocabulary
        self.precision = precision
        self.writing = None if self.is_counts_alone else writing
        self.check_stop = check_stop
        self.counts = counts
        self.writing_counts = writing_counts or counts
        self.training_text = training_text
        self.missing_counts = missing_counts
        self._sampler: Sampler | None = None

    @property
    def model(self) -> CharLM:
        """The network in torch. Raises UsageError without torch."""
        return in_torch(self._given) if isinstance(self._given, NumpyNetwork) else self._given

    @property
    def settings(self) -> ModelSettings:
        """The settings of the network."""
        return self._given.settings

    @property
    def weights(self) -> Mapping[str, Any]:
        """The current weights of the network, arrays of numpy or torch, named as in a checkpoint."""
        return self._given.weights if isinstance(self._given, NumpyNetwork) else self._given.state_dict()

    @property
    def is_slow(self) -> bool:
        """Whether numpy alone reads or writes with the network: native code does not, and torch is not there."""
        mine = isinstance(self._given, NumpyNetwork) and not self.is_counts_alone
        return mine and (self.writing is None or self.scorer() is None)

    @property
    def learned_sizes(self) -> tuple[int, int]:
        """The numbers of weights that learn, and of values of their bases. Raises UsageError without torch."""
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        return sum(each.numel() for each in parameters), RULE.basis_values([each.shape for each in parameters])

    @cached_property
    def network(self) -> NumpyNetwork | TorchNetwork:
        """What computes the network if native code does not."""
        if isinstance(self._given, NumpyNetwork):
            return self._given
        from scriven.inference.torch_network import TorchNetwork  # noqa: PLC0415 - it imports torch

        return TorchNetwork(self._given, self.precision)

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
        nothing = NumpyNetwork(self.settings, self.vocabulary.size, {})
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
        names = ("vocabulary", "precision", "window", "writing", "check_stop")
        names_of_counts = ("counts", "writing_counts", "training_text", "missing_counts")
        return Predictor(self._given, **{name: getattr(self, name) for name in names + names_of_counts} | values)

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
        """The native code that writes, with the weights that were packed last; None if something else does."""
        if self._sampler is None:
            self.repack()
        return self._sampler

    def repack(self) -> None:
        """Packs the current weights for native code, if that writes."""
        if self.writing is not None:
            self._sampler = Sampler(self.settings, self.weights, self.writing, self.vocabulary.boundary)

    def scorer(self) -> Sampler | None:
        """The native code that reads given text, in int8; None if something else does, in `precision`."""
        return self.sampler() if self.writing == "int8" else None

    @property
    def reading(self) -> str:
        """The precision of reading given text, and of its surprisals."""
        return self.precision if self.scorer() is None else "int8"

    def zero_state(self, rows: int) -> State:
        """Returns the state before anything was read, for N rows."""
        if isinstance(self._given, NumpyNetwork):
            return self._given.zero_state(rows)
        return tuple(tuple(map(as_numpy, layer)) for layer in self._given.zero_state(rows))

    def blank(self, rows: int = 1) -> Context:
        """Returns the context of N rows that have read nothing: the zero state, and all symbols equally likely."""
        return Context(np.zeros((rows, self.vocabulary.size), np.float32))

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

    def next_logits(self, context: Context, *, writing: bool = False) -> Float32s:
        """Returns the logits (N, V) of each row's next character, mixed with the counts for reading or writing."""
        none = np.empty((0, len(context.logits)), np.int64)
        mixed = self.mix(context.logits[None], context, none, self.writing_counts if writing else self.counts)
        found: Float32s = mixed[0]
        return found

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
        logits, state = self._read_all(context, ids)
        return Context(logits, state, self.remember(context, ids))

    def _read_all(self, context: Context, ids: Ids) -> tuple[Float32s, State]:
        """Returns the logits (N, V) after known ids (T, N), and the state."""
        native = self.scorer()
        if native is None:
            logits, state = self._step(context, ids, since=-1)
            last: Float32s = as_numpy(logits[-1])
            return last, state
        self.check_stop()
        before = context.state or native.zero_state(ids.shape[1])
        threads = native_library.threads() if ids.size > 1 else 1  # one symbol takes less time than waking a thread
        *_, last, state = sampler.score(native, context.logits, before, ids, ids, threads)
        return last, state

    def _read_window(self, context: Context) -> Context:
        """Returns the context of rows that see only the last characters through the window."""
        if context.recent is None or not len(context.recent):
            return context
        seen = context.recent[-self.window :]
        logits, _ = self._read_all(self.blank(seen.shape[1]), seen)
        return Context(logits, context.state, context.recent)

    def generate(
        self,
        context: Context,
        settings: SamplingSettings | Sequence[SamplingSettings],
        uniforms: Float64s,
        reuse: bool = False,
        rules: Sequence[RulePlace | None] = (),
        pasts: Sequence[Past | None] = (),
    ) -> tuple[Ids, Context]:
        """Draws ids (T, N), one for each random number in `uniforms` (T, N). Returns them and the context after them.

        The settings are those of all N rows, or one for each row. A row's ids depend only on its own context, settings
        and numbers. (In torch and numpy, one row and many rows agree only to about 1e-6.) `<unk>` is never
        drawn. If texts are made of documents, a row that draws the boundary has ended a document, and starts another by
        reading it. With `reuse`, the given context is void afterwards, as the new one may use its arrays; nobody else
        may hold it.

        `rules` are empty, or have the place of each row in its rule, or None. Where a row has one, `<unk>` is the end
        of its text, and all that comes after means nothing.

        `pasts` are likewise empty, or have what each row has written before, or None. Their bounds become those after.
        """
        sampler = self.sampler()
        if sampler is None:
            return self._generate_step_by_step(context, settings, uniforms, rules, pasts)
        recent, reuse = context.recent, reuse and not self.window
        ids, logits, state = sampler.write(
            context.logits,
            context.state,
            settings,
            uniforms,
            self.window,
            recent,
            reuse,
            self.writing_counts,
            rules,
            pasts,
        )
        carried = self.carry(context, ids).state if self.window and len(ids) else state
        return ids, Context(logits, carried, self.remember(context, ids) if len(ids) else recent)

    def _generate_step_by_step(
        self,
        context: Context,
        settings: SamplingSettings | Sequence[SamplingSettings],
        uniforms: Float64s,
        rules: Sequence[RulePlace | None],
        pasts: Sequence[Past | None],
    ) -> tuple[Ids, Context]:
        ids, places = np.empty(uniforms.shape, np.int64), list(rules)
        each = [settings] * len(context.logits) if isinstance(settings, SamplingSettings) else settings
        looking = list(pasts)
        for row, numbers in zip(ids, uniforms, strict=True):
            logits = self.next_logits(context, writing=True).astype(np.float64)
            logits[:, self.vocabulary.unknown] = -np.inf
            for number, past in enumerate(looking):
                if past is not None:
                    logits[number] = adjust(logits[number], each[number], past)
            for number, place in enumerate(places):
                if place is not None:
                    logits[number] = place.constrain(logits[number])
            row[:] = draw(logits, settings, numbers)
            for number, past in enumerate(looking):
                if past is not None:
                    row[number] = draw_after(logits[number], each[number], numbers[number], past)
                    looking[number] = past.advance(row[number : number + 1])
            places = [place and place.advance(row[number : number + 1]) for number, place in enumerate(places)]
            context = self.read(context, row[None])
        return ids, context

    def predict(self, context: Context, ids: Ids) -> tuple[Float32s, Context]:
        """Reads ids (T, N), at most a chunk. Returns the logits (T, N, V) before each, and the context after them."""
        logits, state = self._step(context, ids)
        values = as_numpy(logits)
        before = np.concatenate((context.logits[None], values[:-1]))
        mixed = self.mix(before, context, ids[:-1], self.counts)
        return mixed, Context(values[-1].copy(), state, self.remember(context, ids))

    def judge(self, context: Context, ids: Ids, targets: Ids) -> tuple[Float64s, Bools, Context]:
        """Reads ids (T, N), at most a chunk, without native code.

        Returns the nats (T, N) that known targets (T, N) cost, each before the id at its place; which targets were the
        likeliest symbols; and the context after the ids.
        """
        if self.counts is not None:
            logits, after = self.predict(context, ids)
            return *self.network.costs(logits, targets), after
        values, state = self._step(context, ids)
        last = as_numpy(values[-1]).copy()
        return *self.network.costs(values, targets, context.logits), Context(last, state, self.remember(context, ids))

    def chunk_length(self, rows: int) -> int:
        """Returns how many characters of N rows are read at once if all of their logits are wanted."""
        return max(1, min(READ_AT_ONCE // rows, LOGITS_AT_ONCE // (rows * self.vocabulary.size)))

    def _step(self, context: Context, ids: Ids, since: int = 0) -> tuple[Any, State]:
        """Returns the logits (t, N, V) after ids (T, N), from the id numbered `since` on, and the state at the end.

        The logits are as the network has them; `as_numpy` makes them numpy's.
        """
        self.check_stop()
        return self.network.read(self.vocabulary.clamp(ids), context.state, self._fresh(ids), since)

    def mix(self, logits: Float32s, context: Context, ids: Ids, counts: NgramMixture | None) -> Float32s:
        """Returns the logits (T + 1, N, V) before, between and after ids (T, N), mixed with those of counts, if any.

        Before a row has read anything, all symbols stay equally likely.
        """
        if counts is None:
            return logits
        seen = context.join_recent(self.vocabulary.clamp(ids))
        mixed = logits.copy()  # a context's logits never change
        after = mixed[len(mixed) - min(len(mixed), len(seen)) :]
        if len(after):
            counts.mix(after, seen, native_library.threads() if len(ids) else 1)
        return mixed

    def _fresh(self, ids: Ids) -> Bools | None:
        """Returns the places in ids (T, N) that begin a document; None if there are none."""
        begins: Bools = ids == self.vocabulary.boundary
        return begins if begins.any() else None


@lru_cache(4)
def in_torch(network: NumpyNetwork) -> CharLM:
    """Returns the same network in torch, on the CPU. Raises UsageError without torch."""
    with needing_torch("this"):
        from scriven.inference.torch_network import make_module  # noqa: PLC0415 - it imports torch
    return make_module(network.settings, network.vocabulary_size, network.weights)


def writing_precision(asked: str, device: str, cell: str = "lstm") -> str | None:
    """Returns the precision that native code writes in, int8 for `auto`; None if native code cannot write.

    The `device` is its type, such as cpu. Torch must write if the cell is a registered one. Raises UsageError if int8
    is requested and native code cannot write, since nothing else has int8.
    """
    if device != "cpu":
        because = f"the device is {device}"
    elif cell not in GATES:
        because = f"the cell {cell} is registered, which torch computes"
    elif kernels.level() == "off":
        because = f"there is none here ({kernels.why()})"
    else:
        return "int8" if asked == "auto" else asked
    if asked == "int8":
        raise UsageError(f"precision int8 is for native code on the CPU, and {because}; use auto or fp32")
    return None


def check_adaptive(predictor: Predictor) -> None:
    """Raises UsageError for a model that cannot learn while it reads."""
    if predictor.window:
        raise UsageError(
            f"a model of windows reads the last {predictor.window:,} characters anew each time, so it cannot learn "
            "while it reads; score it without adapting, or train with --reader.kind stream"
        )
    if predictor.is_counts_alone:
        raise UsageError(
            "a model of counts alone has no weights to learn with, so sessions, the server and adaptive-documents "
            "cannot adapt it; scriven score RUN FILE --adapt and Model.score(text, adapt=True) can"
        )
