"""Responses about tools and their versions: snake_case, as stored. Pure."""

from collections.abc import Iterator
from datetime import datetime
from typing import cast

from pydantic import JsonValue

from registry.core.errors import RegistryError
from registry.core.json import JsonObject, load_text, members
from registry.core.schema_bounds import lost_reference
from registry.core.text import timestamp
from registry.openapi.binding import binding_of
from registry.tools.call_rules import (
    MILLION,
    ArgumentValidation,
    CallRules,
    call_rules,
    warnings_of,
)
from registry.tools.differences import difference
from registry.tools.exposure import is_served, review_of
from registry.tools.governance.errors import (
    NothingPendingError,
    ToolNotFoundError,
    ToolSupersededError,
)
from registry.tools.governance.values import ToolVersionRecord
from registry.tools.naming import public_name
from registry.tools.tool_events import ToolEvent
from registry.tools.values import StoredTool

CHANGE_MEMBERS = ("weight", "compatibility", "path", "summary", "before", "after")


def present_summary(tool: StoredTool) -> JsonObject:
    """Return a tool as an entry of lists."""
    overrides = tool.overrides
    return {
        "id": tool.id,
        "source_type": tool.source_type,
        "owner_id": tool.owner_id,
        "owner_name": tool.owner_name,
        "name": tool.name,
        "external_id": tool.external_id,
        "combined_name": None
        if tool.owner_slug is None
        else public_name(tool.owner_slug, tool.name),
        "display_name": overrides.display_name,
        "title": tool.title,
        "description": overrides.description or tool.description,
        "registration_state": tool.registration_state.value,
        "exposure_state": tool.exposure_state.value,
        "is_exposed": is_served(*tool.state),
        "review": review_of(
            tool.state,
            has_pending=tool.has_pending,
            is_reviewed=tool.is_reviewed,
            has_drifted=tool.has_drifted,
        ),
        "pending_change": _difference(tool, tool.pending_definition, tool.pending_hash),
        "drift": _drift(tool),
        "blocked": tool.is_blocked,
        "tags": list(overrides.tags),
        "metadata": {
            name: {"value": value, "source": tool.metadata_sources.get(name, "")}
            for name, value in tool.metadata.items()
        },
        "discovery_hash": tool.discovery_hash,
        "pending_hash": tool.pending_hash,
        "served_version": tool.served_version,
        "pending_version": tool.pending_version,
        "versions": tool.versions,
        "sync_error": tool.sync_error,
        "last_discovered_at": _moment(tool.last_discovered_at),
        "last_synced_at": _moment(tool.last_synced_at),
        "created_at": _moment(tool.created_at),
        "updated_at": _moment(tool.updated_at),
    }


def present_detail(tool: StoredTool) -> JsonObject:
    """Return a tool with all that is known of it."""
    return {
        **present_summary(tool),
        "upstream_description": tool.description,
        "tool_metadata": cast("JsonObject", dict(tool.overrides.metadata)),
        **_present_rules(tool),
        "input_schema": _parsed(tool.input_schema),
        "output_schema": _parsed(tool.output_schema),
        "annotations": _parsed(tool.annotations),
        "definition": _parsed(tool.definition),
        "method": _method(tool),
        "pending_definition": _parsed(tool.pending_definition),
        "offered_definition": _parsed(tool.seen_definition),
    }


def _method(tool: StoredTool) -> str:
    """Return how a tool is called: `call` for MCP, the method of HTTP for an operation."""
    definition = _parsed(tool.definition)
    binding = binding_of(definition) if isinstance(definition, dict) else None
    return "call" if binding is None else binding.method.lower()


def _present_rules(tool: StoredTool) -> JsonObject:
    said, facets = tool.overrides.metadata, tool.effects
    rules = call_rules(
        said,
        facets,
        tool.owner_call_rules,
        is_shared=tool.is_owner_shared,
        enforces_approvals=True,
    )
    return {
        "call_rules": {
            "validate": rules.validate.value,
            "validate_output": rules.validate_output.value,
            "is_confirmed": rules.is_confirmed,
            "approvals": rules.approvals,
            "cost_tier": rules.cost_tier,
            "billing_tags": list(rules.billing_tags),
            "price_per_call": rules.price_per_call / MILLION,
            "price_per_kib": rules.price_per_kib / MILLION,
            "projection": rules.projection,
        },
        "warnings": [
            *warnings_of(rules, said, facets, tool.owner_call_rules),
            *_uncheckable(tool, rules),
        ],
    }


def _uncheckable(tool: StoredTool, rules: CallRules) -> Iterator[str]:
    """Return why no call of a tool gets through, where its own definition is the cause."""
    schema = members(members(_parsed(tool.definition)).get("inputSchema"))
    lost = lost_reference(schema)
    if lost is not None and rules.validate is ArgumentValidation.ON:
        yield (
            f"Its arguments cannot be checked, because its definition refers to {lost[:200]!r}, "
            "which it does not contain: all of its calls are refused until validate is off."
        )


def _drift(tool: StoredTool) -> JsonObject | None:
    """Return the upstream's definition of a tool, if a person decided against it.

    None if it is served, or waits for review.
    """
    drift = _difference(tool, tool.seen_definition, tool.seen_hash)
    if drift is None:
        return None
    return {**drift, "is_rejected": tool.seen_hash in tool.rejected_hashes}


def _difference(tool: StoredTool, offered: str | None, digest: str | None) -> JsonObject | None:
    """Return the difference from the served definition to the offered one."""
    if offered is None:
        return None
    try:
        compared = difference(load_text(tool.definition or "{}"), load_text(offered))
    except (ValueError, RecursionError):
        # Another program wrote it; the rest of the tool is shown all the same.
        return {"discovery_hash": digest, "weight": None, "compatibility": None, "changes": []}
    return {
        "discovery_hash": digest,
        "weight": compared.weight.name.lower(),
        "compatibility": compared.compatibility.value,
        "changes": [
            {
                "weight": change.weight.name.lower(),
                "compatibility": change.compatibility.value,
                "path": change.path,
                "summary": change.summary,
                "before": change.before,
                "after": change.after,
            }
            for change in compared.changes
        ],
    }


def present_undecided(tool_id: str, error: RegistryError) -> JsonObject:
    """Return the failure of a decision about one of many tools."""
    current = error.facts.get("current_hash")
    return {
        "id": tool_id,
        "error": error.kind.value,
        "outcome": _outcome(error),
        "message": error.message,
        "current_hash": current if isinstance(current, str) else None,
    }


def _outcome(error: RegistryError) -> str:
    match error:
        case ToolSupersededError():
            return "superseded"
        case NothingPendingError():
            return "nothing_pending"
        case ToolNotFoundError():
            return "unknown"
        case _:
            return "refused"


def present_version(version: ToolVersionRecord) -> JsonObject:
    """Return one version."""
    return {
        "version": version.version,
        "state": version.state,
        "origin": version.origin,
        "discovery_hash": version.discovery_hash,
        "weight": version.weight,
        "compatibility": version.compatibility,
        "compared_with": version.compared_with,
        "changes": [
            {name: change.get(name) for name in CHANGE_MEMBERS} for change in version.changes
        ],
        "definition": _parsed(version.definition),
        "created_at": timestamp(version.created_at),
        "created_by": None if version.created_by is None else dict(version.created_by),
        "decided_at": _moment(version.decided_at),
        "decided_by": None if version.decided_by is None else dict(version.decided_by),
    }


def present_event(event: ToolEvent) -> JsonObject:
    """Return one event of a history."""
    return {
        "at": timestamp(event.at),
        "types": list(event.types),
        "actor": event.actor,
        "by": None if event.by is None else dict(event.by),
        "version": event.version,
        "before": cast("JsonObject | None", event.before),
        "after": cast("JsonObject | None", event.after),
    }


def _moment(value: datetime | None) -> str | None:
    return None if value is None else timestamp(value)


def _parsed(text: str | None) -> JsonValue:
    return None if text is None else load_text(text)
