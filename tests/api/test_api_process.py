"""The API as a process: what it loads, how it starts, several of it on one port, and what it shows of itself."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psutil
import pytest
from service import ADMIN_KEY, Api, animate, serve
from waiting import until

from api import parts
from api.app import create_app
from api.metrics import Metrics
from api.serve import MAX_HEAD
from framewright.embedded.datadir import python_environment
from framewright.settings import Settings

HEAVY = ("torch", "diffusers", "workers", "PIL", "av", "numpy", "boto3", "alembic", "sqlalchemy", "celery")


def test_importing_the_application_needs_no_environment_and_loads_nothing_heavy() -> None:
    code = f"import api.main, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=python_environment(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_a_missing_setting_is_named_at_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.serve"], env=python_environment(), capture_output=True, check=False
    )
    assert done.returncode == 78
    assert b"FRAMEWRIGHT_DATABASE_URL" in done.stderr


def test_an_idle_process_is_small(api: Api, client: httpx.Client) -> None:
    client.get("/readyz")
    assert psutil.Process(api.process.pid).memory_info().rss < 150 * 2**20


def test_several_processes_share_a_port_and_their_numbers(environment: dict[str, str], picture: str) -> None:
    with serve(environment, workers=2) as pair, pair.client() as client:
        children = api_processes(pair)
        assert len(children) == 2

        def submit(_: int) -> int:
            with pair.client() as another:
                return another.post("/api/v1/jobs", json=animate(picture)).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(submit, range(24))) == {201}
        counted = re.findall(
            r'framewright_jobs_submitted_total\{kind="animate".*?\} ([\d.]+)', client.get("/metrics").text
        )
        assert sum(map(float, counted)) == 24
        children[0].kill()
        until(lambda: len(api_processes(pair)) == 2 and children[0] not in api_processes(pair))
        until(lambda: _answers(client))
        children = api_processes(pair)
    assert not any(alive(child) for child in children)


def api_processes(api: Api) -> list[psutil.Process]:
    children = psutil.Process(api.process.pid).children()
    return [child for child in children if alive(child) and "spawn_main" in " ".join(child.cmdline())]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/api/v1/jobs").is_success
    except httpx.TransportError:
        return False


def test_a_term_ends_it_cleanly_with_a_stream_open(environment: dict[str, str], picture: str) -> None:
    with serve(environment) as running, running.client() as client:
        job = client.post("/api/v1/jobs", json=animate(picture)).json()
        with client.stream("GET", job["links"]["events"]) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(running.process.pid, signal.SIGTERM)
            assert list(lines)[-1] == ""
        assert running.process.wait(15) in {0, -signal.SIGTERM}


def test_metrics_speak_of_routes_and_never_of_what_was_asked(client: httpx.Client) -> None:
    client.get("/api/v1/jobs/job_secret-in-a-path")
    client.get("/secret-path")
    client.request("SECRETMETHOD", "/api/v1/jobs")
    text = client.get("/metrics").text
    assert 'route="/api/v1/jobs/:job_id"' in text
    assert 'route="unmatched"' in text
    assert "secret" not in text.lower()
    assert ADMIN_KEY not in text


def test_a_surprise_is_a_500_that_tells_only_the_request_id(
    caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    app = create_app(lambda: settings)

    @app.get("/surprise")
    def surprise() -> None:
        raise ZeroDivisionError("a secret of ours")

    async def ask() -> httpx.Response:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
                return await client.get("/surprise", headers={"X-Request-Id": "find-me"})

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "find-me" in caplog.text


def test_no_thread_of_ours_outlives_the_application(settings: Settings) -> None:
    app = create_app(lambda: settings)

    def watching() -> bool:
        return any(thread.name == "storage-watch" for thread in threading.enumerate())

    async def live() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(until, lambda: app.state.parts.storage_watch.last()[0] == "ok")
            assert watching()

    asyncio.run(live())
    assert not watching()


def test_the_bucket_is_there_before_anybody_is_told_to_come(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(s3_bucket=f"new-{uuid.uuid4().hex[:12]}")

    class Noting(threading.Event):
        """Notes what there is when it is set."""

        bucket_is_there = False

        def set(self) -> None:
            made.storage.ping()
            self.bucket_is_there = True
            super().set()

    prepared = Noting()
    # Long enough for an S3 on a machine that has much else to do.
    made = replace(parts.build(settings, Metrics()), prepared=prepared, bucket_s=60)
    made.prepare()
    asyncio.run(made.close())
    assert prepared.bucket_is_there


def test_an_s3_that_hangs_at_the_start_keeps_nobody_out(make_settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = parts.build(make_settings(s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), Metrics())
        threading.Thread(target=made.prepare, daemon=True).start()
        # Its client gives up after twice as long as is waited for here.
        assert made.prepared.wait(20)
        asyncio.run(made.close())


def connect(api: Api) -> socket.socket:
    url = httpx.URL(api.url)
    assert url.port
    return socket.create_connection((url.host, url.port), timeout=30)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nEndless: ",
        b"GET /",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_headers_without_an_end_are_cut_off(api: Api, client: httpx.Client, start: bytes, kept: bool) -> None:
    with connect(api) as endless:
        if kept:
            endless.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert healthy(endless)
        endless.sendall(start + b"a" * (MAX_HEAD - len(start)) if start.strip() else start * (MAX_HEAD // 2))
        endless.sendall(b"a")
        assert endless.recv(1024).startswith(b"HTTP/1.1 431 ")
        assert endless.recv(1024) == b""
    assert client.get("/healthz").is_success


def test_trailers_without_an_end_are_cut_off(api: Api) -> None:
    """Without a word: the answer of one whose body only took too long to come would say so."""
    start = b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nEndless: "
    answer = b""
    with connect(api) as endless:
        try:
            endless.sendall(start + b"a" * 2 * MAX_HEAD)
            while piece := endless.recv(1024):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert answer == b""


def test_a_body_larger_than_headers_may_be_is_no_header(client: httpx.Client, picture: str) -> None:
    for _ in range(2):
        answer = client.post("/api/v1/jobs", content=b" " * 3 * MAX_HEAD, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def healthy(connection: socket.socket) -> bytes:
    """The whole answer of /healthz, in however many pieces it comes."""
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        piece = connection.recv(4096)
        assert piece, answer
        answer += piece
    return answer


def test_a_connection_that_asks_nothing_is_closed_and_one_that_asked_is_kept(api: Api, picture: str) -> None:
    with connect(api) as silent, connect(api) as half, connect(api) as whole, api.client() as client:
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        whole.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert healthy(whole).startswith(b"HTTP/1.1 200 ")
        with client.stream("GET", client.post("/api/v1/jobs", json=animate(picture)).json()["links"]["events"]):
            assert silent.recv(1024) == half.recv(1024) == b""
            whole.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert healthy(whole).startswith(b"HTTP/1.1 200 ")
