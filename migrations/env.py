"""How Alembic reaches the database: the URL it is handed, `-x url=…`, or this process's settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

LOCK = 0x46574D31  # two starters at once: one migrates, the other waits and finds nothing to do


def url() -> str:
    """The database to migrate."""
    given = context.config.attributes.get("url") or context.get_x_argument(as_dictionary=True).get("url")
    if given is None:
        from framewright.settings import settings

        given = settings().database_url.get_secret_value()
    return make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def run_offline() -> None:
    """`alembic upgrade head --sql`: the script for a database that only an operator may touch."""
    context.configure(url=url(), literal_binds=True)
    with context.begin_transaction():
        context.execute("SET LOCAL lock_timeout = '5s'")
        context.run_migrations()


def run_online() -> None:
    """One transaction for all revisions; a table lock not had in 5 s is given up, or traffic would queue behind it."""
    engine = create_engine(
        url(), poolclass=NullPool, connect_args={"connect_timeout": 5, "application_name": "framewright-migrate"}
    )
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            connection.exec_driver_sql("SET LOCAL lock_timeout = '120s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
