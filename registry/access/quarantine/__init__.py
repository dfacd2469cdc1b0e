"""Quarantine: what is refused everywhere, at once, until it expires or somebody lifts it."""
