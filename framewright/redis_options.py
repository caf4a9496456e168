"""How every Redis client here connects: short timeouts, no retry behind our back, a name to be seen by."""

from __future__ import annotations

from typing import Any, Final

from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_TIMEOUT_S: Final = 1.0
SOCKET_TIMEOUT_S: Final = 2.0
"""Without a limit a half-open or hung Redis blocks a call for ever."""


def redis_options(name: str, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for redis-py's `from_url`, which has the certificate checked if the URL says `rediss`.

    `name` is what the server's CLIENT LIST shows. Whoever must try again does so itself, and knows why.
    """
    return {
        "client_name": f"framewright-{name}",
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        **changes,
    }
