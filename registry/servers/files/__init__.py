"""Servers in files: forms that are imported, and declarations that are exported and applied."""
