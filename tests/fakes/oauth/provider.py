"""A strict OAuth 2.1 provider, built on authlib: clients, codes, tokens, and its misbehaviour.

Refresh tokens are rotated; one that is used twice revokes its whole family.
"""

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("AUTHLIB_INSECURE_TRANSPORT", "1")

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    BaseGrant,
    ClientMixin,
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    JsonRequest,
    OAuth2Error,
    OAuth2Request,
    TokenEndpointMixin,
    TokenMixin,
    UnauthorizedClientError,
    UnsupportedGrantTypeError,
    grants,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7591 import ClientRegistrationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey
from typing_extensions import override

SECRET_METHODS = ["none", "client_secret_basic", "client_secret_post"]
METHODS = [*SECRET_METHODS, "private_key_jwt"]
SCOPES = ["read", "write", "admin", "offline_access"]
CODE_SECONDS = 60
LONGEST_ASSERTION_SECONDS = 300
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
JWT_KEY = OctKey.import_key("a key of the tests, long enough for HS256")


@dataclass(slots=True)
class Switches:
    """What the provider does differently. All can be set over HTTP, by name.

    Attributes:
        lifetime: Seconds of access tokens.
        expires_in: What is told of that: `number`, `text`, `absent`.
        refresh: Whether refresh tokens are issued.
        rotates: Whether each can be used once.
        token_form: `opaque` or `jwt`.
        answer: Form of the token answer: `json`, `form`, `html`, `github` (200 with `error`),
            `slack` (nested).
        iss: `right`, `wrong` or `missing` in authorization responses.
        tells_iss: Whether the metadata claims to send it.
        pkce: Whether the metadata names S256.
        consent: `auto`, or `page` with two buttons.
        login: Who signs in with `auto`.
        status: Status of all answers of the token endpoint; 0 for the right one.
        delay: Seconds before answers of the token endpoint.
        metadata: `oauth`, `openid` only, `none`, `huge`, `wrong_issuer`, `redirect` or `slow`.
        registers: Whether clients can register.
        documents: Whether client ids may be URLs of metadata documents.
        revokes: Whether there is a revocation endpoint.
        exchanges: Whether assertions about users are exchanged (RFC 8693).
        methods: How clients may authenticate, as the metadata tells.
    """

    lifetime: int = 3600
    expires_in: str = "number"
    refresh: bool = True
    rotates: bool = True
    token_form: str = "opaque"
    answer: str = "json"
    iss: str = "right"
    tells_iss: bool = True
    pkce: bool = True
    consent: str = "auto"
    login: str = "ada"
    status: int = 0
    delay: float = 0.0
    metadata: str = "oauth"
    registers: bool = True
    documents: bool = False
    revokes: bool = True
    exchanges: bool = False
    methods: list[str] = field(default_factory=lambda: [*SECRET_METHODS])


@dataclass(slots=True)
class Client(ClientMixin):
    """A registered client."""

    id: str
    secret: str
    method: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    jwks: Any = None

    @override
    def get_client_id(self) -> str:
        return self.id

    @override
    def get_default_redirect_uri(self) -> str:
        return self.redirect_uris[0]

    @override
    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(one for one in (scope or "").split() if one in SCOPES)

    @override
    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.redirect_uris

    @override
    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.secret, client_secret)

    @override
    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.method

    @override
    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    @override
    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types


@dataclass(slots=True)
class Code:
    """An authorization code."""

    client_id: str
    user: str
    redirect_uri: str | None
    scope: str
    resource: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    expires_at: float

    def get_redirect_uri(self) -> str | None:
        """Return the redirect URI of the request."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """Return the granted scopes."""
        return self.scope


@dataclass(slots=True)
class Token(TokenMixin):
    """A pair of tokens."""

    access_token: str
    refresh_token: str | None
    client_id: str
    user: str
    scope: str
    resource: str | None
    family: str
    expires_at: float
    is_revoked: bool = False
    is_used: bool = False

    @override
    def check_client(self, client: Any) -> bool:
        return bool(self.client_id == client.get_client_id())

    @override
    def get_scope(self) -> str:
        return self.scope


class _Request(OAuth2Request):
    def __init__(self, method: str, uri: str, form: Mapping[str, str], headers: Any) -> None:
        super().__init__(method, uri, headers=headers)
        self._form = dict(form)
        self.payload = BasicOAuth2Payload(self._form)

    @property
    def args(self) -> dict[str, str]:
        return self._form

    @property
    def form(self) -> dict[str, str]:
        return self._form


@dataclass
class Provider:
    """The provider's state.

    Attributes:
        issuer: Its URL.
        counts: Of what happened: `authorize`, `token`, `refresh`, `reuse`, `revoke`, `register`,
            `unregister`.
        registrations: With what clients manage themselves, by client id.
        trusted: Keys of assertions, as a JWK set; without them none is exchanged.
        assertions: Ids of the assertions that clients have authenticated with.
        token_answers: Cleared, the token endpoint answers once it is set again.
    """

    issuer: str
    switches: Switches = field(default_factory=Switches)
    counts: Counter[str] = field(default_factory=Counter)
    clients: dict[str, Client] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    registrations: dict[str, str] = field(default_factory=dict)
    trusted: Any = None
    assertions: set[str] = field(default_factory=set)
    token_answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Build the server."""
        self.token_answers.set()
        self.server = _Server(self)

    def find(self, access_token: str) -> Token | None:
        """Return the usable pair with an access token."""
        for token in reversed(self.tokens):
            if token.access_token == access_token:
                is_usable = not token.is_revoked and token.expires_at > time.time()
                return token if is_usable else None
        return None

    def revoke_family(self, family: str) -> None:
        """Revoke all tokens that descend from one authorization."""
        for token in self.tokens:
            if token.family == family:
                token.is_revoked = True

    def forget_clients(self) -> None:
        """Lose all registrations."""
        self.clients.clear()

    def expire(self) -> None:
        """Let all access tokens expire now."""
        for token in self.tokens:
            token.expires_at = 0

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of RFC 8414."""
        said: dict[str, Any] = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "scopes_supported": SCOPES,
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": self.switches.methods,
        }
        switches = self.switches
        if switches.registers:
            said["registration_endpoint"] = f"{self.issuer}/register"
        if switches.revokes:
            said["revocation_endpoint"] = f"{self.issuer}/revoke"
        if switches.pkce:
            said["code_challenge_methods_supported"] = ["S256"]
        if switches.tells_iss:
            said["authorization_response_iss_parameter_supported"] = True
        if switches.exchanges:
            said["grant_types_supported"].append(TOKEN_EXCHANGE)
        if switches.documents:
            said["client_id_metadata_document_supported"] = True
        if switches.metadata == "wrong_issuer":
            said["issuer"] = "http://127.0.0.1:1/another"
        return said


class _Server(AuthorizationServer):
    def __init__(self, provider: Provider) -> None:
        super().__init__(SCOPES)
        self.provider = provider
        self.register_token_generator("default", self._generate)
        self.register_grant(_CodeGrant, [CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant)
        self.register_grant(grants.ClientCredentialsGrant)
        self.register_grant(_ExchangeGrant)
        self.register_client_auth_method("private_key_jwt", _ClientAssertion(provider))
        self.register_endpoint(_Registration)
        self.register_endpoint(_Revocation)

    @override
    def query_client(self, client_id: str) -> Client | None:
        return self.provider.clients.get(client_id)

    def _generate(
        self,
        grant_type: str,
        client: Client,
        user: str | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> dict[str, Any]:
        switches = self.provider.switches
        value = f"at_{secrets.token_urlsafe(24)}"
        if switches.token_form == "jwt":
            claims = {"sub": user or client.id, "jti": value, "iss": self.provider.issuer}
            value = jwt.encode({"alg": "HS256"}, claims, JWT_KEY)
        token: dict[str, Any] = {
            "token_type": "Bearer",
            "access_token": value,
            "expires_in": switches.lifetime,
            "scope": scope or "",
        }
        is_of_user = grant_type not in {"client_credentials", TOKEN_EXCHANGE}
        if include_refresh_token and switches.refresh and is_of_user:
            token["refresh_token"] = f"rt_{secrets.token_urlsafe(24)}"
        return token

    @override
    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        before = request.refresh_token or request.authorization_code
        family = before.family if isinstance(before, Token) else secrets.token_hex(8)
        resource = before.resource if before is not None else request.payload.data.get("resource")
        self.provider.tokens.append(
            Token(
                token["access_token"],
                token.get("refresh_token"),
                request.client.get_client_id(),
                str(request.user or request.client.get_client_id()),
                token["scope"],
                resource,
                family,
                time.time() + self.provider.switches.lifetime,
            )
        )

    @override
    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        return

    @override
    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        return _Request(*request)

    @override
    def create_json_request(self, request: Any) -> JsonRequest:
        method, uri, document, headers = request
        found = JsonRequest(method, uri, headers=headers)
        found.payload = BasicOAuth2Payload(document)
        return found

    @override
    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, Any]:
        return status, body, headers


class _ClientAssertion(JWTBearerClientAssertion):
    """Takes assertions (RFC 7523) that a client signed for this provider, each once."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, provider: Provider) -> None:
        super().__init__(leeway=5)
        self._provider = provider

    @override
    def get_audiences(self) -> list[str]:
        return [self._provider.issuer, f"{self._provider.issuer}/token"]

    @override
    def verify_claims(self, claims: Any) -> None:
        super().verify_claims(claims)
        if claims["exp"] > time.time() + LONGEST_ASSERTION_SECONDS:
            raise InvalidClientError(description="The assertion is valid for too long.")

    @override
    def validate_jti(self, claims: Any, jti: str) -> bool:
        is_new = jti not in self._provider.assertions
        self._provider.assertions.add(jti)
        return is_new

    @override
    def resolve_client_public_key(self, client: Client) -> KeySet:
        if client.jwks is None:
            raise InvalidClientError(description="The client has no keys.")
        return KeySet.import_key_set(client.jwks)


class _CodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    @override
    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        said = request.payload.data
        self.server.provider.codes[code] = Code(
            request.client.get_client_id(),
            str(request.user),
            said.get("redirect_uri"),
            request.scope or "",
            said.get("resource"),
            said.get("code_challenge"),
            said.get("code_challenge_method"),
            time.time() + CODE_SECONDS,
        )

    @override
    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        found = self.server.provider.codes.get(code)
        is_usable = found is not None and found.client_id == client.id
        if not is_usable or found is None or found.expires_at <= time.time():
            return None
        if found.resource != self.request.form.get("resource"):
            raise InvalidGrantError("The resource is not the one that was authorised.")
        return found

    @override
    def delete_authorization_code(self, authorization_code: Code) -> None:
        codes = self.server.provider.codes
        for code in [code for code, kept in codes.items() if kept is authorization_code]:
            del codes[code]

    @override
    def authenticate_user(self, authorization_code: Code) -> str:
        return authorization_code.user


class _RefreshGrant(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:  # noqa: N802 - authlib's name
        return bool(self.server.provider.switches.rotates)

    @override
    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        provider = self.server.provider
        provider.counts["refresh"] += 1
        for token in provider.tokens:
            if token.refresh_token != refresh_token:
                continue
            if token.is_used and provider.switches.rotates:
                provider.counts["reuse"] += 1
                provider.revoke_family(token.family)
                return None
            return None if token.is_revoked else token
        return None

    @override
    def authenticate_user(self, refresh_token: Token) -> str:
        return refresh_token.user

    @override
    def revoke_old_credential(self, refresh_token: Token) -> None:
        refresh_token.is_used = True


class _ExchangeGrant(BaseGrant, TokenEndpointMixin):
    GRANT_TYPE = TOKEN_EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    @override
    def validate_token_request(self) -> None:
        provider, form = self.server.provider, self.request.form
        client = self.authenticate_token_endpoint_client()
        if not provider.switches.exchanges:
            raise UnsupportedGrantTypeError(TOKEN_EXCHANGE)
        if not client.check_grant_type(TOKEN_EXCHANGE):
            raise UnauthorizedClientError
        if form.get("subject_token_type") != JWT_TYPE or provider.trusted is None:
            raise InvalidRequestError("The subject token is of no known type.")
        keys = KeySet.import_key_set(provider.trusted)
        try:
            token = jwt.decode(form.get("subject_token", ""), keys, algorithms=["RS256"])
            rules = jwt.JWTClaimsRegistry(
                aud={"essential": True, "values": [provider.issuer, f"{provider.issuer}/token"]},
                exp={"essential": True},
                sub={"essential": True},
            )
            rules.validate(token.claims)
        except JoseError as error:
            raise InvalidRequestError(f"The subject token is refused: {error}") from None
        self.request.client, self.request.user = client, token.claims["preferred_username"]

    @override
    def create_token_response(self) -> tuple[int, Any, Any]:
        scope = self.request.form.get("scope")
        token = self.generate_token(user=self.request.user, scope=scope)
        self.save_token(token)
        issued = "urn:ietf:params:oauth:token-type:access_token"
        return 200, {**token, "issued_token_type": issued}, self.TOKEN_RESPONSE_HEADER


class _Registration(ClientRegistrationEndpoint):
    @override
    def authenticate_token(self, request: Any) -> str:
        return "anyone"

    @override
    def get_server_metadata(self) -> dict[str, Any]:
        return dict(self.server.provider.metadata())

    @override
    def save_client(
        self, client_info: dict[str, Any], client_metadata: dict[str, Any], request: Any
    ) -> Client:
        provider = self.server.provider
        provider.counts["register"] += 1
        client = Client(
            client_info["client_id"],
            client_info["client_secret"],
            client_metadata.get("token_endpoint_auth_method", "client_secret_basic"),
            tuple(client_metadata.get("redirect_uris", ())),
            tuple(client_metadata.get("grant_types", ("authorization_code",))),
            client_metadata.get("jwks"),
        )
        if not client.redirect_uris:
            raise InvalidRequestError("redirect_uris is missing.")
        provider.clients[client.id] = client
        return client


class _Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    @override
    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        for token in self.server.provider.tokens:
            if token_string in {token.access_token, token.refresh_token}:
                return token
        return None

    @override
    def revoke_token(self, token: Token, request: Any) -> None:
        provider = self.server.provider
        provider.counts["revoke"] += 1
        if request.form["token"] == token.refresh_token:
            provider.revoke_family(token.family)
        else:
            token.is_revoked = True


__all__ = ["OAuth2Error", "Provider", "Switches", "Token"]
