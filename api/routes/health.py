"""Is the process up, can it take jobs, and what does it measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Response

from api.metrics import CONTENT_TYPE, House
from api.parts import P, Parts
from api.views.base import View
from framewright import store
from framewright.database import migration_state
from framewright.errors import FramewrightError

router = APIRouter(tags=["health"])

RETRY_AFTER_S = "2"


class Component(View):
    """`needed` parts decide whether jobs are taken; the others only slow things down."""

    state: Literal["ok", "down", "outdated", "full", "starting"]
    needed: bool
    detail: str | None = None


class Readiness(View):
    status: Literal["ready", "not_ready"]
    components: dict[str, Component]


@router.get("/healthz", summary="The process runs")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Jobs are not taken now."}}, summary="Ready")
def readyz(parts: P, response: Response) -> Readiness:
    """503 when Postgres is away, its schema is old or the queue is over its cap; Redis and S3 are told, not needed."""
    database = _part(lambda: _database(parts), needed=True)
    components = {
        "database": database,
        "broker": _broker(parts),
        "storage": _storage(parts),
        "reconciler": _part(lambda: _reconciler(parts, database), needed=False),
    }
    good = all(part.state == "ok" for part in components.values() if part.needed)
    if not good:
        response.status_code = 503
        response.headers["Retry-After"] = RETRY_AFTER_S
    return Readiness(status="ready" if good else "not_ready", components=components)


def _part(look: Callable[[], Component], *, needed: bool) -> Component:
    try:
        return look()
    except FramewrightError as error:
        return Component(state="down", needed=needed, detail=error.detail)


def _database(parts: Parts) -> Component:
    schema = migration_state(parts.db)
    if not schema.up_to_date:
        return Component(state="outdated", needed=True, detail="the schema is not this version's; run the migrations")
    if not parts.prepared.is_set():
        return Component(state="starting", needed=True, detail="the bootstrap key is not stored yet")
    if store.open_jobs(parts.db) >= parts.settings.max_queued:
        return Component(state="full", needed=True, detail="as many jobs are open as this installation takes")
    return Component(state="ok", needed=True)


def _broker(parts: Parts) -> Component:
    if parts.hub.live:
        return Component(state="ok", needed=False)
    return Component(state="down", needed=False, detail="Redis does not answer; jobs start later, progress is coarse")


def _storage(parts: Parts) -> Component:
    state, detail = parts.storage_watch.last()
    return Component(state=state, needed=False, detail=detail)


def _reconciler(parts: Parts, database: Component) -> Component:
    if database.state in {"down", "outdated"}:
        return Component(state="down", needed=False, detail="the database knows, and cannot be asked")
    if any(row.alive for row in parts.fleet("reconciler")):
        return Component(state="ok", needed=False)
    return Component(state="down", needed=False, detail="no reconciler runs: lost workers and deadlines go unnoticed")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Prometheus metrics",
)
def metrics(parts: P) -> Response:
    parts.metrics.listeners.set(parts.hub.listeners)
    house = House(_or_nothing(lambda: store.queues(parts.db)), _or_nothing(parts.fleet))
    return Response(parts.metrics.exposition(house), media_type=CONTENT_TYPE)


def _or_nothing(read: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """The numbers of this process are worth having while Postgres is away."""

    def rows() -> list[Any]:
        try:
            return read()
        except FramewrightError:
            return []

    return rows
