"""How changes become documents, one tenant at a time."""
