"""What one socket follows: jobs, the whole tenant, the boards of queues and workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from api.auth import Caller
from api.feed import Feed, Item, job_topic
from api.hub import event_item
from api.messages import Subscribe, Unsubscribe
from api.parts import Parts
from framewright import ids, store
from framewright.database import Database
from framewright.errors import NotFound
from framewright.jobs import Status
from framewright.rows import EventRow, JobRow

MAX_JOBS = 2000
OPEN_JOBS = 100
TENANT = "tenant"
BOARD_SCOPE = "ops:read"
FIRST_YEAR, LAST_YEAR = 1970, 9998
# Events of one tenant commit in no order across jobs; looking back this far finds those that were late.
LATE = timedelta(seconds=5)


class UnknownTopic(Exception):
    """No such topic, or a job that this tenant does not have."""


class BadMoment(Exception):
    """A time to resume from that no event can have."""


class MissingScope(Exception):
    """The key lacks the scope of a topic."""


class TooManyTopics(Exception):
    """The socket follows as many jobs as it may."""


class Subscriptions:
    """Adds to and takes from one feed. A job's events are exact; the tenant's may repeat around a reconnect."""

    def __init__(self, parts: Parts, who: Caller, feed: Feed) -> None:
        self._parts, self._who, self._feed = parts, who, feed
        self._hub = parts.hub
        self._keep_open = False

    @property
    def over(self) -> bool:
        """True when nothing more can come: every topic is a job and every job has ended."""
        feed = self._feed
        open_ended = self._keep_open or feed.whole_tenant or feed.boards
        return not open_ended and bool(feed.cursors) and feed.ended.issuperset(feed.cursors)

    async def add(self, wanted: Subscribe) -> None:
        """Snapshots or replays of the topics are queued on the feed, then what is to come."""
        since = _moment(wanted.after.get(TENANT))
        jobs, boards = self._sort(wanted.topics)
        if boards and not self._who.may(BOARD_SCOPE):
            raise MissingScope(BOARD_SCOPE)
        if len(self._feed.cursors.keys() | jobs.keys()) > MAX_JOBS:
            raise TooManyTopics
        db, tenant_id = self._parts.db, self._who.tenant_id
        rows = await self._hub.in_thread(store.get_jobs, db, tenant_id, list(jobs)) if jobs else []
        if len(rows) < len(jobs):
            raise UnknownTopic
        self._keep_open |= wanted.keep_open
        self._feed.previews |= wanted.previews
        self._feed.say(None, Item("subscribed", None, 0, {"id": wanted.id, "topics": wanted.topics}))
        await self._follow(rows, {row.id: _seq(wanted.after.get(jobs[row.id])) for row in rows})
        if TENANT in wanted.topics:
            await self._follow_tenant(since)
        for topic in boards:
            self._feed.boards.add(topic)
            self._feed.say(topic, await self._hub.show(topic))

    def remove(self, wanted: Unsubscribe) -> None:
        jobs, boards = self._sort(wanted.topics)
        for job_id in jobs:
            self._hub.unfollow(self._feed, job_id)
        if TENANT in wanted.topics:
            self._hub.unfollow_tenant(self._feed)
        self._feed.boards -= boards

    def _sort(self, topics: Sequence[str]) -> tuple[dict[UUID, str], set[str]]:
        jobs: dict[UUID, str] = {}
        boards: set[str] = set()
        for topic in topics:
            kind, _, name = topic.partition(":")
            if kind == "job":
                try:
                    jobs[ids.parse(ids.JOB, name)] = topic
                except NotFound:
                    raise UnknownTopic from None
            elif topic in self._hub.boards:
                boards.add(topic)
            elif topic != TENANT:
                raise UnknownTopic
        return jobs, boards

    async def _follow(self, rows: Sequence[JobRow], after: Mapping[UUID, int | None]) -> None:
        wanted = {row.id: seq for row in rows if (seq := after[row.id]) is not None and seq <= row.event_seq}
        lost = await self._hub.lost([row for row in rows if row.ended and row.id in wanted], wanted)
        for row in rows:
            replay = row.id in wanted and row.id not in lost
            if not replay:
                view = self._parts.views.job(row, self._hub.latest(row.id)).short()
                fields = {"seq": row.event_seq, "data": view}
                self._feed.say(job_topic(row.id), Item("snapshot", row.id, row.event_seq, fields))
            self._hub.follow(self._feed, row, wanted[row.id] if replay else None)

    async def _follow_tenant(self, since: datetime | None) -> None:
        self._hub.follow_tenant(self._feed)
        at = datetime.now(UTC)
        db, tenant_id = self._parts.db, self._who.tenant_id
        if since is not None:
            missed = await self._hub.in_thread(_missed, db, tenant_id, since - LATE)
            if missed is not None:
                for row in missed:
                    self._feed.say(TENANT, event_item(row))
                return
        jobs = await self._hub.in_thread(_open_jobs, db, tenant_id)
        self._hub.know(tenant_id, jobs)
        data = [self._parts.views.job(row, self._hub.latest(row.id)).short() for row in jobs]
        self._feed.say(TENANT, Item("snapshot", None, 0, {"at": at, "data": data}))


def _seq(after: int | str | None) -> int | None:
    return after if isinstance(after, int) else None


def _moment(after: int | str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(after))
    except ValueError:
        return None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise BadMoment
    return found if found.tzinfo else None


def _missed(db: Database, tenant_id: str, since: datetime) -> list[EventRow] | None:
    """The events since a moment; None when there are too many, or too old, to be worth a replay."""
    rows = store.events_since(db, tenant_id, since, limit=1000)
    return rows if len(rows) < 1000 else None


def _open_jobs(db: Database, tenant_id: str) -> list[JobRow]:
    found: list[JobRow] = []
    for status in (Status.RUNNING, Status.QUEUED, Status.WAITING, Status.SCHEDULED):
        found += store.list_jobs(db, tenant_id, status=status, limit=OPEN_JOBS)[0]
    newest = sorted(found, key=lambda row: row.id, reverse=True)
    return newest[:OPEN_JOBS]
