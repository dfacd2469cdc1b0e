"""Upstream credentials: from user input to the stored form, and to request headers.

Secrets are stored in the form that jarvis-api reads (v2). A server whose key each user brings
(`apiKey.source: user`) is stored as jarvis-api stores it: no key, a header with a placeholder,
and the variable that fills it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pydantic import JsonValue

from packages.database.encryption import Cipher, DecryptionError, FieldRef, StoredForm, stored_form
from packages.models.states import SourceType
from registry.auth.identity import UserContext
from registry.core.errors import ValidationFailedError
from registry.core.header_names import is_secret_name
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.oauth.policy import grant_of
from registry.oauth.values import Grant
from registry.openapi.security import COOKIE_VALUE, is_cookie_value
from registry.servers.errors import (
    USER_VARIABLE,
    CredentialUnreadableError,
    CredentialUnusableError,
    UserKeyMissingError,
)
from registry.servers.values import CALLER_VALUES, VARIABLE, source_type_of

if TYPE_CHECKING:
    from registry.servers.schemas import ApiKeyInput, OAuthInput

COLLECTION = "mcpservers"
PLACEHOLDER = "{{MCP_API_KEY}}"
PLACE = re.compile(r"\{\{[^{}]*\}\}")
"""A header's value that is a value of the user's own."""

DEFAULT_CUSTOM_HEADER = "X-Api-Key"
QUERY_PARAMETER = "?"
"""Prefix of the names of headers that are sent as query parameters. No header that is given has
such a name."""
TEMPLATE_WORDS = re.compile(r"(?i)\b(basic|bearer|token|apikey|api-key|key)\b|[\s:=,;/\"'.-]+")
"""What a template may contain besides placeholders: names of schemes, and separators."""

SECRET_PARAMETER = re.compile(
    r"(?i:apikey|api[-_]key|accesskey|secret|passw|pwd|token(?!s)|credential|signature"
    r"|authorization|bearer|jwt)"
    r"|(?i:(?:^|[-_.])(?:key|auth|pw|pat|pin|sig|code|session))$"
    r"|[a-z]Key$"
)
"""Names of URL parameters whose values are secrets."""

SECRET_MEMBER = re.compile(r"(?i)(secret|passw|private|assertion|(access|refresh|id)_?token$)")
"""Names of members of `oauth` whose values are secrets, also at other programs' places."""

SENDABLE = re.compile(r"[\x20-\x7e\t]*")
"""Characters that a header can contain."""

COOKIE = re.compile(rf"[^=;,\s]+={COOKIE_VALUE.pattern}")

LONG_VALUE = 16
"""Minimum length from which on a URL parameter without a name counts as a secret."""


def masked_url(url: str) -> str:
    """Return a URL without user and password, and with the values of secrets masked."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if "@" not in parts.netloc and not parts.query and not parts.fragment:
        return url
    return urlunsplit(
        parts._replace(
            netloc=parts.netloc.rpartition("@")[2],
            query=_masked_parameters(parts.query),
            fragment=_masked_parameters(parts.fragment),
        )
    )


def has_secret(url: str) -> bool:
    """Whether a URL contains a user, a password or another secret, as far as names show."""
    return masked_url(url) != url


def _masked_parameters(query: str) -> str:
    # Split and joined by hand: a URL without secrets must stay exactly as it was written.
    return "&".join(map(_masked_parameter, query.split("&"))) if query else query


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if equals and value and SECRET_PARAMETER.search(unquote_plus(name)):
        return f"{name}={MASK}"
    is_bare = not equals and len(name) >= LONG_VALUE
    return MASK if is_bare else parameter


def masked_oauth(oauth: Mapping[str, JsonValue]) -> JsonObject:
    """Return `config.oauth` as responses show it."""
    shown: JsonObject = {}
    for name, value in oauth.items():
        if value is None:
            continue
        if SECRET_MEMBER.search(name):
            shown[name] = MASK
        elif isinstance(value, str) and "://" in value:
            shown[name] = masked_url(value)
        else:
            shown[name] = value
    return shown


def is_template(value: object) -> bool:
    """Whether a header's value contains user placeholders, and no text that is a secret."""
    text = str(value)
    return "{{" in text and not TEMPLATE_WORDS.sub("", PLACE.sub("", text))


def is_secret_header(name: str, value: object) -> bool:
    """Whether a header's value is encrypted and masked.

    It is, unless its name is known to be no secret's: names of secrets cannot be enumerated. A
    template contains none; text beside its placeholders may be one.
    """
    if is_template(value):
        return False
    return is_secret_name(name)


MIXED = (
    "mixes a text with {{...}}, and could not be stored encrypted; give the text in a header of "
    "its own, or ask users for the whole value"
)


WITH_SECRET = ("client_id", "authorization_url", "token_url")
"""What must stand beside `client_secret`."""

CHOOSING = ("token_url", "authorization_url", "client_id", "grant_types_supported")
"""What says how tokens are obtained."""

GRANTS = frozenset({*(grant.value for grant in Grant), "refresh_token"})
"""Grants of which a configuration names one, if it names any."""

OAUTH_ADDRESSES = ("authorization_url", "token_url", "redirect_uri", "revocation_endpoint")


def is_web_address(value: object) -> bool:
    """Whether *value* is a URL that a browser could open."""
    try:
        parts = urlsplit(str(value))
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def require_no_secret(url: str, field: str) -> None:
    """Check that a URL contains no secret: it is stored and shown in clear.

    Raises:
        ValidationFailedError: It does, or it contains a user placeholder. jarvis-api reads URLs
            as stored, so they cannot be encrypted.
    """
    if "{{" in url:
        raise ValidationFailedError(
            field, "must not contain {{...}}: only headers are filled in for each user here"
        )
    if has_secret(url):
        raise ValidationFailedError(
            field,
            "must not contain a secret (user, password, or a parameter such as api_key): URLs "
            "are stored and shown in clear; use apiKey or a header",
        )


def is_plaintext(value: str) -> bool:
    """Whether a key or an OAuth secret in `config` was stored in clear by the other application.

    That application treats a value without a colon as clear text, also one that looks like the
    oldest encrypted form, which neither application writes there; its early builds encrypted
    nothing.
    """
    return ":" not in value


def is_stored_header(value: str) -> bool:
    """Whether a header's value is one of our ciphertexts.

    The other application stores headers in clear, and a key of 32 hexadecimal digits looks like
    the oldest encrypted form, which we never write here.
    """
    return stored_form(value) not in {None, StoredForm.V1}


def _says_the_same(oauth: JsonObject, stored: JsonObject) -> bool:
    """Whether what chooses client and grant is as it was stored, by whichever application."""
    return bool(stored) and all(oauth.get(name) == stored.get(name) for name in CHOOSING)


def _require_usable(oauth: JsonObject) -> None:
    """Check that a configuration names what its grant needs.

    Raises:
        ValidationFailedError: It could only fail later, in the browser or at a call.
    """
    grants = oauth.get("grant_types_supported")
    if isinstance(grants, list) and grants and GRANTS.isdisjoint(map(str, grants)):
        raise ValidationFailedError(
            "oauth.grant_types_supported",
            f"names no grant that the registry uses: {', '.join(sorted(GRANTS))}",
        )
    if not oauth.get("token_url"):
        return
    needed = ["client_id"]
    if grant_of({"requiresOAuth": True, "oauth": oauth}) is Grant.AUTHORIZATION_CODE:
        needed.append("authorization_url")
    for name in needed:
        if not oauth.get(name):
            raise ValidationFailedError(
                f"oauth.{name}", "is needed with oauth.token_url, which ends the discovery"
            )


class CredentialVault:
    """Encrypts and decrypts the credentials inside a server's `config`."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def stored_api_key(self, given: ApiKeyInput, stored: JsonObject | None) -> JsonObject:
        """Return `config.apiKey` for the input; a masked key keeps the stored one."""
        fields: JsonObject = {
            "source": given.source,
            "authorization_type": given.authorization_type,
        }
        if given.custom_header is not None:
            fields["custom_header"] = given.custom_header
        if given.place != "header":
            fields["location"] = given.place
        if given.place == "cookie" and given.key not in {None, MASK}:
            require_cookie_value(str(given.key), "apiKey.key")
        if given.source == "admin":
            kept = (stored or {}).get("key")
            if given.key is not None and given.key != MASK:
                fields["key"] = self._cipher.encrypt_shared(given.key)
            elif kept is not None:
                if given.place == "cookie":
                    self._require_kept_cookie(kept)
                fields["key"] = kept
        return fields

    def _require_kept_cookie(self, stored: JsonValue) -> None:
        """Refuse to send a key that is kept in a cookie, if none can carry it."""
        try:
            key = self.decrypt(str(stored), "new", "config.apiKey.key")
        except CredentialUnreadableError:
            # It has to be entered again, and is looked at then.
            return
        require_cookie_value(key, "apiKey.key")

    def stored_oauth(self, given: OAuthInput, stored: JsonObject | None) -> JsonObject:
        """Return `config.oauth` for the input; a masked secret keeps the stored one.

        Stored members that this API does not know are kept.

        Raises:
            ValidationFailedError: A member is unknown, and not stored with that value.
        """
        shown = masked_oauth(stored or {})
        for name, value in (given.model_extra or {}).items():
            if value != shown.get(name):
                raise ValidationFailedError(f"oauth.{name}", "is not a known field")
        typed = cast("JsonObject", given.model_dump(mode="json", exclude_unset=True))
        secret = typed.pop("client_secret", None)
        # A member that is sent back as shown keeps its stored value.
        typed = {name: value for name, value in typed.items() if value != shown.get(name)}
        for name, value in typed.items():
            if isinstance(value, str) and "://" in value:
                require_no_secret(value, f"oauth.{name}")
            if name in OAUTH_ADDRESSES and value is not None and not is_web_address(value):
                raise ValidationFailedError(f"oauth.{name}", "must be an http(s) URL")
        merged: JsonObject = {**(stored or {}), **typed}
        if isinstance(secret, str) and secret != MASK:
            merged["client_secret"] = self._cipher.encrypt_shared(secret)
            # jarvis-api refuses the whole configuration otherwise.
            lacking = [name for name in WITH_SECRET if not merged.get(name)]
            if lacking:
                needed = " and ".join(f"oauth.{name}" for name in lacking)
                raise ValidationFailedError("oauth.client_secret", f"needs {needed}")
        if not _says_the_same(merged, stored or {}):
            _require_usable(merged)
        return {name: value for name, value in merged.items() if value is not None}

    def stored_headers(self, given: Mapping[str, str], stored: JsonObject | None) -> JsonObject:
        """Return `config.headers` for the input; masked values keep the stored ones.

        Raises:
            ValidationFailedError: A header mixes a secret with user placeholders.
        """
        kept = {name.lower(): value for name, value in (stored or {}).items()}
        headers: JsonObject = {}
        for name, value in given.items():
            if value == MASK:
                if name.lower() in kept:
                    headers[name] = kept[name.lower()]
            elif is_secret_header(name, value):
                if PLACE.search(value):
                    # The other application fills in users' values, so it must be readable.
                    raise ValidationFailedError(f"headers.{name}", MIXED)
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
            server_id: For errors.
            config: The stored config.
            user_values: The caller's own values by variable, for servers that need them.

        Raises:
            CredentialUnreadableError: A stored secret cannot be decrypted.
            CredentialUnusableError: A value cannot be sent in a header.
            UserKeyMissingError: The server needs values of the caller's own that are not stored.
        """
        missing = [name for name in needed_variables(config) if name not in user_values]
        if missing:
            raise UserKeyMissingError(missing, is_api=source_type_of(config) is SourceType.OPENAPI)
        headers: dict[str, str] = {}
        for name, value in members(config.get("headers")).items():
            text = str(value)
            if is_secret_header(name, value) and is_stored_header(text):
                text = self.decrypt(text, server_id, f"config.headers.{name}")
            else:
                filled = filled_in(text, user_values, config)
                if filled is None:
                    # jarvis-api supports more placeholders; a partial header is worse than none.
                    continue
                text = filled
            headers[name] = text
        api_key = members(config.get("apiKey"))
        if api_key:
            headers.update(
                self._api_key_header(api_key, server_id, user_values.get(USER_VARIABLE))
            )
        for name, value in headers.items():
            if not SENDABLE.fullmatch(value):
                raise CredentialUnusableError(name)
        cookie = headers.get("Cookie") if api_key.get("location") == "cookie" else None
        if cookie is not None and not COOKIE.fullmatch(cookie):
            raise CredentialUnusableError("Cookie")
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
                name = str(api_key.get("custom_header") or DEFAULT_CUSTOM_HEADER)
                return placed_key(name, key, api_key.get("location"))
            case _:
                return {"Authorization": f"Bearer {key}"}

    def encrypt(self, secret: str) -> str:
        """Return the stored form of a secret in a server's `config`."""
        return self._cipher.encrypt_shared(secret)

    def decrypt(self, stored: str, server_id: str, field: str) -> str:
        """Return the text of a stored secret; one in clear unchanged.

        Raises:
            CredentialUnreadableError: It cannot be decrypted with the current keys.
        """
        if is_plaintext(stored):
            return stored
        try:
            return self._cipher.decrypt(stored, FieldRef(COLLECTION, server_id, field))
        except DecryptionError as exc:
            raise CredentialUnreadableError(COLLECTION, server_id, field) from exc


def require_cookie_value(key: str, field: str) -> None:
    """Refuse a key that would be several cookies, or none.

    Raises:
        ValidationFailedError: It holds characters that no cookie's value may (RFC 6265, 4.1.1).
    """
    if not is_cookie_value(key):
        raise ValidationFailedError(
            field,
            "cannot be a cookie: it must be printable ASCII without spaces, quotes, commas, "
            "semicolons and backslashes",
        )


def placed_key(name: str, key: str, location: object) -> dict[str, str]:
    """Return the header of a key of an API, which may be meant for a query parameter or a cookie.

    The caller of APIs sends headers whose names begin with `QUERY_PARAMETER` in the query.
    """
    match location:
        case "query":
            return {QUERY_PARAMETER + name: key}
        case "cookie":
            return {"Cookie": f"{name}={key}"}
        case _:
            return {name: key}


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
            name = str(api_key.get("custom_header") or DEFAULT_CUSTOM_HEADER)
            return {**placed_key(name, PLACEHOLDER, api_key.get("location"))}
        case _:
            return {"Authorization": f"Bearer {PLACEHOLDER}"}


def user_variables() -> JsonObject:
    """Return the `customUserVars` entry that asks each user for a key."""
    return {USER_VARIABLE: {"title": "API Key", "description": "Your API key for this MCP server"}}


def user_variables_of(config: JsonObject) -> dict[str, JsonObject]:
    """Return the user variables of a server, by name."""
    asked = {
        name: members(variable) for name, variable in members(config.get("customUserVars")).items()
    }
    if members(config.get("apiKey")).get("source") == "user":
        asked = {**cast("dict[str, JsonObject]", user_variables()), **asked}
    return asked


def needed_variables(config: JsonObject) -> list[str]:
    """Return the names of the caller's own values that requests need."""
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


def is_user_level(config: JsonObject) -> bool:
    """Whether each user connects with own credentials."""
    grant = grant_of(config)
    is_users_token = grant is not None and grant is not Grant.CLIENT_CREDENTIALS
    return is_users_token or needs_user_key(config) or names_caller(config)


def names_caller(config: JsonObject) -> bool:
    """Whether headers identify the caller to the server."""
    return any(
        name in CALLER_VALUES
        for value in members(config.get("headers")).values()
        for name in VARIABLE.findall(str(value))
    )


def caller_values(user: UserContext) -> dict[str, str]:
    """Return the values that identify a caller, as in jarvis-api; nothing from the registry."""
    if user.is_of_all_tenants:
        return {}
    facts = (user.user_id, user.username, user.role_principal)
    values = zip(CALLER_VALUES, facts, strict=True)
    return {name: value for name, value in values if SENDABLE.fullmatch(value)}


def filled_in(text: str, values: Mapping[str, str], config: JsonObject) -> str | None:
    """Return *text* with the caller's values inserted; None if it contains other placeholders."""
    asked = {USER_VARIABLE, *CALLER_VALUES, *members(config.get("customUserVars"))}
    names = VARIABLE.findall(text)
    if any(name not in asked or name not in values for name in names):
        return None
    if "{{" in VARIABLE.sub("", text):
        return None
    # In one pass: a value may itself look like a placeholder.
    return VARIABLE.sub(lambda match: values[match[1]], text)


def _basic(key: str) -> str:
    # `user:password` is encoded here; a value without a colon counts as already encoded.
    return base64.b64encode(key.encode()).decode() if ":" in key else key
