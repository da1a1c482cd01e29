"""What has to be so after every step, whatever went wrong, and what has to be so in the end.

Judged from the rows and the collections themselves, by the text and the vector: not by the hashes
and versions that the core goes by.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from uuid import UUID

from memory_pipeline.domain.types import Memory, MemoryId, TenantId, document_id, memory_id_of
from memory_pipeline_tests.fakes import FakeDocument, FakeTenant
from memory_pipeline_tests.simulation.world import SimulatedWorld, same_vector, vector_of


class Broken(Exception):
    """A promise is broken."""


name_of = lru_cache(maxsize=4096)(document_id)


def is_right(world: SimulatedWorld, row: Memory, document: FakeDocument | None) -> bool:
    """Say whether a document is what a memory says."""
    if document is None or document.text != row.raw:
        return False
    if document.metadata.get("project_id") != (row.project_id or ""):
        return False
    if row.embedding is None:
        return _is_texts(document)
    # Of an older text, a vector that the row keeps is the application's own or not right.
    own = world.trust and row.embedding.tobytes() in world.own_vectors
    rows = same_vector(document.vector, row.embedding)
    if world.settings.backup == "on" and row.id not in world.unbacked:
        return rows and (own or _is_texts(document))
    return _is_texts(document) or (own and rows)


def _is_texts(document: FakeDocument) -> bool:
    text = text_of(document.text or "")
    return same_vector(document.vector, vector_of(text))


@lru_cache(maxsize=4096)
def text_of(raw: str) -> str:
    """Return what is embedded of the memories that a simulation has."""
    return raw.split('"')[3]


def differing(world: SimulatedWorld, tenant: TenantId, live: UUID) -> Iterator[MemoryId]:
    """Tell whose documents in a generation are not what the tenant's memories say."""
    found = world.collections.get(world.generations[live].collection)
    return _differing(world, tenant, {} if found is None else found.documents)


def _differing(
    world: SimulatedWorld, tenant: TenantId, held: Mapping[str, FakeDocument]
) -> Iterator[MemoryId]:
    mine = 0
    for i, row in world.rows.items():
        if row.tenant == tenant:
            document = held.get(name_of(i))
            mine += document is not None
            if not is_right(world, row, document):
                yield i
    if mine < len(held):
        for name in held:
            stray = memory_id_of(name)
            if stray is None:
                continue
            found = world.rows.get(stray)
            if found is None or found.tenant != tenant:
                yield stray


def nothing_is_lost(world: SimulatedWorld) -> None:
    """P1, P3, P4, P7: what differs in a live generation has something that will bring it right."""
    if world.truncations:
        return  # which is about every memory of everyone
    waiting = {(c.tenant, c.memory_id) for c in world.changes.values()}
    for tenant, known in world.tenants.items():
        if (tenant, None) in waiting:
            continue
        for i in _wrong(world, tenant, known):
            if (tenant, i) in waiting or (known.live, i) in world.spoilt:
                continue
            failure = world.failures.get((tenant, i))
            if failure is None or not failure.buried:
                where = "nothing" if known.live is None else f"g{known.live.int}"
                raise Broken(f"P1: m{i} of {tenant} differs in {where}, and nothing waits")
    for row in world.rows.values():
        unknown = row.tenant is not None and row.tenant not in world.tenants
        if unknown and not {(row.tenant, row.id), (row.tenant, None)} & waiting:
            raise Broken(f"P1: m{row.id} of {row.tenant}, who is unknown, and nothing waits")


def _wrong(world: SimulatedWorld, tenant: TenantId, known: FakeTenant) -> Iterable[MemoryId]:
    """Tell what is wrong in what searches go to, unless all of it is marked for a rebuild."""
    live = known.live
    if live is None:
        if known.building is not None:
            return ()  # every batch writes what a rebuild will let searches go to
        return (i for i, row in world.rows.items() if row.tenant == tenant)
    state = world.generations[live].state
    if state != "live":
        if state == "corrupt" and tenant not in world.damaged and not world.server_was_away:
            raise Broken(f"P8: the live collection of {tenant} is called damaged, and is not")
        return ()
    collection = world.collections.get(world.generations[live].collection)
    if collection is not None:
        return _differing(world, tenant, collection.documents)
    if tenant not in world.damaged:
        raise Broken(f"P7: the live collection of {tenant} is gone")
    return ()


def nobody_is_blamed(world: SimulatedWorld) -> None:
    """P5: attempts are charged to poison and to nothing else."""
    for tenant, i in world.failures:
        if i not in world.ever_poison:
            raise Broken(f"P5: m{i} of {tenant} is charged, and was never poison")


def after_every_step(world: SimulatedWorld) -> None:
    """Raise Broken where a promise is broken."""
    if world.broken:
        raise Broken(world.broken[0])
    if not world.touched:
        return  # as it was when it was judged last
    world.touched = False
    nothing_is_lost(world)
    if world.failures:
        nobody_is_blamed(world)


def nothing_is_left(world: SimulatedWorld) -> None:
    """Erasure: of a tenant that is not registered nothing is left, once everything is quiet."""
    named = {c.tenant for c in world.collections.values()}
    named |= {tenant for tenant, _ in world.failures} | {tenant for _, tenant in world.parts}
    if back := named - world.tenants.keys():
        raise Broken(f"erasure: something is left of {sorted(map(str, back))}")


def in_the_end(world: SimulatedWorld) -> None:
    """P2, P5 and erasure, once everything is quiet. Raises Broken."""
    if world.changes:
        raise Broken(f"P2: {len(world.changes)} changes wait for ever")
    nothing_is_left(world)
    for tenant, known in world.tenants.items():
        if known.lease_until > world.now:
            raise Broken(f"P2: somebody has the lease of {tenant}")
        buried = {i for (t, i), f in world.failures.items() if t == tenant}
        poison = {i for i, r in world.rows.items() if r.tenant == tenant and world.refuses(r)}
        if buried != poison:
            raise Broken(f"P5: dead letters of {tenant} are {buried}, poison is {poison}")
        if known.live is None:
            if any(row.tenant == tenant for row in world.rows.values()):
                raise Broken(f"P2: {tenant} has memories, and no live generation")
            continue
        for i in differing(world, tenant, known.live):
            if i not in buried:
                raise Broken(f"P2: m{i} of {tenant} differs in the end")
