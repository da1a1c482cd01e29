"""A lease as its holder sees it: one writer a tenant, for a few seconds at a time.

The trust window: the holder trusts a lease until ``renewal sent + lease_seconds - MARGIN_SECONDS``
on its own monotonic clock, and gives each request less time than what is left of that. Postgres'
clock ends the lease at ``renewal executed + lease_seconds``, which is later: no request that was
sent in trust can outlive the lease, unless the process is frozen between the renewal and the send.
The confirm of the next claim (``queries/outbox.sql``) is the guard against that.
"""

import time
from dataclasses import dataclass

from memory_pipeline.domain.types import TenantId, Token
from memory_pipeline.errors import Fenced
from memory_pipeline.postgres.database import Connection, Database, queries

# The holder stops trusting a lease this long before Postgres does.
MARGIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PostgresLease:
    """Postgres' clock decides when it ends; the holder's clock only measures."""

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
                raise lease_lost(connection, self.tenant, self.token)
        # Counted from before the renewal was sent: the holder's trust ends before the lease does.
        left = self.lease_seconds - (time.monotonic() - began) - MARGIN_SECONDS
        if left <= 0:
            raise Fenced(
                f"the renewal of the lease with token {self.token} took as long as the lease"
            )
        return min(self.request_seconds, left)


def lease_lost(connection: Connection, tenant: TenantId, token: Token) -> Fenced:
    """Return the error of a refused write: the lease is lost, or what was to be written is gone.

    It names the present holder of the lease, and until when.
    """
    holder = queries().lease_holder(connection, tenant=tenant)
    if holder is None:
        return Fenced(f"the lease with token {token} expired, and no worker holds one now")
    if holder.lease_token == token:
        return Fenced(
            f"the lease with token {token} is held, but the generation may not be written: another "
            "one took its place, or its server was retired"
        )
    return Fenced(
        f"the lease with token {token} is lost: {holder.lease_owner} holds the tenant under token "
        f"{holder.lease_token} until {holder.lease_until:%H:%M:%S %Z}"
    )
