"""Messages between a supervisor and its runner: length-prefixed JSON, with an optional blob, over one socket."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_HEAD: Final = struct.Struct(">II")
CANCELED: Final = "canceled"
YIELDED: Final = "yielded"
"""Why a run is to stop, as an order says it."""
MAX_JSON: Final = 16 << 20
MAX_BLOB: Final = 4 << 20


class ChannelClosed(Exception):
    """The other side is gone, or no longer speaks sense; the channel cannot be used again."""


@dataclass(frozen=True, slots=True)
class Message:
    """A word that says what it is, its facts, and bytes where JSON would be the wrong envelope."""

    word: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    blob: bytes = b""


class Channel:
    """One end. `send` may be called from several threads, `receive` from one.

    `send_timeout_s` bounds a send to a peer that reads nothing, such as a stopped process; None waits for ever.
    """

    def __init__(self, sock: socket.socket, *, send_timeout_s: float | None = None) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        if send_timeout_s is not None:
            timeval = struct.pack("@ll", int(send_timeout_s), int(send_timeout_s % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def send(self, word: str, facts: Mapping[str, Any] | None = None, blob: bytes = b"") -> None:
        """Sends one message; `ChannelClosed` when it cannot arrive, `ValueError` when it is too big or holds NaN."""
        body = json.dumps([word, dict(facts or {})], separators=(",", ":"), allow_nan=False).encode()
        if len(body) > MAX_JSON or len(blob) > MAX_BLOB:
            raise ValueError(f"a {word} message of {len(body)} + {len(blob)} bytes is too big")
        with self._sending:
            try:
                self._sock.sendall(_HEAD.pack(len(body), len(blob)) + body + blob)
            except OSError as error:
                # Part of the message may be out, so whatever followed would be read as nonsense.
                self.close()
                raise ChannelClosed(f"cannot send {word}: {type(error).__name__}") from None

    def receive(self) -> Message:
        """The next message; `ChannelClosed` at the end of the stream and for anything that is not a message."""
        size, blob_size = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > MAX_JSON or blob_size > MAX_BLOB:
            raise ChannelClosed("the other side sent a length that no message has")
        body, blob = self._exactly(size), self._exactly(blob_size)
        try:
            word, facts = json.loads(body)
        except ValueError:
            raise ChannelClosed("the other side sent something that is not a message") from None
        if not isinstance(word, str) or not isinstance(facts, dict):
            raise ChannelClosed("the other side sent something that is not a message")
        return Message(word, facts, blob)

    def close(self) -> None:
        """Ends both directions, which also wakes a `receive` that waits in another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._sock.recv(min(size - len(data), 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise ChannelClosed("the other side is gone")
            data += part
        return bytes(data)
