"""A new generation of a tenant's collection, filled, proven and flipped to."""
