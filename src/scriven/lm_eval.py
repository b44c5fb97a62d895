"""Scriven's runs in EleutherAI's lm-eval: importing this module registers the model `scriven`.

    python -m scriven.lm_eval run --model scriven --model_args run=runs/book --tasks wikitext

This is the command line of lm-eval with that model. A run is computed in this process, as `scriven score` and `scriven
sample` compute it, without a server. Programs that call `lm_eval.simple_evaluate` import this module before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from scriven.arrays import Ids
from scriven.errors import UsageError
from scriven.inference.context import Context
from scriven.inference.surprisal import check_scored, surprisals
from scriven.runs.folder import Which
from scriven.trained_model import load

UNUSED = {"batch_size", "max_batch_size"}  # what lm-eval gives every model; each text is read alone here
SAMPLED = {"temperature", "top_k", "top_p", "min_p", "seed"}
LENGTH = 256  # characters that are written at most, unless a task says otherwise


@register_model("scriven")
class ScrivenLM(LM):
    """A run as lm-eval asks for it. A text begins as Scriven reads it, and no text is cut into windows."""

    def __init__(
        self,
        run: str,
        checkpoint: Which = "best",
        counts: Any = "auto",
        precision: Any = "auto",
        device: str = "auto",
        **others: Any,
    ) -> None:
        """Loads a run as `scriven.load` does. Raises InputError and UsageError as that does."""
        super().__init__()
        if unknown := sorted(others.keys() - UNUSED):
            raise UsageError(
                f"--model_args {unknown[0]}: scriven has no such argument; it has run, checkpoint, counts, precision "
                "and device"
            )
        place: Any = device.partition(":")[0]
        self.model = load(str(run), which=checkpoint, device=place, precision=precision, counts=counts)
        self._before: tuple[Ids, Context] | None = None  # the last context that was read

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns ln P of each continuation after its context, and whether each of its symbols was the likeliest one.

        Separators between documents cost their ends. An empty context is the beginning of a text.
        """
        return self._answer("loglikelihood", requests, self._score)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Returns ln P of each whole text. Of a model of documents, the end of the last one is not counted."""
        return self._answer("loglikelihood_rolling", requests, lambda text: self._score("", text)[0])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns the text that is written after each context, up to a stop string or the end of a document."""
        return self._answer("generate_until", requests, self._write)

    def _answer(self, name: str, requests: list[Instance], answer: Any) -> list[Any]:
        found = []
        for request in requests:
            found.append(answer(*request.args))
            self.cache_hook.add_partial(name, request.args, found[-1])
        return found

    def _score(self, context: str, continuation: str) -> tuple[float, bool]:
        ids = self.model.read_ids(context + continuation)
        given = _count_common(ids, self.model.read_ids(context))
        total, greedy = 0.0, True
        for piece in check_scored(surprisals(self.model.predictor, [ids[given:]], self._after(ids[:given]))):
            total -= float(piece.nats.sum())
            greedy = greedy and piece.right is not None and bool(piece.right.all())
        return total, greedy

    def _after(self, ids: Ids) -> Context:
        """Returns the context after a text's first ids (T,). The choices of a question share theirs."""
        if self._before is None or not np.array_equal(self._before[0], ids):
            self._before = ids, self.model.predictor.carry(self.model.predictor.start(), ids[:, None])
        return self._before[1]

    def _write(self, context: str, given: dict[str, Any]) -> str:
        asked = dict(normalize_gen_kwargs(given, LENGTH))
        length, stop = int(asked.pop("max_gen_toks")), [each for each in _strings(asked.pop("until")) if each]
        drawn = asked.pop("do_sample")
        if unknown := sorted(asked.keys() - SAMPLED):
            raise UsageError(f"gen_kwargs {unknown[0]}: scriven has none such; it has {', '.join(sorted(SAMPLED))}")
        if not drawn:
            asked["temperature"] = 0.0
        ends = self.model.ends_texts
        return "".join(self.model.stream(context, length=length, stop=stop, until_end=ends, **{"seed": 0, **asked}))


def _count_common(ids: Ids, others: Ids) -> int:
    """Returns how many ids two texts have in common before the first that differs.

    A context's last ones differ if the continuation begins with an accent that is joined with them.
    """
    size = min(len(ids), len(others))
    differ = np.flatnonzero(ids[:size] != others[:size])
    return int(differ[0]) if differ.size else size


def _strings(values: str | Iterable[str]) -> list[str]:
    return [values] if isinstance(values, str) else [*values]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
