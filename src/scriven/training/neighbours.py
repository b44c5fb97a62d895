"""Memory that the workers of one machine share: one writes there, others copy it, and only a few bytes are sent.

The memory belongs to no file: it is gone when the last process that uses it has ended, however it did. Linux only;
elsewhere, and where processes may not look at each other's, no worker has neighbours, and everything is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a line of the cache
# What processes agree in where a process's number means the same to them.
WHERE = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))
WORD_BYTES = 8
Pieces = list[Tensor]  # contiguous arrays


class Outbox:
    """Memory that one process writes and others read; as large as the most that was ever in it."""

    def __init__(self) -> None:
        self.file = os.memfd_create("scriven")
        self._memory = torch.empty(0, dtype=torch.uint8)

    def write(self, pieces: Pieces, begin: int) -> int:
        """Puts the pieces there, one after another; gives where they end. What follows is free."""
        end = begin + sum(map(_room, pieces))
        if end > len(self._memory):
            os.ftruncate(self.file, end)
            self._memory = _mapped(self.file)
        for place, piece in zip(_places(self._memory, pieces, begin), pieces, strict=True):
            place.copy_(piece)
        return end


class Neighbours:
    """The workers on this machine, beside this one, with which it shares memory.

    Whoever writes to one of them must have heard of it since writing to it the last but one time: there are two
    outboxes, which take turns, and what is in one of them is read until then.
    """

    def __init__(self) -> None:
        """None, until `meet`."""
        self.ranks: list[int] = []
        self.everyone = False  # whether each worker is the neighbour of all others
        self._boxes: list[Outbox] = []
        self._files: dict[tuple[int, int], int] = {}  # by rank and turn
        self._memories: dict[tuple[int, int], Tensor] = {}
        self._turn = 0

    def meet(self, rank: int, exchanged: Callable[[Tensor], Tensor]) -> None:
        """Finds out who they are; `exchanged` gives everybody's rows of int64 (W, n), by rank, from one's own (1, n).

        All workers must do so. Those that see the same machine try to read what the others have in their outboxes.
        """
        word = secrets.randbits(62)
        if where := _where():
            self._boxes = [Outbox(), Outbox()]
            for box in self._boxes:
                box.write([torch.tensor([word])], 0)
        files = [box.file for box in self._boxes] or [-1, -1]
        told = exchanged(torch.tensor([[where, os.getpid(), word, *files]])).tolist()
        for other, (place, process, expected, *theirs) in enumerate(told):
            if other != rank and where and place == where:
                self._open(other, process, theirs, expected)
        seen = exchanged(torch.tensor([[int((other, 0) in self._files) for other in range(len(told))]]))
        self.ranks = [other for other in range(len(told)) if seen[rank, other] and seen[other, rank]]
        self.everyone = int(seen.sum()) == len(told) * (len(told) - 1)  # the same on all workers

    def write(self, sent: dict[int, Pieces]) -> dict[int, Tensor]:
        """Puts down what each of them shall have; gives the message to each that says where it is."""
        self._turn = 1 - self._turn
        begins: dict[int, int] = {}
        end = 0
        for peer in self.ranks:
            if id(sent[peer]) not in begins:  # many may have the same
                begins[id(sent[peer])] = end
                end = self._boxes[self._turn].write(sent[peer], end)
        return {peer: torch.tensor([self._turn, begins[id(sent[peer])]]) for peer in self.ranks}

    def read(self, peer: int, message: Tensor, pieces: Pieces) -> None:
        """Fills in the pieces that one of them has put down, of which it said where."""
        turn, begin = message.tolist()
        end = begin + sum(map(_room, pieces))
        if end > len(self._memories[peer, turn]):
            self._memories[peer, turn] = _mapped(self._files[peer, turn])
        for place, piece in zip(_places(self._memories[peer, turn], pieces, begin), pieces, strict=True):
            piece.copy_(place)

    def close(self) -> None:
        """Leaves them; the memory is free when all have."""
        for file in [*(box.file for box in self._boxes), *self._files.values()]:
            os.close(file)
        self.ranks, self._boxes, self._files, self._memories = [], [], {}, {}

    def _open(self, other: int, process: int, files: list[int], word: int) -> None:
        """Opens another's outboxes, where that is allowed and the word is in them."""
        with contextlib.suppress(OSError, ValueError):
            opened = [os.open(f"/proc/{process}/fd/{file}", os.O_RDWR) for file in files]
            memories = [_mapped(file) for file in opened]
            if all(int(memory[:WORD_BYTES].view(torch.int64)) == word for memory in memories):
                self._files |= {(other, turn): file for turn, file in enumerate(opened)}
                self._memories |= {(other, turn): memory for turn, memory in enumerate(memories)}


def _where() -> int:
    """A number that is the same in all processes of this machine, and in no others; 0 where memory cannot be shared."""
    try:
        told = [WHERE[0].read_text(), str(WHERE[1].readlink()), str(os.getuid())]
    except (OSError, AttributeError):
        return 0
    if not hasattr(os, "memfd_create"):
        return 0
    return int.from_bytes(hashlib.sha256("\n".join(told).encode()).digest()[:7], "little")


def _mapped(file: int) -> Tensor:
    """All bytes of a file, as they are in memory."""
    return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)


def _places(memory: Tensor, pieces: Pieces, begin: int) -> Iterator[Tensor]:
    """Where such pieces are in some memory: one after another from its byte `begin` on."""
    for piece in pieces:
        yield memory[begin : begin + piece.nbytes].view(piece.dtype).view(piece.shape)
        begin += _room(piece)


def _room(piece: Tensor) -> int:
    """The bytes from a piece to the next one."""
    return -(-piece.nbytes // ALIGNMENT) * ALIGNMENT
