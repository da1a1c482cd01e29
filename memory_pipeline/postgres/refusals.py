"""Says in one sentence why Postgres refuses a memory, without a word of the memory.

What Postgres says cannot be passed on: the detail of a constraint shows the row, the context of a
COPY shows the line, and a trigger of the application may put any value into its message. So the
sentence is made of names alone: of the condition, constraint, column and function.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from memory_pipeline.errors import ContractError, InvalidMemory, PostgresUnavailable

# Conditions that are over by themselves or by an operator: no memory is at fault. Among them are
# broken connections, deadlocks, a full disk, a shutdown, and a standby.
OUTAGES = frozenset({"08", "25", "40", "53", "55", "57", "58", "F0"})
# Deadlocks, and conflicts of serializable transactions.
CONFLICT = "40"
# Of the installation, and not of this memory: tables, columns, functions and grants.
INSTALLATION = frozenset({"0A", "3D", "3F", "42"})

SENTENCES = {
    "22P05": "a text has a NUL character, which jsonb cannot hold",
    "54001": "it is nested too deeply for Postgres",
    "22001": "a value is too long for its column",
    "22003": "a number is outside the range that Postgres can hold there",
    "22007": "a time is none that Postgres knows",
    "22008": "a time is outside the range of its column",
    "22P02": "a value is not of its column's type",
    "23502": "a column may not be NULL",
    "23503": "a foreign key does not hold",
    "23505": "another row has the same key",
    "23514": "a check constraint does not hold",
    "23P01": "an exclusion constraint does not hold",
    "44000": "the view's check option does not hold",
    "54000": "it is larger than Postgres can hold there",
}
# What a server says of jsonb's own limits holds numbers and no value of the memory.
SAFE_SOURCES = frozenset({"jsonb.c", "jsonb_util.c"})
RAISED = "exec_stmt_raise"
ROW_SECURITY = "ExecWithCheckOptions"

_FUNCTION = re.compile(r"^PL/\w+\b[^\n]*?([\w$.\"]+\([\w\s,.\[\]\"]*\)|\"[\w$.]+\")", re.MULTILINE)
_COLUMN = re.compile(r"^COPY [^\n:]*, column ([\w$]+)", re.MULTILINE)


@contextmanager
def refusals() -> Iterator[None]:
    """Raise InvalidMemory, with nothing shown of its cause, for what Postgres refuses.

    An error that ``Database`` has translated already counts by its cause: a trigger of the
    application may raise any condition, that of an outage or of a missing table too.

    Raises:
        InvalidMemory: names what refuses it.
        PostgresUnavailable: another transaction held the row for too long.

    """
    try:
        yield
    except (psycopg.Error, PostgresUnavailable, ContractError) as error:
        cause = error if isinstance(error, psycopg.Error) else error.__cause__
        said = refusal(cause) if isinstance(cause, psycopg.Error) else None
        # From None: a caller's traceback would show the error of Postgres, the row with it.
        if said is not None:
            raise InvalidMemory(f"Postgres refuses this memory: {said}") from None
        if isinstance(error, psycopg.errors.LockNotAvailable):
            raise PostgresUnavailable(
                "another transaction holds the memory for too long; repeat it"
            ) from None
        raise


def refusal(error: psycopg.Error) -> str | None:
    """Return why Postgres refuses a memory; None where the memory is not at fault."""
    if error.sqlstate is None:
        return None
    if error.diag.source_function == ROW_SECURITY:
        return f"a policy of row level security does not allow it ({_condition(error)})"
    raised = error.diag.source_function == RAISED
    function = _function(error)
    kind = error.sqlstate[:2]
    # RAISE may name any condition; what says of itself that it may be repeated is believed.
    if kind in OUTAGES and (not raised or kind == CONFLICT):
        return None
    if raised or function is not None:
        by = "a function" if function is None else f"the function {function}"
        return (
            f"{by}, which a trigger calls, ends with {_condition(error)}; "
            "its message is in the log of Postgres"
        )
    return None if kind in INSTALLATION else _of_server(error)


def _of_server(error: psycopg.Error) -> str:
    """Return why the server itself refuses a memory."""
    if error.diag.source_file in SAFE_SOURCES and str(error.sqlstate).startswith("54"):
        return str(error.diag.message_primary)
    sentence = SENTENCES.get(str(error.sqlstate), "it does not hold what Postgres demands")
    return f"{sentence} ({_condition(error)}){_names(error)}"


def _condition(error: psycopg.Error) -> str:
    """Return the name of a condition as Postgres' manual has it, and its SQLSTATE."""
    state = str(error.sqlstate)
    try:
        name = psycopg.errors.lookup(state).__name__
    except KeyError:
        return f"SQLSTATE {state}"
    return f"{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}, {state}"


def _names(error: psycopg.Error) -> str:
    """Return the names that an error bears which the server itself raises."""
    column = _COLUMN.search(error.diag.context or "")
    named = (
        ("constraint", error.diag.constraint_name),
        ("column", error.diag.column_name or (column[1] if column else None)),
        ("table", error.diag.table_name),
        ("type", error.diag.datatype_name),
    )
    return "".join(f", {what} {name}" for what, name in named if name)


def _function(error: psycopg.Error) -> str | None:
    """Return the application's innermost function that the error passed through.

    What fails in the pipeline's own trigger is of the installation.
    """
    found = _FUNCTION.search(error.diag.context or "")
    return None if found is None or found[1].startswith("memory_pipeline.") else found[1]
