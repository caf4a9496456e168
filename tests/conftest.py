"""Real servers for the whole run, and a database, a Redis prefix and a bucket of its own for every test module."""

from __future__ import annotations

import gc
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from buckets import Bucket
from only import only
from redis_settings import settings_on

from framewright import embedded
from framewright.settings import Settings

PEPPER = "pepper-of-the-tests-0123456789abcdef"


def pytest_configure() -> None:
    # The libraries are a million objects, none of them garbage, and looking among them again and again takes minutes.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait most come first: what computes then fills the gaps, and none of them is left for the end."""
    waits: dict[Path, tuple[float, bool]] = {}
    for item in items:
        allowed = item.get_closest_marker("timeout")
        found = (float(allowed.args[0]) if allowed else 0.0, item.get_closest_marker("fault") is not None)
        waits[item.path] = max(waits.get(item.path, found), found)
    items.sort(key=lambda item: waits[item.path], reverse=True)


@pytest.fixture(scope="session")
def data_home() -> Iterator[Path]:
    """A directory for data directories: as deep as any, and gone after the run."""
    home = Path(tempfile.mkdtemp(prefix="framewright-tests-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(data_home: Path) -> Iterator[embedded.Servers]:
    """Postgres, Valkey and S3 for the whole run. Do not stop, kill or FLUSHALL these: `own_servers` are for that."""
    with embedded.start(data_home / "shared", durable=False) as running:
        yield running


@pytest.fixture
def home(data_home: Path) -> Iterator[Path]:
    """A data directory of this test's own, not made yet; removed with what lies beside it (`home.with_suffix`)."""
    home = data_home / uuid.uuid4().hex
    yield home
    for made in data_home.glob(f"{home.name}*"):
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def own_servers(home: Path) -> Iterator[embedded.Servers]:
    """A set that one test may freeze, kill and restart without disturbing the others; its database is empty."""
    with embedded.start(home, durable=False) as running:
        yield running


@pytest.fixture
def own_postgres(home: Path) -> Iterator[embedded.Postgres]:
    """One that this test may freeze, kill and restart; its database is empty."""
    with embedded.start(home, elsewhere=only("postgres"), durable=False) as running:
        assert running.postgres is not None
        yield running.postgres


@pytest.fixture
def own_valkey(home: Path) -> Iterator[embedded.Valkey]:
    """One that this test may freeze, kill and restart."""
    with embedded.start(home, elsewhere=only("valkey"), durable=False) as running:
        assert running.valkey is not None
        yield running.valkey


@pytest.fixture
def own_s3(home: Path) -> Iterator[embedded.S3]:
    """One that this test may freeze, kill and restart; it has no bucket."""
    with embedded.start(home, elsewhere=only("s3"), durable=False) as running:
        assert running.s3 is not None
        yield running.s3


def _admin(servers: embedded.Servers) -> psycopg.Connection[Any]:
    assert servers.postgres is not None
    return psycopg.connect(servers.postgres.url_of("postgres"), autocommit=True)


@contextmanager
def _made(servers: embedded.Servers, options: str = "") -> Iterator[str]:
    assert servers.postgres is not None
    name = f"test_{uuid.uuid4().hex[:12]}"
    with _admin(servers) as admin:
        admin.execute(f"CREATE DATABASE {name} {options}")
    yield servers.postgres.url_of(name)
    with _admin(servers) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def template_database(servers: embedded.Servers) -> str:
    """The name of a migrated database that every module's own is copied from."""
    from framewright.database import migrate

    assert servers.postgres is not None
    with _admin(servers) as admin:
        admin.execute("CREATE DATABASE migrated")
    migrate(servers.postgres.url_of("migrated"))
    return "migrated"


@pytest.fixture(scope="module")
def database_url(servers: embedded.Servers, template_database: str) -> Iterator[str]:
    """A migrated database of this module's own."""
    with _made(servers, f"TEMPLATE {template_database}") as url:
        yield url


@pytest.fixture(scope="module")
def empty_database_url(servers: embedded.Servers) -> Iterator[str]:
    """A database of this module's own without any table, for tests of migrations."""
    with _made(servers) as url:
        yield url


@pytest.fixture(scope="module")
def redis_url(servers: embedded.Servers) -> str:
    """The Valkey of the run; keep to `redis_prefix` in it."""
    return servers.redis_url


@pytest.fixture(scope="module")
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A key prefix of this module's own; its keys are removed afterwards."""
    import redis

    prefix = f"t{uuid.uuid4().hex[:10]}:"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{prefix}*", count=1000):
            client.delete(key)


@pytest.fixture
def here(redis_url: str, redis_prefix: str) -> Settings:
    """Settings on the shared Valkey alone, under a prefix of this one test."""
    return settings_on(redis_url, f"{redis_prefix}{uuid.uuid4().hex[:8]}:")


@pytest.fixture
def own(own_valkey: embedded.Valkey) -> Settings:
    """Settings on a Valkey that this one test may freeze, kill and restart."""
    return settings_on(own_valkey.url, "fw:")


@pytest.fixture(scope="module")
def s3(servers: embedded.Servers) -> Bucket:
    """A bucket of this module's own."""
    assert servers.s3 is not None
    bucket = Bucket(servers.s3.url, f"test-{uuid.uuid4().hex[:12]}", servers.s3.access_key, servers.s3.secret_key)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture(scope="module")
def environment(database_url: str, redis_url: str, redis_prefix: str, s3: Bucket, data_home: Path) -> dict[str, str]:
    """The `FRAMEWRIGHT_*` variables that lead a child process to this module's own parts."""
    return {
        "FRAMEWRIGHT_DATABASE_URL": database_url,
        "FRAMEWRIGHT_REDIS_URL": redis_url,
        "FRAMEWRIGHT_REDIS_PREFIX": redis_prefix,
        "FRAMEWRIGHT_S3_ENDPOINT": s3.endpoint,
        "FRAMEWRIGHT_S3_BUCKET": s3.name,
        "FRAMEWRIGHT_S3_ACCESS_KEY": s3.access_key,
        "FRAMEWRIGHT_S3_SECRET_KEY": s3.secret_key,
        "FRAMEWRIGHT_KEY_PEPPER": PEPPER,
        "FRAMEWRIGHT_PROVENANCE_DIR": str(data_home / "provenance"),
        "FRAMEWRIGHT_TEST_ENGINES": "true",
    }


@pytest.fixture(scope="module")
def make_settings(environment: dict[str, str]) -> Callable[..., Settings]:
    """`make_settings(lease_s=2, ...)`: settings on this module's own parts, with changes."""
    base = {name.removeprefix("FRAMEWRIGHT_").lower(): value for name, value in environment.items()}

    def make(**changes: Any) -> Settings:
        return Settings(**{**base, **changes})

    return make


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings on this module's own parts."""
    return make_settings()
