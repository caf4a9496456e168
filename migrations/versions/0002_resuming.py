"""Attempts say from which step they went on, and have outcomes of their own when a worker cannot run a model.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from pathlib import Path

from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    """Add the columns and outcomes, and replace the verbs that speak of them."""
    _run(_read("70_resuming"))


def downgrade() -> None:
    """The verbs as 0001 made them; what attempts said of resumes is lost, unknown outcomes become `transient_infra`."""
    _run(_read("50_end").replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    _run("""
        DROP FUNCTION fw_resumed;
        UPDATE attempts SET outcome = 'transient_infra'
        WHERE outcome IN ('model_not_ready', 'weights_refused', 'licence_not_accepted', 'insufficient_vram');
        ALTER TABLE attempts
            DROP COLUMN resumed_from_step,
            DROP COLUMN exact,
            DROP CONSTRAINT attempts_outcome_check,
            ADD CONSTRAINT attempts_outcome_check CHECK (outcome IN (
                'succeeded', 'canceled', 'yielded', 'app_error', 'bad_input', 'invalid_output', 'timeout', 'stalled',
                'worker_lost', 'runner_lost', 'transient_infra', 'gpu_oom', 'gpu_error', 'host_oom'));
    """)


def _read(part: str) -> str:
    return (SQL / f"{part}.sql").read_text(encoding="utf-8")


def _run(script: str) -> None:
    """Several statements as they stand: no bind parameters, so `%` and `:` mean nothing."""
    if context.is_offline_mode():
        context.get_context().impl.static_output(script)
    else:
        op.get_bind().execution_options(no_parameters=True).exec_driver_sql(script)
