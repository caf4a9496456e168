"""Doorbells: topped up and never piled up, and worth nothing: a lost, doubled or forged one changes no outcome."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redis_settings import settings_on
from waiting import until

from framewright import embedded
from framewright.dispatch import celery_app
from framewright.doorbells import MAX_DOORBELLS, QUEUES, RING, Ringer
from framewright.embedded.datadir import python_environment
from framewright.errors import BrokerUnavailable
from framewright.settings import Settings


@pytest.fixture
def make_ringer() -> Iterator[Callable[[Settings], Ringer]]:
    with contextlib.ExitStack() as stack:

        def make(settings: Settings) -> Ringer:
            ringer = Ringer(settings)
            stack.callback(ringer.close)
            return ringer

        yield make


def client(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5)


def waiting(settings: Settings, queue: str) -> int:
    with client(settings) as asking:
        return int(asking.llen(f"{settings.redis_prefix}{queue}"))


WORKER = '''
import os
import redis
from framewright import dispatch, doorbells
from framewright.settings import Settings

settings = Settings()
app = dispatch.celery_app(settings)
board = redis.Redis.from_url(settings.redis_url.get_secret_value())
prefix = settings.redis_prefix

@app.task(name=doorbells.RING)
def ring():
    """Claims until nothing is left, as the supervisor does; the board stands in for the database."""
    while step := board.spop(prefix + "board"):
        board.rpush(prefix + "done", step)
    board.incr(prefix + "rounds")
'''


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[Settings], subprocess.Popen[bytes]]]:
    """A real Celery worker with the flags of the real ones, whose doorbell clears a board kept in Redis."""
    (tmp_path / "doorbell_worker.py").write_text(WORKER)
    flags = ["-P", "threads", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    with contextlib.ExitStack() as stack:

        def start(settings: Settings) -> subprocess.Popen[bytes]:
            paths = [str(tmp_path), *python_environment()["PYTHONPATH"].split(os.pathsep)]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "FRAMEWRIGHT_DATABASE_URL": settings.database_url.get_secret_value(),
                "FRAMEWRIGHT_REDIS_URL": settings.redis_url.get_secret_value(),
                "FRAMEWRIGHT_REDIS_PREFIX": settings.redis_prefix,
                "FRAMEWRIGHT_KEY_PEPPER": "pepper-of-the-tests",
            }
            log = stack.enter_context((tmp_path / "worker.log").open("ab"))
            argv = [sys.executable, "-m", "celery", "-A", "doorbell_worker:app", "worker", *flags]
            argv += ["-Q", ",".join(QUEUES), "-n", f"w{uuid.uuid4().hex[:6]}@here", "-l", "INFO"]
            process = subprocess.Popen(argv, env=environment, cwd=tmp_path, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def rounds(settings: Settings) -> int:
    with client(settings) as asking:
        return int(asking.get(f"{settings.redis_prefix}rounds") or 0)


def heard_after(settings: Settings, ringer: Ringer) -> None:
    """Rings once, and waits until a worker has had a round for it."""
    before = rounds(settings)
    ringer.ring("cpu")
    until(lambda: rounds(settings) > before)


def test_a_queue_is_topped_up_and_never_over_its_cap(here: Settings, make_ringer: Callable[[Settings], Ringer]) -> None:
    ringer = make_ringer(here)
    assert ringer.ring_now("gpu", 3) == 3
    assert ringer.ring_now("gpu", 3) == 0
    assert ringer.ring_now("gpu", 5) == 2
    assert ringer.ring_now("gpu", 100_000) == MAX_DOORBELLS - 5
    assert ringer.ring_now("gpu", 100_000) == 0
    assert [waiting(here, queue) for queue in QUEUES] == [MAX_DOORBELLS, 0, 0, 0, 0]


def test_a_doorbell_is_json_without_arguments_and_leaves_nothing_else_behind(
    here: Settings, make_ringer: Callable[[Settings], Ringer]
) -> None:
    make_ringer(here).ring_now("encode.hw")
    with client(here) as asking:
        assert list(asking.scan_iter(f"{here.redis_prefix}*")) == [f"{here.redis_prefix}encode.hw".encode()]
        (raw,) = asking.lrange(f"{here.redis_prefix}encode.hw", 0, -1)
    message = json.loads(raw)
    assert message["headers"]["task"] == RING
    assert message["headers"]["ignore_result"] is True
    assert (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"]) == ("()", "{}")
    assert message["content-type"] == "application/json"


def test_rings_from_many_callers_meet(here: Settings, make_ringer: Callable[[Settings], Ringer]) -> None:
    ringer = make_ringer(here)
    for _ in range(500):
        ringer.ring("cpu")
        ringer.ring("encode", 2)
    ringer.close()

    assert 1 <= waiting(here, "cpu") <= MAX_DOORBELLS
    assert 2 <= waiting(here, "encode") <= MAX_DOORBELLS


def test_an_unknown_queue_is_not_made(here: Settings, make_ringer: Callable[[Settings], Ringer]) -> None:
    ringer = make_ringer(here)
    ringer.ring("nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        ringer.ring_now("nowhere")
    ringer.close()
    with client(here) as asking:
        assert not list(asking.scan_iter(f"{here.redis_prefix}*"))


def test_a_tls_url_means_a_checked_certificate_for_workers(here: Settings) -> None:
    app = celery_app(settings_on("rediss://:secret@redis.example.test:6380/0", "fw:"))
    assert app.connection_for_write().ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert not celery_app(here).connection_for_write().ssl


@pytest.mark.parametrize(("told_of_the_authority", "shaken"), [(False, False), (True, True)])
def test_a_ringer_speaks_tls_only_to_a_certificate_it_can_check(
    told_of_the_authority: bool, shaken: bool, make_ringer: Callable[[Settings], Ringer], tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    query = f"?ssl_ca_certs={tmp_path}/authority.pem" if told_of_the_authority else ""
    with socket.create_server(("localhost", 0)) as listener, ThreadPoolExecutor() as pool:

        def shake_hands() -> bool:
            plain, _ = listener.accept()
            with plain:
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except ssl.SSLError:
                    return False
            return True

        done = pool.submit(shake_hands)
        ringer = make_ringer(settings_on(f"rediss://localhost:{listener.getsockname()[1]}/0{query}", "fw:"))
        with pytest.raises(BrokerUnavailable):
            ringer.ring_now("cpu")
        assert done.result(10) is shaken


@pytest.mark.fault
def test_nobody_waits_for_a_hung_redis_and_the_doorbell_comes_later(
    own: Settings, own_valkey: embedded.Valkey, make_ringer: Callable[[Settings], Ringer]
) -> None:
    ringer = make_ringer(own)
    ringer.ring_now("gpu")
    own_valkey.pause()
    try:
        # A call that waited for Redis would need seconds, and two thousand of them an hour.
        for _ in range(2000):
            ringer.ring("cpu")
        with pytest.raises(BrokerUnavailable):
            ringer.ring_now("gpu", 2)
        with pytest.raises(BrokerUnavailable):
            make_ringer(own).ring_now("gpu", 2)
    finally:
        own_valkey.resume()
    until(lambda: waiting(own, "cpu"))
    assert ringer.ring_now("gpu", MAX_DOORBELLS) >= MAX_DOORBELLS - 4


@pytest.mark.fault
def test_a_ring_during_an_outage_is_heard_after_it(
    own: Settings, own_valkey: embedded.Valkey, make_ringer: Callable[[Settings], Ringer]
) -> None:
    ringer = make_ringer(own)
    ringer.ring_now("cpu", 7)
    own_valkey.kill()
    ringer.ring("cpu", 2)
    with pytest.raises(BrokerUnavailable):
        ringer.ring_now("encode")
    own_valkey.restart(empty=True)

    until(lambda: waiting(own, "cpu") == 2)
    assert ringer.ring_now("encode") == 1


@pytest.mark.fault
@pytest.mark.timeout(120)
def test_a_worker_outlives_every_loss_of_redis(
    own: Settings,
    own_valkey: embedded.Valkey,
    make_ringer: Callable[[Settings], Ringer],
    start_worker: Callable[[Settings], subprocess.Popen[bytes]],
) -> None:
    ringer, worker = make_ringer(own), start_worker(own)
    heard_after(own, ringer)

    with client(own) as asking:
        asking.flushall()
    heard_after(own, ringer)

    own_valkey.kill()
    own_valkey.restart(empty=True)
    heard_after(own, ringer)

    own_valkey.pause()
    ringer.ring("gpu")
    with pytest.raises(BrokerUnavailable):
        make_ringer(own).ring_now("cpu")
    own_valkey.resume()
    # As quick as before: a worker that stays deaf for a second after each round would need minutes.
    for _ in range(200):
        heard_after(own, ringer)
    assert worker.poll() is None


@pytest.mark.timeout(90)
def test_a_worker_listens_again_as_soon_as_a_round_ends(
    here: Settings,
    make_ringer: Callable[[Settings], Ringer],
    start_worker: Callable[[Settings], subprocess.Popen[bytes]],
) -> None:
    ringer = make_ringer(here)
    start_worker(here)
    # Celery alone stays deaf for up to a second after each round, which would take minutes here.
    for _ in range(200):
        heard_after(here, ringer)


@pytest.mark.fault
def test_an_idle_worker_holds_few_connections_and_no_chatter(
    own: Settings,
    make_ringer: Callable[[Settings], Ringer],
    start_worker: Callable[[Settings], subprocess.Popen[bytes]],
) -> None:
    ringer = make_ringer(own)
    for _ in range(2):
        start_worker(own)
        heard_after(own, ringer)
    ringer.close()

    with client(own) as asking:
        until(lambda: sum(one["cmd"] == "brpop" for one in asking.client_list()) == 2)
        names = {one["name"] for one in asking.client_list()}
        # Two workers of this test: a consumer, a channel and the board of the test each. Mine is the one that asks.
        assert len(asking.client_list()) - 1 <= 6
        # Gossip, mingle, events and remote control would each show as a channel.
        assert asking.pubsub_channels() == []
        assert names == {""}


def scramble(settings: Settings, queue: str) -> None:
    """What a broker may do: loses some doorbells, doubles some, turns the order around, and lets strangers write."""
    key, chance = f"{settings.redis_prefix}{queue}", random.Random(7)
    with client(settings) as broker:
        bells = broker.lrange(key, 0, -1)
        broker.delete(key)
        kept = [bell for bell in bells if chance.random() < 0.5]
        forged = json.loads(bells[0])
        forged["headers"]["task"] = "os.system"
        pickled = {**json.loads(bells[0]), "content-type": "application/x-python-serialize"}
        junk: list[Any] = [
            b"",
            b"garbage",
            b"{}",
            b"[]",
            b"7",
            b"\xff\xfe",
            b'{"body":"e30=","headers":{}}',
            b"[" * 100_000,
        ]
        junk += [json.dumps(forged), json.dumps(pickled), json.dumps({**json.loads(bells[0]), "body": "%%%"})]
        mess = [*kept, *kept, *junk]
        chance.shuffle(mess)
        broker.rpush(key, *mess)


def forgeries(bell: dict[str, Any]) -> Iterator[bytes]:
    """The message with one thing wrong at a time, at every place down to the second level."""
    wrong = [None, 0, -1, "", "%%%", "\u202e", [], {}, [[]], {"a": 1}, 1e308, True]
    places: list[list[str]] = [[key] for key in bell]
    places += [[key, inner] for key, value in bell.items() if isinstance(value, dict) for inner in value]
    for place in places:
        for value in [*wrong, ...]:
            forged = json.loads(json.dumps(bell))
            holder = forged[place[0]] if len(place) == 2 else forged
            if value is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            yield json.dumps(forged).encode()


@pytest.mark.fault
def test_no_forged_message_stops_a_worker_or_makes_it_deaf(
    here: Settings,
    make_ringer: Callable[[Settings], Ringer],
    start_worker: Callable[[Settings], subprocess.Popen[bytes]],
) -> None:
    ringer = make_ringer(here)
    key = f"{here.redis_prefix}cpu"
    ringer.ring_now("cpu")
    with client(here) as broker:
        bell = json.loads(broker.rpop(key))
        worker = start_worker(here)
        heard_after(here, ringer)
        for forged in forgeries(bell):
            broker.lpush(key, forged)
        until(lambda: not broker.llen(key) or worker.poll() is not None)
    heard_after(here, ringer)
    assert worker.poll() is None


@pytest.mark.fault
def test_dropped_doubled_reordered_and_forged_doorbells_change_nothing(
    own: Settings,
    make_ringer: Callable[[Settings], Ringer],
    start_worker: Callable[[Settings], subprocess.Popen[bytes]],
) -> None:
    ringer = make_ringer(own)
    steps = {f"step-{number}" for number in range(40)}
    with client(own) as board:
        board.sadd("fw:board", *sorted(steps))
        for queue in ("cpu", "gpu"):
            ringer.ring_now(queue, 20)
            scramble(own, queue)
        workers = [start_worker(own), start_worker(own)]
        until(lambda: not any(waiting(own, queue) for queue in ("cpu", "gpu")))
        # All of them lost: whoever looks for waiting work rings again.
        board.sadd("fw:board", "late")
        heard_after(own, ringer)
        until(lambda: board.llen("fw:done") >= len(steps) + 1)

        assert sorted(step.decode() for step in board.lrange("fw:done", 0, -1)) == sorted({*steps, "late"})
    assert [worker.poll() for worker in workers] == [None, None]
