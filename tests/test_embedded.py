"""Embedded servers: they are the real ones, they keep their data, and they go when they are told to."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg
import pytest
import redis
from only import only
from redis.exceptions import ConnectionError as RedisDown

from framewright import embedded
from framewright.embedded import ports, server
from framewright.embedded.datadir import DataDir
from framewright.errors import EmbeddedServerError

pytestmark = pytest.mark.fault


def answer(url: str, question: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(question).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None


def do(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


@contextmanager
def hold(port: int) -> Iterator[None]:
    """Someone else listens on `port`."""
    with socket.create_server((ports.HOST, port)):
        yield


def test_the_database_is_postgres_18_with_unicode_and_only_listens_on_the_loopback(servers):
    assert str(answer(servers.database_url, "SHOW server_version")).startswith("18.")
    assert answer(servers.database_url, "SELECT upper('é') || upper('ç')") == "ÉÇ"
    assert answer(servers.database_url, "SHOW server_encoding") == "UTF8"
    assert answer(servers.database_url, "SHOW listen_addresses") == "127.0.0.1"
    assert answer(servers.database_url, "SHOW unix_socket_directories") == ""


def test_a_database_login_needs_the_password(servers):
    wrong = servers.database_url.replace(servers.postgres._password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_redis_appends_every_second_never_evicts_and_needs_the_password(servers):
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        asked = {name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "save")}
        assert asked == {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.info("server")["redis_version"] is not None
    with redis.Redis(port=servers.valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_secrets_are_private_and_in_no_argument_and_no_environment(servers):
    data = servers.data
    secrets = [data.secret(name) for name in ("postgres_password", "valkey_password", "s3_secret_key")]
    assert len(set(secrets)) == 3
    logs = [f"logs/{name}.log" for name in ("postgres", "valkey", "s3", "guard")]
    for name in ("secrets.json", "state.json", "lock", *logs):
        assert stat.S_IMODE((data.path / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((data.path / "logs").stat().st_mode) == 0o700
    assert stat.S_IMODE(data.path.stat().st_mode) & 0o066 == 0
    for pid in servers.pids.values():
        process = psutil.Process(pid)
        seen = " ".join(process.cmdline()) + " ".join(process.environ().values())
        assert not [secret for secret in secrets if secret in seen]
    for log in (data.path / "logs").iterdir():
        assert not [secret for secret in secrets if secret in log.read_text(errors="replace")]


def test_each_server_leads_its_own_session(servers):
    for pid in servers.pids.values():
        assert os.getsid(pid) == pid


def test_stop_leaves_no_process_no_port_and_no_lock(home):
    before = set(psutil.Process().children(recursive=True))
    running = embedded.start(home, durable=False)
    started = set(psutil.Process().children(recursive=True)) - before
    assert {running.postgres.pid, running.valkey.pid, running.s3.pid} < {process.pid for process in started}
    used = [server.port for server in running.each]
    running.stop()
    assert not [process for process in started if process.is_running()]
    assert all(ports.is_free(port) for port in used)
    with DataDir(home):
        pass
    running.stop()


def test_a_second_start_finds_its_data_its_ports_and_its_passwords(home):
    with embedded.start(home, durable=False) as first:
        do(first.database_url, "CREATE TABLE kept AS SELECT 42 AS n")
        redis.Redis.from_url(first.redis_url).set("kept", "here")
        urls = (first.database_url, first.redis_url, first.s3_endpoint, first.s3_secret_key)
    with embedded.start(home, durable=False) as second:
        assert (second.database_url, second.redis_url, second.s3_endpoint, second.s3_secret_key) == urls
        assert answer(second.database_url, "SELECT n FROM kept") == 42
        assert redis.Redis.from_url(second.redis_url).get("kept") == b"here"


def test_a_second_start_moves_to_another_port_when_its_last_one_is_taken(home):
    with embedded.start(home, elsewhere=only("valkey"), durable=False) as first:
        last = first.valkey.port
    with hold(last), embedded.start(home, elsewhere=only("valkey"), durable=False) as second:
        assert second.valkey.port != last
        assert redis.Redis.from_url(second.redis_url).ping()


def test_committed_rows_outlive_a_killed_postgres(own_postgres):
    postgres = own_postgres
    do(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
    open_session = psycopg.connect(postgres.url, autocommit=True)
    postgres.kill()
    assert not postgres.running
    with pytest.raises(psycopg.OperationalError):
        open_session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.url, connect_timeout=2)
    postgres.start()
    assert answer(postgres.url, "SELECT n FROM kept") == 42


@pytest.mark.parametrize("name", ["postgres", "valkey", "s3"])
def test_every_server_restarts_on_its_port_after_a_stop_a_kill_and_a_pause(request, name):
    server = request.getfixturevalue(f"own_{name}")
    port, pids = server.port, [server.pid]
    server.restart()
    pids.append(server.pid)
    server.kill()
    server.start()
    pids.append(server.pid)
    server.pause()
    assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
    server.resume()
    assert server._answers()
    server.pause()
    server.restart()
    pids.append(server.pid)
    assert server._answers()
    assert server.port == port
    assert len(set(pids)) == 4
    assert not [pid for pid in pids[:3] if psutil.pid_exists(pid)]


def test_valkey_keeps_its_keys_over_a_restart_and_loses_them_when_it_restarts_empty(own_valkey):
    client = redis.Redis.from_url(own_valkey.url)
    client.set("a", "1")
    own_valkey.restart()
    assert client.get("a") == b"1"
    own_valkey.restart(empty=True)
    assert client.get("a") is None
    own_valkey.kill()
    with pytest.raises(RedisDown):
        redis.Redis.from_url(own_valkey.url, retry=None).ping()


def test_the_append_only_file_of_a_crash_loses_its_torn_tail_only(own_valkey):
    client = redis.Redis.from_url(own_valkey.url)
    client.set("whole", "1")
    own_valkey.kill()
    [tail] = (own_valkey.data.path / "valkey" / "appendonlydir").glob("*.incr.aof")
    with tail.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    own_valkey.start()
    assert client.get("whole") == b"1"


def test_an_unreadable_append_only_file_names_what_to_remove(own_valkey):
    own_valkey.kill()
    [tail] = (own_valkey.data.path / "valkey" / "appendonlydir").glob("*.incr.aof")
    with tail.open("ab") as file:
        file.write(b"*3\r\nnonsense\r\n" + b"*1\r\n$4\r\nPING\r\n" * 9)
    with pytest.raises(EmbeddedServerError, match=r"remove .*valkey .*no job is lost"):
        own_valkey.start()


def test_a_server_that_stays_silent_is_ended_and_what_its_process_did_is_told(own_valkey, monkeypatch):
    monkeypatch.setattr(server, "_READY_S", 1.0)
    own_valkey.pause()
    with pytest.raises(EmbeddedServerError, match=r"valkey did not answer within 1 s \(its process is stopped\)"):
        own_valkey._await_ready(own_valkey._child)
    assert not own_valkey.running


def test_a_configured_address_starts_nothing(home):
    elsewhere = embedded.Elsewhere(redis_url="redis://elsewhere:6379/0", s3_endpoint="http://s3:9000")
    with embedded.start(home, elsewhere=elsewhere, durable=False) as running:
        assert set(running.pids) == {"postgres"}
        assert running.valkey is None
        assert running.redis_url == "redis://elsewhere:6379/0"
        assert running.s3_endpoint == "http://s3:9000"
        assert running.environment()["FRAMEWRIGHT_REDIS_URL"] == "redis://elsewhere:6379/0"
        assert "FRAMEWRIGHT_S3_SECRET_KEY" not in running.environment()
    assert not (home / "valkey").exists()


@pytest.mark.parametrize("name", ["postgres", "valkey", "s3"])
def test_a_taken_port_is_named_and_the_other_servers_end(home, name):
    before = set(psutil.Process().children(recursive=True))
    port = ports.choose()
    with hold(port), pytest.raises(EmbeddedServerError, match=rf"port {port} for {name} is taken.*choose another"):
        embedded.start(home, ports=embedded.Ports(**{name: port}), durable=False)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_half_made_database_directory_is_made_again(home):
    with DataDir(home) as data:
        nursery = data.folder("postgres.new")
        (nursery / "cluster").mkdir()
        (nursery / "cluster" / "PG_VERSION").write_text("18\n")
        postgres = embedded.Postgres(data, durable=False)
        postgres.start()
        assert answer(postgres.url, "SELECT 1") == 1
    assert not nursery.exists()
