"""Dead letters in Dagster: the job, the check with its newest ones, the sensors that tell."""

from typing import Any

import dagster as dg
import psycopg
import pytest

from memory_pipeline.definitions import defs
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.sensors import dead_letter_alerts, run_failure_alerts
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.running import evaluations, execute, over, passes, red, synced
from memory_pipeline_tests.webhook import webhook
from memory_pipeline_tests.words import remember, tried

SECRET = "the patient's secret illness"
BURIED = """
    INSERT INTO memory_pipeline.failure
        (tenant, memory_id, attempts, first_error, last_error, kind, buried_at)
    VALUES (%s, %s, 5, 'refused', 'index: refused', %s, now())
"""


@pytest.fixture(autouse=True)
def letters(
    environment: Settings, instance: dg.DagsterInstance, db: psycopg.Connection
) -> dict[str, int]:
    """Bury a memory of each of two tenants, both in sync."""
    ids = {user: remember(db, user, SECRET) for user in ("ada", "ben")}
    synced(instance)
    for (user, memory), kind in zip(ids.items(), ("index", "embedding"), strict=True):
        db.execute(BURIED, (user, memory, kind))
    return ids


def replay(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    """Run replay_dead_letters."""
    return defs.resolve_job_def("replay_dead_letters").execute_in_process(
        instance=instance,
        run_config={"ops": {"replay_selected": {"config": config}}},
        raise_on_error=False,
    )


def named(evaluation: dg.AssetCheckEvaluation) -> Any:
    """Return the dead letters that an evaluation names."""
    return evaluation.metadata["newest"].value


def tenants_with_changes(db: psycopg.Connection) -> set[str]:
    """Return whose memories are to be looked at again."""
    return {tenant for (tenant,) in db.execute("SELECT tenant FROM memory_pipeline.change")}


@pytest.mark.parametrize(
    ("config", "replayed"),
    [
        ({}, {"ada", "ben"}),
        ({"tenants": ["ada"]}, {"ada"}),
        ({"classes": ["embedding"]}, {"ben"}),
        ({"tenants": ["ada"], "classes": ["embedding"]}, set()),
    ],
)
def test_the_job_replays_those_that_are_meant(
    instance: dg.DagsterInstance, db: psycopg.Connection, config: dict[str, Any], replayed: set[str]
) -> None:
    """And says how many; the next sync tries them."""
    result = replay(instance, **config)
    assert result.success
    assert tenants_with_changes(db) == replayed
    said = [e for e in result.all_events if e.is_successful_output]
    [figure] = [e.step_output_data.metadata["dead letters replayed"].value for e in said]
    assert figure == len(replayed)


def test_the_job_refuses_what_there_is_not(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """A wrong name is no silent nothing."""
    result = replay(instance, tenants=["nobody"])
    assert not result.success
    assert "no such tenant: nobody" in str(result.failure_data_for_node("replay_selected"))
    assert tenants_with_changes(db) == set()


def test_the_check_names_the_newest_and_lets_waived_ones_pass(
    instance: dg.DagsterInstance, db: psycopg.Connection, letters: dict[str, int]
) -> None:
    """Which memory, what class, why and who waived it; never a text."""
    db.execute(
        "UPDATE memory_pipeline.failure SET waived_at = now(), waived_by = 'grace'"
        " WHERE tenant = 'ben'"
    )
    result = execute(instance, over("ada", "ben"), job="verify_index")
    ada, ben, _ = [e for e in evaluations(result) if e.check_name == "dead_letters"]
    assert (ada.passed, ben.passed) == (False, True)
    assert red(instance, "dead_letters") == ["ada"]
    assert not passes(instance, "dead_letters")
    assert ada.severity is dg.AssetCheckSeverity.WARN
    [newest] = named(ada)
    assert newest | {"buried at": 0} == {
        "memory": letters["ada"],
        "class": "index",
        "reason": "index: refused",
        "buried at": 0,
    }
    assert (ben.metadata["dead letters"].value, ben.metadata["waived"].value) == (1, 1)
    assert ben.description == "1 memories are dead letters, 1 of them waived"
    assert [letter["waived by"] for letter in named(ben)] == ["grace"]
    assert SECRET not in repr(evaluations(result))


def test_the_sensor_replays_what_another_version_refused(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """By itself; the runs that it asks for then try it."""
    synced(instance)
    assert db.execute("SELECT count(*) FROM memory_pipeline.failure").fetchone() == (0,)


def test_a_sync_shows_dead_letters_at_once(
    instance: dg.DagsterInstance, db: psycopg.Connection, pipeline: Pipeline
) -> None:
    """A new materialization would hide what the verify of the night has said."""
    tried(pipeline, db)
    remember(db, "ada")
    synced(instance)
    assert red(instance, "dead_letters") == ["ada"]


def test_new_dead_letters_are_told_once(
    environment: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a sensor that needs no cursor: Postgres knows what was told."""

    def tick() -> str:
        with dg.build_sensor_context(
            instance=instance, resources={"pipeline_resource": PipelineResource()}
        ) as context:
            skipped = dead_letter_alerts(context)
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or ""

    assert "ALERT_URL" in tick()
    with webhook() as hook:
        monkeypatch.setenv("MEMORY_PIPELINE_ALERT_URL", hook.url)
        assert [tick(), tick()] == ["sent 2 dead letters", "no new dead letters"]
    assert [(a["event"], a["count"]) for a in hook.taken] == [("dead_letters", 2)]


def test_a_failed_run_is_told_and_a_webhook_that_is_down_does_no_harm(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the job, the run and why."""
    result = replay(instance, tenants=["nobody"])
    run = result.dagster_run
    event = next(e for e in result.all_events if e.is_run_failure)

    def tick() -> None:
        context = dg.build_run_status_sensor_context(
            sensor_name="run_failure_alerts",
            dagster_instance=instance,
            dagster_run=run,
            dagster_event=event,
        ).for_run_failure()
        run_failure_alerts(context)

    tick()  # no address, and no error
    with webhook() as hook:
        monkeypatch.setenv("MEMORY_PIPELINE_ALERT_URL", hook.url)
        tick()
    [alert] = hook.taken
    assert (alert["event"], alert["job"]) == ("run_failed", "replay_dead_letters")
    assert alert["run_id"] == run.run_id
    assert alert["message"]
    tick()  # it is down by now
