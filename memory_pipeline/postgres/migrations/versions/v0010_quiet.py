"""A worker that rests is not taken to be gone."""

from importlib.resources import files

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Run 0010_quiet.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0010_quiet.sql").read_text()
    op.execute(sql)
