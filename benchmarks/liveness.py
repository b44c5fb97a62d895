"""How long GET /health/live waits while a server works: 64 streams with log-probabilities, and large bodies beside.

    python benchmarks/liveness.py RUN [--seconds 20] [--streams 64]

The server is a process of its own; the streams and the questions come from this one, by asyncio. Prints the median and
the largest wait in milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time

import httpx
from common import arguments_parser

BODIES = {
    "objects": b'{"prompt": [' + b",".join([b"{}"] * 200_000) + b"]}",
    "ids": b'{"prompt": [' + b",".join([b"1"] * 1_900_000) + b"]}",
    "text": b'{"prompt": "' + b"x" * 4_000_000 + b'"}',
}


async def stream(client: httpx.AsyncClient, until: float) -> None:
    """Asks for texts, one after another, and reads them."""
    body = {"prompt": "a", "max_tokens": 2000, "logprobs": 20, "stream": True, "ignore_eos": True}
    while time.monotonic() < until:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_raw():
                pass


async def send(client: httpx.AsyncClient, until: float) -> None:
    """Sends bodies that are refused."""
    while time.monotonic() < until:
        for body in BODIES.values():
            await client.post("/v1/completions", content=body)


def ask(url: str, until: float) -> list[float]:
    """Waits for /health/live, in seconds."""
    waits = []
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            begun = time.monotonic()
            client.get("/health/live").raise_for_status()
            waits.append(time.monotonic() - begun)
            time.sleep(0.01)
    return waits


async def work(url: str, streams: int, until: float) -> None:
    """What keeps the server busy."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*[stream(client, until) for _ in range(streams)], send(client, until))


def main() -> None:
    """Runs and tells."""
    parser = arguments_parser(__doc__)
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--streams", type=int, default=64)
    given = parser.parse_args()
    command = [sys.executable, "-m", "scriven", "serve", given.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
        until = time.monotonic() + given.seconds
        child = os.fork()
        if not child:
            asyncio.run(work(url, given.streams, until))
            os._exit(0)
        waits = ask(url, until)
        os.waitpid(child, 0)
        server.terminate()
    print(
        f"{len(waits)} questions: median {1000 * statistics.median(waits):.1f} ms, largest {1000 * max(waits):.0f} ms"
    )


if __name__ == "__main__":
    main()
