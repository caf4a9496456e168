"""Many WebSocket clients in a process of their own: `python listeners.py`, its orders as JSON on stdin.

It prints `{"ready": n}` once every client has its snapshots, and at the end one line with what each client received.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvloop
from websockets.asyncio.client import ClientConnection, connect

OPENING = 32


@dataclass(frozen=True)
class Orders:
    """Where to connect, which jobs each client follows, and when to give up (s)."""

    url: str
    key: str
    topics: list[list[str]]
    deadline_s: float


@dataclass
class Heard:
    """Messages of events as they came, with the time (s since 1970) at which each was there."""

    raw: list[tuple[float, str]] = field(default_factory=list)


async def follow(
    orders: Orders, api: httpx.AsyncClient, topics: list[str], door: asyncio.Semaphore
) -> ClientConnection:
    """A socket that has the snapshots of all its topics."""
    async with door:
        ticket = (await api.post("/api/v1/ws-tickets")).raise_for_status().json()["ticket"]
        socket = await connect(
            orders.url.replace("http://", "ws://") + "/api/v1/ws",
            subprotocols=["framewright.v1", f"bearer.{ticket}"],  # type: ignore[list-item]
            compression=None,
            ping_interval=None,
            max_size=None,
        )
        await socket.send(json.dumps({"op": "subscribe", "topics": topics, "keep_open": True}))
        snapshots = 0
        while snapshots < len(topics):
            snapshots += json.loads(await socket.recv())["type"] == "snapshot"
    return socket


async def listen(socket: ClientConnection, wanted: int, heard: Heard) -> None:
    """Takes events until all that are wanted came; decoding waits until nothing is timed any more."""
    while len(heard.raw) < wanted:
        text = await socket.recv()
        if isinstance(text, str) and text.startswith('{"type":"event"'):
            heard.raw.append((time.time(), text))


async def main(orders: Orders) -> list[list[tuple[float, str, int]]]:
    door = asyncio.Semaphore(OPENING)
    heard = [Heard() for _ in orders.topics]
    headers = {"Authorization": f"Bearer {orders.key}"}
    async with (
        asyncio.timeout(orders.deadline_s),
        httpx.AsyncClient(base_url=orders.url, headers=headers, timeout=60) as api,
    ):
        sockets = await asyncio.gather(*(follow(orders, api, topics, door) for topics in orders.topics))
        print(json.dumps({"ready": len(sockets)}), flush=True)
        waiting = zip(sockets, orders.topics, heard, strict=True)
        await asyncio.gather(*(listen(socket, len(topics), mine) for socket, topics, mine in waiting))
        await asyncio.gather(*(socket.close() for socket in sockets))
    return [[(at, *_named(json.loads(text))) for at, text in mine.raw] for mine in heard]


def _named(message: dict[str, Any]) -> tuple[str, int]:
    return message["job"], message["seq"]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(Orders(**json.loads(sys.stdin.readline()))))), flush=True)
