"""Requests to token and revocation endpoints (RFC 6749, 7009, 7523, 8693, 8707)."""

import base64
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import quote_plus, unquote

from registry.core.clock import Clock
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    InvalidClientError,
    InvalidGrantError,
    OAuthError,
)
from registry.upstream.oauth.http import OAuthAnswer, OAuthHttp, origin_of
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    OAuthClientIdentity,
    TokenRequest,
    Tokens,
)

Fields: TypeAlias = list[tuple[str, str]]
Sign: TypeAlias = Callable[[Mapping[str, object]], str]
"""Signs claims as a JWT."""

OK, UNAUTHORIZED = 200, 401
MAX_TOKEN_CHARACTERS = 16 * 1024
SENDABLE = re.compile(r"[\x21-\x7e]+")
CREDENTIAL = re.compile(r"[\x20-\x7e]+")
LEAST_OF_A_SECRET = 6
WORD = re.compile(rf"[A-Za-z0-9_.~+/%-]{{{LEAST_OF_A_SECRET},}}")
"""Where a text may repeat a secret, or a part of one."""
MAX_SECONDS = 2**53
MAX_LIFETIME_SECONDS = 10 * 365 * 24 * 3600
ASSERTION_SECONDS = 120
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a URN
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a URN
NOT_BEARER = frozenset({"dpop", "mac", "n_a"})

GRANT_ERRORS = frozenset(
    {
        "invalid_grant",
        # GitHub and Slack have names of their own.
        "bad_verification_code",
        "bad_refresh_token",
        "invalid_code",
        "code_already_used",
        "invalid_refresh_token",
        "token_expired",
        "token_revoked",
    }
)
CLIENT_ERRORS = frozenset(
    {
        "invalid_client",
        "incorrect_client_credentials",
        "bad_client_secret",
        "invalid_client_id",
    }
)
PASSING_ERRORS = frozenset({"temporarily_unavailable", "server_error", "slow_down", "ratelimited"})
DESCRIPTION_CHARACTERS = 200
CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class TokenEndpoint:
    """Obtains, renews and revokes tokens.

    Args:
        http: Sends the requests.
        clock: For the times in assertions.
        sign: Signs assertions of `private_key_jwt`; None if the registry has no key.
    """

    def __init__(self, http: OAuthHttp, clock: Clock, sign: Sign | None) -> None:
        self._http = http
        self._clock = clock
        self._sign = sign

    async def exchange_code(
        self, request: TokenRequest, *, code: str, verifier: str, redirect_uri: str
    ) -> Tokens:
        """Exchange an authorization code.

        Raises:
            InvalidGrantError: The code is not, or no longer, valid.
            InvalidClientError: The client is not known.
            AuthorizationServerUnavailableError: It failed for now; the code may be used up.
            OAuthError: It was refused, or answered badly.
        """
        fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ]
        return await self._ask(request, fields, scopes=None)

    async def refresh(self, request: TokenRequest, refresh_token: str) -> Tokens:
        """Renew an access token; see `exchange_code` for errors."""
        fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)]
        return await self._ask(request, fields, scopes=None)

    async def client_credentials(self, request: TokenRequest) -> Tokens:
        """Obtain an access token for the client itself; see `exchange_code` for errors."""
        fields = [("grant_type", "client_credentials")]
        return await self._ask(request, fields, scopes=request.scopes)

    async def exchange(
        self, request: TokenRequest, *, subject_token: str, subject_token_type: str
    ) -> Tokens:
        """Exchange a token about a user (RFC 8693); see `exchange_code` for errors."""
        fields = [
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", subject_token),
            ("subject_token_type", subject_token_type),
            ("requested_token_type", ACCESS_TOKEN_TYPE),
        ]
        return await self._ask(request, fields, scopes=request.scopes)

    async def revoke(
        self, server: AuthorizationServer, client: OAuthClientIdentity, token: str, hint: str
    ) -> bool:
        """Revoke a token (RFC 7009); return whether the server confirmed it.

        Args:
            server: Which.
            client: Whose token.
            token: An access or a refresh token.
            hint: `access_token` or `refresh_token`.

        Raises:
            UnsafeAddressError: Its URL may not be contacted.
            AuthorizationServerUnavailableError: It failed for now.
            OAuthError: It cannot be asked.
        """
        endpoint = server.revocation_endpoint
        if endpoint is None:
            return False
        fields, headers = self._authenticated(server, client)
        sent = [("token", token), ("token_type_hint", hint), *fields]
        answer = await self._http.post_form(endpoint, sent, headers)
        if answer.is_unavailable:
            raise AuthorizationServerUnavailableError(
                f"{origin_of(endpoint)} answered HTTP {answer.status}."
            )
        return answer.status == OK

    async def _ask(
        self, request: TokenRequest, fields: Fields, *, scopes: tuple[str, ...] | None
    ) -> Tokens:
        endpoint = request.server.token_endpoint
        sent = [*fields]
        if scopes:
            sent.append(("scope", " ".join(scopes)))
        if request.resource is not None:
            sent.append(("resource", request.resource))
        identity, headers = self._authenticated(request.server, request.client)
        sent += identity
        answer = await self._http.post_form(endpoint, sent, headers)
        tokens = tokens_of(answer)
        if tokens is None:
            hidden = [value for name, value in sent if name not in PUBLIC_FIELDS]
            raise error_of(answer, [*hidden, *filter(None, [request.client.client_secret])])
        return tokens

    def _authenticated(
        self, server: AuthorizationServer, client: OAuthClientIdentity
    ) -> tuple[Fields, dict[str, str]]:
        secret = client.client_secret or ""
        match client.authentication:
            case ClientAuthentication.CLIENT_SECRET_BASIC:
                # Form-encoded first (RFC 6749, 2.3.1).
                pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
                encoded = base64.b64encode(pair.encode()).decode()
                return [], {"Authorization": f"Basic {encoded}"}
            case ClientAuthentication.CLIENT_SECRET_POST:
                return [("client_id", client.client_id), ("client_secret", secret)], {}
            case ClientAuthentication.PRIVATE_KEY_JWT:
                assertion = self._assertion(
                    client.client_id, server.issuer or server.token_endpoint
                )
                return [
                    ("client_id", client.client_id),
                    ("client_assertion_type", ASSERTION_TYPE),
                    ("client_assertion", assertion),
                ], {}
            case ClientAuthentication.NONE:
                return [("client_id", client.client_id)], {}

    def _assertion(self, client_id: str, audience: str) -> str:
        if self._sign is None:
            raise InvalidClientError("The registry has no key to authenticate with.")
        now = int(self._clock.now().timestamp())
        return self._sign(
            {
                "iss": client_id,
                "sub": client_id,
                "aud": audience,
                "jti": secrets.token_urlsafe(16),
                "iat": now,
                "exp": now + ASSERTION_SECONDS,
            }
        )


PUBLIC_FIELDS = frozenset(
    {
        "client_id",
        "client_assertion_type",
        "grant_type",
        "redirect_uri",
        "requested_token_type",
        "resource",
        "scope",
        "subject_token_type",
    }
)
"""Fields of a request that are no secrets, and may be repeated in errors."""


def is_sendable(value: object) -> bool:
    """Whether *value* is a text that can be a token or a code in a request."""
    return _is_text_of(SENDABLE, value)


def is_credential(value: object) -> bool:
    """Whether *value* is a text that can be a client id or a secret (RFC 6749, A.1 and A.2)."""
    return _is_text_of(CREDENTIAL, value)


def _is_text_of(grammar: re.Pattern[str], value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= MAX_TOKEN_CHARACTERS
        and grammar.fullmatch(value) is not None
    )


def tokens_of(answer: OAuthAnswer) -> Tokens | None:
    """Return the tokens in an answer; None if it is an error, or holds none that can be used."""
    if answer.status not in range(200, 300):
        return None
    # Some servers answer a form although JSON was asked for.
    found = answer.document() or answer.form()
    if found.get("error") or found.get("ok") is False:
        return None
    if "access_token" not in found:
        # Slack puts the token of a user beside that of an app.
        found = {**found, **members(found.get("authed_user"))}
    access, refresh = found.get("access_token"), found.get("refresh_token")
    kind = found.get("token_type")
    if not is_sendable(access) or (isinstance(kind, str) and kind.lower() in NOT_BEARER):
        return None
    return Tokens(
        str(access),
        str(refresh) if is_sendable(refresh) else None,
        _lifetime(found.get("expires_in")),
        _lifetime(found.get("refresh_token_expires_in") or found.get("refresh_expires_in")),
        _scopes(found.get("scope")),
    )


def error_of(answer: OAuthAnswer, hidden: Iterable[str]) -> OAuthError:
    """Return the error in an answer.

    Args:
        answer: Not a success.
        hidden: What was sent and must not be repeated.
    """
    found = answer.document() or answer.form()
    hidden = [secret for secret in hidden if secret]
    given = found.get("error")
    is_code = isinstance(given, str) and CODE.fullmatch(given) and given not in hidden
    code = str(given) if is_code else None
    message = f"The authorization server answered {code or f'HTTP {answer.status}'}."
    described = _description(found, hidden)
    if described:
        message = f"{message.removesuffix('.')}: {described}"
    if answer.is_unavailable or code in PASSING_ERRORS:
        return AuthorizationServerUnavailableError(message, code)
    if code in GRANT_ERRORS:
        return InvalidGrantError(message, code)
    is_unauthorized = answer.status == UNAUTHORIZED and code in {None, "unauthorized_client"}
    if code in CLIENT_ERRORS or is_unauthorized:
        return InvalidClientError(message, code)
    if answer.status in range(200, 300) and code is None:
        return OAuthError("The authorization server answered no usable access token.")
    return OAuthError(message, code)


def _description(document: JsonObject, hidden: Sequence[str]) -> str:
    text = document.get("error_description")
    if not isinstance(text, str):
        return ""

    def shown(word: re.Match[str]) -> str:
        part = unquote(word[0]).strip(".")
        is_secret = len(part) >= LEAST_OF_A_SECRET and any(part in secret for secret in hidden)
        return MASK if is_secret else word[0]

    text = text[: 10 * DESCRIPTION_CHARACTERS]
    if any(len(secret) < LEAST_OF_A_SECRET and secret in text for secret in hidden):
        # What is masked would show what it is: its characters are missing everywhere.
        return ""
    for secret in hidden:
        text = text.replace(secret, MASK)
    text = WORD.sub(shown, text)
    return "".join(one if one.isprintable() else " " for one in text)[:DESCRIPTION_CHARACTERS]


def _lifetime(value: object) -> int | None:
    seconds = seconds_of(value)
    return None if seconds is None else min(seconds, MAX_LIFETIME_SECONDS)


def seconds_of(value: object) -> int | None:
    """Return a number of seconds; None if it is none, or not above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = int(float(value))
    except (ValueError, OverflowError):
        return None
    return min(seconds, MAX_SECONDS) if seconds > 0 else None


def _scopes(value: object) -> tuple[str, ...] | None:
    if isinstance(value, list):
        value = " ".join(one for one in value if isinstance(one, str))
    if not isinstance(value, str):
        return None
    # GitHub separates them by commas.
    return tuple(dict.fromkeys(value.replace(",", " ").split())) or None
