"""A corpus as a reader reads it: what an epoch is, some characters with their ids, and one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scriven.settings import ReaderSettings, Settings, merged, possible, validated

if TYPE_CHECKING:
    from scriven.batches import Batch
    from scriven.corpus import Corpus
    from scriven.vocabulary import Vocabulary

Row = tuple[str, object]
ROWS_SHOWN = 4  # of a batch
LENGTH_SHOWN = 64  # characters of a row


def chosen_reader(corpus: Corpus, reader: ReaderSettings) -> ReaderSettings:
    """The reader's settings; where its kind is not given, documents where the corpus has them, else the stream.

    Raises UsageError when they contradict the corpus.
    """
    kind = "stream" if corpus.settings.documents == "none" else "documents"
    values = merged({"kind": kind}, reader.model_dump(exclude_unset=True))
    return possible(validated({"corpus": corpus.settings.model_dump(), "reader": values})).reader


def epoch_facts(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """What an epoch of the training text is, as values for JSON, with a sentence of them."""
    from scriven.batches.readers import count_epoch, describe_epoch

    counts = count_epoch(corpus.training, corpus.vocabulary, settings.reader, settings.training.accumulate)
    return {"words": describe_epoch(counts), **vars(counts)}


def shown_facts(corpus: Corpus, reader: ReaderSettings, count: int) -> dict[str, Any]:
    """The first `count` characters with their ids, the text of these ids, and the first batch, as values for JSON."""
    from scriven.batches import next_batch

    vocabulary = corpus.vocabulary
    ids = corpus.training.read(0, min(count, corpus.training.characters))
    batch, _ = next_batch(corpus.training, vocabulary, reader, 0)
    return {
        "characters": [vocabulary.decode([id]) for id in ids],
        "ids": ids.tolist(),
        "text": vocabulary.decode(ids),
        "batch": {"length": batch.ids.shape[0], "rows": _batch_rows(batch, vocabulary)},
    }


def _batch_rows(batch: Batch, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Each row of a batch: what it reads, what it predicts, how many of these count, and where it begins afresh."""
    return [
        {
            "reads": vocabulary.decode(batch.ids[:, row]),
            "predicts": vocabulary.decode(batch.targets[:, row]),
            "counts": len(batch.ids) if batch.weights is None else int(batch.weights[:, row].sum()),
            "fresh": [] if batch.fresh is None else batch.fresh[:, row].nonzero()[0].tolist(),
        }
        for row in range(batch.ids.shape[1])
    ]


def shown_in_words(facts: dict[str, Any], unit: str) -> list[Row]:
    """Rows for people, of what `shown_facts` gives."""
    length, rows = facts["batch"]["length"], facts["batch"]["rows"]
    shown: list[Row] = [(f"{unit}s", " ".join(map(repr, facts["characters"])))]
    shown += [
        ("their ids", " ".join(map(str, facts["ids"]))),
        ("as text again", repr(facts["text"])),
        ("first batch", f"{length:,} {unit}s of {len(rows):,} rows"),
    ]
    for number, row in enumerate(rows[:ROWS_SHOWN]):
        shown.append((f"row {number} reads", _cut(row["reads"])))
        counted = "" if row["counts"] == length else f" (of these {row['counts']:,} count)"
        shown.append(("  predicts", _cut(row["predicts"]) + counted))
        if row["fresh"]:
            shown.append(("  memory empty", "before " + ", ".join(f"{place:,}" for place in row["fresh"])))
    return shown


def _cut(text: str) -> str:
    return repr(text[:LENGTH_SHOWN]) + ("..." if len(text) > LENGTH_SHOWN else "")
