"""The reader of live entries: one per API process, it feeds the hub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import redis.asyncio
from redis.exceptions import RedisError

from framewright.errors import BrokerUnavailable
from framewright.events import wire
from framewright.events.wire import LiveEntry
from framewright.redis_options import SOCKET_TIMEOUT_S, redis_options
from framewright.settings import Settings

BLOCK_MS: Final = 1000
"""Redis answers an empty read this often; one that is silent for `SOCKET_TIMEOUT_S` longer hangs."""
BATCH: Final = 512


def _every(_: UUID) -> bool:
    return True


async def read_live(
    settings: Settings,
    last_id: str | None = None,
    *,
    connected: Callable[[str], None] | None = None,
    previews: Callable[[UUID], bool] = _every,
) -> AsyncIterator[LiveEntry]:
    """Every entry after `last_id` (None: from now on) until Redis dies or hangs, which is `BrokerUnavailable` in 3 s.

    `connected` hears the position once it is fixed: what was committed before may have no entry, so look it up then.
    A stream that was lost is read from its new beginning. Previews are fetched only for jobs that `previews` wants.
    """
    client = _client(settings, socket_timeout=BLOCK_MS / 1000 + SOCKET_TIMEOUT_S)
    stream = wire.stream_key(settings)
    try:
        position = await _position(client, stream, last_id)
        if connected is not None:
            connected(position.decode())
        while True:
            reply = await client.xread({stream: position}, count=BATCH, block=BLOCK_MS)
            if not reply:
                continue
            found = reply[0][1]
            position = found[-1][0]
            entries = [entry for id_, fields in found if (entry := wire.decode(id_, fields.get(wire.FIELD)))]
            pictures = await _pictures(client, settings, {e.job_id for e in entries if e.type == "preview"}, previews)
            for entry in entries:
                if entry.type != "preview":
                    yield entry
                elif picture := pictures.pop(entry.job_id, None):
                    yield _with_picture(entry, *picture)
    except (RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis does not answer: {type(error).__name__}", retry_after_s=1) from error
    finally:
        await client.aclose()


async def last_preview(settings: Settings, job_id: UUID) -> tuple[bytes, dict[str, Any]] | None:
    """The newest preview of a job, no older than a minute, with `mime`, `w`, `h`; None when there is none."""
    client = _client(settings)
    try:
        packed = wire.unpack_preview(await client.get(wire.preview_key(settings, job_id)))
    except (RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis does not answer: {type(error).__name__}", retry_after_s=1) from error
    finally:
        await client.aclose()
    return None if packed is None else (packed[0], dict(packed[1].get("data") or {}))


def _client(settings: Settings, **changes: Any) -> Any:
    return redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value(), **redis_options("reader", **changes))


async def _position(client: Any, stream: str, last_id: str | None) -> bytes:
    newest = await client.xrevrange(stream, count=1)
    end: bytes = newest[0][0] if newest else b"0-0"
    if last_id is None:
        return end
    return last_id.encode() if _order(last_id.encode()) <= _order(end) else b"0-0"


def _order(entry_id: bytes) -> tuple[int, int]:
    stamp, _, number = entry_id.partition(b"-")
    return int(stamp), int(number or 0)


async def _pictures(
    client: Any, settings: Settings, jobs: Iterable[UUID], wanted: Callable[[UUID], bool]
) -> dict[UUID, tuple[bytes, dict[str, Any]]]:
    asked = [job_id for job_id in jobs if wanted(job_id)]
    if not asked:
        return {}
    packed = await client.mget([wire.preview_key(settings, job_id) for job_id in asked])
    return {job: found for job, raw in zip(asked, packed, strict=True) if (found := wire.unpack_preview(raw))}


def _with_picture(entry: LiveEntry, image: bytes, header: dict[str, Any]) -> LiveEntry:
    return replace(
        entry,
        seq=int(header.get("seq", entry.seq)),
        step=header.get("step"),
        attempt=header.get("attempt"),
        data=dict(header.get("data") or {}),
        image=image,
    )
