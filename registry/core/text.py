"""Forms of text that several routes share."""

from datetime import datetime

OBJECT_ID = r"^[0-9a-fA-F]{24}$"
"""Pattern of an ObjectId."""


def timestamp(moment: datetime) -> str:
    """Return a time of UTC in ISO 8601, with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
