"""Workers and queues: who is there, how long the waits are, and telling a worker to drain, pause or go on."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from api.auth import OpsRead, OpsWrite
from api.openapi import errors
from api.parts import P
from api.views import fleet as views
from api.views.base import ListView, listed
from api.views.fleet import QueueView, WorkerView
from framewright import store
from framewright.errors import Conflict
from framewright.rows import Control

router = APIRouter(prefix="/api/v1", tags=["operations"])

_CONTROLS: dict[str, Control] = {"drain": "drain", "pause": "pause", "resume": "run"}


@router.get("/workers", summary="List workers", responses=errors())
def list_workers(parts: P, _: OpsRead) -> ListView[WorkerView]:
    return listed([views.worker(row) for row in parts.fleet()])


@router.get("/workers/{worker_id}", responses=errors(404), summary="Read a worker")
def get_worker(worker_id: str, parts: P, _: OpsRead) -> WorkerView:
    return views.worker(store.get_worker(parts.db, worker_id))


@router.post("/workers/{worker_id}/{verb}", responses=errors(404, 422), summary="Drain, pause or resume a worker")
def control_worker(worker_id: str, verb: Literal["drain", "pause", "resume"], parts: P, _: OpsWrite) -> WorkerView:
    """`drain`: hand back what runs at its next boundary and take nothing; `pause`: finish it and take nothing."""
    return views.worker(store.set_worker_control(parts.db, worker_id, _CONTROLS[verb]))


@router.delete("/workers/{worker_id}", status_code=204, responses=errors(404, 409), summary="Forget a worker")
def forget_worker(worker_id: str, parts: P, _: OpsWrite) -> None:
    """For workers that are gone for good; a live one is refused with 409."""
    if store.get_worker(parts.db, worker_id).alive:
        raise Conflict("this worker is alive; drain it first")
    store.forget_worker(parts.db, worker_id)


@router.get("/queues", summary="Depth, age and workers of each queue", responses=errors())
def list_queues(parts: P, _: OpsRead) -> ListView[QueueView]:
    return listed([views.queue(row) for row in store.queues(parts.db)])
