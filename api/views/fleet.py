"""Workers, their queues, and which of them can run a model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.views.base import View
from framewright import ids, waiting
from framewright.catalogue import ModelRow, describe
from framewright.rows import QueueRow, WorkerRow


class WorkerView(View):
    id: str
    host: str
    version: str
    status: str = Field(description="offline, or what it was told (pause, drain), or what it does (idle, busy).")
    state: str
    control: str
    alive: bool
    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    engines: tuple[str, ...]
    capabilities: dict[str, Any]
    running: tuple[str, ...]
    started_at: datetime
    seen_at: datetime


class QueueView(View):
    name: str
    depth: int
    scheduled: int
    running: int
    oldest_s: float | None
    workers: int = Field(description="Live workers that may claim from it.")
    paused: int = Field(description="Live workers of it that take nothing now: paused or draining.")


class RefusalView(View):
    """Why a live worker that has the weights of a model, or too small a GPU for it, cannot run it: an error's code, and
    a sentence with the command that helps where one does."""

    worker: str
    code: str
    message: str


class ModelView(View):
    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    name: str
    title: str
    summary: str
    kinds: tuple[str, ...]
    queue: str
    params_schema: dict[str, Any]
    presets: tuple[dict[str, Any], ...]
    runnable_now: bool
    loaded_on: tuple[str, ...]
    refused_on: tuple[RefusalView, ...]


def worker(row: WorkerRow) -> WorkerView:
    return WorkerView(
        id=row.id,
        host=row.host,
        version=row.version,
        status="offline" if not row.alive else row.state if row.control == "run" else row.control,
        state=row.state,
        control=row.control,
        alive=row.alive,
        queues=row.queues,
        kinds=row.kinds,
        engines=row.engines,
        capabilities=dict(row.capabilities),
        running=tuple(ids.public(ids.JOB, job_id) for job_id in row.running),
        started_at=row.started_at,
        seen_at=row.seen_at,
    )


def queue(row: QueueRow) -> QueueView:
    age = None if row.oldest_age_s is None else round(row.oldest_age_s, 1)
    return QueueView(
        name=row.queue,
        depth=row.depth,
        scheduled=row.scheduled,
        running=row.running,
        oldest_s=age,
        workers=row.workers,
        paused=row.paused,
    )


def model(row: ModelRow, workers: Sequence[WorkerRow]) -> ModelView:
    """A catalogue row, and which live workers could run it now or hold it in memory."""
    able = [one for one in workers if one.able(row.queue, row.capability)]
    loaded = tuple(one.id for one in able if row.name in one.capabilities.get("models", {}).get("resident", ()))
    refused = tuple(
        RefusalView(worker=one.id, code=why.code, message=why.message)
        for one in workers
        if one.alive and row.queue in one.queues and one not in able and (why := waiting.lacking(row.name, one))
    )
    return ModelView(**describe(row), name=row.name, runnable_now=bool(able), loaded_on=loaded, refused_on=refused)
