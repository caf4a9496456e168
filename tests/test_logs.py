"""Log lines: one record is one line, without secrets, and nobody's text can forge another."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framewright import logs
from framewright.settings import Settings

SECRETS = {
    "database_url": "postgresql://fw:db-pass%2Fword@db.example.test:5432/fw",
    "redis_url": "redis://:redis-password@redis.example.test:6379/0",
    "s3_access_key": "AKIDEXAMPLEKEY",
    "s3_secret_key": "s3/secret+value==",
    "key_pepper": "pepper-0123456789",
    "bootstrap_key": "fw_live_abcdefghijkl_bootstrapsecretbootstrapsecretboot_1a2b3c",
}
HIDDEN = ("db-pass%2Fword", "db-pass/word", "redis-password", *(SECRETS[name] for name in SECRETS if "url" not in name))


def make(**changes: Any) -> Settings:
    return Settings(**{**SECRETS, **changes})


@pytest.fixture
def configured() -> Iterator[Any]:
    """`configured(log_format=...)` sets the process's logging up and returns what was written so far."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def configure(**changes: Any) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(make(**changes), "api", stream)
        return stream

    yield configure
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", HIDDEN)
def test_no_secret_setting_is_ever_written(configured: Any, log_format: str, secret: str) -> None:
    written = configured(log_format=log_format)
    log = logging.getLogger("framewright.somewhere")
    log.warning("in the message: %s", secret)
    log.warning("in a field", extra={"detail": f"<{secret}>"})
    log.warning("deeper", extra={"detail": {"list": [secret]}})
    try:
        raise RuntimeError(f"could not connect with {secret}")
    except RuntimeError:
        log.exception("in a traceback")

    assert written.getvalue().count("***") >= 4
    assert secret not in written.getvalue()


@pytest.mark.parametrize(
    ("said", "hidden", "kept"),
    [
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678", "Authorization"),
        ("{'authorization': 'Bearer abcdefgh12345678'}", "abcdefgh12345678", "authorization"),
        ("Sec-WebSocket-Protocol: bearer.tick-et_0123456789", "tick-et_0123456789", "Protocol"),
        ("Cookie: fw_session=abcdef0123456789; a=b", "abcdef0123456789", "Cookie"),
        ("key fw_live_abcdefghijkl_" + "S" * 40 + "_12ab34 is revoked", "S" * 40, "fw_live_abcdefghijkl"),
        ("GET /b/k?X-Amz-Credential=AK%2F2026&X-Amz-Signature=0123abcdef HTTP/1.1", "0123abcdef", "GET /b/k"),
        ("GET /b/k?X-Amz-Credential=AK%2F2026&X-Amz-Signature=0123abcdef HTTP/1.1", "AK%2F2026", "HTTP/1.1"),
        ("X-Amz-Security-Token=FwoGZXIvYXdzEXAMPLE&x=1", "FwoGZXIvYXdzEXAMPLE", "x=1"),
        ("connecting to postgresql://other:hunter22@db/x", "hunter22", "postgresql://other:"),
        ("connecting to redis://:hunter22@cache:6379", "hunter22", "@cache:6379"),
        ("webhook secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "webhook"),
        ("AWS4-HMAC-SHA256 Credential=AK/2026, Signature=0123abcdef", "0123abcdef", "AWS4-HMAC-SHA256"),
    ],
)
def test_keys_tokens_and_signatures_of_anybody_are_masked(said: str, hidden: str, kept: str) -> None:
    masked = logs.Mask()(said)
    assert hidden not in masked
    assert kept in masked


@pytest.mark.parametrize(
    "said",
    [
        "job job_0190f7c2 moved from queued to running in 0.25 s",
        "the bearer of news, at https://example.test:8443/api/v1/jobs?limit=5",
        "t/default/j/0190f7c2/s/clip/0190f7c3/video.mp4 uploaded, 12345 bytes",
        "worker fw-live-1 heard of nothing for 60 s",
    ],
)
def test_ordinary_lines_stay_as_they_are(said: str) -> None:
    assert logs.Mask(make())(said) == said


def test_text_cannot_forge_a_line(configured: Any) -> None:
    written = configured()
    forged = "x\n2026-01-01T00:00:00.000Z ERROR api root: all is lost\r\x1b[31m\u202etxt.exe\u2028\ud800"
    logging.getLogger("a").warning("%s", forged, extra={"name_of_file": forged})
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("a").exception("failed")

    lines = written.getvalue().splitlines()
    assert [line for line in lines if not line.startswith("    ")] == [lines[0], lines[1]]
    assert r"x\n2026" in lines[0]
    assert r"\u202etxt.exe\u2028\ud800" in lines[0]
    assert r"\x1b[31m" in lines[0]
    assert not any(character in written.getvalue() for character in "\r\x1b\u202e\u2028\ud800")


@given(st.text(), st.text())
def test_whatever_is_said_becomes_one_printable_line(message: str, value: str) -> None:
    mask, record = (
        logs.Mask(),
        logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": message, "field": value}),
    )
    for as_json in (False, True):
        line = logs.Lines(mask, "api", as_json=as_json).format(record)
        assert len(line.splitlines()) == 1
        assert not any(ord(character) < 32 for character in line)
        line.encode()
    assert json.loads(logs.Lines(mask, "api", as_json=True).format(record))["message"] == mask(message)


def test_json_lines_say_when_who_and_what(configured: Any) -> None:
    written = configured(log_format="json")
    try:
        raise ValueError("no such file")
    except ValueError:
        logging.getLogger("framewright.store").exception("failed %d times", 3, extra={"job": "job_1", "n": 2})

    line = json.loads(written.getvalue())
    assert {name: line[name] for name in ("level", "service", "logger", "message", "job", "n")} == {
        "level": "ERROR",
        "service": "api",
        "logger": "framewright.store",
        "message": "failed 3 times",
        "job": "job_1",
        "n": 2,
    }
    assert line["at"].endswith("Z")
    assert "ValueError: no such file" in line["trace"]


def test_the_level_is_the_settings_one_and_libraries_that_log_requests_stay_quiet(configured: Any) -> None:
    written = configured(log_level="DEBUG")
    logging.getLogger("framewright.x").debug("mine")
    logging.getLogger("botocore.auth").debug("CanonicalRequest: the whole of it")
    assert [line.split(": ", 1)[1] for line in written.getvalue().splitlines()] == ["mine"]

    quiet = configured(log_level="ERROR")
    logging.getLogger("framewright.x").warning("unheard")
    assert quiet.getvalue() == ""


def test_a_field_cannot_replace_what_the_line_is_about(configured: Any) -> None:
    written = configured(log_format="json")
    logging.getLogger("a").error("true", extra={"level": "INFO", "service": "forged", "at": "never", "trace": "none"})
    line = json.loads(written.getvalue())
    assert (line["level"], line["service"], line["message"]) == ("ERROR", "api", "true")
    assert line["at"] != "never"
