"""Jobs, steps, leases, events and everything around them; the verbs as SQL functions.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

from pathlib import Path

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTS = ("10_tables", "20_guards", "30_submit", "40_lease", "50_end", "60_read")
TABLES = (
    "webhook_outbox", "webhook_endpoints", "workers", "uploads", "assets", "idempotency", "events", "artifacts",
    "attempts", "step_deps", "steps", "jobs", "tenant_open", "ws_tickets", "api_keys", "tenants",
)  # fmt: skip


def upgrade() -> None:
    """Create everything, in the order of the file names."""
    folder = Path(__file__).parents[1] / "sql"
    for part in PARTS:
        _run((folder / f"{part}.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Remove everything that `upgrade` made; the data goes with it."""
    _run(f"DROP TABLE {', '.join(TABLES)};")
    _run("""
        DO $$ DECLARE f regprocedure; BEGIN
            FOR f IN SELECT p.oid::regprocedure FROM pg_proc p
                     WHERE p.pronamespace = current_schema()::regnamespace AND p.proname LIKE 'fw\\_%' LOOP
                EXECUTE format('DROP FUNCTION %s CASCADE', f);
            END LOOP;
        END $$;
    """)


def _run(script: str) -> None:
    """Several statements as they stand: no bind parameters, so `%` and `:` mean nothing."""
    if context.is_offline_mode():
        context.get_context().impl.static_output(script)
    else:
        op.get_bind().execution_options(no_parameters=True).exec_driver_sql(script)
