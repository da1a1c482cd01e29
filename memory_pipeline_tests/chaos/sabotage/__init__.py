"""Programs with a planted bug, each started instead of the real one: chaos must detect it."""
