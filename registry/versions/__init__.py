"""Versions of how servers are reached, as people see them: lists, differences, rollback."""
