"""Brings what earlier releases wrote up to date: at start what is told by an index, else all."""
