"""Measures how long GET /health/live waits while a server works: 64 streams with log-probabilities, and large bodies.

    python benchmarks/liveness.py RUN [--seconds 20] [--streams 64] [--beams 0] [--nice 0] [--no-work]

The server, the streams and the requests for health are a process each. Prints the median, the 99th percentile and the
largest wait in milliseconds. On Linux it also prints them without the time that the server's loop and the client waited
for a core. `--beams 48` adds as many clients that search with the widest beam. `--nice 15` lets the streams and bodies
give way to the server if there are few cores; `--no-work` leaves them out.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
from common import arguments_parser

BODIES = {
    "objects": b'{"prompt": [' + b",".join([b"{}"] * 200_000) + b"]}",
    "ids": b'{"prompt": [' + b",".join([b"1"] * 1_900_000) + b"]}",
    "numbers": b'{"prompt": [' + b",".join([b"1.5"] * 999_999) + b"]}",
    "unknown": b'{"prompt": [' + b",".join([b"4294967295"] * 200_000) + b"]}",  # as many as may be, and none is known
    "text": b'{"prompt": "' + b"x" * 4_000_000 + b'"}',
}


async def stream(client: httpx.AsyncClient, until: float) -> None:
    """Asks for texts, one after another, and reads them."""
    body = {"prompt": "a", "max_tokens": 2000, "logprobs": 20, "stream": True, "ignore_eos": True}
    while time.monotonic() < until:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_raw():
                pass


async def search(client: httpx.AsyncClient, until: float) -> None:
    """Searches for the likeliest texts, one after another."""
    body = {"prompt": "a", "max_tokens": 200, "beam": 64, "ignore_eos": True}
    while time.monotonic() < until:
        await client.post("/v1/completions", json=body)


async def send(client: httpx.AsyncClient, until: float) -> None:
    """Sends bodies that are refused."""
    while time.monotonic() < until:
        for body in BODIES.values():
            await client.post("/v1/completions", content=body)


def ask(url: str, until: float, server: int) -> list[tuple[float, float]]:
    """Waits for /health/live, in seconds: all, and without those for a core."""
    waits = []
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            begun, queued = time.monotonic(), queued_seconds(server)
            client.get("/health/live").raise_for_status()
            wait = time.monotonic() - begun
            waits.append((wait, max(0.0, wait - (queued_seconds(server) - queued))))
            time.sleep(0.01)
    return waits


def queued_seconds(server: int) -> float:
    """How long the first thread of the server, its loop, and that of this process have waited for a core so far."""
    paths = [Path(f"/proc/{process}/task/{process}/schedstat") for process in (server, os.getpid())]
    return sum(int(path.read_text().split()[1]) for path in paths if path.exists()) / 1e9


async def work(url: str, streams: int, beams: int, until: float) -> None:
    """What keeps the server busy."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        writing = [stream(client, until) for _ in range(streams)] + [search(client, until) for _ in range(beams)]
        await asyncio.gather(*writing, *([send(client, until)] if streams else []))


def main() -> None:
    """Runs and tells."""
    parser = arguments_parser(__doc__)
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--beams", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--no-work", action="store_true")
    given = parser.parse_args()
    command = [sys.executable, "-m", "scriven", "serve", given.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
        until = time.monotonic() + given.seconds
        child = os.fork()
        if not child:
            os.nice(given.nice)
            if not given.no_work:
                asyncio.run(work(url, given.streams, given.beams, until))
            os._exit(0)
        waits = ask(url, until, server.pid)
        os.waitpid(child, 0)
        server.terminate()
    print(f"{len(waits)} questions")
    for name, values in zip(("in all", "without waits for a core"), zip(*waits, strict=True), strict=True):
        *_, late = statistics.quantiles(values, n=100)
        parts = (statistics.median(values), late, max(values))
        print(f"{name}: median, 99th percentile, largest:", ", ".join(f"{1000 * part:.1f}" for part in parts), "ms")


if __name__ == "__main__":
    main()
