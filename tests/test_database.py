"""Sessions cannot hang, and a database that is away is one error, told soon, and forgotten when it is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from framewright import embedded
from framewright.database import Database
from framewright.errors import DatabaseUnavailable


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url, application="tested", pool_size=2, max_overflow=1)
    yield database
    database.close()


def one(db: Database) -> int:
    with db.connect() as connection:
        row = connection.execute("SELECT 1").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("tcp_keepalives_idle", None),
        ("application_name", "tested"),
        ("TimeZone", "UTC"),
    ],
)
def test_every_session_has_its_limits(db: Database, setting: str, value: str | None) -> None:
    sessions = []
    with db.connect() as first, db.connect() as second:
        for connection in (first, second):
            row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            assert row is not None
            sessions.append(row[0])
        assert first.info.get_parameters()["connect_timeout"] == "2"
        assert first.info.get_parameters()["keepalives_idle"] == "10"
    assert value is None or sessions == [value, value]


def test_connections_are_used_again(db: Database) -> None:
    def session() -> int:
        with db.connect() as connection:
            return connection.info.backend_pid

    assert len({session() for _ in range(10)}) == 1


def test_a_busy_pool_refuses_instead_of_waiting_for_ever(db: Database) -> None:
    with db.connect(), db.connect(), db.connect():
        with pytest.raises(DatabaseUnavailable) as caught:
            one(db)
        assert (caught.value.retry_after_s, caught.value.retryable) == (2, True)
    assert one(db) == 1


def test_more_threads_than_sessions_all_get_their_turn(db: Database) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda _: one(db), range(200))) == 200


def test_connect_is_autocommit_and_begin_is_all_or_nothing(db: Database) -> None:
    with db.connect() as connection:
        connection.execute("CREATE TABLE kept (n int)")
    with pytest.raises(psycopg.errors.DivisionByZero), db.begin() as connection:
        connection.execute("INSERT INTO kept VALUES (1)").connection.execute("SELECT 1 / 0")
    with db.begin() as connection:
        connection.execute("INSERT INTO kept VALUES (2)")
    with db.connect() as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(2,)]


def test_an_error_of_ours_is_not_mistaken_for_an_outage(db: Database) -> None:
    before = db.steady_s
    with pytest.raises(psycopg.errors.DivisionByZero), db.connect() as connection:
        connection.execute("SELECT 1 / 0")
    assert one(db) == 1
    assert db.steady_s >= before


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELECT fw_nothing()", "SELECT nothing FROM pg_class"])
def test_code_that_is_ahead_of_its_migration_is_told_to_try_again(db: Database, statement: str) -> None:
    before = db.steady_s
    with pytest.raises(DatabaseUnavailable, match="schema") as caught, db.connect() as connection:
        connection.execute(statement.encode())
    assert caught.value.retry_after_s == 2
    assert db.steady_s >= before


def test_a_session_that_was_ended_while_idle_is_not_handed_out(db: Database) -> None:
    with db.connect() as first, db.connect() as second:
        pids = {first.info.backend_pid, second.info.backend_pid}
    with psycopg.connect(db._url, autocommit=True) as admin:
        for pid in pids:
            # Waits until the session is really gone.
            assert admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone() == (True,)
    assert one(db) == 1


def test_a_lock_that_cannot_be_had_is_told_as_try_again(db: Database, database_url: str) -> None:
    steady = db.steady_s
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        with db.connect() as connection:
            connection.execute("SET lock_timeout = '10ms'")
        with pytest.raises(DatabaseUnavailable) as caught, db.connect() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(7)")
    assert isinstance(caught.value.__cause__, psycopg.errors.LockNotAvailable)
    assert db.steady_s >= steady  # busy is not away


def test_a_frozen_client_loses_its_row_lock(db: Database, database_url: str) -> None:
    with db.connect() as connection:
        connection.execute("CREATE TABLE locked AS SELECT 1 AS n")

    def freeze() -> None:
        with db.begin() as frozen:
            frozen.execute("SET idle_in_transaction_session_timeout = '100ms'")
            frozen.execute("UPDATE locked SET n = 2")
            # The client does nothing more; the server ends the session, and whoever waits for the row gets it.
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SET lock_timeout = '30s'")
                assert other.execute("UPDATE locked SET n = 3 RETURNING n").fetchone() == (3,)

    with pytest.raises(DatabaseUnavailable):
        freeze()


def test_closing_ends_the_sessions_and_the_database_can_be_opened_again(db: Database, database_url: str) -> None:
    one(db)
    db.close()
    with psycopg.connect(database_url, autocommit=True) as admin:
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tested'"
        deadline = threading.Event()
        while admin.execute(left).fetchone() != (0,):
            assert not deadline.wait(0.05)
    other = Database(database_url, application="tested")
    assert one(other) == 1
    other.close()


@pytest.mark.fault
def test_an_outage_is_one_error_and_ends_with_the_outage(own_postgres: embedded.Postgres) -> None:
    db = Database(own_postgres.url, application="outage")
    assert one(db) == 1
    for outage, repair in (
        (own_postgres.kill, own_postgres.start),
        (own_postgres.stop, own_postgres.start),
    ):
        db._steady_since -= 1000  # as if it had been there for long
        outage()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable) as caught:
                one(db)
            assert caught.value.retry_after_s == 2
        assert db.steady_s < 1000
        repair()
        assert one(db) == 1
    # A restart between two statements is not even noticed.
    own_postgres.restart()
    assert one(db) == 1
    db.close()


@pytest.mark.fault
@pytest.mark.timeout(60)
def test_a_server_that_hangs_is_given_up(own_postgres: embedded.Postgres) -> None:
    """Neither an open session nor a new one waits for a server that has stopped talking."""
    db = Database(own_postgres.url, application="hung", statement_s=0.5)
    assert one(db) == 1
    own_postgres.pause()
    try:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                one(db)
    finally:
        own_postgres.resume()
    assert one(db) == 1
    db.close()
