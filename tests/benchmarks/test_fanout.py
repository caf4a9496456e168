"""From the commit of an event to the clients that follow its job, over the loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
from figures import Figure, Figures, rounded, spread
from load import cpu_s, settle

from framewright import ids
from framewright.database import Database
from framewright.events import Live
from framewright.local import System
from framewright.settings import Settings
from framewright.store import verbs

CLIENTS = 1000
DEADLINE_S = 240.0


@dataclass(frozen=True)
class Case:
    """So many jobs, each of which gets one event; `own`: each client follows one of them, and not all."""

    name: str
    title: str
    jobs: int
    clients: int
    every_s: float
    own: bool = False


CASES = (
    Case("one_job", "1 job x 1,000 clients", 20, CLIENTS, 1.0),
    Case("own_job", "1,000 jobs x 1 client each", 1000, CLIENTS, 0.02, own=True),
    Case("one_client", "1,000 jobs x 1 client in all", 1000, 1, 0.02),
)


@pytest.fixture(scope="module")
def system(build: Callable[..., System]) -> System:
    return build(workers=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fan_out(case: Case, system: System, settings_of: Callable[[System], Settings], figures: Figures) -> None:
    made = _jobs(system, case.jobs)
    every = [f"job:{job}" for job in made]
    topics = [[topic] for topic in every] if case.own else [every] * case.clients
    api = psutil.Process(system.services["api"].pid)
    with _listeners(system, topics) as (ready, received):
        figures.say(f"opening {case.clients} sockets")
        ready()
        settle()
        before = cpu_s(api)
        committed = _cancel_each(settings_of(system), made, case.every_s)
        heard = received()
    spent_s = cpu_s(api) - before
    delays_ms = [(at - committed[job]) * 1000 for mine in heard for at, job, _ in mine]
    assert len(delays_ms) == sum(len(mine) for mine in topics)
    assert all(len({job for _, job, _ in mine}) == len(mine) for mine in heard), "an event came twice"
    numbers = spread(delays_ms)
    figures.add(
        Figure(
            f"fan_out_{case.name}_ms",
            f"event committed -> received, {case.title}, p50",
            numbers["p50"],
            "ms",
            detail={
                **numbers,
                "events_a_second": rounded(1 / case.every_s),
                "sockets": case.clients,
                "api_cpu_us_a_message": rounded(spent_s * 1e6 / len(delays_ms)),
            },
        )
    )


def _jobs(system: System, count: int) -> list[str]:
    """Jobs that wait for a day far off."""
    run_at = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    body = {"kind": "animate", "model": "scripted", "params": {}, "run_at": run_at}
    headers = {"Authorization": f"Bearer {system.api_key}"}
    with httpx.Client(base_url=system.url, headers=headers, timeout=60) as client:
        return [client.post("/api/v1/jobs", json=body).raise_for_status().json()["id"] for _ in range(count)]


def _cancel_each(settings: Settings, jobs: list[str], every_s: float) -> dict[str, float]:
    """Cancels as another process does: the commit, then a poke. Answers when each commit was over (s since 1970)."""
    committed: dict[str, float] = {}
    url = settings.database_url.get_secret_value()
    with closing(Database(url, application="benchmark")) as db, closing(Live(settings)) as live:
        turn = time.monotonic()
        for job in jobs:
            turn += every_s
            time.sleep(max(0.0, turn - time.monotonic()))
            job_id: UUID = ids.parse(ids.JOB, job)
            done = verbs.cancel(db, "default", job_id, "measured")
            committed[job] = time.time()
            assert done
            live.poke(job_id, "default", done[1])
    return committed


@contextmanager
def _listeners(
    system: System, topics: list[list[str]]
) -> Iterator[tuple[Callable[[], None], Callable[[], list[list[tuple[float, str, int]]]]]]:
    """`ready()` returns when every client listens, `received()` what they got: (time, job, seq) client by client."""
    argv = [sys.executable, str(Path(__file__).with_name("listeners.py"))]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    out = process.stdout
    orders = {"url": system.url, "key": system.api_key, "topics": topics, "deadline_s": DEADLINE_S}
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.close()

    def ready() -> None:
        assert json.loads(out.readline() or "{}") == {"ready": len(topics)}

    def received() -> list[list[tuple[float, str, int]]]:
        found: list[list[tuple[float, str, int]]] = json.loads(out.readline())
        return found

    try:
        yield ready, received
    finally:
        process.kill()
        process.wait()
        out.close()
