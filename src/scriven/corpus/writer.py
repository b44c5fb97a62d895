"""Writes the files of a corpus: reads all symbols once into drafts, then writes them with their final ids.

The text is split into training and validation: by its end, or by documents spread over all of it. A share below 1 is a
fraction of the text. A share of 1 or more is a number of characters, or of documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scriven.arrays import Ids
from scriven.corpus.encodings import describe_marks
from scriven.corpus.header import FORMAT, FORMAT_OF_TOKENS, Counts, Header, PartHeader, write_header
from scriven.corpus.inputs import CorpusInput, CorpusOrigin, Progress, SymbolChunk, amount, list_some
from scriven.corpus.shards import (
    Draft,
    Drafted,
    HashedDraft,
    Layout,
    PartWriter,
    are_duplicates,
    copy_others,
    pick,
)
from scriven.counter_rng import GOLDEN, Words, mix
from scriven.errors import InputError, UsageError
from scriven.tokens import MOST_TOKENS
from scriven.vocabulary import Symbols, Vocabulary

NAMES = "training", "validation"
LARGEST_DENOMINATOR = 10**9  # shares become fractions with at most this, so that rounding never moves a document
Portion = tuple[Drafted, int]  # a draft, and the number of its next characters that belong to the part


def assemble(work: Path, corpus_input: CorpusInput, progress: Progress) -> None:
    """Writes a corpus into the empty folder `work`.

    Raises InputError if the text has no character, or none of the alphabet.
    """
    _Assembly(work, corpus_input, progress).write()


class _Assembly:
    def __init__(self, work: Path, corpus_input: CorpusInput, progress: Progress) -> None:
        self._work, self._input, self._progress = work, corpus_input, progress
        self._settings, self._tally = corpus_input.settings, corpus_input.tally
        self._validated = self._duplicates = 0  # validation documents, and those that the training part has too

    def write(self) -> None:
        paths = [self._work / f"{name}-draft" for name in NAMES]  # the time of their change shows that we are alive
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("w+b")) for path in paths]
            drafts = [
                Draft(file, self._work / f"{name}-documents.npy") for file, name in zip(files, NAMES, strict=True)
            ]
            training, validation = self._use_stored() or self._read_drafts(*drafts)
            origin = self._input.origin()
            layout = self._layout(origin, training, validation)
            used = {id(draft): draft for draft, _ in (training, validation)}.values()
            writers = [PartWriter(self._work, name, layout) for name in NAMES]
            trained = writers[0].write(*training, lambda: self._report_written(used))
            validated = writers[1].write(*validation, lambda: self._report_written(used))
        for path in paths:
            path.unlink()
        frequencies = np.stack([writer.frequencies for writer in writers])  # (2, ids)
        write_header(self._work, self._header(origin, layout, trained, validated, frequencies))

    def _header(
        self, origin: CorpusOrigin, layout: Layout, training: PartHeader, validation: PartHeader, frequencies: Ids
    ) -> Header:
        counts = self._counts(origin, layout, frequencies)
        of_tokens = self._settings.unit == "token"
        return Header(
            format=FORMAT_OF_TOKENS if of_tokens else FORMAT,
            key=origin.key,
            texts=origin.texts,
            settings=origin.settings,
            notes=tuple(self._notes(origin, counts, layout, frequencies.sum(axis=0))),
            counts=counts,
            training=training,
            validation=validation,
            unseen=() if of_tokens else tuple(layout.unseen.tolist()),
            unseen_tokens=layout.names[layout.known :],
            vocabulary=json.loads(layout.vocabulary.to_json()),
            frequencies=tuple(frequencies[0, : layout.known].tolist()),
        )

    @property
    def _shared(self) -> bool:
        """Whether the documents of the text are divided into training and validation."""
        return self._settings.documents != "none" and not self._input.has_validation_file

    def _use_stored(self) -> tuple[Portion, Portion] | None:
        """Uses text that is already stored as ids, like `_read_drafts`; None when it must be read first."""
        ends = [self._work / f"{name}-documents.npy" for name in NAMES]
        has_documents = self._settings.documents != "none"  # they must be divided or compared
        training = None if has_documents else self._input.draft("text", ends[0])
        if training is None:
            return None
        self._check(not training.length, self._tally.empty)
        validation = self._input.draft("held", ends[1]) if self._input.has_validation_file else None
        if validation is None:
            return self._split_draft(training)
        self._check(not validation.length, 0, is_validation=True)
        return (training, training.length), (validation, validation.length)

    def _split_draft(self, draft: Drafted) -> tuple[Portion, Portion]:
        """Splits a draft: its end is validation."""
        length = validation_characters(draft.length, self._settings.validation)
        return (draft, draft.length - length), (draft, length)

    def _read_drafts(self, training: Draft, validation: Draft) -> tuple[Portion, Portion]:
        """Reads everything into drafts; returns the draft and the length of each part."""
        has_validation_file = self._input.has_validation_file
        if self._settings.documents != "none" and (has_validation_file or self._settings.validation):
            self._read_documents(training, validation)
        elif has_validation_file:
            self._read_both(training, validation)
        else:
            self._read_into(self._input.text(), training.append)
            if not self._shared:
                return self._split_draft(training)
        return (training, training.length), (validation, validation.length)

    def _read_both(self, training: Growing, validation: Growing) -> None:
        """Reads the text and the validation file."""
        self._read_into(self._input.text(), training.append)
        self._read_into(self._input.validation_file(), validation.append, is_validation=True)

    def _read_documents(self, training: Draft, validation: Draft) -> None:
        """Reads documents into both parts. Counts validation documents that training has too, or drops them."""
        with ExitStack() as stack:
            drops = self._settings.duplicates == "drop"
            first = stack.enter_context(self._temporary_draft("first")) if drops else validation
            drafts = training, first
            hashed = [
                stack.enter_context(HashedDraft(draft, self._work / f"{name}-hashes"))
                for draft, name in zip(drafts, NAMES, strict=True)
            ]
            if self._input.has_validation_file:
                self._read_both(*hashed)
            elif self._settings.validation >= 1:
                self._read_count(*hashed)
            else:
                self._read_into(self._input.text(), Split(self._settings.validation, *hashed).append)
            flags = are_duplicates(hashed[1], hashed[0])
            self._validated = hashed[1].documents
            self._duplicates = (
                copy_others(first, flags, validation) if drops else sum(int(some.sum()) for some in flags)
            )

    def _read_count(self, training: Growing, validation: Growing) -> None:
        """Reads all text, with a given number of validation documents; which ones depends on the total number."""
        with self._temporary_draft("whole") as whole:
            self._read_into(self._input.text(), whole.append)
            share = validation_documents(whole.ends.documents, self._settings.validation)
            split = Split(share, training, validation)
            for symbols, ends in whole.read_back():
                split.append(symbols, ends)

    @contextmanager
    def _temporary_draft(self, name: str) -> Iterator[Draft]:
        """A temporary draft, which is removed at the end."""
        paths = [self._work / f"{name}{suffix}" for suffix in ("-draft", "-documents.npy")]
        try:
            with paths[0].open("w+b") as file:
                yield Draft(file, paths[1])
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def _read_into(
        self, chunks: Iterable[SymbolChunk], append: Callable[[Symbols, Ids], None], *, is_validation: bool = False
    ) -> None:
        is_empty, empty, corpus_input = True, self._tally.empty, self._input
        total = None if corpus_input.size is None else 2 * corpus_input.size
        for symbols, ends in chunks:
            append(symbols, ends)
            is_empty = is_empty and not symbols.size
            self._progress(corpus_input.position, total)
        self._check(is_empty, self._tally.empty - empty, is_validation=is_validation)

    def _check(self, is_empty: bool, left_out: int, *, is_validation: bool = False) -> None:
        """Raises InputError if there is no character; `left_out` is the number of empty documents."""
        if is_empty:
            named = [self._settings.validation_file] if is_validation else self._input.origin().texts
            names = ["standard input" if name == "-" else name for name in named]
            empty = f" apart from the ends of {left_out:,} empty documents" if left_out else ""
            raise InputError(f"there are no characters in {', '.join(names)}{empty}; give a file with text in it")

    def _layout(self, origin: CorpusOrigin, training: Portion, validation: Portion) -> Layout:
        """The vocabulary (of the training part, or the given alphabet), and ids for all other symbols."""
        trained = np.sort(training[0].symbols(training[1]))
        found = np.union1d(*(draft.symbols(draft.length) for draft, _ in (training, validation)))
        separator = {"none": None, "separator": self._settings.separator}.get(self._settings.documents, "\n")
        if self._settings.unit == "token":
            return self._layout_of_tokens(origin, trained, found, separator)
        known = np.array(origin.alphabet.symbols, np.int64) if origin.alphabet else trained
        self._check_known(origin, np.isin(trained, known).any(), "character")
        if self._settings.unit == "byte":
            return Layout.of(Vocabulary.of_bytes(separator), found)
        return Layout.of(Vocabulary("character", tuple(known.tolist()), separator), found)

    def _layout_of_tokens(self, origin: CorpusOrigin, trained: Ids, found: Ids, separator: str | None) -> Layout:
        """Like `_layout`, for symbols that are the numbers of tokens. Raises InputError if tokens are too many."""
        names = self._input.tokens.names
        tokens = {names[symbol] for symbol in trained.tolist()}
        known = origin.alphabet.tokens if origin.alphabet else tokens
        self._check_known(origin, not tokens.isdisjoint(known), "token")
        if len(known) > MOST_TOKENS:
            raise InputError(
                f"the text has {len(known):,} different tokens, and a model knows at most {MOST_TOKENS:,}; name those "
                "that matter in a file, with --corpus.alphabet FILE, or leave out --corpus.unit token: a model of "
                "characters suits a text of many words"
            )
        vocabulary = Vocabulary.of_tokens(known, separator)
        return Layout.of_tokens(vocabulary, (names[symbol] for symbol in found.tolist()), self._input.tokens)

    def _check_known(self, origin: CorpusOrigin, knows: object, unit: str) -> None:
        """Raises InputError if the vocabulary knows nothing of the text."""
        if not knows:
            raise InputError(
                f"no {unit} of {', '.join(origin.texts)} is in the alphabet {self._settings.alphabet}; choose "
                "another alphabet, or drop it"
            )

    def _report_written(self, drafts: Collection[Drafted]) -> None:
        taken, length = sum(draft.taken for draft in drafts), sum(draft.length for draft in drafts)
        read = self._input.position  # 0 if nothing had to be read
        size = read or length
        self._progress(read + size * taken // length, read + size)

    def _counts(self, origin: CorpusOrigin, layout: Layout, frequencies: Ids) -> Counts:
        """The counts for the header. `frequencies` are of all ids in the training and the validation part, (2, ids)."""
        both = frequencies.sum(axis=0)  # (ids,)
        return Counts(
            sources=origin.sources,
            skipped=origin.skipped,
            characters=int(both.sum()),
            bytes=int(both @ layout.lengths),
            lines=self._tally.line_ends.lines,
            lowercased=self._tally.lowercased.characters if self._settings.lowercase else 0,
            punctuation=self._tally.punctuation.characters if self._settings.punctuation == "ascii" else 0,
            normalized=self._tally.normalized.characters if self._settings.normalize == "nfc" else 0,
            marks=self._tally.marks,
            invalid=self._tally.invalid,
            unseen=int(frequencies[1, layout.known :].sum()),
            unknown=int(both[layout.known :].sum()),
            documents=self._tally.documents - (self._duplicates if self._settings.duplicates == "drop" else 0),
            duplicates=self._duplicates,
            spaces=self._tally.spaces,
            empty=self._tally.empty,
            bad_rows=self._tally.bad_rows,
        )

    def _notes(self, origin: CorpusOrigin, counts: Counts, layout: Layout, frequencies: Ids) -> Iterator[str]:
        """Notes for the user, one sentence each. `frequencies` are of all ids in both parts together, (ids,)."""
        if origin.skipped_note:
            yield origin.skipped_note
        if self._tally.structure:
            yield self._tally.structure
        if counts.lowercased:
            yield f"lower case replaced {counts.lowercased:,} characters"
        if counts.punctuation:
            yield f"plain punctuation replaced {counts.punctuation:,} typographic characters"
        if counts.normalized:
            yield f"NFC replaced {counts.normalized:,} characters"
        if counts.marks:
            yield describe_marks(counts.marks)
        if counts.invalid:
            became = "replaced by U+FFFD" if self._settings.invalid == "replace" else "kept as a symbol"
            name = "UTF-8" if self._settings.encoding == "utf-8" else self._settings.encoding
            yield f"{amount(counts.invalid, 'byte was', 'bytes were')} not valid {name}; each was {became}"
        yield from self._notes_on_symbols(counts, layout, frequencies)
        if counts.bad_rows:
            left_out = amount(counts.bad_rows, "row was left out, as it has", "rows were left out, as they have")
            yield f"{left_out} no text in the column {self._settings.column!r}"
        if origin.alphabet:
            yield from origin.alphabet.notes()
        yield from self._notes_on_documents(counts)
        if counts.unknown:
            unit = "token" if self._settings.unit == "token" else "character"
            yield _note_on_unknown(counts, layout, frequencies, alphabet=bool(origin.alphabet), unit=unit)

    def _notes_on_symbols(self, counts: Counts, layout: Layout, frequencies: Ids) -> Iterator[str]:
        if counts.spaces:
            yield (
                f"white space was made plain in {amount(counts.spaces, 'place', 'places')}: one space between two "
                "tokens, none at the ends of lines, and line feeds as line ends"
            )
        if self._settings.unit == "token":
            return
        if self._settings.unit == "character" and (zeros := int(frequencies[layout.symbols == 0].sum())):
            yield f"{zeros:,} of the characters are zeros (NUL), which are rare in texts; the model learns them"
        if frequencies[layout.symbols == ord("\r")].any():
            yield (
                f"the text has {self._tally.line_ends}, which the model learns and writes; it predicts other line ends "
                "badly. For line feeds alone, first save the text with them (LF, as of Unix) in an editor"
            )

    def _note_on_duplicates(self) -> str:
        count = f"{self._duplicates:,} of {self._validated:,} validation documents"
        if self._settings.duplicates == "keep":
            return (
                f"{count} are also in the training text, word for word, so the validation loss is too low; leave them "
                "out with --corpus.duplicates drop"
            )
        none = "; none is left, so give a --corpus.validation-file" if self._duplicates == self._validated else ""
        return f"{count} were left out, as they are also in the training text{none}"

    def _notes_on_documents(self, counts: Counts) -> Iterator[str]:
        if counts.empty:
            yield f"{amount(counts.empty, 'empty document was', 'empty documents were')} left out"
        if counts.duplicates:
            yield self._note_on_duplicates()
        if self._settings.documents == "separator" and not self._tally.separators:
            yield f"the separator {self._settings.separator!r} does not occur; each file is one document"
        if counts.documents == 1 and self._settings.validation:
            yield (
                "there is only one document, so none is left for validation; give a --corpus.validation-file, or "
                "divide the text into more documents with --corpus.documents"
            )


def _note_on_unknown(counts: Counts, layout: Layout, frequencies: Ids, *, alphabet: bool, unit: str) -> str:
    if not alphabet:
        new = [repr(name) for name in layout.unseen_names]
        found = amount(
            counts.unseen,
            f"{unit} of the validation text does not occur in the training text, and counts",
            f"{unit}s of the validation text do not occur in the training text, and count",
        )
        return f"{found} as unknown: {list_some(new)}"
    counted = zip(frequencies[layout.known :].tolist(), layout.unseen_names, strict=True)
    frequent = [f"{name!r} {count:,}" for count, name in sorted(counted, key=lambda pair: -pair[0])]
    return (
        f"{counts.unknown:,} of {counts.characters:,} {unit}s are not in the alphabet, and count as unknown: "
        f"{list_some(frequent)}"
    )


# --- which part of a text is validation


def validation_characters(characters: int, share: float) -> int:
    """The number of characters at the end that are validation: 0 if the share is less than one character, never all.

    Raises UsageError if nothing would be left to train on.
    """
    if share >= 1:
        return _check_count(int(share), characters, "characters")
    wanted = round(characters * share, 6)  # 0.1 * 30 is 3, not 3.0000000000000004
    return min(math.ceil(wanted), characters - 1) if wanted >= 1 else 0


def validation_documents(documents: int, count: float) -> Fraction:
    """The share that makes `count` of the documents validation.

    Raises UsageError if nothing would be left to train on.
    """
    return Fraction(_check_count(int(count), documents, "documents"), documents)


def _check_count(count: int, among: int, unit: str) -> int:
    """Returns how many of `among` units are validation. Raises UsageError unless one is left to train on."""
    if count >= among:
        raise UsageError(
            f"corpus.validation is {count:,}, but the text has only {among:,} {unit}, so none would be left to train "
            "on; give fewer, or a share such as 0.1"
        )
    return count


def are_validation(numbers: Ids, share: float | Fraction) -> npt.NDArray[np.bool_]:
    """Whether each document is validation, by its number from 0: `numbers` (M,) -> (M,).

    Block b has the documents ceil(b / share) .. ceil((b + 1) / share) - 1, and one of them is validation. In block 0 it
    is the second one, so that two documents suffice; in any other block a hash of b picks it. So documents appended
    later change nothing.
    """
    if not share:
        return np.zeros(numbers.shape, np.bool_)
    exact = share
    if not isinstance(exact, Fraction):
        exact = max(Fraction(share).limit_denominator(LARGEST_DENOMINATOR), Fraction(1, LARGEST_DENOMINATOR))
    blocks = numbers * exact.numerator // exact.denominator
    first = -(-blocks * exact.denominator // exact.numerator)
    size = -(-(blocks + 1) * exact.denominator // exact.numerator) - first
    picked = np.where(blocks == 0, 1, (_hash_numbers(blocks) % size.astype(np.uint64)).astype(np.int64))
    return np.asarray(numbers == first + picked)


def _hash_numbers(numbers: Ids) -> Words:
    """64 well-mixed bits of each number, the low ones too."""
    bits = mix(numbers.astype(np.uint64) + np.uint64(GOLDEN))
    return bits ^ (bits >> np.uint64(31))


class Growing(Protocol):
    """Something that documents can be appended to."""

    def append(self, symbols: Symbols, ends: Ids, /) -> None:
        """Appends symbols (characters,), and the places in them where documents end, (M,)."""


class Split:
    """Sends each document of a text to the draft of the part that it belongs to."""

    def __init__(self, share: float | Fraction, training: Growing, validation: Growing) -> None:
        self._share, self._training, self._validation = share, training, validation
        self._ended = 0  # documents

    def append(self, symbols: Symbols, ends: Ids) -> None:
        """Appends symbols (characters,), and the places in them where documents end, (M,)."""
        numbers = np.arange(self._ended, self._ended + ends.size + 1)  # (M + 1,), the last one is still open
        chosen = are_validation(numbers, self._share)
        self._training.append(*pick(symbols, ends, ~chosen))
        self._validation.append(*pick(symbols, ends, chosen))
        self._ended += ends.size
