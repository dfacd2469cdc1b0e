"""Command-line scripts that operators run once."""
