"""What this machine lacks to run Framewright, each finding with the command that mends it. Changes nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from framewright import catalogue
from framewright.database import Database, migration_state
from framewright.embedded import DataDir, postgres, valkey
from framewright.embedded.binaries import Program
from framewright.errors import FramewrightError
from framewright.installing import extra
from framewright.models.home import Home
from framewright.models.home import State as OnDisk
from framewright.provenance.trial import tried
from framewright.redis_options import redis_options
from framewright.settings import Settings, model_settings, settings

GB = 1_000_000_000
LEAST_FREE, ENOUGH_FREE = GB // 2, 5 * GB
SKEW_S = 2.0
ENDS_SOON_DAYS = 30

# Asked in a process of its own: it is the worker's code that decides, and the room does not import a door.
_ASK_MEDIA = """
import json, os, pathlib
from workers.media import encoders, ffmpeg, sandbox
wanted = os.environ.get("FRAMEWRIGHT_FFMPEG")
binary = ffmpeg.resolve(pathlib.Path(wanted) if wanted else None)
print(json.dumps({
    "path": str(binary),
    "version": ".".join(map(str, ffmpeg.version(binary))),
    "encoders": [[encoder.codec, encoder.label] for encoder in encoders.available(binary)],
    "bubblewrap": sandbox.bubblewrap(binary),
}))
"""


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` is a command or a sentence, there whenever the state is not ok."""

    name: str
    state: State
    detail: str
    fix: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"name": self.name, "state": self.state, "detail": self.detail, "fix": self.fix}


class Signing(BaseSettings):
    """What decides who signs."""

    model_config = SettingsConfigDict(env_prefix="FRAMEWRIGHT_", extra="ignore", frozen=True, hide_input_in_errors=True)

    provenance: bool = True
    c2pa_cert: Path | None = None
    c2pa_key: Path | None = None
    provenance_dir: Path | None = None
    scratch_dir: Path | None = None


class Configured(BaseSettings):
    """Which servers the environment names; the rest is embedded. Addresses are read, never shown."""

    model_config = SettingsConfigDict(env_prefix="FRAMEWRIGHT_", extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    scratch_dir: Path | None = None

    @property
    def any(self) -> bool:
        return bool(self.database_url or self.redis_url or self.s3_endpoint)


def examine(data: Path, port: int | None) -> Iterator[Finding]:
    """Every check of this machine, in the order in which a newcomer would stumble over them."""
    configured = Configured()
    yield python()
    yield account(os.geteuid())
    yield from media()
    yield signing()
    yield from embedded(data, configured)
    yield room("data directory", data)
    yield room("scratch space", configured.scratch_dir or Path(tempfile.gettempdir()))
    yield models()
    if port is not None:
        yield free_port(port)
    if configured.any:
        yield from servers()


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - a doctor does not trust the installer
        return Finding(
            "python", State.MISSING, f"{version} is too old", "install Python 3.11 or newer, then make setup"
        )
    return Finding("python", State.OK, f"{version} at {sys.executable}")


def account(uid: int) -> Finding:
    """Who we are. Root is no fault: the servers then step down, and only we and the workers stay what we are."""
    if uid == 0:
        fix = "run it as an ordinary user; docs/operate.md says what root changes"
        return Finding("account", State.WARNING, "root: works, an ordinary account is recommended", fix)
    return Finding("account", State.OK, f"uid {uid}")


def media() -> Iterator[Finding]:
    """ffmpeg, its encoders and its sandbox as a worker here would use them; encoders are tried, not listed."""
    done = subprocess.run(
        # -P: a folder named `workers` where the user stands is not ours.
        [sys.executable, "-P", "-c", _ASK_MEDIA],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        fix = "pip install --force-reinstall imageio-ffmpeg, or set FRAMEWRIGHT_FFMPEG to an ffmpeg of yours"
        yield Finding("ffmpeg", State.MISSING, why[0], fix)
        return
    told = json.loads(done.stdout)
    yield Finding("ffmpeg", State.OK, f"{told['version']} at {told['path']}")
    for codec in ("hevc", "h264"):
        names = [label for its_codec, label in told["encoders"] if its_codec == codec]
        if names:
            yield Finding(f"{codec} encoder", State.OK, ", ".join(names))
        else:
            fix = f"set FRAMEWRIGHT_FFMPEG to an ffmpeg with lib{'x265' if codec == 'hevc' else 'x264'}"
            yield Finding(f"{codec} encoder", State.MISSING, f"this ffmpeg cannot encode {codec}", fix)
    if told["bubblewrap"]:
        yield Finding("sandbox", State.OK, f"bubblewrap at {told['bubblewrap']}, and resource limits")
    elif sys.platform == "linux":
        fix = "apt install bubblewrap (and allow unprivileged user namespaces)"
        yield Finding("sandbox", State.WARNING, "resource limits only; ffmpeg can reach the network and files", fix)
    else:
        yield Finding("sandbox", State.OK, "resource limits")


def signing() -> Finding:
    """Whose certificate would sign outputs here; it has signed something to know. Makes none that is kept."""
    try:
        ours = Signing()
        with tempfile.TemporaryDirectory(prefix="framewright-doctor-") as folder:
            made = tried(ours.model_copy(update={"provenance_dir": Path(folder)}))
    except ValidationError as error:
        named = ", ".join(f"FRAMEWRIGHT_{str(one['loc'][0]).upper()}" for one in error.errors(include_input=False))
        return Finding("provenance", State.MISSING, f"{named} cannot be read", "write on or off, and paths of files")
    except FramewrightError as error:
        fix = "mend what it names, or FRAMEWRIGHT_PROVENANCE=off"
        return Finding("provenance", State.MISSING, error.detail, fix)
    if made is None:
        return Finding("provenance", State.OK, "off; outputs do not say how they were made")
    if made.kind == "development":
        detail = "outputs are signed with a development certificate, which nobody else knows"
        return Finding(
            "provenance", State.OK, f"{detail}; FRAMEWRIGHT_C2PA_CERT and FRAMEWRIGHT_C2PA_KEY name your own"
        )
    detail = f"outputs are signed with the operator's certificate {made.subject}, until {made.not_after:%Y-%m-%d}"
    if (made.not_after - datetime.now(UTC)).days < ENDS_SOON_DAYS:
        return Finding("provenance", State.WARNING, detail, "have it renewed, and restart the workers")
    return Finding("provenance", State.OK, detail)


def embedded(data: Path, configured: Configured) -> Iterator[Finding]:
    """The programs behind `framewright up`, for each server that the environment does not name."""
    if not configured.database_url:
        yield _attempt("postgres", extra("embedded"), lambda: _program(postgres.find(DataDir(data), None)))
    if not configured.redis_url:
        yield _attempt("valkey", extra("embedded"), lambda: _program(valkey.find(DataDir(data), None)))
    if not configured.s3_endpoint:
        if importlib.util.find_spec("nanio"):
            yield Finding("s3", State.OK, "nanio")
        else:
            yield Finding("s3", State.MISSING, "the nanio wheel is not installed", extra("embedded"))


def models() -> Finding:
    """Which weights are on disk. None is no fault: who wants pictures in motion without a GPU needs none."""
    try:
        ours = model_settings()
        catalogue.install(ours.catalogue)
        home = Home.of(ours)
        found = [home.look(row) for row in catalogue.rows() if row.diffusion is not None]
    except FramewrightError as error:
        return Finding("models", State.MISSING, error.detail, "set what it names; docs/operate.md lists every setting")
    there = next(parent for parent in (home.root, *home.root.parents) if parent.exists())
    whole = sum(here.state is OnDisk.COMPLETE for here in found)
    size, free = sum(here.size for here in found) / GB, shutil.disk_usage(there).free / GB
    detail = f"{whole} of {len(found)} on disk, {size:.1f} GB in {home.root}, {free:.1f} GB free"
    for here in found:
        if here.state not in {OnDisk.COMPLETE, OnDisk.ABSENT}:
            return Finding("models", State.WARNING, f"{detail}; {here.model} is {here.state}: {here.why}", here.fix)
    return Finding("models", State.OK, detail)


def room(name: str, folder: Path) -> Finding:
    """Whether one can write there and how much fits."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        fix = f"sudo chown {os.geteuid()} '{there}', or choose another place"
        return Finding(name, State.MISSING, f"{there} is not writable", fix)
    free = shutil.disk_usage(there).free
    detail = f"{folder.absolute()}{'' if folder.exists() else ' (not made yet)'}, {free / GB:.1f} GB free"
    if free < LEAST_FREE:
        return Finding(name, State.MISSING, detail, f"free {LEAST_FREE / GB:.1f} GB or more on that disk")
    if free < ENOUGH_FREE:
        return Finding(name, State.WARNING, detail, f"free {ENOUGH_FREE / GB:.0f} GB or more on that disk")
    return Finding(name, State.OK, detail)


def free_port(port: int) -> Finding:
    """Whether the API of `framewright up` could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            fix = f"framewright up without --port takes a free one; lsof -i :{port} tells who has this one"
            return Finding("port", State.MISSING, f"{port}: {error.strerror}", fix)
    return Finding("port", State.OK, f"{port} is free")


def servers() -> Iterator[Finding]:
    """The servers that the environment names: reachable, of a version that does, migrated, and of one time."""
    try:
        ours = settings()
    except FramewrightError as error:
        yield Finding("settings", State.MISSING, error.detail, "set what it names; docs/operate.md lists every setting")
        return
    yield Finding("settings", State.OK, "complete")
    yield from _database(ours)
    yield _attempt("redis", "check FRAMEWRIGHT_REDIS_URL and that the server runs", lambda: _redis(ours))
    yield _attempt("s3", "check FRAMEWRIGHT_S3_ENDPOINT and its keys", lambda: _s3(ours))


def _database(ours: Settings) -> Iterator[Finding]:
    database = Database(ours.database_url.get_secret_value(), application="framewright-doctor")
    try:
        with database.connect() as connection:
            row = connection.execute(
                "SELECT current_setting('server_version_num')::int, extract(epoch FROM clock_timestamp())::float8"
            ).fetchone()
        version, clock = (int(row[0]), float(row[1])) if row else (0, 0.0)
        state = migration_state(database)
    except FramewrightError as error:
        yield Finding("database", State.MISSING, error.detail, "check FRAMEWRIGHT_DATABASE_URL and that Postgres runs")
        return
    finally:
        database.close()
    if version < postgres.OLDEST * 10_000:
        fix = f"use Postgres {postgres.OLDEST} or newer"
        yield Finding("database", State.MISSING, f"Postgres {version // 10_000} is too old", fix)
    else:
        yield Finding("database", State.OK, f"Postgres {version // 10_000}")
    if state.up_to_date:
        yield Finding("schema", State.OK, f"at {state.head}")
    else:
        detail = f"at {state.current or 'nothing'}, this version wants {state.head}"
        yield Finding("schema", State.MISSING, detail, "alembic upgrade head (the migrations job of the deployment)")
    yield skew("database clock", clock - time.time())


def skew(name: str, ahead_s: float) -> Finding:
    """A clock against this machine's. Leases go by the database's, so a wrong one here only confuses people."""
    if abs(ahead_s) > SKEW_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        detail = f"{abs(ahead_s):.1f} s {way} this machine's"
        return Finding(name, State.WARNING, detail, "synchronise clocks: timedatectl set-ntp true")
    return Finding(name, State.OK, f"within {SKEW_S:.0f} s of this machine's")


def _redis(ours: Settings) -> str:
    import redis

    client = redis.Redis.from_url(ours.redis_url.get_secret_value(), **redis_options("doctor"))
    try:
        told = client.info("server")
    except redis.RedisError as error:
        raise FramewrightError(f"it does not answer: {type(error).__name__}") from error
    finally:
        client.close()
    return f"{told.get('server_name', 'redis')} {told.get('valkey_version') or told['redis_version']}"


def _s3(ours: Settings) -> str:
    from framewright.errors import ObjectMissing
    from framewright.storage import Storage

    storage = Storage(ours)
    try:
        storage.ping()
    except ObjectMissing:
        return f"reachable; bucket {ours.s3_bucket} will be made at start"
    finally:
        storage.close()
    return f"bucket {ours.s3_bucket}"


def _program(found: Program) -> str:
    return f"{found.family} {'.'.join(map(str, found.version))} at {found.path}"


def _attempt(name: str, fix: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, State.OK, look())
    except FramewrightError as error:
        return Finding(name, State.MISSING, error.detail, fix)
