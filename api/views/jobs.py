"""A job as its owner sees it: what it is, how far it is, what it made and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from pydantic import Field

from api.hub import Latest
from api.views.assets import content_url
from api.views.base import View
from framewright import ids
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
from framewright.rows import AttemptRow, JobRow, OutputRow, StepRow

_FINAL_CODES = frozenset({"bad_input", "poison"})
FEW_IMAGES = 10
"""So many of a job's images are named where many jobs are shown."""
_MEASURED = frozenset({"width", "height", "frames", "fps", "duration_s", "codecs"})


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

    def short(self) -> Self:
        """With only its first images named and `images_total` beside them, if it has any."""
        images = self.input.get("images")
        if images is None:
            return self
        few = {**self.input, "images": images[:FEW_IMAGES], "images_total": len(images)}
        return self.model_copy(update={"input": few})


def job_url(base: str, name: str) -> str:
    return f"{base}/jobs/{name}"


def job(row: JobRow, base: str, latest: Latest | None = None) -> JobView:
    """The job as its owner sees it, with progress newer than the row's if any is known."""
    row = _advanced(row, latest)
    name = ids.public(ids.JOB, row.id)
    url = job_url(base, name)
    progress = row.progress
    eta = progress.get("eta") if row.state is JobState.RUNNING else None
    return JobView(
        id=name,
        kind=row.kind,
        model=row.model,
        status=row.status,
        phase=row.phase,
        progress=ProgressView(**{field: progress.get(field) for field in ProgressView.model_fields}),
        queue_position=row.queue_position,
        eta=None if eta is None else EtaView(**eta),
        blocked_reason=row.blocked_reason,
        blocked_code=row.blocked.code if row.blocked else None,
        attempt=row.attempt,
        seq=row.event_seq,
        priority=row.priority,
        input=dict(row.input),
        params=dict(row.params),
        adjusted=tuple(dict(one) for one in row.adjusted),
        outputs=tuple(_output(output, row.outputs, base) for output in row.outputs),
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


def _output(row: OutputRow, outputs: Sequence[OutputRow], base: str) -> OutputView:
    name = ids.public(ids.ASSET, row.id)
    beside = {one.name: content_url(base, one.id) for one in outputs if one.step_name == row.step_name}
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
            content=content_url(base, row.id),
            thumbnail=beside.get(THUMBNAIL, beside.get(POSTER)) if clip else None,
            poster=beside.get(POSTER) if clip else None,
            sprite=beside.get(SPRITE) if clip else None,
            playback=beside.get(PLAYBACK) if clip else None,
            sound=beside.get(SOUND) if clip else None,
            manifest=beside.get(MANIFEST) if clip else None,
        ),
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
