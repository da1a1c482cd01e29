"""What an application does to its table; whatever it is, capture has to see it."""

from dataclasses import dataclass, field
from typing import Literal

import psycopg
from psycopg.types.json import Jsonb

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline_tests.stateful.faults import POISON

Verb = Literal["write", "metadata", "vector", "no vector", "delete", "move", "put again"]
VERBS: tuple[Verb, ...] = (
    "write",
    "metadata",
    "vector",
    "no vector",
    "delete",
    "move",
    "put again",
)
IDS = 7
TENANTS = 3
TEXTS = (
    "a walk in the park",
    "the red bicycle",
    "quarterly tax report",
    "",
    "a walk in the dark",
    "noodle soup for two",
    f"a pinch of {POISON}",
)

# The application's own vectors, noted in its own transactions: where they are trusted, nobody may
# replace them.
OWN_VECTORS = "CREATE TABLE IF NOT EXISTS own_vector (id bigint PRIMARY KEY, vector vector(768))"
SUMMARY = "SELECT raw_data->>'summary' FROM memory_logs WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that is done to one memory; ids, tenants and texts are few.

    ``hot``: to one that the pipeline has in hand just now, where there is one.
    """

    verb: Verb
    id: int
    tenant: int
    text: int
    hot: bool = False

    @property
    def raw(self) -> Jsonb:
        """The memory's content."""
        return Jsonb({"summary": TEXTS[self.text], "task": f"task {self.text}"})


@dataclass
class Application:
    """Writes memories of three tenants, and remembers which were ever poison."""

    connection: psycopg.Connection
    tenants: tuple[str, ...]
    poisoned: set[int] = field(default_factory=set)
    # Rows that a transaction still holds; whoever touched them would wait for ever.
    held: set[int] = field(default_factory=set)

    def do(self, statement: Statement, on: psycopg.Connection | None = None) -> None:
        """Do one statement; one of a memory that is not there does nothing."""
        if on is None and statement.id in self.held:
            return
        if POISON in TEXTS[statement.text]:
            self.poisoned.add(statement.id)
        connection = on or self.connection
        with connection.transaction():
            self._do(statement, connection)

    def _do(self, statement: Statement, connection: psycopg.Connection) -> None:
        id_, tenant = statement.id, self.tenants[statement.tenant]
        if statement.verb not in {"metadata", "vector", "move"}:
            connection.execute("DELETE FROM own_vector WHERE id = %s", (id_,))
        match statement.verb:
            case "write":
                connection.execute(
                    "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (%s, %s, %s)"
                    " ON CONFLICT (id) DO UPDATE"
                    " SET raw_data = EXCLUDED.raw_data, updated_at = now()",
                    (id_, tenant, statement.raw),
                )
            case "metadata":
                connection.execute(
                    "UPDATE memory_logs SET project_id = %s WHERE id = %s",
                    (f"project {statement.text}", id_),
                )
            case "vector":
                # Another one for each text that the memory may have: the very vector that it had
                # with another text looks as if that one had been left standing.
                row = connection.execute(SUMMARY, (id_,)).fetchone()
                [vector] = HashingEmbedder().embed([f"{row} {TEXTS[statement.text]} of my own"])
                connection.execute(
                    "WITH mine AS (UPDATE memory_logs SET embedding = %(v)s::vector"
                    " WHERE id = %(id)s RETURNING id, embedding)"
                    " INSERT INTO own_vector SELECT * FROM mine"
                    " ON CONFLICT (id) DO UPDATE SET vector = EXCLUDED.vector",
                    {"v": str(vector.tolist()), "id": id_},
                )
            case "no vector":
                connection.execute("UPDATE memory_logs SET embedding = NULL WHERE id = %s", (id_,))
            case "delete":
                connection.execute("DELETE FROM memory_logs WHERE id = %s", (id_,))
            case "move":
                connection.execute(
                    "UPDATE memory_logs SET user_id = %s WHERE id = %s", (tenant, id_)
                )
            case "put again":
                connection.execute("DELETE FROM memory_logs WHERE id = %s", (id_,))
                connection.execute(
                    "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (%s, %s, %s)",
                    (id_, tenant, statement.raw),
                )

    def copy(self, statements: list[Statement]) -> None:
        """COPY memories in under ids that are free."""
        free = {s.id: s for s in statements if s.id not in self.held}
        for (taken,) in self.connection.execute("SELECT id FROM memory_logs"):
            free.pop(taken, None)
        copied = "COPY memory_logs (id, user_id, raw_data) FROM STDIN"
        with self.connection.transaction(), self.connection.cursor().copy(copied) as copy:
            for id_, statement in free.items():
                if POISON in TEXTS[statement.text]:
                    self.poisoned.add(id_)
                copy.write_row((id_, self.tenants[statement.tenant], statement.raw))

    def truncate(self, *, restart: bool, then: list[Statement]) -> None:
        """TRUNCATE; with ``restart`` new memories have the ids of old ones. All one transaction."""
        if self.held:
            return
        with self.connection.transaction():
            self.connection.execute("DELETE FROM own_vector")
            if not restart:
                self.connection.execute("TRUNCATE memory_logs")
                for statement in then:
                    self.do(statement)
                return
            self.connection.execute("TRUNCATE memory_logs RESTART IDENTITY")
            for id_, statement in enumerate(then, 1):
                if POISON in TEXTS[statement.text]:
                    self.poisoned.add(id_)
                self.connection.execute(
                    "INSERT INTO memory_logs (user_id, raw_data) VALUES (%s, %s)",
                    (self.tenants[statement.tenant], statement.raw),
                )
