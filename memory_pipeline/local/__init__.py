"""The services of one machine: Postgres, Chroma and Dagster, started, watched and stopped here."""
