"""A model of symbols that learns while it reads: it predicts each one first, and then counts it.

`ContextMixer` mixes predictions by the last symbols (none to eight of them), by words, by the place in a line and by
longer repetitions, as Mahoney's paq and lpaq do; native/context_mixing.h says how. It needs no training text. The
probabilities of all symbols sum to 1. Memory is bounded: rare contexts are forgotten first.

It computes with integers alone. The same symbols have the same probabilities to the bit on every processor, at every
level of native code, in pieces of any size. So what one machine encodes, another one can decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import POINTER, addressof, byref, c_int64, c_void_p
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scriven.arrays import Float64s, Ids
from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields
from scriven.tokens import LINE_FEED
from scriven.vocabulary import Vocabulary

MOST_SYMBOLS = 1 << 16
LEAST_MEMORY_BITS, MOST_MEMORY_BITS = 18, 29  # of the number of bytes of the table of contexts
MEMORY_PER_SYMBOL = 64  # bytes that a symbol's new contexts take, about
SYMBOLS_AT_ONCE = 1 << 14  # so that an interrupt need not wait for long
BYTES_PER_SYMBOL = 32  # that encoding takes at most
SPACE, NEWLINE, UNUSED, OTHER = -1, -2, -3, 0
LEAST_THREADS = 2  # that share a network's weights, where there are as many cores: what is mixed needs the caches, too
MOST_OTHERS = 2  # other models whose predictions take part

Kinds = npt.NDArray[np.int32]
Frequencies = npt.NDArray[np.uint32]


class _ContextMixingOpen(NativeStruct):
    _fields_ = (*fields(c_int64, "symbols memory_bits"), *fields(c_void_p, "kinds mixing"))


class _ContextMixingRead(NativeStruct):
    _fields_ = (*fields(c_int64, "count others"), *fields(c_void_p, "mixing ids frequencies nats"))


class _ContextMixingObserve(NativeStruct):
    _fields_ = (*fields(c_int64, "count"), *fields(c_void_p, "mixing ids"))


class _ContextMixingDistribution(NativeStruct):
    _fields_ = (*fields(c_int64, "others"), *fields(c_void_p, "mixing frequencies probabilities"))


class _ContextMixingEncode(NativeStruct):
    _fields_ = (*fields(c_int64, "count last"), *fields(c_void_p, "mixing ids frequencies bytes written"))


class _ContextMixingDecode(NativeStruct):
    _fields_ = (*fields(c_int64, "count size"), *fields(c_void_p, "mixing bytes frequencies ids"))


class PackedNetwork(Protocol):
    """A network whose weights are packed for native code, such as a `Sampler`."""

    @property
    def packed(self) -> int:
        """The address of the packed model."""

    def threads_for(self, rows: int) -> int:
        """The number of threads that may share the work of reading texts side by side."""


def kinds_of(characters: Sequence[str], symbols: int) -> Kinds:
    """Says of each of V symbols what it is; the first ones are these characters.

    A letter is a number above 0, the same for both cases; others are SPACE, NEWLINE or OTHER. (UNUSED is a symbol that
    never comes, whose probability is 0.)
    """
    kinds = np.zeros(symbols, np.int32)
    for symbol, character in enumerate(characters):
        if character.isalpha():
            kinds[symbol] = ord(character.lower()[0])
        else:
            kinds[symbol] = {" ": SPACE, "\n": NEWLINE}.get(character, OTHER)
    return kinds


def kinds_of_bytes() -> Kinds:
    """Says of each byte what it is; those that are not ASCII count as letters."""
    kinds = kinds_of([chr(byte) for byte in range(128)], 256)
    kinds[128:] = np.arange(128, 256)
    return kinds


def kinds_of_symbols(vocabulary: Vocabulary) -> Kinds:
    """Says of each symbol of a vocabulary (V,) what it is. The boundary of documents ends a line."""
    known, kinds = len(vocabulary.symbols), np.full(vocabulary.size, OTHER, np.int32)
    if vocabulary.unit == "byte":
        kinds[:known] = kinds_of_bytes()
    elif vocabulary.unit == "character":
        kinds[:known] = kinds_of(vocabulary.names, known)
    else:  # no token is a letter of a word
        kinds[:known] = [NEWLINE if token == LINE_FEED else OTHER for token in vocabulary.tokens]
    if vocabulary.boundary is not None:
        kinds[vocabulary.boundary] = NEWLINE
    return kinds


def memory_bits_for(count: int) -> int:
    """Returns how large a table suits `count` symbols: 2 to this power is its number of bytes."""
    return min(max((count * MEMORY_PER_SYMBOL).bit_length(), LEAST_MEMORY_BITS), MOST_MEMORY_BITS)


class ContextMixer:
    """A model that learns while it reads, and a coder of what it predicts. It must be closed; it is a context manager.

    It reads, encodes or decodes; it does only one of these. `frequencies` (T, V) are another model's predictions of
    these symbols, such as probabilities times 2^16, and take part in the mixture. A row's sum is below 2^32.
    """

    def __init__(self, kinds: Kinds, memory_bits: int, network: PackedNetwork | None = None) -> None:
        """Makes a model of V symbols that has read nothing; `kinds` (V,) is from `kinds_of`.

        It takes 2 to the power of `memory_bits` bytes, a half more, and 17 MB. A network of at least V symbols,
        packed in int8, reads the same symbols and takes part, in place of `frequencies`; threads share its weights.
        Raises RuntimeError without a native library, or if memory is too short.
        """
        self.symbols = len(kinds)
        self._mixing = c_void_p()
        if not 1 <= self.symbols <= MOST_SYMBOLS:
            raise ValueError(f"there are {self.symbols} symbols; it can be 1 to {MOST_SYMBOLS}")
        kinds = np.ascontiguousarray(kinds, np.int32)
        native_library.call(
            _ContextMixingOpen(
                symbols=self.symbols,
                memory_bits=memory_bits,
                kinds=kinds.ctypes.data,
                mixing=addressof(self._mixing),
            )
        )
        self._network = network  # keeps the weights alive
        if network is not None:
            try:
                join = native_library.declare("scriven_context_mixing_join", [c_void_p, c_void_p, c_int64])
                threads = max(network.threads_for(1), min(LEAST_THREADS, native_library.threads()))
                join(self._mixing, network.packed, threads)
            except RuntimeError:
                self.close()
                raise

    def __enter__(self) -> ContextMixer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy(self) -> ContextMixer:
        """Returns an independent model that has read the same. It must be closed, too.

        Raises RuntimeError if memory is too short, or a network takes part.
        """
        if self._mixing.value is None:
            raise ValueError("this model is closed")
        copied = object.__new__(ContextMixer)
        copied.symbols, copied._network, copied._mixing = self.symbols, None, c_void_p()
        copy = native_library.declare("scriven_context_mixing_copy", [c_void_p, POINTER(c_void_p)])
        copy(self._mixing, byref(copied._mixing))
        return copied

    def close(self) -> None:
        """Frees the memory."""
        mixing, self._mixing = self._mixing, c_void_p()
        native_library.declare("scriven_context_mixing_close", [c_void_p])(mixing)

    def read(self, ids: Ids, *frequencies: Frequencies) -> Float64s:
        """Returns -ln of the probabilities of the next ids (T,), each predicted before it is counted.

        Each array of frequencies (T, V) has another model's predictions; there are MOST_OTHERS of these at most. Raises
        RuntimeError for an id that is no symbol.
        """
        if len(frequencies) > MOST_OTHERS:
            raise ValueError(f"at most {MOST_OTHERS} other models can take part, not {len(frequencies)}")
        nats = np.empty(ids.size)
        for begin, end, piece, rows in self._pieces(ids, *frequencies):
            native_library.call(
                _ContextMixingRead(
                    count=end - begin,
                    others=len(frequencies),
                    mixing=self._mixing.value,
                    ids=piece.ctypes.data,
                    frequencies=rows,
                    nats=nats[begin:].ctypes.data,
                )
            )
        return nats

    def observe(self, ids: Ids) -> None:
        """Reads ids (T,) as the context of the next ones, and learns nothing from them.

        Raises RuntimeError for an id that is no symbol, or if a network takes part.
        """
        for begin, end, piece, _ in self._pieces(ids):
            native_library.call(
                _ContextMixingObserve(count=end - begin, mixing=self._mixing.value, ids=piece.ctypes.data)
            )

    def distribution(self, *frequencies: Frequencies) -> Float64s:
        """Returns the probability of each symbol (V,) to be the next one, as `read` would have it, and changes nothing.

        Frequencies (1, V) are as for `read`. Raises RuntimeError if a network takes part.
        """
        if len(frequencies) > MOST_OTHERS:
            raise ValueError(f"at most {MOST_OTHERS} other models can take part, not {len(frequencies)}")
        probabilities = np.empty(self.symbols)
        for _, _, _, rows in self._pieces(np.zeros(1, np.int64), *frequencies):
            native_library.call(
                _ContextMixingDistribution(
                    others=len(frequencies),
                    mixing=self._mixing.value,
                    frequencies=rows,
                    probabilities=probabilities.ctypes.data,
                )
            )
        return probabilities

    def encode(self, ids: Ids, frequencies: Frequencies | None = None, *, last: bool) -> bytes:
        """Returns bytes that stand for the next ids (T,); `last` says that no more ids follow."""
        written, parts = c_int64(), []
        for begin, end, piece, row in self._pieces(ids, *_given(frequencies)):
            room = np.empty((end - begin) * BYTES_PER_SYMBOL + 1, np.uint8)
            native_library.call(
                _ContextMixingEncode(
                    count=end - begin,
                    last=last and end == ids.size,
                    mixing=self._mixing.value,
                    ids=piece.ctypes.data,
                    frequencies=row,
                    bytes=room.ctypes.data,
                    written=addressof(written),
                )
            )
            parts.append(room[: written.value].tobytes())
        return b"".join(parts)

    def decode(self, encoded: npt.NDArray[np.uint8], count: int, frequencies: Frequencies | None = None) -> Ids:
        """Returns the next ids (T,), `count` of them.

        `encoded` (size,) is all that `encode` returned, the same array at each call. Other bytes give other ids.
        """
        ids = np.empty(count, np.int64)
        if not (encoded.flags.c_contiguous and encoded.dtype == np.uint8):
            raise ValueError("encoded bytes must be in one piece")
        for begin, end, piece, row in self._pieces(ids, *_given(frequencies)):
            native_library.call(
                _ContextMixingDecode(
                    count=end - begin,
                    size=encoded.size,
                    mixing=self._mixing.value,
                    bytes=encoded.ctypes.data,
                    frequencies=row,
                    ids=piece.ctypes.data,
                )
            )
        return ids

    def _pieces(self, ids: Ids, *frequencies: Frequencies) -> Iterator[tuple[int, int, Ids, int | None]]:
        """Gives pieces of ids (T,), one at least, and the address of the frequencies of each, (T, others, V)."""
        if self._mixing.value is None:
            raise ValueError("this model is closed")
        ids = np.ascontiguousarray(ids, np.int64)
        for each in frequencies:
            if each.shape != (ids.size, self.symbols):
                raise ValueError(f"frequencies must be {(ids.size, self.symbols)}, not {each.shape}")
        joined = np.stack(frequencies, 1).astype(np.uint32, copy=False) if frequencies else None
        for begin in range(0, max(ids.size, 1), SYMBOLS_AT_ONCE):
            end = min(begin + SYMBOLS_AT_ONCE, ids.size)
            rows = None if joined is None else int(joined[begin:].ctypes.data)
            yield begin, end, ids[begin:end], rows


def _given(frequencies: Frequencies | None) -> tuple[Frequencies, ...]:
    return () if frequencies is None else (frequencies,)
