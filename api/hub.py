"""The event hub: one reader of the live stream in each API process, and Postgres as the only source of events.

A poke in the stream only says "look at this job". Without Redis the hub looks at every followed job each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from api.feed import Encoder, Feed, Item, job_topic
from framewright import events, ids, store
from framewright.database import Database
from framewright.errors import BrokerUnavailable, DatabaseUnavailable
from framewright.events import LiveEntry
from framewright.jobs import StepState
from framewright.rows import EventRow, JobRow
from framewright.settings import Settings

log = logging.getLogger("framewright.hub")

T = TypeVar("T")
LOST_POLL_S = 1.0
"""Without Redis every followed job is looked at this often."""
SAFETY_POLL_S = 5.0
"""With Redis too, because a poke may be lost: an API process can die between a commit and its poke."""
BOARD_S = 2.0
KEYS_S = 5.0
MAX_PROGRESS = 20_000
MAX_KNOWN = 50_000
OVERLAP = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest progress of a job as workers told it."""

    step: str | None
    attempt: int | None
    data: Mapping[str, Any]


@dataclass(slots=True)
class _Shape:
    """How much of a job is done, step by step, so that progress of one step becomes progress of the job."""

    steps: int
    fractions: dict[str, float] = field(default_factory=dict)
    shown: float = 0.0

    def advance(self, step: str | None, fraction: float) -> float:
        """The job's fraction after a step's; it never falls and stays below 1 until the outputs are committed."""
        if step is not None:
            self.fractions[step] = max(fraction, self.fractions.get(step, 0.0))
        self.shown = max(self.shown, min(0.99, sum(self.fractions.values()) / max(1, self.steps)))
        return round(self.shown, 4)


@dataclass(slots=True)
class _Tenant:
    """What has been handed to the listeners of one tenant's topic."""

    since: datetime
    known: OrderedDict[UUID, int]


class EventHub:
    """Hands events, progress and previews to feeds. All methods but the constructor belong to the event loop."""

    def __init__(self, settings: Settings, db: Database, boards: Mapping[str, Callable[[], Any]]) -> None:
        """`boards`: topics that are looked at as a whole (queue, workers), each a function that reads it."""
        self._settings = settings
        self._db = db
        self.boards = boards
        self._pool = ThreadPoolExecutor(4, "hub")
        self._feeds: set[Feed] = set()
        self._by_job: defaultdict[UUID, set[Feed]] = defaultdict(set)
        self._by_tenant: defaultdict[str, set[Feed]] = defaultdict(set)
        self._tenants: dict[str, _Tenant] = {}
        self._progress: OrderedDict[UUID, Latest] = OrderedDict()
        self._shapes: OrderedDict[UUID, _Shape] = OrderedDict()
        self._over: OrderedDict[UUID, None] = OrderedDict()
        self._dirty: set[UUID] = set()
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._shown: dict[str, Item] = {}
        self.encoder = Encoder()
        self.live = False
        self.draining = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        loops = (self._read_stream, self._read_events, self._watch, self._watch_boards, self._watch_keys)
        self._tasks = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    def drain(self) -> None:
        """Ends every listener with 1012, so that it comes back to another process and resumes there."""
        self.draining = True
        for feed in tuple(self._feeds):
            feed.kick(1012)

    async def close(self) -> None:
        self.drain()
        running = set(self._tasks)
        while running:
            # More than once: a client library that is connecting may take a cancellation for its own timeout.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- listeners -----------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return len(self._feeds) >= self._settings.max_sockets

    @property
    def listeners(self) -> int:
        return len(self._feeds)

    @contextlib.contextmanager
    def open(self, feed: Feed) -> Any:
        """Counts the feed in for the length of a `with` block."""
        self._feeds.add(feed)
        if self.draining:
            feed.kick(1012)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            for job_id in tuple(feed.cursors):
                self.unfollow(feed, job_id)
            self.unfollow_tenant(feed)

    def follow(self, feed: Feed, job: JobRow, after: int | None = None) -> None:
        """Events of a job with `seq > after` (or than the row): those that are there already, then those to come."""
        feed.cursors[job.id] = job.event_seq if after is None else after
        feed.ended.discard(job.id)
        if job.ended and feed.cursors[job.id] >= job.event_seq:
            feed.ended.add(job.id)
            feed.wake()
        self._by_job[job.id].add(feed)
        self._learn(job)
        if (latest := self._progress.get(job.id)) and not job.ended:
            feed.newest(job_topic(job.id), self._progress_item(job.id, latest))
        self._mark((job.id,))

    def unfollow(self, feed: Feed, job_id: UUID) -> None:
        feed.cursors.pop(job_id, None)
        feed.ended.discard(job_id)
        self._by_job[job_id].discard(feed)
        if not self._by_job[job_id]:
            del self._by_job[job_id]

    def follow_tenant(self, feed: Feed) -> None:
        """Events of every job of the feed's tenant from now on."""
        feed.whole_tenant = True
        self._by_tenant[feed.tenant_id].add(feed)
        self._tenants.setdefault(feed.tenant_id, _Tenant(datetime.now(UTC), OrderedDict()))

    def know(self, tenant_id: str, jobs: Iterable[JobRow]) -> None:
        """A snapshot tells events up to these rows, so they are not news to the tenant's listeners."""
        for job in jobs:
            self._learn(job)
            if tenant := self._tenants.get(tenant_id):
                tenant.known.setdefault(job.id, job.event_seq)

    def _learn(self, job: JobRow) -> None:
        shape = self._shape(job.id, len(job.steps), learned=True)
        for step in job.steps:
            done = step.state is StepState.SUCCEEDED
            shape.advance(step.name, 1.0 if done else float((step.progress or {}).get("fraction") or 0.0))

    def _shape(self, job_id: UUID, steps: int, *, learned: bool = False) -> _Shape:
        shape = self._shapes.get(job_id)
        # Progress may come before anybody knows how many steps there are; a guess goes once they are learned.
        if shape is None or (learned and shape.steps != steps):
            shape = self._shapes[job_id] = _Shape(steps)
            if len(self._shapes) > MAX_PROGRESS:
                self._shapes.popitem(last=False)
        return shape

    def unfollow_tenant(self, feed: Feed) -> None:
        feed.whole_tenant = False
        self._by_tenant[feed.tenant_id].discard(feed)
        if not self._by_tenant[feed.tenant_id]:
            del self._by_tenant[feed.tenant_id]
            self._tenants.pop(feed.tenant_id, None)

    async def lost(self, jobs: Sequence[JobRow], after: Mapping[UUID, int]) -> set[UUID]:
        """Which of these ended jobs can no longer be replayed from there: retention has removed their events."""
        wanted = {job.id: after[job.id] for job in jobs if after[job.id] < job.event_seq}
        if not wanted:
            return set()
        rows = await self.in_thread(store.events_after, self._db, wanted)
        there = {(row.job_id, row.seq) for row in rows}
        return {job_id for job_id, seq in wanted.items() if (job_id, seq + 1) not in there}

    def latest(self, job_id: UUID) -> Latest | None:
        """The newest progress, if this process has heard of any."""
        return self._progress.get(job_id)

    async def ended(self, feed: Feed, job_id: UUID) -> None:
        """Returns when the followed job has ended or the feed was cut."""
        while job_id not in feed.ended and not feed.cut.done():
            await feed.batch()

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Runs a blocking read on the hub's own threads, which requests cannot use up."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

    # -- loops ---------------------------------------------------------------------------------------------------

    async def _read_stream(self) -> None:
        position: str | None = None
        while True:
            try:
                async for entry in events.read_live(
                    self._settings, position, connected=self._connected, previews=self._wants_preview
                ):
                    position = entry.id
                    self._take(entry)
            except BrokerUnavailable as error:
                if self.live:
                    log.warning("live events come from Postgres for now: %s", error.detail)
            except Exception:
                log.exception("the live stream cannot be read")
            self.live = False
            await asyncio.sleep(LOST_POLL_S)

    def _connected(self, _position: str) -> None:
        self.live = True
        self._mark(self._by_job)

    async def _read_events(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            after = {job_id: seq for job_id in self._dirty if (seq := self._handed(job_id)) is not None}
            self._dirty.clear()
            if not after:
                continue
            rows = await self._attempt(store.events_after, self._db, after)
            for row in rows or ():
                self._hand_out(row)
            if rows is None:
                self._dirty.update(after)
                await asyncio.sleep(LOST_POLL_S)
                self._look.set()

    async def _watch(self) -> None:
        waited = 0.0
        while True:
            await asyncio.sleep(LOST_POLL_S)
            waited += LOST_POLL_S
            if self.live and waited < SAFETY_POLL_S:
                continue
            waited = 0.0
            self._mark(self._by_job)
            for tenant_id, tenant in tuple(self._tenants.items()):
                rows = await self._attempt(store.events_since, self._db, tenant_id, tenant.since - OVERLAP)
                if rows is None:
                    break
                tenant.since = max([tenant.since, *(row.at for row in rows)])
                self._mark({row.job_id for row in rows if row.seq > tenant.known.get(row.job_id, 0)}, tenant_id)

    async def _watch_boards(self) -> None:
        while True:
            await asyncio.sleep(BOARD_S)
            for topic in {topic for feed in self._feeds for topic in feed.boards}:
                data = await self._attempt(self.boards[topic])
                if data is not None:
                    self._show(topic, data)

    async def show(self, topic: str) -> Item:
        """A board as it is now; its listeners are told when it has changed."""
        return self._show(topic, await self.in_thread(self.boards[topic]))

    def _show(self, topic: str, data: Any) -> Item:
        shown = self._shown.get(topic)
        if shown is None or shown.fields["data"] != data:
            shown = self._shown[topic] = Item("snapshot", None, 0, {"data": data})
            for feed in self._feeds:
                if topic in feed.boards:
                    feed.newest(topic, shown)
        return shown

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_S)
            held = {feed.key_id for feed in self._feeds}
            if not held:
                continue
            good = await self._attempt(store.live_keys, self._db, sorted(held))
            if good is None:
                continue
            for feed in tuple(self._feeds):
                if feed.key_id in held and feed.key_id not in good:
                    feed.kick(4401)

    async def _attempt(self, read: Callable[..., T], *args: Any) -> T | None:
        """A read whose failure must not end a loop: None, and the reason in the log."""
        try:
            return await self.in_thread(read, *args)
        except DatabaseUnavailable as error:
            log.warning("events wait for Postgres: %s", error.detail)
        except Exception:
            log.exception("events cannot be read")
        return None

    # -- fan-out -------------------------------------------------------------------------------------------------

    def _mark(self, jobs: Iterable[UUID], tenant_id: str | None = None) -> None:
        self._dirty.update(jobs)
        for job_id in jobs if tenant_id in self._tenants else ():
            self._tenants[tenant_id].known.setdefault(job_id, 0)  # type: ignore[index]
        if self._dirty:
            self._look.set()

    def _handed(self, job_id: UUID) -> int | None:
        """The seq up to which everyone who follows the job has been told; None when nobody follows it."""
        told = [feed.cursors[job_id] for feed in self._by_job.get(job_id, ())]
        told += [tenant.known[job_id] for tenant in self._tenants.values() if job_id in tenant.known]
        return min(told, default=None)

    def _take(self, entry: LiveEntry) -> None:
        if entry.type == "poke":
            if entry.job_id in self._by_job or entry.tenant_id in self._tenants:
                self._mark((entry.job_id,), entry.tenant_id)
            return
        if entry.job_id in self._over:
            return  # the worker has not heard yet that the job was canceled
        if entry.type == "progress":
            latest = Latest(entry.step, entry.attempt, entry.data)
            self._progress[entry.job_id] = latest
            self._progress.move_to_end(entry.job_id)
            if len(self._progress) > MAX_PROGRESS:
                self._progress.popitem(last=False)
            item = self._progress_item(entry.job_id, latest)
        else:
            fields = {"seq": entry.seq, "step": entry.step, **entry.data}
            item = Item("preview", entry.job_id, entry.seq, fields, entry.image)
        for feed in self._by_job.get(entry.job_id, ()):
            if item.kind == "progress" or feed.previews:
                feed.newest(job_topic(entry.job_id), item)
        for feed in self._by_tenant.get(entry.tenant_id, ()) if item.kind == "progress" else ():
            feed.newest("tenant", item)

    def _progress_item(self, job_id: UUID, latest: Latest) -> Item:
        step_fraction = float(latest.data.get("fraction") or 0.0)
        fraction = self._shape(job_id, 1).advance(latest.step, step_fraction)
        data = {**latest.data, "fraction": fraction, "step_name": latest.step, "attempt": latest.attempt}
        return Item("progress", job_id, 0, {"job": ids.public(ids.JOB, job_id), "data": data})

    def _wants_preview(self, job_id: UUID) -> bool:
        return any(feed.previews for feed in self._by_job.get(job_id, ()))

    def _hand_out(self, row: EventRow) -> None:
        tenant = self._tenants.get(row.tenant_id)
        news = tenant is not None and row.job_id in tenant.known and row.seq > tenant.known[row.job_id]
        if news and tenant:
            tenant.known[row.job_id] = row.seq
            if len(tenant.known) > MAX_KNOWN:
                tenant.known.popitem(last=False)
        item = event_item(row)
        if row.type == "queued":
            self._shape(row.job_id, int(row.data.get("steps") or 1), learned=True)
        elif row.type == "step_succeeded" and row.job_id in self._shapes:
            self._shapes[row.job_id].advance(row.data.get("name"), 1.0)
        elif item.terminal:
            self._progress.pop(row.job_id, None)
            self._shapes.pop(row.job_id, None)
            self._over[row.job_id] = None
            if len(self._over) > MAX_PROGRESS:
                self._over.popitem(last=False)
        for feed in self._by_job.get(row.job_id, set()) | self._by_tenant.get(row.tenant_id, set()):
            feed.event(item, tenant_is_news=news)


def event_item(row: EventRow) -> Item:
    """A durable event as listeners get it."""
    fields = {
        "job": ids.public(ids.JOB, row.job_id),
        "seq": row.seq,
        "event": row.type,
        "at": row.at,
        "data": row.data,
    }
    return Item("event", row.job_id, row.seq, fields)


def final_item(job: JobRow) -> Item:
    """The last event of an ended job whose log retention has removed."""
    fields = {
        "job": ids.public(ids.JOB, job.id),
        "seq": job.event_seq,
        "event": str(job.state),
        "at": job.finished_at,
        "data": {},
    }
    return Item("event", job.id, job.event_seq, fields)
