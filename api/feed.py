"""What one listener is owed: state events in order and without a gap, and the newest progress of each job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from framewright import ids
from framewright.jobs import TERMINAL_EVENTS

MAX_EVENTS = 2000
"""State events waiting for one listener; one that lets more pile up is cut off and resumes by `seq`."""
MAX_BYTES = 16 * 2**20
"""What may wait for one listener, as JSON and pictures, besides the batch that it takes now."""
CACHE_BYTES = 8 * 2**20
"""Texts of events and progress that are kept for the next listener."""
_SHARED = frozenset({"event", "progress"})


@dataclass(frozen=True, eq=False)
class Item:
    """One message for listeners: `fields` (at least one) without a topic, encoded once however many listen."""

    kind: str
    job_id: UUID | None
    seq: int
    fields: Mapping[str, Any]
    image: bytes | None = None

    @property
    def terminal(self) -> bool:
        return self.kind == "event" and self.fields["event"] in TERMINAL_EVENTS

    @cached_property
    def body(self) -> bytes:
        """`fields` as JSON."""
        return to_json(self.fields)


class Feed:
    """The queue between the hub and one listener: a socket, an event stream or a request that waits.

    All methods belong to the event loop's thread. `taken` by the hub, `batch` by the listener.
    """

    def __init__(self, tenant_id: str, key_id: str, *, previews: bool = False) -> None:
        self.tenant_id = tenant_id
        self.key_id = key_id
        self.previews = previews
        self.whole_tenant = False
        self.boards: set[str] = set()
        self.cursors: dict[UUID, int] = {}
        self.ended: set[UUID] = set()
        self.cut: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._events: deque[tuple[str | None, Item]] = deque()
        self._bytes = 0
        self._latest: dict[tuple[str, str, UUID | None], tuple[str | None, Item]] = {}
        self._changed = asyncio.Event()

    def event(self, item: Item, *, tenant_is_news: bool) -> None:
        """A durable event; only the very next one of a job is taken.

        One that was seen is dropped, and so is one further on: it was read for others before this listener came, whose
        own read is under way and brings everything from its cursor on.
        """
        if item.job_id is None:
            return
        if self.cursors.get(item.job_id) == item.seq - 1:
            self.cursors[item.job_id] = item.seq
            self._queue(job_topic(item.job_id), item)
            if item.terminal:
                self.ended.add(item.job_id)
        if self.whole_tenant and tenant_is_news:
            self._queue("tenant", item)

    def newest(self, topic: str, item: Item) -> None:
        """Something of which only the newest counts: progress, a board, or a preview, left out if there is no room."""
        key = (topic, item.kind, item.job_id)
        _, before = self._latest.get(key, (None, None))
        size = self._bytes + len(item.image or b"") - len((before and before.image) or b"")
        if item.image and size > MAX_BYTES:
            return
        self._bytes = size
        self._latest[key] = (topic, item)
        self._changed.set()

    def say(self, topic: str | None, item: Item) -> None:
        """A snapshot that this listener asked for, or the answer to something it said.

        A whole topic's snapshot takes the place of one that still waits.
        """
        if item.kind == "snapshot" and item.job_id is None:
            for old in [one for one in self._events if one[0] == topic and one[1].kind == "snapshot"]:
                self._events.remove(old)
                self._bytes -= len(old[1].body)
        self._queue(topic, item)

    def kick(self, code: int) -> None:
        """Ends this listener with a close code; the first one counts."""
        if not self.cut.done():
            self.cut.set_result(code)
            self._changed.set()

    @property
    def waiting(self) -> bool:
        """True when `batch` would answer at once."""
        return self._changed.is_set()

    def wake(self) -> None:
        """Lets the listener look again at what it is owed."""
        self._changed.set()

    async def batch(self) -> list[tuple[str | None, Item]]:
        """Waits until there is something, then all of it: what was asked for, the newest values, and ends last."""
        await self._changed.wait()
        self._changed.clear()
        said = list(self._events)
        end = next((at for at, (_, item) in enumerate(said) if item.terminal), len(said))
        found = [*said[:end], *self._latest.values(), *said[end:]]
        self._latest.clear()
        self._events.clear()
        self._bytes = 0
        return found

    def _queue(self, topic: str | None, item: Item) -> None:
        if self.cut.done():
            return
        if len(self._events) >= MAX_EVENTS or self._bytes + len(item.body) > MAX_BYTES:
            self._events.clear()
            self._latest.clear()
            self._bytes = 0
            self.kick(4429)
            return
        self._bytes += len(item.body)
        self._events.append((topic, item))
        self._changed.set()


def job_topic(job_id: UUID) -> str:
    return f"job:{ids.public(ids.JOB, job_id)}"


class Encoder:
    """Messages as text; the last events and progress are kept, because one often goes to a thousand listeners."""

    def __init__(self, keep: int = CACHE_BYTES) -> None:
        """`keep`: bytes of text that may be kept."""
        self._keep = keep
        self._kept = 0
        self._done: dict[tuple[str | None, int], tuple[Item, str]] = {}

    @property
    def kept(self) -> int:
        """Bytes of text that are kept now."""
        return self._kept

    def text(self, topic: str | None, item: Item) -> str:
        key = (topic, id(item))
        if (found := self._done.get(key)) and found[0] is item:
            return found[1]
        head = {"type": item.kind} if topic is None else {"type": item.kind, "topic": topic}
        data = to_json(head)[:-1] + b"," + item.body[1:]
        text = data.decode()
        if item.kind in _SHARED and len(data) <= self._keep:
            self._done[key] = (item, text)
            self._kept += len(data)
            while self._kept > self._keep:
                _, old = self._done.pop(next(iter(self._done)))
                self._kept -= len(old.encode())
        return text
