"""The settings that say how the next symbol is picked. They belong to a text that is written, not to a run."""

from __future__ import annotations

from typing import TypedDict

from scriven.settings import Frozen, setting

LONGEST_PAST = 4096  # characters written last that a penalty looks at, at most
DRY_MATCH = 64  # characters of a repetition that DRY compares, at most


class SamplingSettings(Frozen):
    """How the next character is picked."""

    temperature: float = setting(
        0.8, "how random the text is: lower is more predictable; 0 always picks the most likely character", ge=0
    )
    top_k: int = setting(0, "pick only from the k most likely characters; 0 means no limit", ge=0)
    top_p: float = setting(
        1.0, "pick only from the most likely characters that together have this probability", gt=0, le=1
    )
    min_p: float = setting(
        0.0,
        "skip characters much less likely than the top one: those below this fraction of its probability",
        ge=0,
        le=1,
    )
    typical_p: float = setting(
        1.0,
        "pick only from the characters whose surprise is nearest to the average one, and that together have this "
        "probability; 1 means off",
        gt=0,
        le=1,
    )
    mirostat_tau: float = setting(
        0.0, "keep the surprise near this many bits per character, by mirostat 2; 0 means off", ge=0, le=100
    )
    mirostat_eta: float = setting(0.1, "how fast mirostat adapts", ge=0, le=10)
    repetition_penalty: float = setting(
        1.0,
        "make characters that were written before less likely: divide their logits by this, or multiply those below 0; "
        "1 means off",
        ge=0.01,
        le=100,
    )
    presence_penalty: float = setting(
        0.0, "subtract this from the logits of characters that were written before", ge=-100, le=100
    )
    frequency_penalty: float = setting(
        0.0, "subtract this from a character's logit for each time that it was written before", ge=-100, le=100
    )
    repeat_last_n: int = setting(
        64, "how many of the last characters written the three penalties above look at", ge=0, le=LONGEST_PAST
    )
    dry_multiplier: float = setting(
        0.0,
        "DRY, a penalty that ends loops: how strongly characters are avoided that would repeat a sequence already "
        "written; 0 means off",
        ge=0,
        le=1000,
    )
    dry_base: float = setting(1.75, "DRY: how the penalty grows with each character repeated", ge=1, le=100)
    dry_allowed_length: int = setting(
        10, "DRY: characters that may be repeated before the next has a penalty", ge=1, le=DRY_MATCH
    )
    dry_penalty_last_n: int = setting(
        1024, "DRY: how many of the last characters written it looks at", ge=1, le=LONGEST_PAST
    )
    novel: int = setting(
        0,
        "write no stretch of this many characters that is in the training text; 0 means off. A text ends where nothing "
        "else is left. See docs/novelty.md",
        ge=0,
        le=LONGEST_PAST,
    )

    @property
    def looks_back(self) -> bool:
        """Whether more is needed to draw than the logits and the first four settings."""
        switches = (self.mirostat_tau, self.presence_penalty, self.frequency_penalty, self.dry_multiplier, self.novel)
        return any(switches) or self.repetition_penalty != 1 or self.typical_p != 1


class SamplingFilters(TypedDict, total=False):
    """The settings of sampling that few people need, as arguments of functions; see SamplingSettings."""

    typical_p: float
    mirostat_tau: float
    mirostat_eta: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repeat_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    novel: int
