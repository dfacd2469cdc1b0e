"""Versions of servers' connections, as the API shows and restores them."""
