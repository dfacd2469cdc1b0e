"""Discovery of the authorization server of an MCP server.

The metadata of the protected resource (RFC 9728) names the authorization server, whose own
metadata (RFC 8414, OpenID Connect Discovery) names its endpoints. Both are hostile input: an
authorization server is used only if its metadata names the issuer that was asked for.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import urlsplit

from registry.core.json import JsonObject
from registry.upstream.client import ACCEPT_BOTH
from registry.upstream.errors import UnsafeAddressError, UpstreamError
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.authorization import S256, check_response_issuer
from registry.upstream.oauth.challenges import challenge_of
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    OAuthError,
    OAuthMetadataError,
)
from registry.upstream.oauth.http import OAuthHttp, origin_of
from registry.upstream.oauth.values import (
    AuthorizationServer,
    Challenge,
    ClientAuthentication,
    ProtectedResource,
)

RESOURCE_METADATA = "/.well-known/oauth-protected-resource"
SERVER_METADATA = "/.well-known/oauth-authorization-server"
OPENID_METADATA = "/.well-known/openid-configuration"
MAX_METADATA_BYTES = 64 * 1024
MAX_ISSUERS = 10
MAX_TRIED_ISSUERS = 3
ISSUER_SECONDS = 3.0
"""How long an authorization server may take while there are others to try."""

OK = 200
CHALLENGES = frozenset({401, 403})

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
ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "registration_endpoint",
    "revocation_endpoint",
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
        self,
        url: str,
        configured: JsonObject,
        known: JsonObject | None,
        issuer: str | None = None,
        *,
        without: Collection[str] = (),
    ) -> Discovered:
        """Return the authorization server of the MCP server at *url*.

        Of several that it names, the first whose metadata can be used.

        Args:
            url: Of the MCP server.
            configured: Its `config.oauth`; with `token_url` nothing is discovered.
            known: Its `config.oauthMetadata`, used instead of a discovery if *configured* is
                enough.
            issuer: The one to return if it is named, and no other: a flow began there.
            without: Issuers that are of no use, though their metadata can be read.

        Raises:
            UnsafeAddressError: A URL may not be contacted.
            AuthorizationServerUnavailableError: One did not answer, or failed.
            OAuthMetadataError: There is no usable metadata, or it contradicts itself.
        """
        async with self._http.bounded():
            by_hand = configured_server(configured)
            if by_hand is not None:
                await self._check(by_hand)
                return Discovered(_known_resource(url, known), by_hand)
            resource = await self.resource(url)
            if resource is None:
                origin = origin_of(url)
                found = await self._published(origin) or _default_server(origin)
                return Discovered(ProtectedResource(None), found)
            if not resource.authorization_servers:
                raise OAuthMetadataError("The server's metadata names no authorization server.")
            issuers = resource.authorization_servers
            same = [one for one in issuers if one.rstrip("/") == (issuer or "").rstrip("/")]
            useless = {one.rstrip("/") for one in without}
            others = issuers[:MAX_TRIED_ISSUERS]
            tried = same[:1] or [one for one in others if one.rstrip("/") not in useless]
            if not tried:
                raise OAuthMetadataError("The server's metadata names no other server.")
            return Discovered(resource, await self._first_usable(tried))

    async def _first_usable(self, issuers: Sequence[str]) -> AuthorizationServer:
        """Return the first authorization server that can be used.

        Raises:
            UpstreamError: None can; says why the first cannot.
        """
        *others, last = issuers
        failed: UpstreamError | None = None
        for issuer in others:
            try:
                async with asyncio.timeout(ISSUER_SECONDS):
                    return await self.of_issuer(issuer)
            except UpstreamError as exc:
                failed = failed or exc
            except TimeoutError:
                message = "The authorization server was not found in time."
                failed = failed or AuthorizationServerUnavailableError(message)
        try:
            return await self.of_issuer(last)
        except UpstreamError as exc:
            raise failed or exc from None

    async def resource(self, url: str) -> ProtectedResource | None:
        """Return the metadata of the MCP server at *url*; None if it publishes none.

        Raises:
            UnsafeAddressError: A URL may not be contacted.
            AuthorizationServerUnavailableError: It did not answer, or failed.
            OAuthMetadataError: It is of another resource.
        """
        async with self._http.bounded():
            challenge = await self._challenge(url)
            pointed = None if challenge is None else challenge.resource_metadata
            document = await self._document(
                [*([pointed] if pointed else []), *resource_metadata_urls(url)],
                _known_resource_members,
                lambda found: covers(str(found["resource"]), url),
            )
        if document is None:
            return None
        return ProtectedResource(
            str(document["resource"]),
            _texts(document.get("authorization_servers"))[:MAX_ISSUERS],
            _asked_scopes(challenge, document),
            document,
        )

    async def of_issuer(self, issuer: str) -> AuthorizationServer:
        """Return the authorization server *issuer*.

        Raises:
            UnsafeAddressError: It may not be contacted.
            AuthorizationServerUnavailableError: It did not answer, or failed.
            OAuthMetadataError: It publishes no metadata, or another issuer's.
        """
        async with self._http.bounded():
            found = await self._published(issuer)
        if found is None:
            raise OAuthMetadataError("The authorization server publishes no metadata.")
        return found

    async def check_response(self, server: AuthorizationServer, issuer: str | None) -> None:
        """Check the `iss` of an authorization response; see `check_response_issuer`.

        A configuration may name the authorization endpoint of one server and the token endpoint of
        another, which would get the code (mix-up, RFC 9700 4.4). So without metadata of its own, a
        server must be the one that the metadata of *issuer* describes.

        Raises:
            AuthorizationServerUnavailableError: That metadata cannot be read now.
            OAuthMetadataError: It comes from another server.
        """
        check_response_issuer(server, issuer)
        if server.issuer is not None or issuer is None:
            return
        ours = origin_of(server.token_endpoint)
        try:
            self._guard.check_syntax(issuer)
            if origin_of(issuer) == ours:
                return
            async with self._http.bounded():
                published = await self._published(issuer)
        except UnsafeAddressError as exc:
            raise OAuthMetadataError(f"The issuer {exc.message}.") from None
        if published is not None and origin_of(published.token_endpoint) != ours:
            raise OAuthMetadataError(
                "The authorization response comes from an issuer with another token endpoint than "
                "the one that is configured."
            )

    async def _published(self, issuer: str) -> AuthorizationServer | None:
        # Who can change the metadata on its way names the endpoint that gets codes and secrets.
        await self._http.require_tls(issuer)
        document = await self._document(
            server_metadata_urls(issuer),
            _known_server_members,
            lambda found: _is_same_issuer(str(found["issuer"]), issuer),
        )
        if document is None:
            return None
        server = server_of(document)
        await self._check(server)
        return server

    async def _challenge(self, url: str) -> Challenge | None:
        """Return the challenge with which the server answers a request without a token.

        Some servers have no GET, and say so before they ask for a token.
        """
        for method in ("GET", "POST"):
            answer = await self._http.probe(method, url, ACCEPT_BOTH)
            if answer.status in CHALLENGES:
                return challenge_of(answer.headers.get("www-authenticate"))
        return None

    async def _document(
        self, urls: Iterable[str], known: "Known", is_right: Callable[[JsonObject], bool]
    ) -> JsonObject | None:
        """Return the first document that can be used; None if there is none at any of *urls*.

        Raises:
            AuthorizationServerUnavailableError: Where the first was expected, nothing came.
            OAuthMetadataError: The first was not the right one.
        """
        failed: OAuthError | None = None
        for url in urls:
            try:
                document = await self._read(url, known)
                if document is None:
                    continue
                if is_right(document):
                    return document
                raise OAuthMetadataError("The metadata is of another resource or issuer.")
            except OAuthError as exc:
                # Servers that fail at one place may publish it at another.
                failed = failed or exc
        if failed is not None:
            raise failed
        return None

    async def _read(self, url: str, known: "Known") -> JsonObject | None:
        answer = await self._http.get(url, max_bytes=MAX_METADATA_BYTES)
        if answer.is_unavailable:
            raise AuthorizationServerUnavailableError(
                f"{origin_of(url)} answered HTTP {answer.status} instead of metadata."
            )
        return known(answer.document() or {}) if answer.status == OK else None

    async def _check(self, server: AuthorizationServer) -> None:
        """Judge the endpoints of a server; those of https without a look-up of names."""
        for name in ENDPOINTS:
            endpoint = server.document.get(name)
            if not isinstance(endpoint, str):
                continue
            try:
                self._guard.check_syntax(endpoint)
            except UnsafeAddressError as exc:
                raise OAuthMetadataError(f"Its {name} {exc.message}.") from None
            if not endpoint.isascii():
                raise OAuthMetadataError(f"Its {name} holds characters that no URL has.")
            await self._http.require_tls(endpoint)


def resource_metadata_urls(url: str) -> list[str]:
    """Return where the server at *url* may publish its metadata (RFC 9728, 3.1; MCP).

    The SDK has this too; to import it takes half a second and 13 MB of a serving process.
    """
    path = urlsplit(url).path
    # Servers differ in whether the slash at the end of a path counts.
    paths = dict.fromkeys(("" if path == "/" else path, path.rstrip("/"), ""))
    return [f"{origin_of(url)}{RESOURCE_METADATA}{one}" for one in paths]


def server_metadata_urls(issuer: str) -> list[str]:
    """Return where *issuer* may publish its metadata (RFC 8414, 3.1 and 5)."""
    origin, path = origin_of(issuer), urlsplit(issuer).path.rstrip("/")
    places = (f"{SERVER_METADATA}{path}", f"{OPENID_METADATA}{path}", f"{path}{OPENID_METADATA}")
    return [f"{origin}{place}" for place in dict.fromkeys(places)]


def covers(resource: str, url: str) -> bool:
    """Whether *resource* identifies the server at *url*: same origin, and the same path or above.

    Compared by whole segments of the path.
    """
    try:
        ours, theirs = urlsplit(url), urlsplit(resource)
        if "@" in theirs.netloc:
            return False
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
    # Nobody has proved that these belong to the token endpoint: assertions for the issuer must not
    # go there, and clients are remembered by it.
    for name in ("issuer", "registration_endpoint"):
        document.pop(name, None)
    document["token_endpoint"] = token_url
    if _is_text(page):
        document["authorization_endpoint"] = page
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


def _is_same_issuer(named: str, asked: str) -> bool:
    """Compare issuers as texts (RFC 8414, 3.3); the slash at the end of an origin may be left out.

    Many servers write it in one place only.
    """
    origin = origin_of(asked)
    return named == asked or {named, asked} == {origin, f"{origin}/"}


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


def _is_text(value: object) -> TypeGuard[str]:
    """Whether *value* is a text that is not empty, and can be stored and sent."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object) -> str | None:
    return value if _is_text(value) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(filter(_is_text, value)) if isinstance(value, list) else ()


def _optional(document: JsonObject, name: str) -> tuple[str, ...] | None:
    value = document.get(name)
    return _texts(value) if isinstance(value, list) else None
