"""The schema goes up, down and up again; from a checkout and from a wheel; and two starters do not collide."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jobmaker as make
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from framewright import database, lifecycle, store
from framewright.database import Database, migrate, migration_state, migrations_dir
from framewright.errors import DatabaseUnavailable
from framewright.jobs import JobState, Outcome

ROOT = Path(__file__).parents[1]
HEAD = database.head_revision()


@pytest.fixture
def url(empty_database_url: str) -> Iterator[str]:
    """An empty database, and empty again afterwards."""
    yield empty_database_url
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def schema(url: str) -> dict[str, str]:
    """Every table, column, index, constraint, trigger and function, as text."""
    with psycopg.connect(url) as connection:
        return dict(
            connection.execute(
                """SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
                   UNION ALL SELECT 'column ' || table_name || '.' || column_name,
                       concat_ws(' ', data_type, is_nullable, column_default)
                       FROM information_schema.columns WHERE table_schema = 'public'
                   UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
                       FROM pg_constraint WHERE connamespace = 'public'::regnamespace
                   UNION ALL SELECT 'function ' || oid::regprocedure, prosrc
                       FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                   UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(oid)
                       FROM pg_trigger WHERE NOT tgisinternal"""
            ).fetchall()
        )


def test_up_down_and_up_again_ends_where_it_began(url: str) -> None:
    migrate(url)
    first = schema(url)
    assert {"column jobs.id", "function fw_count_open(text,integer)", "trigger steps step_moves"} <= set(first)
    migrate(url, "base")
    assert {name for name in schema(url) if "alembic_version" not in name} == set()
    migrate(url)
    assert schema(url) == first
    migrate(url)
    assert schema(url) == first


def test_a_database_of_the_first_version_goes_up_in_the_middle_of_a_job_and_down_again(url: str) -> None:
    migrate(url, "0001")
    first = schema(url)
    db = make.fresh(url)
    made = [make.submit(db).job.id for _ in range(2)]
    done, unfit = make.claimed(db), make.claimed(db, "w2")
    migrate(url)
    assert lifecycle.resumed(db, done, 3, exact=True)
    assert make.complete(db, done).job_state is JobState.SUCCEEDED
    assert lifecycle.release(db, unfit, Outcome.MODEL_NOT_READY, message="not here").answer == "retry"
    assert make.rows(db, "SELECT outcome, resumed_from_step FROM attempts ORDER BY worker_id") == [
        ("succeeded", 3), ("model_not_ready", None)
    ]  # fmt: skip
    told = {event.type: event.data.get("resumed_from_step") for event in store.events_after(db, {made[0]: 0})}
    assert told["step_succeeded"] == 3
    down = run([sys.executable, "-m", "alembic", "-x", f"url={url}", "downgrade", "0001"], ROOT)
    assert down.returncode == 0, down.stderr
    assert schema(url) == first
    assert make.rows(db, "SELECT outcome FROM attempts ORDER BY worker_id") == [("succeeded",), ("transient_infra",)]
    db.close()


def test_every_table_knows_its_tenant(url: str) -> None:
    migrate(url)
    with psycopg.connect(url) as connection:
        without = connection.execute(
            """SELECT table_name FROM information_schema.tables t WHERE table_schema = 'public' AND NOT EXISTS (
                   SELECT 1 FROM information_schema.columns c
                   WHERE c.table_name = t.table_name AND c.column_name = 'tenant_id')"""
        ).fetchall()
    assert {row[0] for row in without} == {"tenants", "alembic_version"}


def test_no_index_covers_what_a_renewal_writes(url: str) -> None:
    migrate(url)
    indexes = [text for name, text in schema(url).items() if name.startswith("index steps")]
    assert indexes
    for column in ("lease_until", "progress_until", "progress", "checkpoint", "next_doorbell"):
        assert not [text for text in indexes if column in text]


def test_the_state_says_whether_this_code_may_use_the_database(url: str) -> None:
    db = Database(url, application="state")
    assert (migration_state(db).current, migration_state(db).up_to_date) == (None, False)
    migrate(url)
    assert migration_state(db) == (HEAD, HEAD)
    assert migration_state(db).up_to_date
    db.close()


def test_the_head_by_name_is_the_head_by_alembic() -> None:
    config = Config(toml_file=str(ROOT / "pyproject.toml"))
    config.set_main_option("script_location", str(migrations_dir()))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_starters_at_once_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        # Processes: Alembic's context is global to a process.
        script = f"from framewright.database import migrate; migrate({url!r})"
        done = list(pool.map(lambda _: run([sys.executable, "-c", script], ROOT), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    db = Database(url, application="state")
    assert migration_state(db).up_to_date
    db.close()


def test_a_table_that_is_locked_makes_the_migration_give_up(url: str) -> None:
    migrate(url)
    before = schema(url)
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE workers IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseUnavailable):
            migrate(url, "base")
    assert schema(url) == before


def test_a_database_that_is_away_is_told_as_such() -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate("postgresql://nobody@127.0.0.1:1/none")


def test_the_alembic_command_works_in_a_checkout_online_and_as_a_script(url: str) -> None:
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}"]
    script = run([*command, "upgrade", "head", "--sql"], ROOT)
    assert script.returncode == 0, script.stderr
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.stdout.encode())
    by_script = schema(url)
    assert run([*command, "downgrade", "base"], ROOT).returncode == 0
    up = run([*command, "upgrade", "head"], ROOT)
    assert up.returncode == 0, up.stderr
    assert schema(url) == by_script


def test_an_installed_wheel_brings_its_migrations(url: str, tmp_path: Path) -> None:
    """The wheel has `migrations` as `framewright/_migrations`; laid out like that, and away from here, it works."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"migrations": "framewright/_migrations"}
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "framewright", tmp_path / "framewright", ignore=ignore)
    shutil.copytree(ROOT / "migrations", tmp_path / "framewright" / "_migrations", ignore=ignore)
    script = (
        "import sys; from framewright import database; print(database.migrations_dir());"
        f" database.migrate({url!r}); print(database.migration_state(database.Database({url!r}, application='x')))"
    )
    done = run([sys.executable, "-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "framewright" / "_migrations") in done.stdout
    assert f"current='{HEAD}', head='{HEAD}'" in done.stdout


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
