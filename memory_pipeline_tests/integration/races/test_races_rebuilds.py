"""Races of rebuilds, flips and servers that are given up, in Postgres alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest

from memory_pipeline.domain.types import (
    Generation,
    RebuildId,
    RebuildPart,
)
from memory_pipeline.errors import Fenced, ServerLost
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.lease import PostgresLease
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.races.words import (
    begun,
    confirms,
    one_after_the_other,
    owned,
    taken,
    waiting,
)
from memory_pipeline_tests.words import ADA, one, remember


@pytest.fixture
def new(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> tuple[PostgresLease, Generation, RebuildPart]:
    """Have ada's lease, and a generation and a rebuild of hers that were just begun."""
    return taken(outbox), begun(registry), owned(rebuilds)


@pytest.mark.parametrize("act", ["begin", "flip first", "register"])
def test_who_comes_while_a_server_is_given_up_is_refused(
    db: psycopg.Connection,
    database: Database,
    registry: PostgresRegistry,
    new: tuple[PostgresLease, Generation, RebuildPart],
    act: str,
) -> None:
    """What broke: a tenant went live on it, or built on it, for ever."""
    lease, generation, build = new
    server, rebuilds = generation.server, PostgresRebuilds(database, Settings.load())
    acts: dict[str, Callable[[], object]] = {
        "begin": lambda: registry.begin_generation(
            ADA, server, model="m", config_hash="c", memories=0
        ),
        "flip first": lambda: registry.flip_first(lease, generation),
        "register": lambda: rebuilds.register_building(build, lease, generation),
    }

    def retire(connection: Connection) -> None:
        queries().retire_server(connection, id=server)
        queries().lose_generations(connection, id=server)
        queries().stop_building(connection, id=server)

    with pytest.raises((Fenced, ServerLost)):
        one_after_the_other(database, db, retire, acts[act])

    assert one(db, "SELECT coalesce(live, building) FROM memory_pipeline.tenant") is None
    assert one(db, "SELECT array_agg(state) FROM memory_pipeline.generation") == ["lost"]


@pytest.mark.parametrize("act", ["begin", "flip first", "register"])
def test_what_begins_while_a_server_is_given_up_is_lost_with_it(
    db: psycopg.Connection,
    database: Database,
    registry: PostgresRegistry,
    new: tuple[PostgresLease, Generation, RebuildPart],
    act: str,
) -> None:
    """The other order: giving up waits, and sees then what it could not see before."""
    lease, generation, build = new
    another = {"server": generation.server, "model": "m", "config_hash": "c", "memories": 0}
    same = {"tenant": ADA, "token": lease.token, "collection_id": uuid4()}
    part = {"id": build.rebuild, "owner": build.owner, "generation": generation.id}
    acts: dict[str, Callable[[Connection], object]] = {
        "begin": lambda c: queries().begin_generation(c, tenant=ADA, id=uuid4(), **another),
        "flip first": lambda c: queries().flip_first(c, id=generation.id, **same),
        "register": lambda c: queries().register_building(c, **part, **same),
    }

    def begin(connection: Connection) -> None:
        assert acts[act](connection) == 1

    one_after_the_other(database, db, begin, lambda: registry.retire_server(generation.server))

    states = one(db, "SELECT array_agg(DISTINCT state) FROM memory_pipeline.generation")
    assert states == ["lost"]
    assert one(db, "SELECT building FROM memory_pipeline.tenant") is None
    assert (None in waiting(db)) == (act != "begin")


def test_a_claim_names_the_generations_of_this_moment(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> None:
    """Nobody writes to a target that was remembered from an earlier claim."""
    old, new = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.flip_first(lease, old)
    assert [g.id for g in outbox.claim(lease).targets] == [old.id]
    rebuilds.register_building(build, lease, new)
    assert [(g.id, g.state) for g in outbox.claim(lease).targets] == [
        (old.id, "live"),
        (new.id, "building"),
    ]
    registry.abandon(lease, old.id)
    assert [g.id for g in outbox.claim(lease).targets] == [new.id]

    rebuilds.flip(build, lease, new, memories=0)

    assert [(g.id, g.state) for g in outbox.claim(taken(outbox)).targets] == [(new.id, "live")]


def test_a_building_generation_that_fails_is_abandoned_alone(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> None:
    """The live generation stays live."""
    live, building = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.flip_first(lease, live)
    rebuilds.register_building(build, lease, building)

    registry.abandon(lease, building.id)

    assert [(g.id, g.state) for g in outbox.claim(lease).targets] == [(live.id, "live")]
    assert registry.building(ADA) is None
    assert not rebuilds.may_fill(build, lease, building)


def test_of_many_processes_one_owns_a_tenants_part(
    db: psycopg.Connection, registry: PostgresRegistry, rebuilds: PostgresRebuilds
) -> None:
    """One rebuild a tenant, however many ask at the same moment, and for however many rebuilds."""
    for round_ in range(30):
        names = [RebuildId(f"{round_} {n // 2}") for n in range(8)]
        for name in names:
            rebuilds.request(name, [ADA], re_embed=False)
        together = Barrier(len(names))

        def own(name: RebuildId, together: Barrier = together) -> RebuildPart | None:
            together.wait()
            return rebuilds.acquire_part(name, ADA)

        with ThreadPoolExecutor(len(names)) as threads:
            builds = list(threads.map(own, names))

        (build,) = [build for build in builds if build]
        assert one(db, "SELECT count(*) FROM memory_pipeline.rebuild WHERE state = 'running'") == 1
        rebuilds.fail_part(build, "enough")


def test_a_claim_beside_a_flip_names_the_old_pointers_or_is_fenced(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """A flip ends the lease, so a claim names the pointers of before, or none."""
    old, new = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.flip_first(lease, old)
    rebuilds.register_building(build, lease, new)
    together = Barrier(2)

    def claim() -> list[object]:
        together.wait()
        try:
            return [g.id for g in outbox.claim(lease).targets]
        except Fenced:
            return []

    def flip() -> None:
        together.wait()
        rebuilds.flip(build, lease, new, memories=0)

    with ThreadPoolExecutor(2) as threads:
        claiming, flipping = threads.submit(claim), threads.submit(flip)
        flipping.result()

    assert claiming.result() in ([], [old.id, new.id])
    assert one(db, "SELECT live FROM memory_pipeline.tenant") == new.id


def test_what_a_writer_commits_after_the_registration_is_not_covered(
    db: psycopg.Connection,
    database_url: str,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """T1, P1: a change that was not committed yet may be about a row that is read before it is."""
    covered = remember(db)
    build = owned(rebuilds)
    generation, lease = begun(registry), taken(outbox)
    with psycopg.connect(database_url) as slow:
        late = remember(slow)
        rebuilds.register_building(build, lease, generation)
        assert not outbox.has_due_changes(ADA)
        slow.commit()

    assert outbox.has_due_changes(ADA)
    assert outbox.claim(lease).memory_ids == (late,)
    rebuilds.flip(build, lease, generation, memories=0)
    assert waiting(db) == [late]
    assert covered != late


def test_a_flip_acks_nothing_that_somebody_has_claimed(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """P1: whoever claimed a change may have sent it, so it is written again, whatever covers it."""
    claimed, covered = remember(db), remember(db)
    build, lease, generation = owned(rebuilds), taken(outbox), begun(registry)
    rebuilds.register_building(build, lease, generation)
    db.execute("UPDATE memory_pipeline.change SET claim_token = 1 WHERE memory_id = %s", (claimed,))

    rebuilds.flip(build, lease, generation, memories=0)

    assert waiting(db) == [claimed]
    assert outbox.claim(taken(outbox)).memory_ids == (claimed,)
    assert list(confirms(db)) == [claimed]
    assert covered != claimed
