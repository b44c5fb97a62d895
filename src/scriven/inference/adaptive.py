"""Learning while reading (dynamic evaluation, Krause et al. 2018): each segment of a text is scored, then learned from.

The weights of a copy of the model make one step after each segment, and are pulled back a little towards the trained
ones. The step is SOAP's (Vyas et al. 2024) without momentum: Adam's, in other bases. All of this is a value, an
`AdaptiveContext`: it can be kept, copied and continued, and does not depend on the pieces that the text came in. One
thread computes in fp32, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from scriven.arrays import Bools, Float32s, Float64s, Ids, State, as_numpy
from scriven.inference.context import RULE, AdaptiveContext, AdaptiveRule, Context, Learned
from scriven.inference.predictor import Predictor, check_adaptive
from scriven.kernels.adamw import AdamW, norm
from scriven.model.backends import choose_backend, single_threaded

PRECISION = "fp32"  # of all products
SomeContext = TypeVar("SomeContext", bound=AdaptiveContext)
Judge = Callable[[Float32s, Ids], tuple[Float64s, Bools]]  # takes logits (t, V) before ids (t,), as `_score`


class Bases:
    """Bases in which gradients of matrices are scaled: about the eigenvectors of their second moments.

    Each side of a matrix has one, unless it is too long. They begin as the identity, and a turn is one iteration of QR.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], rule: AdaptiveRule) -> None:
        """Makes bases for arrays of these shapes; those that are no matrices have none."""
        self._rule, sides, count = rule, [rule.sides(shape) for shape in shapes], rule.basis_values(shapes)
        self.moments, self.vectors = torch.zeros(count), torch.zeros(count)
        self._moments, self._vectors = (_squares(flat, sides) for flat in (self.moments, self.vectors))
        for basis in chain.from_iterable(self._vectors):
            basis.fill_diagonal_(1.0)

    def copy_(self, moments: Tensor, vectors: Tensor) -> None:
        """Takes the values of other bases (K,) of such arrays."""
        self.moments.copy_(moments)
        self.vectors.copy_(vectors)

    def learn(self, gradients: Sequence[Tensor], step: int) -> None:
        """Learns second moments from the gradients of a step, counted from 1; turns at some steps."""
        for gradient, moments, vectors in zip(gradients, self._moments, self._vectors, strict=True):
            if gradient.ndim != 2:
                continue
            for side, moment, basis in zip((gradient, gradient.mT), moments, vectors, strict=True):
                if not len(moment):
                    continue
                moment.addmm_(side, side.mT, beta=self._rule.memory, alpha=1 - self._rule.memory)
                if step % self._rule.turn == 1:
                    ridge = self._rule.ridge * moment.diagonal().mean()
                    basis.copy_(torch.linalg.qr(moment @ basis + ridge * basis)[0])

    def rotate(self, gradients: Sequence[Tensor], *, back: bool = False) -> list[Tensor]:
        """Returns gradients as the bases see them, or `back` from that."""
        found = []
        for gradient, (rows, columns) in zip(gradients, self._vectors, strict=True):
            rotated = gradient
            if len(rows):
                rotated = (rows if back else rows.mT) @ rotated
            if len(columns):
                rotated = rotated @ (columns.mT if back else columns)
            found.append(rotated.contiguous())
        return found


class AdaptiveReader:
    """Reads a text with a network and learns from it, without counts. The model itself never changes."""

    def __init__(self, predictor: Predictor, rule: AdaptiveRule = RULE) -> None:
        """Copies the weights. Raises UsageError for a model that cannot learn while it reads."""
        check_adaptive(predictor)
        self.predictor, self.rule = predictor, rule
        self.vocabulary = predictor.vocabulary
        self.model = copy.deepcopy(predictor.model).cpu()
        self._parameters = [each for each in self.model.parameters() if each.requires_grad]
        self._values = parameters_to_vector(self._parameters).detach()  # (P,), which the model computes with
        vector_to_parameters(self._values, self._parameters)
        self._bases = Bases([each.shape for each in self._parameters], rule)
        self._step = torch.zeros_like(self._values)  # (P,), in these bases
        parts = torch.split(self._step, [each.numel() for each in self._parameters])
        self._steps = [part.view_as(each) for part, each in zip(parts, self._parameters, strict=True)]  # its parts
        self._adamw = AdamW(self._step, rule.beta2, beta1=0.0)
        self._trained = self._copy_learned()
        self._held: Learned | None = self._trained  # what the model has now; None for something else
        self._lock = threading.Lock()
        backend = choose_backend(self.model.settings, self.model.device, PRECISION, learns=True)
        if self.vocabulary.boundary is not None:  # torch's function takes other ways, with other bits, at a boundary
            backend = replace(backend, routes=tuple("loop" if each == "torch" else each for each in backend.routes))
        self._backend = backend

    def start(self, *, history: bool = True) -> AdaptiveContext:
        """Returns the context at the beginning of a text, with the trained weights. It needs no `history`."""
        return self.read(AdaptiveContext(self.predictor.blank().logits), self.predictor.opening)[2]

    def read(
        self,
        context: AdaptiveContext,
        ids: Ids,
        judge: Judge | None = None,
        *,
        reuse: bool = False,
        check_stop: Callable[[], None] = lambda: None,
    ) -> tuple[Float64s, Bools, AdaptiveContext]:
        """Returns the nats (T,) that ids (T,) cost, whether each was the most likely one (T,), and the context after.

        Every id is scored with weights that learned only from ids before it. `judge` computes the nats of known ids;
        without it, they are those of the network. `reuse` and `check_stop` are of mixtures, and change nothing.
        """
        if not len(ids):
            return np.empty(0), np.empty(0, np.bool_), context
        context = self.settle(context)
        unseen: Bools = self.vocabulary.unseen(ids)
        with self._lock, single_threaded():
            self._hold(context.learned)
            nats, right, context = self._read(context, self.vocabulary.clamp(ids), judge or _score)
        return nats + self.vocabulary.unseen_nats * unseen, right & ~unseen, context

    def pause(self, context: SomeContext) -> SomeContext:
        """Learns from a segment as far as it was read. The context after it has no segment, and can be written from."""
        if context.segment is None:
            return context
        before, targets, last = context.segment[:-1], context.segment[1:], context.segment[-1:]
        with self._lock, single_threaded():
            self._hold(context.learned)
            if len(before):
                losses, _, state = self._predict(before, targets, context.state, pad=False)
                self._learn(losses)
                context = replace(context, state=state, learned=self._copy_learned())
            _, logits, state = self._predict(last, last, context.state, pad=False)
        return replace(context, logits=logits[-1:], state=state, segment=None)

    def ready(self, context: AdaptiveContext, *, reuse: bool = False) -> AdaptiveContext:
        """Returns a context that is `settle`d; see `AdaptiveMixture.ready`."""
        return self.settle(context)

    def settle(self, context: SomeContext) -> SomeContext:
        """Returns a context after what the model wrote, which is read as the model reads, and not learned from."""
        if context.written is None:
            return context
        paused = self.pause(context)
        before = Context(paused.logits, paused.state)
        after = self.writer(paused).carry(before, context.written[:, None])
        return replace(paused, logits=after.logits, state=after.state, written=None)

    def state_after(self, context: AdaptiveContext) -> State | None:
        """Returns the recurrent state after all that was read and written."""
        context = self.settle(context)
        if context.segment is None:
            return context.state
        with self._lock, single_threaded():
            self._hold(context.learned)
            return self._predict(context.segment, context.segment, context.state, pad=False)[2]

    def probabilities(self, context: AdaptiveContext) -> Float64s:
        """Returns the probabilities (V,) of the next symbol, by id, after a context that is `ready`."""
        chances: Float64s = torch.from_numpy(context.logits[0]).double().softmax(0).numpy()
        return chances

    def writer(self, context: AdaptiveContext) -> Predictor:
        """Returns a predictor with the weights of a context, which writes as the model's own does."""
        with self._lock:
            self._hold(context.learned)
            model = copy.deepcopy(self.model)
        return Predictor(model, self.vocabulary, PRECISION, writing=self.predictor.writing)

    def _read(self, context: AdaptiveContext, ids: Ids, judge: Judge) -> tuple[Float64s, Bools, AdaptiveContext]:
        """Reads like `read`, known ids (T,), T > 0, with the weights that the model has."""
        nats, right = np.empty(len(ids)), np.empty(len(ids), np.bool_)
        segment, state, done, learned = context.segment, context.state, 0, context.learned
        if segment is None:
            nats[:1], right[:1] = judge(context.logits, ids[:1])
            segment, done = ids[:1], 1
        while done < len(ids):
            self.predictor.check_stop()
            known = len(segment)
            segment = np.concatenate((segment, ids[done : done + self.rule.length + 1 - known]))
            losses, logits, after = self._predict(segment[:-1], segment[1:], state)
            fresh = slice(done, done + len(segment) - known)
            nats[fresh], right[fresh] = judge(logits[known - 1 :], segment[known:])
            done = fresh.stop
            if len(segment) > self.rule.length:
                self._learn(losses)
                segment, state = segment[-1:], after
        if self._held is None:
            learned = self._copy_learned()
        _, logits, _ = self._predict(segment, segment, state)
        return nats, right, AdaptiveContext(logits[-1:], state, learned=learned, segment=segment)

    def _predict(
        self, read: Ids, targets: Ids, state: State | None, *, pad: bool = True
    ) -> tuple[Tensor, Float32s, State]:
        """Reads ids (t,) from `state` on. Returns the losses (t,) of `targets`, the logits (t, V), and the state after.

        The ids are padded to a whole segment, so that the bits do not depend on how much of it is known; the state is
        then of use only after a whole one.
        """
        count = len(read)
        padding = np.zeros(self.rule.length - count if pad else 0, np.int64)
        ids = np.concatenate((read, padding))[:, None]  # (T, 1)
        fresh = None if self.vocabulary.boundary is None else torch.from_numpy(ids == self.vocabulary.boundary)
        _, y, after = self.model.read(torch.from_numpy(ids), _tensors(state), fresh, backend=self._backend)
        logits = self.model.logits(y, self._backend)[:, 0]  # (T, V)
        wanted = torch.from_numpy(np.concatenate((targets, padding)))
        losses = functional.cross_entropy(logits, wanted, reduction="none")  # (T,)
        return losses[:count], as_numpy(logits[:count]), tuple(tuple(map(as_numpy, layer)) for layer in after)

    def _learn(self, losses: Tensor) -> None:
        """Makes one step from the losses (t,) of a segment, unless its gradient is not finite."""
        if not self.rule.rate:
            return
        self._held = None
        found = torch.autograd.grad(losses.sum(), self._parameters, allow_unused=True)
        gradients = [
            torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
            for parameter, gradient in zip(self._parameters, found, strict=True)
        ]
        if np.isfinite(norm(gradients)):
            self._values.lerp_(torch.from_numpy(self._trained.weights), self.rule.pull)
            self._adamw.mean.zero_()  # without momentum it is the gradient, but for its last bits
            self._bases.learn(gradients, int(self._adamw.steps) + 1)
            self._step.zero_()
            self._adamw.step(self._bases.rotate(gradients), 1.0, self.rule.rate)
            for parameter, step in zip(self._parameters, self._bases.rotate(self._steps, back=True), strict=True):
                parameter.detach().add_(step)

    def _hold(self, learned: Learned | None) -> None:
        """Puts learned weights into the model, unless they are there."""
        learned = self._trained if learned is None else learned
        if learned is not self._held:
            self._values.copy_(torch.from_numpy(learned.weights))
            self._adamw.square.copy_(torch.from_numpy(learned.square))
            self._adamw.steps.copy_(torch.from_numpy(learned.steps))
            self._bases.copy_(torch.from_numpy(learned.moments), torch.from_numpy(learned.bases))
            self._held = learned

    def _copy_learned(self) -> Learned:
        """Returns a copy of the weights and of what scales their steps."""
        parts = (self._values, self._adamw.square, self._adamw.steps, self._bases.moments, self._bases.vectors)
        self._held = copied = Learned(*(as_numpy(each.clone()) for each in parts))
        return copied


def _squares(flat: Tensor, sides: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """Returns the parts of an array (K,), square matrices of these sides."""
    parts = iter(torch.split(flat, [n * n for each in sides for n in each]))
    return [[next(parts).view(n, n) for n in each] for each in sides]


def _tensors(state: State | None) -> tuple[tuple[Tensor, ...], ...] | None:
    """Returns a state as torch's arrays, which share its memory."""
    return None if state is None else tuple(tuple(map(torch.from_numpy, layer)) for layer in state)


def _score(logits: Float32s, ids: Ids) -> tuple[Float64s, Bools]:
    """Returns the nats (t,) of ids (t,) under logits (t, V), and whether each is the most likely one."""
    known, targets = torch.from_numpy(logits), torch.from_numpy(ids)
    nats: Float64s = functional.cross_entropy(known, targets, reduction="none").double().numpy()
    right: Bools = logits.argmax(1) == ids
    return nats, right
