"""The page docs/chosen.md: what `--minutes` chooses for texts of all sizes on slow and fast computers."""

from __future__ import annotations

from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.training.auto_settings import choose_settings, expected_seconds
from scriven.training.workload import Workload

SIZES = {"10 KB": 10**4, "100 KB": 10**5, "1 MB": 10**6, "10 MB": 10**7, "100 MB": 10**8, "10 GB": 10**10}
MINUTES = {"30 s": 0.5, "2 min": 2.0, "10 min": 10.0, "1 h": 60.0, "8 h": 480.0}
SPEEDS = {
    20_000: "an old laptop, in fp32",
    100_000: "two cores with AVX-512 and bf16",
    1_000_000: "a server of many cores",
}
HELD_OUT = 10  # one character of so many is for validation
HEAD = """# What `--minutes` chooses

<!-- Made by `make docs` from `choose_settings` in `scriven.training.auto_settings`, whose docstring has the rules; do
not edit. -->

You say how long to train. Scriven measures for a third of a second how fast this computer trains a small model (LSTM
2x192, with 32 rows of 64 characters: 32 places of a text, read at once), looks at the size of the text, and chooses
the rest. What you set by hand stays, and the rest is chosen around it. `scriven train --verbose` shows what was
chosen, and `settings.toml` in the run's folder keeps it.

- **Width.** It grows with the fourth root of what the small model could read in the time, so that the size of the model
  and the number of characters that it reads grow at the same rate, and at most with the square root of the text's size.
- **Passes.** How often the text is read then, about; less than 100 % is a part of it, read once.
- **Members.** A text that one model would read more than about nine times is read by two of that width, which are
  averaged: see [members.md](members.md). Each reads it half as often. A model whose width you give stays one.
- **Dropout** begins where a text is read more than about eight times, with 0.1 for each doubling, at most 0.5.
- **Rows** are 32 for each of the first two cores, 32 in all with AMX (which multiplies as many at once) and for two
  members, and fewer for a text that would have fewer than eight steps a pass.

What these rules rest on is in [experiments.md](experiments.md): which width, which dropout, and how many rows, on texts
from 50 KB to 17 MB and budgets from half a minute to ten minutes. Beyond these the rules are extrapolated. Nobody has
trained for eight hours on 10 GB to fit them. Texts with documents, such as lists of names, have more rows if their
documents are shorter than 64 characters.

Each table is for one measured speed, on two cores that share the work, without AMX and without a start. A cell has the
width (always two layers of LSTM), "2 x" for two members, the passes, and the rows if they are not 64 and the dropout if
there is any.
"""


def page() -> str:
    """The whole page, as it should be."""
    return HEAD + "".join(_table(speed, computer) for speed, computer in SPEEDS.items())


def _table(speed: int, computer: str) -> str:
    rows = [f"| {size} | {' | '.join(_cell(characters, minutes, speed) for minutes in MINUTES.values())} |"
            for size, characters in SIZES.items()]  # fmt: skip
    head = f"| text | {' | '.join(MINUTES)} |\n|{' --- |' * (len(MINUTES) + 1)}"
    return f"\n## {speed:,} characters a second: {computer}\n\n{head}\n" + "\n".join(rows) + "\n"


def _cell(characters: int, minutes: float, speed: int) -> str:
    given = validate({"budget": {"minutes": minutes}})
    workload = Workload(
        characters=characters * (HELD_OUT - 1) // HELD_OUT,
        validation_characters=characters // HELD_OUT,
        cores=2,
        device="cpu",
        speed=speed,
        shared=True,
    )
    settings, _ = choose_settings(given, workload)
    members = f"{settings.model.members} x " if settings.model.members > 1 else ""
    words = [f"{members}{settings.model.width} wide", _describe_passes(_passes(settings, workload, minutes))]
    if settings.reader.batch != 64:
        words.append(f"{settings.reader.batch} rows")
    if settings.model.dropout:
        words.append(f"dropout {settings.model.dropout:g}")
    return ", ".join(words)


def _describe_passes(passes: float) -> str:
    if passes >= 10:
        return f"{float(f'{passes:.2g}'):,.0f} passes"
    if passes >= 1:
        return f"{passes:.1f} passes"
    return f"{float(f'{100 * passes:.2g}'):g} % of the text"


def _passes(settings: Settings, workload: Workload, minutes: float) -> float:
    """How often a text is read in some minutes, evaluations aside."""
    one = settings.model_copy(update={"budget": validate({"budget": {"epochs": 1}}).budget})
    seconds = expected_seconds(one, workload) - expected_seconds(one, workload, share=0.0)
    evaluated = expected_seconds(one, workload, share=0.0)
    return max(0.0, minutes * 60 - evaluated) / seconds
