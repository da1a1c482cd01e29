"""The partition key of a tenant: its name as Dagster and its UI can take it. No I/O."""

import hashlib
import re
from collections.abc import Iterator

from memory_pipeline.domain.types import TenantId

# Commas break Dagster's UI, spaces its backfills, "..." is a range: so letters, digits, . _ - only.
SAFE_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def partition_keys(tenant: TenantId) -> Iterator[str]:
    """Propose partition keys, the most readable first; the last is unique by itself.

    The registry takes the first that no other tenant has: nearly always the first of all.
    """
    if SAFE_KEY.fullmatch(tenant) and ".." not in tenant:
        yield tenant
    slug = re.sub(r"[^A-Za-z0-9]+", "-", tenant).strip("-")[:60] or "tenant"
    digest = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()
    yield f"{slug}-{digest[:8]}"
    yield f"{slug}-{digest}"
