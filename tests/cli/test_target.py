"""Which service a command talks to, and whom it gives the key."""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from framewright.cli.exits import UsageError
from framewright.cli.target import announce, latest, resolve, running, withdraw

LOCAL = "http://127.0.0.1:4567"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and an environment of this test's own."""
    for name in ("FRAMEWRIGHT_URL", "FRAMEWRIGHT_API_KEY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def asked(url: str | None = None, key: str | None = None, data: Path | None = None) -> tuple[str, str | None]:
    return resolve(argparse.Namespace(url=url, api_key=key, data=data))


def test_without_anything_it_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="framewright up"):
        asked()


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEWRIGHT_URL", "http://env")
    monkeypatch.setenv("FRAMEWRIGHT_API_KEY", "key-env")
    assert asked() == ("http://env", "key-env")
    assert asked("http://flag", "key-flag") == ("http://flag", "key-flag")
    assert asked("http://flag") == ("http://flag", "key-env")


def test_the_local_service_is_found_by_its_data_directory_and_without(data: Path) -> None:
    written = announce(data, LOCAL, "key-local")
    assert asked() == (LOCAL, "key-local")
    assert asked(data=data) == (LOCAL, "key-local")
    withdraw(written)
    with pytest.raises(UsageError):
        asked(data=data)
    assert not any(file.exists() for file in written)


def test_the_key_of_the_local_service_goes_to_no_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(data, LOCAL, "key-local")
    assert asked("http://elsewhere") == ("http://elsewhere", None)
    monkeypatch.setenv("FRAMEWRIGHT_URL", "https://elsewhere")
    assert asked() == ("https://elsewhere", None)
    assert asked(LOCAL + "/") == (LOCAL + "/", "key-local")


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="http"):
        asked("localhost:8000")


def test_only_the_owner_may_read_the_state(data: Path) -> None:
    for file in announce(data, LOCAL, "key-local"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_service_that_was_killed_is_not_there(data: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    state = {"url": LOCAL, "api_key": "k", "pid": gone.pid, "started": psutil.Process(gone.pid).create_time()}
    gone.wait()
    (data / "up.json").write_text(json.dumps(state))
    assert running(data) is None


def test_another_process_with_the_pid_of_a_dead_one_is_not_the_service(data: Path) -> None:
    (data / "up.json").write_text(json.dumps({"url": LOCAL, "api_key": "k", "pid": os.getpid(), "started": 1.0}))
    assert running(data) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"url": "http://x"}', '{"url":1,"api_key":2,"pid":"x"}'])
def test_a_damaged_state_file_counts_as_none(data: Path, text: str) -> None:
    (data / "up.json").write_text(text)
    assert running(data) is None


def test_a_second_service_does_not_take_the_place_of_the_first(data: Path, tmp_path: Path) -> None:
    announce(data, LOCAL, "key-first")
    second = tmp_path / "second"
    written = announce(second, "http://127.0.0.1:9", "key-second")
    assert asked() == (LOCAL, "key-first")
    assert asked(data=second) == ("http://127.0.0.1:9", "key-second")
    withdraw(written)
    assert asked() == (LOCAL, "key-first")


def test_the_state_of_another_process_is_not_withdrawn(data: Path) -> None:
    (written,) = [file for file in announce(data, LOCAL, "k") if file.parent == data]
    state = json.loads(written.read_text())
    written.write_text(json.dumps(state | {"pid": 1}))
    withdraw([written])
    assert written.exists()


def test_a_place_that_cannot_be_written_does_not_stop_the_service(data: Path, home: Path) -> None:
    home.mkdir()
    latest().parent.parent.mkdir(parents=True, exist_ok=True)
    latest().parent.write_text("a file where a folder should be")
    assert [file.parent for file in announce(data, LOCAL, "k")] == [data]
