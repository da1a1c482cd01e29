"""Fills, proves and flips to a new generation of a tenant's collection: one tenant, or many."""
