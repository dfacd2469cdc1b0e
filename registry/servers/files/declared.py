"""Declarations: a stored server as a file, and the changes that a file asks for.

Pure. A declaration is the body of `POST /api/v1/servers`, or of `POST /api/v1/apis` for a REST
API, plus `owner` and `status`. Secrets are references in it, `${env:NAME}` or `${file:PATH}`,
never values. Members that it does not contain stay unchanged.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.core.json import JsonObject, JsonValue, members
from registry.core.logs import MASK
from registry.servers.apis.schemas import ApiCreate
from registry.servers.credentials import user_key_template, user_variables
from registry.servers.presenter import present_api_detail, present_detail
from registry.servers.schemas import ServerCreate
from registry.servers.values import ServerRecord, ServerStatus

REFERENCE = re.compile(r"\$\{(env|file):([^{}]+)\}")

MEMBERS = (
    *("serverName", "title", "description", "url", "type", "scope", "tags", "path", "headers"),
    *("apiKey", "oauth", "requiresOAuth", "customUserVars", "timeout", "initTimeout"),
    *("serverInstructions", "iconPath", "startup", "autoExpose", "onChange", "callRules"),
    "defaultEffect",
    *("syncMode", "syncIntervalSeconds"),
)
"""The members of an export, in order."""

OF_SERVERS_ALONE = frozenset({"serverName", "url", "type", "serverInstructions", "startup"})
API_MEMBERS = (
    *("name", "title", "description", "url", "document", "baseUrl", "operations"),
    *(
        name
        for name in MEMBERS
        if name not in OF_SERVERS_ALONE and name not in {"title", "description"}
    ),
)
"""The members of the export of a REST API, in order."""

NAMES = frozenset({"serverName", "name"})

API_KEY, CLIENT_SECRET = "apiKey.key", "oauth.client_secret"

Resolve = Callable[[str, str], str | None]
"""From the kind and the name of a reference to its value; None if it has none."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One entry of a file, its references resolved.

    Attributes:
        body: What to register, or to change; an unresolved secret is its mask.
        given: Names of the members in the file.
        owner: The wanted owner; None if the file has none.
        status: The wanted status; None if the file has none.
        missing: Unresolved references to secrets, by their places.
    """

    body: ServerCreate | ApiCreate
    given: frozenset[str]
    owner: str | None
    status: ServerStatus | None
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeclarationDifference:
    """The changes that a declaration makes to a stored server.

    Attributes:
        update: Members to send, complete; unchanged secrets are masked in it.
        lines: One for each change, without any secret.
    """

    update: JsonObject = field(repr=False)
    lines: tuple[str, ...]


def exported(server: ServerRecord, owner: str | None, document: str | None = None) -> JsonObject:
    """Return a stored server as a declaration, which is safe to keep in a repository.

    Args:
        server: The server or REST API.
        owner: Whose it is, as a file names people.
        document: The description that an API was given instead of a URL.
    """
    shown = _shown(server, document)
    wanted = API_MEMBERS if server.is_api else MEMBERS
    entry: JsonObject = {
        name: shown[name] for name in wanted if shown.get(name) not in (None, [], {}, "")
    }
    api_key = members(entry.get("apiKey"))
    if api_key.get("source") == "user":
        # The registration creates it from the key.
        _leave_out(entry, "headers", user_key_template(api_key))
        _leave_out(entry, "customUserVars", user_variables())
        entry["apiKey"] = {name: value for name, value in api_key.items() if name != "key"}
    if entry.get("requiresOAuth") is False:
        del entry["requiresOAuth"]
    if owner is not None:
        entry["owner"] = owner
    if server.status is ServerStatus.INACTIVE:
        entry["status"] = ServerStatus.INACTIVE.value
    return {name: _referenced(server.server_name, name, value) for name, value in entry.items()}


def _shown(server: ServerRecord, document: str | None) -> JsonObject:
    if not server.is_api:
        return present_detail(server)
    shown = present_api_detail(server)
    return shown if "url" in shown else {**shown, "document": document}


def _leave_out(entry: JsonObject, member: str, made: JsonObject) -> None:
    left: JsonObject = {
        name: value
        for name, value in members(entry.get(member)).items()
        if made.get(name) != value
    }
    if left:
        entry[member] = left
    else:
        entry.pop(member, None)


def _referenced(server: str, place: str, value: JsonValue) -> JsonValue:
    """Return *value* with each mask replaced by a reference that is named after its place."""
    if isinstance(value, dict):
        return {name: _referenced(server, f"{place}_{name}", one) for name, one in value.items()}
    if isinstance(value, str) and MASK in value:
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"{server}_{place}").strip("_").upper()
        return f"${{env:{name}}}"
    return value


def declared(content: Mapping[str, Any], resolve: Resolve, *, is_api: bool = False) -> Declared:
    """Parse an entry of a file: of a server, or of a REST API.

    Raises:
        ValueError: It is invalid; pydantic's ValidationError is one.
    """
    missing: dict[str, str] = {}
    resolved = _resolved("", dict(content), resolve, missing)
    owner, status = resolved.pop("owner", None), resolved.pop("status", None)
    if owner is not None and not isinstance(owner, str):
        raise ValueError("owner: must be the id, name or address of a user")
    if status not in (None, ServerStatus.ACTIVE.value, ServerStatus.INACTIVE.value):
        raise ValueError("status: must be active or inactive")
    kind = ApiCreate if is_api else ServerCreate
    body = kind.model_validate(resolved)
    given = frozenset(kind.model_fields[name].alias or name for name in body.model_fields_set)
    return Declared(body, given, owner, None if status is None else ServerStatus(status), missing)


def _resolved(place: str, value: Any, resolve: Resolve, missing: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: _resolved(f"{place}.{name}" if place else name, one, resolve, missing)
            for name, one in value.items()
        }
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        text = resolve(match[1], match[2])
        if text is None:
            missing[place] = match[0]
        return text or ""

    text = REFERENCE.sub(found, value)
    # An existing secret is kept, a missing one is an error.
    return MASK if place in missing else text


def difference(
    wanted: Declared,
    stored: ServerRecord,
    secret_of: Callable[[str, str], str | None],
    document: str | None = None,
) -> DeclarationDifference:
    """Return the changes that *wanted* makes to a stored server.

    Args:
        wanted: The declaration.
        stored: The server.
        secret_of: Returns the stored secret at a place; None if it cannot be read.
        document: The description that an API was given instead of a URL.

    Raises:
        ValueError: A reference has no value, and no secret is stored.
    """
    shown = _comparable(_shown(stored, document))
    full = wanted.body.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(wanted.body, ApiCreate):
        _simplify(full, shown)
    secrets = _stored_secrets(stored.config)
    require_values(
        {place: named for place, named in wanted.missing.items() if place not in secrets}
    )
    update: JsonObject = {}
    lines: list[str] = []
    for name in sorted(wanted.given & full.keys() - NAMES):
        after, before = full[name], shown.get(name)
        changed = _mask_unchanged(name, after, secrets, secret_of)
        masked = _masked(name, after, before)
        if masked == before and not changed:
            continue
        update[name] = after
        lines += [f"{place}: secret changed" for place in changed]
        if masked != before:
            lines.append(f"{name}: {_short(before)} -> {_short(masked)}")
    if wanted.status is not None and wanted.status is not stored.effective_status:
        # A server in error is on.
        is_off = stored.effective_status is ServerStatus.INACTIVE
        if is_off is not (wanted.status is ServerStatus.INACTIVE):
            update["status"] = wanted.status.value
            lines.append(f"status: {stored.effective_status.value} -> {wanted.status.value}")
    return DeclarationDifference(update, tuple(lines))


def _simplify(full: JsonObject, shown: JsonObject) -> None:
    """Leave out of an API's wanted members what answers do not say either."""
    if "operations" in full:
        rules = members(full["operations"])
        full["operations"] = {name: one for name, one in rules.items() if one}
        shown.setdefault("operations", {})
    api_key, stored = members(full.get("apiKey")), members(shown.get("apiKey"))
    if "location" not in stored and api_key.get("location") == "header":
        full["apiKey"] = {name: one for name, one in api_key.items() if name != "location"}


def require_values(missing: Mapping[str, str]) -> None:
    """Refuse references without a value.

    Raises:
        ValueError: There are some; names them.
    """
    if missing:
        named = ", ".join(f"{place} ({reference})" for place, reference in missing.items())
        raise ValueError(f"these have no value: {named}")


def _comparable(shown: JsonObject) -> JsonObject:
    """Return the shown server without the key that its users bring themselves."""
    api_key = members(shown.get("apiKey"))
    if api_key.get("source") != "user":
        return shown
    return {**shown, "apiKey": {name: one for name, one in api_key.items() if name != "key"}}


def _stored_secrets(config: JsonObject) -> dict[str, str]:
    found = {
        API_KEY: members(config.get("apiKey")).get("key"),
        CLIENT_SECRET: members(config.get("oauth")).get("client_secret"),
        **{f"headers.{name}": value for name, value in members(config.get("headers")).items()},
    }
    return {place: value for place, value in found.items() if isinstance(value, str)}


def _mask_unchanged(
    name: str,
    after: JsonValue,
    secrets: Mapping[str, str],
    secret_of: Callable[[str, str], str | None],
) -> list[str]:
    """Mask the secrets that are equal to the stored ones; return the places of the others."""
    if not isinstance(after, dict):
        return []
    changed: list[str] = []
    for member, value in after.items():
        place = f"{name}.{member}"
        stored = secrets.get(place)
        if value == MASK or stored is None or stored == value:
            continue
        is_secret = place in {API_KEY, CLIENT_SECRET} or name == "headers"
        if is_secret and (known := secret_of(place, stored)) is not None:
            if known == value:
                after[member] = MASK
            else:
                changed.append(place)
    return changed


def _masked(name: str, after: JsonValue, before: JsonValue) -> JsonValue:
    """Return the wanted server in the form of a response, for comparing and printing."""
    if not isinstance(after, dict) or name not in {"apiKey", "oauth", "headers"}:
        return after
    shown = members(before)
    hidden = {"key", "client_secret"} if name != "headers" else set(after)
    return {
        member: MASK if member in hidden and shown.get(member, MASK) == MASK else value
        for member, value in after.items()
    }


def _short(value: JsonValue) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."  # noqa: PLR2004 - a line of a terminal
