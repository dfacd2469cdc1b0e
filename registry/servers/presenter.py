"""Stored servers as answers: config flattened to the root, secrets masked. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from pydantic import JsonValue

from registry.access.presenter import present_flags
from registry.connections.policy import is_recently_active
from registry.connections.values import ConnectionView
from registry.core import text
from registry.core.definitions import Rejection
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.oauth.policy import grant_of
from registry.oauth.values import Grant
from registry.servers.credentials import (
    is_secret_header,
    is_user_level,
    masked_oauth,
    masked_url,
    needs_user_key,
)
from registry.servers.values import ServerRecord, SyncMode
from registry.tools.call_rules import CONFIRM, VALIDATE, VALIDATE_OUTPUT
from registry.tools.reported_changes import ReportedChange

LISTED_PROBLEMS = 100
"""Maximum number of reported tool problems; an upstream may offer thousands of broken tools."""

PLAIN_CONFIG_FIELDS = (
    "title",
    "description",
    "type",
    "url",
    "capabilities",
    "initDuration",
    "timeout",
    "initTimeout",
    "sseReadTimeout",
    "serverInstructions",
    "iconPath",
    "startup",
    "chatMenu",
    "customUserVars",
)
"""Fields of `config` shown unchanged. Others are not shown: they may contain secrets."""


def present_summary(server: ServerRecord) -> JsonObject:
    """Return a server as an entry of lists."""
    config = server.config
    tools = server.tool_names
    answer: JsonObject = {
        "id": server.id,
        "serverName": server.server_name,
        **{name: config[name] for name in PLAIN_CONFIG_FIELDS if config.get(name) is not None},
        # As registered, or else the server's own.
        "requiresOAuth": config.get("requiresOAuth") is True
        or server.registry.get("wants_oauth") is True,
        "tools": ", ".join(tools),
        "author": server.author,
        "scope": server.effective_scope.value,
        "status": server.effective_status.value,
        "path": server.effective_path,
        "tags": list(server.tags),
        "numTools": len(tools),
        "numStars": server.num_stars,
        "lastConnected": timestamp(server.last_connected),
        "createdAt": timestamp(server.created_at),
        "updatedAt": timestamp(server.updated_at),
        "permissions": cast("JsonValue", present_flags(server.bits)),
    }
    url = config.get("url")
    if isinstance(url, str):
        answer["url"] = masked_url(url)
    answer.update(masked_credentials(config))
    return answer


def present_detail(server: ServerRecord) -> JsonObject:
    """Return everything about a server but its secrets."""
    functions = server.config.get("toolFunctions")
    answer: JsonObject = {
        **present_summary(server),
        "toolFunctions": functions if isinstance(functions, dict) else {},
        "lastError": timestamp(server.last_error),
        "errorMessage": server.error_message,
    }
    for name, stored in (
        ("autoExpose", server.registry.get("auto_expose")),
        ("onChange", server.registry.get("on_change")),
        ("defaultEffect", server.registry.get("default_effect") and server.default_effect.value),
    ):
        if isinstance(stored, str):
            answer[name] = stored
    answer |= _catalog_facts(server)
    rules = members(server.registry.get("call_rules"))
    if rules:
        spelt = {VALIDATE: VALIDATE, VALIDATE_OUTPUT: "validateOutput", CONFIRM: CONFIRM}
        answer["callRules"] = {
            name: rules[stored] for stored, name in spelt.items() if stored in rules
        }
    answer |= _sync_facts(server)
    notice = _notice(server)
    if notice is not None:
        answer["notice"] = notice
    metadata = server.config.get("oauthMetadata")
    if isinstance(metadata, dict):
        answer["oauthMetadata"] = metadata
    problems = server.registry.get("tool_problems")
    if server.described is not None and server.is_described_elsewhere:
        problems = listed_problems(server.rejected)
    if problems:
        answer["toolProblems"] = cast("JsonValue", problems)
    unlisted = server.registry.get("feature_problems")
    if unlisted:
        answer["featureProblems"] = cast("JsonValue", unlisted)
    if server.problems:
        answer["documentProblems"] = list(server.problems)
    return answer


def present_connection(server: ServerRecord, view: ConnectionView, now: datetime) -> JsonObject:
    """Return the fields about the caller's connection to a server.

    Where users have credentials of their own, nothing of what others did with theirs.
    """
    is_own = is_user_level(server.config)
    connected_at = view.connected_at if is_own else server.last_connected
    return {
        "connection_state": view.state.value,
        "is_recently_active": is_recently_active(connected_at, now),
        "lastConnected": timestamp(connected_at),
    }


PACKAGE = (
    ("registry_type", "registryType"),
    ("identifier", "identifier"),
    ("version", "version"),
)

LINK = {
    "registryServerId": "registry_server_id",
    "registryServerName": "registry_server_name",
    "registryServerDescription": "registry_server_description",
}


def _catalog_facts(server: ServerRecord) -> JsonObject:
    """Return the server's package, and the server of the catalog that it is an instance of."""
    facts: JsonObject = {
        shown: str(server.registry[stored])
        for shown, stored in LINK.items()
        if server.registry.get(stored) is not None
    }
    package = members(server.registry.get("package"))
    if package:
        facts["package"] = {spelt: package[name] for name, spelt in PACKAGE if name in package}
    return facts


SYNC_TIMES = {
    "lastSyncStartedAt": "last_sync_started_at",
    "lastSyncCompletedAt": "last_sync_completed_at",
    "nextSyncAt": "next_sync_at",
}


def _sync_facts(server: ServerRecord) -> JsonObject:
    facts: JsonObject = {"syncMode": server.sync_mode.value}
    if server.sync_mode is SyncMode.SCHEDULED:
        facts["syncIntervalSeconds"] = server.sync_interval_seconds
    for name, stored in SYNC_TIMES.items():
        moment = server.registry.get(stored)
        if isinstance(moment, datetime):
            facts[name] = timestamp(moment)
    status = server.registry.get("last_sync_status")
    if isinstance(status, str):
        facts["lastSyncStatus"] = status
    if "webhook_secret" in server.registry:
        facts["webhook"] = True
    return facts


def _notice(server: ServerRecord) -> str | None:
    """Return why a server was never read and has no tools, if that is no failure."""
    if "last_synced_at" in server.registry or server.config.get("tools"):
        return None
    if grant_of(server.config) is Grant.AUTHORIZATION_CODE:
        return (
            "Its tools are not known: nobody has authorised the registry at it yet. "
            f"GET /api/v1/mcp/{server.id}/oauth/initiate, or `registry connect`, begins it."
        )
    if needs_user_key(server.config):
        return (
            "Its tools were not read yet, because it needs values of its users' own: store yours "
            f"with PUT /api/v1/servers/{server.id}/user-keys. When an editor of the server does, "
            "its tools are read."
        )
    return None


def listed_problems(
    rejected: Sequence[Rejection],
) -> list[dict[str, str]]:
    """Return the rejected tools of a server, each with the reason."""
    problems = [{"name": item.name, "reason": item.reason} for item in rejected[:LISTED_PROBLEMS]]
    if len(rejected) > LISTED_PROBLEMS:
        more = len(rejected) - LISTED_PROBLEMS
        problems.append({"name": "", "reason": f"and {more} more rejected tools"})
    return problems


def present_changes(changes: Sequence[ReportedChange]) -> list[JsonObject]:
    """Return what a reading changed."""
    return [
        {
            "name": change.name,
            "change": change.kind.value,
            "compatibility": change.compatibility.value,
            "reasons": [*change.reasons],
        }
        for change in changes
    ]


def timestamp(moment: datetime | None) -> str | None:
    """Return a stored time in the format of responses."""
    return None if moment is None else text.timestamp(moment)


def masked_credentials(
    config: JsonObject, header_members: Sequence[str] = ("headers",)
) -> JsonObject:
    """Return the members of a `config` that hold secrets, which are masked."""
    answer: JsonObject = {}
    api_key = config.get("apiKey")
    if isinstance(api_key, dict):
        shown: JsonObject = {
            name: api_key[name]
            for name in ("source", "authorization_type", "custom_header", "location")
            if api_key.get(name) is not None
        }
        if "key" in api_key or api_key.get("source") == "user":
            shown = {"key": MASK, **shown}
        answer["apiKey"] = shown
    oauth = config.get("oauth")
    if isinstance(oauth, dict):
        answer["oauth"] = masked_oauth(oauth)
    for member in header_members:
        headers = config.get(member)
        if isinstance(headers, dict) and headers:
            answer[member] = {
                name: MASK if is_secret_header(name, value) else value
                for name, value in headers.items()
            }
    return answer


NOT_OF_APIS = ("serverName", "type", "capabilities", "toolFunctions", "serverInstructions")
FACTS = {
    "openapi": "version",
    "title": "title",
    "version": "apiVersion",
    "hash": "hash",
    "operations": "operations",
    "server": "server",
    "security_schemes": "securitySchemes",
}


def present_api(server: ServerRecord) -> JsonObject:
    """Return a REST API as an entry of lists."""
    return _of_api(server, present_summary(server))


def present_api_detail(server: ServerRecord) -> JsonObject:
    """Return everything about a REST API but its secrets."""
    return _of_api(server, present_detail(server))


def openapi_facts(stored: object) -> JsonObject:
    """Return what the last description said beside its operations."""
    facts = members(stored)
    return {shown: facts[name] for name, shown in FACTS.items() if facts.get(name) is not None}


def _of_api(server: ServerRecord, shown: JsonObject) -> JsonObject:
    source = members(server.config.get("openapi"))
    answer: JsonObject = {"id": server.id, "name": server.server_name}
    url, base_url = source.get("description_url"), shown.pop("url", None)
    if isinstance(url, str):
        answer["url"] = masked_url(url)
    if base_url:
        answer["baseUrl"] = base_url
    selection = {
        name: source[name] for name in ("include", "exclude") if source.get(name) is not None
    }
    if selection:
        answer["operations"] = selection
    facts = openapi_facts(server.registry.get("api"))
    if facts:
        answer["openapi"] = facts
    return {
        **answer,
        **{name: value for name, value in shown.items() if name not in NOT_OF_APIS},
    }
