"""Metadata is found where servers publish it, and used only if it is theirs."""

import asyncio
from typing import Any

import bson
import pytest
from aiohttp import web

from registry.core.json import JsonObject
from registry.upstream.errors import UnsafeAddressError
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    OAuthMetadataError,
)
from registry.upstream.oauth.http import OAuthHttp, oauth_http
from registry.upstream.oauth.metadata import (
    RESOURCE_LISTS,
    RESOURCE_TEXTS,
    SERVER_FLAGS,
    SERVER_LISTS,
    SERVER_TEXTS,
    Discovered,
    OAuthDiscovery,
    configured_authentication,
    configured_server,
    covers,
)
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ProtectedResource,
)
from tests.fakes.oauth.documents import Documents
from tests.fakes.upstreams import Handler, hangs, streams_for_ever
from tests.upstream.oauth.conftest import GUARD

WELL_KNOWN = "/.well-known/oauth-protected-resource"
AS_WELL_KNOWN = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
ALL_MEMBERS = (*SERVER_TEXTS, *SERVER_LISTS, *SERVER_FLAGS, *RESOURCE_TEXTS, *RESOURCE_LISTS)
PUBLIC = UrlGuard(())


@pytest.fixture
def discovery(http: OAuthHttp) -> OAuthDiscovery:
    return OAuthDiscovery(http, GUARD)


def challenging(challenge: str, *methods: str) -> Handler:
    """Return a server that wants a token of requests by these methods, or of all."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if methods and request.method not in methods:
            return web.Response(status=405)
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    return handler


def resource_of(host: Documents, issuer: str, **more: object) -> dict[str, Any]:
    return {"resource": f"{host.url}/mcp", "authorization_servers": [issuer], **more}


def server_of(issuer: str, **more: object) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "code_challenge_methods_supported": ["S256"],
        **more,
    }


async def found_of(discovery: OAuthDiscovery, host: Documents, path: str = "/mcp") -> Discovered:
    return await discovery.of_server(f"{host.url}{path}", {}, None)


async def test_the_metadata_that_a_challenge_names_is_followed(
    discovery: OAuthDiscovery, host: Documents, other_host: Documents
) -> None:
    issuer = other_host.url
    host.answers = {
        "/mcp": challenging(f'Bearer scope="a b", resource_metadata="{host.url}/there"'),
        "/there": resource_of(host, issuer, scopes_supported=["c"]),
    }
    other_host.answers = {AS_WELL_KNOWN: server_of(issuer, revocation_endpoint=f"{issuer}/gone")}

    found = await found_of(discovery, host)

    assert found.resource == ProtectedResource(
        f"{host.url}/mcp", (issuer,), ("a", "b"), resource_of(host, issuer, scopes_supported=["c"])
    )
    assert found.server == AuthorizationServer(
        issuer=issuer,
        authorization_endpoint=f"{issuer}/authorize",
        token_endpoint=f"{issuer}/token",
        revocation_endpoint=f"{issuer}/gone",
        code_challenge_methods=("S256",),
        document=server_of(issuer, revocation_endpoint=f"{issuer}/gone"),
    )
    assert host.seen == ["GET /mcp", "GET /there"]


@pytest.mark.parametrize("unusable", [404, 503, "another issuer"])
async def test_of_several_authorization_servers_the_first_that_can_be_used_is(
    discovery: OAuthDiscovery, host: Documents, other_host: Documents, unusable: int | str
) -> None:
    first, second = f"{host.url}/first", other_host.url
    there = server_of("https://elsewhere.test") if isinstance(unusable, str) else unusable
    named = resource_of(host, first)
    host.answers = {
        f"{WELL_KNOWN}/mcp": {**named, "authorization_servers": [first, second]},
        f"{AS_WELL_KNOWN}/first": there,
    }
    other_host.answers = {AS_WELL_KNOWN: server_of(second)}

    assert (await found_of(discovery, host)).server.issuer == second

    host.answers[f"{AS_WELL_KNOWN}/first"] = server_of(first)
    assert (await found_of(discovery, host)).server.issuer == first
    # A flow goes on where it began, though the first is back.
    began = await discovery.of_server(f"{host.url}/mcp", {}, None, second)
    assert began.server.issuer == second
    # And nowhere else.
    other_host.answers = {}
    with pytest.raises(OAuthMetadataError):
        await discovery.of_server(f"{host.url}/mcp", {}, None, second)


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("/mcp", [f"{WELL_KNOWN}/mcp", WELL_KNOWN]),
        ("/mcp/", [f"{WELL_KNOWN}/mcp/", f"{WELL_KNOWN}/mcp", WELL_KNOWN]),
        ("/a/mcp?x=1", [f"{WELL_KNOWN}/a/mcp", WELL_KNOWN]),
        ("/", [WELL_KNOWN]),
    ],
)
async def test_without_a_challenge_metadata_is_looked_for_at_the_well_known_places(
    discovery: OAuthDiscovery, host: Documents, path: str, places: list[str]
) -> None:
    assert await discovery.resource(f"{host.url}{path}") is None

    asked = [f"GET {path}", f"POST {path}"]
    assert host.seen == [*asked, *(f"GET {place}" for place in places)]


async def test_a_server_without_get_is_asked_by_post(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    host.answers = {
        "/mcp": challenging(f'Bearer resource_metadata="{host.url}/there"', "POST"),
        "/there": resource_of(host, host.url),
    }

    found = await discovery.resource(f"{host.url}/mcp")

    assert found is not None
    assert host.seen == ["GET /mcp", "POST /mcp", "GET /there"]
    assert host.bodies == ["", "{}", ""]


async def test_a_challenge_in_the_second_of_two_headers_is_found(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        answer = web.Response(status=401)
        answer.headers.add("WWW-Authenticate", 'Basic realm="x"')
        answer.headers.add("WWW-Authenticate", f'Bearer resource_metadata="{host.url}/there"')
        return answer

    host.answers = {"/mcp": handler, "/there": resource_of(host, host.url)}

    assert await discovery.resource(f"{host.url}/mcp") is not None


async def test_a_server_that_answers_an_event_stream_without_an_end_is_not_waited_for(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    host.answers = {"/mcp": streams_for_ever, WELL_KNOWN: resource_of(host, host.url)}

    async with asyncio.timeout(30):
        assert await discovery.resource(f"{host.url}/mcp") is not None


async def test_metadata_is_cut_to_what_is_known_in_the_shapes_it_must_have(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    host.answers[WELL_KNOWN] = resource_of(
        host,
        host.url,
        scopes_supported="read",
        bearer_methods_supported=["header", 7, "", "\ud800"],
        resource_name="\ud800",
        jwks_uri=7,
        evil={"$where": "1"},
    )

    found = await discovery.resource(f"{host.url}/mcp")

    assert found is not None
    assert found.document == {
        **resource_of(host, host.url),
        "bearer_methods_supported": ["header"],
    }
    assert found.scopes is None


@pytest.mark.parametrize(
    "answer", [500, 429, 200, 302, "<html>", [], "null", b"\xff", {"resource": ""}, b"[" * 50_000]
)
async def test_a_place_without_metadata_leads_to_the_next(
    discovery: OAuthDiscovery, host: Documents, answer: Any
) -> None:
    host.answers = {f"{WELL_KNOWN}/mcp": answer, WELL_KNOWN: resource_of(host, host.url)}

    assert await discovery.resource(f"{host.url}/mcp") is not None


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_failure_is_not_taken_for_a_server_without_metadata(
    discovery: OAuthDiscovery, host: Documents, status: int
) -> None:
    host.answers[f"{WELL_KNOWN}/mcp"] = status

    with pytest.raises(AuthorizationServerUnavailableError):
        await found_of(discovery, host)


async def test_metadata_of_a_resource_at_another_origin_is_refused(
    discovery: OAuthDiscovery, host: Documents, other_host: Documents
) -> None:
    host.answers = {
        "/mcp": challenging(f'Bearer resource_metadata="{other_host.url}/there"'),
    }
    other_host.answers = {"/there": resource_of(other_host, other_host.url)}

    with pytest.raises(OAuthMetadataError, match="another resource"):
        await found_of(discovery, host)

    assert other_host.seen == ["GET /there"]


async def test_metadata_at_another_origin_is_used_if_it_is_of_the_server(
    discovery: OAuthDiscovery, host: Documents, other_host: Documents
) -> None:
    host.answers = {
        "/mcp": challenging(f'Bearer resource_metadata="{other_host.url}/there"'),
    }
    other_host.answers = {
        "/there": resource_of(host, other_host.url),
        AS_WELL_KNOWN: server_of(other_host.url),
    }

    found = await found_of(discovery, host)

    assert found.resource.resource == f"{host.url}/mcp"


@pytest.mark.parametrize(
    "value",
    [None, 0, 1.5, True, "", "\x00", "\ud800", [], [1], ["a", 1], [["a"]], {}, {"$a": 1}],
    ids=repr,
)
async def test_odd_values_of_members_are_left_out_and_can_be_stored(
    discovery: OAuthDiscovery, host: Documents, value: Any
) -> None:
    odd = dict.fromkeys(ALL_MEMBERS, value)
    named = {"resource": host.url, "authorization_servers": [host.url]}
    host.answers = {
        WELL_KNOWN: {**odd, **named},
        AS_WELL_KNOWN: {
            **odd,
            **server_of(host.url),
            "registration_endpoint": 7,
            "revocation_endpoint": 7,
        },
    }

    found = await found_of(discovery, host)

    assert found.server.issuer == host.url
    assert bson.encode(found.resource.document)
    assert bson.encode(found.server.document)


@pytest.mark.parametrize(
    ("resource", "url", "expected"),
    [
        ("https://a.test/mcp", "https://a.test/mcp", True),
        ("https://a.test/mcp/", "https://a.test/mcp", True),
        ("https://a.test/mcp", "https://a.test/mcp/", True),
        ("https://a.test", "https://a.test/mcp", True),
        ("https://A.test:443/", "https://a.test/mcp", True),
        ("https://a.test/mcp", "https://a.test/mcp/tools?x=1", True),
        ("https://a.test/mcp", "https://a.test/mcp2", False),
        ("https://a.test/mcp/tools", "https://a.test/mcp", False),
        ("http://a.test/mcp", "https://a.test/mcp", False),
        ("https://a.test:8443/mcp", "https://a.test/mcp", False),
        ("https://b.test/mcp", "https://a.test/mcp", False),
        ("https://a.test.evil.test/mcp", "https://a.test/mcp", False),
        ("https://a.test@evil.test/mcp", "https://a.test/mcp", False),
        ("https://evil.test@a.test/mcp", "https://a.test/mcp", False),
        ("urn:a", "https://a.test/mcp", False),
        ("https://[", "https://a.test/mcp", False),
        ("https://a.test:x/mcp", "https://a.test/mcp", False),
        ("", "https://a.test/mcp", False),
    ],
)
def test_a_resource_covers_what_is_below_it(resource: str, url: str, *, expected: bool) -> None:
    assert covers(resource, url) is expected


@pytest.mark.parametrize("issuers", [[], [7], "text", None])
async def test_metadata_without_an_authorization_server_is_refused(
    discovery: OAuthDiscovery, host: Documents, issuers: object
) -> None:
    host.answers[WELL_KNOWN] = {"resource": host.url, "authorization_servers": issuers}

    with pytest.raises(OAuthMetadataError, match="names no authorization server"):
        await found_of(discovery, host)


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("", [AS_WELL_KNOWN, OPENID]),
        ("/", [AS_WELL_KNOWN, OPENID]),
        ("/one", [f"{AS_WELL_KNOWN}/one", f"{OPENID}/one", f"/one{OPENID}"]),
        ("/one/two/", [f"{AS_WELL_KNOWN}/one/two", f"{OPENID}/one/two", f"/one/two{OPENID}"]),
    ],
)
async def test_issuers_are_looked_for_at_all_their_places(
    discovery: OAuthDiscovery, host: Documents, path: str, places: list[str]
) -> None:
    issuer = f"{host.url}{path}"

    with pytest.raises(OAuthMetadataError, match="publishes no metadata"):
        await discovery.of_issuer(issuer)
    assert host.seen == [f"GET {place}" for place in places]

    host.answers[places[-1]] = server_of(issuer)
    assert (await discovery.of_issuer(issuer)).issuer == issuer


@pytest.mark.parametrize("named", ["https://as.example.com", "{}/other", "{}x", "", "https://["])
async def test_metadata_of_another_issuer_is_refused(
    discovery: OAuthDiscovery, host: Documents, named: str
) -> None:
    issuer = f"{host.url}/one"
    host.answers[f"{AS_WELL_KNOWN}/one"] = server_of(named.format(issuer))

    with pytest.raises(OAuthMetadataError):
        await discovery.of_issuer(issuer)


async def test_a_host_that_answers_every_path_does_not_hide_the_right_metadata(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    issuer = f"{host.url}/one"
    host.answers = {
        f"{AS_WELL_KNOWN}/one": server_of(host.url),
        f"/one{OPENID}": server_of(issuer),
    }

    assert (await discovery.of_issuer(issuer)).issuer == issuer


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_slash_at_the_end_of_a_root_does_not_count(
    discovery: OAuthDiscovery, host: Documents, slash: str
) -> None:
    host.answers[AS_WELL_KNOWN] = server_of(f"{host.url}/")

    assert (await discovery.of_issuer(f"{host.url}{slash}")).issuer == f"{host.url}/"


@pytest.mark.parametrize(
    "issuer",
    ["", "as", "file:///etc/passwd", "javascript:alert(1)", "https://[", "https://a@b.test"],
)
async def test_an_issuer_that_is_no_url_is_refused(
    discovery: OAuthDiscovery, host: Documents, issuer: str
) -> None:
    host.answers[WELL_KNOWN] = resource_of(host, issuer or "x")

    with pytest.raises(UnsafeAddressError):
        await found_of(discovery, host)


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "registration_endpoint"]
)
@pytest.mark.parametrize(
    "endpoint",
    [
        *("javascript:alert(1)", "/relative", "file:///etc", "https://a@b.test/", "https://["),
        *("http://8.8.8.8/x", "https://\u0430s.test/", "https://as.test/\u202e"),
    ],
)
async def test_endpoints_that_no_one_should_be_sent_to_are_refused(
    discovery: OAuthDiscovery, host: Documents, name: str, endpoint: str
) -> None:
    host.answers[AS_WELL_KNOWN] = server_of(host.url, **{name: endpoint})

    with pytest.raises(OAuthMetadataError):
        await discovery.of_issuer(host.url)


async def test_an_issuer_at_a_public_address_must_be_reached_by_https(http: OAuthHttp) -> None:
    with pytest.raises(OAuthMetadataError, match="by https"):
        await OAuthDiscovery(http, PUBLIC).of_issuer("http://8.8.8.8")


async def test_a_server_without_metadata_has_the_endpoints_of_the_first_specification(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    found = await found_of(discovery, host)

    assert found.resource == ProtectedResource(None)
    assert found.server.issuer == host.url
    assert found.server.authorization_endpoint == f"{host.url}/authorize"
    assert found.server.token_endpoint == f"{host.url}/token"
    assert found.server.registration_endpoint == f"{host.url}/register"


async def test_a_server_may_be_its_own_authorization_server(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    host.answers[AS_WELL_KNOWN] = server_of(host.url, token_endpoint=f"{host.url}/elsewhere")

    found = await found_of(discovery, host)

    assert found.server.token_endpoint == f"{host.url}/elsewhere"


async def test_a_configured_authorization_server_is_not_asked_for_anything(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    configured: JsonObject = {
        "authorization_url": "https://as.test/authorize?audience=x",
        "token_url": "https://as.test/token",
        "revocation_endpoint": "https://as.test/revoke",
        "grant_types_supported": ["client_credentials"],
        "client_id": "c",
    }
    known: JsonObject = {"resource": f"{host.url}/mcp", "scopes_supported": ["read"]}

    found = await discovery.of_server(f"{host.url}/mcp", configured, known)

    assert host.seen == []
    assert found.resource == ProtectedResource(f"{host.url}/mcp", (), ("read",), known)
    assert found.server == AuthorizationServer(
        issuer=None,
        authorization_endpoint="https://as.test/authorize?audience=x",
        token_endpoint="https://as.test/token",
        revocation_endpoint="https://as.test/revoke",
        code_challenge_methods=("S256",),
        token_authentications=("client_secret_post",),
        document={
            "authorization_endpoint": "https://as.test/authorize?audience=x",
            "token_endpoint": "https://as.test/token",
            "revocation_endpoint": "https://as.test/revoke",
            "grant_types_supported": ["client_credentials"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        },
    )


@pytest.mark.parametrize(
    "configured",
    [
        {"token_url": "https://as.test/token", "authorization_url": "javascript:alert(1)"},
        {"token_url": "file:///etc/passwd"},
        {"token_url": "http://8.8.8.8/token"},
        {"token_url": "https://as.test/token", "authorization_url": "http://8.8.8.8/page"},
    ],
)
async def test_configured_endpoints_are_judged_too(
    discovery: OAuthDiscovery, host: Documents, configured: JsonObject
) -> None:
    with pytest.raises((OAuthMetadataError, UnsafeAddressError)):
        await discovery.of_server(f"{host.url}/mcp", configured, None)


async def test_known_metadata_of_another_server_is_not_used(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    configured: JsonObject = {"token_url": "https://as.test/token"}
    known: JsonObject = {"resource": "https://b.test/mcp", "scopes_supported": ["read"]}

    found = await discovery.of_server(f"{host.url}/mcp", configured, known)

    assert found.resource == ProtectedResource(None)


@pytest.mark.parametrize("configured", [{}, {"token_url": ""}, {"token_url": 7}, {"scope": "a"}])
def test_without_a_token_url_nothing_is_configured(configured: JsonObject) -> None:
    assert configured_server(configured) is None


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("basic_auth_header", ClientAuthentication.CLIENT_SECRET_BASIC),
        ("default_post", ClientAuthentication.CLIENT_SECRET_POST),
        (None, None),
        ("odd", None),
    ],
)
def test_the_configuration_says_how_to_authenticate(
    method: str | None, expected: ClientAuthentication | None
) -> None:
    assert configured_authentication({"token_exchange_method": method}) is expected


async def test_a_discovery_as_a_whole_is_bounded_in_time(host: Documents) -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        return await hangs(request)

    host.answers[f"{WELL_KNOWN}/mcp"] = slowly
    async with oauth_http(GUARD, connect_timeout_seconds=1, total_timeout_seconds=0.3) as http:
        with pytest.raises(AuthorizationServerUnavailableError, match="in time"):
            await found_of(OAuthDiscovery(http, GUARD), host)

    assert host.seen == ["GET /mcp", "POST /mcp", f"GET {WELL_KNOWN}/mcp"]


CONFIGURED = AuthorizationServer(None, "https://as.test/authorize", "https://as.test/token")


@pytest.mark.parametrize("issuer", [None, "https://as.test", "https://as.test/tenant"])
async def test_a_response_to_a_configured_server_may_come_from_its_own_origin(
    http: OAuthHttp, issuer: str | None
) -> None:
    await OAuthDiscovery(http, PUBLIC).check_response(CONFIGURED, issuer)


async def test_a_response_may_come_from_an_issuer_whose_metadata_names_the_token_endpoint(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    host.answers[AS_WELL_KNOWN] = server_of(host.url, token_endpoint=CONFIGURED.token_endpoint)

    await discovery.check_response(CONFIGURED, host.url)

    assert host.seen == [f"GET {AS_WELL_KNOWN}"]


async def test_codes_of_one_server_do_not_go_to_the_configured_endpoint_of_another(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    """Mix-up: the page of an honest server, and the token endpoint of another."""
    host.answers[AS_WELL_KNOWN] = server_of(host.url)

    with pytest.raises(OAuthMetadataError, match="another token endpoint"):
        await discovery.check_response(CONFIGURED, host.url)


@pytest.mark.parametrize(
    "issuer", ["", "as", "https://[", "file:///etc", "http://169.254.169.254"]
)
async def test_a_response_of_an_issuer_that_may_not_be_asked_is_refused(
    discovery: OAuthDiscovery, issuer: str
) -> None:
    with pytest.raises(OAuthMetadataError):
        await discovery.check_response(CONFIGURED, issuer)


async def test_a_response_of_an_issuer_that_publishes_nothing_is_accepted(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    await discovery.check_response(CONFIGURED, host.url)


async def test_a_discovered_server_is_known_by_its_issuer_alone(
    discovery: OAuthDiscovery, host: Documents
) -> None:
    found = AuthorizationServer("https://as.test", None, "https://elsewhere.test/token")

    await discovery.check_response(found, "https://as.test")
    with pytest.raises(OAuthMetadataError):
        await discovery.check_response(found, host.url)

    assert host.seen == []


def test_a_configured_issuer_is_not_believed() -> None:
    found = configured_server({"token_url": "https://as.test/token", "issuer": "https://b.test"})

    assert found is not None
    assert found.issuer is None
    assert found.document.keys().isdisjoint({"issuer"})
