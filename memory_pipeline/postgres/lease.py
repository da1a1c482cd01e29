"""A lease as its holder sees it: one writer a tenant, for a few seconds at a time."""

import time
from dataclasses import dataclass

from memory_pipeline.domain.types import TenantId, Token
from memory_pipeline.errors import Fenced
from memory_pipeline.postgres.database import Database, queries

# The holder stops trusting a lease this long before Postgres does.
MARGIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PostgresLease:
    """Postgres' clock decides how long it lasts; the holder's only measures."""

    tenant: TenantId
    token: Token
    retries: int
    database: Database
    lease_seconds: float
    request_seconds: float

    def renew(self) -> float:
        """Renew; return the seconds that the next call may take. Raises Fenced."""
        began = time.monotonic()
        with self.database.statement() as connection:
            renewed = queries().renew_lease(
                connection, tenant=self.tenant, token=self.token, lease_seconds=self.lease_seconds
            )
        if renewed != 1:
            raise Fenced(f"the lease with token {self.token} is no longer ours")
        # Measured from before the renewal was sent: the trust ends before the lease does.
        left = self.lease_seconds - (time.monotonic() - began) - MARGIN_SECONDS
        if left <= 0:
            raise Fenced(f"the renewal of token {self.token} took as long as the lease")
        return min(self.request_seconds, left)
