"""The native sampler: one call draws and reads many characters, for several texts at once.

The same random numbers give the same ids, independent of the other rows: in int8 on every processor, in fp32 and bf16
on every processor with fused multiply-add. `scriven.kernels.packing` says what these formats are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import POINTER, Array, addressof, c_double, c_int64, c_void_p
from operator import attrgetter
from typing import Any

import numpy as np

from scriven.arrays import Bools, Float32s, Float64s, Ids, State, as_numpy
from scriven.kernels import native_library
from scriven.kernels.counts import NgramMixture
from scriven.kernels.native_library import NativeStruct, fields
from scriven.kernels.packing import Packer
from scriven.penalties import Past
from scriven.rules.automaton import RulePlace
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings

CACHE_BYTES = 1 << 20  # of a core's second-level cache, if the system does not say
ROWS_PER_THREAD = 16  # rows that a thread takes, or a multiple: as in native/sampler.h


class _Drawing(NativeStruct):
    _fields_ = fields(c_double, "temperature top_k top_p min_p")


_DRAWING = attrgetter(*(name for name, _ in _Drawing._fields_))  # of settings


class _RowRule(NativeStruct):
    _fields_ = (*fields(c_int64, "width state left ends"), *fields(c_void_p, "next columns distance"))


_PENALTIES = (
    "typical_p mirostat_tau mirostat_eta repetition_penalty presence_penalty frequency_penalty dry_multiplier dry_base"
)
_LENGTHS = "repeat_last_n dry_allowed_length dry_penalty_last_n novel"


class _RowPast(NativeStruct):
    _fields_ = (
        *fields(c_double, _PENALTIES),
        *fields(c_int64, _LENGTHS),
        ("count", c_int64),
        *fields(c_void_p, "ids bias index bound"),
    )


class _SamplerWrite(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads rows count window seen longest_past"),
        *fields(c_void_p, "model partner uniforms drawing rules pasts recent"),
        ("state", POINTER(c_void_p)),
        *fields(c_void_p, "logits ids"),
    )


class _ScorerRead(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads rows steps seen"),
        *fields(c_void_p, "model partner read targets"),
        ("state", POINTER(c_void_p)),
        *fields(c_void_p, "logits nats right"),
    )


class Sampler:
    """A model's weights, packed for sampling. It keeps no state between calls."""

    def __init__(
        self,
        settings: ModelSettings,
        weights: Mapping[str, Any],
        precision: str,
        boundary: int | None = None,
    ) -> None:
        """Packs the weights, arrays of numpy or torch, named as in a checkpoint.

        The id `boundary` begins a document and zeroes the state. Later changes of the weights have no effect here.
        Raises RuntimeError if there is no library.
        """
        self._write = native_library.function_of(_SamplerWrite)
        arrays = {name: as_numpy(weight).astype(np.float32, copy=False) for name, weight in weights.items()}
        self._packer = Packer(settings, arrays, precision)  # keeps the packed arrays alive
        self._model = self._packer.model(-1 if boundary is None else boundary)
        self._symbols = int(self._model.symbols)
        self.widths = [layer.cells for layer in self._packer.layers]
        self.state_size = settings.state_arrays
        cache = native_library.declare("scriven_cache", [], c_int64)() or CACHE_BYTES
        self._caches = -(-self._packer.bytes // cache)  # the number of cores whose caches can hold the weights

    @property
    def packed(self) -> int:
        """The address of the packed model, for native functions."""
        return addressof(self._model)

    @property
    def sha256(self) -> str:
        """The hash of all that native code computes with; see `Packer`."""
        return self._packer.sha256

    @property
    def symbols(self) -> int:
        """The number of symbols V."""
        return self._symbols

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        return tuple((np.zeros((rows, width), np.float32),) * self.state_size for width in self.widths)

    def copies(self, logits: Float32s, state: State, reuse: bool = False) -> tuple[Float32s, State, Array[c_void_p]]:
        """Copies logits (N, V) and a state for native code to change; returns them and the addresses of the state.

        With `reuse`, arrays that native code can change are not copied. Raises ValueError if their shapes are not those
        of this model.
        """
        rows = logits.shape[0]
        logits = _copy(logits, (rows, self.symbols), reuse)
        after = []
        addresses = (c_void_p * (2 * len(self.widths)))()
        for depth, (layer, width) in enumerate(zip(state, self.widths, strict=True)):
            parts = [_copy(part, (rows, width), reuse) for part in layer]
            for number, part in enumerate(parts):
                addresses[2 * depth + number] = part.ctypes.data
            after.append(tuple(parts))
        return logits, tuple(after), addresses

    def write(
        self,
        logits: Float32s,
        state: State | None,
        settings: SamplingSettings | Sequence[SamplingSettings],
        uniforms: Float64s,
        window: int = 0,
        recent: Ids | None = None,
        reuse: bool = False,
        mixture: NgramMixture | None = None,
        rules: Sequence[RulePlace | None] = (),
        pasts: Sequence[Past | None] = (),
    ) -> tuple[Ids, Float32s, State]:
        """Draws `count` ids for each row by `uniforms` (count, N), each from the logits (N, V) after the ids before it.

        Returns ids (count, N), and the logits and the state after reading the last of them. A state has a tuple of
        arrays (N, H) for each layer; None means zeros. The settings are for all rows, or one for each row.
        `<unk>`, the last symbol, is never drawn. Arguments are not changed. But with `reuse` the given logits and state
        may become those after, which saves a tenth of the time of a short block.
        It uses at most `native_library.threads()`.

        `recent` (M, N) are the ids before. With a `window` above 0, logits depend only on the last `window` ids, which
        are read again from a zero state for every id. The state then does not change. With a `mixture`, ids are drawn
        from its logits, in the context of the ids before; the logits given and returned are the network's.

        `rules` are empty, or have the place of each row in its rule, or None. Where a row has one, `<unk>` is the end
        of its text, and all that comes after means nothing. `pasts` are likewise what each row has written; their
        bounds become those after. Where one has an index, `<unk>` is the end of a text for which nothing is left.
        """
        uniforms = np.ascontiguousarray(uniforms, np.float64)
        (count, rows), ids = uniforms.shape, np.empty(uniforms.shape, np.int64)
        drawing = np.array([*map(_DRAWING, _each(settings, rows))], np.float64)  # (N, 4): N of _Drawing
        reuse = reuse and state is not None  # the layers of a zero state share one array
        logits, after, addresses = self.copies(logits, self.zero_state(rows) if state is None else state, reuse)
        if logits.shape[0] != rows:
            raise ValueError(f"there are logits of {logits.shape[0]} rows, but random numbers for {rows}")
        before = self._recent(recent, rows)
        self._write(
            _SamplerWrite(
                threads=self.threads_for(rows),
                rows=rows,
                count=count,
                window=window,
                seen=0 if before is None else len(before),
                longest_past=max((len(each.ids) for each in pasts if each), default=0),
                model=self.packed,
                partner=mixture.native if mixture else None,
                uniforms=uniforms.ctypes.data,
                drawing=drawing.ctypes.data,
                rules=addressof(table) if (table := _rule_table(rules, rows, self.symbols)) else None,
                pasts=addressof(past) if (past := _past_table(pasts, _each(settings, rows), self.symbols)) else None,
                recent=None if before is None else before.ctypes.data,
                state=addresses,
                logits=logits.ctypes.data,
                ids=ids.ctypes.data,
            )
        )
        return ids, logits, after

    def _recent(self, recent: Ids | None, rows: int) -> Ids | None:
        """Checks the ids before for native code. Raises ValueError if they cannot be such."""
        if recent is None:
            return None
        before = np.ascontiguousarray(recent, np.int64)
        if before.shape[1:] != (rows,):
            raise ValueError(f"recent ids {before.shape} for {rows} rows")
        if before.size and not 0 <= before.min() <= before.max() < self.symbols:
            raise ValueError(f"recent ids from {before.min()} to {before.max()}, of {self.symbols} symbols")
        return before

    def threads_for(self, rows: int) -> int:
        """The number of threads that divide the rows, or the weights if there are few rows and it keeps them in caches.

        With an LSTM 2x512, two threads then generate one text 3.7 times as fast as one thread does, but 0.7 times as
        fast while another program keeps one of two cores busy. With smaller models they gain less, and lose more.
        """
        useful = -(-rows // ROWS_PER_THREAD) if rows > ROWS_PER_THREAD else self._caches
        return min(native_library.threads(), useful)


def _rule_table(rules: Sequence[RulePlace | None], rows: int, symbols: int) -> Array[_RowRule] | None:
    """Returns the places of rows in their rules for native code, whose arrays the rules keep alive; None without any.

    Raises ValueError for rules of other symbols, or of another number of rows.
    """
    if not any(rules):
        return None
    if len(rules) != rows or any(each and len(each.automaton.columns) != symbols for each in rules):
        raise ValueError(f"rules of {len(rules)} rows for {rows} of {symbols} symbols")
    table = (_RowRule * rows)()
    for row, place in enumerate(rules):
        if place is not None:
            automaton = place.automaton
            table[row] = _RowRule(
                width=automaton.next.shape[1],
                state=place.state,
                left=place.left,
                ends=automaton.ends,
                next=automaton.next.ctypes.data,
                columns=automaton.columns.ctypes.data,
                distance=automaton.distance.ctypes.data,
            )
    return table


def _past_table(
    pasts: Sequence[Past | None], settings: Sequence[SamplingSettings], symbols: int
) -> Array[_RowPast] | None:
    """Returns what rows have written for native code, whose arrays the pasts keep alive; None without any.

    Raises ValueError for ids or a bias of other symbols, or for another number of rows.
    """
    if not any(pasts):
        return None
    if len(pasts) != len(settings):
        raise ValueError(f"pasts of {len(pasts)} rows for {len(settings)}")
    table = (_RowPast * len(settings))()
    for row, (past, drawing) in enumerate(zip(pasts, settings, strict=True)):
        if past is not None:
            ids, bias = past.ids, past.bias
            if ids.size and not 0 <= ids.min() <= ids.max() < symbols:
                raise ValueError(f"written ids from {ids.min()} to {ids.max()}, of {symbols} symbols")
            if bias is not None and (bias.shape != (symbols,) or bias.dtype != np.float32):
                raise ValueError(f"a bias {bias.shape} in {bias.dtype} for {symbols} symbols")
            table[row] = _RowPast(
                typical_p=drawing.typical_p,
                mirostat_tau=drawing.mirostat_tau,
                mirostat_eta=drawing.mirostat_eta,
                repetition_penalty=drawing.repetition_penalty,
                presence_penalty=drawing.presence_penalty,
                frequency_penalty=drawing.frequency_penalty,
                dry_multiplier=drawing.dry_multiplier,
                dry_base=drawing.dry_base,
                repeat_last_n=drawing.repeat_last_n,
                dry_allowed_length=drawing.dry_allowed_length,
                dry_penalty_last_n=drawing.dry_penalty_last_n,
                novel=drawing.novel,
                count=len(ids),
                ids=ids.ctypes.data,
                bias=None if bias is None else bias.ctypes.data,
                index=past.training.native if past.training and drawing.novel else None,
                bound=past.bound.ctypes.data,
            )
    return table


def _copy(array: Float32s, shape: tuple[int, ...], reuse: bool) -> Float32s:
    """A copy to write to, or with `reuse` the array itself. Raises ValueError if it does not have the shape."""
    if array.shape != shape:
        raise ValueError(f"an array has the shape {tuple(array.shape)}, not {shape}")
    if reuse and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.array(array, np.float32, order="C")


def _each(settings: SamplingSettings | Sequence[SamplingSettings], rows: int) -> Sequence[SamplingSettings]:
    each = [settings] * rows if isinstance(settings, SamplingSettings) else settings
    if len(each) != rows:
        raise ValueError(f"there are settings for {len(each)} rows, but random numbers for {rows}")
    return each


def score(
    model: Sampler,
    logits: Float32s,
    state: State,
    ids: Ids,
    targets: Ids,
    threads: int = 1,
    *,
    recent: Ids | None = None,
    mixture: NgramMixture | None = None,
) -> tuple[Float64s, Bools, Float32s, State]:
    """Reads ids (T, N), and predicts targets (T, N): the first ones by the given logits (N, V), others after each id.

    Returns the nats (T, N) that the targets cost; whether each was the most likely symbol (T, N), or the first of
    several equally likely ones; and the logits and the state at the end. A state has a tuple of arrays (N, H) for each
    layer. With a `mixture`, targets cost what its logits say, in the context of `recent` (M, N) and ids; the logits
    given and returned are the network's. Arguments are not changed. Raises ValueError for arrays whose shapes do not
    match, RuntimeError for ids that the model does not have.
    """
    if ids.shape != targets.shape or ids.shape[1:] != (len(logits),):
        raise ValueError(f"ids {ids.shape} and targets {targets.shape} of {len(logits)} rows; give them all one shape")
    read = ids if recent is None or mixture is None else np.concatenate((recent, ids))
    seen, (read, targets) = len(read) - len(ids), (np.ascontiguousarray(each, np.int64) for each in (read, targets))
    nats, right = np.empty(ids.shape), np.empty(ids.shape, np.bool_)
    logits, after, addresses = model.copies(logits, state)
    if ids.size:
        native_library.call(
            _ScorerRead(
                threads=threads,
                rows=ids.shape[1],
                steps=len(ids),
                seen=seen,
                model=model.packed,
                partner=mixture.native if mixture else None,
                read=read[seen:].ctypes.data,
                targets=targets.ctypes.data,
                state=addresses,
                logits=logits.ctypes.data,
                nats=nats.ctypes.data,
                right=right.ctypes.data,
            )
        )
    return nats, right, logits, after
