"""Operator tools: checks of an installation, and the rotation of keys."""
