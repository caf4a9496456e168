"""A real API process on the module's own database, bucket and Redis prefix, and clients of two tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from hand import Hand
from service import Api, png, serve, upload

from framewright import keys, lifecycle, store
from framewright.database import Database
from framewright.settings import Settings


@pytest.fixture(scope="module")
def api(environment: dict[str, str]) -> Iterator[Api]:
    with serve(environment) as running:
        yield running


@pytest.fixture(scope="module")
def second_api(environment: dict[str, str], api: Api) -> Iterator[Api]:
    """Another process of the same system."""
    with serve(environment) as running:
        yield running


@pytest.fixture(scope="module")
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url, application="tests")
    yield database
    database.close()


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """The first tenant, allowed everything."""
    with api.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def make_key(db: Database, settings: Settings) -> Callable[..., str]:
    """`make_key("other", {"jobs:read"})`: a key of any tenant."""

    def make(tenant: str = "default", scopes: frozenset[str] = keys.SCOPES) -> str:
        new = keys.generate()
        store.ensure_tenant(db, tenant)
        digest = keys.digest(settings.key_pepper.get_secret_value(), new.secret)
        store.insert_key(db, new.id, tenant, "made by a test", digest, scopes)
        return new.text

    return make


@pytest.fixture
def other(api: Api, make_key: Callable[..., str]) -> Iterator[httpx.Client]:
    """Another tenant, allowed everything."""
    with api.client(make_key("other")) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture(api: Api) -> str:
    """An asset of the first tenant: a small PNG."""
    with api.client() as opened:
        return upload(opened, png(64, 48))


@pytest.fixture
def hand(settings: Settings, db: Database, api: Api) -> Iterator[Hand]:
    """A worker's moves by hand, on queues that are empty at the start of the test."""
    with db.connect() as connection:
        still = connection.execute("SELECT tenant_id, id FROM jobs WHERE state IN ('queued', 'running')").fetchall()
    for tenant_id, job_id in still:
        lifecycle.cancel(db, tenant_id, job_id, "in the way of the next test")
    with Hand(settings, db) as moves:
        yield moves
