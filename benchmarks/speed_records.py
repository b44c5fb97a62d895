"""Compares Scriven's speed with what was recorded for the same kind of processor: finds what has become slower.

    python benchmarks/speed_records.py speed.json [--records FILE] [--record]

Only ratios are compared: how many times faster Scriven is than each other contestant of speed.py, measured in turns. So
another clock rate or a busy moment changes them little. A ratio that is more than 5 % lower than the recorded one is a
regression; then the exit code is 1. `speed.py --compare` measures and compares in one command.

`--record` writes the ratios into the records, in the place of those of this kind of processor: its maker, family and
model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import arguments_parser, table
from speed_tables import PRODUCTS, Results, ratio, times

RECORDS = Path(__file__).with_name("speed_records.json")
LEAST = 0.95  # of the recorded ratio; below it is a regression
OWN = {"training": "scriven", "sampling": "scriven int8"}  # whose speed is divided by that of each other contestant
Ratios = dict[str, float]  # "case: own / other" to how many times faster


def ratios(results: Results) -> Ratios:
    """How many times faster Scriven is than each contestant that it was measured in turns with."""
    found = {}
    for part, own in OWN.items():
        for case in results.get(part, []):
            for name in case["contestants"]:
                value = ratio(case["contestants"], own, name)
                if name != own and not name.startswith(PRODUCTS) and value == value:  # noqa: PLR0124 - nan differs from itself
                    found[f"{case['case']}: {own} / {name}"] = round(value, 3)
    return found


def read(records: Path) -> dict[str, Any]:
    """What was recorded, by kind of processor."""
    kinds: dict[str, Any] = json.loads(records.read_text(encoding="utf-8")) if records.exists() else {}
    return kinds


def record(measured: dict[str, Any], records: Path) -> None:
    """Puts the ratios of a measurement into the records; those of other cases and kinds stay."""
    kinds, machine = read(records), measured["machine"]
    kind = machine["kind"]
    when = {"date": machine["time"][:10], "commit": machine["commit"]}
    now = {what: {"ratio": value, **when} for what, value in ratios(measured["results"]).items()}
    kinds[kind] = dict(sorted((kinds.get(kind, {}) | now).items()))
    records.write_text(json.dumps(dict(sorted(kinds.items())), indent=1) + "\n", encoding="utf-8")
    print(f"Recorded in {records} for {kind}")


def compare(measured: dict[str, Any], records: Path) -> int:
    """Prints each ratio beside the recorded one; gives how many are more than 5 % lower."""
    kind = measured["machine"]["kind"]
    known = read(records).get(kind)
    if known is None:
        print(f"Nothing is recorded for {kind} in {records}; speed_records.py --record writes it")
        return 0
    rows, slower = [], 0
    for what, now in ratios(measured["results"]).items():
        if what not in known:
            rows.append([what, "-", times(now), "new"])
            continue
        before, when = known[what]["ratio"], f"{known[what]['date']}, {known[what]['commit']}"
        regressed = now < LEAST * before
        slower += regressed
        rows.append([what, f"{times(before)} ({when})", times(now), f"{now / before - 1:+.1%}{' slower' * regressed}"])
    print(f"## Beside what was recorded for {kind}\n")
    print(table(["Scriven is faster by", "recorded", "now", "change"], rows))
    print(f"\n{slower} of {len(rows)} ratios are more than {1 - LEAST:.0%} lower than recorded.")
    return slower


def main() -> None:
    """Compares a measurement that is there already, or records it."""
    parser = arguments_parser(__doc__)
    parser.add_argument("measured", type=Path, help="speed.json, which speed.py has written")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--record", action="store_true", help="write the ratios into the records")
    asked = parser.parse_args()
    measured = json.loads(asked.measured.read_text(encoding="utf-8"))
    slower = compare(measured, asked.records)
    if asked.record:
        record(measured, asked.records)
    elif slower:
        sys.exit(1)


if __name__ == "__main__":
    main()
