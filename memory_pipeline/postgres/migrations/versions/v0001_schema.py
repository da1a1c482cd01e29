"""Create the schema of the pipeline, and memory_logs where it does not exist."""

from importlib.resources import files

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run 0001_schema.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0001_schema.sql").read_text()
    op.execute(sql)
