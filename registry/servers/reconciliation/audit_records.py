"""Audit records of changes to a server. Pure; secrets are masked."""

from collections.abc import Sequence
from typing import cast

from pydantic import JsonValue

from packages.models.states import FeatureKind
from registry.audit.values import changes_of
from registry.core.json import JsonObject
from registry.prompts_and_resources.reconcile import NO_CHANGES, FeatureChanges
from registry.servers.credentials import replaced_secrets
from registry.servers.presenter import present_detail
from registry.servers.values import ServerRecord
from registry.tools.reconcile import Changes

NOT_RECORDED = frozenset(
    {
        "id",
        "updatedAt",
        "lastConnected",
        "lastError",
        "errorMessage",
        "initDuration",
        "toolFunctions",
        "permissions",
        "notice",
        "lastSyncStartedAt",
        "lastSyncCompletedAt",
        "lastSyncStatus",
        "nextSyncAt",
        "webhook",
        "documentProblems",
    }
)
"""Members that change with every discovery, or repeat the tools."""

NAMES_TOLD = 100
"""Maximum number of tool names in one record; an upstream may change thousands at once."""

FEATURE_LISTS = {
    "prompts": FeatureKind.PROMPT,
    "resources": FeatureKind.RESOURCE,
    "resource_templates": FeatureKind.TEMPLATE,
}

USER_KEY = "userKey"
"""Name of the caller's own key among the secrets."""


def server_changes(
    before: ServerRecord | None,
    after: ServerRecord | None,
    tools: Changes | None = None,
    features: FeatureChanges | None = None,
    *,
    with_user_key: bool = False,
) -> JsonObject:
    """Return what differs; empty if nothing worth a record does."""
    earlier = before.config if before is not None else {}
    later = after.config if after is not None else {}
    secrets = () if after is None else replaced_secrets(earlier, later)
    if with_user_key:
        secrets = (*secrets, USER_KEY)
    changes = changes_of(_shown(before), _shown(after), secrets)
    tool_changes = _tool_changes(tools) if tools is not None else {}
    if tool_changes:
        changes["tools"] = cast("JsonValue", tool_changes)
    listed = _feature_changes(features or NO_CHANGES)
    changes.update(listed)
    if (
        before is not None
        and after is not None
        and not tool_changes
        and not listed
        and not secrets
    ):
        return changes if changes.get("before") or changes.get("after") else {}
    return changes


def _shown(server: ServerRecord | None) -> JsonObject | None:
    if server is None:
        return None
    return {
        name: value
        for name, value in {
            **present_detail(server),
            "eras": cast("JsonValue", server.registry.get("eras")),
        }.items()
        if name not in NOT_RECORDED
    }


def _tool_changes(changes: Changes) -> JsonObject:
    summary: JsonObject = {}
    added = [insert.definition.name for insert in changes.inserts]
    for name, names in (("added", added), ("changed", [item.name for item in changes.updates])):
        if names:
            summary[name] = _bounded(names)
            summary[f"{name}_count"] = len(names)
    return summary


def _feature_changes(changes: FeatureChanges) -> JsonObject:
    """Return what changed by kind, under the names of MCP's lists."""
    summary: JsonObject = {}
    for name, kind in FEATURE_LISTS.items():
        of_kind: JsonObject = {}
        for what, keys in changes.names(kind).items():
            of_kind[what] = _bounded(keys)
            of_kind[f"{what}_count"] = len(keys)
        if of_kind:
            summary[name] = of_kind
    return summary


def _bounded(names: Sequence[str]) -> JsonValue:
    return cast("JsonValue", list(names[:NAMES_TOLD]))
