"""Upstream credentials: from what people type to what is stored, and to request headers.

Secrets are stored in the form that jarvis-api reads (v2). A server whose key each user brings
(`apiKey.source: user`) is stored as jarvis-api stores it: no key, a header with a placeholder,
and the variable that fills it.
"""

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from packages.database.encryption import Cipher, DecryptionError, FieldRef, StoredForm, stored_form
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.errors import (
    USER_VARIABLE,
    CredentialUnreadableError,
    UserKeyMissingError,
)
from registry.servers.schemas import ApiKeyInput, OAuthInput

COLLECTION = "mcpservers"
PLACEHOLDER = "{{MCP_API_KEY}}"
VARIABLE = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}")
"""Where a header holds a value of the user's own."""

DEFAULT_CUSTOM_HEADER = "X-Api-Key"
SECRET_HEADER = re.compile(
    r"(?i)(auth|bearer|cookie|credential|jwt|key|pass|pwd|secret|session|signature|token)"
)
"""Names of headers whose values are encrypted and masked."""


def is_secret_header(name: str, value: object) -> bool:
    """Whether a header's value is a secret. One with a placeholder is a template, no secret."""
    return bool(SECRET_HEADER.search(name)) and "{{" not in str(value)


def is_stored_header(value: str) -> bool:
    """Whether a header's value is a ciphertext of ours.

    The other application stores headers as they are sent, and a key of 32 hexadecimal digits
    looks like the oldest form, which we never write here.
    """
    return stored_form(value) not in {None, StoredForm.V1}


class CredentialVault:
    """Encrypts and decrypts the credentials inside a server's `config`."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def stored_api_key(self, given: ApiKeyInput, stored: JsonObject | None) -> JsonObject:
        """Return `config.apiKey` for what was typed, keeping the stored key where it is masked."""
        fields: JsonObject = {
            "source": given.source,
            "authorization_type": given.authorization_type,
        }
        if given.custom_header is not None:
            fields["custom_header"] = given.custom_header
        if given.source == "admin":
            kept = (stored or {}).get("key")
            if given.key is not None and given.key != MASK:
                fields["key"] = self._cipher.encrypt_shared(given.key)
            elif kept is not None:
                fields["key"] = kept
        return fields

    def stored_oauth(self, given: OAuthInput, stored: JsonObject | None) -> JsonObject:
        """Return `config.oauth` for what was typed, keeping the stored secret where it is masked.

        Members of the stored object that this API does not know stay.

        Raises:
            ValidationFailedError: A member is unknown, and not stored like that.
        """
        for name, value in (given.model_extra or {}).items():
            if value != (stored or {}).get(name):
                raise ValidationFailedError(f"oauth.{name}", "is not a known field")
        typed = cast("JsonObject", given.model_dump(mode="json", exclude_unset=True))
        secret = typed.pop("client_secret", None)
        merged: JsonObject = {**(stored or {}), **typed}
        if isinstance(secret, str) and secret != MASK:
            merged["client_secret"] = self._cipher.encrypt_shared(secret)
        return {name: value for name, value in merged.items() if value is not None}

    def stored_headers(self, given: Mapping[str, str], stored: JsonObject | None) -> JsonObject:
        """Return `config.headers` for what was typed, keeping stored values where masked."""
        kept = {name.lower(): value for name, value in (stored or {}).items()}
        headers: JsonObject = {}
        for name, value in given.items():
            if value == MASK:
                if name.lower() in kept:
                    headers[name] = kept[name.lower()]
            elif is_secret_header(name, value):
                headers[name] = self._cipher.encrypt_shared(value)
            else:
                headers[name] = value
        return headers

    def request_headers(
        self,
        server_id: str,
        config: JsonObject,
        user_values: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Return the headers that authenticate to the upstream.

        Args:
            server_id: Named in errors.
            config: The stored config.
            user_values: The caller's own values by variable, for servers that ask for them.

        Raises:
            CredentialUnreadableError: A stored secret cannot be decrypted.
            UserKeyMissingError: The server needs values of the caller's own that are not there.
        """
        missing = [name for name in needed_variables(config) if name not in user_values]
        if missing:
            raise UserKeyMissingError(missing)
        headers: dict[str, str] = {}
        for name, value in members(config.get("headers")).items():
            text = str(value)
            if is_secret_header(name, value) and is_stored_header(text):
                text = self.decrypt(text, server_id, f"config.headers.{name}")
            else:
                filled = filled_in(text, user_values, config)
                if filled is None:
                    # jarvis-api fills in more than we know; half a header is worse than none.
                    continue
                text = filled
            headers[name] = text
        api_key = members(config.get("apiKey"))
        if api_key:
            headers.update(
                self._api_key_header(api_key, server_id, user_values.get(USER_VARIABLE))
            )
        return headers

    def _api_key_header(
        self, api_key: JsonObject, server_id: str, user_key: str | None
    ) -> dict[str, str]:
        if api_key.get("source") == "user":
            if user_key is None:
                return {}
            key = user_key
        else:
            stored = api_key.get("key")
            if not isinstance(stored, str):
                return {}
            key = self.decrypt(stored, server_id, "config.apiKey.key")
        match api_key.get("authorization_type"):
            case "basic":
                return {"Authorization": f"Basic {_basic(key)}"}
            case "custom":
                return {str(api_key.get("custom_header") or DEFAULT_CUSTOM_HEADER): key}
            case _:
                return {"Authorization": f"Bearer {key}"}

    def encrypt(self, secret: str) -> str:
        """Return a secret as it is stored in a server's `config`."""
        return self._cipher.encrypt_shared(secret)

    def decrypt(self, stored: str, server_id: str, field: str) -> str:
        """Return the text of a stored secret.

        Raises:
            CredentialUnreadableError: The current keys do not open it.
        """
        try:
            return self._cipher.decrypt(stored, FieldRef(COLLECTION, server_id, field))
        except DecryptionError as exc:
            raise CredentialUnreadableError(COLLECTION, server_id, field) from exc


def replaced_secrets(before: JsonObject, after: JsonObject) -> tuple[str, ...]:
    """Return the names of the secrets that differ between two stored configs."""
    earlier, later = _secrets(before), _secrets(after)
    return tuple(name for name in {**earlier, **later} if earlier.get(name) != later.get(name))


def _secrets(config: JsonObject) -> dict[str, object]:
    places = (("apiKey", "key"), ("oauth", "client_secret"))
    found: dict[str, object] = {
        f"{parent}.{name}": members(config.get(parent)).get(name) for parent, name in places
    }
    for name, value in members(config.get("headers")).items():
        if is_secret_header(name, value):
            found[f"headers.{name}"] = value
    return found


def user_key_template(api_key: JsonObject) -> JsonObject:
    """Return the header with a placeholder that jarvis-api fills with each user's key."""
    match api_key.get("authorization_type"):
        case "basic":
            return {"Authorization": f"Basic {PLACEHOLDER}"}
        case "custom":
            return {str(api_key.get("custom_header") or DEFAULT_CUSTOM_HEADER): PLACEHOLDER}
        case _:
            return {"Authorization": f"Bearer {PLACEHOLDER}"}


def user_variables() -> JsonObject:
    """Return the `customUserVars` entry that asks each user for a key."""
    return {USER_VARIABLE: {"title": "API Key", "description": "Your API key for this MCP server"}}


def user_variables_of(config: JsonObject) -> dict[str, JsonObject]:
    """Return what a server asks each of its users for, by name."""
    asked = {name: members(told) for name, told in members(config.get("customUserVars")).items()}
    if members(config.get("apiKey")).get("source") == "user":
        asked = {**cast("dict[str, JsonObject]", user_variables()), **asked}
    return asked


def needed_variables(config: JsonObject) -> list[str]:
    """Return the names of the values of a caller's own that requests need."""
    needed = dict.fromkeys(
        name
        for value in members(config.get("headers")).values()
        for name in VARIABLE.findall(str(value))
        if name == USER_VARIABLE or name in members(config.get("customUserVars"))
    )
    if members(config.get("apiKey")).get("source") == "user":
        needed[USER_VARIABLE] = None
    return list(needed)


def needs_user_key(config: JsonObject) -> bool:
    """Whether each caller brings values of their own."""
    return bool(needed_variables(config))


def filled_in(text: str, values: Mapping[str, str], config: JsonObject) -> str | None:
    """Return *text* with the caller's values in place; None when it wants others too."""
    asked = {USER_VARIABLE, *members(config.get("customUserVars"))}
    names = VARIABLE.findall(text)
    if any(name not in asked or name not in values for name in names):
        return None
    if "{{" in VARIABLE.sub("", text):
        return None
    # In one pass: a value may itself look like a placeholder.
    return VARIABLE.sub(lambda match: values[match[1]], text)


def _basic(key: str) -> str:
    # `user:password` is encoded here; a value without a colon is taken as encoded already.
    return base64.b64encode(key.encode()).decode() if ":" in key else key
