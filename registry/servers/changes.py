"""Convert an API request to the stored fields to change. Pure except for encryption."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, JsonValue

from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.servers.binding import require_secrets_again, tokens_stay, users_keys_stay
from registry.servers.credentials import (
    CredentialVault,
    masked_url,
    require_no_secret,
    user_key_template,
    user_variables,
)
from registry.servers.presenter import present_detail
from registry.servers.values import FILLED_BY_THE_OTHER_APPLICATION, VARIABLE, ServerRecord

if TYPE_CHECKING:
    from registry.servers.schemas import (
        ApiKeyInput,
        ConnectionTest,
        ServerCreate,
        ServerUpdate,
        UserVariable,
    )

PLAIN_CONFIG = {
    "title": "title",
    "description": "description",
    "url": "url",
    "type": "type",
    "requires_oauth": "requiresOAuth",
    "timeout": "timeout",
    "init_timeout": "initTimeout",
    "server_instructions": "serverInstructions",
    "icon_path": "iconPath",
    "startup": "startup",
}
"""Attributes of the request to members of `config`, stored as they are."""

TITLE = re.compile(r"(?:[^\W_]|[ '-])+")
"""Titles that jarvis-api accepts; its earlier releases accept only English letters."""

OWN = {
    "auto_expose": "auto_expose",
    "on_change": "on_change",
    "default_effect": "default_effect",
    "sync_mode": "sync_mode",
    "sync_interval_seconds": "sync_interval_seconds",
}
"""Attributes of the request to members of `registry`."""

REQUIRED = ("url", "type", "scope", "status", "tags", "path", "auto_expose", "sync_mode")
"""Members that null cannot remove."""

MATCHED = ("config.url", "registry.package")
"""What a registered server is matched to the catalog by."""

CONNECTION_FIELDS = frozenset({"url", "type", "headers", "api_key", "oauth", "requires_oauth"})
"""Members that determine the connection; after a change of them, the tools are read again."""


NOT_CONNECTED = "stdio"
"""The stored `type` of a server that is a package and has no URL: it is a program elsewhere."""

MOVING = frozenset(
    {
        "connection_state",
        "embedding",
        "error_message",
        "is_recently_active",
        "last_connected",
        "last_error",
    }
)
"""Read-only attributes that change all the time: a slightly outdated value may be sent back, and
is ignored."""


@dataclass(frozen=True, slots=True)
class FieldChanges:
    """Dotted stored names to set and to remove.

    Attributes:
        user_key: The caller's own key to store for the server, when one was typed.
        reconnects: Whether the upstream must be read again.
        drops_user_keys: Whether the values that users stored must not go to the new address.
        drops_tokens: Whether the tokens that users obtained must not go to the new authorization
            server.
        restores: The version of the connection that a rollback restores; None otherwise.
        rematches: Whether the link to the catalog is made again, whatever changed.
    """

    changes: dict[str, object] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    user_key: str | None = field(default=None, repr=False)
    reconnects: bool = False
    drops_user_keys: bool = False
    drops_tokens: bool = False
    restores: int | None = None
    rematches: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.changes or self.removed or self.user_key is not None or self.rematches)

    @property
    def moves_identity(self) -> bool:
        """Whether the server may be an instance of another server of the catalog."""
        return self.rematches or any(
            name in self.changes or name in self.removed for name in MATCHED
        )


def config_of(
    request: ServerCreate | ConnectionTest, vault: CredentialVault
) -> tuple[JsonObject, str | None]:
    """Return the `config` to store, and the caller's own key when the server wants one."""
    if request.url is not None:
        require_no_secret(request.url, "url")
    given = _given(request)
    _require_title(given.get("title"))
    config: JsonObject = {
        stored: _plain(given[name])
        for name, stored in PLAIN_CONFIG.items()
        if given.get(name) is not None
    }
    config["type"] = request.type.value if request.url is not None else NOT_CONNECTED
    config["requiresOAuth"] = request.requires_oauth is True
    if request.custom_user_vars:
        config["customUserVars"] = _variables(request.custom_user_vars)
    if request.headers:
        config["headers"] = vault.stored_headers(request.headers, None)
    if request.oauth is not None:
        config["oauth"] = vault.stored_oauth(request.oauth, None)
    if request.api_key is not None:
        config.update(_api_key_fields(request.api_key, config, vault))
    _require_asked_for(config)
    return config, _user_key(request.api_key)


def update_of(
    request: ServerUpdate, current: ServerRecord, vault: CredentialVault
) -> FieldChanges:
    """Return the changes that an update makes to *current*.

    Raises:
        ValidationFailedError: A read-only member differs, a required one is null, or a stored
            secret would be sent to another origin.
    """
    _refuse_read_only(request, current)
    request = _with_stored_url(request, current.config)
    require_secrets_again(request, current)
    given = _given(request)
    for name in REQUIRED:
        if name in given and given[name] is None:
            raise ValidationFailedError(name, "cannot be removed")
    changes: dict[str, object] = {}
    removed: list[str] = []
    for name in ("scope", "status", "tags", "path"):
        if name in given:
            changes[name] = _plain(given[name])
    for name, stored in PLAIN_CONFIG.items():
        if name in given:
            _put(changes, removed, f"config.{stored}", _plain(given[name]))
    for name, stored in OWN.items():
        if name in given:
            _put(changes, removed, f"registry.{stored}", _plain(given[name]))
    config = current.config
    if given.get("title") != config.get("title"):
        _require_title(given.get("title"))
    _put_objects(request, given, changes, removed)
    _put_connection(request, given, config, vault, changes, removed)
    return FieldChanges(
        changes={
            name: value for name, value in changes.items() if not _same(current, name, value)
        },
        removed=tuple(
            name
            for name in removed
            # A key that users bring restores its header.
            if name not in changes and not _same(current, name, None)
        ),
        user_key=_user_key(request.api_key),
        reconnects=_reconnects(request, given, current),
        drops_user_keys=request.url is not None and not users_keys_stay(request.url, current),
        drops_tokens=_drops_tokens(changes, removed, current),
    )


def _drops_tokens(
    changes: Mapping[str, object], removed: Collection[str], current: ServerRecord
) -> bool:
    oauth = "config.oauth"
    if oauth not in changes and oauth not in removed:
        return False
    return not tokens_stay(changes.get(oauth), current)


def _with_stored_url(request: ServerUpdate, config: JsonObject) -> ServerUpdate:
    """Return the request with the stored URL if it contains the masked form of it.

    Raises:
        ValidationFailedError: It is another URL, and contains a secret.
    """
    stored = config.get("url")
    if request.url is None or request.url == stored:
        return request
    if isinstance(stored, str) and request.url == masked_url(stored):
        return request.model_copy(update={"url": stored})
    require_no_secret(request.url, "url")
    return request


def _put_objects(
    request: ServerUpdate, given: Collection[str], changes: dict[str, object], removed: list[str]
) -> None:
    if "call_rules" in given:
        rules = None if request.call_rules is None else request.call_rules.stored()
        _put(changes, removed, "registry.call_rules", rules or None)
    if "package" in given:
        package = None if request.package is None else request.package.stored()
        _put(changes, removed, "registry.package", package)


def _put_connection(
    request: ServerUpdate,
    given: Collection[str],
    config: JsonObject,
    vault: CredentialVault,
    changes: dict[str, object],
    removed: list[str],
) -> None:
    if "headers" in given:
        headers = vault.stored_headers(request.headers or {}, _object(config.get("headers")))
        _put(changes, removed, "config.headers", headers or None)
    if "oauth" in given:
        stored_oauth = _object(config.get("oauth"))
        oauth = None if request.oauth is None else vault.stored_oauth(request.oauth, stored_oauth)
        _put(changes, removed, "config.oauth", oauth)
    if "custom_user_vars" in given:
        variables = _variables(request.custom_user_vars or {})
        if members(config.get("apiKey")).get("source") == "user":
            variables = {**user_variables(), **variables}
        _put(changes, removed, "config.customUserVars", variables or None)
    if "api_key" in given:
        _put_api_key(request.api_key, config, vault, changes, removed)
    if {"headers", "custom_user_vars", "api_key"}.intersection(given):
        _require_asked_for(
            {
                name: cast("JsonValue", _after(name, config, changes, removed))
                for name in ("headers", "customUserVars")
            }
        )


def _reconnects(request: ServerUpdate, given: dict[str, object], current: ServerRecord) -> bool:
    touched = CONNECTION_FIELDS & given.keys()
    if not touched:
        return False
    same_address = (
        request.url in {None, current.config.get("url")}
        and (request.type is None or request.type.value == current.config.get("type"))
        and touched <= {"url", "type"}
    )
    return not same_address


def _put_api_key(
    given: ApiKeyInput | None,
    config: JsonObject,
    vault: CredentialVault,
    changes: dict[str, object],
    removed: list[str],
) -> None:
    stored = None if "config.headers" in removed else config.get("headers")
    headers = dict(_object(changes.pop("config.headers", stored)) or {})
    stored = None if "config.customUserVars" in removed else config.get("customUserVars")
    variables = dict(_object(changes.pop("config.customUserVars", stored)) or {})
    before = _object(config.get("apiKey")) or {}
    if before.get("source") == "user":
        # The variable is removed with the key, or users would be asked for it, and send it.
        for name, template in user_key_template(before).items():
            if headers.get(name) == template:
                del headers[name]
        for name in user_variables():
            variables.pop(name, None)
    fields: JsonObject = {"headers": headers, "customUserVars": variables}
    if given is None:
        removed.append("config.apiKey")
    else:
        fields.update(_api_key_fields(given, {**config, **fields}, vault))
    for name, value in fields.items():
        _put(changes, removed, f"config.{name}", value or None)


def _api_key_fields(given: ApiKeyInput, config: JsonObject, vault: CredentialVault) -> JsonObject:
    api_key = vault.stored_api_key(given, _object(config.get("apiKey")))
    if given.source == "admin" and "key" not in api_key:
        raise ValidationFailedError("apiKey.key", "is required, and none is stored")
    fields: JsonObject = {"apiKey": api_key}
    if given.source == "user":
        fields["headers"] = {
            **(_object(config.get("headers")) or {}),
            **user_key_template(api_key),
        }
        variables = _object(config.get("customUserVars")) or {}
        fields["customUserVars"] = {**variables, **user_variables()}
    return fields


def _after(
    name: str, config: JsonObject, changes: dict[str, object], removed: list[str]
) -> object:
    stored = None if f"config.{name}" in removed else config.get(name)
    return changes.get(f"config.{name}", stored)


def _require_asked_for(config: JsonObject) -> None:
    """Check that headers contain only placeholders of known user variables.

    Raises:
        ValidationFailedError: A header contains another; it would never be sent.
    """
    asked = {*members(config.get("customUserVars")), *user_variables()}
    for header, value in members(config.get("headers")).items():
        for name in VARIABLE.findall(str(value)):
            if name not in asked and not name.startswith(FILLED_BY_THE_OTHER_APPLICATION):
                problem = f"contains {{{{{name}}}}}, which customUserVars does not define"
                raise ValidationFailedError(f"headers.{header}", problem)


def _require_title(title: object) -> None:
    """Check that jarvis-api accepts a title.

    Raises:
        ValidationFailedError: It does not, and its own forms could not save the server.
    """
    if isinstance(title, str) and not TITLE.fullmatch(title):
        raise ValidationFailedError(
            "title", "may contain letters, digits, spaces, apostrophes and hyphens"
        )


def _variables(given: Mapping[str, UserVariable]) -> JsonObject:
    return {
        name: cast("JsonObject", variable.model_dump(mode="json", exclude_none=True))
        for name, variable in given.items()
    }


def _user_key(given: ApiKeyInput | None) -> str | None:
    if given is None or given.source != "user" or given.key in {None, "***"}:
        return None
    return given.key


def _refuse_read_only(request: ServerUpdate, current: ServerRecord) -> None:
    from registry.servers.schemas import read_only_fields  # noqa: PLC0415 - not to read

    shown = present_detail(current)
    for name, wire_name in read_only_fields().items():
        if name not in request.model_fields_set or name in MOVING:
            continue
        if getattr(request, name) != shown.get(wire_name):
            raise ValidationFailedError(wire_name, "cannot be changed")


def _given(request: BaseModel) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.model_fields_set}


def _put(changes: dict[str, object], removed: list[str], name: str, value: object | None) -> None:
    if value is None:
        removed.append(name)
    else:
        changes[name] = value


def _same(current: ServerRecord, name: str, value: object) -> bool:
    if name.startswith("config."):
        return current.config.get(name.removeprefix("config.")) == value
    if name.startswith("registry."):
        return current.registry.get(name.removeprefix("registry.")) == value
    stored: dict[str, object] = {
        "scope": current.scope,
        "status": current.status,
        "tags": list(current.tags),
        "path": current.path,
    }
    return stored.get(name) == value


def _plain(value: object) -> JsonValue:
    return cast("JsonValue", getattr(value, "value", value))


def _object(value: object) -> JsonObject | None:
    return value if isinstance(value, dict) else None
