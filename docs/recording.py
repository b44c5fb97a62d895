"""Records a short training and what the model then writes, as an animated picture: docs/images/tour.svg.

    python docs/recording.py

It trains for a minute on Shakespeare's plays, which have to be in the cache (`make demo` puts them there), in a folder
of its own. The picture has the lines as they came, a minute of training in ten seconds, without a script, for light
and dark pages.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "images" / "tour.svg"
COMMANDS = (
    "scriven train shakespeare --minutes 1",
    'scriven sample shakespeare --prompt "HAMLET" --length 350 --seed 1',
)
COLUMNS, ROWS = 96, 24
LINE_PIXELS, CHARACTER_PIXELS, MARGIN_PIXELS = 20, 8.43, 20
SHOWN_SECONDS = 10  # of a training of a minute
PAUSE_SECONDS, LAST_SECONDS = 1.5, 6  # before a command, and at the end
SECONDS_PER_LINE = 0.15  # at least, so that an eye can follow


@dataclass(frozen=True)
class Line:
    """A line of the terminal and when it is shown."""

    text: str
    seconds: float

    @property
    def is_command(self) -> bool:
        """Whether a person typed it."""
        return self.text.startswith("$ ")


def record() -> list[Line]:
    """Runs the commands in a new folder. Returns what they print, with the times of the picture."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            begin = (lines[-1].seconds if lines else 0) + PAUSE_SECONDS
            lines.append(Line(f"$ {command}", begin))
            lines += run(command, Path(folder), begin + PAUSE_SECONDS)
    return lines


def run(command: str, folder: Path, begin: float) -> list[Line]:
    """Runs one command. Returns its lines, the first at `begin`."""
    words = [sys.executable, "-m", *shlex.split(command)]
    started, lines, shown = time.monotonic(), list[Line](), begin
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for printed in process.stdout:
            came = begin + (time.monotonic() - started) * SHOWN_SECONDS / 60
            for part in textwrap.wrap(printed.rstrip(), COLUMNS, drop_whitespace=False) or [""]:
                shown = max(came, shown + SECONDS_PER_LINE)
                lines.append(Line(part.rstrip(), shown))
    if process.returncode:
        raise SystemExit(f"{command} failed:\n" + "\n".join(line.text for line in lines))
    return lines


def draw(lines: list[Line]) -> str:
    """Returns the picture: each line appears at its time, and all move up when the screen is full."""
    duration = lines[-1].seconds + LAST_SECONDS
    width, height = COLUMNS * CHARACTER_PIXELS + 2 * MARGIN_PIXELS, ROWS * LINE_PIXELS + 2 * MARGIN_PIXELS
    rules, texts, scrolls = [], [], ["0%{transform:none}"]
    for number, line in enumerate(lines):
        share = 100 * line.seconds / duration
        rules.append(f"@keyframes l{number}{{0%,{share:.2f}%{{opacity:0}}{share + 0.01:.2f}%,100%{{opacity:1}}}}")
        rules.append(f".l{number}{{animation:l{number} {duration:.1f}s infinite}}")
        kind = " class" + f'="l{number}{" command" if line.is_command else ""}"'
        place = MARGIN_PIXELS + (number + 0.75) * LINE_PIXELS
        texts.append(f'<text{kind} x="{MARGIN_PIXELS}" y="{place:.0f}">{escape(line.text)}</text>')
        if number >= ROWS:
            before, now = (LINE_PIXELS * (number - ROWS + step) for step in (0, 1))
            scrolls.append(f"{share:.2f}%{{transform:translateY(-{before}px)}}")
            scrolls.append(f"{share + 0.01:.2f}%{{transform:translateY(-{now}px)}}")
            last = now
    if len(lines) > ROWS:
        scrolls.append(f"100%{{transform:translateY(-{last}px)}}")
    style = (
        "text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#3b3a36;white-space:pre}.command{fill:#0b57d0;"
        f"font-weight:bold}}rect{{fill:#faf9f5;stroke:#d8d5cc}}g{{animation:up {duration:.1f}s infinite}}"
        "@media(prefers-color-scheme:dark){text{fill:#d8d5cc}.command{fill:#8ab4f8}rect{fill:#1d1c1a;stroke:#4a4843}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">\n'
        f"<title>A training of one minute, and what the model then writes</title>\n"
        f"<style>{style}@keyframes up{{{''.join(scrolls)}}}{''.join(rules)}</style>\n"
        f'<clipPath id="screen"><rect y="{MARGIN_PIXELS}" width="100%" height="{ROWS * LINE_PIXELS}"/></clipPath>\n'
        f'<rect width="100%" height="100%" rx="8"/>\n'
        f'<g style="animation:none" clip-path="url(#screen)"><g>\n' + "\n".join(texts) + "\n</g></g></svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(record()), encoding="utf-8")
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")
