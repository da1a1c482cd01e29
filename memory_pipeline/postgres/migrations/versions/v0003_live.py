"""Live processes and the freshness that they measure."""

from importlib.resources import files

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run 0003_live.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0003_live.sql").read_text()
    op.execute(sql)
