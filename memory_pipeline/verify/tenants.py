"""Verify many tenants, two at once: while one side of a tenant is read, another is compared."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.verify.tenant import SAMPLE

TENANTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class SkippedTenant:
    """A tenant that could not be verified now, and why."""

    tenant: TenantId
    reason: str


class VerifiesTenant(Protocol):
    """Verifies one tenant, as Verify does."""

    def run(self, tenant: TenantId, *, sample: int | None = SAMPLE) -> Verified:
        """Verify the tenant. Raises ChromaUnavailable or PostgresUnavailable."""
        ...


def verify_one(
    verify: VerifiesTenant, tenant: TenantId, *, sample: int | None = SAMPLE
) -> Verified | SkippedTenant:
    """Verify a tenant, or return why it cannot be verified now.

    Raises:
        PostgresUnavailable: nothing can be verified now.

    """
    try:
        return verify.run(tenant, sample=sample)
    except ChromaUnavailable as error:
        return SkippedTenant(tenant, str(error))


def verify_all(
    verify: VerifiesTenant, tenants: Sequence[TenantId], *, sample: int | None = SAMPLE
) -> Generator[Verified | SkippedTenant]:
    """Verify these tenants; yield each verdict in their order.

    Raises:
        PostgresUnavailable: nothing can be verified now.

    """
    pool = ThreadPoolExecutor(TENANTS_AT_ONCE, thread_name_prefix="verify")
    try:
        yield from pool.map(partial(verify_one, verify, sample=sample), tenants)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
