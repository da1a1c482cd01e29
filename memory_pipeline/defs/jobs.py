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

# Embedding everything again may take days; a run that is killed is resumed only by hand.
REBUILD_SECONDS = 7 * 24 * 3600

# Without the checks: a verify must not delay a sync, and a rebuild verifies before it flips.
ASSETS = dg.AssetSelection.assets("memory_embeddings", "memory_index").without_checks()

incremental_sync = dg.define_asset_job(
    "incremental_sync",
    selection=ASSETS,
    description="Syncs the collections of the chosen tenants with their memories.",
    tags={"dagster/priority": "10", SYNC_TAG: "incremental"},
)

full_rebuild = dg.define_asset_job(
    "full_rebuild",
    selection=ASSETS,
    description="Rebuilds the collections of the chosen tenants from Postgres, verifies them, and "
    "switches searches over to them. Searches and syncs continue. A run that is retried resumes "
    "where it stopped. The tag memory_pipeline/re_embed=yes computes every vector again.",
    tags={
        "dagster/priority": "-10",
        "dagster/max_runtime": str(REBUILD_SECONDS),
        MODE_TAG: MODE_REBUILD,
    },
)

verify_index = dg.define_asset_job(
    "verify_index",
    selection=dg.AssetSelection.checks(verify_tenants),
    description="Compares the collections of all tenants with Postgres, or of the range that the "
    "tags dagster/asset_partition_range_start and …_end name.",
    tags={"dagster/priority": "-5", MODE_TAG: MODE_VERIFY},
)
