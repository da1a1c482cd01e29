"""Programs with a planted bug, each started in place of the real one: the chaos run must see it."""
