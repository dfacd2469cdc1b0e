"""Budgets: what callers may spend in a month on tools with a price."""
