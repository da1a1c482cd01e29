"""The jobs: a sync of some tenants, a rebuild, a verify.

A rebuild of everything is a backfill of full_rebuild over all partitions: in the UI, or with
`memory-pipeline rebuild --all --dagster`.
"""

import dagster as dg

from memory_pipeline.defs.checks import verify_tenants
from memory_pipeline.defs.partitions import (
    MODE_REBUILD,
    MODE_TAG,
    MODE_VERIFY,
    SYNC_TAG,
)

# Embedding everything anew may take days; what is killed on the way goes on, but by hand.
REBUILD_SECONDS = 7 * 24 * 3600

# Without the checks: a sync is not held up by a verify, and a rebuild verifies before it flips.
ASSETS = dg.AssetSelection.assets("memory_embeddings", "memory_index").without_checks()

incremental_sync = dg.define_asset_job(
    "incremental_sync",
    selection=ASSETS,
    description="Brings the collections of the chosen tenants up to their memories.",
    tags={"dagster/priority": "10", SYNC_TAG: "incremental"},
)

full_rebuild = dg.define_asset_job(
    "full_rebuild",
    selection=ASSETS,
    description="Builds the collections of the chosen tenants anew from Postgres, proves them, and "
    "switches searches over to them. Searches and syncs go on meanwhile. One that is run again "
    "goes on where it was. The tag memory_pipeline/re_embed=yes computes every vector anew.",
    tags={
        "dagster/priority": "-10",
        "dagster/max_runtime": str(REBUILD_SECONDS),
        MODE_TAG: MODE_REBUILD,
    },
)

verify_index = dg.define_asset_job(
    "verify_index",
    selection=dg.AssetSelection.checks(verify_tenants),
    description="Compares the collections of all tenants with Postgres, or of those that the tags "
    "dagster/asset_partition_range_start and …_end name.",
    tags={"dagster/priority": "-5", MODE_TAG: MODE_VERIFY},
)
