"""`python -m api.serve`: uvicorn with the options that our sockets, caps and shutdown rely on."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import tempfile

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from api.metrics import MULTIPROCESS_DIR
from api.parts import Parts
from framewright import logs
from framewright.settings import settings_or_exit

PING_S = 20.0
SHUTDOWN_S = 10
MAX_FRAME = 1024 * 1024
"""Above our own cap of 64 KiB, so that a message that is too large is answered 4413 and not cut off."""
LINGER_S = 10.0
MAX_HEAD = 64 * 1024
"""Bytes of a request line with its headers, and of anything else that is no body."""
HEAD_S = 10.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Http(HttpToolsProtocol):
    """Bounds what a client may send before it has asked for anything: the parser itself takes headers for ever."""

    _unused = 0
    _in_head = True
    _upgraded = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In pieces, so that a body in the same read as its headers does not count as one of them."""
        if self._in_head and self._head_timer is None:
            self._await_head()
        while data and not self._upgraded and not self.transport.is_closing():
            room = MAX_HEAD - self._unused
            if room <= 0:
                self._refuse()
                return
            piece, data = data[:room], data[room:]
            self._unused += len(piece)
            super().data_received(piece)

    def on_headers_complete(self) -> None:
        self._unused = 0
        self._in_head = False
        self._forget_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unused = 0
        self._in_head = True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._upgraded = True
        super().handle_websocket_upgrade()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self) -> None:
        if not self._busy():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._busy():
            # What comes after the request in hand may be held back by ourselves.
            self._await_head()
        else:
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Socket(WebSocketsSansIOProtocol):
    """Drops a connection whose client takes nothing: closing alone would wait for its buffer to drain for ever."""

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if not self.disconnected:
            self.loop.call_later(LINGER_S, self.transport.abort)


class Api(Server):
    """Tells listeners to go elsewhere before it waits for requests to finish."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        from api.main import app

        parts: Parts | None = getattr(app.state, "parts", None)
        if parts is not None:
            parts.hub.drain()
            # One turn of the loop lets every writer send its close frame.
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


class Worker(Process):
    """One of several API processes on one port."""

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = Api(self.config)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        logs.configure(settings_or_exit(), "api")
        super().target(sockets)


class Workers(Multiprocess):
    """Keeps `--workers` processes alive."""

    def init_processes(self) -> None:
        for _ in range(self.processes_num):
            process = Worker(self.config, self.sockets)
            process.start()
            self.processes.append(process)


def config(host: str, port: int, workers: int) -> Config:
    """The options: no deflate on sockets (memory for every client), pings, bounded frames, a bounded shutdown."""
    return Config(
        "api.main:app",
        host=host,
        port=port,
        workers=workers,
        http=Http,
        ws=Socket,
        ws_max_size=MAX_FRAME,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_worker_healthcheck=20,
        access_log=False,
        server_header=False,
        log_config=None,
        backlog=4096,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.serve", description="Serve the Framewright API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000; 0 takes a free one)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port (1)")
    asked = parser.parse_args()
    loaded = settings_or_exit()
    logs.configure(loaded, "api")
    options = config(asked.host, asked.port, asked.workers)
    if asked.workers == 1:
        Api(options).run()
        return
    with tempfile.TemporaryDirectory(prefix="framewright-metrics-") as folder:
        os.environ[MULTIPROCESS_DIR] = folder
        Workers(options, sockets=[options.bind_socket()]).run()


if __name__ == "__main__":
    main()
