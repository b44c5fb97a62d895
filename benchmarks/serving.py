"""Measures what `scriven serve` can do: one client, 64 streams at once, and a crowd that half vanishes; loopback only.

    python benchmarks/serving.py RUN [--seconds 60] [--clients 1000] [--parts one many crowd]

`one`: characters/s of one client that streams, and of `scriven sample` on the same machine, taking turns. `many`: 64
clients at once: characters/s of all together, the time to the first character (median and 99th percentile), and whether
each text is the one that the same request gives alone. `crowd`: --clients within --seconds, every other of which leaves
in the middle of its stream; then the server's rows, states, files and memory, compared with those before. It starts a
server for RUN, a run's folder, and ends it. The clients need processor time too: they share the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments_parser, save, scriven, table

PROMPT = "It was "
LENGTH = 4000  # characters of each of the many streams
ALONE = 40_000  # characters of the stream of one client
SETTLE = 3.0  # seconds after which a server without clients is looked at


@dataclass
class Told:
    """What one client got: the status, the text, and the seconds to its first character and to its end."""

    status: int = 0
    text: str = ""
    first: float = 0.0
    seconds: float = 0.0
    whole: bool = False


async def stream(port: int, seed: int, length: int, leave_after: int | None = None) -> Told:
    """One request on a connection of its own; it may leave after so many characters."""
    asked = {"prompt": PROMPT, "max_tokens": length, "seed": seed, "stream": True, "ignore_eos": True}
    body, told, begun = json.dumps(asked).encode(), Told(), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        told.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if line.startswith(b"data: {"):
                told.first = told.first or time.perf_counter() - begun
                told.text += json.loads(line[6:])["choices"][0]["text"]
            told.whole = told.whole or line.startswith((b"data: [DONE]", b'{"error"'))
            if leave_after is not None and len(told.text) >= leave_after:
                writer.transport.abort()
                break
    finally:
        writer.close()
    told.seconds = time.perf_counter() - begun
    return told


@contextmanager
def server(run: Path) -> Iterator[tuple[int, int]]:
    """A server of the run: its port and its process id."""
    command = [scriven(), "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        found = re.search(r":(\d+)\s*$", process.stderr.readline())
        if not found:
            sys.exit(f"{' '.join(command)} did not start: {process.stderr.read()}")
        try:
            asyncio.run(stream(int(found[1]), 0, 100))  # the first request prepares what all use
            yield int(found[1]), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def sample_rate(run: Path) -> float:
    """Characters/s of `scriven sample`: of a long text, without the time that a text of one character takes."""

    def seconds(length: int) -> float:
        begun = time.perf_counter()
        command = [scriven(), "sample", str(run), "--prompt", PROMPT, "--length", str(length), "--seed", "1"]
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - begun

    return ALONE / (seconds(ALONE + 1) - seconds(1))


def one(run: Path, port: int, rounds: int) -> dict[str, Any]:
    """One client and the command, taking turns."""
    served, written = [], []
    for turn in range(rounds):
        told = asyncio.run(stream(port, turn, ALONE))
        served.append(len(told.text) / told.seconds)
        written.append(sample_rate(run))
    share = statistics.median(served) / statistics.median(written)
    return {"served": served, "sample": written, "share": share}


async def many(port: int, clients: int) -> dict[str, Any]:
    """So many clients at once, and then each request alone."""
    begun = time.perf_counter()
    told = await asyncio.gather(*(stream(port, seed, LENGTH) for seed in range(clients)))
    seconds = time.perf_counter() - begun
    alone = [await stream(port, seed, LENGTH) for seed in range(clients)]
    firsts = sorted(each.first for each in told)
    return {
        "characters_per_second": sum(len(each.text) for each in told) / seconds,
        "first_median": statistics.median(firsts),
        "first_p99": firsts[min(clients - 1, round(0.99 * clients))],
        "errors": sum(each.status != 200 or not each.whole for each in told),
        "other_texts": sum(a.text != b.text for a, b in zip(told, alone, strict=True)),
    }


async def crowd(port: int, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients spread over so many seconds, half of which leave; the server before and after."""
    chance = random.Random(1)
    for warm in range(2):  # buffers and pools that a first crowd makes are no leak
        await asyncio.gather(*(stream(port, warm, 300, 50 if n % 2 else None) for n in range(128)))
    await asyncio.sleep(SETTLE)
    before = state(port, pid)

    async def client(number: int) -> Told:
        await asyncio.sleep(chance.uniform(0, seconds))
        leaves = chance.randrange(1, 1500) if number % 2 else None
        try:
            return await asyncio.wait_for(stream(port, number, 2000, leaves), 120)
        except (OSError, TimeoutError) as error:
            return Told(text=type(error).__name__)

    told = await asyncio.gather(*map(client, range(clients)))
    await asyncio.sleep(SETTLE)
    stayed = told[::2]
    statuses = Counter(each.status for each in told)
    broken = [each for each in stayed if not (each.status in {429, 503} or (each.whole and len(each.text) == 2000))]
    return {"before": before, "after": state(port, pid), "statuses": dict(statuses), "broken": len(broken)}


def state(port: int, pid: int) -> dict[str, float]:
    """Rows and what else the server counts, its open files and its memory in bytes."""
    told = subprocess.run(
        ["curl", "-sS", f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True, check=True
    ).stdout
    names = ("rows", "waiting", "states", "state_bytes")
    found = {name: sum(map(float, re.findall(rf"^scriven_{name}(?:{{.*}})? (\S+)$", told, re.M))) for name in names}
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {**found, "files": len(list(Path(f"/proc/{pid}/fd").iterdir())), "bytes": pages * os.sysconf("SC_PAGE_SIZE")}


def rows(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The lines of the table."""
    if "one" in results:
        yield "one client, of `scriven sample`'s rate", f"{results['one']['share']:.0%}"
    if "many" in results:
        found = results["many"]
        yield "many clients, characters/s in all", f"{found['characters_per_second']:,.0f}"
        yield "first character, median and p99", f"{found['first_median']:.3f} s, {found['first_p99']:.3f} s"
        yield "errors; texts other than alone", f"{found['errors']}; {found['other_texts']}"
    if "crowd" in results:
        found = results["crowd"]
        yield "crowd: statuses (0: no answer)", str(found["statuses"])
        yield "crowd: answers neither whole nor refused", str(found["broken"])
        yield (
            "crowd: rows and files left",
            f"{found['after']['rows']:g}, {found['after']['files']} ({found['before']['files']})",
        )
        yield "crowd: memory after, of before", f"{found['after']['bytes'] / found['before']['bytes']:.1%}"


def main(arguments: argparse.Namespace) -> None:
    """Measures, prints, writes."""
    results: dict[str, Any] = {}
    with server(arguments.run) as (port, pid):
        if "one" in arguments.parts:
            results["one"] = one(arguments.run, port, arguments.rounds)
        if "many" in arguments.parts:
            results["many"] = asyncio.run(many(port, 64))
        if "crowd" in arguments.parts:
            results["crowd"] = asyncio.run(crowd(port, pid, arguments.clients, arguments.seconds))
    print(table(["what", "result"], rows(results)))
    save(arguments, "serving", results)


if __name__ == "__main__":
    parser = arguments_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--parts", nargs="+", choices=["one", "many", "crowd"], default=["one", "many", "crowd"])
    parser.add_argument("--rounds", type=int, default=3, help="turns of one client and `scriven sample`")
    parser.add_argument("--clients", type=int, default=1000, help="of the crowd")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which the crowd comes")
    main(parser.parse_args())
