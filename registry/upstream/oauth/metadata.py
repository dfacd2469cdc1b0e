"""Discovery of the authorization server of an MCP server.

The metadata of the protected resource (RFC 9728) names the authorization server, whose own
metadata (RFC 8414, OpenID Connect Discovery) names its endpoints. Both are hostile input: an
authorization server is used only if its metadata names the issuer that was asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry.core.json import JsonObject
from registry.upstream.client import ACCEPT_BOTH
from registry.upstream.errors import UnsafeAddressError
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.authorization import S256
from registry.upstream.oauth.challenges import challenge_of
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    OAuthMetadataError,
)
from registry.upstream.oauth.http import OAuthHttp, origin_of
from registry.upstream.oauth.values import (
    AuthorizationServer,
    Challenge,
    ClientAuthentication,
    ProtectedResource,
)

MAX_METADATA_BYTES = 64 * 1024
MAX_ISSUERS = 10
OK = 200
CHALLENGES = frozenset({401, 403})
SERVER_ERRORS = range(500, 600)

RESOURCE_TEXTS = ("resource", "resource_name", "resource_documentation", "jwks_uri")
RESOURCE_LISTS = ("authorization_servers", "scopes_supported", "bearer_methods_supported")
SERVER_TEXTS = (
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "registration_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "userinfo_endpoint",
    "jwks_uri",
    "service_documentation",
    "op_policy_uri",
    "op_tos_uri",
)
SERVER_LISTS = (
    "scopes_supported",
    "response_types_supported",
    "response_modes_supported",
    "grant_types_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
    "revocation_endpoint_auth_methods_supported",
    "code_challenge_methods_supported",
    "subject_types_supported",
    "id_token_signing_alg_values_supported",
)
SERVER_FLAGS = (
    "authorization_response_iss_parameter_supported",
    "client_id_metadata_document_supported",
)


@dataclass(frozen=True, slots=True)
class Discovered:
    """Result of a discovery."""

    resource: ProtectedResource
    server: AuthorizationServer


class OAuthDiscovery:
    """Finds authorization servers.

    Args:
        http: Sends the requests.
        guard: Says which URLs may be contacted.
    """

    def __init__(self, http: OAuthHttp, guard: UrlGuard) -> None:
        self._http = http
        self._guard = guard

    async def of_server(
        self, url: str, configured: JsonObject, known: JsonObject | None
    ) -> Discovered:
        """Return the authorization server of the MCP server at *url*.

        Args:
            url: Of the MCP server.
            configured: Its `config.oauth`; with `token_url` nothing is discovered.
            known: Its `config.oauthMetadata`, used instead of a discovery if *configured* is
                enough.

        Raises:
            UnsafeAddressError: A URL may not be contacted.
            AuthorizationServerUnavailableError: One did not answer, or failed.
            OAuthMetadataError: There is no usable metadata, or it contradicts itself.
        """
        by_hand = configured_server(configured)
        if by_hand is not None:
            return Discovered(_known_resource(url, known), by_hand)
        resource = await self.resource(url)
        if resource is None:
            origin = origin_of(url)
            return Discovered(
                ProtectedResource(None),
                await self._published(origin) or _default_server(origin),
            )
        if not resource.authorization_servers:
            raise OAuthMetadataError("The server's metadata names no authorization server.")
        return Discovered(resource, await self.of_issuer(resource.authorization_servers[0]))

    async def resource(self, url: str) -> ProtectedResource | None:
        """Return the metadata of the MCP server at *url*; None if it publishes none.

        Raises:
            UnsafeAddressError: A URL may not be contacted.
            AuthorizationServerUnavailableError: It did not answer, or failed.
            OAuthMetadataError: It is of another resource.
        """
        from mcp.client.auth.utils import (  # noqa: PLC0415 - takes long to load
            build_protected_resource_metadata_discovery_urls,
        )

        challenge = await self._challenge(url)
        pointed = None if challenge is None else challenge.resource_metadata
        for candidate in build_protected_resource_metadata_discovery_urls(pointed, url):
            document = await self._document(candidate, _known_resource_members)
            if document is None:
                continue
            resource = str(document["resource"])
            if not covers(resource, url):
                raise OAuthMetadataError("The metadata is of another resource.")
            return ProtectedResource(
                resource,
                _texts(document.get("authorization_servers"))[:MAX_ISSUERS],
                _asked_scopes(challenge, document),
                document,
            )
        return None

    async def of_issuer(self, issuer: str) -> AuthorizationServer:
        """Return the authorization server *issuer*.

        Raises:
            UnsafeAddressError: It may not be contacted.
            AuthorizationServerUnavailableError: It did not answer, or failed.
            OAuthMetadataError: It publishes no metadata, or another issuer's.
        """
        found = await self._published(issuer)
        if found is None:
            raise OAuthMetadataError("The authorization server publishes no metadata.")
        return found

    async def _published(self, issuer: str) -> AuthorizationServer | None:
        from mcp.client.auth.utils import (  # noqa: PLC0415 - takes long to load
            build_oauth_authorization_server_metadata_discovery_urls,
            issuers_match,
        )

        for candidate in build_oauth_authorization_server_metadata_discovery_urls(issuer, issuer):
            document = await self._document(candidate, _known_server_members)
            if document is None:
                continue
            if not issuers_match(str(document["issuer"]), issuer):
                raise OAuthMetadataError("The metadata is of another issuer.")
            return self._server(document)
        return None

    async def _challenge(self, url: str) -> Challenge | None:
        """Return the challenge with which the server answers a request without a token."""
        answer = await self._http.get(url, accept=ACCEPT_BOTH)
        if answer.status not in CHALLENGES:
            return None
        return challenge_of(answer.headers.get("www-authenticate"))

    async def _document(self, url: str, known: "Known") -> JsonObject | None:
        answer = await self._http.get(url, max_bytes=MAX_METADATA_BYTES)
        if answer.status in SERVER_ERRORS:
            raise AuthorizationServerUnavailableError(
                f"{origin_of(url)} answered HTTP {answer.status} instead of metadata."
            )
        if answer.status != OK:
            return None
        return known(answer.document() or {})

    def _server(self, document: JsonObject) -> AuthorizationServer:
        for name in ("authorization_endpoint", "token_endpoint", "registration_endpoint"):
            endpoint = document.get(name)
            if isinstance(endpoint, str):
                try:
                    self._guard.check_syntax(endpoint)
                except UnsafeAddressError as exc:
                    raise OAuthMetadataError(f"Its {name} {exc.message}.") from None
        return server_of(document)


def covers(resource: str, url: str) -> bool:
    """Whether *resource* identifies the server at *url*: same origin, and the same path or above.

    Compared by whole segments of the path.
    """
    try:
        ours, theirs = urlsplit(url), urlsplit(resource)
        same_place = (ours.scheme, ours.hostname, ours.port or _port(ours.scheme)) == (
            theirs.scheme,
            theirs.hostname,
            theirs.port or _port(theirs.scheme),
        )
    except ValueError:
        return False
    path = theirs.path.rstrip("/") + "/"
    return same_place and (ours.path.rstrip("/") + "/").startswith(path)


def configured_server(configured: JsonObject) -> AuthorizationServer | None:
    """Return the authorization server that is configured by hand; None if there is none."""
    token_url, page = configured.get("token_url"), configured.get("authorization_url")
    if not isinstance(token_url, str) or not token_url:
        return None
    document: JsonObject = {
        name: value
        for name in (*SERVER_TEXTS, *SERVER_LISTS)
        if _is_text(value := configured.get(name)) or isinstance(value, list)
    }
    document["token_endpoint"] = token_url
    if _is_text(page):
        document["authorization_endpoint"] = str(page)
    # What jarvis-api assumes of servers that are configured by hand.
    document.setdefault("code_challenge_methods_supported", [S256])
    document.setdefault(
        "token_endpoint_auth_methods_supported", [ClientAuthentication.CLIENT_SECRET_POST.value]
    )
    return server_of(document)


def configured_authentication(configured: JsonObject) -> ClientAuthentication | None:
    """Return how a configured client must authenticate; None if the configuration leaves it."""
    match configured.get("token_exchange_method"):
        case "basic_auth_header":
            return ClientAuthentication.CLIENT_SECRET_BASIC
        case "default_post":
            return ClientAuthentication.CLIENT_SECRET_POST
        case _:
            return None


def server_of(document: JsonObject) -> AuthorizationServer:
    """Return the authorization server of metadata, cut to its known members before."""
    return AuthorizationServer(
        issuer=_text(document.get("issuer")),
        authorization_endpoint=_text(document.get("authorization_endpoint")),
        token_endpoint=str(document["token_endpoint"]),
        registration_endpoint=_text(document.get("registration_endpoint")),
        revocation_endpoint=_text(document.get("revocation_endpoint")),
        scopes_supported=_optional(document, "scopes_supported"),
        code_challenge_methods=_optional(document, "code_challenge_methods_supported"),
        token_authentications=_optional(document, "token_endpoint_auth_methods_supported"),
        revocation_authentications=_optional(
            document, "revocation_endpoint_auth_methods_supported"
        ),
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        accepts_metadata_documents=document.get("client_id_metadata_document_supported") is True,
        document=document,
    )


class Known:
    """Cuts a document to the members that are known, in the shapes that they must have.

    Args:
        required: Texts without which it is no such document.
        texts: Members that are texts.
        lists: Members that are lists of texts.
        flags: Members that are true or false.
    """

    def __init__(
        self,
        required: Iterable[str],
        texts: Iterable[str],
        lists: Iterable[str],
        flags: Iterable[str] = (),
    ) -> None:
        self._required = tuple(required)
        self._texts = tuple(texts)
        self._lists = tuple(lists)
        self._flags = tuple(flags)

    def __call__(self, document: JsonObject) -> JsonObject | None:
        """Return the known members; None if a required one is missing."""
        if not all(_is_text(document.get(name)) for name in self._required):
            return None
        known: JsonObject = {
            name: document[name] for name in self._texts if _is_text(document.get(name))
        }
        for name in self._lists:
            if isinstance(document.get(name), list):
                known[name] = [*_texts(document[name])]
        for name in self._flags:
            if isinstance(document.get(name), bool):
                known[name] = document[name]
        return known


_known_resource_members = Known(("resource",), RESOURCE_TEXTS, RESOURCE_LISTS)
_known_server_members = Known(
    ("issuer", "token_endpoint"), SERVER_TEXTS, SERVER_LISTS, SERVER_FLAGS
)


def _default_server(origin: str) -> AuthorizationServer:
    """Return the endpoints of servers without metadata (MCP 2025-03-26)."""
    return server_of(
        {
            "issuer": origin,
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "registration_endpoint": f"{origin}/register",
            "code_challenge_methods_supported": [S256],
        }
    )


def _known_resource(url: str, known: JsonObject | None) -> ProtectedResource:
    document = _known_resource_members(known or {})
    if document is None or not covers(str(document["resource"]), url):
        return ProtectedResource(None)
    return ProtectedResource(
        str(document["resource"]),
        _texts(document.get("authorization_servers")),
        _optional(document, "scopes_supported"),
        document,
    )


def _asked_scopes(challenge: Challenge | None, document: JsonObject) -> tuple[str, ...] | None:
    if challenge is not None and challenge.scopes is not None:
        return challenge.scopes
    return _optional(document, "scopes_supported")


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _optional(document: JsonObject, name: str) -> tuple[str, ...] | None:
    value = document.get(name)
    return _texts(value) if isinstance(value, list) else None
