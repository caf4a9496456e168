"""Threads apart for calls that S3 may hold up, so that no request without S3 ever waits for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from framewright.errors import StorageUnavailable

RETRY_AFTER_S = 5
T = TypeVar("T")


class Lane:
    """A few threads; calls wait for a free one without holding any."""

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, call: Callable[[], T], *, turn_s: float | None = None) -> T:
        """What `call` answers; `StorageUnavailable` when all threads are taken for `turn_s` seconds.

        A cancel is raised when the call has ended and not before: until then nobody else may touch what it uses.
        """
        try:
            async with asyncio.timeout(turn_s):
                await self._free.acquire()
        except TimeoutError:
            raise StorageUnavailable(
                "storage is slow, and too many read from it", retry_after_s=RETRY_AFTER_S
            ) from None
        try:
            called = asyncio.wrap_future(self._pool.submit(call))
            try:
                return await asyncio.shield(called)
            except asyncio.CancelledError:
                await asyncio.wait({called})
                raise
        finally:
            self._free.release()

    def close(self) -> None:
        """Waits for nobody; calls under way end with their own timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)
