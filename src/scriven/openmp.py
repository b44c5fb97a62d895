"""How the threads of one process wait for one another.

OpenMP reads it from the environment, once, when torch is imported: so `import scriven` settles it before, for the
command line and for Python alike. This is why a module reads and changes the environment that is no part of the
command line.
"""

from __future__ import annotations

import os
import sys

# Threads that wait for one another sleep: else they keep the processor busy, and beside any other program a step takes
# 30 times as long. But they look out for so many turns first (about 0.1 ms), since to wake up at every piece of work
# costs a quarter of a step; ten times as many gain little, and cost half of the speed beside another program.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}


def wait_asleep() -> None:
    """Let threads sleep while they wait, where the environment says nothing else and torch was not imported yet."""
    if "torch" not in sys.modules:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
