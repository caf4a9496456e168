"""What an idle system costs: messages and connections to the broker a worker, memory a process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from figures import Figure, Figures, rounded
from load import memory

from framewright.local import System

WATCH_S = 60.0
SETTLE_S = 10.0
FLEETS = (2, 6)


@dataclass(frozen=True)
class Quiet:
    """The broker over `WATCH_S` without any job."""

    workers: int
    bytes_s: float
    commands_s: float
    connections: list[int]


@pytest.fixture(scope="module")
def system(build: Callable[..., System]) -> System:
    return build(workers=0)


def test_memory_of_an_idle_api(system: System, figures: Figures) -> None:
    time.sleep(SETTLE_S)
    facts = memory(psutil.Process(system.services["api"].pid))
    figures.add(Figure("api_rss_mb", "RSS of an idle API process", facts.pop("rss_mb"), "MB", 150, facts))


def test_broker_traffic_of_idle_workers(system: System, figures: Figures) -> None:
    none = _watch(system, figures)
    quiet = []
    for fleet in FLEETS:
        while len(_workers(system)) < fleet:
            system.spawn_worker()
        time.sleep(SETTLE_S)
        quiet.append(_watch(system, figures))
    for one in quiet:
        figures.add(
            Figure(
                f"broker_bytes_s_at_{one.workers}_workers",
                f"idle broker bytes/s a worker at {one.workers} workers",
                (one.bytes_s - none.bytes_s) / one.workers,
                "B/s",
                512,
                {
                    "in_all_bytes_s": rounded(one.bytes_s),
                    "without_workers_bytes_s": rounded(none.bytes_s),
                    "commands_s_a_worker": rounded((one.commands_s - none.commands_s) / one.workers),
                    "watched_s": WATCH_S,
                },
            )
        )
        figures.add(
            Figure(
                f"broker_connections_at_{one.workers}_workers",
                f"broker connections a worker at {one.workers} workers",
                max(one.connections),
                "",
                4,
                {"each": one.connections},
            )
        )


def test_memory_of_an_idle_worker(system: System, figures: Figures) -> None:
    workers = [memory(process) for process in _workers(system)]
    runners = [memory(child) for process in _workers(system) for child in process.children(recursive=True)]
    assert len(runners) == len(workers), "each worker has one warm runner and nothing else"
    supervisor, runner = _median(workers), _median(runners)
    both = {key: round(supervisor[key] + runner[key], 1) for key in supervisor}
    title = "RSS of an idle worker's"
    figures.add(
        Figure("worker_supervisor_rss_mb", f"{title} supervisor", supervisor.pop("rss_mb"), "MB", 120, supervisor)
    )
    figures.add(Figure("worker_runner_rss_mb", f"{title} runner", runner.pop("rss_mb"), "MB", None, runner))
    figures.add(Figure("worker_rss_mb", f"{title} two processes", both.pop("rss_mb"), "MB", 120, both))


def _workers(system: System) -> list[psutil.Process]:
    return [psutil.Process(one.pid) for name, one in system.services.items() if name.startswith("worker")]


def _watch(system: System, figures: Figures) -> Quiet:
    fleet = _workers(system)
    figures.say(f"watching the broker for {WATCH_S:.0f} s with {len(fleet)} workers")
    with redis.Redis.from_url(system.servers.redis_url) as client:
        before, begun = _counted(client), time.monotonic()
        connections: list[list[int]] = []
        while time.monotonic() - begun < WATCH_S:
            time.sleep(WATCH_S / 12)
            connections.append([_connections(process, system.servers.redis_url) for process in fleet])
        after, took_s = _counted(client), time.monotonic() - begun
    spent = [(late - early) / took_s for early, late in zip(before, after, strict=True)]
    return Quiet(len(fleet), spent[0], spent[1], [max(seen) for seen in zip(*connections, strict=True)])


def _counted(client: Any) -> tuple[int, int]:
    told = client.info("stats")
    return told["total_net_input_bytes"] + told["total_net_output_bytes"], told["total_commands_processed"]


def _connections(process: psutil.Process, redis_url: str) -> int:
    """Connections to the broker of a worker and its runner."""
    port = urlsplit(redis_url).port or 6379
    family = [process, *process.children(recursive=True)]
    there = (one for member in family for one in member.net_connections("tcp"))
    return sum(1 for one in there if one.status == psutil.CONN_ESTABLISHED and one.raddr and one.raddr.port == port)


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}
