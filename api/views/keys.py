"""API keys, which are shown once."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from api.views.base import View
from framewright.rows import KeyRow


class KeyView(View):
    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyView(KeyView):
    key: str = Field(description="The key itself, shown this once.")


def key(row: KeyRow) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        scopes=tuple(sorted(row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
