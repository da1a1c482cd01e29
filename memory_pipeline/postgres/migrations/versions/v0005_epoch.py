"""What notices that Postgres went back in time."""

from importlib.resources import files

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run 0005_epoch.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0005_epoch.sql").read_text()
    op.execute(sql)
