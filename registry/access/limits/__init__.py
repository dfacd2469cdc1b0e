"""Limits: how often, and how often at a time, tools may be called."""
