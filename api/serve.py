"""`python -m api.serve`: uvicorn with the options that our sockets, caps and shutdown rely on."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import tempfile

from uvicorn import Config, Server
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
