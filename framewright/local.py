"""The whole service on this machine: servers, schema, API, reconciler and workers, as children that end with us."""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from framewright import database, embedded
from framewright.embedded import ports
from framewright.embedded.datadir import DataDir, python_environment
from framewright.embedded.kept import Keeper, Kept
from framewright.embedded.service import Service
from framewright.errors import EmbeddedServerError, SettingsError
from framewright.keys import generate
from framewright.settings import Settings, told
from framewright.storage import Storage

_PREFIX = "FRAMEWRIGHT_"
_WORKER_NAME = "FRAMEWRIGHT_WORKER_NAME"
_READY_S = 60.0
_POLL_S = 0.05
_RECONCILER, _API, _WORKER = 1, 2, 3
# A worker lets its runner reach a boundary, then stops it, each for the time its settings give; then it is too late.
_DRAIN_S = 45.0
_CLOSE_S = 15.0


class System:
    """Starts with `start` or `with`; everything it started is gone after `stop`, or soon after our own death.

    `env` are settings by their own or their environment name (`lease_s`, `FRAMEWRIGHT_LEASE_S`) for every process; a
    database, Redis or S3 address in there or in the environment is used instead of a server of ours. Each process is
    in `services` by name (`api`, `api-2`, `reconciler`, `worker`, …) and each server in `servers`, to be stopped,
    killed or paused; one that dies by itself comes back.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        api: int = 1,
        workers: int = 1,
        reconcilers: int = 1,
        port: int | None = None,
        env: Mapping[str, object] | None = None,
        durable: bool = True,
    ) -> None:
        self.data_dir = (data_dir or embedded.default_data_dir()).expanduser().absolute()
        self.services: dict[str, Service] = {}
        self._counts = {"api": api, "reconciler": reconcilers, "worker": workers}
        self._port = port
        self._given = _named(env or {})
        self._durable = durable
        self._settings: dict[str, str] = {}
        self._api_ports: list[int] = []
        self._run = secrets.token_hex(3)
        self._servers: embedded.Servers | None = None
        self._keeper = Keeper(self._each)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def servers(self) -> embedded.Servers:
        """The servers; raises `EmbeddedServerError` before `start`."""
        if self._servers is None:
            raise EmbeddedServerError("the system was not started")
        return self._servers

    @property
    def url(self) -> str:
        """The first API process; with several, `urls` has all."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Every API process, each on its own port."""
        return [f"http://{ports.HOST}:{port}" for port in self._api_ports]

    @property
    def api_key(self) -> str:
        """An admin key of tenant `default`, made once per data directory."""
        return self._settings["FRAMEWRIGHT_BOOTSTRAP_KEY"]

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what runs, by name."""
        return {one.name: one.pid for one in self._each() if one.running}

    @property
    def environment(self) -> dict[str, str]:
        """The `FRAMEWRIGHT_*` variables of every process but the admin key, which only the API gets."""
        return {name: value for name, value in self._settings.items() if name != "FRAMEWRIGHT_BOOTSTRAP_KEY"}

    def start(self) -> None:
        """Start all and wait until every API process is ready and knows every worker.

        Raises `EmbeddedServerError`, with the log's end where a process does not come up; then nothing is left running.
        """
        known = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)} | self._given
        self._servers = embedded.start(self.data_dir, elsewhere=_elsewhere(known), durable=self._durable)
        atexit.register(self.stop)
        try:
            data = self._servers.data
            self._choose_ports(data)
            self._settings = {**self._own_settings(data), **known}
            self._prepare_stores()
            for index, port in enumerate(self._api_ports):
                self._add(_nth("api", index), _api_command(port), _API, FRAMEWRIGHT_BOOTSTRAP_KEY=self.api_key)
            for index in range(self._counts["reconciler"]):
                self._add(_nth("reconciler", index), [sys.executable, "-m", "workers.reconciler"], _RECONCILER)
            started = [self._add_worker({}) for _ in range(self._counts["worker"])]
            self._await_ready(started)
            self._keeper.start()
        except BaseException:
            self.stop()
            raise

    def spawn_worker(self, *, ready: bool = True, **env: object) -> Service:
        """One more worker, with settings of its own (`queues="gpu"`); returns when it is known, unless not `ready`."""
        worker = self._add_worker(_named(env))
        if ready:
            self._await_ready([worker])
        return worker

    def stop(self) -> None:
        """End the workers (they hand their steps back), then the API, the reconciler and the servers. Safe twice."""
        if self._servers is None or os.getpid() != self._servers.starter:
            return
        atexit.unregister(self.stop)
        self._keeper.close()
        self._servers.data.end_all()
        for service in self.services.values():
            service.stop()
        self._servers.stop()

    def _each(self) -> list[Kept]:
        servers = self._servers.each if self._servers else []
        return list(chain(servers, self.services.values()))

    def _choose_ports(self, data: DataDir) -> None:
        for index in range(self._counts["api"]):
            name = _nth("api", index)
            if index == 0 and self._port is not None:
                if not ports.is_free(self._port):
                    raise ports.taken(self._port, "the API")
                self._api_ports.append(self._port)
            else:
                self._api_ports.append(ports.choose(data.port(name)))
                data.keep_port(name, self._api_ports[-1])

    def _own_settings(self, data: DataDir) -> dict[str, str]:
        return {
            **self.servers.environment(),
            "FRAMEWRIGHT_KEY_PEPPER": data.secret("key_pepper"),
            "FRAMEWRIGHT_BOOTSTRAP_KEY": data.secret("bootstrap_key", lambda: generate().text),
            "FRAMEWRIGHT_PUBLIC_URL": self.url,
            "FRAMEWRIGHT_QUEUES": ",".join(_queues()),
            "FRAMEWRIGHT_PROVENANCE_DIR": str(self.data_dir / "provenance"),
        }

    def _prepare_stores(self) -> None:
        """The schema and the bucket, before anything looks for them."""
        storage = Storage(_checked(self._settings))
        with ThreadPoolExecutor(1) as pool, closing(storage):
            migrated = pool.submit(database.migrate, self.servers.database_url)
            storage.ensure_bucket()
            migrated.result()

    def _add_worker(self, env: Mapping[str, str]) -> Service:
        name = _nth("worker", sum(1 for known in self.services if known.startswith("worker")))
        # Never the name of an earlier run, whose row may still look alive.
        env = {_WORKER_NAME: f"{name}-{self._run}", **env}
        return self._add(name, [sys.executable, "-m", "workers.start"], _WORKER, _DRAIN_S, **env)

    def _add(self, name: str, argv: list[str], stage: int, grace_s: float = _CLOSE_S, **env: str) -> Service:
        # All of the environment, because engines have settings of their own (CUDA_VISIBLE_DEVICES, proxies).
        environment = {**os.environ, "PYTHONPATH": python_environment()["PYTHONPATH"], **self.environment, **env}
        service = Service(self.servers.data, name, argv, environment=environment, stage=stage, grace_s=grace_s)
        service.start()
        self.services[name] = service
        return service

    def _await_ready(self, workers: list[Service]) -> None:
        deadline = time.monotonic() + _READY_S
        wanted = {worker.environment[_WORKER_NAME] for worker in workers}
        with httpx.Client(headers={"Authorization": f"Bearer {self.api_key}"}, timeout=5, trust_env=False) as client:
            while missing := self._missing(client, wanted):
                for service in self.services.values():
                    if service.fallen:
                        raise EmbeddedServerError(f"{service.name} ended at start; its log ends:\n{service.tail()}")
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"not ready after {_READY_S:.0f} s: {missing}; see the logs in {self.data_dir / 'logs'}"
                    )
                time.sleep(_POLL_S)

    def _missing(self, client: httpx.Client, workers: set[str]) -> str | None:
        """What we still wait for; None when every API process is ready and knows `workers`."""
        try:
            for url in self.urls:
                ready = client.get(f"{url}/readyz")
                if ready.status_code != httpx.codes.OK:
                    return f"{url}/readyz answers {ready.text[:500]}"
            known = client.get(f"{self.url}/api/v1/workers").raise_for_status().json()["data"]
        except httpx.HTTPError as error:
            return str(error)
        unknown = workers - {worker["id"] for worker in known}
        return f"no sign of {', '.join(sorted(unknown))}" if unknown else None


def _api_command(port: int) -> list[str]:
    return [sys.executable, "-m", "api.serve", "--host", ports.HOST, "--port", str(port)]


def _nth(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index + 1}"


def _named(env: Mapping[str, object]) -> dict[str, str]:
    """Settings under their environment names."""
    return {name if name.startswith(_PREFIX) else f"{_PREFIX}{name.upper()}": str(value) for name, value in env.items()}


def _queues() -> tuple[str, ...]:
    """What our workers serve: `gpu` as well where diffusion models can run, if only on the CPU."""
    able = all(find_spec(name) for name in ("torch", "diffusers"))
    return ("cpu", "encode", "gpu") if able else ("cpu", "encode")


def _checked(environment: Mapping[str, str]) -> Settings:
    """The settings that the children will read; a wrong one is a `SettingsError` before any of them starts."""
    try:
        return Settings.model_validate({_field(name): value for name, value in environment.items()})
    except ValidationError as error:
        wrong = map(told, error.errors(include_input=False))
        raise SettingsError(f"cannot start, fix the environment: {'; '.join(wrong)}") from None


def _field(name: str) -> str:
    return name.removeprefix(_PREFIX).lower()


def _elsewhere(known: Mapping[str, str]) -> embedded.Elsewhere:
    """The servers that are configured; an empty variable counts as none."""
    given = {_field(name): value or None for name, value in known.items()}
    return embedded.Elsewhere(**{one.name: given.get(one.name) for one in fields(embedded.Elsewhere)})
