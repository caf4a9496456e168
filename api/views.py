"""What answers look like: one model for each noun, with absolute links, so that no client builds a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from api.hub import Latest
from framewright import ids, waiting
from framewright.catalogue import ModelRow, describe
from framewright.jobs import (
    COMPANIONS,
    MANIFEST,
    PLAYBACK,
    POSTER,
    SOUND,
    SPRITE,
    THUMBNAIL,
    JobState,
    Outcome,
    Status,
    StepState,
)
from framewright.rows import AssetRow, AttemptRow, JobRow, KeyRow, OutputRow, QueueRow, StepRow, WorkerRow

_FINAL_CODES = frozenset({"bad_input", "poison"})
FEW_IMAGES = 10
"""So many of a job's images are named where many jobs are shown."""


class View(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True)


class ProgressView(View):
    """A full snapshot of the whole job; `fraction` is 1 only once the outputs are committed."""

    fraction: float
    step: int | None
    steps: int | None
    frames_done: int | None
    frames_total: int | None


class EtaView(View):
    """Seconds until the current step ends, as the worker that does it reckons."""

    seconds_p50: float
    seconds_p90: float | None
    basis: str


_MEASURED = frozenset({"width", "height", "frames", "fps", "duration_s", "codecs"})


class OutputLinks(View):
    """Of a clip: `thumbnail` and `poster` are JPEGs of it, `sprite` is a sheet of its frames, `playback` an H.264
    rendition for players that do not know its codec, `sound` what its format has no room for."""

    content: str
    thumbnail: str | None
    poster: str | None
    sprite: str | None
    playback: str | None
    sound: str | None
    manifest: str | None


class OutputView(View):
    name: str
    asset: str
    content_type: str
    size: int
    sha256: str
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    codecs: str | None
    meta: dict[str, Any]
    state: str
    expires_at: datetime | None
    links: OutputLinks


class ErrorView(View):
    code: str
    message: str
    field: str | None
    retryable: bool


class AttemptView(View):
    n: int
    step: str
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    message: str | None
    resumed: bool
    resumed_from_step: int | None
    exact: bool | None


class StepView(View):
    name: str
    kind: str
    model: str | None
    queue: str
    state: StepState
    attempt: int
    needs: tuple[str, ...]
    worker: str | None
    started_at: datetime | None
    finished_at: datetime | None


class JobLinks(View):
    self: str
    events: str
    attempts: str
    explain: str
    preview: str
    cancel: str
    retry: str


class Can(View):
    """Which verbs would change something now."""

    cancel: bool
    retry: bool
    edit: bool


class JobView(View):
    id: str
    kind: str
    model: str | None
    status: Status
    phase: str | None
    progress: ProgressView
    queue_position: int | None
    eta: EtaView | None
    blocked_reason: str | None
    blocked_code: str | None = Field(description="The machine's word for `blocked_reason`.")
    attempt: int
    seq: int
    priority: int
    input: dict[str, Any]
    params: dict[str, Any]
    adjusted: tuple[dict[str, Any], ...]
    outputs: tuple[OutputView, ...]
    error: ErrorView | None
    steps: tuple[StepView, ...]
    attempts: tuple[AttemptView, ...]
    metadata: dict[str, str]
    retry_of: str | None
    cancel_reason: str | None
    run_at: datetime | None
    start_deadline: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    can: Can
    links: JobLinks


class AssetLinks(View):
    self: str
    content: str


class AssetView(View):
    id: str
    origin: str
    state: str
    kind: str
    content_type: str
    filename: str | None
    size: int
    sha256: str
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    codecs: str | None
    created_at: datetime
    expires_at: datetime | None
    links: AssetLinks


class UploadLinks(View):
    complete: str


class UploadView(View):
    """Send the bytes to `url` with exactly these headers, then POST to `links.complete`."""

    id: str
    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: datetime
    links: UploadLinks


class KeyView(View):
    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyView(KeyView):
    key: str = Field(description="The key itself, shown this once.")


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


Item = TypeVar("Item")


class ListView(View, Generic[Item]):
    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


def listed(items: Sequence[Any], *, has_more: bool = False) -> ListView[Any]:
    """A page of views that have an `id` or a `name`; jobs are shortened."""
    items = [shortened(item) if isinstance(item, JobView) else item for item in items]
    names = [getattr(item, "id", None) or getattr(item, "name", None) for item in items]
    return ListView(
        data=tuple(items),
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
        has_more=has_more,
    )


def shortened(job: JobView) -> JobView:
    """The job with only its first images named and `images_total` beside them, if it has any."""
    images = job.input.get("images")
    if images is None:
        return job
    few = {**job.input, "images": images[:FEW_IMAGES], "images_total": len(images)}
    return job.model_copy(update={"input": few})


class Views:
    """Builds answers from rows; `public_url` is where every link starts."""

    def __init__(self, public_url: str) -> None:
        self._base = f"{public_url.rstrip('/')}/api/v1"

    def job_url(self, job_id: str) -> str:
        return f"{self._base}/jobs/{job_id}"

    def job(self, row: JobRow, latest: Latest | None = None) -> JobView:
        """The job as its owner sees it, with progress newer than the row's if any is known."""
        row = _advanced(row, latest)
        name = ids.public(ids.JOB, row.id)
        url = self.job_url(name)
        progress = row.progress
        eta_s = progress.get("eta_s") if row.state is JobState.RUNNING else None
        return JobView(
            id=name,
            kind=row.kind,
            model=row.model,
            status=row.status,
            phase=row.phase,
            progress=ProgressView(**{field: progress.get(field) for field in ProgressView.model_fields}),
            queue_position=row.queue_position,
            eta=None if eta_s is None else EtaView(seconds_p50=eta_s, seconds_p90=None, basis="current_step"),
            blocked_reason=row.blocked_reason,
            blocked_code=row.blocked.code if row.blocked else None,
            attempt=row.attempt,
            seq=row.event_seq,
            priority=row.priority,
            input=dict(row.input),
            params=dict(row.params),
            adjusted=tuple(dict(one) for one in row.adjusted),
            outputs=tuple(self._output(output, row.outputs) for output in row.outputs),
            error=_error(row),
            steps=tuple(_step(step) for step in row.steps),
            attempts=tuple(attempt(one) for one in row.attempts),
            metadata=dict(row.metadata),
            retry_of=ids.public(ids.JOB, row.retry_of) if row.retry_of else None,
            cancel_reason=row.cancel_reason,
            run_at=row.run_at,
            start_deadline=row.start_deadline,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            expires_at=row.expires_at,
            can=Can(cancel=not row.ended, retry=row.ended, edit=row.state is JobState.QUEUED),
            links=JobLinks(
                self=url,
                **{verb: f"{url}/{verb}" for verb in ("events", "attempts", "explain", "preview", "cancel", "retry")},
            ),
        )

    def asset(self, row: AssetRow) -> AssetView:
        name = ids.public(ids.ASSET, row.id)
        url = f"{self._base}/assets/{name}"
        return AssetView(
            id=name,
            origin=row.origin,
            state=row.state,
            kind=row.kind,
            content_type=row.content_type,
            filename=row.filename,
            size=row.size,
            sha256=row.sha256.hex(),
            width=row.width,
            height=row.height,
            frames=row.frames,
            fps=row.fps,
            duration_s=row.duration_s,
            codecs=row.codecs,
            created_at=row.created_at,
            expires_at=row.expires_at,
            links=AssetLinks(self=url, content=f"{url}/content"),
        )

    def upload(self, upload_id: str, url: str, content_type: str, size: int, expires_at: datetime) -> UploadView:
        return UploadView(
            id=upload_id,
            url=url,
            headers={"Content-Type": content_type, "Content-Length": str(size)},
            expires_at=expires_at,
            links=UploadLinks(complete=f"{self._base}/uploads/{upload_id}/complete"),
        )

    def _output(self, row: OutputRow, outputs: Sequence[OutputRow]) -> OutputView:
        name = ids.public(ids.ASSET, row.id)
        beside = {one.name: self._content(one) for one in outputs if one.step_name == row.step_name}
        clip = row.name.partition("-")[0] not in COMPANIONS
        return OutputView(
            name=row.name,
            asset=name,
            content_type=row.content_type,
            size=row.size,
            sha256=row.sha256.hex(),
            width=row.width,
            height=row.height,
            frames=row.frames,
            fps=row.fps,
            duration_s=row.duration_s,
            codecs=row.codecs,
            meta={key: value for key, value in row.meta.items() if key not in _MEASURED},
            state=row.state,
            expires_at=row.expires_at,
            links=OutputLinks(
                content=self._content(row),
                thumbnail=beside.get(THUMBNAIL, beside.get(POSTER)) if clip else None,
                poster=beside.get(POSTER) if clip else None,
                sprite=beside.get(SPRITE) if clip else None,
                playback=beside.get(PLAYBACK) if clip else None,
                sound=beside.get(SOUND) if clip else None,
                manifest=beside.get(MANIFEST) if clip else None,
            ),
        )

    def _content(self, row: OutputRow) -> str:
        return f"{self._base}/assets/{ids.public(ids.ASSET, row.id)}/content"


def attempt(row: AttemptRow) -> AttemptView:
    return AttemptView(
        n=row.n,
        step=row.step_name,
        worker=row.worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        message=row.message,
        resumed=row.resumed,
        resumed_from_step=row.resumed_from_step,
        exact=row.exact,
    )


def key(row: KeyRow) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        scopes=tuple(sorted(row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


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


def _step(row: StepRow) -> StepView:
    return StepView(
        name=row.name,
        kind=row.kind,
        model=row.model,
        queue=row.queue,
        state=row.state,
        attempt=row.attempt,
        needs=row.needs,
        worker=row.worker,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _error(row: JobRow) -> ErrorView | None:
    if row.error is None:
        return None
    return ErrorView(
        code=row.error.code,
        message=row.error.message,
        field=row.error.field,
        retryable=row.error.code not in _FINAL_CODES,
    )


def _advanced(row: JobRow, latest: Latest | None) -> JobRow:
    if latest is None or row.ended:
        return row
    return replace(row, steps=tuple(_later(step, latest) for step in row.steps))


def _later(step: StepRow, latest: Latest) -> StepRow:
    known: Mapping[str, Any] = step.progress or {}
    same = step.name == latest.step and step.attempt == latest.attempt and step.state is StepState.RUNNING
    if same and (latest.data.get("fraction") or 0) >= (known.get("fraction") or 0):
        return replace(step, progress=latest.data)
    return step
