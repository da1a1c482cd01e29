"""The dates that the last verify could not read."""

from importlib.resources import files

from alembic import op

revision = "0012"
down_revision = "0006"


def upgrade() -> None:
    """Run 0012_dates.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0012_dates.sql").read_text()
    op.execute(sql)
