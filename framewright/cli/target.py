"""Which service a command talks to: flags, then the environment, then the `framewright up` that runs here."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from framewright.cli.exits import UsageError
from framewright.cli.spelling import typed
from framewright.client import Client

STATE = "up.json"


class ClientSettings(BaseSettings):
    """What the command line reads from the environment."""

    model_config = SettingsConfigDict(env_prefix="FRAMEWRIGHT_", extra="ignore", frozen=True)

    url: str | None = Field(None, description="The service that commands talk to.")
    api_key: SecretStr | None = Field(None, description="The API key that commands use.")


@dataclass(frozen=True, slots=True)
class Running:
    """A local service, as its state file tells of it."""

    url: str
    api_key: str
    pid: int
    started: float
    data: Path | None = None


def latest() -> Path:
    """The folder whose state file names the `up` of this user that was started last, whatever its data directory.

    Not the data directory itself: that one may only hold what its servers put there.
    """
    return platformdirs.user_cache_path("framewright", appauthor=False)


def announce(data: Path, url: str, api_key: str) -> list[Path]:
    """Write the state files (0600) by which other terminals find this process; returns them for `withdraw`.

    One lies in the data directory, one in `latest()`, unless another service that runs is announced there.
    """
    me = psutil.Process()
    told = {"url": url, "api_key": api_key, "pid": me.pid, "started": me.create_time(), "data": str(data.absolute())}
    text = json.dumps(told)
    written = []
    for folder in dict.fromkeys((data, latest())):
        if folder == data or running(folder) is None:
            with contextlib.suppress(OSError):
                _write_private(folder / STATE, text)
                written.append(folder / STATE)
    return written


def withdraw(files: list[Path]) -> None:
    """Remove the state files of this process; one that another process has replaced stays."""
    for file in files:
        state = _read(file)
        if state and state.pid == os.getpid():
            file.unlink(missing_ok=True)


def running(data: Path) -> Running | None:
    """The service that was started on that data directory and still runs."""
    state = _read(data / STATE)
    if state is None:
        return None
    try:
        alive = abs(psutil.Process(state.pid).create_time() - state.started) < 1.0
    except psutil.Error:
        alive = False
    return state if alive else None


def connect(args: argparse.Namespace) -> Client:
    """The client that this command uses."""
    url, api_key = resolve(args)
    return Client(url, api_key)


def resolve(args: argparse.Namespace) -> tuple[str, str | None]:
    """URL and key. The key of a state file is only ever sent to the service that wrote it."""
    settings = ClientSettings()
    key: str | None = args.api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    url: str | None = args.url or settings.url
    local = running(args.data or latest())
    if url is None and local is not None:
        return local.url, key or local.api_key
    if url is None:
        raise UsageError(
            f"no service to talk to: start one with `{typed()} up`, or set FRAMEWRIGHT_URL and FRAMEWRIGHT_API_KEY "
            "(or --url and --api-key)"
        )
    if not url.startswith(("http://", "https://")):
        raise UsageError("the service's URL must start with http:// or https://")
    if key is None and local is not None and local.url.rstrip("/") == url.rstrip("/"):
        key = local.api_key
    return url, key


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _read(path: Path) -> Running | None:
    try:
        state = json.loads(path.read_text())
        return Running(
            url=str(state["url"]),
            api_key=str(state["api_key"]),
            pid=int(state["pid"]),
            started=float(state["started"]),
            data=Path(state["data"]) if state.get("data") else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
