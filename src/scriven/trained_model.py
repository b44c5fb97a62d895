"""A trained model for use: text in, text out. The command line, the server and users of the library call it.

A text is read from its beginning as if a newline came before it. If the model does not know the newline, nothing comes
before the text, and its first symbol is uniformly likely. Symbols that the model does not know are read as `<unk>`,
which reads as the mean of all known symbols; `<unk>` is never written. Text is prepared as the run's corpus was, by its
settings: in lower case, with plain punctuation or in NFC. A byte order mark at its start is left out.

A model of documents (lines, files, pieces between separators) begins a text as it begins a document. A separator in a
text ends one document and begins the next, and the model remembers nothing from before it. The same holds for
separators that the model writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args, overload
from weakref import WeakValueDictionary

import numpy as np

from scriven.arguments import (
    GUESS_SAMPLES,
    PROOFREAD_GAIN,
    check_choice,
    check_path,
    check_pieces,
    check_stops,
    check_switch,
    check_text,
    check_texts,
    check_whole,
    first_seed,
)
from scriven.arrays import Ids
from scriven.corpus.decoding import ReadCounts, prepare
from scriven.corpus.documents import split_document_text
from scriven.corpus.encodings import drop_mark
from scriven.errors import UsageError
from scriven.inference.adaptive_mixture import adaptive_reader
from scriven.inference.chunks import prompt_ids, read_chunks, split_text
from scriven.inference.context import AdaptiveContext, Context
from scriven.inference.generation import (
    LENGTH,
    LIVE,
    SAMPLING,
    GenerationOptions,
    begin_rule,
    generate_many,
    rule_nats,
)
from scriven.inference.loading import Counts, Device, Precision, device_type, open_predictor, weights_hash
from scriven.inference.predictor import Predictor
from scriven.inference.sampling import DRAWS
from scriven.inference.saved_session import AdaptiveMemory, Origin, SavedSession, TextMemory, require_origin
from scriven.inference.search import BEAM, MIDDLE, BeamOptions, MiddleOptions, find_likeliest, find_middle
from scriven.inference.stream_decoder import StreamDecoder, make_decoder
from scriven.inference.surprisal import Scored, check_finite, check_scored, surprisals_of_text
from scriven.penalties import Followers
from scriven.results import Score, WrittenText, score_of
from scriven.rules import Rule
from scriven.runs.folder import Which, find_run, open_run
from scriven.sampling_settings import SamplingFilters
from scriven.session import Session, training_followers
from scriven.settings import Settings
from scriven.vocabulary import Vocabulary, check_ids

if TYPE_CHECKING:
    from scriven.inference.adaptive_mixture import AnyReader
    from scriven.inference.boundaries import Punctuation, Spaces
    from scriven.inference.novelty import Novelty, Progress, TrainingIndex
    from scriven.inference.proofreading import Suggestion
    from scriven.report.metrics import Metrics
    from scriven.report.plot import By, Plot

Several = list[str] | tuple[str, ...]  # texts; not Sequence, as a str is one


class WritingArguments(SamplingFilters, total=False):
    """The arguments of `Model.sample` after the prompt."""

    length: int
    seed: int | None
    stop: Sequence[str]
    until_end: bool | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    rule: Rule | None


class Model:
    """A trained model, ready for use. It remembers nothing between calls; a `session` does."""

    def __init__(
        self, predictor: Predictor, settings: Settings, step: int = 0, run: str = "", origin: Origin | None = None
    ) -> None:
        """Use `load` to open a run. `step` is the training step of the weights, `run` the folder that has them.

        `origin` binds saved sessions to the weights; without it, sessions cannot be saved.
        """
        self.predictor = predictor
        self.settings = settings
        self.step = step
        self.run = run
        self.origin = origin
        self._index: TrainingIndex | None = None

    def __repr__(self) -> str:
        """The model's shape, its run and its step."""
        return ", ".join(filter(None, [f"Model({self.settings.model.name}", self.run, f"step {self.step})"]))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the name of the checkpoint; it is loaded again where the pickle is opened."""
        return _reopen, (require_origin(self.origin),)

    @property
    def _folder(self) -> Path:
        """The folder of the run. Raises UsageError if the model belongs to none, InputError if it is gone."""
        if not self.run:
            raise UsageError(f"{self!r} belongs to no run; give a run, or its folder")
        return find_run(self.origin.run if self.origin else self.run)

    @property
    def metrics(self) -> Metrics:
        """The losses of the run's training as a table, from its log, as in `TrainedRun`.

        Raises UsageError if the model belongs to no run, InputError if the run is gone.
        """
        from scriven.report.metrics import read_metrics  # noqa: PLC0415 - writing needs no losses

        return read_metrics(self._folder)

    def plot(self, by: By = "characters") -> Plot:
        """Draws the losses of the run's training, as `TrainedRun.plot` does.

        Raises UsageError for another value of `by`, InputError if the run has no training steps or is gone.
        """
        from scriven.report import plot  # noqa: PLC0415 - nor pictures of them

        check_choice("by", by, get_args(plot.By))
        return plot.plot_losses([self.metrics], by)

    @property
    def text_hash(self) -> str:
        """The hash of the text that the run was trained on; empty if the model belongs to no run, or that is unknown.

        Raises InputError if the run is gone.
        """
        return str(open_run(self._folder).origin.get("text") or "") if self.run else ""

    def find_index(
        self, *, build: bool = True, progress: Progress | None = None, read_texts: bool = True
    ) -> TrainingIndex | None:
        """Returns the index of the training text, which says what is copied from it; see docs/novelty.md.

        If it is missing, it is built, and `progress(done, total)` is called with characters; without `build`, the
        result is None. If the corpus is missing too, it is built first from the texts, unless `read_texts` is False.
        Raises UsageError if the model belongs to no run, InputError if the training text is gone.
        """
        if self._index is None or self._index.is_cut:
            from scriven.inference.novelty import open_index  # noqa: PLC0415 - few need it

            self._index = open_index(open_run(self._folder), progress, build=build, read_texts=read_texts)
        return self._index

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model knows."""
        return self.predictor.vocabulary

    @property
    def ends_texts(self) -> bool:
        """Whether the model knows documents, and so where a text ends."""
        return self.vocabulary.boundary is not None

    def _ends(self, until_end: bool | None) -> bool:
        """Whether a text ends with its document, as asked for, or unless asked, if the model knows documents."""
        return self.ends_texts if until_end is None else until_end

    def encode(self, text: str) -> Ids:
        """Returns the ids (symbols,) of a text, int64. Ids from `vocabulary.size` on are unknown symbols.

        Those of unknown tokens hold in this process alone.
        """
        return self.vocabulary.encode(text)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Returns the text of ids (symbols,); `decode(encode(text))` is `text`, for tokens in plain form.

        Raises UsageError if `ids` are not ids of the vocabulary.
        """
        return self.vocabulary.decode(check_ids("ids", ids, self.vocabulary.ids))

    def prepare(self, text: str) -> str:
        """Returns the text as the model reads it: prepared as the run's corpus was."""
        return prepare(drop_mark(check_text("text", text)), self.settings.corpus)

    def read_ids(self, text: str) -> Ids:
        """Returns the ids (symbols,) of a text as the model reads it: prepared, with each invalid byte as one byte.

        A separator between two documents is one boundary.
        """
        return prompt_ids(drop_mark(check_text("text", text)), self.vocabulary, self.settings.corpus)

    def unknown_characters(self, text: str) -> list[str]:
        """Returns the distinct characters of a text that the model does not know, in order of appearance."""
        documents = split_text(drop_mark(check_text("text", text)), self.settings.corpus)
        return [*dict.fromkeys(each for one in documents for each in self.vocabulary.unknown_characters(one))]

    def session(self, *, seed: int | None = None, adapt: bool = False) -> Session:
        """Returns a session: a new text that is read and written by turns. The same seed draws the same text.

        With `adapt`, a copy of the weights learns from all that the session reads, but not from what it writes, and the
        counts of a mixture continue counting. Raises UsageError if the seed is negative, or if the model cannot learn
        while it reads.
        """
        memory = self._memory(adapt=check_switch("adapt", adapt))
        return Session(self, memory, np.random.default_rng(first_seed(seed)))

    def continue_session(self, saved: SavedSession) -> Session:
        """Returns a session that was saved. Raises InputError if it belongs to another model."""
        context = saved.check(self.predictor, require_origin(self.origin))
        memory = self._memory(context if saved.begun else None, adapt=isinstance(context, AdaptiveContext))
        return Session(self, memory, saved.random, inside=saved.inside)

    def _memory(self, context: Context | None = None, *, adapt: bool = False) -> TextMemory:
        """Returns the memory of a new text, or of one that was read up to a context."""
        if isinstance(context, AdaptiveContext) or adapt:
            assert context is None or isinstance(context, AdaptiveContext)
            return AdaptiveMemory(self.adaptive, self._adaptive_start, context)
        return TextMemory(self.predictor, self._start, context)

    def stream(
        self,
        prompt: str = "",
        *,
        length: int = LENGTH,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool | None = None,
        piece: int = LIVE,
        temperature: float = SAMPLING.temperature,
        top_k: int = SAMPLING.top_k,
        top_p: float = SAMPLING.top_p,
        min_p: float = SAMPLING.min_p,
        rule: Rule | None = None,
        **filters: Unpack[SamplingFilters],
    ) -> Iterator[str]:
        """Writes a text after `prompt`, and yields it in pieces as it is written. The prompt is not repeated.

        The text has at most `length` symbols. It ends before the first of the `stop` strings to appear in it. A model
        of documents ends it where the document ends that the prompt begins; with `until_end=False`, more documents
        follow. Pieces have at most `piece` symbols, besides text that was held back because it might begin a stop
        string. Larger pieces are faster. The same `seed` gives the same text; without a seed, every call is different.

        `temperature` divides the logits: lower is more predictable, and 0 always takes the most likely symbol. Symbols
        are drawn from the `top_k` most likely ones (0: no limit), from the most likely ones that together have the
        probability `top_p`, and from those at least `min_p` times as likely as the top one. `filters` are the others of
        docs/sampling.md, such as `typical_p`, `mirostat_tau`, `presence_penalty` and `dry_multiplier`. With `novel`, no
        stretch of that many characters is written that is in the training text: see docs/novelty.md.

        With a `rule`, only symbols are drawn that it allows, and the whole text obeys it: see docs/rules.md. Raises
        UsageError for values out of range, for `until_end` if the model knows no documents, and for a rule that no
        text of this length obeys.
        """
        check_text("prompt", prompt)
        options = GenerationOptions(
            length, stop, self._ends(until_end), temperature, top_k, top_p, min_p, piece, rule, filters
        )
        session = self.session(seed=seed)
        pieces = session._write_with(options)
        session.read(prompt)
        return pieces

    @overload
    def sample(self, prompt: str = "", **writing: Unpack[WritingArguments]) -> str: ...

    @overload
    def sample(self, prompt: Several, **writing: Unpack[WritingArguments]) -> list[WrittenText]: ...

    def sample(
        self,
        prompt: str | Several = "",
        *,
        length: int = LENGTH,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool | None = None,
        temperature: float = SAMPLING.temperature,
        top_k: int = SAMPLING.top_k,
        top_p: float = SAMPLING.top_p,
        min_p: float = SAMPLING.min_p,
        rule: Rule | None = None,
        **filters: Unpack[SamplingFilters],
    ) -> str | list[WrittenText]:
        """Returns a text that the model writes after `prompt`; arguments as in `stream`.

        For a list of prompts it returns a list of texts, which are written side by side: text n is the one that
        prompt n gives with `seed + n`.
        """
        options = GenerationOptions(
            length, stop, self._ends(until_end), temperature, top_k, top_p, min_p, rule=rule, filters=filters
        )
        if not isinstance(prompt, str):
            return list(self._write_all(check_texts("prompt", prompt), seed, options))
        session = self.session(seed=seed)
        session.read(prompt)
        return "".join(session._write_with(options))

    def samples(
        self,
        count: int,
        prompt: str = "",
        *,
        length: int = LENGTH,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool | None = None,
        temperature: float = SAMPLING.temperature,
        top_k: int = SAMPLING.top_k,
        top_p: float = SAMPLING.top_p,
        min_p: float = SAMPLING.min_p,
        rule: Rule | None = None,
        **filters: Unpack[SamplingFilters],
    ) -> Iterator[WrittenText]:
        """Yields `count` texts after the same prompt, written at the same time: many times faster than one by one.

        Text n is the one that `sample` gives with `seed + n`; it is a str that says in `ended` whether it ended by
        itself. Arguments are those of `stream`.
        """
        check_text("prompt", prompt)
        options = GenerationOptions(
            length, stop, self._ends(until_end), temperature, top_k, top_p, min_p, rule=rule, filters=filters
        )
        prompts = repeat(prompt, check_whole("count", count, 0, "0 or more texts to write"))
        return self._write_all(prompts, seed, options)

    def find_likeliest(
        self,
        prompt: str = "",
        *,
        beam: int = BEAM,
        count: int = 1,
        length: int = LENGTH,
        stop: Sequence[str] = (),
        until_end: bool | None = None,
        rule: Rule | None = None,
    ) -> list[WrittenText]:
        """Returns the `count` likeliest texts after `prompt`, the likeliest first, with the log-probability of each.

        They are those that a beam of `beam` texts finds: always the same, and wider beams find likelier ones. Each ends
        as those of `sample` do; one that is cut at `length` may be less likely than a short one that ended. The
        log-probability is that of writing exactly this text at temperature 1, with the stop string or the end of the
        document after it. Raises UsageError for values out of range, and as `stream` does.
        """
        read = self.read_ids(prompt)
        options = BeamOptions(beam, length, check_stops(stop), self._ends(until_end), rule, prompt)
        if check_whole("count", count, 0, "0 or more texts to find") > options.width:
            raise UsageError(
                f"count {count:,}: a beam of {options.width:,} finds no more than that; give a larger beam"
            )
        found = find_likeliest(self.predictor, self.predictor.read(self._start, read[:, None]), options)
        return [WrittenText(each.text, each.ended, -each.nats) for each in found[:count]]

    def infill(
        self,
        prompt: str,
        suffix: str,
        *,
        length: int = MIDDLE,
        draws: int = DRAWS,
        seed: int | None = None,
        until_end: bool | None = None,
        temperature: float = SAMPLING.temperature,
        top_k: int = SAMPLING.top_k,
        top_p: float = SAMPLING.top_p,
        min_p: float = SAMPLING.min_p,
        rule: Rule | None = None,
        **filters: Unpack[SamplingFilters],
    ) -> WrittenText:
        """Returns the text between `prompt` and `suffix`, of at most `length` symbols, without either.

        It draws that many continuations of the prompt, by the arguments of `stream`, and takes one of their beginnings
        by how likely the suffix is after each: see docs/sampling.md. At temperature 0 it takes the likeliest that a
        beam of `draws` texts finds. The suffix ends the document of a model of documents, unless `until_end` is False.
        A rule is about the middle. Raises UsageError as `stream` does, and for an empty suffix.
        """
        read = self._after(check_text("prompt", prompt))
        until_end = self._ends(until_end)
        writing = GenerationOptions(length, (), until_end, temperature, top_k, top_p, min_p, rule=rule, filters=filters)
        random = np.random.default_rng(first_seed(seed))
        after = self.suffix_ids(suffix, until_end=until_end)
        found = find_middle(self.predictor, read, after, MiddleOptions(writing, draws), random)
        text = self.vocabulary.fit_between(prompt, found.text, suffix)
        return WrittenText(text, True, effective_draws=found.effective_draws)

    def suffix_ids(self, suffix: str, *, until_end: bool) -> Ids:
        """Returns the ids (symbols,) of a text that follows a middle, and ends its document with `until_end`."""
        ids = prompt_ids(check_text("suffix", suffix), self.vocabulary, self.settings.corpus)
        if not (len(ids) and until_end):
            return ids
        ends = np.flatnonzero(ids == self.vocabulary.boundary)
        return ids[: ends[0] + 1] if len(ends) else np.append(ids, np.int64(self.vocabulary.boundary or 0))

    def _write_all(self, prompts: Iterable[str], seed: int | None, options: GenerationOptions) -> Iterator[WrittenText]:
        """Writes a text after each prompt, all at the same time. Text n is drawn with `seed + n`."""
        first = first_seed(seed)
        index = training_followers(self, options)
        options.begin(self.vocabulary, np.random.default_rng(first), index)  # raises now, and not at the first text
        return self._write_each(enumerate(prompts, first), options, index)

    def _write_each(
        self, prompts: Iterable[tuple[int, str]], options: GenerationOptions, index: Followers | None
    ) -> Iterator[WrittenText]:
        read = lru_cache(1)(self._after)  # the same prompt may come many times
        texts = (
            (options.begin(self.vocabulary, np.random.default_rng(seed), index, after=prompt), read(prompt))
            for seed, prompt in prompts
        )
        for line, text in generate_many(self.predictor, texts, options.may_end):
            yield WrittenText(text, line.pen.ended)

    def _after(self, prompt: str) -> Context:
        """Returns the context after a prompt."""
        return self.predictor.read(self._start, self.read_ids(prompt)[:, None])

    def rule_nats(self, text: str, rule: Rule, *, prompt: str = "", length: int = LENGTH) -> float:
        """Returns -ln of the probability that `sample` writes exactly this text after `prompt` under a rule.

        It is infinite for a text that breaks the rule. It is not the probability of the text among all that obey, as
        docs/rules.md says. Temperature and filters are left out. Raises UsageError as `sample` does.
        """
        check_text("text", text)
        place = begin_rule(rule, self.vocabulary, self.ends_texts, check_whole("length", length, 0, "0 or more"))
        assert place is not None
        return rule_nats(self.predictor, self._after(prompt), place, self.vocabulary.encode(text))

    def pen(self, stop: Sequence[str] = (), until_end: bool = False, *, after: str = "") -> StreamDecoder:
        """Returns a decoder from ids to the text of one generation, which follows the text `after`.

        Raises UsageError for `until_end` if the model knows no documents, and for values of other types.
        """
        return make_decoder(self.vocabulary, stop, until_end=until_end, after=after)

    @overload
    def score(self, text: str, *, adapt: bool = False) -> Score: ...

    @overload
    def score(self, text: Several, *, adapt: bool = False) -> list[Score]: ...

    def score(self, text: str | Several, *, adapt: bool = False) -> Score | list[Score]:
        """Returns how surprising a text is to the model; every character counts once, unseen ones too.

        For a list of texts it returns a list of scores. A model of documents reads one or several of them in a text,
        as in a file. Each document is read from its start, and its end is counted, the last one's too.

        With `adapt`, a copy of the model learns from a text while it reads it, always after it has scored. Each text
        begins with the trained weights. Ongoing counts read the run's training text when they are first needed. Raises
        UsageError if the model cannot learn so, InputError if the training text is gone.
        """
        if not isinstance(text, str):
            return [self._score(each, adapt) for each in check_texts("text", text)]
        return self._score(text, adapt)

    def _score(self, text: str, adapt: bool) -> Score:
        pieces = list(self.surprisals([self.prepare(text)], adapt=adapt))
        ids = np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)])
        nats = np.concatenate([np.empty(0), *(piece.nats for piece in pieces)])
        return score_of(self.vocabulary, ids, nats, adaptive=adapt)

    def score_units(
        self,
        text: str,
        by: str = "word",
        *,
        spaces: Spaces = "after",
        punctuation: Punctuation = "with",
        separator: str = "",
        entropy: bool = False,
    ) -> list[dict[str, Any]]:
        """Returns a row for each word, line or document of a text, with all columns of `scriven score --by`.

        `pandas.DataFrame` takes the rows as they are. `spaces` says which white space belongs to a word,
        `punctuation` whether it is apart, and `separator` is the user's own one between words. With `entropy`, rows
        have the entropy of the character that comes next where the unit begins, in bits, which takes longer. Raises
        UsageError for other values.
        """
        from scriven.inference import boundaries, unit_tables, units  # noqa: PLC0415 - writing needs none of them

        check_choice("by", by, ("word", "line", "document"))
        check_choice("spaces", spaces, get_args(boundaries.Spaces))
        check_choice("punctuation", punctuation, get_args(boundaries.Punctuation))
        rule = boundaries.make_rule(
            self.vocabulary, by, spaces=spaces, punctuation=punctuation, separator=check_text("separator", separator)
        )
        settings = self.settings.corpus
        places = unit_tables.TextPlaces(unit_tables.row_unit(settings.documents, by))
        tally = ReadCounts(empty_places=places.empty)
        chunks = read_chunks(self.vocabulary, split_document_text([self.prepare(text)], settings, tally))
        if isinstance(rule, boundaries.SeparatorRule):
            chunks = rule.remove_from(chunks)
        names = unit_tables.unit_columns(by, self.vocabulary, places.unit)[1]
        if check_switch("entropy", entropy):
            pieces, names = units.surprisals_of_units(self.predictor, chunks, rule), (*names, "entropy")
        else:
            pieces = surprisals_of_text(self.predictor, chunks)
        tables = unit_tables.unit_tables(self.vocabulary, check_scored(pieces), rule, places=places, names=names)
        return [dict(zip(names, row, strict=True)) for table in tables for row in zip(*table.values(), strict=True)]

    def document_ids(self, text: str) -> Ids:
        """Returns the ids (symbols,) of a text that is one document, with its end.

        Raises UsageError if it is empty or several documents, or if the model knows no documents.
        """
        ids, boundary = self.read_ids(text), self.vocabulary.boundary
        if boundary is None:
            raise UsageError("texts of this model never end; train a model of names, with corpus.documents lines")
        if not ids.size or (ids == boundary).any():
            parts = "several documents" if ids.size else "empty"
            raise UsageError(f"text {text!r} is {parts}; give one document, such as a line without its end")
        return np.append(ids, np.int64(boundary))

    def rank_texts(self, texts: Several, *, samples: int = GUESS_SAMPLES, seed: int = 1) -> list[dict[str, Any]]:
        """Returns a row for each text: how many guesses it takes to come to it, from the model's likeliest text on.

        `guesses` is estimated from `samples` texts that the model writes, and the true number is from `low` to `high`
        in at least 95 of 100 cases. `bits` is the cost of the text and its end. The numbers of a text with unseen
        characters are None, since no guess comes to it. Raises UsageError if a text is not one document of the model.
        """
        from scriven.inference.guess_numbers import draw_guess_samples, rank_documents  # noqa: PLC0415 - few need it

        chunks = [self.document_ids(text) for text in check_texts("texts", texts)]
        count = check_whole("samples", samples, 2, "2 or more texts to write")
        drawn = draw_guess_samples(self.predictor, count, check_whole("seed", seed, 0, "0 or a positive number"))
        return list(rank_documents(self.predictor, chunks, drawn))

    def proofread(self, text: str, *, gain: float = PROOFREAD_GAIN) -> Iterator[Suggestion]:
        """Yields the places of a text where another spelling, one edit away, is likelier by `gain` bits or more.

        Places are those of the text as it is given, and suggestions are as the model reads it. Raises UsageError for a
        model of bytes or of windows.
        """
        from scriven.inference.proofreading import suggest_edits  # noqa: PLC0415 - few need it

        if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < float("inf"):
            raise UsageError(f"gain {gain!r}: give a number of bits above 0")
        return suggest_edits(self.predictor, self.settings.corpus, drop_mark(check_text("text", text)), gain)

    def novelty(self, text: str, *, stretches: int = 1) -> Novelty:
        """Returns what of a text is in the training text, too: the longest stretches, and shares by length.

        The text is prepared as the training text was, and no stretch goes over the end of a document. The index is
        built first if it is missing: see `find_index`, which says what is raised.
        """
        from scriven.inference.novelty import measure_novelty  # noqa: PLC0415 - few need it

        most = check_whole("stretches", stretches, 0, "0 or more stretches to show")
        index = self.find_index()
        assert index is not None  # it was built
        return measure_novelty(index, self.vocabulary, self.read_ids(text), most)

    def surprisals(self, pieces: Iterable[str], *, adapt: bool = False) -> Iterator[Scored]:
        """Yields the ids of one text of any length, with the nats that each id costs, in constant memory.

        The text may come in pieces, cut anywhere. A model of documents puts a boundary after each document, with the
        cost of its end. `adapt` is as for `score`.
        """
        cut = split_document_text(check_pieces("pieces", pieces), self.settings.corpus)
        chunks = read_chunks(self.vocabulary, cut)
        if check_switch("adapt", adapt):
            return check_scored(self._read_adapting(chunks))
        return check_scored(surprisals_of_text(self.predictor, chunks))

    @cached_property
    def adaptive(self) -> AnyReader:
        """Reads with a copy of the model that learns. Raises UsageError if the model cannot learn while it reads."""
        return adaptive_reader(self.predictor)

    @cached_property
    def _read_adapting(self) -> Callable[[Iterable[Ids]], Iterator[Scored]]:
        from scriven.inference.protocols import ADAPTIVE, text_reader  # noqa: PLC0415

        return text_reader(ADAPTIVE, self.predictor, None if self.predictor.is_counts_alone else self.adaptive)

    @cached_property
    def _adaptive_start(self) -> AdaptiveContext:
        return self.adaptive.start()

    @cached_property
    def _start(self) -> Context:
        start = self.predictor.start()
        check_finite(start.logits)
        return start


def load(
    run: str | Path,
    *,
    which: Which = "best",
    device: Device = "auto",
    precision: Precision = "auto",
    counts: Counts = "auto",
    write_order: int | None = None,
) -> Model:
    """Returns the model of a run folder: with its best weights, its last ones, or those of a step or an epoch.

    `device` and `precision` are as in training. On the CPU, native code writes in that precision; `auto` is int8. In
    int8, native code also reads: within 0.001 nats per character of fp32, and the cost of a text does not change by one
    bit with the texts that are read next to it. In bf16 and fp32, torch reads. Without native code, `auto` is fp32,
    and writing is always in fp32.

    The network is mixed with the run's counts where training found that this predicts better, unless `counts` is
    "none". `write_order` is the number of characters of context, at most, that counts look at when they write; longer
    contexts copy the text. Raises InputError if the folder is not a run or is damaged, UsageError for a device or
    precision that this machine does not have.
    """
    check_choice("counts", counts, get_args(Counts))
    order = None if write_order is None else check_whole("write_order", write_order, 1, "1 or more characters")
    check_choice("device", device, get_args(Device))
    check_choice("precision", precision, get_args(Precision))
    path = check_path("run", run)
    if path is None:
        raise UsageError("run is None; give the folder of a run, a str or a Path")
    place, opened = device_type(device), open_run(path)
    checkpoint = opened.checkpoint(which)
    predictor = open_predictor(opened, checkpoint, place, precision=precision, counts=counts, order=order)
    origin = Origin(
        run=str(opened.path.absolute()),
        step=checkpoint.step,
        sha256=weights_hash(opened, checkpoint),
        device=device,
        precision=precision,
        counts="auto" if predictor.counts else None,
        write_order=order,
    )
    made = Model(predictor, opened.settings, checkpoint.step, str(run), origin)
    _LOADED.setdefault(origin, made)
    return made


def load_session(path: str | Path, model: Model | None = None, *, seed: int | None = None) -> Session:
    """Returns the session that `Session.save` wrote to a file.

    Its model is loaded again, from the same checkpoint, unless a `model` with those weights is given. With a `seed`,
    the session draws by that from here on. Raises InputError if the file is not a session, or is bound to other weights
    than the model has now.
    """
    saved = SavedSession.read(path)
    if seed is not None:
        saved = replace(saved, random=np.random.default_rng(first_seed(seed)))
    return (_reopen(saved.origin) if model is None else model).continue_session(saved)


_LOADED: WeakValueDictionary[Origin, Model] = WeakValueDictionary()  # so that sessions share a model


def _reopen(origin: Origin) -> Model:
    """Returns the model of a checkpoint: one that is in use, or a new one."""
    return _LOADED.get(origin) or load(
        origin.run,
        which=origin.step,
        device=origin.device,
        precision=origin.precision,
        counts=origin.counts or "none",
        write_order=origin.write_order,
    )
