"""A database for one test alone: stress leaves much behind, and mutants change its functions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from framewright import embedded, store
from framewright.database import Database


@pytest.fixture
def scratch(servers: embedded.Servers, template_database: str) -> Iterator[Database]:
    """A migrated database with tenants t1 and t2 in which deadlocks are found fast."""
    assert servers.postgres is not None
    name = f"scratch_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres.url_of("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        admin.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '200ms'")
        database = Database(servers.postgres.url_of(name), application="stress", pool_size=16, max_overflow=0)
        for tenant in ("t1", "t2"):
            store.ensure_tenant(database, tenant)
        yield database
        database.close()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
