"""Arrival of a request: authentication, sessions, eras, recording, error responses."""
