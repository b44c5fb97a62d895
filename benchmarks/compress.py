"""Sizes of archives beside those of other compressors, as lines of a Markdown table.

    python benchmarks/compress.py TEXT... [--with NAME] [--fast]

Programs that are not installed are left out. Each archive is decompressed again and compared. zpaq takes minutes for
a text of 17 MB; --fast leaves it out.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import arguments_parser, save, table

from scriven import archives
from scriven.cli.compress import find_network

PROGRAMS = {  # what writes an archive {to} of a text {text}
    "zstd --ultra -22": "zstd -q --ultra -22 -T1 {text} -o {to}",
    "xz -9e": "xz -9e -k -c {text}",
    "bzip2 -9": "bzip2 -9 -k -c {text}",
    "7zz PPMd, order 6": "7zz a -t7z -m0=PPMd:o=6:mem=512m -bd {to} {text}",
    "zpaq -m5": "zpaq a {to} {text} -m5 -t1",
}
SLOW = "zpaq -m5"


def size_of(command: str, text: Path) -> int | None:
    """The bytes that a program makes of a text; None if it is not installed."""
    if not shutil.which(command.split(maxsplit=1)[0]):
        return None
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / ("archive.zpaq" if command.startswith("zpaq") else "archive")
        words = [word.format(text=text, to=to) for word in command.split()]
        with (Path(folder) / "out").open("w+b") as out:
            subprocess.run(words, stdout=out, stderr=subprocess.DEVNULL, check=True)
            found = [path for path in Path(folder).iterdir() if path.stem == "archive"]
            return found[0].stat().st_size if found else out.seek(0, 2)


def measured(text: Path, networks: list[str], fast: bool) -> Iterator[dict[str, Any]]:
    """What compressed a text, to how many bytes, and the bytes per second each way."""
    for name, command in PROGRAMS.items():
        if not (fast and name == SLOW) and (size := size_of(command, text)):
            yield {"text": text.name, "by": name, "bytes": size}
    content = text.read_bytes()
    for name in ["", *networks]:
        network = find_network(name) if name else None
        begun = time.perf_counter()
        archive = archives.compress(content, network)
        between = time.perf_counter()
        assert archives.decompress(archive, lambda _, network=network: network) == content  # type: ignore[misc]
        there, back = len(content) / (between - begun), len(content) / (time.perf_counter() - between)
        by = f"scriven compress --with {name}" if name else "scriven compress"
        yield {"text": text.name, "by": by, "bytes": len(archive), "compressing": there, "decompressing": back}


def main() -> None:
    """Measures, and prints the table."""
    parser = arguments_parser(__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--with", dest="networks", action="append", default=[])
    parser.add_argument("--fast", action="store_true")
    asked = parser.parse_args()
    results: list[dict[str, Any]] = []
    for text in asked.texts:
        length = text.stat().st_size
        for each in measured(text, asked.networks, asked.fast):
            results.append({**each, "bits_per_byte": 8 * each["bytes"] / length})
    speeds = ("compressing", "decompressing")
    rows = [
        [each["text"], each["by"], f"{each['bytes']:,}", f"{each['bits_per_byte']:.3f}"]
        + [f"{each[name]:,.0f}" if name in each else "" for name in speeds]
        for each in results
    ]
    print(table(["text", "compressed by", "bytes", "bits/byte", "bytes/s", "bytes/s back"], rows))
    save(asked, "compress", results)


if __name__ == "__main__":
    main()
