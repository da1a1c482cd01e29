"""The dates that the last verify could not read."""

from importlib.resources import files

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Run 0009_dates.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0009_dates.sql").read_text()
    op.execute(sql)
