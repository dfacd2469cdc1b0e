"""JWTs: issues our own tokens and verifies all accepted ones.

Two kinds of bearer are accepted, distinguished by algorithm, each with its own key and rules;
a token that fails under its own kind is refused, never tried as the other:

* RS256, ours: `iss`, `aud` and `kid` must be ours; role and scopes are in the token.
* HS256, jarvis-api's: signed with its JWT_SECRET, names a user in `id`; no issuer, no role.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from jose import jwk, jwt
from jose.exceptions import ExpiredSignatureError, JOSEError

from registry.auth.errors import UnauthorizedError
from registry.auth.identity import TOOLS, Role, Scope
from registry.auth.keys import SigningKeys
from registry.core.clock import Clock

USER_ID_LENGTH = 24
"""Characters of an ObjectId in hexadecimal."""

REFRESH_USE = "refresh"
"""`token_use` of refresh tokens; access tokens have none."""

MAX_TOKEN_CHARACTERS = 8192
"""Longer bearers are refused unread: ours are under 1,000 characters."""

NO_JWT = "The bearer token is not a JWT. Send the whole token, as it was issued."
UNVERIFIED = (
    "The bearer token cannot be verified. Send the whole token, as it was issued for this "
    "registry, or get a new one."
)

LATEST_EXPIRY = 253_402_300_800
"""The year 10,000, in seconds since the epoch: Python's `datetime` ends before it."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """The claims of a verified token.

    Attributes:
        role: None when the token does not say (jarvis-api's), so that `users` must be asked.
        scopes: None when the token does not say.
        expires_at: `exp`, in seconds since the epoch.
        issued_at: `iat`, in seconds since the epoch; None if the token has none.
        session_id: Family of tokens that it belongs to, if any.
        ancestors: Tokens and families that it was generated with, the oldest first.
        custom_scopes: Scopes that are none of ours; access policies may name them.
        is_service_account: Whether the account may exist in the token alone; any other user must
            be stored.
        toolset: The toolset that the token is limited to at the gateway, see `toolset_claim`.
        tools: Which tools clients find at the gateway: `all`, `search`, or None.
    """

    user_id: str
    username: str
    role: Role | None
    scopes: frozenset[Scope] | None
    token_id: str | None
    expires_at: float
    issued_at: float | None = None
    session_id: str | None = None
    ancestors: tuple[str, ...] = ()
    custom_scopes: frozenset[str] = frozenset()
    is_service_account: bool = False
    toolset: str | None = None
    tools: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """The claims of a verified refresh token."""

    user_id: str
    session_id: str
    token_id: str


class TokenIssuer:
    """Signs tokens of our own.

    Attributes:
        jwk: The public key.
    """

    def __init__(self, keys: SigningKeys, *, issuer: str, audience: str, clock: Clock) -> None:
        self.jwk = keys.jwk
        self._kid = keys.kid
        self._key = jwk.construct(
            keys.private_key,  # type: ignore[arg-type]  # keys of its backend are taken too
            "RS256",
        )
        self._issuer = issuer
        self._audience = audience
        self._clock = clock

    def issue(  # noqa: PLR0913 - one keyword for each claim
        self,
        *,
        user_id: str,
        username: str,
        role: Role,
        scopes: frozenset[str],
        lifetime: timedelta,
        token_id: str | None = None,
        session_id: str | None = None,
        ancestors: tuple[str, ...] = (),
        is_service_account: bool = False,
        toolset: str | None = None,
        tools: str | None = None,
    ) -> str:
        """Return a signed RS256 access token (RFC 9068's claims, plus user_id, username, role).

        `sid` and `anc`, if present, name its token family and that family's ancestors;
        `service_account` means that its user need not be stored; `toolset` names the toolset that
        it is limited to, and `tools` says which tools clients find: `all` or `search`.
        """
        claims: dict[str, object] = {
            "aud": self._audience,
            "user_id": user_id,
            "username": username,
            "role": role.value,
            "scope": " ".join(sorted(scopes)),
            "jti": token_id or uuid.uuid4().hex,
        }
        if session_id is not None:
            claims["sid"] = session_id
        if ancestors:
            claims["anc"] = list(ancestors)
        if is_service_account:
            claims["service_account"] = True
        if toolset is not None:
            claims["toolset"] = toolset
        if tools is not None:
            claims["tools"] = tools
        return self._signed(user_id, claims, lifetime)

    def issue_refresh(
        self, *, user_id: str, session_id: str, token_id: str, lifetime: timedelta
    ) -> str:
        """Return a signed RS256 refresh token, which is never accepted as an access token."""
        claims: dict[str, object] = {
            "aud": refresh_audience(self._audience),
            "token_use": REFRESH_USE,
            "sid": session_id,
            "jti": token_id,
        }
        return self._signed(user_id, claims, lifetime)

    def sign(self, claims: Mapping[str, object]) -> str:
        """Return *claims* as a JWT that no service of ours accepts: its audience is another's."""
        if claims.get("aud") in {self._audience, refresh_audience(self._audience)}:
            raise ValueError("The audience is the registry's own.")
        token: str = jwt.encode(
            dict(claims), self._key, algorithm="RS256", headers={"kid": self._kid}
        )
        return token

    def _signed(self, user_id: str, own: dict[str, object], lifetime: timedelta) -> str:
        now = self._clock.now()
        claims = {
            "iss": self._issuer,
            "sub": user_id,
            **own,
            "iat": int(now.timestamp()),
            "exp": int((now + lifetime).timestamp()),
        }
        token: str = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._kid})
        return token


class TokenVerifier:
    """Checks signature, algorithm, issuer, audience and times of a bearer token."""

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str,
        audience: str,
        shared_secret: str | None,
        leeway_seconds: int,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._shared_secret = shared_secret
        self._leeway_seconds = leeway_seconds

    def verify(self, token: str) -> VerifiedToken:
        """Return the claims of *token*.

        Raises:
            UnauthorizedError: For any reason it cannot be accepted.
        """
        header = _header(token)
        match header.get("alg"):
            case "RS256":
                return self._own(token, header.get("kid"))
            case "HS256" if self._shared_secret:
                return self._shared(token, self._shared_secret)
            case _:
                raise UnauthorizedError("The bearer token's algorithm is not accepted.")

    def verify_refresh(self, token: str) -> RefreshClaims:
        """Return the claims of one of our refresh tokens.

        Raises:
            UnauthorizedError: For any reason it cannot be accepted.
        """
        header = _header(token)
        if header.get("alg") != "RS256":
            raise UnauthorizedError("The refresh token's algorithm is not accepted.")
        claims = self._signed_by_us(token, header.get("kid"), refresh_audience(self._audience))
        session_id, token_id = claims.get("sid"), claims.get("jti")
        if (
            claims.get("token_use") != REFRESH_USE
            or not isinstance(session_id, str)
            or not isinstance(token_id, str)
        ):
            raise UnauthorizedError("The token is not a refresh token.")
        return RefreshClaims(_user_id(claims.get("sub")), session_id, token_id)

    def _signed_by_us(self, token: str, kid: object, audience: str) -> dict[str, object]:
        if kid != self._keys.kid:
            raise UnauthorizedError("The bearer token was signed with an unknown key.")
        return self._decode(token, self._keys.public_pem, "RS256", audience)

    def _own(self, token: str, kid: object) -> VerifiedToken:
        claims = self._signed_by_us(token, kid, self._audience)
        if "token_use" in claims:
            raise UnauthorizedError("The bearer token is not an access token.")
        role = claims.get("role")
        scope = claims.get("scope")
        if not isinstance(role, str) or not isinstance(scope, str):
            raise UnauthorizedError("The bearer token lacks a role or a scope.")
        named = frozenset(scope.split())
        known = frozenset(item for item in Scope if item in named)
        return VerifiedToken(
            user_id=_user_id(claims.get("user_id")),
            username=str(claims.get("username") or ""),
            role=Role.parse(role),
            scopes=known,
            custom_scopes=named - known,
            token_id=str(claims["jti"]) if claims.get("jti") else None,
            expires_at=_expiry(claims),
            issued_at=_issued_at(claims),
            session_id=str(claims["sid"]) if claims.get("sid") else None,
            ancestors=_ancestors(claims.get("anc")),
            is_service_account=claims.get("service_account") is True,
            toolset=_toolset(claims.get("toolset")),
            tools=_tools(claims.get("tools")),
        )

    def _shared(self, token: str, secret: str) -> VerifiedToken:
        claims = self._decode(token, secret, "HS256", None)
        if "iss" in claims or "sessionId" in claims:
            # jarvis-api's access tokens have neither; its refresh tokens carry a sessionId.
            raise UnauthorizedError("The bearer token is not an access token.")
        return VerifiedToken(
            user_id=_user_id(claims.get("id")),
            username=str(claims.get("username") or ""),
            role=None,
            scopes=None,
            token_id=None,
            expires_at=_expiry(claims),
            issued_at=_issued_at(claims),
        )

    def _decode(
        self, token: str, key: str, algorithm: str, audience: str | None
    ) -> dict[str, object]:
        own = audience is not None
        options: dict[str, object] = {
            "leeway": self._leeway_seconds,
            "require_exp": True,
            "require_iat": own,
            "require_aud": own,
            "require_iss": own,
            "verify_aud": own,
            "verify_iss": own,
        }
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                options=options,
                audience=audience,
                issuer=self._issuer if own else None,
            )
        except ExpiredSignatureError:
            raise UnauthorizedError(
                "The bearer token has expired. Get a new one from where it was issued."
            ) from None
        except JOSEError:
            raise UnauthorizedError(UNVERIFIED) from None
        except Exception:  # noqa: BLE001 - a bug of a library on hostile input must not accept it or cause a 500
            raise UnauthorizedError(UNVERIFIED) from None


def refresh_audience(audience: str) -> str:
    """Return the `aud` of refresh tokens, which no access token has."""
    return f"{audience}:refresh"


def _user_id(claim: object) -> str:
    if (
        isinstance(claim, str)
        and len(claim) == USER_ID_LENGTH
        and all(character in "0123456789abcdefABCDEF" for character in claim)
    ):
        return claim.lower()
    raise UnauthorizedError("The bearer token names no user.")


def _expiry(claims: dict[str, object]) -> float:
    expiry = claims.get("exp")
    if not isinstance(expiry, int | float) or not 0 < expiry < LATEST_EXPIRY:
        raise UnauthorizedError("The bearer token has no usable expiry.")
    return float(expiry)


def _issued_at(claims: dict[str, object]) -> float | None:
    issued = claims.get("iat")
    # A value that cannot be compared counts as issued before every revocation.
    return (
        float(issued) if isinstance(issued, int | float) and abs(issued) < LATEST_EXPIRY else None
    )


def _toolset(claim: object) -> str | None:
    # A claim that cannot be read names no toolset that exists, so that it never widens.
    return claim if claim is None or isinstance(claim, str) else ""


def _tools(claim: object) -> str | None:
    # It gives no right and takes none, so one that cannot be read says nothing.
    return claim if isinstance(claim, str) and claim in TOOLS else None


def _ancestors(claim: object) -> tuple[str, ...]:
    return tuple(str(item) for item in claim) if isinstance(claim, list) else ()


def _header(token: str) -> dict[str, object]:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise UnauthorizedError("The bearer token is too long.")
    try:
        header: dict[str, object] = jwt.get_unverified_header(token)
    except JOSEError:
        raise UnauthorizedError(NO_JWT) from None
    if "crit" in header:
        # Critical extensions must be understood (RFC 7515, 4.1.11), and none is supported.
        raise UnauthorizedError("The bearer token needs an extension that is not supported.")
    return header
