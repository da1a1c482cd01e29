"""Rebuilds, and what is needed to place and retire generations."""

from importlib.resources import files

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run 0002_rebuild.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0002_rebuild.sql").read_text()
    op.execute(sql)
