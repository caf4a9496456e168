"""Start the three servers together on one data directory, each only where no address of one was configured."""

from __future__ import annotations

import atexit
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from framewright.embedded.datadir import DataDir, default_data_dir
from framewright.embedded.postgres import Postgres
from framewright.embedded.s3 import S3
from framewright.embedded.server import Server
from framewright.embedded.valkey import Valkey


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Addresses that were configured: nothing is started for these."""

    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    s3_access_key: str | None = None
    s3_secret_key: str | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports to insist on; None takes a free one."""

    postgres: int | None = None
    valkey: int | None = None
    s3: int | None = None


class Servers:
    """The servers of one data directory. A context manager; `postgres`, `valkey`, `s3` are None where configured."""

    def __init__(self, data: DataDir, elsewhere: Elsewhere, wanted: Ports, *, durable: bool) -> None:
        self.data = data
        self.elsewhere = elsewhere
        self.postgres = None if elsewhere.database_url else Postgres(data, port=wanted.postgres, durable=durable)
        self.valkey = None if elsewhere.redis_url else Valkey(data, port=wanted.valkey)
        self.s3 = None if elsewhere.s3_endpoint else S3(data, port=wanted.s3)
        self.starter = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def database_url(self) -> str:
        """Postgres, ours or the configured one."""
        return self.postgres.url if self.postgres else self.elsewhere.database_url or ""

    @property
    def redis_url(self) -> str:
        """Valkey, ours or the configured one."""
        return self.valkey.url if self.valkey else self.elsewhere.redis_url or ""

    @property
    def s3_endpoint(self) -> str:
        """S3, ours or the configured one."""
        return self.s3.url if self.s3 else self.elsewhere.s3_endpoint or ""

    @property
    def s3_access_key(self) -> str | None:
        """The access key of `s3_endpoint`; None leaves it to the AWS chain."""
        return self.s3.access_key if self.s3 else self.elsewhere.s3_access_key

    @property
    def s3_secret_key(self) -> str | None:
        """The secret of `s3_access_key`."""
        return self.s3.secret_key if self.s3 else self.elsewhere.s3_secret_key

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what we started, by name."""
        return {server.name: server.pid for server in self.each if server.running}

    def environment(self) -> dict[str, str]:
        """The `FRAMEWRIGHT_*` variables that lead a process here."""
        named = {
            "FRAMEWRIGHT_DATABASE_URL": self.database_url,
            "FRAMEWRIGHT_REDIS_URL": self.redis_url,
            "FRAMEWRIGHT_S3_ENDPOINT": self.s3_endpoint,
            "FRAMEWRIGHT_S3_ACCESS_KEY": self.s3_access_key,
            "FRAMEWRIGHT_S3_SECRET_KEY": self.s3_secret_key,
        }
        return {name: value for name, value in named.items() if value}

    def start(self) -> None:
        """Start them side by side; when one cannot, the others end and its error is raised."""
        with ThreadPoolExecutor(3, thread_name_prefix="embedded") as pool:
            starts = [pool.submit(server.start) for server in self.each]
        for start in starts:
            start.result()

    def stop(self) -> None:
        """End them cleanly and unlock the data directory. Safe to call twice."""
        if os.getpid() != self.starter:
            # A forked child inherits the exit hooks, not the servers.
            return
        atexit.unregister(self.stop)
        # What uses the servers has a higher stage and ends before them.
        self.data.end_all()
        for server in self.each:
            server.stop()
        self.data.close()

    @property
    def each(self) -> list[Server]:
        """The servers that we started."""
        return [server for server in (self.postgres, self.valkey, self.s3) if server is not None]


def start(
    data_dir: Path | None = None,
    *,
    elsewhere: Elsewhere | None = None,
    ports: Ports | None = None,
    durable: bool = True,
) -> Servers:
    """Start what is not `elsewhere` on `data_dir` (default: the platform's) and wait until all of it answers.

    Raises `EmbeddedServerError`, whose sentence names the fix. Whatever happens to this process, even SIGKILL, the
    servers end with it. `durable=False` leaves out fsync, for tests.
    """
    data = DataDir(data_dir or default_data_dir())
    data.open()
    servers = Servers(data, elsewhere or Elsewhere(), ports or Ports(), durable=durable)
    atexit.register(servers.stop)
    try:
        servers.start()
    except BaseException:
        servers.stop()
        raise
    return servers
