"""Migrations: alembic runs them, their SQL stands in files, released ones never change."""
