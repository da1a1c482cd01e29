"""The triggers and rules of the application that the backup of a vector in memory_logs fires."""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class UpdateTrigger:
    """A trigger, or a rule, of the application that an UPDATE of ``embedding`` fires.

    ``before_row``: it may change the row, or leave it out.
    """

    kind: str
    name: str
    on_table: str
    function: str
    before_row: bool

    @property
    def called(self) -> str:
        """What people call it."""
        return f"{self.kind} {self.name}"


def update_triggers(database: Database) -> list[UpdateTrigger]:
    """Return the triggers and rules of the application that a backup in memory_logs fires."""
    with database.statement() as connection:
        return [UpdateTrigger(*row) for row in queries().update_triggers(connection)]


def one_of(triggers: Sequence[UpdateTrigger]) -> str:
    """Return what to call them where it was one of them; empty where there are none."""
    names = list(dict.fromkeys(trigger.called for trigger in triggers))
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}" if names else ""


def backup_advice(database: Database, settings: Settings) -> list[str]:
    """Return what to say of triggers and rules that the backup of vectors would fire."""
    if settings.backup != "on":
        return []
    found = [f"{trigger.called} on {trigger.on_table}" for trigger in update_triggers(database)]
    if not found:
        return []
    advice = (
        "the vectors of memories are kept in memory_logs.embedding, and each such UPDATE fires "
        f"{', '.join(found)}: times like updated_at move, and audit tables fill; "
        "MEMORY_PIPELINE_BACKUP=table keeps them in a table of the pipeline's own, and memory_logs "
        "is only read"
    )
    return [advice]
