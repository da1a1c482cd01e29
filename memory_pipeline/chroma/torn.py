"""Answers that a write has torn: one half of a collection has it already and the other not yet.

Chroma keeps metadata in SQLite and vectors in a graph, writes them one after the other, and a query
in between fails with the words that it also has for damage: beside a delete, or beside the very
first write. The next answer is whole.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from memory_pipeline.errors import Corrupt

P = ParamSpec("P")
T = TypeVar("T")

SIGNS = ("Error finding id", "Error getting embedding", "Nothing found on disk")
# A write of 250 documents is between the halves for a third of a second.
PAUSES = (0.02, 0.1, 0.4)


def retry_torn_reads(read: Callable[P, T]) -> Callable[P, T]:
    """Have a read asked again, up to three times; four torn answers in a row are damage."""

    @wraps(read)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause in PAUSES:
            try:
                return read(*args, **kwargs)
            except Corrupt as error:
                if not any(sign in str(error) for sign in SIGNS):
                    raise
            time.sleep(pause)
        return read(*args, **kwargs)

    return again
