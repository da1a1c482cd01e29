"""One dynamic partition a tenant; its key is the registry's, in an alphabet that the UI takes."""

import dagster as dg

tenants = dg.DynamicPartitionsDefinition(name="tenants")

# Runs that were asked for because of waiting changes pass over the tenants that have none.
SCOPE_TAG = "memory_pipeline/tenants"
SCOPE_PENDING = "pending"
# Limited in dagster.yaml: incremental runs may not take every slot, nor every core.
SYNC_TAG = "memory_pipeline/sync"
