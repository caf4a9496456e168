"""The gate in front of every route: request ids, body caps before parsing, strict JSON, and one place for surprises.

Pure ASGI. A JSON body is read and checked here once and left in the scope, so no route sees a body that it must fear.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import auth, strict
from api.problems import Problems, problem, request_id, route_of
from api.spool import AS_BYTES, ASSETS
from framewright.errors import BadRequest, BodyTooLarge, FramewrightError, UnsupportedMedia
from framewright.ids import uuid7

log = logging.getLogger("framewright.api")

JSON = "framewright.json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS"})
# A client that is still writing does not read: what it sends past the cap is thrown away up to here, then cut off.
_DISCARD_BYTES = 256 * 2**20
_DISCARD_S = 15.0
_BODY_S = 30.0
KEYED = "/api/"
"""Below this nobody without a key learns more than that, be the path known or not; but for what is public."""
# Above this many bytes, reading JSON would hold up everyone else.
_THREAD_BYTES = 16 * 1024


class _BodyLate(Exception):
    """The body did not come in time."""


class Gate:
    """Checks what comes in, names the request, records how it ended."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        problems: Problems,
        max_json: Callable[[], int],
        raw_routes: frozenset[tuple[str, str]],
        either_routes: frozenset[tuple[str, str]] = frozenset(),
        record: Callable[[str, str, int, float], None],
        body_s: float = _BODY_S,
    ) -> None:
        """`max_json()` is in bytes and asked at each request; `raw_routes` (method, path) read their own body,
        `either_routes` theirs unless it is announced as JSON.

        `record(method, route, status, seconds)` hears of every answer; a JSON body may take `body_s` seconds to come.
        """
        self._app = app
        self._problems = problems
        self._limit = max_json
        self._raw_routes = raw_routes
        self._either_routes = either_routes
        self._record = record
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        scope["framewright.request_id"] = _named(headers.get(b"x-request-id", b""))
        answer = _Answer(scope, send)
        started = time.perf_counter()
        try:
            _check_target(scope)
            if scope["method"] not in _BODYLESS:
                if scope["path"].startswith(KEYED):
                    auth.check_shape(headers.get(b"authorization", b"").decode("latin-1"))
                if not self._reads_itself(scope, headers):
                    receive = await self._read_json(scope, headers, receive)
            await self._app(scope, receive, answer.send)
        except FramewrightError as error:
            if answer.status is None:
                await self._problems.answer(error, scope)(scope, receive, answer.send)
        except _BodyLate:
            # Whatever still comes is not worth waiting for.
            late = problem(
                408,
                "request_timeout",
                f"the body did not come within {self._body_s:g} s",
                scope,
                retryable=True,
                headers={"Connection": "close"},
            )
            await late(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("request %s: the client left", request_id(scope))
        except Exception:
            log.exception("request %s failed", request_id(scope))
            if answer.status is not None:
                raise
            failure = problem(
                500, "internal_error", "something went wrong here; the request id names it in the log", scope
            )
            await failure(scope, receive, answer.send)
        finally:
            took_s = time.perf_counter() - started
            self._record(scope["method"], route_of(scope) or "unmatched", answer.status or 499, took_s)
        return None

    def _reads_itself(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        route = (scope["method"], scope["path"])
        return route in self._raw_routes or (route in self._either_routes and not _is_json(headers))

    async def _read_json(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        limit = self._limit()
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > limit:
            if headers.get(b"expect", b"").lower() != b"100-continue":
                await _discard(receive)
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._body_s):
                body, more = await _read(receive, limit)
        except TimeoutError:
            raise _BodyLate from None
        if len(body) > limit:
            await _discard(receive, more=more)
            raise _too_large(limit)
        if body:
            _check_type(scope, headers)
            large = len(body) > _THREAD_BYTES
            scope[JSON] = await run_in_threadpool(strict.loads, body) if large else strict.loads(body)
        return _replay(body, receive)


async def _read(receive: Receive, limit: int) -> tuple[bytes, bool]:
    """The body, or its beginning when it is over the limit, and whether there is more."""
    body = bytearray()
    more = True
    while more and len(body) <= limit:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("the request ended before its body did")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body), more


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"a JSON body may be {limit // 1024} KiB at most")


class _Answer:
    """Sends on, adds the headers every answer has, and remembers the status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = request_id(self._scope)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _named(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else f"req_{uuid7().hex}"


def _check_target(scope: Scope) -> None:
    if "\x00" in scope["path"] or b"%00" in scope["query_string"] or b"\x00" in scope["query_string"]:
        raise BadRequest("the path or the query holds NUL")


def _check_type(scope: Scope, headers: dict[bytes, bytes]) -> None:
    kind = _type(headers)
    if not _is_json(headers):
        if scope["path"] == ASSETS:
            raise UnsupportedMedia(AS_BYTES)
        form = kind == b"multipart/form-data"
        raise UnsupportedMedia("send this body as application/json" + (f"; {AS_BYTES}" if form else ""))
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("send this body without a content encoding")


def _type(headers: dict[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").split(b";")[0].strip().lower()


def _is_json(headers: dict[bytes, bytes]) -> bool:
    kind = _type(headers)
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


async def _discard(receive: Receive, *, more: bool = True) -> None:
    left = _DISCARD_BYTES
    try:
        async with asyncio.timeout(_DISCARD_S):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return dict(await receive())
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
