"""The order of a detach: what is done, what is not, and where it may be interrupted."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from memory_pipeline.admin.detach import Detach, Removal, Removed
from memory_pipeline.domain.status import ActiveWork, WorkerInfo
from memory_pipeline.domain.types import Generation, Server, TenantId
from memory_pipeline.errors import ChromaUnavailable, ContractError, StillInUse

SERVER = uuid4()


class World:
    """An attached database with one server and two collections; all the parts of a detach."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.attached = True
        self.active = ActiveWork(0, 0)
        self.down = False

    def is_attached(self) -> bool:
        """Whether it is attached."""
        return self.attached

    def active_work(self) -> ActiveWork:
        """Return what is in progress."""
        return self.active

    def vectors(self) -> int:
        """Count no vectors."""
        return 0

    def triggers(self) -> Sequence[str]:
        """Name one."""
        return ["capture on memory_logs"]

    def check(self) -> None:
        """Find nothing of others."""
        self.steps.append("check")

    def stop_capture(self) -> None:
        """Step 2."""
        self.steps.append("stop_capture")

    def stop_syncing(self) -> None:
        """Step 3."""
        self.steps.append("stop_syncing")

    def drop_schema(self) -> None:
        """Step 5."""
        self.steps.append("drop_schema")

    def generations(self, server: UUID) -> Sequence[Generation]:
        """Return one that is registered."""
        return [Generation(uuid4(), TenantId("ada"), server, None, "m", "c", "retired")]

    def forgotten(self, server: UUID) -> Sequence[Generation]:
        """Return one that a forgotten state has left."""
        if self.down:
            raise ChromaUnavailable("not in use now")
        return [Generation(uuid4(), TenantId(""), server, None, "", "", "retired")]

    def healthy(self) -> Sequence[WorkerInfo]:
        """Return no worker."""
        return []

    def servers(self) -> Sequence[Server]:
        """Return one that may have collections, and one that has none."""
        return [
            Server(SERVER, "http://here", "ready", 0),
            Server(uuid4(), "http://lost", "lost", 0),
        ]

    def dropped(self, generation: UUID) -> None:
        """Record nothing."""

    def problems(self) -> Sequence[str]:
        """Name the problem of the server that is down."""
        return ["the server at http://here is down"] if self.down else []

    def check_identity(self) -> None:
        """Identify."""

    def remove_marker(self, server: UUID) -> None:
        """Remove it."""
        assert server == SERVER
        self.steps.append("remove_marker")

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Find it small."""
        del generation, seconds
        return False

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Drop it."""
        del generation, seconds
        self.steps.append("drop")


@pytest.fixture
def world() -> World:
    """Return one."""
    return World()


def detaching(world: World) -> Detach:
    """Return what detaches it."""
    return Detach(world, world, world, world, world, world)


def test_the_triggers_go_first_and_the_schema_last(world: World) -> None:
    """The application is free at once; the schema knows what is left to drop."""
    assert detaching(world).run(drop_collections=True) == Removed(2, schema=True)
    assert world.steps == [
        "check",
        "stop_capture",
        "stop_syncing",
        "drop",
        "drop",
        "remove_marker",
        "drop_schema",
    ]


def test_without_the_collections_chroma_is_not_asked(world: World) -> None:
    """Then it may be down."""
    world.down = True
    assert detaching(world).run(drop_collections=False) == Removed(0, schema=True)
    assert world.steps == ["check", "stop_capture", "stop_syncing", "drop_schema"]


def test_an_unreachable_server_keeps_the_schema(world: World) -> None:
    """Its problem is named, and the next run continues where this one ended."""
    world.down = True
    removed = detaching(world).run(drop_collections=True)
    assert removed == Removed(0, ("http://here: the server at http://here is down",))
    assert "drop_schema" not in world.steps
    world.down = False
    assert detaching(world).run(drop_collections=True).schema


def test_a_check_counts_what_would_go_and_changes_nothing(world: World) -> None:
    """For a person to confirm."""
    assert detaching(world).check() == Removal(("capture on memory_logs",), 1, 1)
    assert world.steps == ["check"]


@pytest.mark.parametrize("active", [ActiveWork(1, 0), ActiveWork(0, 1)], ids=repr)
def test_nothing_is_removed_while_something_runs(world: World, active: ActiveWork) -> None:
    """Not even a trigger."""
    world.active = active
    with pytest.raises(StillInUse, match="1 tenants are being"):
        detaching(world).run(drop_collections=False)
    assert world.steps == []


def test_a_database_without_the_pipeline_is_refused(world: World) -> None:
    """There is nothing to remove."""
    world.attached = False
    with pytest.raises(ContractError, match="nothing of the pipeline"):
        detaching(world).check()
