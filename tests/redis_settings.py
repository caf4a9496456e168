"""Settings for tests that need Redis and nothing else."""

from __future__ import annotations

from framewright.settings import Settings


def settings_on(redis_url: str, prefix: str) -> Settings:
    """Settings that lead to this Redis, and to no database."""
    return Settings(
        database_url="postgresql://nobody@localhost/none",
        redis_url=redis_url,
        redis_prefix=prefix,
        key_pepper="pepper-of-the-tests",
    )
