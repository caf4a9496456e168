"""One-step jobs, one after the other on a system that is idle in between: how soon they start, what they write."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from figures import Figure, Figures, rounded, spread
from load import memory

from framewright.local import System

JOBS = 200
BODY = {"kind": "animate", "model": "scripted", "params": {"frames": 2, "size": "64x64", "steps": 1}}
GAP_S = 0.25
STATISTICS_S = 11.0
"""A session that has nothing to do tells its counters after ten seconds."""


@dataclass(frozen=True)
class Ledger:
    """What the database has counted so far."""

    transactions: int
    commits: int
    rows: int
    wal_bytes: int


@dataclass(frozen=True)
class Ran:
    """`JOBS` jobs in `took_s`, and the same time without any."""

    delays_ms: list[float]
    ends_ms: list[float]
    spent: Ledger
    took_s: float
    idle: Ledger
    idle_s: float
    worker: list[dict[str, float]]

    def a_job(self, name: str) -> float:
        """What a job adds to what the idle system does anyway."""
        busy, idle = getattr(self.spent, name) / self.took_s, getattr(self.idle, name) / self.idle_s
        return float((busy - idle) * self.took_s / JOBS)

    def idle_rate(self, name: str) -> float:
        return float(getattr(self.idle, name) / self.idle_s)


@pytest.fixture(scope="module")
def ran(build: Callable[..., System], figures: Figures) -> Ran:
    system = build(workers=1)
    headers = {"Authorization": f"Bearer {system.api_key}"}
    with (
        httpx.Client(base_url=system.url, headers=headers, timeout=60) as client,
        psycopg.connect(system.servers.database_url, autocommit=True) as database,
    ):
        for _ in range(10):
            _run(client)
        first = database.execute("SELECT clock_timestamp()").fetchone()
        before, begun = _ledger(database), time.monotonic()
        for at in range(JOBS):
            _run(client)
            # A worker's timers must not march in step with the jobs.
            time.sleep(random.uniform(0, GAP_S))
            if at % 50 == 49:
                figures.say(f"{at + 1} of {JOBS} jobs ran")
        after, took_s = _ledger(database), time.monotonic() - begun
        figures.say("watching the idle system write")
        idle_begun = time.monotonic()
        time.sleep(max(30.0, took_s / 2))
        idle, idle_s = _ledger(database), time.monotonic() - idle_begun
        rows = database.execute(
            "SELECT extract(epoch FROM a.started_at - j.created_at) * 1000,"
            "       extract(epoch FROM j.finished_at - j.created_at) * 1000"
            " FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE j.created_at > %s ORDER BY j.id",
            first,
        ).fetchall()
    supervisor = psutil.Process(system.services["worker"].pid)
    worker = [memory(one) for one in (supervisor, *supervisor.children(recursive=True))]
    assert len(rows) == JOBS, "every job had one attempt"
    delays, ends = [float(row[0]) for row in rows], [float(row[1]) for row in rows]
    return Ran(delays, ends, _less(after, before), took_s, _less(idle, after), idle_s, worker)


def test_from_submit_to_start(ran: Ran, figures: Figures) -> None:
    numbers = spread(ran.delays_ms)
    detail: Mapping[str, Any] = {**numbers, "to_the_end_of_the_job_ms": spread(ran.ends_ms)}
    figures.add(Figure("start_p50_ms", "submit -> worker start, idle, p50", numbers["p50"], "ms", None, detail))
    figures.add(Figure("start_p99_ms", "submit -> worker start, idle, p99", numbers["p99"], "ms"))


def test_durable_writes_of_a_job(ran: Ran, figures: Figures) -> None:
    detail = {
        "wal_bytes": rounded(ran.a_job("wal_bytes")),
        "transactions_with_reads": rounded(ran.a_job("commits")),
        "idle_system_transactions_s": rounded(ran.idle_rate("transactions")),
        "idle_system_transactions_with_reads_s": rounded(ran.idle_rate("commits")),
        "jobs": JOBS,
    }
    title = "writing transactions a one-step job"
    figures.add(Figure("writes_a_job", title, ran.a_job("transactions"), "", 8, detail))
    figures.add(Figure("rows_a_job", "rows written in those transactions", ran.a_job("rows"), ""))


def test_memory_of_a_worker_that_has_worked(ran: Ran, figures: Figures) -> None:
    supervisor, runner = ran.worker
    title = f"RSS of a worker's two processes after {JOBS} jobs"
    detail = {"supervisor": supervisor, "runner": runner}
    figures.add(Figure("used_worker_rss_mb", title, supervisor["rss_mb"] + runner["rss_mb"], "MB", None, detail))


def _run(client: httpx.Client) -> None:
    job = client.post("/api/v1/jobs", json=BODY).raise_for_status().json()["id"]
    deadline = time.monotonic() + 60
    while (found := _waited(client, job))["status"] != "succeeded":
        assert found["status"] in {"queued", "running"}, found
        assert time.monotonic() < deadline, found


def _waited(client: httpx.Client, job: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/jobs/{job}", headers={"Prefer": "wait=10"})
    return dict(answer.raise_for_status().json())


def _ledger(database: psycopg.Connection[Any]) -> Ledger:
    """Transaction numbers are given to those that write only; looking at the next one takes none."""
    time.sleep(STATISTICS_S)
    row = database.execute(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
        " (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),"
        " (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables)::bigint,"
        " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    ).fetchone()
    assert row
    return Ledger(*row)


def _less(late: Ledger, early: Ledger) -> Ledger:
    return Ledger(
        late.transactions - early.transactions,
        late.commits - early.commits,
        late.rows - early.rows,
        late.wal_bytes - early.wal_bytes,
    )
