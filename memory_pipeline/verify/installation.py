"""Verify a whole installation, and repair it where that is wanted. Prints nothing.

The order is the design:

1. check the capture triggers; a repair recreates those that are broken. First, because a change
   that no trigger has seen is neither pending nor repaired
2. identify the Chroma servers again, so that a server that has lost its data is known as lost
3. a repair retires the lost servers: their tenants have no collection now, and are rebuilt
4. a repair waits until the tenants that are unproven (Postgres went back in time) can be compared:
   a request of the forgotten state may arrive until then
5. verify each tenant, or verify, repair and verify it again; record the last verdict of each. A
   tenant whose server cannot be reached is skipped, and the others are verified
6. query which tenants are still unproven: no verdict on them is a proof
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable, Transient
from memory_pipeline.verify.repair import Repaired
from memory_pipeline.verify.tenant import SAMPLE
from memory_pipeline.verify.tenants import SkippedTenant, VerifiesTenant, verify_all


class Status(Protocol):
    """The state of the installation in Postgres."""

    def broken_capture(self) -> Sequence[str]:
        """Name every capture trigger that is missing or would not always fire."""
        ...

    def record_verification(self, verified: Verified) -> None:
        """Record the newest verdict on a tenant."""
        ...


class Servers(Protocol):
    """The Chroma servers."""

    def check_identity(self) -> None:
        """Identify the server at each address again. Raises ChromaUnavailable."""
        ...

    def replace_lost(self) -> Sequence[UUID]:
        """Retire the servers that have lost their data; return them."""
        ...


class UnprovenTenants(Protocol):
    """The tenants that were not compared since Postgres went back in time."""

    @property
    def tenants(self) -> AbstractSet[TenantId]:
        """The tenants."""
        ...

    @property
    def reason(self) -> str:
        """How it was noticed."""
        ...


class Epochs(Protocol):
    """What is known of Postgres going back in time."""

    def seconds_to_wait(self) -> float:
        """Return for how long the unproven tenants cannot be compared yet."""
        ...

    def unproven(self) -> UnprovenTenants:
        """Return the unproven tenants."""
        ...


class RepairsTenant(Protocol):
    """Verifies and repairs one tenant, as Repair does."""

    def run(self, tenant: TenantId, *, sample: int | None = SAMPLE) -> Repaired:
        """Verify, repair and verify again; return both verdicts."""
        ...


@dataclass(frozen=True, slots=True)
class Installation:
    """What a verify of everything needs. The callables run in the order of the steps above.

    ``repair_capture`` recreates the triggers. ``tenants`` returns the tenants to verify, and is
    called after the servers were retired.
    """

    status: Status
    servers: Servers
    epochs: Epochs
    verify: Callable[[], VerifiesTenant]
    repair: Callable[[], RepairsTenant]
    repair_capture: Callable[[], None]
    tenants: Callable[[], Sequence[TenantId]]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verify of an installation.

    ``verdicts``: the last verdict on each tenant that could be verified. ``found``: the findings of
    the first verdicts, and those about the installation; ``left``: what a repair has left of them,
    all of them where nothing was repaired. ``skipped``: the tenants that could not be verified
    now, with the reason. ``seconds``: the duration of step 5.
    """

    verdicts: tuple[Verified, ...] = ()
    found: tuple[Finding, ...] = ()
    left: tuple[Finding, ...] = ()
    skipped: Mapping[TenantId, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def documents(self) -> int:
        """The number of documents that were compared."""
        return sum(v.documents for v in self.verdicts)

    @property
    def documents_per_second(self) -> float:
        """The speed of the comparison."""
        return self.documents / max(self.seconds, 1e-3)

    @property
    def repaired(self) -> int:
        """The number of findings that a repair has removed."""
        return len(self.found) - len(self.left)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Called while a verify runs, because it may take hours.

    ``retired``: with each server that was retired. ``verified``: with the number of tenants that
    are done, and of all.
    """

    retired: Callable[[UUID], None] = lambda _: None
    verified: Callable[[int, int], None] = lambda _done, _all: None


def verify_installation(
    installation: Installation,
    *,
    sample: int | None = SAMPLE,
    repair: bool = False,
    progress: VerifyProgress | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> VerifyReport:
    """Verify the triggers and the collections of an installation while it serves.

    Args:
        installation: the parts, and the tenants.
        sample: documents a tenant that are compared in full; None: all of them; 0: none.
        repair: also repair the findings, and verify again.
        progress: called on the way.
        clock: what a repair waits by.

    Raises:
        PostgresUnavailable: nothing can be verified now.
        ContractError: a repair cannot recreate the triggers with this role or in this database.

    """
    progress = progress or VerifyProgress()
    capture, capture_left = _check_capture(installation, repair=repair)  # 1
    with suppress(Transient):  # reported for each tenant of a server that cannot be reached
        installation.servers.check_identity()  # 2
    if repair:
        for server in installation.servers.replace_lost():  # 3
            progress.retired(server)
        clock.sleep(installation.epochs.seconds_to_wait())  # 4
    tenants = installation.tenants()
    began = clock.monotonic()
    verdicts: list[Repaired] = []
    skipped: dict[TenantId, str] = {}
    pairs = (_repair_all if repair else _verify_all)(installation, tenants, sample)
    with closing(pairs):  # it has threads
        for done, pair in enumerate(pairs, start=1):  # 5
            if isinstance(pair, SkippedTenant):
                skipped[pair.tenant] = pair.reason
            else:
                installation.status.record_verification(pair.after)
                verdicts.append(pair)
            progress.verified(done, len(tenants))
    seconds = clock.monotonic() - began
    unproven = _unproven(installation.epochs, tenants)  # 6
    return VerifyReport(
        verdicts=tuple(v.after for v in verdicts),
        found=(*capture, *unproven, *(f for v in verdicts for f in v.before.findings)),
        left=(*capture_left, *unproven, *(f for v in verdicts for f in v.after.findings)),
        skipped=skipped,
        seconds=seconds,
    )


def _check_capture(
    installation: Installation, *, repair: bool
) -> tuple[list[Finding], list[Finding]]:
    """Return the findings about the triggers, and those that a repair has left."""
    before = _broken_capture(installation.status)
    if not (before and repair):
        return before, before
    installation.repair_capture()
    return before, _broken_capture(installation.status)


def _broken_capture(status: Status) -> list[Finding]:
    return [Finding("capture", detail=broken) for broken in status.broken_capture()]


def _unproven(epochs: Epochs, tenants: Sequence[TenantId]) -> list[Finding]:
    unproven = epochs.unproven()
    among = sorted(unproven.tenants & set(tenants))
    return [Finding("unproven", tenant, detail=unproven.reason) for tenant in among]


def _verify_all(
    installation: Installation, tenants: Sequence[TenantId], sample: int | None
) -> Generator[Repaired | SkippedTenant]:
    with closing(verify_all(installation.verify(), tenants, sample=sample)) as verdicts:
        for verdict in verdicts:
            yield verdict if isinstance(verdict, SkippedTenant) else Repaired(verdict, verdict)


def _repair_all(
    installation: Installation, tenants: Sequence[TenantId], sample: int | None
) -> Generator[Repaired | SkippedTenant]:
    repairer = installation.repair()
    for tenant in tenants:
        try:
            yield repairer.run(tenant, sample=sample)
        except ChromaUnavailable as error:
            yield SkippedTenant(tenant, str(error))
