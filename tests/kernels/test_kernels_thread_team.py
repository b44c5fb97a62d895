"""The team of native threads: all members meet, every part is done once, whoever calls and whenever.

The team is of torch's threads here, and of its own in a child of this process. What is tested is a small library of the
team and one function: each member adds up its part of the numbers, round after round, and reads in each round what its
neighbours wrote in the one before.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import threading

import pytest
from test_kernels_native_library import LEAST, NATIVE, build, kernels, needs_compiler

from scriven.kernels import native_library

pytestmark = needs_compiler
SOURCE = """
#include "thread_team.h"
// In each round every number becomes its own plus its left neighbour's of the round before. Gives the members' number,
// or -1 where a part was missing.
SCRIVEN_API int64_t rounds_of(int64_t threads, int64_t rounds, int64_t count, uint64_t *numbers, uint64_t *others) {
    int64_t members[64] = {}, sum = 0;
    scriven::run(threads, [&](const scriven::Member &member) {
        const auto [begin, end] = member.share(count);
        uint64_t *from = numbers, *to = others;
        for (int64_t round = 0; round < rounds; ++round) {
            for (int64_t i = begin; i < end; ++i) to[i] = from[i] + from[(i + count - 1) % count];
            uint64_t *last = from;
            from = to, to = last;
            member.wait();
        }
        members[member.index] = member.count;
    });
    for (int64_t i = 0; i < members[0]; ++i) sum += members[i];
    return sum == members[0] * members[0] ? members[0] : -1;
}
// 1 where all members see a denormal number as zero.
SCRIVEN_API int64_t flushed(int64_t threads) {
    bool zero[64] = {}, all = true;
    scriven::run(threads, [&](const scriven::Member &member) {
        volatile float denormal = 1e-40f;
        zero[member.index] = denormal + denormal == 0;
    });
    for (int64_t i = 0; i < threads; ++i) all = all && zero[i];
    return all;
}
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    root = tmp_path_factory.mktemp("team")
    (kernels(root) / "native").mkdir(parents=True)
    for name in (*LEAST, "thread_team.h", "thread_team.cpp"):
        shutil.copy(NATIVE / name, kernels(root) / "native")
    build(root, SOURCE)
    loaded = native_library.find("", kernels(root)).library
    assert loaded
    loaded.rounds_of.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2
    return loaded


def members(team: ctypes.CDLL, threads: int, rounds: int = 200, count: int = 13) -> int:
    """Check the function against the slow obvious code; gives how many threads there were."""
    numbers, others = (ctypes.c_uint64 * count)(*range(count)), (ctypes.c_uint64 * count)()
    expected = list(range(count))
    for _ in range(rounds):
        expected = [(each + expected[i - 1]) % 2**64 for i, each in enumerate(expected)]
    found = int(team.rounds_of(threads, rounds, count, numbers, others))
    assert list(others if rounds % 2 else numbers) == expected
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("rounds", [1, 200])
def test_all_members_meet_in_every_round(team: ctypes.CDLL, threads: int, rounds: int) -> None:
    assert members(team, threads, rounds) == threads
    assert members(team, threads, rounds, count=3) == threads  # some have nothing to do


@pytest.mark.parametrize("threads", [-1, 0])
def test_nobody_is_the_caller_alone(team: ctypes.CDLL, threads: int) -> None:
    assert members(team, threads) == 1


def test_denormals_are_zero_for_all_members(team: ctypes.CDLL) -> None:
    assert team.flushed(3) == 1


def test_a_team_is_used_again_after_it_slept(team: ctypes.CDLL) -> None:
    for pause in (0.0, 0.01, 0.0):
        threading.Event().wait(pause)
        assert members(team, 3) == 3


def test_two_callers_at_once_both_get_theirs(team: ctypes.CDLL) -> None:
    counts: list[int] = []

    def call() -> None:
        counts.extend(members(team, 2) for _ in range(100))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(counts) == 300 and set(counts) <= {1, 2}  # a caller alone where the team was taken
    assert members(team, 2) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_makes_its_own_team(team: ctypes.CDLL) -> None:
    assert members(team, 3) == 3
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if members(team, 3) == 3 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert members(team, 3) == 3


def test_a_program_ends_while_the_team_sleeps(team: ctypes.CDLL) -> None:
    code = f"import ctypes; ctypes.CDLL({team._name!r}).flushed(3)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
