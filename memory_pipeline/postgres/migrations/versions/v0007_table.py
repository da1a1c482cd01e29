"""The table that is indexed."""

from importlib.resources import files

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run 0007_table.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0007_table.sql").read_text()
    op.execute(sql)
