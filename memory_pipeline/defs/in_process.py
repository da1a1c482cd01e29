"""Runs a job in this process, without a daemon and without storage."""

from collections.abc import Sequence

import dagster as dg

from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.run_requests import RANGE_END, RANGE_START


def run_in_process(definitions: dg.Definitions, job: str, keys: Sequence[str]) -> bool:
    """Run a job over a range of partitions, on an instance that ends with it.

    Args:
        definitions: the code location.
        job: the name of the job.
        keys: every partition key, in order; the run covers all of them.

    Returns:
        Whether the run succeeded.

    """
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(tenants.name), list(keys))
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
            raise_on_error=False,
        )
    return bool(result.success)
