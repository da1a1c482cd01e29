"""A rebuild as a backfill of Dagster, launched and followed through its GraphQL, without dagster.

Importing dagster would cost seconds; its own `dagster job backfill` makes a run for each tenant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from memory_pipeline.errors import PipelineError, Transient
from memory_pipeline.proxies import http_client, through_proxy

LOCATION = "memory_pipeline"
JOB = "full_rebuild"
PARTITIONS = "tenants"
# Launching validates every key, which takes long on a busy machine.
ANSWER_SECONDS = 60.0
# One mutation adds one partition; a request holds this many mutations.
ADDED_AT_ONCE = 100
RETRIED = "dagster/auto_retry_run_id"
FINISHED = frozenset({"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"})

ASSET = """
query { assetNodes(assetKeys: [{path: ["memory_index"]}]) {
    partitionKeys repository { name location { name } }
} }
"""
LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
} }
"""
STATE = """
query ($id: String!, $failed: RunsFilter!) {
    partitionBackfillOrError(backfillId: $id) {
        __typename
        ... on PartitionBackfill { status error { message } }
        ... on Error { message }
    }
    runsOrError(filter: $failed) {
        __typename
        ... on Runs { results { tags { key } } }
        ... on Error { message }
    }
}
"""


@dataclass(frozen=True, slots=True)
class BackfillState:
    """The state of a backfill: Dagster's status, and whether that is final.

    ``failed_runs`` leaves out runs that failed and were retried automatically; the status may be
    COMPLETED_FAILED because of them.
    """

    status: str
    finished: bool
    failed_runs: int


def launch_backfill(ui_url: str, *, tenants_keys: Sequence[str], tags: Mapping[str, str]) -> str:
    """Launch a backfill of full_rebuild over these partitions; return its id.

    Args:
        ui_url: the address of Dagster's webserver.
        tenants_keys: the partition keys; keys that Dagster does not know yet are added first.
        tags: the tags of every run.

    Raises:
        Transient: the webserver does not answer.
        PipelineError: Dagster refuses; the message has its reason.

    """
    repository, known = _repository(ui_url)
    added = [key for key in dict.fromkeys(tenants_keys) if key not in known]
    _add(ui_url, repository, added)
    # In Dagster's own order: after a restart it resumes after the last key that it has submitted.
    wanted = set(tenants_keys)
    params = {
        "selector": {"partitionSetName": f"{JOB}_partition_set", "repositorySelector": repository},
        "partitionNames": [key for key in [*known, *added] if key in wanted],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    answer = _query(ui_url, LAUNCH, params=params)["launchPartitionBackfill"]
    return str(_expected(answer, "LaunchBackfillSuccess")["backfillId"])


def backfill_state(ui_url: str, backfill: str) -> BackfillState:
    """Return the state of a backfill.

    Raises:
        Transient: the webserver does not answer.
        PipelineError: Dagster does not know the backfill, or cannot resume it.

    """
    failed = {
        "tags": [{"key": "dagster/backfill", "value": backfill}],
        "statuses": ["FAILURE", "CANCELED"],
    }
    answer = _query(ui_url, STATE, id=backfill, failed=failed)
    found = _expected(answer["partitionBackfillOrError"], "PartitionBackfill")
    if found["status"] == "FAILED" and found["error"]:
        raise PipelineError(f"the backfill {backfill} failed: {_line(found['error']['message'])}")
    runs = _expected(answer["runsOrError"], "Runs")["results"]
    final = [run for run in runs if RETRIED not in {tag["key"] for tag in run["tags"]}]
    return BackfillState(found["status"], found["status"] in FINISHED, len(final))


def _repository(ui_url: str) -> tuple[dict[str, str], list[str]]:
    """Return the repository of the assets, and Dagster's partitions in their order."""
    for node in _query(ui_url, ASSET)["assetNodes"]:
        repository = node["repository"]
        if repository["location"]["name"] == LOCATION:
            selector = {
                "repositoryName": repository["name"],
                "repositoryLocationName": LOCATION,
            }
            return selector, node["partitionKeys"]
    raise PipelineError(
        f"Dagster at {ui_url} has not loaded the code location {LOCATION}: its page Deployment "
        "shows why"
    )


def _add(ui_url: str, repository: Mapping[str, str], keys: Sequence[str]) -> None:
    for at in range(0, len(keys), ADDED_AT_ONCE):
        part = keys[at : at + ADDED_AT_ONCE]
        names = ", ".join(f"$k{n}: String!" for n in range(len(part)))
        calls = "\n".join(
            f"a{n}: addDynamicPartition(repositorySelector: $repository, "
            f'partitionsDefName: "{PARTITIONS}", partitionKey: $k{n}) '
            "{ __typename ... on Error { message } }"
            for n in range(len(part))
        )
        answer = _query(
            ui_url,
            f"mutation ($repository: RepositorySelector!, {names}) {{ {calls} }}",
            repository=repository,
            **{f"k{n}": key for n, key in enumerate(part)},
        )
        for added in answer.values():
            _expected(added, "AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")


def _expected(answer: Any, *names: str) -> Any:
    if answer["__typename"] not in names:
        reason = answer.get("message") or answer["__typename"]
        raise PipelineError(f"Dagster refuses: {_line(reason)}")
    return answer


def _query(ui_url: str, query: str, **variables: Any) -> Any:
    """Query the webserver; return the answer's data."""
    try:
        with http_client(ui_url, timeout=ANSWER_SECONDS) as client:
            response = client.post(
                f"{ui_url.rstrip('/')}/graphql", json={"query": query, "variables": variables}
            )
            answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        where = f"Dagster at {ui_url}{through_proxy(ui_url)}"
        raise Transient(f"{where} does not answer: {error}") from error
    if answer.get("errors"):
        raise PipelineError(f"Dagster refuses: {_line(answer['errors'][0]['message'])}")
    return answer["data"]


def _line(message: str) -> str:
    """Return the first line of an error of Dagster, which may be a whole traceback."""
    return message.strip().partition("\n")[0]
