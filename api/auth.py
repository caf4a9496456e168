"""Who is asking: bearer keys and their scopes. Each route names its scope, and OpenAPI shows it as `x-scope`."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool

from framewright import keys, store
from framewright.database import Database
from framewright.errors import Forbidden, Unauthenticated
from framewright.rows import KeyRow

FRESH_S = 1.0
"""A key revoked by another process is refused here after this long; by this process, at once."""
TOUCH_S = 60.0
MAX_KEPT = 10_000

bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: `Authorization: Bearer fw_live_…`")


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant behind a request and what its key may do."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]
    expires_at: datetime | None

    def may(self, scope: str) -> bool:
        """Whether the key has the scope; `admin` has all."""
        return scope in self.scopes or "admin" in self.scopes

    def need(self, scope: str) -> None:
        """`Forbidden` unless the key has the scope."""
        if not self.may(scope):
            raise Forbidden(f"this key lacks the scope {scope}")


class Keyring:
    """Checks keys. Rows are kept for a second, so that a busy client costs one read a second and not one a request."""

    def __init__(self, db: Database, pepper: str) -> None:
        self._db = db
        self._pepper = pepper
        self._rows: OrderedDict[str, tuple[float, KeyRow]] = OrderedDict()

    def fresh(self, key_id: str) -> bool:
        """True when `check` needs no database for this id."""
        return self._kept(key_id) is not None

    def check(self, text: str) -> Caller:
        """Whose key this is; `Unauthenticated` without saying why. Reads the database unless the row is fresh."""
        row = keys.verify(text, self._find, self._pepper)
        if row.expires_at is not None and row.expires_at <= datetime.now(UTC):
            raise Unauthenticated("send a valid API key as a bearer token")
        return Caller(row.tenant_id, row.id, row.scopes, row.expires_at)

    def forget(self, key_id: str) -> None:
        """The key was revoked: read it again."""
        self._rows.pop(key_id, None)

    def _find(self, key_id: str) -> KeyRow | None:
        if row := self._kept(key_id):
            return row
        row = store.find_key(self._db, key_id)
        if row is not None and row.usable:
            self._rows[key_id] = (time.monotonic(), row)
            if len(self._rows) > MAX_KEPT:
                self._rows.popitem(last=False)
            if row.last_used_at is None or (datetime.now(UTC) - row.last_used_at).total_seconds() > TOUCH_S:
                store.touch_key(self._db, key_id)
        return row

    def _kept(self, key_id: str) -> KeyRow | None:
        kept = self._rows.get(key_id)
        return kept[1] if kept and time.monotonic() - kept[0] < FRESH_S else None


def check_shape(authorization: str) -> None:
    """`Unauthenticated` when this header cannot hold a key; asks nobody whether the key is one."""
    scheme, text = get_authorization_scheme_param(authorization)
    if scheme.lower() != "bearer":
        raise Unauthenticated("send a valid API key as a bearer token")
    keys.parse(text)


async def caller(
    request: Request,
    wanted: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Caller:
    """The caller of a route, with the scopes that the route asks for."""
    if credentials is None:
        raise Unauthenticated("send a valid API key as a bearer token")
    keyring: Keyring = request.app.state.parts.keyring
    text = credentials.credentials
    if keyring.fresh(keys.parse(text).id):
        who = keyring.check(text)
    else:
        who = await run_in_threadpool(keyring.check, text)
    for scope in wanted.scopes:
        who.need(scope)
    return who


JobsRead = Annotated[Caller, Security(caller, scopes=["jobs:read"])]
JobsWrite = Annotated[Caller, Security(caller, scopes=["jobs:write"])]
AssetsRead = Annotated[Caller, Security(caller, scopes=["assets:read"])]
AssetsWrite = Annotated[Caller, Security(caller, scopes=["assets:write"])]
ModelsRead = Annotated[Caller, Security(caller, scopes=["models:read"])]
OpsRead = Annotated[Caller, Security(caller, scopes=["ops:read"])]
OpsWrite = Annotated[Caller, Security(caller, scopes=["ops:write"])]
Admin = Annotated[Caller, Security(caller, scopes=["admin"])]
