"""API keys: `fw_live_<id12>_<secret>_<crc>`. The database holds the id and a keyed digest, never the secret.

The checksum lets a typing error, or a truncated paste, be told without asking the database.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from framewright.errors import Unauthenticated

PREFIX = "fw_live_"
ID_LENGTH = 12
SECRET_LENGTH = 40  # of 62 letters: 238 bits
MIN_SECRET_LENGTH = 32
MAX_LENGTH = 200
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# `ops` is about workers and queues; `admin` is every scope, and the keys themselves.
SCOPES = frozenset(
    {"jobs:read", "jobs:write", "assets:read", "assets:write", "models:read", "ops:read", "ops:write", "admin"}
)
DEFAULT_SCOPES = frozenset(scope for scope in SCOPES if scope != "admin" and not scope.startswith("ops:"))


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A well-formed key; whether it opens anything is another question."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `text` is shown once."""

    text: str = field(repr=False)
    id: str
    secret: str = field(repr=False)


class Stored(Protocol):
    """What `verify` needs of a stored key."""

    @property
    def digest(self) -> bytes: ...
    @property
    def usable(self) -> bool: ...


K = TypeVar("K", bound=Stored)


def generate() -> NewKey:
    """A new key of 238 random bits."""
    id_, secret = _random(ID_LENGTH), _random(SECRET_LENGTH)
    return NewKey(f"{PREFIX}{id_}_{secret}_{_checksum(id_, secret)}", id_, secret)


def parse(text: str) -> ParsedKey:
    """The parts of a key; `Unauthenticated` when it cannot be one."""
    parts = text.removeprefix(PREFIX).split("_") if text.startswith(PREFIX) and len(text) <= MAX_LENGTH else []
    if len(parts) == 3:
        id_, secret, checksum = parts
        sound = len(id_) == ID_LENGTH and len(secret) >= MIN_SECRET_LENGTH and set(id_ + secret) <= set(_LETTERS)
        if sound and checksum == _checksum(id_, secret):
            return ParsedKey(id_, secret)
    raise Unauthenticated("the API key is missing or not valid")


def digest(pepper: str, secret: str) -> bytes:
    """HMAC-SHA256 (32 bytes) of a secret; fast on purpose, because the secret is random and long."""
    return hmac.digest(pepper.encode(), secret.encode(), hashlib.sha256)


def verify(text: str, find: Callable[[str], K | None], pepper: str) -> K:
    """The stored key that `text` opens; `find` looks an id up.

    `Unauthenticated` in one sentence for every reason, and with the same work done for an unknown id as for a wrong
    secret.
    """
    given = parse(text)
    stored = find(given.id)
    same = hmac.compare_digest(digest(pepper, given.secret), stored.digest if stored else bytes(32))
    if stored is None or not same or not stored.usable:
        raise Unauthenticated("the API key is missing or not valid")
    return stored


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _checksum(id_: str, secret: str) -> str:
    return f"{zlib.crc32(f'{id_}_{secret}'.encode()):08x}"
