"""Log lines: structured, and with the tenant's name or its partition key."""

import logging
from collections.abc import Iterator

import pytest

from memory_pipeline.domain.partition_keys import partition_keys
from memory_pipeline.domain.types import TenantId
from memory_pipeline.logs import ROOT, configure_logging, get_logger

ADA = TenantId("ada lovelace")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger(ROOT)
    before = root.handlers, root.propagate, root.level
    yield
    configure_logging()
    root.handlers, root.propagate = before[:2]
    root.setLevel(before[2])


def test_a_line_names_its_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    """As the application names it, unless the settings say otherwise."""
    configure_logging()
    get_logger(f"{ROOT}.test").warning("sync_failed", tenant=ADA, next="it is retried")
    line = capsys.readouterr().err
    assert 'level=warning event=sync_failed tenant="ada lovelace" next="it is retried"' in line


def test_with_keys_a_line_names_the_partition_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Also in the lines of loggers that were made before; other fields stay as they are."""
    log = get_logger(f"{ROOT}.test")
    configure_logging(tenants="key")
    log.warning("sync_failed", tenant=ADA, reason="it is down")
    log.warning("report_failed", tenants=3)
    first, second = capsys.readouterr().err.splitlines()
    key = next(partition_keys(ADA))
    assert f'tenant={key} reason="it is down"' in first
    assert str(ADA) not in first
    assert "tenants=3" in second


def test_a_quiet_process_logs_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A command prints its own result."""
    configure_logging(quiet=True)
    log = get_logger(f"{ROOT}.test")
    log.info("synced", tenant=ADA)
    log.log(logging.INFO, "synced", tenant=ADA)
    assert capsys.readouterr().err == ""
    log.warning("sync_failed")
    assert "event=sync_failed" in capsys.readouterr().err


def test_partition_keys_are_safe_and_the_last_is_unique() -> None:
    """A readable name is its own key; any other has a hash, so that two names never share one."""
    assert next(partition_keys(TenantId("ada"))) == "ada"
    assert next(partition_keys(TenantId("a..b"))) != "a..b"
    spaced, dashed = (list(partition_keys(TenantId(t))) for t in ("ada lovelace", "ada/lovelace"))
    assert spaced[0].startswith("ada-lovelace-")
    assert not set(spaced) & set(dashed)
