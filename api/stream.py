"""Server-sent events for one job, raced against the client's leaving and against a client that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.feed import Feed, Item, job_topic
from api.hub import EventHub, final_item
from framewright.rows import JobRow

HEARTBEAT_S = 15.0
SEND_S = 30.0
"""A client that takes nothing for this long is let go; it resumes by `Last-Event-ID`."""


class EventStream(Response):
    """Every event with `seq > after`, then those to come, then the end of the stream after the terminal event."""

    media_type = "text/event-stream"

    def __init__(self, hub: EventHub, feed: Feed, job: JobRow, after: int) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub, self._feed, self._job, self._after = hub, feed, job, after

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writer = asyncio.create_task(self._write(send))
        reader = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        with self._hub.open(self._feed):
            await self._follow()
            async for chunk in self._chunks():
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self) -> None:
        job = self._job
        if job.ended and await self._hub.lost([job], {job.id: self._after}):
            self._feed.say(job_topic(job.id), final_item(job))
        else:
            self._hub.follow(self._feed, job, self._after)

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        while not self._feed.cut.done():
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    found = await self._feed.batch()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            for _topic, item in found:
                yield _frame(item)
                if item.terminal:
                    return


def _frame(item: Item) -> bytes:
    if item.kind == "event":
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (item.seq, str(item.fields["event"]).encode(), to_json(item.fields))
    return b"event: %s\ndata: %s\n\n" % (item.kind.encode(), to_json(item.fields))


async def _left(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def nothing_left(job: JobRow, after: int) -> bool:
    """True when the job has ended and the client has seen its last event."""
    return job.ended and after >= job.event_seq
