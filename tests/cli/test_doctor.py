"""The doctor names what is missing, says what mends it, and exits by it."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framewright import doctor
from framewright.doctor import State

Run = Callable[..., Any]


def told(done: Any) -> dict[str, dict[str, Any]]:
    """The findings of `doctor --json` by name; each that is not ok must say what to do."""
    document = json.loads(done.stdout)
    assert document["ok"] == (done.returncode == 0)
    assert all(finding["fix"] for finding in document["findings"] if finding["state"] != "ok")
    return {finding["name"]: finding for finding in document["findings"]}


def test_nothing_is_missing_where_the_suite_runs(framewright: Run) -> None:
    done = framewright("doctor", "--json")
    findings = told(done)
    assert done.returncode == 0, done.stdout
    for name in ("python", "ffmpeg", "hevc encoder", "h264 encoder", "postgres", "valkey", "s3", "data directory"):
        assert findings[name]["state"] == "ok"


def test_a_person_reads_lines_and_how_to_mend_it(framewright: Run) -> None:
    done = framewright("doctor", FRAMEWRIGHT_FFMPEG="/nowhere/ffmpeg")
    assert done.returncode == 6
    assert "MISSING  ffmpeg: " in done.stdout
    assert "fix: pip install" in done.stdout
    assert done.stdout.endswith("1 missing\n")


def test_a_taken_port_is_named(framewright: Run) -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        done = framewright("doctor", "--json", "--port", str(mine.getsockname()[1]))
    assert told(done)["port"]["state"] == "missing"


def test_configured_servers_are_asked(framewright: Run, environment: dict[str, str]) -> None:
    done = framewright("doctor", "--json", **environment)
    findings = told(done)
    assert done.returncode == 0, done.stdout
    for name in ("settings", "database", "schema", "database clock", "redis", "s3"):
        assert findings[name]["state"] == "ok"
    assert "postgres" not in findings, "no wheel is needed where a server is configured"


def test_an_empty_database_wants_the_migrations(
    framewright: Run, environment: dict[str, str], empty_database_url: str
) -> None:
    done = framewright("doctor", "--json", **environment | {"FRAMEWRIGHT_DATABASE_URL": empty_database_url})
    schema = told(done)["schema"]
    assert done.returncode == 6
    assert (schema["state"], "upgrade head" in schema["fix"]) == ("missing", True)


@pytest.mark.parametrize(
    ("variable", "value", "finding"),
    [
        ("FRAMEWRIGHT_DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/x", "database"),
        ("FRAMEWRIGHT_REDIS_URL", "redis://:hush@127.0.0.1:1/0", "redis"),
        ("FRAMEWRIGHT_S3_ENDPOINT", "http://127.0.0.1:1", "s3"),
        ("FRAMEWRIGHT_S3_SECRET_KEY", "hush", "s3"),
        ("FRAMEWRIGHT_KEY_PEPPER", None, "settings"),
        ("FRAMEWRIGHT_LEASE_S", "hush", "settings"),
    ],
)
def test_what_is_configured_wrongly_is_named_and_no_secret_is(
    framewright: Run, environment: dict[str, str], variable: str, value: str | None, finding: str
) -> None:
    wrong = {name: text for name, text in (environment | {variable: value}).items() if text is not None}
    done = framewright("doctor", "--json", **wrong)
    found = told(done)[finding]
    assert (done.returncode, found["state"]) == (6, "missing")
    assert variable in found["fix"] + found["detail"] or finding == "s3"
    assert "hush" not in done.stdout + done.stderr


def test_a_service_that_does_not_answer_is_named(framewright: Run) -> None:
    done = framewright("doctor", "--json", FRAMEWRIGHT_URL="http://127.0.0.1:1")
    assert told(done)["service"]["state"] == "missing"
    assert done.returncode == 6


def test_a_service_is_asked_for_its_key_its_workers_and_its_clock(framewright: Run, at_service: dict[str, str]) -> None:
    findings = told(framewright("doctor", "--json", **at_service))
    assert [findings[name]["state"] for name in ("service", "service clock", "key", "workers")] == ["ok"] * 4


def test_a_wrong_key_is_named(framewright: Run, at_service: dict[str, str]) -> None:
    done = framewright("doctor", "--json", **at_service | {"FRAMEWRIGHT_API_KEY": "fw_live_wrong"})
    assert told(done)["key"]["state"] == "missing"
    assert done.returncode == 6


@pytest.mark.parametrize(("free", "state"), [(10**8, State.MISSING), (10**9, State.WARNING), (10**11, State.OK)])
def test_a_disk_that_fills_up_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert doctor.room("data directory", tmp_path / "not" / "yet").state == state


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = doctor.room("data directory", tmp_path / "file" / "data")
    assert (found.state, "chown" in str(found.fix)) == (State.MISSING, True)


@pytest.mark.parametrize(
    ("ahead_s", "state", "words"),
    [(0.5, State.OK, "within"), (-90.0, State.WARNING, "behind"), (90.0, State.WARNING, "ahead")],
)
def test_clocks_that_disagree_are_named(ahead_s: float, state: State, words: str) -> None:
    found = doctor.skew("clock", ahead_s)
    assert found.state == state
    assert words in found.detail
