"""What the database answers, as frozen dataclasses: jobs, steps, attempts, events, assets, keys, workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from framewright.jobs import TERMINAL, JobState, Outcome, Status, StepState


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a job. `progress` is the last snapshot that a renewal stored; `message` the last failure's."""

    id: int
    name: str
    kind: str
    engine: str
    model: str | None
    queue: str
    state: StepState
    attempt: int
    needs: tuple[str, ...]
    params: Mapping[str, Any]
    worker: str | None
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    progress: Mapping[str, Any] | None
    message: str | None
    artifact: UUID | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One lease that was handed out. A yielded attempt is not consumed: the next one carries the same `n`.

    `resumed`: it was given a checkpoint. `resumed_from_step` is the finished step that it went on from, 0 when it could
    not use that, None where there was none or the engine has not said; `exact` is false when the rest need not be equal
    to the bit.
    """

    step: int
    step_name: str
    n: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    message: str | None
    resumed: bool
    resumed_from_step: int | None
    exact: bool | None


AssetState = Literal["ready", "expired", "deleted"]


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One committed file of a step that no other step needs; `id` is its asset. `fps` is exact (`30000/1001`)."""

    id: UUID
    step_name: str
    name: str
    key: str
    content_type: str
    size: int
    sha256: bytes
    state: AssetState
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    codecs: str | None
    meta: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: an outcome, `poison` (killed its worker three times) or `expired`; `field` is a pointer."""

    code: str
    message: str
    field: str | None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a due job is not being worked on: a code for machines, a sentence for people."""

    code: str
    """`no_worker`, `no_capability`, `workers_offline`, `retry_backoff`, or that of what keeps workers from a model."""
    message: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as its owner may see it. `status` is the API's word for it; `queue_position` counts from 1.

    `queue_position` is None unless the next step is due and waits, or when more are ahead than are counted.
    `attempt` is that of the step that started last. `expires_at` is when the first of its outputs goes.
    """

    id: UUID
    tenant_id: str
    kind: str
    model: str | None
    state: JobState
    status: Status
    event_seq: int
    priority: int
    input: Mapping[str, Any]
    params: Mapping[str, Any]
    adjusted: tuple[Mapping[str, Any], ...]
    request: Mapping[str, Any]
    metadata: Mapping[str, str]
    webhook: str | None
    retry_of: UUID | None
    run_at: datetime | None
    start_deadline: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_reason: str | None
    error: JobError | None
    blocked: Blocked | None
    queue_position: int | None
    steps: tuple[StepRow, ...]
    attempts: tuple[AttemptRow, ...]
    outputs: tuple[OutputRow, ...]

    @property
    def ended(self) -> bool:
        """True once nothing about the outcome can change."""
        return self.state in TERMINAL

    @property
    def blocked_reason(self) -> str | None:
        """The sentence of `blocked`."""
        return self.blocked.message if self.blocked else None

    @property
    def current(self) -> StepRow | None:
        """The running step that started last, else any step that started last, else None."""
        started = [step for step in self.steps if step.started_at]
        running = [step for step in started if step.state is StepState.RUNNING]
        return max(running or started, key=lambda step: (step.started_at or self.created_at, step.id), default=None)

    @property
    def attempt(self) -> int:
        """Number of the attempt of the current step, 0 before the first."""
        return self.current.attempt if self.current else 0

    @property
    def phase(self) -> str | None:
        """What the running step is doing; None when nothing runs."""
        step = self.current
        return (step.progress or {}).get("phase") if step and step.state is StepState.RUNNING else None

    @property
    def progress(self) -> dict[str, Any]:
        """The whole job's snapshot: `fraction` over all steps (<= 0.99 until success), the rest of the current step."""
        inner = dict((self.current.progress if self.current else None) or {})
        done = sum(
            1.0 if step.state is StepState.SUCCEEDED else float((step.progress or {}).get("fraction") or 0.0)
            for step in self.steps
        )
        fraction = 1.0 if self.state is JobState.SUCCEEDED else min(0.99, done / max(1, len(self.steps)))
        keys = ("step", "steps", "frames_done", "frames_total", "eta")
        return {"fraction": round(fraction, 4), **{key: inner.get(key) for key in keys}}


@dataclass(frozen=True, slots=True)
class EventRow:
    """One durable event; `seq` starts at 1 and has no gaps within a job."""

    job_id: UUID
    tenant_id: str
    seq: int
    type: str
    data: Mapping[str, Any]
    at: datetime


Control = Literal["run", "pause", "drain"]


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker says of itself every few seconds; it counts as gone `ttl_s` after it last did."""

    id: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    engines: tuple[str, ...]
    kinds: tuple[str, ...]
    state: Literal["starting", "idle", "busy", "draining"]
    ttl_s: float
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as others see it; `control` is what the operator asked of it, `running` the jobs it holds."""

    id: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    engines: tuple[str, ...]
    kinds: tuple[str, ...]
    state: str
    control: Control
    alive: bool
    started_at: datetime
    seen_at: datetime
    capabilities: Mapping[str, Any]
    running: tuple[UUID, ...]

    @property
    def takes_work(self) -> bool:
        """Whether it may claim, as `fw_claim` sees it: alive, and neither paused nor draining."""
        return self.alive and self.control == "run" and self.state != "draining"

    def able(self, queue: str, engine: str) -> bool:
        """Whether a step of that queue and engine can go to it now."""
        return self.takes_work and queue in self.queues and engine in self.engines


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue now: `depth` due steps, `scheduled` ready but not yet due ones, age of the longest wait in seconds.

    `workers` may claim from it; `paused` ones are live too and take nothing, because they were told so or drain.
    """

    queue: str
    depth: int
    scheduled: int
    running: int
    oldest_age_s: float | None
    workers: int
    paused: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key without its secret; `usable` is false once it is revoked or expired (by the database's clock)."""

    id: str
    tenant_id: str
    name: str
    digest: bytes
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    usable: bool


@dataclass(frozen=True, slots=True)
class TicketRow:
    """A redeemed socket ticket: whose it was and when the key behind it expires."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]
    key_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewAsset:
    """An uploaded file whose object is already stored under `key`; `sha256` is 32 bytes, `ttl_h` hours."""

    id: UUID
    tenant_id: str
    kind: Literal["image", "video", "other"]
    content_type: str
    filename: str | None
    size: int
    sha256: bytes
    key: str
    ttl_h: float
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: str | None = None
    duration_s: float | None = None
    codecs: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AssetRow:
    """An input or output file. `origin` is upload or output; `state` is judged by the database's clock."""

    id: UUID
    tenant_id: str
    origin: Literal["upload", "output"]
    state: AssetState
    kind: Literal["image", "video", "other"]
    content_type: str
    filename: str | None
    size: int
    sha256: bytes
    key: str
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    codecs: str | None
    meta: Mapping[str, Any]
    job_id: UUID | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A presigned PUT that was handed out; `asset_id` is the asset it became once `completed_at` is set.

    `late`: its link is over. Bytes that were on their way by then still arrive.
    """

    id: UUID
    tenant_id: str
    asset_id: UUID
    key: str
    filename: str | None
    content_type: str
    size: int
    sha256: bytes | None
    created_at: datetime
    expires_at: datetime
    completed_at: datetime | None
    late: bool


class IdempotentRow(NamedTuple):
    """What an Idempotency-Key was used for."""

    body_sha256: bytes
    job_id: UUID


class Pace(NamedTuple):
    """A run of a model from its first step to success: a step of its last pass took `step_s`, all of it `whole_s`."""

    work: int
    whole_s: float
    step_s: float
    params: Mapping[str, Any]
    worker: str


class Durations(NamedTuple):
    """How long succeeded attempts of one kind and model took, in seconds; zeros when `n` is 0."""

    n: int
    p50_s: float
    p90_s: float


class DeadPrefix(NamedTuple):
    """Where an ended attempt may have left objects; one that `succeeded` only beside its files, in checkpoints."""

    tenant_id: str
    job_id: UUID
    step_id: int
    step_name: str
    fence: UUID
    succeeded: bool


class DeadJob(NamedTuple):
    """A job of which nothing is to be kept."""

    tenant_id: str
    job_id: UUID


class Purged(NamedTuple):
    """How many rows a round of retention removed."""

    idempotency: int
    tickets: int
    events: int
    workers: int
