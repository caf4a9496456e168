"""The life of a job as a table, and the same table in the database: one cannot drift from the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import product

import jobmaker as make
import psycopg
import pytest

from framewright.database import Connection, Database
from framewright.jobs import (
    JOB_MOVES,
    RETRIES,
    STEP_MOVES,
    TERMINAL,
    TERMINAL_EVENTS,
    UNFIT,
    Budget,
    Eta,
    JobState,
    Outcome,
    Progress,
    StepState,
)

JOB_PAIRS = [(before, after) for before, after in product(JobState, JobState) if before is not after]
STEP_PAIRS = [(before, after) for before, after in product(StepState, StepState) if before is not after]


@pytest.fixture(scope="module")
def db(database_url: str) -> Iterator[Database]:
    database = make.fresh(database_url)
    yield database
    database.close()


def job(connection: Connection, state: JobState) -> uuid.UUID:
    id_ = uuid.uuid4()
    insert_job(connection, id_, job_columns(state))
    return id_


def insert_job(connection: Connection, id_: uuid.UUID, columns: dict[str, str]) -> None:
    connection.execute(
        f"""INSERT INTO jobs (id, tenant_id, kind, input, params, request, output_ttl_s, {", ".join(columns)})
            VALUES (%s, 't1', 'animate', '{{}}', '{{}}', '{{}}', 60, {", ".join(columns.values())})""".encode(),
        (id_,),
    )


def job_columns(state: JobState) -> dict[str, str]:
    """What the CHECKs ask of a row in that state."""
    return {
        "state": f"'{state}'",
        "finished_at": "now()" if state in TERMINAL else "NULL",
        "result_artifact": "gen_random_uuid()" if state is JobState.SUCCEEDED else "NULL",
        "error_code": "'app_error'" if state is JobState.FAILED else "NULL",
        "cancel_requested_at": "now()" if state is JobState.CANCELED else "NULL",
    }


def step_columns(state: StepState) -> dict[str, str]:
    """What the CHECKs ask of a row in that state."""
    running = state is StepState.RUNNING
    ended = state in {StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELED}
    return {
        "state": f"'{state}'",
        "fence": "gen_random_uuid()" if running else "NULL",
        "worker_id": "'w'" if running else "NULL",
        "lease_until": "now()" if running else "NULL",
        "progress_until": "now()" if running else "NULL",
        "output_artifact": "gen_random_uuid()" if state is StepState.SUCCEEDED else "NULL",
        "finished_at": "now()" if ended else "NULL",
    }


def step(connection: Connection, state: StepState) -> int:
    columns = step_columns(state)
    row = connection.execute(
        f"""INSERT INTO steps (job_id, tenant_id, idx, name, kind, engine, queue, sink, params, inputs, max_app,
                               timeout_s, stall_s, {", ".join(columns)})
            VALUES (%s, 't1', 0, 'clip', 'animate', 'scripted', 'cpu', true, '{{}}', '{{}}', 3, 60, 60,
                    {", ".join(columns.values())}) RETURNING id""".encode(),
        (job(connection, JobState.RUNNING),),
    ).fetchone()
    assert row is not None
    return int(row[0])


def allowed(connection: Connection, table: str, id_: object, columns: dict[str, str]) -> bool:
    changes = ", ".join(f"{name} = {value}" for name, value in columns.items())
    try:
        with connection.transaction():
            connection.execute(f"UPDATE {table} SET {changes} WHERE id = %s".encode(), (id_,))
    except psycopg.errors.CheckViolation as error:
        assert "cannot become" in str(error) or "is final" in str(error), error  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize(("before", "after"), JOB_PAIRS)
def test_the_database_lets_a_job_move_exactly_as_the_table_says(
    db: Database, before: JobState, after: JobState
) -> None:
    with db.begin() as connection:
        assert allowed(connection, "jobs", job(connection, before), job_columns(after)) == (after in JOB_MOVES[before])


@pytest.mark.parametrize(("before", "after"), STEP_PAIRS)
def test_the_database_lets_a_step_move_exactly_as_the_table_says(
    db: Database, before: StepState, after: StepState
) -> None:
    with db.begin() as connection:
        moved = allowed(connection, "steps", step(connection, before), step_columns(after))
    assert moved == (after in STEP_MOVES[before])


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("column", ["finished_at", "result_artifact", "error_code", "cancel_requested_at"])
def test_a_job_row_that_contradicts_its_state_is_refused(db: Database, state: JobState, column: str) -> None:
    columns = job_columns(state)
    if column == "cancel_requested_at" and state is not JobState.CANCELED:
        return  # being asked to stop is no state
    other = {"result_artifact": "gen_random_uuid()", "error_code": "'x'"}.get(column, "now()")
    columns[column] = other if columns[column] == "NULL" else "NULL"
    with pytest.raises(psycopg.errors.CheckViolation), db.begin() as connection:
        insert_job(connection, uuid.uuid4(), columns)


@pytest.mark.parametrize("column", ["fence", "worker_id", "lease_until", "progress_until"])
def test_a_lease_is_whole_or_absent(db: Database, column: str) -> None:
    with db.begin() as connection:
        id_ = step(connection, StepState.RUNNING)
        with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
            connection.execute(f"UPDATE steps SET {column} = NULL WHERE id = %s".encode(), (id_,))


def test_a_lease_cannot_change_hands_in_place(db: Database) -> None:
    with db.begin() as connection:
        id_ = step(connection, StepState.RUNNING)
        with pytest.raises(psycopg.errors.CheckViolation, match="change hands"), connection.transaction():
            connection.execute("UPDATE steps SET fence = gen_random_uuid() WHERE id = %s", (id_,))


@pytest.mark.parametrize(
    "change", ["event_seq = event_seq + 1", "finished_at = clock_timestamp() + '1 s'", "result_artifact = NULL"]
)
def test_what_is_final_stays_final(db: Database, change: str) -> None:
    with db.begin() as connection:
        id_ = job(connection, JobState.SUCCEEDED)
        with pytest.raises(psycopg.errors.CheckViolation, match="final"), connection.transaction():
            connection.execute(f"UPDATE jobs SET {change} WHERE id = %s".encode(), (id_,))


@pytest.mark.parametrize("change", ["output_artifact = gen_random_uuid()", "finished_at = clock_timestamp() + '1 s'"])
def test_what_a_step_made_stays_what_it_made(db: Database, change: str) -> None:
    with db.begin() as connection:
        id_ = step(connection, StepState.SUCCEEDED)
        with pytest.raises(psycopg.errors.CheckViolation, match="final"), connection.transaction():
            connection.execute(f"UPDATE steps SET {change} WHERE id = %s".encode(), (id_,))


def test_a_second_terminal_event_is_refused(db: Database) -> None:
    with db.begin() as connection:
        id_ = job(connection, JobState.RUNNING)
        insert = "INSERT INTO events (job_id, seq, tenant_id, type) VALUES (%s, %s, 't1', %s)"
        connection.execute(insert, (id_, 1, "failed"))
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute(insert, (id_, 2, "canceled"))


def test_states_in_the_database_are_the_states_in_the_code(db: Database) -> None:
    for table, states in (("jobs", JobState), ("steps", StepState)):
        checks = make.rows(
            db, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (f"{table}_state_check",)
        )
        assert {state for state in states if f"'{state}'" in checks[0][0]} == set(states)
        assert checks[0][0].count("'") == 2 * len(states)
    ((outcomes,),) = make.rows(
        db, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'attempts_outcome_check'"
    )
    assert {outcome for outcome in Outcome if f"'{outcome}'" in outcomes} == set(Outcome)
    assert outcomes.count("'") == 2 * len(Outcome)


def test_terminal_states_lead_nowhere_and_name_the_terminal_events() -> None:
    assert TERMINAL == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED} == set(TERMINAL_EVENTS)
    assert all(not JOB_MOVES[state] for state in TERMINAL)


def test_every_unsuccessful_end_has_a_price() -> None:
    assert set(RETRIES) == set(Outcome) - {Outcome.SUCCEEDED, Outcome.CANCELED}
    assert {outcome for outcome, retry in RETRIES.items() if retry.budget is Budget.FREE} == {Outcome.YIELDED, *UNFIT}
    assert {outcome for outcome, retry in RETRIES.items() if retry.kill} == {
        Outcome.STALLED,
        Outcome.RUNNER_LOST,
        Outcome.WORKER_LOST,
    }


def test_a_snapshot_of_progress_is_whole() -> None:
    assert Progress(0.123456, "rendering", step=1, eta=Eta(1.239, 2.461, "measured")).as_json() == {
        "fraction": 0.1235,
        "phase": "rendering",
        "step": 1,
        "steps": None,
        "frames_done": None,
        "frames_total": None,
        "eta": {"seconds_p50": 1.24, "seconds_p90": 2.46, "basis": "measured"},
    }
