"""How the index is compared with Postgres, and repaired."""
