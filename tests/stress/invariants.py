"""What must be true of the tables whatever happened: each query finds violations, and finds none."""

from __future__ import annotations

from framewright.database import Database
from framewright.jobs import RETRIES, Budget

_TERMINAL = "('succeeded', 'failed', 'canceled')"
_FREE = ", ".join(f"'{outcome}'" for outcome, retry in RETRIES.items() if retry.budget is Budget.FREE)

INVARIANTS = {
    "events have no gap and count the job": """
        SELECT j.id FROM jobs j LEFT JOIN events e ON e.job_id = j.id GROUP BY j.id, j.event_seq
        HAVING count(e.seq) <> j.event_seq OR min(e.seq) <> 1 OR max(e.seq) <> j.event_seq""",
    "events are in the order of their times": """
        SELECT a.job_id FROM events a JOIN events b ON b.job_id = a.job_id AND b.seq = a.seq + 1 WHERE b.at < a.at""",
    "at most one terminal event": f"""
        SELECT job_id FROM events WHERE type IN {_TERMINAL} GROUP BY 1 HAVING count(*) > 1""",
    "an ended job has its terminal event, an open one has none": f"""
        SELECT j.id FROM jobs j WHERE (j.finished_at IS NOT NULL) <> EXISTS (
            SELECT 1 FROM events e WHERE e.job_id = j.id AND e.type IN {_TERMINAL} AND e.type = j.state)""",
    "nothing comes after the terminal event": f"""
        SELECT t.job_id FROM events t JOIN events e ON e.job_id = t.job_id AND e.seq > t.seq
        WHERE t.type IN {_TERMINAL}""",
    "an ended job has no live step": """
        SELECT s.id FROM steps s JOIN jobs j ON j.id = s.job_id
        WHERE j.finished_at IS NOT NULL AND s.state IN ('blocked', 'ready', 'running')""",
    "a job succeeded exactly when all its steps did": """
        SELECT j.id FROM jobs j WHERE (j.state = 'succeeded')
            <> NOT EXISTS (SELECT 1 FROM steps s WHERE s.job_id = j.id AND s.state <> 'succeeded')""",
    "the result is the primary file of a last step": """
        SELECT j.id FROM jobs j WHERE j.state = 'succeeded' AND NOT EXISTS (
            SELECT 1 FROM steps s JOIN artifacts a ON a.id = s.output_artifact
            WHERE s.job_id = j.id AND s.sink AND a.id = j.result_artifact)""",
    "a job is queued exactly until an attempt started": """
        SELECT j.id FROM jobs j WHERE j.finished_at IS NULL
          AND (j.state = 'running') <> EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = j.id)""",
    "a step succeeded exactly when one attempt did": """
        SELECT s.id FROM steps s WHERE (SELECT count(*) FROM attempts a WHERE a.step_id = s.id
            AND a.outcome = 'succeeded') <> (s.state = 'succeeded')::int""",
    "a running step has one open attempt, its own; any other has none": """
        SELECT s.id FROM steps s WHERE
            ARRAY(SELECT a.fence FROM attempts a WHERE a.step_id = s.id AND a.ended_at IS NULL)
            <> array_remove(ARRAY[s.fence], NULL)""",
    "only the winning attempt has files": """
        SELECT a.id FROM artifacts a JOIN attempts t ON t.fence = a.fence
        WHERE t.outcome IS DISTINCT FROM 'succeeded' OR t.step_id <> a.step_id OR t.job_id <> a.job_id""",
    "a succeeded step has its own primary file": """
        SELECT s.id FROM steps s WHERE s.state = 'succeeded' AND NOT EXISTS (
            SELECT 1 FROM artifacts a WHERE a.id = s.output_artifact AND a.step_id = s.id AND a.idx = 0)""",
    "a file lies under the lease that made it": """
        SELECT id FROM artifacts WHERE position(fence::text IN key) = 0""",
    "files and output assets are the same": """
        SELECT coalesce(a.id, o.id) FROM artifacts a
        FULL JOIN (SELECT * FROM assets WHERE origin = 'output') o ON o.id = a.id
        WHERE (a.key, a.size, a.sha256, a.tenant_id, a.job_id, a.content_type)
            IS DISTINCT FROM (o.key, o.size, o.sha256, o.tenant_id, o.job_id, o.content_type)""",
    "no step starts before what it needs has succeeded": """
        SELECT a.fence FROM attempts a JOIN step_deps d ON d.step_id = a.step_id JOIN steps n ON n.id = d.needs
        WHERE n.state <> 'succeeded' OR a.started_at < n.finished_at""",
    "attempts are numbered without holes, and free ones do not count": f"""
        SELECT s.id FROM steps s LEFT JOIN (SELECT *, coalesce(outcome IN ({_FREE}), false) AS free FROM attempts) a
            ON a.step_id = s.id GROUP BY s.id
        HAVING count(*) FILTER (WHERE NOT a.free) <> s.attempt OR count(*) FILTER (WHERE a.free) <> s.yields
            OR coalesce(max(a.n) FILTER (WHERE NOT a.free), 0) <> s.attempt""",
    "no budget is overdrawn": """
        SELECT id FROM steps WHERE app_failures > max_app OR infra_failures > max_infra OR kills > 3
            OR ((app_failures = max_app OR infra_failures = max_infra OR kills = 3) AND state <> 'failed')""",
    "a failed job has one failed step, any other has none": """
        SELECT j.id FROM jobs j WHERE (SELECT count(*) FROM steps s WHERE s.job_id = j.id AND s.state = 'failed')
            <> (j.state = 'failed' AND j.error_code <> 'expired')::int""",
    "every start and end of an attempt has its event": """
        SELECT j.id FROM jobs j WHERE
            (SELECT count(*) FROM events e WHERE e.job_id = j.id AND e.type = 'step_started')
                <> (SELECT count(*) FROM attempts a WHERE a.job_id = j.id)
         OR (SELECT count(*) FROM events e WHERE e.job_id = j.id AND e.type = 'step_succeeded')
                <> (SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND a.outcome = 'succeeded')
         OR (SELECT count(*) FROM events e WHERE e.job_id = j.id AND e.type = 'attempt_ended')
                <> (SELECT count(*) FROM attempts a WHERE a.job_id = j.id
                    AND a.outcome NOT IN ('succeeded', 'canceled'))""",
    "what did not win is swept, what won is not": """
        SELECT fence FROM attempts WHERE ended_at IS NOT NULL AND (sweep_at IS NULL) <> (outcome = 'succeeded')""",
    "an idempotency key has exactly one job, the one on record": """
        SELECT coalesce(j.tenant_id, i.tenant_id) FROM (
            SELECT tenant_id, metadata ->> 'key' AS key, count(*) AS n, min(id::text)::uuid AS id FROM jobs
            WHERE metadata ? 'key' GROUP BY 1, 2) j
        FULL JOIN idempotency i ON i.tenant_id = j.tenant_id AND i.key_sha256 = sha256(j.key::bytea)
        WHERE j.n IS DISTINCT FROM 1 OR i.job_id IS DISTINCT FROM j.id""",
    "the outbox has one row for each ended job with a webhook, and no other": """
        SELECT coalesce(j.id, o.job_id) FROM (
            SELECT id, 'job.' || state AS type FROM jobs WHERE webhook IS NOT NULL AND finished_at IS NOT NULL) j
        FULL JOIN (SELECT job_id, min(type) AS type, count(*) AS n FROM webhook_outbox GROUP BY 1) o
            ON o.job_id = j.id
        WHERE o.n IS DISTINCT FROM 1 OR o.type IS DISTINCT FROM j.type""",
    "the counters of open jobs are right": """
        SELECT coalesce(c.tenant_id, j.tenant_id) FROM (
            SELECT tenant_id, sum(n) AS n FROM tenant_open GROUP BY 1) c
        FULL JOIN (SELECT coalesce(tenant_id, '*') AS tenant_id, count(*) AS n FROM jobs WHERE finished_at IS NULL
                   GROUP BY ROLLUP (tenant_id)) j ON j.tenant_id = c.tenant_id
        WHERE coalesce(c.n, 0) <> coalesce(j.n, 0)""",
}


def broken(db: Database) -> dict[str, int]:
    """Which invariants do not hold, and how often each is violated."""
    found = {}
    for name, violations in INVARIANTS.items():
        with db.connect() as connection:
            row = connection.execute(f"SELECT count(*) FROM ({violations}) violations".encode()).fetchone()
        if row and row[0]:
            found[name] = row[0]
    return found
