"""`Idempotency-Key`: the same key and the same request make one job, however often and wherever it is sent."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Header, Request

from api.gate import JSON
from api.parts import parts_of
from framewright.lifecycle import Idempotency


async def _idempotency(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="The same key with the same body answers with the job it made, marked Idempotent-Replayed.",
        ),
    ] = None,
) -> Idempotency | None:
    if key is None:
        return None
    body = json.dumps(request.scope.get(JSON), sort_keys=True, separators=(",", ":"))
    return Idempotency(
        route=f"{request.method} {request.scope['route'].path}",
        key_sha256=hashlib.sha256(key.encode()).digest(),
        # The path too: one key used to retry two different jobs is a reuse, not a replay.
        body_sha256=hashlib.sha256(f"{request.url.path}\n{body}".encode()).digest(),
        ttl_h=parts_of(request).settings.idempotency_h,
    )


Idempotent = Annotated[Idempotency | None, Depends(_idempotency)]
"""The request's Idempotency-Key as the database keeps it, or None."""
