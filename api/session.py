"""One socket: who it is, what it says, and a reader raced against a writer until one of them ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from starlette.websockets import WebSocket, WebSocketDisconnect

import framewright
from api import messages
from api.auth import Caller
from api.feed import Feed, Item
from api.messages import Auth, Message, Subscribe, Unsubscribe
from api.parts import Parts
from api.subscriptions import BadMoment, MissingScope, Subscriptions, TooManyTopics, UnknownTopic
from framewright import store
from framewright.errors import BadRequest, DatabaseUnavailable, InvalidParams

log = logging.getLogger("framewright.socket")

MAX_MESSAGE = 64 * 1024
AUTH_S = 5.0
SEND_S = 10.0
"""A client that takes nothing for this long is too slow."""
CLOSE_S = 5.0
BURST = 60
PER_S = 20.0
"""Messages a client may send: bursts of 60, 20 a second in the long run."""
SCOPE = "jobs:read"


class Hangup(Exception):
    """Ends the session with a close code and a short reason."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Session:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, parts: Parts, ticket: str | None) -> None:
        self._socket = socket
        self._parts = parts
        self._hub = parts.hub
        self._ticket = ticket
        self._allowance = float(BURST)
        self._counted_at = time.monotonic()

    async def run(self) -> None:
        """Until the client leaves or there is a reason to hang up."""
        try:
            await self._converse()
        except Hangup as end:
            log.debug("socket closed: %d %s", end.code, end.reason)
            await self._close(end.code, end.reason)
        except WebSocketDisconnect:
            log.debug("a client left")
        except Exception:
            log.exception("a socket failed")
            await self._close(1011, "something went wrong here")

    async def _close(self, code: int, reason: str) -> None:
        # A client that does not read does not read the close either; the server drops it in the end.
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, reason)

    async def _converse(self) -> None:
        if self._hub.draining:
            raise Hangup(1001, "this process is ending")
        if self._hub.full:
            raise Hangup(1013, "no more sockets here now")
        who = await self._authenticate()
        feed = Feed(who.tenant_id, who.key_id)
        subscriptions = Subscriptions(self._parts, who, feed)
        with self._hub.open(feed):
            feed.say(None, _welcome(who))
            try:
                async with asyncio.TaskGroup() as sides:
                    sides.create_task(self._read(feed, subscriptions))
                    sides.create_task(self._write(feed, subscriptions))
                    sides.create_task(_wait_for_cut(feed))
            except BaseExceptionGroup as ends:
                raise _reason(ends.exceptions) from None

    # -- who -----------------------------------------------------------------------------------------------------

    async def _authenticate(self) -> Caller:
        digest = hashlib.sha256((self._ticket or await self._first_message()).encode("utf-8", "replace")).digest()
        try:
            row = await self._hub.in_thread(store.redeem_ticket, self._parts.db, digest)
        except DatabaseUnavailable:
            raise Hangup(1013, "the database does not answer") from None
        if row is None:
            raise Hangup(4401, "this ticket is unknown, used or expired")
        who = Caller(row.tenant_id, row.key_id, row.scopes, row.key_expires_at)
        if not who.may(SCOPE):
            raise Hangup(4403, f"the key behind this ticket lacks the scope {SCOPE}")
        return who

    async def _first_message(self) -> str:
        try:
            async with asyncio.timeout(AUTH_S):
                message = await self._receive()
        except TimeoutError:
            raise Hangup(4408, "send a ticket within 5 seconds") from None
        if not isinstance(message, Auth):
            raise Hangup(4401, "the first message must bring a ticket")
        return message.ticket

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, feed: Feed, subscriptions: Subscriptions) -> None:
        while True:
            message = await self._receive()
            self._count()
            if isinstance(message, Auth):
                raise Hangup(4400, "this socket has been authenticated")
            if isinstance(message, Subscribe):
                await self._subscribe(feed, subscriptions, message)
            elif isinstance(message, Unsubscribe):
                subscriptions.remove(message)
                feed.say(None, _reply("unsubscribed", message.id, topics=message.topics))
            else:
                feed.say(None, _reply("pong", message.id))

    async def _subscribe(self, feed: Feed, subscriptions: Subscriptions, message: Subscribe) -> None:
        try:
            await subscriptions.add(message)
        except UnknownTopic:
            raise Hangup(4404, "no such topic") from None
        except BadMoment:
            raise Hangup(4400, "/after/tenant: a time between the years 1970 and 9998") from None
        except MissingScope as missing:
            raise Hangup(4403, f"the key behind this ticket lacks the scope {missing}") from None
        except TooManyTopics:
            detail = "this socket follows as many jobs as it may"
            feed.say(None, _reply("error", message.id, code="too_many_topics", detail=detail))
        except DatabaseUnavailable as error:
            feed.say(None, _reply("error", message.id, code=error.code, detail=error.detail))

    async def _receive(self) -> Message:
        raw = await self._socket.receive()
        if raw["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(raw.get("code", 1005))
        text = raw.get("text")
        if text is None:
            raise Hangup(4400, "send JSON as text")
        if len(text) > MAX_MESSAGE:
            raise Hangup(4413, "a message may be 64 KiB at most")
        try:
            return messages.parse(text)
        except (BadRequest, InvalidParams) as error:
            raise Hangup(4400, messages.reason(error)) from None

    def _count(self) -> None:
        now = time.monotonic()
        self._allowance = min(float(BURST), self._allowance + (now - self._counted_at) * PER_S) - 1
        self._counted_at = now
        if self._allowance < 0:
            raise Hangup(4429, "too many messages")

    # -- writing -------------------------------------------------------------------------------------------------

    async def _write(self, feed: Feed, subscriptions: Subscriptions) -> None:
        while True:
            for topic, item in await feed.batch():
                await self._send_item(topic, item)
            if subscriptions.over and not feed.waiting:
                raise Hangup(1000, "every job has ended")

    async def _send_item(self, topic: str | None, item: Item) -> None:
        if item.image is None:
            await self._deliver({"type": "websocket.send", "text": self._hub.encoder.text(topic, item)})
        else:
            head = to_json({"topic": topic, **item.fields})
            await self._deliver({"type": "websocket.send", "bytes": len(head).to_bytes(4) + head + item.image})

    async def _deliver(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send(message)
        except TimeoutError:
            raise Hangup(4429, "too slow") from None


async def _wait_for_cut(feed: Feed) -> None:
    code = await feed.cut
    raise Hangup(code, {4429: "too slow", 4401: "the key was revoked", 1012: "restarting"}.get(code, ""))


def _reason(ends: Iterable[BaseException]) -> BaseException:
    """Why a session ended: our own reason, else that the client left, else what went wrong."""
    found = list(ends)
    for kind in (Hangup, WebSocketDisconnect):
        for end in found:
            if isinstance(end, kind):
                return end
    return found[0]


def _welcome(who: Caller) -> Item:
    now = datetime.now(UTC)
    hello = {"build": framewright.__version__, "server_time": now, "session_expires_at": who.expires_at}
    return Item("welcome", None, 0, hello)


def _reply(kind: str, message_id: int | str | None, **fields: Any) -> Item:
    return Item(kind, None, 0, {"id": message_id, **fields})
