"""The schema in the words of the rest."""

from importlib.resources import files

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run 0006_words.sql."""
    sql = (files("memory_pipeline.postgres.migrations") / "0006_words.sql").read_text()
    op.execute(sql)
