"""Runs commands in which the n-th allocation of Python's fails, for many n; prints what each ended with, as JSON.

    python failing_allocations.py TIMES COMMAND...

Processes are forked from one that has imported what the commands need.
"""

import _testcapi  # type: ignore[import-not-found]
import json
import os
import sys
import tempfile

import numpy as np
import torch

from scriven.cli import main

FIRST, LAST = 3, 1_400_000  # n grows by a factor from one to the other: a command makes about a million allocations


def run_with_failure(number: int, words: list[str]) -> tuple[int, str]:
    """The exit code of a command whose allocation with a number fails, and what it wrote for errors."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(file.fileno(), 2)
            code: object = 0
            try:
                _testcapi.set_nomemory(number, number + 1)
                main(words)
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                _testcapi.remove_mem_hooks()
                os.write(2, f"Traceback of {error!r}".encode())
                code = 1
            os._exit(code if isinstance(code, int) else 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        file.seek(0)
        return code, file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = np.geomspace(FIRST, LAST, int(sys.argv[1])).astype(int).tolist()
    print(
        json.dumps(
            [[words, number, *run_with_failure(number, words.split())] for words in sys.argv[2:] for number in numbers]
        )
    )
