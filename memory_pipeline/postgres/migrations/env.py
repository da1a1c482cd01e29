"""Alembic's entry point: runs the migrations on the connection that ``migrate`` hands over."""

from typing import Any

from alembic import context

SETTINGS: dict[str, Any] = {
    "version_table": "migration",
    "version_table_schema": "memory_pipeline",
    "transaction_per_migration": True,
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **SETTINGS)
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(connection=context.config.attributes["connection"], **SETTINGS)
    with context.begin_transaction():
        context.run_migrations()
