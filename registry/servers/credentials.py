"""Upstream credentials: from what people type to what is stored, and to request headers.

Secrets are stored in the form that jarvis-api reads (v2). A server whose key each user brings
(`apiKey.source: user`) is stored as jarvis-api stores it: no key, a header with a placeholder,
and the variable that fills it.
"""

import base64
import re
from collections.abc import Mapping
from typing import cast

from packages.database.encryption import Cipher, DecryptionError, FieldRef, stored_form
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.errors import CredentialUnreadableError, UserKeyMissingError
from registry.servers.schemas import ApiKeyInput, OAuthInput

COLLECTION = "mcpservers"
PLACEHOLDER = "{{MCP_API_KEY}}"
USER_VARIABLE = "MCP_API_KEY"
DEFAULT_CUSTOM_HEADER = "X-Api-Key"
SECRET_HEADER = re.compile(r"(?i)(authorization|cookie|token|secret|key|password|credential|auth)")
"""Names of headers whose values are encrypted and masked."""


def is_secret_header(name: str, value: object) -> bool:
    """Whether a header's value is a secret. One with a placeholder is a template, no secret."""
    return bool(SECRET_HEADER.search(name)) and "{{" not in str(value)


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
        """
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
        self, server_id: str, config: JsonObject, user_key: str | None = None
    ) -> dict[str, str]:
        """Return the headers that authenticate to the upstream.

        Args:
            server_id: Named in errors.
            config: The stored config.
            user_key: The caller's own key, for servers whose users bring one.

        Raises:
            CredentialUnreadableError: A stored secret cannot be decrypted.
            UserKeyMissingError: The server needs the caller's own key and there is none.
        """
        headers: dict[str, str] = {}
        for name, value in members(config.get("headers")).items():
            text = str(value)
            if is_secret_header(name, value) and stored_form(text) is not None:
                text = self._decrypt(text, server_id, f"config.headers.{name}")
            if PLACEHOLDER in text:
                if user_key is None:
                    raise UserKeyMissingError
                text = text.replace(PLACEHOLDER, user_key)
            if "{{" not in text:
                headers[name] = text
        api_key = members(config.get("apiKey"))
        if api_key:
            headers.update(self._api_key_header(api_key, server_id, user_key))
        return headers

    def _api_key_header(
        self, api_key: JsonObject, server_id: str, user_key: str | None
    ) -> dict[str, str]:
        if api_key.get("source") == "user":
            if user_key is None:
                raise UserKeyMissingError
            key = user_key
        else:
            stored = api_key.get("key")
            if not isinstance(stored, str):
                return {}
            key = self._decrypt(stored, server_id, "config.apiKey.key")
        match api_key.get("authorization_type"):
            case "basic":
                return {"Authorization": f"Basic {_basic(key)}"}
            case "custom":
                return {str(api_key.get("custom_header") or DEFAULT_CUSTOM_HEADER): key}
            case _:
                return {"Authorization": f"Bearer {key}"}

    def _decrypt(self, stored: str, server_id: str, field: str) -> str:
        try:
            return self._cipher.decrypt(stored, FieldRef(COLLECTION, server_id, field))
        except DecryptionError as exc:
            raise CredentialUnreadableError(COLLECTION, server_id, field) from exc


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


def needs_user_key(config: JsonObject) -> bool:
    """Whether each caller brings a key of their own."""
    if members(config.get("apiKey")).get("source") == "user":
        return True
    return any(PLACEHOLDER in str(value) for value in members(config.get("headers")).values())


def _basic(key: str) -> str:
    # `user:password` is encoded here; a value without a colon is taken as encoded already.
    return base64.b64encode(key.encode()).decode() if ":" in key else key
