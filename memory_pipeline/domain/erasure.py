"""What is left of a tenant that was forgotten: a report of every place that was looked at."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from memory_pipeline.domain.types import TenantId

PlaceState = Literal["gone", "left", "unknown", "kept"]


@dataclass(frozen=True, slots=True)
class Place:
    """One place where a tenant was looked for after it was forgotten, and what was found.

    ``gone``: nothing was found. ``left``: something was. ``unknown``: the place could not be
    looked at now. ``kept``: what deletes cannot reach, and stays until ``next`` is done.

    Attributes:
        name: the place.
        looked_for: what was looked for there.
        state: what was found.
        found: how many of it; 0 where none, or where they cannot be counted.
        detail: why, where it is neither gone nor counted.
        next: what to do about it.

    """

    name: str
    looked_for: str
    state: PlaceState
    found: int = 0
    detail: str = ""
    next: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The proof of a tenant's erasure: every place, looked at after everything was deleted.

    Attributes:
        tenant: who was forgotten.
        places: where it was looked for, and what was found there.
        pending: why the erasure is not finished and is continued; empty: it is finished.

    """

    tenant: TenantId
    places: tuple[Place, ...]
    pending: str = ""

    @property
    def proven(self) -> bool:
        """Whether every place could be looked at and nothing that a delete reaches was found."""
        return not self.pending and all(p.state in {"gone", "kept"} for p in self.places)


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """A tenant whose forgetting is not finished.

    Attributes:
        tenant: who is forgotten.
        requested_at: when the erasure was requested last.
        fenced: whether the tenant is out of the registry.
        settles_seconds: for how long a request from before the fence may still land.
        memories: what a tenant that is not fenced yet still has in Postgres.
        waits_for: why the last attempt did not finish it.

    """

    tenant: TenantId
    requested_at: datetime
    fenced: bool
    settles_seconds: float
    memories: int
    waits_for: str


@dataclass(frozen=True, slots=True)
class Traces:
    """What Postgres has of a tenant, counted in one snapshot.

    ``provenance`` and ``vectors``: of memories that are gone.
    """

    memories: int
    changes: int
    failures: int
    provenance: int
    vectors: int
    external_ids: int
    generations: int
    rebuilds: int
    verifications: int
    freshness: int
    registrations: int
    erasures: int
