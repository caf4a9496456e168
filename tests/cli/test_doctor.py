"""The doctor names what is missing, says what mends it, and exits by it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from authority import pair
from command_line import clean_environment

from framewright import doctor
from framewright.cli.target import announce, withdraw
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


def test_a_key_that_may_not_see_everything_is_a_warning_with_the_command_for_another(
    framewright: Run, at_service: dict[str, str]
) -> None:
    made = json.loads(framewright("keys", "create", "narrow", "--scope", "jobs:read", "--json", **at_service).stdout)
    done = framewright("doctor", "--json", **at_service | {"FRAMEWRIGHT_API_KEY": made["key"]})
    findings = told(done)
    key = findings["key"]
    assert (done.returncode, key["state"], "workers" in findings) == (0, "warning", False)
    assert "lacks ops:read," in key["detail"]
    words = shlex.split(key["fix"][key["fix"].index("framewright ") :])[1:]
    better = json.loads(framewright(*words, "--json", **at_service).stdout)["key"]
    again = told(framewright("doctor", "--json", **at_service | {"FRAMEWRIGHT_API_KEY": better}))
    assert (again["key"]["state"], again["workers"]["state"]) == ("ok", "ok")


def test_the_data_directory_that_is_asked_for_is_the_one_that_is_checked(framewright: Run, tmp_path: Path) -> None:
    found = told(framewright("doctor", "--json", "--data", "else where"))["data directory"]
    assert (found["state"], found["detail"].split(",")[0]) == ("ok", f"{tmp_path / 'else where'} (not made yet)")
    (tmp_path / "file").touch()
    done = framewright("doctor", "--json", "--data", tmp_path / "file" / "data")
    assert (done.returncode, told(done)["data directory"]["state"]) == (6, "missing")


def test_the_data_directory_of_the_service_that_runs_here_is_checked(
    framewright: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in clean_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    there = tmp_path / "there"
    there.mkdir()
    withdrawn = announce(there, "http://127.0.0.1:1", "a-key")
    try:
        found = told(framewright("doctor", "--json"))
    finally:
        withdraw(withdrawn)
    assert found["data directory"]["detail"].split(",")[0] == str(there)
    assert found["service"]["state"] == "missing"


@pytest.mark.parametrize(("uid", "state"), [(0, State.WARNING), (1000, State.OK)])
def test_root_is_told_that_an_ordinary_account_is_better(uid: int, state: State) -> None:
    found = doctor.account(uid)
    assert (found.state, "docs/operate.md" in str(found.fix)) == (state, uid == 0)


def test_who_asks_is_among_the_findings(framewright: Run) -> None:
    assert told(framewright("doctor", "--json"))["account"]["state"] == ("ok" if os.geteuid() else "warning")


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


def test_it_says_whose_certificate_signs(framewright: Run, tmp_path: Path) -> None:
    development = told(framewright("doctor", "--json"))["provenance"]
    assert (development["state"], "development certificate" in development["detail"]) == ("ok", True)
    assert not (tmp_path / ".local").exists(), "a doctor makes nothing"
    off = told(framewright("doctor", "--json", FRAMEWRIGHT_PROVENANCE="off"))["provenance"]
    assert (off["state"], off["detail"].startswith("off;")) == ("ok", True)
    own = told(framewright("doctor", "--json", **pair(tmp_path, ends=timedelta(days=90)).environment()))["provenance"]
    assert (own["state"], "operator's certificate CN=video.example.org" in own["detail"]) == ("ok", True)
    soon = told(framewright("doctor", "--json", **pair(tmp_path, ends=timedelta(days=9)).environment()))["provenance"]
    assert (soon["state"], "renewed" in soon["fix"]) == ("warning", True)


def test_a_certificate_that_cannot_sign_is_named(framewright: Run, tmp_path: Path) -> None:
    made = pair(tmp_path)
    made.key.write_text("nonsense")
    done = framewright("doctor", "--json", **made.environment())
    found = told(done)["provenance"]
    assert (done.returncode, found["state"]) == (6, "missing")
    assert "FRAMEWRIGHT_C2PA_KEY holds no private key" in found["detail"]
    wrong = told(framewright("doctor", "--json", FRAMEWRIGHT_PROVENANCE="perhaps"))["provenance"]
    assert (wrong["state"], "FRAMEWRIGHT_PROVENANCE" in wrong["detail"]) == ("missing", True)


def test_models_on_disk_are_counted_and_a_half_pulled_one_is_named(framewright: Run, tmp_path: Path) -> None:
    fresh = told(framewright("doctor", "--json", FRAMEWRIGHT_MODELS_DIR=str(tmp_path / "models")))["models"]
    assert fresh["state"] == "ok"
    assert re.match(r"0 of \d+ on disk, 0\.0 GB in .*models, [\d.]+ GB free", fresh["detail"])
    own = tmp_path / "own.toml"
    own.write_text('[[model]]\nname = "mine"\nlike = "wan-2.1-t2v-1.3b"\nrepo = "studio/mine"\n')
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "model_index.json").write_text("{}")
    where = {"FRAMEWRIGHT_MODELS_DIR": str(tmp_path / "models"), "FRAMEWRIGHT_CATALOGUE": str(own)}
    half = told(framewright("doctor", "--json", **where))["models"]
    assert (half["state"], half["fix"]) == ("warning", "framewright models pull mine")
    assert "mine is partial" in half["detail"]
    broken = told(framewright("doctor", "--json", **where | {"FRAMEWRIGHT_CATALOGUE": "/nowhere.toml"}))["models"]
    assert (broken["state"], "/nowhere.toml" in broken["detail"]) == ("missing", True)
