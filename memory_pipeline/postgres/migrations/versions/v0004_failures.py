"""What is known of a dead letter, and who has waived it."""

from importlib.resources import files

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run 0004_failures.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0004_failures.sql").read_text()
    op.execute(sql)
