"""Trains a start on its text, which make.py has made, and writes it in the form of the package, with its card.

    python starts/train.py general --out build/starts --minutes 240 --width 256
    SCRIVEN_STARTS=build/starts/made scriven train TEXT --from general --minutes 2

The training is one of Scriven's own, of the text as one stream. It is a run in OUT/runs, and continues there if it was
stopped. A start is published by moving OUT/made/NAME into src/scriven/starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

import scriven
from scriven import starts
from scriven.report.terminal import TerminalReport
from scriven.runs import Run, open_run
from scriven.runs.journal import METRICS_FILE
from scriven.runs.tensors import encode
from scriven.safe_files import read_toml
from scriven.settings_values import merge_settings

HERE = Path(__file__).parent
FEWEST = 100  # times that a character occurs in the text, to be one that the start knows
BLOCK = 1 << 20  # characters that are counted at a time
VALIDATION = 0.005  # of the text, at its end; pieces of all sources follow one another everywhere


@dataclass(frozen=True)
class Ingredients:
    """What a start is made from: its text, and what make.py says about it."""

    name: str
    text: Path
    listed: dict[str, Any]  # sources.toml
    report: dict[str, Any]  # sources.json

    @property
    def start(self) -> dict[str, Any]:
        """What sources.toml says about the start."""
        return dict(self.listed["start"][self.name])

    def sources(self) -> list[dict[str, Any]]:
        """The sources that the text was made from, in the order of their list."""
        return [source for source in self.listed["source"] if source["name"] in self.report]

    def characters(self, source: dict[str, Any]) -> int:
        """The characters of a source in the text."""
        times = {name: count for name, count in self.start.get("times", {}).items() if name == source["name"]}
        return int(self.report[source["name"]]["characters"]) * times.get(source["name"], 1)

    def languages(self) -> str:
        """The languages of the text, those with most characters first."""
        sums = Counter[str]()
        for source in self.sources():
            sums[self.listed["languages"].get(source["language"], source["language"])] += self.characters(source)
        return ", ".join(name for name, _ in sums.most_common())


def main() -> None:
    """Trains the start that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the start, as in sources.toml")
    parser.add_argument("--out", type=Path, default=Path("build/starts"), help="folder of make.py's results")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument(
        "--characters", type=int, default=0, help="to read, in place of minutes: the same on any machine"
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settings", type=Path, help="TOML file of more settings")
    asked = parser.parse_args()
    listed = tomllib.loads((HERE / "sources.toml").read_text(encoding="utf-8"))
    report = json.loads((asked.out / "sources.json").read_text(encoding="utf-8"))
    made = Ingredients(asked.name, asked.out / f"{asked.name}.txt", listed, report)
    check_text(made)
    budget = {"minutes": asked.minutes} if asked.minutes else {"characters": asked.characters}
    shape = {"model": {"width": asked.width, "layers": asked.layers}, "training": {"seed": asked.seed}}
    more = read_toml(asked.settings) if asked.settings else {}
    words = f"{asked.name}-{asked.layers}x{asked.width}-{asked.seed}-{asked.minutes or asked.characters:g}"
    run = train(made, asked.out / "runs" / words, budget, merge_settings(shape, more))
    folder = asked.out / "made" / asked.name
    shutil.rmtree(folder, ignore_errors=True)
    start = publish(made, run, folder)
    print(f"{folder}: {start.size / 1e6:.2f} MB, {start.sha256}")


def check_text(made: Ingredients) -> None:
    """Ends with a message if the text is not the one that sources.json describes."""
    digest = hashlib.sha256(made.text.read_bytes()).hexdigest()
    if digest != made.report[f"start {made.name}"]["sha256"]:
        sys.exit(f"{made.text} has the SHA-256 {digest}, which sources.json does not; make the text again")


def train(made: Ingredients, folder: Path, budget: Mapping[str, float], settings: dict[str, Any]) -> Run:
    """Trains a model of the text, or continues to, and returns the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    alphabet = folder.with_suffix(".json")
    alphabet.write_text(json.dumps(frequent(made.text), ensure_ascii=False), encoding="utf-8")
    own = {"corpus": {"alphabet": str(alphabet), "validation": VALIDATION}}
    trained = scriven.train(
        made.text,
        output=folder,
        resume="auto",
        settings=merge_settings(merge_settings(own, settings), {"budget": dict(budget)}),
        initial=starts.NONE,
        reports=[TerminalReport()],
    )
    if trained.interrupted:
        sys.exit("stopped and saved; give the same command again to continue")
    return open_run(folder)


def frequent(text: Path) -> list[str]:
    """Returns the characters that occur often enough in a text, sorted."""
    counts = Counter[str]()
    with text.open(encoding="utf-8", newline="") as file:
        while block := file.read(BLOCK):
            counts.update(block)
    return sorted(character for character, count in counts.items() if count >= FEWEST)


def publish(made: Ingredients, run: Run, folder: Path) -> starts.Start:
    """Writes the best model of a run as a start."""
    weights = {name: value.bfloat16() for name, value in run.checkpoint("best").weights().items()}
    settings = {"model": run.settings.model.model_dump()}
    return starts.write(
        folder,
        title=made.start["title"],
        languages=made.languages(),
        licence=made.start["licence"],
        trained_characters=made.report[f"start {made.name}"]["characters"],
        card="\n".join(card(made, run)) + "\n",
        model={
            starts.SETTINGS_FILE: tomli_w.dumps(settings).encode(),
            starts.VOCABULARY_FILE: run.vocabulary.to_json().encode(),
            starts.WEIGHTS_FILE: b"".join(encode(weights)),
        },
    )


def card(made: Ingredients, run: Run) -> Iterator[str]:
    """Yields the lines of a start's card."""
    text = made.report[f"start {made.name}"]
    model, training, best = run.settings.model, run.settings.training, run.checkpoint("best")
    yield f"# The start {made.name}\n"
    yield f"{made.start['title']}. A general model that trainings can begin from:"
    yield f"`scriven train TEXT --from {made.name}`."
    yield f"Its {text['characters']:,} characters are {made.start['licence']}.\n"
    own = [source["what"] for source in made.sources() if source["registry"] == "at hand"]
    for what in own:
        yield f"It has {what}. Tables measure them without a start only."
    yield f"No {'other ' if own else ''}text that Scriven's tables are measured on is in it, nor another edition of"
    yield "one. They share no stretch of 40 characters, whatever their case, spaces and quotation marks.\n"
    yield "## Texts\n"
    yield "| name | language | million characters | what | licence, and why | from |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for source in made.sources():
        language = made.listed["languages"].get(source["language"], source["language"])
        where = f"{source['registry']}: {source.get('package', source['files'][0])} {source.get('version', '')}".strip()
        parts = "; ".join(words for _, _, words in source.get("lines", []))
        what = source["what"] + (f": {parts}" if parts else "")
        yield (
            f"| {source['name']} | {language} | {made.characters(source) / 1e6:.2f} | {what} | {source['licence']}: "
            f"{source['why']} | {where} |"
        )
    yield f"\nThe text has the SHA-256 {text['sha256']}; `python starts/make.py text` makes it from these packages.\n"
    yield "## Training\n"
    shown = "; ".join(f"{protocol} {nats:.4f} nats per character" for protocol, nats in losses(run).items())
    symbols = len(run.vocabulary.symbols)
    yield f"{model.cell} {model.layers}x{model.width}; {symbols} characters, those that occur {FEWEST} times or more;"
    yield f"{training.optimizer} at {training.learning_rate:g}, seed {training.seed}, kernels {run.origin['kernels']}."
    yield f"It is the model of step {best.step:,}, after {best.epochs or 0:.2f} passes over the text. Losses on the"
    yield f"last {VALIDATION:.1%} of it, before the weights were rounded to bf16: {shown or 'none'}.\n"
    yield from notices()


def losses(run: Run) -> dict[str, float]:
    """Returns the exact losses at the end of a run in nats per character, by protocol."""
    lines = map(json.loads, (run.path / METRICS_FILE).read_text(encoding="utf-8").splitlines())
    return {line["protocol"]: line["nats_per_char"] for line in lines if line.get("final")}


def notices() -> Iterator[str]:
    """Yields the notices that the licences of the texts ask for, from README.md."""
    yield "## Notices\n"
    yield (HERE / "README.md").read_text(encoding="utf-8").partition("## Notices\n")[2].strip()


if __name__ == "__main__":
    main()
