"""Bind stored secrets to the origin that they were entered for. Pure.

A user who may change a server's URL may be another than the one who entered its secrets, and may
not be allowed to read them. So a change to another origin drops them: they must be entered again,
or removed. Within an origin, where another path may belong to another party, an owner's change
keeps them, and other users' changes do not. Source: docs/decisions/0023-secrets-and-addresses.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.access.policy import Permission
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.credentials import is_secret_header, masked_oauth
from registry.servers.values import ServerRecord

if TYPE_CHECKING:
    from registry.servers.schemas import ServerUpdate

Origin = tuple[str, str, int | None]
DEFAULT_PORTS = {"http": 80, "https": 443}
OAUTH_ADDRESSES = ("authorization_url", "token_url")


def leaves_origin(request: ServerUpdate, config: JsonObject) -> bool:
    """Whether the update's URL has another scheme, host or port than the stored one."""
    return request.url is not None and are_apart(request.url, config.get("url"))


def users_keys_stay(url: object, current: ServerRecord) -> bool:
    """Whether the values that users stored for a server may be sent to *url*, its new address."""
    stored = current.config.get("url")
    if url == stored:
        return True
    return isinstance(url, str) and not are_apart(url, stored) and is_owner(current)


def tokens_stay(oauth: object, current: ServerRecord) -> bool:
    """Whether tokens that users obtained for a server are good with *oauth*, its new `oauth`.

    A refresh token is sent to the token endpoint, so it must not follow that to another place.
    """
    before, after = members(current.config.get("oauth")), members(oauth)
    return all(before.get(name) == after.get(name) for name in (*OAUTH_ADDRESSES, "client_id"))


def is_owner(server: ServerRecord) -> bool:
    """Whether the server was read on behalf of an owner, or of an administrator."""
    return bool(server.bits & Permission.SHARE)


def are_apart(address: str, stored: object) -> bool:
    """Whether an address has another scheme, host or port than a stored one."""
    return not isinstance(stored, str) or _origin(address) != _origin(stored)


def require_secrets_again(request: ServerUpdate, current: ServerRecord) -> None:
    """Check that an update sends no stored secret to another origin, or unasked to another path.

    Raises:
        ValidationFailedError: It would; names the first such member.
    """
    config = current.config
    moves = request.url is not None and request.url != config.get("url")
    if leaves_origin(request, config):
        for field in _kept(request, config):
            raise ValidationFailedError(
                field, "must be given again, or removed, because url changes to another origin"
            )
    elif moves and not is_owner(current):
        for field in _kept(request, config):
            raise ValidationFailedError(
                field,
                "must be given again, or removed, because url changes; an owner of the server may "
                "change it without",
            )
    elif _oauth_moves(request, config, within_origins=not is_owner(current)) and (
        "oauth.client_secret" in _kept(request, config)
    ):
        raise ValidationFailedError(
            "oauth.client_secret",
            "must be given again, because it would be sent to another address",
        )


def _kept(request: ServerUpdate, config: JsonObject) -> list[str]:
    """Return the members whose stored secrets the update keeps."""
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


def _oauth_moves(request: ServerUpdate, config: JsonObject, *, within_origins: bool) -> bool:
    """Whether OAuth moves: to another origin, or, *within_origins*, to another path.

    Where an address is removed, the server says where tokens are obtained: that may be anywhere.
    """
    oauth, stored = request.oauth, members(config.get("oauth"))
    if oauth is None:
        return False
    shown = masked_oauth(stored)
    for name in OAUTH_ADDRESSES:
        address, before = getattr(oauth, name), shown.get(name)
        if name not in oauth.model_fields_set or address == before:
            continue
        if address is None or within_origins or are_apart(address, stored.get(name)):
            return True
    return False


def _origin(address: str) -> Origin | None:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # Stored by another program; equal to no value that we accept.
        return None
    return (parts.scheme, parts.hostname or "", port or DEFAULT_PORTS.get(parts.scheme))


def _masked(secret: str | None) -> bool:
    return secret is None or secret == MASK
