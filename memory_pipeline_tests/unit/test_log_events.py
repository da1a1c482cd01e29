"""Every line of the log can be acted upon: this parses every call of a logger in the product.

What broke: a warning with a traceback, and no tenant in it. What must not change: an event is a
literal in snake_case with one meaning; a warning or worse says what happens next, and which tenant,
generation or server it is about.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import pytest

from memory_pipeline_tests.docs.log_calls import LogCall, is_log_method, log_calls, sources

WARNINGS = {"warning", "error", "exception", "critical"}
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

# The warnings that are about no tenant: what each is about, and why that is so.
About = Literal["installation", "process", "server", "service", "alert"]
NO_TENANT: dict[str, tuple[About, str]] = {
    "postgres_unavailable": ("installation", "no tenant can be synced without Postgres"),
    "listen_connection_lost": ("process", "one connection listens for all tenants"),
    "listen_behind_pooler": ("process", "one connection listens for all tenants"),
    "model_not_loaded": ("process", "one model embeds for all tenants"),
    "background_task_failed": ("process", "a task is for all tenants; the traceback names it"),
    "shutdown_report_failed": ("process", "the worker deregisters itself"),
    "service_ended": ("service", "the services of one machine serve all tenants"),
    "dagster_code_cut_off": ("service", "one service of Dagster"),
    "dagster_cleanup_lost": ("service", "one service of Dagster"),
    "service_start_failed": ("service", "the services of one machine serve all tenants"),
    "service_restarted": ("service", "the services of one machine serve all tenants"),
    "services_file_not_written": ("installation", "the file lists the services"),
    "orphan_folders_kept": ("service", "the folders belong to no collection any more"),
    "alert_send_failed": ("alert", "one alert names many tenants; the alert is sent again"),
    "alert_refused": ("alert", "one alert names many tenants; the alert is sent again"),
    "sweep_failed": ("server", "the collections of a forgotten state are of no known tenant"),
    "postgres_rollback_detected": ("installation", "every tenant is unproven then"),
    "vector_backup_refused": ("installation", "a table refuses the vectors of all its tenants"),
    "last_report_abandoned": ("installation", "one report is of many tenants; it counts them"),
    "dagster_report_failed": ("installation", "one report is of many tenants; it counts them"),
}


def problems(line: LogCall) -> Iterator[str]:
    """Yield what is wrong with the line by itself."""
    if line.event is None:
        yield "the event is no literal"
        return
    words = line.event.split("_")
    if not SNAKE_CASE.fullmatch(line.event):
        yield f"{line.event!r} is not snake_case"
    if line.method not in WARNINGS:
        return
    if "next" not in line.fields:
        yield f"{line.event} does not say what happens next"
    about, _ = NO_TENANT.get(line.event, ("tenant", ""))
    if about == "tenant" and "tenant" not in line.fields:
        yield f"{line.event} names no tenant"
    if about == "service" and "service" not in line.fields:
        yield f"{line.event} names no service"
    if (about == "server" or "server" in words) and not line.fields & {"server", "address"}:
        yield f"{line.event} names no server"
    if "generation" in words and "generation" not in line.fields:
        yield f"{line.event} names no generation"


LINES = [line for file, source in sources() for line in log_calls(source, file)]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.file}:{line.number}")
def test_a_line_can_be_acted_upon(line: LogCall) -> None:
    """The event is snake_case; a warning names what it is about, and what happens next."""
    assert list(problems(line)) == []


def test_an_event_has_one_meaning() -> None:
    """A search for an event of the log finds one place in the code."""
    counted = Counter(line.event for line in LINES)
    assert [event for event, times in counted.items() if times > 1] == []


def test_every_exception_is_an_event() -> None:
    """The table names no event that is gone."""
    assert NO_TENANT.keys() <= {line.event for line in LINES if line.method in WARNINGS}


def test_no_line_hides_from_this_test() -> None:
    """Each logger is called ``log``, and its methods are called where they are named."""
    for file, source in sources():
        tree = ast.parse(source)
        loggers = [
            ast.unparse(node.targets[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "get_logger"
        ]
        named = sum(is_log_method(node) for node in ast.walk(tree))
        assert set(loggers) <= {"log"}, file
        assert named == len(list(log_calls(source))), f"{file}: a method of log is not called"


@pytest.mark.parametrize(
    ("planted", "problem"),
    [
        ('log.warning("sync_failed", next="it is retried")', "names no tenant"),
        ('log.exception("sync_failed", next="it is retried")', "names no tenant"),
        ('log.warning("sync_failed", tenant=t)', "what happens next"),
        ('log.warning("sync_failed", **fields)', "names no tenant"),
        ('log.error("sync failed", tenant=t, next="it is retried")', "not snake_case"),
        ('log.info("Sync failed")', "not snake_case"),
        ("log.info(event)", "no literal"),
        ('log.log(level, f"sync_{n}")', "no literal"),
        ('log.warning("server_lost", tenant=t, next="it waits")', "names no server"),
        ('log.warning("generation_lost", tenant=t, next="it waits")', "names no generation"),
    ],
)
def test_a_planted_line_is_noticed(planted: str, problem: str) -> None:
    """A checker that cannot fail proves nothing."""
    [line] = log_calls(planted)
    assert any(problem in found for found in problems(line))


@pytest.mark.parametrize(
    "good",
    [
        'log.info("synced", verdict=v)',
        'log.log(level, "synced", **figures)',
        'log.warning("sync_failed", tenant=t, reason=r, next="it is retried")',
        'log.warning("server_lost", tenant=t, server=s, next="it waits")',
        'log.warning("postgres_unavailable", reason=r, next="it is retried")',
    ],
)
def test_a_good_line_passes(good: str) -> None:
    """And a checker that fails always proves nothing either."""
    [line] = log_calls(good)
    assert list(problems(line)) == []
