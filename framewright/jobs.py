"""The life of a job as data: states, the moves between them, and what a failed attempt may cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import UUID

from framewright import ids


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class StepState(StrEnum):
    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


JOB_MOVES: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELED}),
        JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELED: frozenset(),
    }
)
STEP_MOVES: Mapping[StepState, frozenset[StepState]] = MappingProxyType(
    {
        StepState.BLOCKED: frozenset({StepState.READY, StepState.CANCELED}),
        StepState.READY: frozenset({StepState.RUNNING, StepState.CANCELED}),
        StepState.RUNNING: frozenset({StepState.READY, StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELED}),
        StepState.SUCCEEDED: frozenset(),
        StepState.FAILED: frozenset(),
        StepState.CANCELED: frozenset(),
    }
)
TERMINAL = frozenset(state for state, onward in JOB_MOVES.items() if not onward)


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    YIELDED = "yielded"
    APP_ERROR = "app_error"
    BAD_INPUT = "bad_input"
    INVALID_OUTPUT = "invalid_output"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    WORKER_LOST = "worker_lost"
    RUNNER_LOST = "runner_lost"
    TRANSIENT_INFRA = "transient_infra"
    GPU_OOM = "gpu_oom"
    GPU_ERROR = "gpu_error"
    HOST_OOM = "host_oom"
    MODEL_NOT_READY = "model_not_ready"
    WEIGHTS_REFUSED = "weights_refused"
    LICENCE_NOT_ACCEPTED = "licence_not_accepted"
    INSUFFICIENT_VRAM = "insufficient_vram"


UNFIT = frozenset(
    {Outcome.MODEL_NOT_READY, Outcome.WEIGHTS_REFUSED, Outcome.LICENCE_NOT_ACCEPTED, Outcome.INSUFFICIENT_VRAM}
)
"""The worker cannot run the model: another one may, and nothing is wrong with the step."""


class Budget(StrEnum):
    """Which counter of the step an unsuccessful attempt is charged to."""

    FREE = "free"
    APP = "app"
    INFRA = "infra"


@dataclass(frozen=True, slots=True)
class Retry:
    """What one kind of unsuccessful end costs.

    `limit` is how many such ends the step survives *within this class* (None: only the budgets of the step bind);
    `backoff_s` is the wait before the first retry; `elsewhere` asks the claim to avoid the worker it failed on;
    `kill` counts towards the third kill that marks the job as poison.
    """

    budget: Budget
    limit: int | None
    backoff_s: float
    elsewhere: bool
    kill: bool = False


RETRIES: Mapping[Outcome, Retry] = MappingProxyType(
    {
        Outcome.YIELDED: Retry(Budget.FREE, 0, 0.0, elsewhere=False),
        Outcome.BAD_INPUT: Retry(Budget.APP, 0, 0.0, elsewhere=False),
        # How often an engine may fail is the request's to say (`max_attempts`), so the class adds no bound of its own.
        Outcome.APP_ERROR: Retry(Budget.APP, None, 1.0, elsewhere=True),
        Outcome.INVALID_OUTPUT: Retry(Budget.APP, 1, 0.0, elsewhere=True),
        Outcome.TIMEOUT: Retry(Budget.APP, 1, 0.0, elsewhere=True),
        Outcome.TRANSIENT_INFRA: Retry(Budget.INFRA, 3, 5.0, elsewhere=False),
        Outcome.GPU_OOM: Retry(Budget.INFRA, 2, 0.0, elsewhere=False),
        Outcome.HOST_OOM: Retry(Budget.INFRA, 2, 30.0, elsewhere=True),
        Outcome.GPU_ERROR: Retry(Budget.INFRA, 2, 0.0, elsewhere=True),
        Outcome.STALLED: Retry(Budget.INFRA, 2, 0.0, elsewhere=True, kill=True),
        Outcome.RUNNER_LOST: Retry(Budget.INFRA, 2, 0.0, elsewhere=True, kill=True),
        Outcome.WORKER_LOST: Retry(Budget.INFRA, 2, 0.0, elsewhere=True, kill=True),
        # Free without a bound, because the worker stops offering the model until its files change (an hour at most; for
        # good when its GPU is too small): the step waits for one that can run it.
        Outcome.MODEL_NOT_READY: Retry(Budget.FREE, 0, 0.0, elsewhere=True),
        Outcome.WEIGHTS_REFUSED: Retry(Budget.FREE, 0, 0.0, elsewhere=True),
        Outcome.LICENCE_NOT_ACCEPTED: Retry(Budget.FREE, 0, 0.0, elsewhere=True),
        Outcome.INSUFFICIENT_VRAM: Retry(Budget.FREE, 0, 0.0, elsewhere=True),
    }
)


class Status(StrEnum):
    """What the API calls a job; `scheduled` and `waiting` are views of `queued`, not states."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Phase(StrEnum):
    """What a running attempt is doing."""

    STARTING = "starting"
    DOWNLOADING = "downloading"
    LOADING_MODEL = "loading_model"
    ENCODING_PROMPT = "encoding_prompt"
    DENOISING = "denoising"
    RENDERING = "rendering"
    DECODING = "decoding"
    INTERPOLATING = "interpolating"
    UPSCALING = "upscaling"
    ENCODING = "encoding"
    CHECKING = "checking"
    SIGNING = "signing"
    UPLOADING = "uploading"


# Names of the files that accompany a clip: a JPEG of it, a small one, a sheet of small ones, an H.264 rendition for
# players that do not know its codec, sound that its format cannot hold, and a manifest that it cannot carry.
POSTER = "poster"
THUMBNAIL = "thumbnail"
SPRITE = "sprite"
PLAYBACK = "playback"
SOUND = "sound"
MANIFEST = "manifest"
COMPANIONS = frozenset({POSTER, THUMBNAIL, SPRITE, PLAYBACK, SOUND, MANIFEST})

TERMINAL_EVENTS = frozenset({"succeeded", "failed", "canceled"})


class Eta(NamedTuple):
    """Seconds until the step ends, in half of all cases and in nine of ten, and what that rests on.

    `measured`: steps of this run, else of the last one of the same model there; `flops`: what there is to compute and
    how fast the GPU is; `current_step`: the time that the part already done took.
    """

    seconds_p50: float
    seconds_p90: float | None
    basis: Literal["measured", "flops", "current_step"]

    def as_json(self) -> dict[str, Any]:
        """As sent on sockets and shown with the job."""
        return {
            "seconds_p50": round(self.seconds_p50, 2),
            "seconds_p90": None if self.seconds_p90 is None else round(self.seconds_p90, 2),
            "basis": self.basis,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """A full snapshot of how far a step is. `fraction` is 0..0.99 until outputs are committed, and never falls."""

    fraction: float = 0.0
    phase: str = Phase.STARTING
    step: int | None = None
    steps: int | None = None
    frames_done: int | None = None
    frames_total: int | None = None
    eta: Eta | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Progress:
        """Made from all of its fields, of which the ETA came as a list."""
        eta = fields["eta"]
        return cls(**{**fields, "eta": None if eta is None else Eta(*eta)})

    def as_json(self) -> dict[str, Any]:
        """The snapshot as sent on sockets and stored in the row."""
        return {
            "fraction": round(self.fraction, 4),
            "phase": self.phase,
            "step": self.step,
            "steps": self.steps,
            "frames_done": self.frames_done,
            "frames_total": self.frames_total,
            "eta": None if self.eta is None else self.eta.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Artifact:
    """One uploaded file of an attempt. `meta`: width, height, frames, fps ("30000/1001"), duration_s, codecs."""

    name: str
    key: str
    size: int
    sha256: bytes
    content_type: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on one step: who may renew, complete or release it is decided by `fence` alone."""

    job_id: UUID
    step_id: int
    tenant_id: str
    fence: UUID
    attempt: int
    step_name: str
    kind: str
    engine: str
    model: str | None
    queue: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Any]
    timeout_s: float
    stall_s: float
    checkpoint: Mapping[str, Any] | None
    created_at: datetime

    @property
    def label(self) -> str:
        """The step in log lines."""
        return ids.step_label(self.job_id, self.step_name)
