"""`scriven sample`: write text with a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scriven.cli.flags import Device, Json, Precision, RunFolder, Switch, Which
from scriven.errors import UsageError
from scriven.settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.session import Model

DEFAULTS = SamplingSettings()
SEPARATOR = "-" * 16  # a line of its own between two texts


def sample(
    run: RunFolder,
    /,
    *,
    prompt: str = "",
    length: int = 500,
    sampling: Annotated[SamplingSettings, Parameter(name="*", show_default=False)] = DEFAULTS,
    greedy: Switch = False,
    seed: int | None = None,
    count: int = 1,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    interactive: Switch = False,
    as_json: Json = False,
    checkpoint: Which = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Write text with a trained model, shown as it is written: the prompt, and what the model writes after it.

    Characters of the prompt that the model has never seen are read as <unk>, and named. Writing is computed in fp32.

    Parameters
    ----------
    prompt
        text to go on from; any text, of any length
    length
        characters to write (bytes, where the model's unit is the byte)
    sampling
        how the next character is drawn
    greedy
        always take the likeliest character, as --temperature 0
    seed
        number that decides the text: the same one gives the same text; by chance where not given
    count
        how many texts to write, side by side; text n is the one of seed + n
    stop
        end before this string where the model writes it; may be given several times
    interactive
        go on from each line typed, remembering everything before; ends at the end of the input
    """
    _check(sampling, greedy, count, interactive, as_json)
    from scriven.session import first_seed, load

    writing = {"length": length, "stop": stop or [], **sampling.model_dump()} | ({"temperature": 0.0} if greedy else {})
    model = load(run, which=checkpoint, device=device, precision=precision)
    _note_unknown(model, prompt)
    if interactive:
        return _converse(model, prompt, seed, writing)
    first = first_seed(seed)
    if as_json:
        for n, text in enumerate(model.samples(count, prompt, seed=first, **writing)):
            _put(json.dumps({"prompt": prompt, "text": text, "seed": first + n, **writing}) + "\n")
    elif count == 1:
        _show(prompt, model.stream(prompt, seed=first, **writing))
    else:
        for n, text in enumerate(model.samples(count, prompt, seed=first, **writing)):
            _show((SEPARATOR + "\n" if n else "") + prompt, iter([text]))
    return None


def _check(sampling: SamplingSettings, greedy: bool, count: int, interactive: bool, as_json: bool) -> None:
    """Raises UsageError where flags contradict each other."""
    flags = ["--" + name.replace("_", "-") for name in sorted(sampling.model_fields_set)]
    if greedy and flags:
        raise UsageError(f"--greedy takes the likeliest character and leaves nothing to {', '.join(flags)}; drop one")
    if count < 1:
        raise UsageError(f"--count {count}: give 1 or more texts to write")
    if count > 1 and (greedy or sampling.temperature == 0):
        raise UsageError(f"--count {count}: without chance all texts are the same; drop it, or raise --temperature")
    if interactive and (count > 1 or as_json):
        raise UsageError(f"--interactive writes one text to read; drop {'--json' if as_json else '--count'}")


def _note_unknown(model: Model, text: str) -> None:
    """Say on standard error which characters of a prompt the model does not know, and what is done."""
    unknown = model.unknown_characters(text)
    if unknown:
        shown = [f"{c if c.isprintable() else ascii(c)[1:-1]} (U+{ord(c):04X})" for c in unknown[:10]]
        more = f", and {len(unknown) - 10:,} more" if unknown[10:] else ""
        sys.stderr.write(f"note: the model has never seen, and reads as <unk>: {', '.join(shown)}{more}\n")


def _converse(model: Model, prompt: str, seed: int | None, writing: dict[str, Any]) -> None:
    """Lines in, text out. The model has read what the screen shows, line ends included."""
    session = model.session(seed=seed)
    session.read(prompt)
    while line := _next_line():
        _note_unknown(model, line)
        session.read(line if line.endswith("\n") else line + "\n")
        if not _show("", session.write(**writing)):
            session.read("\n")


def _next_line() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline()


def _show(prompt: str, pieces: Iterator[str]) -> bool:
    """Print a text as it comes, and a line end where it has none; whether it had one."""
    safe = _visible if sys.stdout.isatty() else str
    last = ""
    for piece in chain([prompt], pieces):
        _put(safe(piece))
        last = piece or last
    ended = last.endswith("\n")
    if not ended:
        _put("\n")
    return ended


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _visible(text: str) -> str:
    """Text that cannot command the terminal."""
    from scriven.report.terminal import visible

    return "\t".join(map(visible, text.split("\t")))
