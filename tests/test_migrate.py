"""`python -m framewright.migrate` brings the schema, again harmlessly, and says in its exit status why it could not."""

from __future__ import annotations

import os
import subprocess
import sys

from framewright.database import Database, migration_state


def migrate(environment: dict[str, str], **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "framewright.migrate"]
    return subprocess.run(command, env=os.environ | environment | changes, capture_output=True, text=True, timeout=60)


def test_an_empty_database_gets_the_schema_and_keeps_it(environment: dict[str, str], empty_database_url: str) -> None:
    for _ in range(2):
        done = migrate(environment, FRAMEWRIGHT_DATABASE_URL=empty_database_url)
        assert done.returncode == 0, done.stderr
    db = Database(empty_database_url, application="test-migrate")
    try:
        assert migration_state(db).up_to_date
    finally:
        db.close()


def test_a_database_that_does_not_answer_is_worth_another_try(environment: dict[str, str]) -> None:
    done = migrate(environment, FRAMEWRIGHT_DATABASE_URL="postgresql://nobody:canary-9f3e@127.0.0.1:1/none")
    assert done.returncode == 75
    assert done.stderr.startswith("framewright: ")
    assert "canary" not in done.stderr


def test_a_missing_setting_is_named(environment: dict[str, str]) -> None:
    lacking = {name: value for name, value in environment.items() if name != "FRAMEWRIGHT_KEY_PEPPER"}
    done = migrate(lacking)
    assert done.returncode == 78
    assert "FRAMEWRIGHT_KEY_PEPPER" in done.stderr
