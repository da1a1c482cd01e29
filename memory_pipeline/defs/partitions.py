"""One dynamic partition a tenant; its key is the registry's, in an alphabet that the UI takes."""

import dagster as dg

tenants = dg.DynamicPartitionsDefinition(name="tenants")

# Runs that the sensor or the sweep requested skip tenants without pending changes.
SCOPE_TAG = "memory_pipeline/tenants"
SCOPE_PENDING = "pending"
# Limited in dagster.yaml: incremental runs must not take every slot, nor every core.
SYNC_TAG = "memory_pipeline/sync"
# What a run does to its tenants; without it, a sync. Limited in dagster.yaml: one run a mode.
MODE_TAG = "memory_pipeline/mode"
MODE_REBUILD = "rebuild"
MODE_VERIFY = "verify"
# A rebuild with this tag computes every vector again.
RE_EMBED_TAG = "memory_pipeline/re_embed"
RE_EMBED_YES = "yes"
