"""A verify of everything: what is repaired, in which order, and what is reported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast
from uuid import UUID, uuid4

import pytest

from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.verify.installation import (
    Installation,
    UnprovenTenants,
    VerifyProgress,
    VerifyReport,
    verify_installation,
)
from memory_pipeline.verify.repair import Repaired

ADA, BEN, EVE = TenantId("ada"), TenantId("ben"), TenantId("eve")
SERVER = uuid4()


@dataclass
class Site:
    """An installation in memory: what is wrong with it, and what was done, in order."""

    missing: set[TenantId] = field(default_factory=set)
    down: set[TenantId] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    lost: list[UUID] = field(default_factory=list)
    unproven_tenants: frozenset[TenantId] = frozenset()
    irreparable: bool = False
    recorded: dict[TenantId, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def installation(self) -> Installation:
        """Return the parts."""
        return Installation(
            status=self,
            servers=self,
            epochs=self,
            verify=lambda: self,
            repair=lambda: Repairer(self),
            repair_capture=self.repair_capture,
            tenants=self.tenants,
        )

    def broken_capture(self) -> list[str]:
        """Name the broken triggers."""
        return list(self.broken)

    def repair_capture(self) -> None:
        """Recreate them."""
        self.done.append("capture")
        self.broken.clear()

    def check_identity(self) -> None:
        """Identify the servers; some may be down."""
        self.done.append("identify")
        if self.down:
            raise ChromaUnavailable("one server is down")

    def replace_lost(self) -> Sequence[UUID]:
        """Retire the lost servers."""
        self.done.append("retire")
        retired, self.lost = self.lost, []
        return retired

    def seconds_to_wait(self) -> float:
        """Wait for nothing."""
        self.done.append("wait")
        return 0.0

    def unproven(self) -> UnprovenTenants:
        """Return the unproven tenants."""
        said = SimpleNamespace(tenants=self.unproven_tenants, reason="a dump was loaded")
        return cast("UnprovenTenants", said)

    def tenants(self) -> list[TenantId]:
        """Return those to verify: none of a lost server has a collection yet."""
        self.done.append("tenants")
        return [ADA, BEN]

    def run(self, tenant: TenantId, *, sample: int | None = 100) -> Verified:
        """Verify a tenant."""
        if tenant in self.down:
            raise ChromaUnavailable("it is down")
        wrong = [Finding("missing", tenant, MemoryId(1))] if tenant in self.missing else []
        return Verified(tenant, documents=10, sampled=sample or 0, findings=tuple(wrong))

    def record_verification(self, verified: Verified) -> None:
        """Record the newest verdict."""
        self.recorded[verified.tenant] = len(verified.findings)


@dataclass
class Repairer:
    """Repairs the tenants of a site."""

    site: Site

    def run(self, tenant: TenantId, *, sample: int | None = 100) -> Repaired:
        """Verify, repair, verify."""
        first = self.site.run(tenant, sample=sample)
        self.site.done.append(f"repair {tenant}")
        if not self.site.irreparable:
            self.site.missing.discard(tenant)
        return Repaired(first, self.site.run(tenant, sample=sample))


def kinds(findings: Sequence[Finding]) -> list[tuple[str, TenantId | None]]:
    """Return kind and tenant of each finding."""
    return [(finding.kind, finding.tenant) for finding in findings]


def test_a_verify_changes_nothing() -> None:
    """All that is wrong is found, and all of it is left."""
    site = Site(missing={BEN}, broken=["gone"], lost=[SERVER], unproven_tenants=frozenset({ADA}))
    report = verify_installation(site.installation())
    assert kinds(report.found) == [("capture", None), ("unproven", ADA), ("missing", BEN)]
    assert report.left == report.found
    assert report.repaired == 0
    assert site.done == ["identify", "tenants"]
    assert site.lost == [SERVER]


def test_a_repair_follows_its_order() -> None:
    """What no trigger saw is found only after it; lost tenants are known only once retired."""
    site = Site(missing={BEN}, broken=["gone"], lost=[SERVER])
    retired: list[UUID] = []
    progress: list[tuple[int, int]] = []
    report = verify_installation(
        site.installation(),
        repair=True,
        progress=VerifyProgress(retired.append, lambda *done: progress.append(done)),
    )
    assert site.done == [
        *("capture", "identify", "retire", "wait", "tenants"),
        *("repair ada", "repair ben"),
    ]
    assert kinds(report.found) == [("capture", None), ("missing", BEN)]
    assert (report.left, report.repaired) == ((), 2)
    assert retired == [SERVER]
    assert progress == [(1, 2), (2, 2)]


@pytest.mark.parametrize("repair", [False, True])
def test_a_tenant_that_cannot_be_verified_stops_no_other(repair: object) -> None:
    """It is named with the reason, and no verdict on it is recorded."""
    site = Site(missing={BEN}, down={ADA})
    report = verify_installation(site.installation(), repair=bool(repair))
    assert report.skipped == {ADA: "it is down"}
    assert [verdict.tenant for verdict in report.verdicts] == [BEN]
    assert site.recorded == {BEN: 0 if repair else 1}
    assert report.documents == 10


def test_what_a_repair_cannot_repair_is_left() -> None:
    """And recorded as the newest verdict."""
    site = Site(missing={ADA}, irreparable=True)
    report = verify_installation(site.installation(), repair=True)
    assert kinds(report.left) == [("missing", ADA)]
    assert report.repaired == 0
    assert site.recorded == {ADA: 1, BEN: 0}


def test_unproven_are_only_the_tenants_that_were_asked_for() -> None:
    """A verify of some says nothing of the others; a repair proves none by itself."""
    site = Site(unproven_tenants=frozenset({BEN, EVE}))
    report = verify_installation(site.installation(), repair=True)
    assert report.left == (Finding("unproven", BEN, detail="a dump was loaded"),)


def test_an_empty_report_divides_by_nothing() -> None:
    """An installation without tenants is verified."""
    assert VerifyReport().documents_per_second == 0
