"""One server of the three alone, for tests that look at no other."""

from __future__ import annotations

from framewright.embedded import Elsewhere

_ELSEWHERE = {
    "postgres": {"database_url": "postgresql://elsewhere/framewright"},
    "valkey": {"redis_url": "redis://elsewhere:6379/0"},
    "s3": {"s3_endpoint": "http://elsewhere:9000"},
}


def only(name: str) -> Elsewhere:
    """All but this one are elsewhere, so that nothing is started for them."""
    return Elsewhere(**{key: url for other, one in _ELSEWHERE.items() if other != name for key, url in one.items()})
