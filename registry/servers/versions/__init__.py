"""Versions of how servers are reached, as the API shows and restores them."""
