"""Forgetting a tenant."""

from importlib.resources import files

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Run 0014_erasure.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0014_erasure.sql").read_text()
    op.execute(sql)
