"""The definitions load, say what a person wants to know, and stay light."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import yaml

import memory_pipeline.local
from memory_pipeline.definitions import defs
from memory_pipeline.defs.checks import verify_tenants
from memory_pipeline.defs.partitions import MODE_TAG, SYNC_TAG, tenants

INSTANCE = Path(memory_pipeline.local.__file__).with_name("dagster.yaml")


def test_the_definitions_are_valid() -> None:
    """Everything resolves: assets, jobs, sensors, schedules, resources."""
    dg.Definitions.validate_loadable(defs)


def test_the_lineage_is_table_then_embeddings_then_index() -> None:
    """Each asset depends on the one before it and is partitioned by tenant."""
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "memory_logs": set(),
        "memory_embeddings": {"memory_logs"},
        "memory_index": {"memory_embeddings"},
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == "tenants"
        assert node.description
        assert node.owners
        assert node.kinds


def test_what_starts_by_itself_is_running_from_the_start() -> None:
    """A new user need not switch anything on."""
    for name in ("memory_changes", "dead_letter_alerts", "run_failure_alerts"):
        sensor = defs.resolve_sensor_def(name)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    for name in ("sync_sweep", "nightly_verify"):
        schedule = defs.resolve_schedule_def(name)
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_rebuild_gives_way_to_syncs_and_has_a_slot_of_its_own() -> None:
    """Its runs wait behind every other, and one at a time is under way."""
    priorities = {
        name: int(defs.resolve_job_def(name).tags["dagster/priority"])
        for name in ("incremental_sync", "verify_index", "full_rebuild")
    }
    assert sorted(priorities, key=lambda name: -priorities[name]) == list(priorities)
    runs = yaml.safe_load(INSTANCE.read_text())["concurrency"]["runs"]
    limits = {(x["key"], x.get("value")): x["limit"] for x in runs["tag_concurrency_limits"]}
    for name in ("full_rebuild", "verify_index"):
        assert limits[MODE_TAG, defs.resolve_job_def(name).tags[MODE_TAG]] == 1
    assert runs["max_concurrent_runs"] >= 2 + limits[SYNC_TAG, None]


def test_jobs_of_assets_run_no_checks() -> None:
    """A sync would be held up by a verify, and a rebuild verifies by itself."""
    for name in ("incremental_sync", "full_rebuild"):
        job = defs.resolve_job_def(name)
        assert [node.name for node in job.nodes] == ["sync_tenants"]
        assert job.partitions_def == tenants
        assert job.backfill_policy == dg.BackfillPolicy.multi_run(100)


def test_every_check_says_what_it_means_and_those_of_tenants_are_partitioned() -> None:
    """Otherwise the UI could not show which tenant is red."""
    graph = defs.resolve_asset_graph()
    found = {
        f"{key.asset_key.to_user_string()} {key.name}": graph.get(key).partitions_def
        for key in graph.asset_check_keys
    }
    names = ("parity", "reachability", "dead_letters", "last_rebuild", "freshness")
    of_tenants = {f"memory_index {name}": tenants for name in names}
    assert found == {**of_tenants, "memory_logs capture": None}
    assert all(spec.description for spec in verify_tenants.check_specs)


def _imported_by(module: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in listing.stdout.split()}


def test_the_core_never_imports_dagster() -> None:
    """It runs, tests and benchmarks without it."""
    imported = _imported_by(
        "memory_pipeline.store, memory_pipeline.cli, memory_pipeline.cli.dagster_backfill"
    )
    assert "dagster" not in imported


def test_loading_the_definitions_loads_no_model_and_no_chroma() -> None:
    """Each run and each tick would pay seconds for them."""
    imported = _imported_by("memory_pipeline.definitions")
    assert not {"torch", "sentence_transformers", "chromadb", "alembic"} & imported
