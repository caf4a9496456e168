"""How fast steps are handed out when many wait."""

from __future__ import annotations

import shutil
import statistics
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
from figures import Figure, Figures, rounded, spread
from load import grown_s, sessions_cpu_s

from framewright import embedded, ids, lifecycle, plan, store
from framewright.database import Database, migrate
from framewright.params import JobRequest
from framewright.store.submit import order_of

READY = 20_000
BATCH = 500
CLAIMERS = 8
CLAIMS = 250
QUEUES, ENGINES = ("cpu", "encode"), ("scripted", "camera-move")


@pytest.fixture
def postgres(data_home: Path) -> Iterator[embedded.Postgres]:
    """A durable Postgres with the schema."""
    home = data_home / f"bench-{uuid.uuid4().hex[:8]}"
    with embedded.start(home) as servers:
        assert servers.postgres
        migrate(servers.database_url)
        yield servers.postgres
    shutil.rmtree(home, ignore_errors=True)


def test_claims(postgres: embedded.Postgres, figures: Figures) -> None:
    _fill(postgres.url, figures)
    before = sessions_cpu_s(postgres.pid, "framewright")
    ready = Barrier(CLAIMERS + 1)

    def claim(number: int) -> list[float]:
        took_ms = []
        with closing(Database(postgres.url, application=f"claimer {number}")) as db:
            with db.connect():
                ready.wait()
            for _ in range(CLAIMS):
                begun = time.perf_counter()
                assert lifecycle.claim(db, f"claimer-{number}", QUEUES, ENGINES, lease_s=60)
                took_ms.append((time.perf_counter() - begun) * 1000)
            # The sessions are looked at before they are gone.
            ready.wait()
            ready.wait()
        return took_ms

    with ThreadPoolExecutor(CLAIMERS) as pool:
        claimers = [pool.submit(claim, number) for number in range(CLAIMERS)]
        ready.wait()
        begun = time.perf_counter()
        ready.wait()
        spent_s = time.perf_counter() - begun
        postgres_s = grown_s(before, sessions_cpu_s(postgres.pid, "framewright"))
        ready.wait()
        took_ms = list(chain.from_iterable(one.result() for one in claimers))
    numbers = spread(took_ms)
    detail = {
        **numbers,
        "claims_s": rounded(len(took_ms) / spent_s),
        "postgres_cpu_ms_a_claim": rounded(postgres_s * 1000 / len(took_ms)),
        "claimers": CLAIMERS,
        "ready_steps": READY,
    }
    title = f"claims/s, {CLAIMERS} claimers, {READY:,} ready steps"
    figures.add(Figure("claims_s", title, len(took_ms) / spent_s, "1/s", None, detail))
    figures.add(Figure("claim_p99_ms", "one of those claims, p99", numbers["p99"], "ms"))
    figures.add(Figure("claim_p50_ms", "one of those claims, p50", statistics.median(took_ms), "ms"))


def _fill(url: str, figures: Figures) -> None:
    """Ready steps, through the statement that every submission uses."""
    request = JobRequest.model_validate({"kind": "animate", "model": "scripted", "params": {"frames": 24}})
    planned = plan.plan(request, {}, test_engines=True, stall_s=120)
    facts = dict.fromkeys(("run_at", "start_deadline", "webhook", "retry_of"))
    order = order_of(planned, tenant="default", request={}, priority=0, metadata={}, output_ttl_s=3600.0, **facts)
    with closing(Database(url, application="benchmark")) as db:
        store.ensure_tenant(db, "default")
    with psycopg.connect(url, autocommit=True) as connection:
        for at in range(0, READY, BATCH):
            # Batches, because each transaction leaves as many versions of the counters as it makes jobs.
            made = connection.execute(
                "SELECT count(*) FROM unnest(%s::uuid[]) AS n (id)"
                " CROSS JOIN LATERAL fw_submit(n.id, %s, 1000000, 1000000, NULL, NULL, NULL, NULL) AS s"
                " WHERE s.answer = 'made'",
                ([ids.uuid7() for _ in range(BATCH)], psycopg.types.json.Jsonb(order)),
            ).fetchone()
            assert made == (BATCH,)
            if at % 5000 == 0:
                figures.say(f"{at + BATCH:,} of {READY:,} steps are ready")
        connection.execute("ANALYZE")
