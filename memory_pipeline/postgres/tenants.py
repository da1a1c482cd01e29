"""Tenants as the columns of ``memory_logs`` print them. Read-only.

A column need not be text: a uuid is printed in lower case, a bigint without leading zeros, a
``character(n)`` without its padding. Postgres alone knows, so it is asked.
"""

import json

import psycopg

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.settings import TenantBy


class PostgresTenants:
    """The names of tenants, whether they have memories or not."""

    def __init__(self, database: Database, tenant_by: TenantBy) -> None:
        self._database = database
        self._tenant_by = tenant_by

    def of_values(self, user_id: str | None, project_id: str | None) -> TenantId | None:
        """Return the tenant of a memory with these values; None: it would belong to none.

        Raises:
            InvalidMemory: a column cannot hold its value.

        """
        try:
            with self._database.statement() as connection:
                tenant = queries().tenant_of_values(
                    connection, user_id=user_id, project_id=project_id
                )
        except psycopg.DataError as error:
            said = error.diag.message_primary or "it is not of the column's type"
            raise InvalidMemory(f"no memory can have these values: {said}") from error
        return None if tenant is None else TenantId(tenant)

    def canonical(self, tenant: TenantId) -> TenantId:
        """Return a tenant as Postgres prints it; unchanged where no memory can be of it."""
        try:
            user_id, project_id = self._values(tenant)
            return self.of_values(user_id, project_id) or tenant
        except (InvalidMemory, ValueError, RecursionError):
            return tenant

    def _values(self, tenant: TenantId) -> tuple[str | None, str | None]:
        """Return the values of the two columns. Raises ValueError where there are not two."""
        if self._tenant_by != "both":
            return (tenant, None) if self._tenant_by == "user_id" else (None, tenant)
        values = json.loads(tenant)
        if not isinstance(values, list) or not all(isinstance(v, str | None) for v in values):
            raise ValueError("a tenant of both columns is a JSON array of two texts")
        user_id, project_id = values
        return user_id, project_id
