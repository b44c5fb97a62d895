"""Compares what models reach in their minutes with their goals, row by row.

    python benchmarks/quality.py --data FOLDER                        # everything: about four hours for three seeds
    python benchmarks/quality.py --data FOLDER --rows alice-none alice-start --seeds 1 2 3
    python benchmarks/quality.py --list

FOLDER has the texts. Every number that was measured is written to the file of --json at once, with the processor and
the commit. What the file has is not measured again, so an interrupted comparison goes on where it stopped, and new
seeds or rows are added to it; delete the file to begin anew. The tables show all rows that the file has.

A training is the command `scriven train` in a new folder, for its minutes of wall time, so run it on a quiet machine.
Its losses are those of the kept model on the whole validation text, in nats: per character, or per symbol where the
ends of documents count too: of the model as it is used, with counts where training found that they help, and of the
network and the counts alone. A goal for processors of another kind alone, with or without AMX, is not shown.
"""

from __future__ import annotations

import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import arguments_parser, machine, table
from quality_rows import OTHERS, TRAININGS, Aim, Other, Training

PARTS = ("network", "counts")
Entry = dict[str, Any]  # what a row measured: "values", by name, and facts about it
Row = Training | Other
ROWS: list[Row] = [*TRAININGS, *OTHERS]


class Results:
    """What has been measured, in a file that is written after each measurement."""

    def __init__(self, path: Path) -> None:
        """Reads the file if there is one."""
        self.path = path
        self.entries: dict[str, Entry] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def has(self, row: Row, seed: int) -> bool:
        """Whether a row was measured, as it is now described."""
        return self.entries.get(_key(row, seed), {}).get("described") == row.words

    def add(self, row: Row, seed: int, entry: Entry) -> None:
        """Adds a measurement. The file is whole at every moment."""
        self.entries[_key(row, seed)] = entry | {"seed": seed, "described": row.words, "machine": machine()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.entries, indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)

    def of(self, row: Row) -> list[Entry]:
        """All measurements of a row as it is now described, by seed."""
        found = {key: entry for key, entry in self.entries.items() if key.split(" ")[0] == row.name}
        return [found[key] for key in sorted(found) if found[key]["described"] == row.words]


def _key(row: Row, seed: int) -> str:
    return f"{row.name} seed {seed}" if row.seeded else row.name


def measure_missing(rows: list[Row], asked: Namespace, results: Results) -> None:
    """Measures what the file does not have, all rows with one seed before the next seed."""
    for seed in asked.seeds:
        for row in rows:
            if not results.has(row, seed):
                entry = row.measure(asked.data, asked.output / "runs", seed)
                results.add(row, seed, entry)
                print(f"{_key(row, seed)}: {json.dumps(entry)}", file=sys.stderr, flush=True)


def show_number(values: list[float], *, each: bool) -> str:
    """The mean and the spread of values, and each of them."""
    if not values:
        return "-"
    mean = _show(statistics.mean(values))
    if len(values) == 1:
        return mean
    every = f" ({', '.join(map(_show, values))})" if each else ""
    return f"{mean} ± {_show(statistics.stdev(values))}{every}"


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def compared_rows(rows: list[Training], results: Results) -> Iterator[list[str]]:
    """The lines of the table of losses: one for each training and protocol."""
    for row in rows:
        entries = results.of(row)
        for protocol in row.protocols if entries else ():
            parts = {part: _values(entries, f"{protocol} {part}") for part in PARTS}
            used = _values(entries, protocol)
            bits = _values(entries, f"{protocol} bits/byte")
            yield [
                row.name,
                protocol,
                *(show_number(parts[part], each=False) for part in PARTS),
                show_number(used, each=True),
                show_number(bits, each=False) if row.by_bytes else "",
                *_judge(row.aims.get(protocol), used, entries),
                show_number([entry["passes"] for entry in entries], each=False),
                ", ".join(sorted({entry["model"] for entry in entries})),
                _processors(entries),
            ]


def other_rows(rows: list[Other], results: Results) -> Iterator[list[str]]:
    """The lines of the table of everything else: one for each number."""
    for row in rows:
        entries = results.of(row)
        for name in entries[0]["values"] if entries else ():
            values = _values(entries, name)
            yield [
                row.name,
                name,
                show_number(values, each=True),
                *_judge(row.aims.get(name), values, entries),
                _processors(entries),
            ]


def difference_rows(rows: list[Training], results: Results) -> Iterator[list[str]]:
    """The lines of the table of differences: how much more a training costs than the one it is compared with."""
    named = {row.name: row for row in rows}
    for row in rows:
        other = results.of(named[row.against]) if row.against in named else []
        pairs = [(mine, yours) for mine in results.of(row) for yours in other if mine["seed"] == yours["seed"]]
        for protocol in row.protocols if pairs else ():
            more = [mine["values"][protocol] - yours["values"][protocol] for mine, yours in pairs]
            judged = _judge(row.difference, more, results.of(row))
            yield [f"{row.name} - {row.against}", protocol, show_number(more, each=True), *judged]


def _values(entries: list[Entry], name: str) -> list[float]:
    return [entry["values"][name] for entry in entries if entry["values"].get(name) is not None]


def _judge(aim: Aim | None, values: list[float], entries: list[Entry]) -> list[str]:
    """Returns the goal on such a processor, and whether the mean reaches it."""
    limit = aim.limit(amx=any("amx" in flag for flag in entries[0]["machine"]["flags"])) if aim and entries else None
    if aim is None or limit is None or not values:
        return ["-", "-"]
    mean = statistics.mean(values)
    reached = mean >= limit if aim.at_least else mean <= limit
    return [f"{'>=' if aim.at_least else '<='} {_show(limit)}", "yes" if reached else "**no**"]


def _processors(entries: list[Entry]) -> str:
    return ", ".join(sorted({entry["machine"]["processor"] for entry in entries}))


def print_tables(rows: list[Row], results: Results) -> None:
    """Prints what the file has of the rows."""
    trainings = [row for row in rows if isinstance(row, Training)]
    others = [row for row in rows if isinstance(row, Other)]
    judged = ["goal", "reached"]
    header = [
        "training",
        "protocol",
        "network alone",
        "counts alone",
        "as used",
        "bits/byte",
        *judged,
        "passes",
        "model",
        "processor",
    ]
    tables = [
        (header, compared_rows(trainings, results)),
        (["difference", "protocol", "nats", *judged], difference_rows(trainings, results)),
        (["measured", "number", "value", *judged, "processor"], other_rows(others, results)),
    ]
    for head, lines in tables:
        if found := list(lines):
            print(table(head, found), end="\n\n")


def listed(row: Row) -> list[str]:
    """A line of --list."""
    aims = [f"{name} {aim}" for name, aim in row.aims.items()]
    aims += [f"{row.difference} more than {row.against}"] if row.against else []
    return [row.name, row.words, "; ".join(aims)]


def main() -> None:
    """Measures what is missing and prints the tables."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the texts")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="rows to measure and show; all unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="file of what was measured; quality.json in --output unless given")
    parser.add_argument("--list", action="store_true", help="show the rows and measure nothing")
    asked = parser.parse_args()
    asked.output = asked.output.resolve()
    if unknown := set(asked.rows or ()) - {row.name for row in ROWS}:
        parser.error(f"there is no row {', '.join(sorted(unknown))}; --list shows them")
    rows = [row for row in ROWS if not asked.rows or row.name in asked.rows]
    if asked.list:
        print(table(["row", "what", "goal"], map(listed, rows)))
        return
    if not (asked.data and asked.data.is_dir()):
        parser.error("give the folder of the texts, as --data FOLDER")
    results = Results(asked.json or asked.output / "quality.json")
    measure_missing(rows, asked, results)
    print_tables(rows, results)


if __name__ == "__main__":
    main()
