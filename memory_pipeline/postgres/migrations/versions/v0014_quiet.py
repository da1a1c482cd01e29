"""A worker that rests is not taken to be gone."""

from importlib.resources import files

from alembic import op

revision = "0014"
down_revision = "0006"


def upgrade() -> None:
    """Run 0014_quiet.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0014_quiet.sql").read_text()
    op.execute(sql)
