"""The publisher of live entries: a bounded set of newest values and a thread that sends them when Redis lets it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

import redis
from redis.exceptions import RedisError

from framewright import ids
from framewright.events import wire
from framewright.jobs import Claim, Progress
from framewright.redis_options import redis_options
from framewright.settings import Settings

MAX_PENDING: Final = 4096
"""Values waiting for Redis; the oldest goes first. Each is the newest of its kind and job."""
BETWEEN_S: Final = 0.25
"""Least time between two progress or two preview entries of one job."""
PACE_S: Final = 0.01
"""Least time between two round trips: the first value goes at once, the rest of a burst goes together."""
STALE_S: Final = 30.0
"""A value that could not be sent for this long is dropped: clients have asked Postgres by then."""
IDLE_S: Final = 30.0
"""After this long without anything to send the connection is closed."""
MAX_PREVIEW_BYTES: Final = 1024 * 1024

Kind = Literal["progress", "preview", "poke", "hint"]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Value:
    fields: Mapping[str, Any]
    due: float
    image: bytes = b""
    born: float = field(default_factory=time.monotonic)


class Live:
    """Tells the rest of the system what just happened, best effort.

    No method raises or waits for Redis. Only the newest value of a kind and job waits, progress and previews go out at
    most four times a second per job, and the last one always goes out. The thread starts with the first value.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stream = wire.stream_key(settings)
        self._channel = wire.hint_channel(settings)
        self._redis = redis.Redis.from_url(settings.redis_url.get_secret_value(), **redis_options("live"))
        self._changed = threading.Condition()
        self._pending: OrderedDict[tuple[Kind, UUID], _Value] = OrderedDict()
        self._sent_at: dict[tuple[Kind, UUID], float] = {}
        self._paused_until = 0.0
        self._failures = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def poke(self, job_id: UUID, tenant_id: str, seq: int) -> None:
        """A durable event `seq` of the job was committed."""
        self._put("poke", job_id, {"t": "poke", "job": job_id.hex, "tenant": tenant_id, "seq": seq})

    def progress(self, claim: Claim, progress: Progress) -> None:
        """A snapshot of how far the claimed step is."""
        self._put("progress", claim.job_id, _of(claim, "progress", data=progress.as_json()))

    def preview(self, claim: Claim, image: bytes, mime: str, width: int, height: int) -> None:
        """A picture of the work so far; one over 1 MiB is dropped."""
        if len(image) > MAX_PREVIEW_BYTES:
            _log.debug("preview of %d bytes dropped", len(image))
            return
        data = {"mime": mime, "w": width, "h": height}
        fields = _of(claim, "preview", data=data, seq=time.time_ns() // 1_000_000)
        self._put("preview", claim.job_id, fields, image)

    def hint(self, job_id: UUID) -> None:
        """Workers that run a step of the job should renew now: it was canceled or changed."""
        self._put("hint", job_id, {"job": job_id.hex})

    def close(self, timeout_s: float = 2.0) -> None:
        """Sends what waits if Redis takes it within `timeout_s`; later calls of the other methods do nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            self._redis.close()
        else:
            thread.join(timeout_s)

    def _put(self, kind: Kind, job_id: UUID, fields: Mapping[str, Any], image: bytes = b"") -> None:
        key = (kind, job_id)
        now = time.monotonic()
        with self._changed:
            if self._closing:
                return
            waiting = self._pending.get(key)
            if waiting is None:
                spaced = kind in {"progress", "preview"}
                due = self._sent_at.get(key, now - BETWEEN_S) + BETWEEN_S if spaced else now
                self._pending[key] = _Value(fields, due, image)
                if len(self._pending) > MAX_PENDING:
                    self._pending.popitem(last=False)
            elif kind != "poke" or fields["seq"] > waiting.fields["seq"]:
                self._pending[key] = _Value(fields, waiting.due, image)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="live-publisher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._send(batch)
            except (RedisError, OSError) as error:
                self._failed(batch, error)
            else:
                if self._failures:
                    _log.info("live publishing works again")
                self._failures = 0
                self._paused_until = time.monotonic() + PACE_S
        self._redis.close()

    def _take(self) -> dict[tuple[Kind, UUID], _Value]:
        """Waits for values that are due and takes them; an empty answer means closed."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._closing:
                    batch, self._pending = dict(self._pending), OrderedDict()
                    return batch
                next_due = max(min((value.due for value in self._pending.values()), default=now), self._paused_until)
                if self._pending and next_due <= now:
                    batch = {key: value for key, value in self._pending.items() if value.due <= now}
                    for key in batch:
                        del self._pending[key]
                    self._sent_at = {key: at for key, at in self._sent_at.items() if now - at < BETWEEN_S}
                    self._sent_at.update(dict.fromkeys(batch, now))
                    return batch
                if not self._changed.wait(next_due - now if self._pending else IDLE_S) and not self._pending:
                    self._redis.connection_pool.disconnect()
                    self._changed.wait_for(lambda: self._pending or self._closing)

    def _send(self, batch: Mapping[tuple[Kind, UUID], _Value]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        # Snapshots before pokes: a client sees the last progress of a step before the step's end.
        for (kind, job_id), value in sorted(batch.items(), key=lambda item: item[0][0] in {"poke", "hint"}):
            try:
                entry = wire.encode(value.fields)
            except (TypeError, ValueError) as error:
                _log.warning("a %s of %s cannot be sent: %s", kind, ids.public(ids.JOB, job_id), error)
                continue
            if kind == "hint":
                pipeline.publish(self._channel, entry)
                continue
            if kind == "preview":
                key = wire.preview_key(self._settings, job_id)
                pipeline.set(key, wire.pack_preview(value.fields, value.image), ex=wire.PREVIEW_TTL_S)
            pipeline.xadd(self._stream, {wire.FIELD: entry}, maxlen=wire.MAX_ENTRIES, approximate=True)
        pipeline.execute()

    def _failed(self, batch: Mapping[tuple[Kind, UUID], _Value], error: Exception) -> None:
        self._redis.connection_pool.disconnect()
        if not self._failures:
            _log.warning("live publishing pauses, Redis does not answer: %s", type(error).__name__)
        self._failures += 1
        now = time.monotonic()
        with self._changed:
            self._paused_until = now + min(2.0, 0.1 * 2 ** min(self._failures, 6))
            if self._closing:
                return
            again = [(k, v) for k, v in batch.items() if k not in self._pending and now - v.born < STALE_S]
            self._pending = OrderedDict([*again, *self._pending.items()])
            while len(self._pending) > MAX_PENDING:
                self._pending.popitem(last=False)


def _of(claim: Claim, kind: Kind, **fields: Any) -> dict[str, Any]:
    names = {"step": claim.step_name, "attempt": claim.attempt}
    return {"t": kind, "job": claim.job_id.hex, "tenant": claim.tenant_id, **names, **fields}
