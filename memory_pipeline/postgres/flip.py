"""The flip: which generation a tenant's searches query.

A tenant's pointer moves here and nowhere else, in one statement that names the token of the lease:
to the first generation of a tenant that has none, and to the generation that a rebuild has proven.
"""

from memory_pipeline.domain.types import Generation, RebuildPart
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.database import Connection, queries


def flip_first(connection: Connection, lease: Lease, generation: Generation) -> bool:
    """Make a tenant's first generation live and enqueue the reset that fills it.

    Returns:
        Whether the pointer moved: False where the lease is lost or the server was retired.

    """
    moved: int = queries().flip_first(
        connection,
        id=generation.id,
        tenant=lease.tenant,
        token=lease.token,
        collection_id=generation.collection_id,
    )
    return moved == 1


def flip(
    connection: Connection,
    part: RebuildPart,
    lease: Lease,
    generation: Generation,
    *,
    memories: int,
) -> bool:
    """Make the building generation live, retire the old one, and end the part as done.

    Returns:
        Whether the pointer moved: False where the lease or the ownership of the part is lost, or
        another generation, or none, is the building one.

    """
    moved: int = queries().flip(
        connection,
        id=part.rebuild,
        tenant=part.tenant,
        owner=part.owner,
        token=lease.token,
        generation=generation.id,
        memories=memories,
    )
    return moved == 1
