"""The external ids of imported memories."""

from importlib.resources import files

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Run 0012_external_id.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0012_external_id.sql").read_text()
    op.execute(sql)
