"""Takes away what each other system lacks, then imports every module, in a process of its own.

A module that is masked cannot be imported; a name of os, signal, mmap, time or socket that is masked is not there.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pkgutil
import signal
import socket
import sys
import time

UNIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
MASKED_MODULES = {"win32": UNIX_MODULES, "darwin": ()}
LINUX_NAMES = {
    os: (
        "sched_getaffinity sched_setaffinity memfd_create eventfd pidfd_open posix_fallocate posix_fadvise splice "
        "copy_file_range fdatasync pipe2 setns unshare getrandom O_TMPFILE O_DIRECT O_PATH"
    ),
    mmap: "MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTFORK MAP_POPULATE MAP_NORESERVE MAP_STACK",
    signal: "sigwaitinfo sigtimedwait SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT",
    socket: "SOCK_CLOEXEC SOCK_NONBLOCK AF_NETLINK",
    time: "CLOCK_BOOTTIME CLOCK_TAI",
}
UNIX_NAMES = {
    os: (
        "fork forkpty register_at_fork getuid geteuid getgid getpgid getpgrp getsid killpg setsid setpgid setpgrp "
        "sysconf statvfs fstatvfs uname mkfifo mknod pread preadv pwrite pwritev fchdir fchmod fchown chown lchown "
        "lockf nice getloadavg sched_yield sync wait wait3 wait4 waitid WNOHANG O_NOFOLLOW O_NONBLOCK O_CLOEXEC "
        "O_DIRECTORY O_NOCTTY"
    ),
    mmap: "PROT_READ PROT_WRITE MAP_SHARED MAP_PRIVATE MAP_ANONYMOUS MADV_DONTNEED MADV_SEQUENTIAL MADV_WILLNEED",
    signal: (
        "SIGKILL SIGHUP SIGQUIT SIGALRM SIGPIPE SIGCHLD SIGUSR1 SIGUSR2 SIGSTOP SIGCONT SIGTSTP SIGWINCH alarm "
        "setitimer getitimer pause pthread_sigmask pthread_kill sigwait sigpending siginterrupt"
    ),
    socket: "AF_UNIX",
    time: "tzset clock_settime pthread_getcpuclockid CLOCK_PROCESS_CPUTIME_ID CLOCK_MONOTONIC_RAW",
}
# These import packages of others when they are imported, and these choose by the system that is there.
ADAPTERS = {"scriven.transformers", "scriven.lm_eval", "scriven.llm_plugin"}
MASKED_NAMES = {"darwin": [LINUX_NAMES], "win32": [LINUX_NAMES, UNIX_NAMES]}


def warm_up() -> None:
    """Imports what others have written, and has code of its own for each system: it chooses by what is there here."""
    importlib.import_module("torch")
    for name in ("asyncio", "multiprocessing", "rich.console", "filelock", "platformdirs", "cyclopts", "uvicorn"):
        importlib.import_module(name)


def mask(system: str) -> None:
    """Takes from this process what a system lacks."""
    for name in MASKED_MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment]
    for names in MASKED_NAMES[system]:
        for module, words in names.items():
            for word in words.split():
                if hasattr(module, word):
                    delattr(module, word)
    sys.platform = system  # os.name stays, which Python's own library asks for


def import_all() -> list[str]:
    """Imports every module of Scriven; returns their names."""
    import scriven

    names = [each.name for each in pkgutil.walk_packages(scriven.__path__, "scriven.")]
    names = [
        name for name in names if name not in ADAPTERS and not name.endswith("__main__") and "._native" not in name
    ]
    for name in names:
        importlib.import_module(name)
    return names


def main() -> None:
    """Imports everything as on each system, and prints how many modules there are. Torch is imported once."""
    warm_up()
    fork, wait = os.fork, os.waitpid
    for system in MASKED_MODULES:
        child = fork()
        if child == 0:
            mask(system)
            print(system, len(import_all()), flush=True)
            return
        if wait(child, 0)[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()
