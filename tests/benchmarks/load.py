"""Load on an HTTP server from a few kept connections, and what it costs the server in CPU time."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

CONNECTIONS = 8
SETTLE_S = 0.5
"""What a request leaves to background threads is done by then, and counts."""


@dataclass(frozen=True)
class Post:
    """A request to send often; `headers` makes those of each one."""

    path: str
    body: Mapping[str, Any]
    headers: Callable[[], Mapping[str, str]]


@contextmanager
def sender(url: str) -> Iterator[Callable[[Post, int], None]]:
    """`send(post, times)`: returns when all were answered 201; the connections stay open in between."""
    place = urlsplit(url)
    assert place.hostname
    lines = [http.client.HTTPConnection(place.hostname, place.port, timeout=60) for _ in range(CONNECTIONS)]

    def share(line: http.client.HTTPConnection, post: Post, times: int) -> None:
        body = json.dumps(post.body).encode()
        for _ in range(times):
            line.request("POST", post.path, body, {"Content-Type": "application/json", **post.headers()})
            answer = line.getresponse()
            said = answer.read()
            assert answer.status == 201, said

    with ThreadPoolExecutor(CONNECTIONS) as pool:

        def send(post: Post, times: int) -> None:
            shares = [pool.submit(share, line, post, times // CONNECTIONS) for line in lines]
            for one in shares:
                one.result()

        try:
            yield send
        finally:
            for line in lines:
                line.close()


def cpu_s(process: psutil.Process) -> float:
    """User and system time of a process (s); the kernel counts in hundredths."""
    times = process.cpu_times()
    return float(times.user + times.system)


def sessions_cpu_s(postgres: int, database: str) -> dict[int, float]:
    """CPU time (s) of the Postgres sessions on a database, by process number."""
    found = {}
    for child in psutil.Process(postgres).children():
        try:
            if database in " ".join(child.cmdline()).split():
                found[child.pid] = cpu_s(child)
        except psutil.NoSuchProcess:
            continue
    return found


def grown_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """How much time went by for those who are there now."""
    return sum(value - before.get(pid, 0.0) for pid, value in after.items())


def memory(process: psutil.Process) -> dict[str, float]:
    """Resident memory in MB, and where the system says so the part that is its own (USS) and its share (PSS)."""
    told = process.memory_full_info()
    found = {f"{name}_mb": getattr(told, name, None) for name in ("rss", "uss", "pss")}
    return {name: round(value / 1e6, 1) for name, value in found.items() if value is not None}


def settle() -> None:
    time.sleep(SETTLE_S)
