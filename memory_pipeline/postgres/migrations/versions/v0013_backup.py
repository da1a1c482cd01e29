"""The backup of vectors in a table of the pipeline's own, and what refuses a backup."""

from importlib.resources import files

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Run 0013_backup.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0013_backup.sql").read_text()
    op.execute(sql)
