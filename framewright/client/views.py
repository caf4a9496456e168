"""What the API answers, typed: unknown fields are kept, so an older client reads a newer server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from framewright.jobs import TERMINAL, TERMINAL_EVENTS


class View(BaseModel):
    """One object of the API; `document` is the JSON as it was sent."""

    model_config = ConfigDict(extra="allow", frozen=True)
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        view = cls.model_validate(dict(document))
        view._document.update(document)
        return view

    @property
    def document(self) -> dict[str, Any]:
        return self._document


class Progress(View):
    fraction: float = 0.0
    step: int | None = None
    steps: int | None = None
    frames_done: int | None = None
    frames_total: int | None = None


class Eta(View):
    seconds_p50: float | None = None
    seconds_p90: float | None = None
    basis: str | None = None


class Output(View):
    """A committed file of a job; `asset` is what further jobs refer to."""

    name: str
    asset: str
    content_type: str
    size: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: str | float | None = None
    duration_s: float | None = None
    links: dict[str, Any] = Field(default_factory=dict)


class JobError(View):
    code: str
    message: str = ""
    field: str | None = None
    retryable: bool = False


class Adjusted(View):
    field: str
    asked: Any = None
    used: Any = None
    why: str = ""


class Job(View):
    id: str
    kind: str
    status: str
    model: str | None = None
    phase: str | None = None
    progress: Progress | None = None
    queue_position: int | None = None
    eta: Eta | None = None
    blocked_reason: str | None = None
    attempt: int = 0
    seq: int = 0
    adjusted: tuple[Adjusted, ...] = ()
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    links: dict[str, Any] = Field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


class Asset(View):
    id: str
    content_type: str
    size: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: str | float | None = None
    duration_s: float | None = None
    links: dict[str, Any] = Field(default_factory=dict)


class Key(View):
    """An API key as listed; `key`, the secret itself, is there only in the answer to its creation."""

    id: str
    name: str
    scopes: tuple[str, ...] = ()
    key: str | None = None


class Worker(View):
    id: str
    status: str
    alive: bool = True


Item = TypeVar("Item", bound=View)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list; `last_id` is the cursor of the next one."""

    data: tuple[Item, ...]
    has_more: bool
    last_id: str | None
    document: dict[str, Any]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.data)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job. Durable events have a `seq` (gapless per job); progress has none."""

    type: str
    data: Mapping[str, Any]
    seq: int | None = None
    at: str | None = None

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL_EVENTS
