"""Whether a worker can tell Dagster what it synced."""

from importlib.resources import files

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Run 0011_reports.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0011_reports.sql").read_text()
    op.execute(sql)
