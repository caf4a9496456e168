"""Free TCP ports on the loopback address."""

from __future__ import annotations

import contextlib
import random
import socket

import psutil

from framewright.errors import EmbeddedServerError

HOST = "127.0.0.1"
# Below the ephemeral ranges of Linux (32768) and macOS (49152): while a server restarts, no outgoing connection of
# another program takes its port.
_RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def choose(wanted: int | None = None) -> int:
    """`wanted` when it is free, else any free port."""
    if wanted is not None and is_free(wanted):
        return wanted
    for _ in range(200):
        port = random.choice(_RANGE)  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise EmbeddedServerError(f"no free port between {_RANGE.start} and {_RANGE.stop} on {HOST}")


def taken(port: int, service: str) -> EmbeddedServerError:
    """The error of a port that `service` was told to use and cannot; names the holder where we may know it."""
    holder = ""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                name = psutil.Process(connection.pid).name() if connection.pid else "another program"
                holder = f" by process {connection.pid} ({name})" if connection.pid else f" by {name}"
                break
    return EmbeddedServerError(f"port {port} for {service} is taken{holder}; choose another port or stop that program")
