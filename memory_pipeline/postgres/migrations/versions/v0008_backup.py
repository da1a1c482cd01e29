"""The backup of vectors in a table of the pipeline's own, and what refuses a backup."""

from importlib.resources import files

from alembic import op

revision = "0008"
down_revision = "0006"


def upgrade() -> None:
    """Run 0008_backup.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0008_backup.sql").read_text()
    op.execute(sql)
