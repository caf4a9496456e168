"""The way to Postgres: a small pool whose sessions cannot hang, and one error when the database is away."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.abc import PQGen

from framewright.errors import DatabaseUnavailable

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_S = 2  # libpq takes no less
POOL_WAIT_S = 1.0  # with CONNECT_S this keeps "the database is away" within 3 s
RETRY_AFTER_S = 2
_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
_BEHIND = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)
_BUSY = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up on a server that has stopped talking (frozen, or cut off without a FIN)."""

    deadline_s: float = 10.0

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        return super().wait(self._until(gen, time.monotonic() + self.deadline_s), *args, **kwargs)

    def _until(self, gen: PQGen[T], deadline: float) -> Generator[Any, Any, T]:
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server does not answer")
                state = gen.send(ready)
        except StopIteration as done:
            answer: T = done.value
            return answer


class Database:
    """The sessions of one process. Connects on first use; every failure to reach Postgres is `DatabaseUnavailable`.

    `statement_s` bounds a statement on the server; one second later the client gives up by itself. A connection
    that went stale while idle is noticed without a round trip: a healthy idle socket has nothing to read.
    """

    def __init__(
        self, url: str, *, application: str, pool_size: int = 5, max_overflow: int = 5, statement_s: float = 5.0
    ) -> None:
        self._url = url
        self._keep = pool_size
        self._statement_s = statement_s
        self._options: dict[str, Any] = {
            "application_name": application,
            "connect_timeout": CONNECT_S,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": f"-c statement_timeout={int(statement_s * 1000)} -c lock_timeout=2000"
            " -c idle_in_transaction_session_timeout=5000 -c timezone=UTC -c jit=off",
        }
        self._slots = threading.BoundedSemaphore(pool_size + max_overflow)
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._steady_since = time.monotonic()

    @property
    def steady_s(self) -> float:
        """Seconds since this process last failed to reach the database (or was started)."""
        return time.monotonic() - self._steady_since

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """An autocommit session: one statement is one transaction, so a frozen client holds no row lock."""
        if not self._slots.acquire(timeout=POOL_WAIT_S):
            raise DatabaseUnavailable("every database connection is busy", retry_after_s=RETRY_AFTER_S)
        connection: Connection | None = None
        try:
            connection = self._take()
            yield connection
        except _AWAY as error:
            self._failed(error, connection)
            raise DatabaseUnavailable("the database does not answer", retry_after_s=RETRY_AFTER_S) from error
        except _BEHIND as error:
            raise DatabaseUnavailable("the database lacks this schema", retry_after_s=RETRY_AFTER_S) from error
        finally:
            if connection is not None:
                self._give_back(connection)
            self._slots.release()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A short transaction: committed at the end of the block, rolled back when it raises."""
        with self.connect() as connection, connection.transaction():
            yield connection

    def close(self) -> None:
        """Close idle sessions now and busy ones when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._open()
            if not _stale(connection):
                return connection
            connection.close()

    def _open(self) -> Connection:
        connection = _Bounded.connect(self._url, autocommit=True, **self._options)
        connection.deadline_s = self._statement_s + 1
        return connection

    def _give_back(self, connection: Connection) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            keep = not self._closed and len(self._idle) < self._keep and connection.info.transaction_status == idle
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def _failed(self, error: BaseException, connection: Connection | None) -> None:
        if isinstance(error, _BUSY):
            return
        self._steady_since = time.monotonic()
        if connection is None or connection.closed:
            with self._lock:
                idle, self._idle = self._idle, []
            for other in idle:
                other.close()


def _stale(connection: Connection) -> bool:
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class MigrationState(NamedTuple):
    """Which revision the database is at and which one this code wants; they must be equal to serve."""

    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        """True when this code may use the database."""
        return self.current == self.head


def migrations_dir() -> Path:
    """The migrations: inside the installed package, or beside it in a checkout."""
    packaged = Path(__file__).with_name("_migrations")
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "migrations"


@lru_cache(maxsize=1)
def head_revision() -> str:
    """The revision this code wants: file names start with it, so a serving process need not load Alembic."""
    return max(path.name.split("_")[0] for path in (migrations_dir() / "versions").glob("[0-9]*_*.py"))


def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`, or down to nothing (`base`). Two starters at once: the second waits.

    Raises `DatabaseUnavailable` when Postgres does not answer or a lock cannot be had in time.
    """
    from alembic import command
    from sqlalchemy.exc import OperationalError

    config = _config()
    config.attributes["url"] = url
    move = command.downgrade if revision == "base" else command.upgrade
    try:
        move(config, revision)
    except OperationalError as error:
        raise DatabaseUnavailable("the schema cannot be migrated now", retry_after_s=RETRY_AFTER_S) from error


def migration_state(db: Database) -> MigrationState:
    """Where the schema is and where this code wants it."""
    with db.connect() as connection:
        there = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if there and there[0] else None
    return MigrationState(row[0] if row else None, head_revision())


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return config
