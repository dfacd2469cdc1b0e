"""JSON answers of the usage API: snake_case, as stored. Pure."""

from dataclasses import asdict

from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.usage.values import UsageRecord


def present_record(record: UsageRecord) -> JsonObject:
    """Return one call."""
    moment = timestamp(record.started_at)
    return {**asdict(record), "started_at": moment}
