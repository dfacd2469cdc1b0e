"""Processes of an installation: the server, its workers, and local mode."""
