"""What one listener is owed: state events in order and without a gap, and the newest progress of each job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from framewright import ids
from framewright.jobs import TERMINAL_EVENTS

MAX_EVENTS = 2000
"""State events waiting for one listener; one that lets more pile up is cut off and resumes by `seq`."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One message for listeners: `fields` without a topic, encoded at most once per topic however many listen."""

    kind: str
    job_id: UUID | None
    seq: int
    fields: Mapping[str, Any]
    image: bytes | None = None

    @property
    def terminal(self) -> bool:
        return self.kind == "event" and self.fields["event"] in TERMINAL_EVENTS


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
        self._latest: dict[tuple[str, str, UUID | None], tuple[str | None, Item]] = {}
        self._changed = asyncio.Event()

    def event(self, item: Item, *, tenant_is_news: bool) -> None:
        """A durable event; one that this listener has seen is dropped."""
        if item.job_id is None:
            return
        if self.cursors.get(item.job_id, item.seq) < item.seq:
            self.cursors[item.job_id] = item.seq
            self._queue(job_topic(item.job_id), item)
            if item.terminal:
                self.ended.add(item.job_id)
        if self.whole_tenant and tenant_is_news:
            self._queue("tenant", item)

    def newest(self, topic: str, item: Item) -> None:
        """Something of which only the newest counts: progress, a preview, a board."""
        self._latest[topic, item.kind, item.job_id] = (topic, item)
        self._changed.set()

    def say(self, topic: str | None, item: Item) -> None:
        """A snapshot that this listener asked for, or the answer to something it said."""
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
        """Waits until there is something, then all of it: newest values first, so that an end comes last."""
        await self._changed.wait()
        self._changed.clear()
        found = [*self._latest.values(), *self._events]
        self._latest.clear()
        self._events.clear()
        return found

    def _queue(self, topic: str | None, item: Item) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._events.clear()
            self.kick(4429)
            return
        self._events.append((topic, item))
        self._changed.set()


def job_topic(job_id: UUID) -> str:
    return f"job:{ids.public(ids.JOB, job_id)}"


class Encoder:
    """Messages as text; the last few are kept, because one event often goes to a thousand listeners."""

    def __init__(self, keep: int = 256) -> None:
        self._keep = keep
        self._done: dict[tuple[str | None, int], tuple[Item, str]] = {}

    def text(self, topic: str | None, item: Item) -> str:
        key = (topic, id(item))
        if (found := self._done.get(key)) and found[0] is item:
            return found[1]
        head = {"type": item.kind} if topic is None else {"type": item.kind, "topic": topic}
        text = to_json({**head, **item.fields}).decode()
        if len(self._done) >= self._keep:
            del self._done[next(iter(self._done))]
        self._done[key] = (item, text)
        return text
