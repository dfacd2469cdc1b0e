"""JSON answers of the usage API: snake_case, as stored. Pure."""

from dataclasses import asdict

from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.usage.values import MILLION, UsageRecord


def present_record(record: UsageRecord) -> JsonObject:
    """Return one call."""
    moment = timestamp(record.started_at)
    return {
        **asdict(record),
        "started_at": moment,
        "billing_tags": [*record.billing_tags],
        "cost": present_cost(record.cost),
    }


def present_cost(millionths: int) -> float:
    """Return a cost in the currency unit. Its six decimals are exact up to a billion units."""
    return millionths / MILLION
