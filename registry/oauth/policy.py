"""Decisions about OAuth. Pure."""

from collections.abc import Mapping

from registry.core.json import JsonObject, members
from registry.oauth.values import Grant


def grant_of(config: JsonObject) -> Grant | None:
    """Return how access tokens for a server are obtained; None if it takes none.

    `oauth.grant_types_supported` decides where it leaves out `authorization_code`.
    """
    if config.get("requiresOAuth") is not True:
        return None
    named = members(config.get("oauth")).get("grant_types_supported")
    grants = named if isinstance(named, list) else []
    if Grant.AUTHORIZATION_CODE.value in grants:
        return Grant.AUTHORIZATION_CODE
    for grant in (Grant.TOKEN_EXCHANGE, Grant.CLIENT_CREDENTIALS):
        if grant.value in grants:
            return grant
    return Grant.AUTHORIZATION_CODE


def is_unattended(config: JsonObject) -> bool:
    """Whether the registry obtains access tokens for a server without a person."""
    return grant_of(config) not in {None, Grant.AUTHORIZATION_CODE}


def skips_challenge_check(oauth: Mapping[str, object]) -> bool:
    """Whether an authorization server is used that does not claim to support PKCE."""
    return oauth.get("skip_code_challenge_check") is True
