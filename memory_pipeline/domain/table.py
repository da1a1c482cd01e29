"""The table that holds the memories."""

import re
from dataclasses import dataclass

# Identifiers that need no escaping: in double quotes they are spelled as the catalog spells them.
_NAME = re.compile(r"(?P<schema>[^\W\d][\w$]{0,62})\.(?P<name>[^\W\d][\w$]{0,62})")


@dataclass(frozen=True, slots=True)
class Table:
    """The table of the memories, by schema and name, spelled as in the catalog."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Table":
        """Read ``schema.name``. Raises ValueError for any other form."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(
                "allowed is schema.table, spelled as in the catalog, of letters, digits, _ and $"
            )
        return cls(found["schema"], found["name"])

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """The identifier as SQL has it; the form of the names leaves nothing to escape."""
        return f'"{self.schema}"."{self.name}"'


MEMORY_LOGS = Table("public", "memory_logs")
