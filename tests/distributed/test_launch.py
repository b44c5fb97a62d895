"""Workers that torchrun starts: the same bits, also after one of them was killed or a machine was cut off."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from fork_server import PYTHON
from scriven.distributed import launch
from scriven.errors import ScrivenError, UsageError
from scriven.events import Stepped
from scriven.runs import open_run
from scriven.settings_values import merge_settings, validate
from scriven.training.request import Request
from scriven.training.start import train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# The precision is given, since the one that is measured may be another one in each of two runs that are compared.
SMALL = ["--model.width=16", "--reader.batch=4", "--reader.length=16", "--training.groups=2", "--precision=fp32"]
CHOSEN: dict[str, Any] = {
    "model": {"width": 16},
    "reader": {"batch": 4, "length": 16},
    "training": {"groups": 2, "workers": 1, "precision": "fp32"},
}
EVERY = 40  # steps from a checkpoint to the next
DEADLINE = 100  # seconds


def command(book: Path, output: Path, steps: int) -> list[str]:
    """What torchrun is to start."""
    monitor = [f"--monitor.every-steps={EVERY}", "--monitor.sample-length=0"]
    arguments = [str(book), f"--steps={steps}", *SMALL, *monitor, "--resume", "auto", "--verbose", "-o", str(output)]
    return ["-m", "scriven", "train", *arguments]


def start(words: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"} | environment
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """What `what` gives, as soon as that is something."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def wait_for_end(process: subprocess.Popen[bytes], log: Path) -> str:
    try:
        code = process.wait(DEADLINE)
    finally:
        process.kill()
    assert code == 0, log.read_text()
    return log.read_text()


def worker(rank: int, agent: subprocess.Popen[bytes]) -> int:
    """The number of the process that is this worker of those that torchrun has started, or 0."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told, status = (folder / "environ").read_bytes().split(b"\0"), (folder / "stat").read_text()
        except OSError:
            continue
        name = status[status.index("(") + 1 : status.rindex(")")]  # which a fork has, its environment being another's
        state, parent = status.rpartition(")")[2].split()[:2]
        ranked = name == f"rank-{rank}" or f"RANK={rank}".encode() in told
        if ranked and state != "Z" and int(parent) == agent.pid:
            return int(folder.name)
    return 0


def same_as_undisturbed(book: Path, output: Path, steps: int, tmp_path: Path) -> bool:
    """Whether a run ended as one of a single process that nothing happened to."""
    monitor = {"every_steps": EVERY, "sample_length": 0}
    settings = validate(merge_settings(CHOSEN, {"budget": {"steps": steps}, "monitor": monitor}))
    list(train(Request((str(book),), settings, tmp_path / "undisturbed")))
    runs = [open_run(path).checkpoint("last") for path in (output, tmp_path / "undisturbed")]
    return all(
        torch.equal(mine, getattr(runs[1], part)()[name])
        for part in ("weights", "training")
        for name, mine in getattr(runs[0], part)().items()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_is_killed_is_started_again_and_nothing_else_changes(book: Path, tmp_path: Path) -> None:
    output, log, steps = tmp_path / "run", tmp_path / "log", 5 * EVERY
    words = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=2", *command(book, output, steps)]
    process = start(words, log)
    wait_for(lambda: output.exists() and any(output.glob("checkpoints/step-*")), process, log)
    os.kill(wait_for(lambda: worker(1, process), process, log), 9)
    said = wait_for_end(process, log)
    assert said.count("2 workers") == 2, said  # it has started twice
    assert "another worker of this training has ended" in said
    assert same_as_undisturbed(book, output, steps, tmp_path)


def tool(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them, as two machines with one disk."""
    names = tuple(f"scriven-{os.getpid()}-{end}" for end in "ab")
    if not shutil.which("ip") or not tool("netns", "add", names[0]):
        pytest.skip("network namespaces need iproute2 and the right to make them")
    try:
        tool("netns", "add", names[1])
        tool("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            tool("-n", name, "address", "add", f"10.99.7.{number}/24", "dev", "cable")
            for interface in ("lo", "cable"):
                tool("-n", name, "link", "set", interface, "up")
            # Else it takes the system a quarter of an hour to give a silent machine up.
            tool("netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_retries2=4")
        yield names[0], names[1]
    finally:
        for name in names:
            tool("netns", "delete", name)


@pytest.mark.thorough
def test_a_machine_that_is_cut_off_is_done_without(hosts: tuple[str, str], book: Path, tmp_path: Path) -> None:
    output, steps, logs = tmp_path / "run", 7 * EVERY, [tmp_path / name for name in "ab"]
    # Both are there at once; the longer the first waits for the second, the busier may the machine be.
    words = command(book, output, steps)
    agents = [agent(hosts, number, logs[number - 1], words, wait_seconds=8) for number in (1, 2)]
    try:
        wait_for(lambda: output.exists() and any(output.glob("checkpoints/step-*")), agents[0], logs[0])
        assert tool("-n", hosts[1], "link", "set", "cable", "down")
        said = wait_for_end(agents[0], logs[0])
        assert agents[1].wait(DEADLINE) != 0
    finally:
        for each in agents:
            each.kill()
    assert "2 workers" in said
    assert "cannot be reached" in said
    assert "1 worker," in said
    assert same_as_undisturbed(book, output, steps, tmp_path)


def agent(
    hosts: tuple[str, str], number: int, log: Path, words: list[str], wait_seconds: int = 1
) -> subprocess.Popen[bytes]:
    """Torchrun on machine 1 or 2; each may train without the other, after it has waited for it."""
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=10.99.7.1:29400", "--nnodes=1:2", "--max-restarts=2"]
    conf = f"--rdzv-conf=is_host={2 - number},last_call_timeout={wait_seconds},read_timeout=10"
    here = ["ip", "netns", "exec", hosts[number - 1], *TORCHRUN, *meeting, conf, f"--local-addr=10.99.7.{number}"]
    # Else agents keep the address of their first meeting, which a machine that joins later is never told.
    return start([*here, *words], log, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def asked_to_end(process: int) -> bool:
    """Whether a process that stands still has been sent SIGTERM."""
    told = (Path("/proc") / str(process) / "status").read_text()
    return bool(int(told.partition("ShdPnd:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.thorough
def test_a_machine_joins_and_leaves(hosts: tuple[str, str], book: Path, tmp_path: Path) -> None:
    """One trains, two train, one trains; the first worker stands still until the second machine is there."""
    output, steps, logs = tmp_path / "run", 6 * EVERY, [tmp_path / name for name in "ab"]
    words = command(book, output, steps)
    agents = [agent(hosts, 1, logs[0], words)]
    try:
        wait_for(lambda: output.exists() and any(output.glob("checkpoints/step-*")), agents[0], logs[0])
        first = worker(0, agents[0])
        os.kill(first, signal.SIGSTOP)
        agents.append(agent(hosts, 2, logs[1], words))
        wait_for(lambda: asked_to_end(first), agents[0], logs[0])
        os.kill(first, signal.SIGCONT)
        wait_for(lambda: "2 workers" in logs[0].read_text(), agents[0], logs[0])
        second = wait_for(lambda: worker(1, agents[1]), agents[0], logs[0])
        agents[1].kill()
        os.kill(second, signal.SIGKILL)
        said = wait_for_end(agents[0], logs[0])
    finally:
        for each in agents:
            each.kill()
            each.wait()
    assert re.findall(r"(\d) workers?,", said) == ["1", "2", "1"]
    assert same_as_undisturbed(book, output, steps, tmp_path)


def test_a_worker_ends_with_its_leader_whatever_it_waits_for() -> None:
    """A wait of gloo's for what a killed leader owed was seen to last for ever."""
    code = "import scriven.distributed.launch as launch; print(flush=True); launch.end_with_leader()"
    leader = f"import subprocess; subprocess.Popen([*{PYTHON!r}, '-c', {code!r}], stdin=subprocess.PIPE).wait()"
    process = subprocess.Popen([*PYTHON, "-c", leader], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read(1) == b"\n"  # the worker is there
        process.kill()
        process.wait()
        assert process.stdout.read() == b""  # it has ended too, or this waits for ever


def test_a_process_that_nobody_launched_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launch.torchrun_process() is None
    with pytest.raises(UsageError, match="is started by scriven train"):
        launch.join_spawning_leader()


def test_what_torchrun_tells_is_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": 9, "WORLD_SIZE": 16, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 8, "TORCHELASTIC_RESTART_COUNT": 2}
    for name, value in ({"MASTER_ADDR": "node-1", "MASTER_PORT": 29400} | told).items():
        monkeypatch.setenv(name, str(value))
    place = launch.torchrun_process()
    assert place == launch.ProcessInfo(9, 16, 1, 8, 2)
    assert place and place.machines == 2


def leads_alone(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    """This process, as the only one that torchrun started."""
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | more
    for name, value in told.items():
        monkeypatch.setenv(name, value)


def test_the_number_of_workers_is_what_was_started(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leads_alone(monkeypatch)
    settings = validate({"training": {"workers": 2}, "budget": {"steps": 1}})
    with pytest.raises(UsageError, match=r"training.workers is 2, but the number of processes is 1"):
        list(train(Request((str(book),), settings, tmp_path / "run")))


def test_one_command_begins_goes_on_and_finds_that_it_has_ended(book: Path, tmp_path: Path) -> None:
    def steps(budget: int) -> list[str]:
        settings = validate(merge_settings(CHOSEN, {"budget": {"steps": budget}}))
        events = train(Request((str(book),), settings, tmp_path / "run", resume="auto"))
        return [type(event).__name__ for event in events]

    assert steps(2).count("Stepped") == 2
    assert steps(5).count("Stepped") == 3
    again = steps(5)
    assert again.count("Stepped") == 0
    assert (again[0], again[-1]) == ("Started", "Finished")


def test_one_command_goes_on_from_the_newest_checkpoint_that_is_whole(book: Path, tmp_path: Path) -> None:
    def steps(budget: int) -> list[Any]:
        monitor = {"every_steps": 2, "sample_length": 0, "keep": "all"}
        settings = validate(merge_settings(CHOSEN, {"budget": {"steps": budget}, "monitor": monitor}))
        return list(train(Request((str(book),), settings, tmp_path / "run", resume="auto")))

    steps(4)
    weights = tmp_path / "run/checkpoints/step-00000004/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    events = steps(6)
    assert "Training continues from step 2, the newest that is undamaged." in events[0].notes
    assert [event.step for event in events if isinstance(event, Stepped)] == [3, 4, 5, 6]


def test_what_torchrun_starts_again_goes_on(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget, restarts, steps in ((2, "0", 2), (5, "1", 3)):
        leads_alone(monkeypatch, TORCHELASTIC_RESTART_COUNT=restarts)
        settings = validate(merge_settings(CHOSEN, {"budget": {"steps": budget}}))
        names = [type(event).__name__ for event in train(Request((str(book),), settings, tmp_path / "run"))]
        assert names.count("Stepped") == steps


@pytest.mark.parametrize("resume", [None, "auto"])
def test_what_torchrun_starts_must_know_its_folder(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: Any
) -> None:
    """When started again it went on with the newest run of this text, perhaps an unrelated one."""
    monkeypatch.chdir(tmp_path)
    leads_alone(monkeypatch)
    settings = validate(merge_settings(CHOSEN, {"budget": {"steps": 1}}))
    with pytest.raises(UsageError, match="name the run's folder with -o"):
        list(train(Request((str(book),), settings, resume=resume)))


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        leads_alone(monkeypatch, WORLD_SIZE="2", MASTER_PORT=str(taken.getsockname()[1]))
        with pytest.raises(ScrivenError, match=r"port \d+ of 127.0.0.1 is in use by another program; .* --master-port"):
            launch.connect_store(launch.torchrun_process())


def test_a_first_worker_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    leads_alone(monkeypatch, RANK="1", WORLD_SIZE="2", MASTER_PORT=str(port))
    monkeypatch.setattr(launch, "MEET_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(ScrivenError, match=rf"process 1 of 2 cannot join the others at 127.0.0.1:{port} \(.*start all"):
        launch.connect_store(launch.torchrun_process())


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "first"}, {"WORLD_SIZE": "0"}, {"MASTER_PORT": "99999"}])
def test_a_place_that_is_none_is_a_mistake_of_who_started_it(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    leads_alone(monkeypatch, **{"WORLD_SIZE": "2", "MASTER_PORT": "29400"} | wrong)
    with pytest.raises(UsageError, match="unset"):
        launch.torchrun_process()


def test_a_device_for_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    launch.use_device("cpu", 7)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="worker 2 of this machine has no device: there are 2"):
        launch.use_device("cuda", 2)
