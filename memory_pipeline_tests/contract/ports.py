"""What both sides of a contract test satisfy: what several packages of the core need, in one."""

from typing import Protocol

from memory_pipeline.rebuild import ports as rebuild
from memory_pipeline.sync import ports as sync
from memory_pipeline.verify import ports as verify


class Outbox(sync.Outbox, rebuild.Outbox, Protocol):
    """Changes that wait, and the leases under which they are claimed and acked."""


class Memories(rebuild.ChunkMemories, verify.Memories, sync.Memories, Protocol):
    """The memories of Postgres."""


class Registry(sync.Registry, rebuild.Registry, Protocol):
    """The tenants' generations."""
