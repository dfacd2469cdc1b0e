"""Stored secrets are bound to the origin they were given for. Pure.

Whoever may change a server's URL is not always who typed its secrets, and may not read them. So a
change that leads elsewhere does not take them along: they are typed again, or removed.
"""

from urllib.parse import urlsplit

from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.credentials import is_secret_header
from registry.servers.schemas import ServerUpdate

Origin = tuple[str, str, int | None]
DEFAULT_PORTS = {"http": 80, "https": 443}
OAUTH_ADDRESSES = ("authorization_url", "token_url")


def leaves_origin(request: ServerUpdate, config: JsonObject) -> bool:
    """Whether the update's URL has another scheme, host or port than the stored one."""
    return request.url is not None and are_apart(request.url, config.get("url"))


def are_apart(address: str, stored: object) -> bool:
    """Whether an address has another scheme, host or port than a stored one."""
    return not isinstance(stored, str) or _origin(address) != _origin(stored)


def require_secrets_again(request: ServerUpdate, config: JsonObject) -> None:
    """Check that an update takes no stored secret to another origin.

    Raises:
        ValidationFailedError: It would; names the first such member.
    """
    if leaves_origin(request, config):
        for field in _kept(request, config):
            raise ValidationFailedError(
                field, "must be given again, or removed, because url leads to another origin"
            )
    elif _oauth_moves(request, config) and "oauth.client_secret" in _kept(request, config):
        raise ValidationFailedError(
            "oauth.client_secret",
            "must be given again, because it would be sent to another origin",
        )


def _kept(request: ServerUpdate, config: JsonObject) -> list[str]:
    """Return the members whose stored secrets the update leaves in place."""
    kept: list[str] = []
    given = request.model_fields_set
    if "key" in members(config.get("apiKey")):
        api_key = request.api_key
        is_same = api_key is not None and api_key.source == "admin" and _masked(api_key.key)
        if is_same or "api_key" not in given:
            kept.append("apiKey.key")
    if "client_secret" in members(config.get("oauth")):
        oauth = request.oauth
        if "oauth" not in given or (oauth is not None and _masked(oauth.client_secret)):
            kept.append("oauth.client_secret")
    typed = request.headers or {}
    again = {name.lower() for name, value in typed.items() if value == MASK}
    for name, value in members(config.get("headers")).items():
        if is_secret_header(name, value) and ("headers" not in given or name.lower() in again):
            kept.append(f"headers.{name}")
    return kept


def _oauth_moves(request: ServerUpdate, config: JsonObject) -> bool:
    stored = members(config.get("oauth"))
    return request.oauth is not None and any(
        are_apart(address, stored.get(name))
        for name in OAUTH_ADDRESSES
        if (address := getattr(request.oauth, name)) is not None
    )


def _origin(address: str) -> Origin | None:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # Stored by another program; equal to nothing that we accept.
        return None
    return (parts.scheme, parts.hostname or "", port or DEFAULT_PORTS.get(parts.scheme))


def _masked(secret: str | None) -> bool:
    return secret is None or secret == MASK
