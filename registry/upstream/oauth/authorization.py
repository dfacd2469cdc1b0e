"""Authorization requests and responses (RFC 6749 4.1, RFC 7636, RFC 8707, RFC 9207). Pure."""

import base64
import hashlib
import secrets
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from registry.upstream.oauth.errors import OAuthMetadataError
from registry.upstream.oauth.values import AuthorizationServer, OAuthClientIdentity

S256 = "S256"
VERIFIER_BYTES = 48


def new_verifier() -> str:
    """Return a new code verifier of 64 characters (RFC 7636, 4.1)."""
    return secrets.token_urlsafe(VERIFIER_BYTES)


def challenge_for(verifier: str) -> str:
    """Return the S256 challenge of a code verifier (RFC 7636, 4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorization_url(
    server: AuthorizationServer,
    client: OAuthClientIdentity,
    *,
    redirect_uri: str,
    state: str,
    verifier: str,
    scopes: tuple[str, ...] | None,
    resource: str | None,
    skips_challenge_check: bool = False,
) -> str:
    """Return the URL at which a user authorises *client*.

    Args:
        server: Whose authorization endpoint; the query that it has is kept.
        client: What asks.
        redirect_uri: Where the answer goes.
        state: Comes back with the answer.
        verifier: Its S256 challenge is sent.
        scopes: None to send none.
        resource: None to send none.
        skips_challenge_check: Whether it may be a server that does not claim to support PKCE.

    Raises:
        OAuthMetadataError: The server has no authorization endpoint, or does not support S256.
    """
    endpoint = server.authorization_endpoint
    if endpoint is None:
        raise OAuthMetadataError("The authorization server has no authorization endpoint.")
    if not skips_challenge_check and S256 not in (server.code_challenge_methods or ()):
        raise OAuthMetadataError(
            "The authorization server does not claim to support PKCE with S256 "
            "(code_challenge_methods_supported); oauth.skip_code_challenge_check ignores that."
        )
    sent = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge_for(verifier),
        "code_challenge_method": S256,
    }
    if scopes:
        sent["scope"] = " ".join(scopes)
        if "offline_access" in scopes:
            # OpenID Connect Core 11: without it, no refresh token is issued.
            sent["prompt"] = "consent"
    if resource is not None:
        sent["resource"] = resource
    parts = urlsplit(endpoint)
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in sent]
    return urlunsplit(parts._replace(query=urlencode([*kept, *sent.items()]), fragment=""))


def check_response_issuer(server: AuthorizationServer, issuer: str | None) -> None:
    """Check the `iss` of an authorization response (RFC 9207, 2.4).

    Raises:
        OAuthMetadataError: It is another server's, or is missing though the server sends it.
    """
    if issuer is None:
        if server.sends_issuer:
            raise OAuthMetadataError("The authorization response does not name its issuer.")
        return
    if server.issuer is not None and issuer != server.issuer:
        raise OAuthMetadataError("The authorization response comes from another issuer.")
