"""Simulations in the form of responses. Pure."""

from collections.abc import Mapping

from registry.access.simulation.values import CallEffect, Simulation
from registry.core.json import JsonObject
from registry.core.text import timestamp


def present_simulation(found: Simulation) -> JsonObject:
    """Return a simulation in the form of responses."""
    return {
        "kind": found.kind.value,
        "since": timestamp(found.since),
        "until": timestamp(found.until),
        "covered_since": timestamp(found.covered_since),
        "is_complete": found.is_complete,
        "calls": sum(found.calls.values()),
        "totals": _counts(found.calls),
        "groups": [
            {
                "user_id": group.user_id,
                "username": group.username,
                "server_id": group.server_id,
                "server": group.server,
                "tool": group.tool,
                **_counts(group.calls),
                "example_at": timestamp(group.example_at),
                "undecided_because": group.undecided_because,
            }
            for group in found.groups
        ],
        "has_more": found.has_more,
        "notes": [*found.notes],
    }


def _counts(calls: Mapping[CallEffect, int]) -> JsonObject:
    return {effect.value: calls.get(effect, 0) for effect in CallEffect}
