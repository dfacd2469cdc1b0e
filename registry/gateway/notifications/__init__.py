"""Streams on which clients are notified, and where the notifications come from."""
