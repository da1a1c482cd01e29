"""Rows that no trigger sees."""

from importlib.resources import files

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Run 0008_unseen.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0008_unseen.sql").read_text()
    op.execute(sql)
