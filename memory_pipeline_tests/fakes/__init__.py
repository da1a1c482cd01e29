"""The world in memory: rows, outbox, leases on a clock of its own, collections.

Small and honest: it keeps the guards of the real thing (tokens, leases, versions, due times) and
nothing else. The contract tests state the same sentences of it and of the real thing.

Every method of a port is a step with a name such as ``outbox.claim``. A test may script what goes
wrong at a step (``fail``), and may let others act before it (``watch``).
"""

from memory_pipeline_tests.fakes.dead_letters import FakeLetters
from memory_pipeline_tests.fakes.documents import a_document, a_vector, no_lease
from memory_pipeline_tests.fakes.erasures import FakeErasures
from memory_pipeline_tests.fakes.index import FakeIndex, QueryableIndex
from memory_pipeline_tests.fakes.memories import FakeMemories
from memory_pipeline_tests.fakes.outbox import FakeLease, FakeOutbox
from memory_pipeline_tests.fakes.rebuilds import FakeRebuilds
from memory_pipeline_tests.fakes.registry import FakeRegistry
from memory_pipeline_tests.fakes.world import (
    FakeChange,
    FakeCollection,
    FakeDocument,
    FakeFailure,
    FakePart,
    FakeTenant,
    FakeWorld,
    Fault,
    Lands,
    Step,
)

__all__ = [
    "FakeChange",
    "FakeCollection",
    "FakeDocument",
    "FakeErasures",
    "FakeFailure",
    "FakeIndex",
    "FakeLease",
    "FakeLetters",
    "FakeMemories",
    "FakeOutbox",
    "FakePart",
    "FakeRebuilds",
    "FakeRegistry",
    "FakeTenant",
    "FakeWorld",
    "Fault",
    "Lands",
    "QueryableIndex",
    "Step",
    "a_document",
    "a_vector",
    "no_lease",
]
