"""The checker is worth something: take one rule away and it must see what comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from actors import World, stress
from invariants import broken

from framewright.database import Database


def mutate(db: Database, function: str, *edits: tuple[str, str]) -> None:
    """Replace pieces of a function as it is in the database; each must be there exactly once."""
    with db.connect() as connection:
        row = connection.execute("SELECT pg_get_functiondef(%s::regproc)", (function,)).fetchone()
        assert row is not None
        text = row[0]
        for old, new in edits:
            assert text.count(old) == 1, f"{function} has no single {old!r}"
            text = text.replace(old, new)
        connection.execute(text.encode())


def rounds(db: Database) -> Iterator[World]:
    """Stress until the caller has seen what it waits for, a bounded number of times."""
    for seed in range(20):
        yield stress(db, operations=3000, jobs=60, seed=seed)


def seen_by(db: Database, *invariants: str) -> dict[str, int]:
    """All that the checker found broken once it saw these; nothing when it never did."""
    return next((found for _ in rounds(db) if set(invariants) <= set(found := broken(db))), {})


@pytest.mark.timeout(300)
def test_a_dropped_fence_is_seen(scratch: Database) -> None:
    mutate(scratch, "fw_complete", (" OR v_step.fence IS DISTINCT FROM p_fence", ""))
    found = seen_by(scratch, "only the winning attempt has files", "a step succeeded exactly when one attempt did")
    print(found)
    assert found


@pytest.mark.timeout(300)
def test_a_broken_lock_order_is_seen(scratch: Database) -> None:
    job = "    SELECT * INTO v_job FROM jobs WHERE id = p_job FOR NO KEY UPDATE;\n"
    step = "    SELECT * INTO v_step FROM steps WHERE id = p_step AND job_id = p_job FOR NO KEY UPDATE;\n"
    mutate(scratch, "fw_release", (job + step, step + job))
    wrong = next((seen for world in rounds(scratch) if (seen := world.wrong())), [])
    print(wrong)
    assert any("deadlock detected" in what for what in wrong)


@pytest.mark.timeout(300)
def test_a_doubled_terminal_event_is_seen(scratch: Database) -> None:
    with scratch.connect() as connection:
        connection.execute("DROP INDEX events_one_terminal")
    twice = (
        "SELECT p_job, seq, v_job.tenant_id, p_state, data, v_now"
        " FROM generate_series(v_job.event_seq - 1, v_job.event_seq) AS seq, LATERAL (SELECT "
    )
    mutate(
        scratch,
        "fw_finish",
        ("event_seq = event_seq + 1", "event_seq = event_seq + 2"),
        ("VALUES (p_job, v_job.event_seq, v_job.tenant_id, p_state,", twice),
        ("ELSE jsonb_build_object('reason', p_message) END), v_now);",
         "ELSE jsonb_build_object('reason', p_message) END) AS data) said;"),
    )  # fmt: skip
    found = seen_by(scratch, "at most one terminal event", "nothing comes after the terminal event")
    print(found)
    assert found
