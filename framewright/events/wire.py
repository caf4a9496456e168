"""What live entries look like in Redis, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from uuid import UUID

from framewright.settings import Settings

EntryType = Literal["poke", "progress", "preview"]

MAX_ENTRIES: Final = 20_000
"""The stream is cut to about this many entries: minutes of a busy system, some MB."""
PREVIEW_TTL_S: Final = 60
FIELD: Final = b"e"


@dataclass(frozen=True, slots=True)
class LiveEntry:
    """One entry of the stream.

    `seq` is the job's newest durable event for a poke, and for a preview a number that grows (ms since 1970).
    `data` is a `Progress` snapshot as JSON, or `mime`, `w`, `h` of a preview whose bytes are `image`.
    """

    id: str
    type: EntryType
    job_id: UUID
    tenant_id: str
    seq: int = 0
    step: str | None = None
    attempt: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    image: bytes | None = None


def stream_key(settings: Settings) -> str:
    return f"{settings.redis_prefix}live"


def hint_channel(settings: Settings) -> str:
    return f"{settings.redis_prefix}hint"


def preview_key(settings: Settings, job_id: UUID) -> str:
    return f"{settings.redis_prefix}preview:{job_id.hex}"


def encode(fields: Mapping[str, Any]) -> bytes:
    """Fields as JSON; NaN and unknown types are `ValueError` or `TypeError`, because browsers could not read them."""
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def decode(entry_id: bytes, raw: bytes | None) -> LiveEntry | None:
    """The entry, or None for anything that this version does not understand."""
    try:
        fields = json.loads(raw or b"")
        kind = fields["t"]
        if kind not in {"poke", "progress", "preview"}:
            return None
        return LiveEntry(
            id=entry_id.decode(),
            type=cast("EntryType", kind),
            job_id=UUID(hex=fields["job"]),
            tenant_id=str(fields["tenant"]),
            seq=int(fields.get("seq", 0)),
            step=fields.get("step"),
            attempt=fields.get("attempt"),
            data=dict(fields.get("data") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def pack_preview(header: Mapping[str, Any], image: bytes) -> bytes:
    """`u32be json_len | json | bytes`, so that a picture and what it shows cannot come apart."""
    head = encode(header)
    return len(head).to_bytes(4) + head + image


def unpack_preview(packed: bytes | None) -> tuple[bytes, dict[str, Any]] | None:
    """The picture and its header, or None when there is none that can be read."""
    if packed is None or len(packed) < 4:
        return None
    end = 4 + int.from_bytes(packed[:4])
    try:
        header = json.loads(packed[4:end])
    except ValueError:
        return None
    return (packed[end:], header) if isinstance(header, dict) else None
