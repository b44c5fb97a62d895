"""Checks what is asked of `scriven sample`, before a model is read and once it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from scriven.cli.common import unescape
from scriven.errors import UsageError
from scriven.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from scriven.trained_model import Model

WITH_BEAM = ("--beam", "--json", "--stop", "a rule such as --regex", "--count", "--until-end", "--no-until-end")
WITHOUT_SUFFIX = ("--stop", "--interactive", "--choose", "--novelty", "--state", "--save-state", "--beam", "--novel")


def check_novelty(novelty: bool, copied: bool, interactive: bool, until_end: bool) -> None:
    """Raises UsageError when texts would not be whole documents, or not whole."""
    if copied and interactive:
        raise UsageError("--copied is about a text as a whole, and --interactive writes lines; drop one of them")
    if novelty and (interactive or not until_end):
        flag = "--interactive" if interactive else "--no-until-end"
        raise UsageError(f"--novelty compares whole documents; drop {flag}")


def check_choosing(given: Mapping[str, bool]) -> None:
    """Raises UsageError when other flags are given that would do nothing, or without a terminal."""
    from scriven.cli.choose import check_terminal

    unused = [flag for flag, is_given in given.items() if is_given and flag != "--choose"]
    if unused:
        raise UsageError(f"with --choose you pick what comes next, so {', '.join(unused)} would do nothing; drop one")
    check_terminal()


def check_flags(sampling: SamplingSettings, greedy: bool, count: int | None, interactive: bool, as_json: bool) -> None:
    """Raises UsageError when flags contradict each other."""
    flags = ["--" + name.replace("_", "-") for name in sorted(sampling.model_fields_set - {"novel"})]
    if greedy and flags:
        raise UsageError(
            f"--greedy always picks the most likely character, so {', '.join(flags)} would do nothing; drop one"
        )
    count = 1 if count is None else count
    if count < 1:
        raise UsageError(f"--count {count}: give 1 or more")
    if count > 1 and (greedy or sampling.temperature == 0):
        raise UsageError(f"--count {count}: at temperature 0 all texts are the same; drop it, or raise --temperature")
    if interactive and (count > 1 or as_json):
        raise UsageError(f"--interactive shows one text at a time; drop {'--json' if as_json else '--count'}")


class SuffixFlags(NamedTuple):
    """What the flags give for the text that follows."""

    suffix: str | None
    file: str | None
    draws: int | None


def check_searches(after: SuffixFlags, beam: int | None, count: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError if flags contradict each other, or would do nothing."""
    _check_suffix(*after, given)
    _check_beam(beam, count, given)


def _check_suffix(suffix: str | None, file: str | None, draws: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError if flags contradict each other, or do nothing without a suffix."""
    if suffix == "":
        raise UsageError("--suffix is empty, perhaps from an unset variable; give the text that follows, or drop it")
    if suffix and file is not None:
        raise UsageError("--suffix and --suffix-file both give the text that follows; drop one")
    if file in ("", "-"):
        raise UsageError(f"--suffix-file {file!r}: name a file; standard input is for --prompt -")
    if not suffix and file is None:
        if draws is not None:
            raise UsageError("--draws is for the text before a suffix; give --suffix or --suffix-file, or drop it")
        return
    if draws is not None and draws < 1:
        raise UsageError(f"--draws {draws}: give 1 or more")
    if flags := [flag for flag in WITHOUT_SUFFIX if given.get(flag)]:
        raise UsageError(f"{', '.join(flags)} cannot be combined with a suffix, which ends the text; drop one")


def _check_beam(beam: int | None, count: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError for a beam out of range, and if flags are given that would do nothing."""
    if beam is None:
        return
    if beam < 1:
        raise UsageError(f"--beam {beam}: give 1 or more")
    if flags := [flag for flag, is_given in given.items() if is_given and flag not in WITH_BEAM]:
        raise UsageError(f"--beam finds the likeliest texts and draws nothing, so {', '.join(flags)} would do nothing")
    if count is not None and count > beam:
        raise UsageError(f"--count {count}: a beam of {beam} finds no more than that; raise --beam")


def choose_length(length: int | None, before_suffix: bool) -> int:
    """Returns how many characters a text has at most."""
    from scriven.inference.generation import LENGTH
    from scriven.inference.search import MIDDLE

    return (MIDDLE if before_suffix else LENGTH) if length is None else length


def check_numbers(length: int | None, seed: int | None) -> None:
    """Raises UsageError when one is below 0."""
    for flag, value in (("--length", length or 0), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: give 0 or more")


def check_prompt(prompt: str, file: str | None, choices: Mapping[str, str | None], *, interactive: bool) -> None:
    """Raises UsageError when flags contradict each other, or do not fit the prompt."""
    if prompt and file is not None:
        raise UsageError("--prompt and --prompt-file both give the text to continue; drop one")
    if file == "":
        raise UsageError("--prompt-file is empty, perhaps from an unset variable; name a file, or drop the flag")
    if any(choices.values()) and file is None and prompt != "-":
        raise UsageError(
            "--corpus.encoding and --corpus.invalid say how to read a prompt from a file; give --prompt-file FILE, or "
            "drop them"
        )
    if interactive and (prompt == "-" or file == "-"):
        raise UsageError("--interactive reads lines from standard input; give the prompt itself, or --prompt-file FILE")


def check_end(model: Model, flag: str) -> None:
    """Raises UsageError for a flag, if any, when the model has no documents, whose ends it could write."""
    if flag and not model.ends_texts:
        way_out = "give --length instead" if flag == "--until-end" else "drop it"
        raise UsageError(
            f"{flag}: this model has no documents, so its text never ends by itself; {way_out}, or train a model with "
            "--corpus.documents"
        )


def read_stops(stop: list[str]) -> list[str]:
    """Returns the stop strings with their escapes replaced. Raises UsageError when one is empty."""
    if not all(stop):
        raise UsageError("--stop is empty; give a stop string, or drop the flag")
    return [unescape("--stop", each) for each in stop]
