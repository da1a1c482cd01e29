"""What a test needs that a machine may not have: skipped with a word, but never by CI."""

import os
from typing import NoReturn

import pytest

# Set by .ci/run: what a machine lacks must not look like a test that passed.
NOTHING_MAY_LACK = "TEST_NOTHING_MAY_LACK"


def unavailable(what: str, *, install: str) -> NoReturn:
    """Skip the test, and say how to get what it needs; under .ci/run, fail it."""
    message = f"{what}: {install}"
    if os.environ.get(NOTHING_MAY_LACK):
        pytest.fail(message)
    pytest.skip(message)
