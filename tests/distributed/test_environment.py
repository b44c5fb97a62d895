"""What is said of workers with different environments."""

from typing import Any

import pytest

from scriven.distributed.rendezvous import ENVIRONMENT_BYTES, describe_difference, environment


def workers(*changes: dict[str, Any]) -> list[dict[str, str]]:
    same = {"scriven": "1.0", "torch": "2.13.0", "kernels": "amx", "instructions for torch": "AVX512"}
    return [{"host": f"node{rank}", **same, **change} for rank, change in enumerate(changes)]


def test_those_of_one_kind_may_work_together_wherever_they_are() -> None:
    assert describe_difference(workers({}, {}, {})) == ""
    assert describe_difference([environment(), environment() | {"host": "elsewhere"}]) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"torch": "2.10.0"}, "worker 1 on node1 has torch 2.10.0; install the same versions on all machines"),
        ({"kernels": "avx2"}, "worker 1 on node1 has kernels avx2; set SCRIVEN_KERNELS=avx2 on all machines"),
        ({"kernels": "off"}, "worker 1 on node1 has kernels off; set SCRIVEN_KERNELS=off on all machines"),
        ({"instructions for torch": "AVX2"}, "has instructions for torch AVX2; set ATEN_CPU_CAPABILITY"),
    ],
)
def test_what_differs_is_named_and_where_and_the_way_out(change: dict[str, str], told: str) -> None:
    said = describe_difference(workers({}, change, {}))
    assert told in said
    assert "worker 0 on node0 has" in said
    assert "worker 2" not in said


def test_of_many_only_some_are_named() -> None:
    said = describe_difference(workers({}, *[{"kernels": "avx512"}] * 9))
    assert "worker 3 on node3 has kernels avx512 and 6 more; set" in said
    assert "worker 4" not in said


def test_a_long_name_leaves_room_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "n" * 1000)
    assert len(str(environment())) < ENVIRONMENT_BYTES
