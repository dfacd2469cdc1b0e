"""The release of the shared schemas that this program is written against."""

SCHEMA_VERSION = "v0.0.31"
"""Expected by `check_schema_version`. Raise it together with the code that uses newer fields."""
