"""What a process gives up before it reads what a stranger made: all that it does not need for reading.

Limits hold on every Unix. On Linux a filter of system calls comes on top, because limits do not keep a process that is
taken over from deleting files by their paths, sending signals, or writing to the memory of its parent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Final

_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
"""Which column of the tables below is its own, what the kernel calls it, and its number of `seccomp`."""
_ALLOWED: Final[Mapping[str, tuple[int, int]]] = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fstat": (5, 80),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "pread64": (17, 67),
    "read": (0, 63),
    "readv": (19, 65),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "sigaltstack": (131, 132),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "write": (1, 64),
    "writev": (20, 66),
}
"""What Python, the C library and libav need to read, compute in threads, write to what is open, and end."""
_CLONE, _CLONE3, _PRCTL, _PRLIMIT, _TGKILL = (56, 220), (435, 435), (157, 167), (302, 261), (234, 131)
_CLONE_THREAD, _SET_NAME, _NO_NEW_PRIVILEGES = 0x10000, 15, 38
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_FILTER, _ALL_THREADS = 1, 1


def confine(*, memory: int, cpu_s: int, file_bytes: int) -> None:
    """From now on this process opens nothing, be it a file or a socket, and takes no more than so much of each.

    `memory` is address space, `file_bytes` how far a file that is open for writing may grow. On x86-64 and 64-bit ARM
    under Linux it can no longer change files by their names, start a program or reach another process either, where the
    kernel has seccomp. A second call can only make it tighter.
    """
    limits = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),  # SIGXCPU comes first, and tells it from a kill
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_CORE: (0, 0),
        # Not as many as are open: whoever closes one of them could open another in its place.
        resource.RLIMIT_NOFILE: (0, 0),
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        now = [limit if hard == resource.RLIM_INFINITY else min(limit, hard) for limit in wanted]
        try:
            resource.setrlimit(kind, (now[0], now[1]))
        except (ValueError, OSError):
            if kind is not resource.RLIMIT_AS:  # macOS refuses some address-space limits
                raise
    if sys.platform == "linux" and sys.maxsize > 1 << 32 and platform.machine() in _ARCHITECTURES:
        _filter(*_ARCHITECTURES[platform.machine()])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter(column: int, architecture: int, seccomp: int) -> None:
    """Lays the filter over all threads. A kernel without it, or one that has it already, says no."""
    steps = b"".join(_steps(column, architecture))
    program = _Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.syscall(*map(ctypes.c_long, (seccomp, _FILTER, _ALL_THREADS)), ctypes.byref(program))


def _steps(column: int, architecture: int) -> Iterator[bytes]:
    """The filter, as BPF (Linux' Documentation/userspace-api/seccomp_filter.rst)."""
    yield from (_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, architecture, 1, 0), _refused(errno.EPERM))
    yield _step(_LOAD, _NUMBER)
    for numbers in _ALLOWED.values():
        yield from (_step(_EQUAL, numbers[column], 0, 1), _step(_RETURN, _ALLOW))
    # Threads and no processes; its own name, limits and signals (of `abort`), and nobody else's.
    for numbers, test, value in (
        (_CLONE, _ANY_BIT, _CLONE_THREAD),
        (_PRCTL, _EQUAL, _SET_NAME),
        (_PRLIMIT, _EQUAL, 0),
        (_TGKILL, _EQUAL, os.getpid()),
    ):
        yield from (_step(_EQUAL, numbers[column], 0, 4), _step(_LOAD, _FIRST_ARGUMENT), _step(test, value, 0, 1))
        yield from (_step(_RETURN, _ALLOW), _refused(errno.EPERM))
    # Whose flags lie in memory, which no filter sees: the C library then takes `clone`.
    yield from (_step(_EQUAL, _CLONE3[column], 0, 1), _refused(errno.ENOSYS), _refused(errno.EPERM))


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)


def _refused(error: int) -> bytes:
    return _step(_RETURN, _REFUSE | error)
