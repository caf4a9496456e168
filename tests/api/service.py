"""A running API for tests, and the small files that they send it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from waiting import until

from framewright import keys
from framewright.embedded.datadir import python_environment

ADMIN_KEY = keys.generate().text


@dataclass
class Api:
    """A running `python -m api.serve`."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self, key: str = ADMIN_KEY) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    @property
    def socket_url(self) -> str:
        return self.url.replace("http://", "ws://") + "/api/v1/ws"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serve(environment: dict[str, str], *, workers: int = 1, ready: bool = True) -> Iterator[Api]:
    """An API process; with `ready`, one that takes jobs."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "api.serve", "--port", str(port), "--workers", str(workers)]
    own = {"FRAMEWRIGHT_PUBLIC_URL": url, "FRAMEWRIGHT_BOOTSTRAP_KEY": ADMIN_KEY}
    process = subprocess.Popen(command, env=os.environ | python_environment() | own | environment)

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the API ended with {process.returncode}")
        try:
            return httpx.get(f"{url}/readyz" if ready else f"{url}/healthz", timeout=10).is_success
        except httpx.TransportError:
            return False

    try:
        until(answers, 30)
        yield Api(url, process)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def upload(client: httpx.Client, body: bytes, filename: str = "still.png") -> str:
    answer = client.put("/api/v1/assets", params={"filename": filename}, content=body)
    assert answer.status_code == 201, answer.text
    asset: str = answer.json()["id"]
    return asset


def png(width: int, height: int, grey: int = 90) -> bytes:
    """A grey PNG; nothing is decoded or held at full size to make it, so it may claim to be huge."""
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(b"\0" + bytes([grey]) * width) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def animate(picture: str, **changes: Any) -> dict[str, Any]:
    """The body of a small job."""
    return {"kind": "animate", "input": {"image": picture}, "params": {"seconds": 1, "fps": 4}, **changes}
