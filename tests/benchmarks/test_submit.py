"""What a durable submit costs the API process, against the usual insert and `apply_async` in the same run."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import redis
from figures import Figure, Figures, rounded
from load import Post, cpu_s, grown_s, memory, sender, sessions_cpu_s, settle

from framewright.local import System

ROUNDS = 9
REQUESTS = 800
WARM_UP = 400
BODY = {
    "kind": "animate",
    "model": "scripted",
    "params": {"frames": 24, "fps": 24, "size": "320x192", "steps": 4},
    "metadata": {"campaign": "spring", "shot": "12"},
}


def test_cpu_of_a_durable_submit(build: Callable[..., System], figures: Figures) -> None:
    system = build(workers=0, max_queued=1_000_000, max_queued_per_tenant=1_000_000)
    postgres = system.servers.postgres
    assert postgres
    key = {"Authorization": f"Bearer {system.api_key}"}
    posts = {
        "stock": Post("/api/v1/jobs", BODY, dict),
        "ours": Post("/api/v1/jobs", BODY, lambda: key),
        "ours_idempotent": Post("/api/v1/jobs", BODY, lambda: {**key, "Idempotency-Key": uuid.uuid4().hex}),
    }
    ms: dict[str, list[float]] = {name: [] for name in posts}
    database_ms: dict[str, list[float]] = {name: [] for name in posts}
    with _stock(system) as (stock_url, stock), _idle_fleet(system), sender(stock_url) as a, sender(system.url) as b:
        ours = psutil.Process(system.services["api"].pid)
        for at in range(-1, ROUNDS):
            # Turn about, so that whatever else the machine does meets all of them.
            for name, post in posts.items():
                process, send = (stock, a) if name == "stock" else (ours, b)
                database = "stock" if name == "stock" else "framewright"
                before, sessions = cpu_s(process), sessions_cpu_s(postgres.pid, database)
                send(post, WARM_UP if at < 0 else REQUESTS)
                settle()
                if at >= 0:
                    ms[name].append((cpu_s(process) - before) * 1000 / REQUESTS)
                    in_postgres_s = grown_s(sessions, sessions_cpu_s(postgres.pid, database))
                    database_ms[name].append(in_postgres_s * 1000 / REQUESTS)
            used = memory(ours)
            figures.say(f"submit round {at + 1} of {ROUNDS}: {_latest(ms)}")
    for name, title in (("ours", "without"), ("ours_idempotent", "with")):
        figures.add(
            Figure(
                f"submit_cpu_ratio_{name}",
                f"CPU of a durable submit {title} Idempotency-Key / stock",
                statistics.median(one / other for one, other in zip(ms[name], ms["stock"], strict=True)),
                "x",
                0.5,
                {
                    "api_ms": rounded(statistics.median(ms[name])),
                    "stock_api_ms": rounded(statistics.median(ms["stock"])),
                    "postgres_ms": rounded(statistics.median(database_ms[name])),
                    "stock_postgres_ms": rounded(statistics.median(database_ms["stock"])),
                    "rounds_api_ms": [rounded(value) for value in ms[name]],
                    "rounds_stock_api_ms": [rounded(value) for value in ms["stock"]],
                    "requests_a_round": REQUESTS,
                },
            )
        )
    figures.add(
        Figure("used_api_rss_mb", "RSS of an API process after those submits", used["rss_mb"], "MB", None, used)
    )


def _latest(ms: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.3f} ms" for name, values in ms.items() if values) or "warm-up"


@contextmanager
def _stock(system: System) -> Iterator[tuple[str, psutil.Process]]:
    """The stock app under uvicorn with the options that matter of our own: one process, no access log."""
    postgres = system.servers.postgres
    assert postgres
    with psycopg.connect(postgres.url_of("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE stock")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(Path(__file__).parent / "stock")]
    environment = {
        **os.environ,
        "STOCK_DATABASE_URL": postgres.url_of("stock").replace("postgresql://", "postgresql+psycopg://", 1),
        "STOCK_REDIS_URL": system.servers.redis_url,
    }
    process = subprocess.Popen(
        [*argv, "--port", str(port), "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"],
        env=environment,
        cwd="/",
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"{url}/healthz"):
            assert process.poll() is None, "the stock app ended at start"
            assert time.monotonic() < deadline, "the stock app does not answer"
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(15)


@contextmanager
def _idle_fleet(system: System) -> Iterator[None]:
    """Takes every message at once, as idle workers would, so that both sides really send theirs."""
    client = redis.Redis.from_url(system.servers.redis_url, socket_timeout=5)
    over = threading.Event()
    queues = [f"{system.environment.get('FRAMEWRIGHT_REDIS_PREFIX', 'fw:')}cpu", "celery"]

    def take() -> None:
        while not over.is_set():
            client.brpop(queues, timeout=1)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        client.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
