"""Forgetting a tenant."""

from importlib.resources import files

from alembic import op

revision = "0009"
down_revision = "0006"


def upgrade() -> None:
    """Run 0009_erasure.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0009_erasure.sql").read_text()
    op.execute(sql)
