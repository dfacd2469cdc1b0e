"""Clients: configured ones, ours by metadata document, and those that servers register."""

import json
from typing import Any

import pytest

from registry.core.json import JsonObject
from registry.upstream.oauth.errors import AuthorizationServerUnavailableError, OAuthError
from registry.upstream.oauth.http import OAuthHttp
from registry.upstream.oauth.registration import (
    ClientRegistrar,
    application_type,
    client_metadata_document,
    registered_scopes,
)
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKeys,
    ClientKind,
    ConfiguredClient,
    OAuthClientIdentity,
)
from tests.fakes.oauth.documents import Documents

NONE = ClientAuthentication.NONE
BASIC = ClientAuthentication.CLIENT_SECRET_BASIC
POST = ClientAuthentication.CLIENT_SECRET_POST
JWT = ClientAuthentication.PRIVATE_KEY_JWT
REDIRECT_URI = "https://registry.example.com/api/v1/mcp/oauth/callback"
SIGNING_URL = "https://registry.example.com/oauth/signing-client.json"
JWKS_URI = "https://registry.example.com/.well-known/jwks.json"
JWKS: JsonObject = {"keys": [{"kty": "RSA", "kid": "1", "n": "n", "e": "AQAB"}]}
KEYS = ClientKeys(JWKS, JWKS_URI, SIGNING_URL)
METADATA_URL = "https://registry.example.com/oauth/client.json"


def server(host: Documents, **more: Any) -> AuthorizationServer:
    return AuthorizationServer(
        host.url, None, f"{host.url}/token", registration_endpoint=f"{host.url}/register", **more
    )


async def client_of(
    http: OAuthHttp,
    at: AuthorizationServer,
    configured: ConfiguredClient | None = None,
    *,
    metadata_url: str | None = METADATA_URL,
    scopes: tuple[str, ...] | None = ("read",),
    keys: ClientKeys | None = None,
) -> OAuthClientIdentity:
    registrar = ClientRegistrar(http, keys=keys)
    return await registrar.client(
        at, configured, redirect_uri=REDIRECT_URI, metadata_url=metadata_url, scopes=scopes
    )


async def test_a_configured_client_comes_first(http: OAuthHttp, host: Documents) -> None:
    at = server(host, accepts_metadata_documents=True)

    found = await client_of(http, at, ConfiguredClient("c", "s"))

    assert found == OAuthClientIdentity(
        "c", ClientKind.PREREGISTERED, BASIC, "s", document={"client_id": "c"}
    )
    assert host.seen == []


@pytest.mark.parametrize(
    ("secret", "chosen", "offered", "expected"),
    [
        ("s", None, None, BASIC),
        ("s", None, (), BASIC),
        ("s", None, ("client_secret_post", "client_secret_basic"), BASIC),
        ("s", None, ("client_secret_post", "none"), POST),
        ("s", None, ("private_key_jwt",), BASIC),
        ("s", POST, ("client_secret_basic",), POST),
        (None, POST, None, NONE),
        (None, None, None, NONE),
        (None, None, ("private_key_jwt", "none"), NONE),
        (None, None, ("private_key_jwt", "client_secret_basic"), JWT),
    ],
)
def test_a_configured_client_authenticates_as_configured_or_as_the_server_offers(
    http: OAuthHttp,
    secret: str | None,
    chosen: ClientAuthentication | None,
    offered: tuple[str, ...] | None,
    expected: ClientAuthentication,
) -> None:
    at = AuthorizationServer("x", None, "https://x/token", token_authentications=offered)

    found = ClientRegistrar(http, keys=KEYS).configured(at, ConfiguredClient("c", secret, chosen))

    assert found.authentication is expected


def test_without_a_key_nothing_is_signed(http: OAuthHttp) -> None:
    at = AuthorizationServer("x", None, "y", token_authentications=("private_key_jwt",))

    found = ClientRegistrar(http, keys=None).configured(at, ConfiguredClient("c"))

    assert found.authentication is NONE


@pytest.mark.parametrize(
    ("offered", "keys", "url", "authentication"),
    [
        (None, KEYS, METADATA_URL, NONE),
        (("private_key_jwt", "none"), KEYS, METADATA_URL, NONE),
        (("private_key_jwt",), None, METADATA_URL, NONE),
        (("private_key_jwt",), KEYS, SIGNING_URL, JWT),
    ],
)
async def test_a_metadata_document_comes_before_a_registration(
    http: OAuthHttp,
    host: Documents,
    offered: tuple[str, ...] | None,
    keys: ClientKeys | None,
    url: str,
    authentication: ClientAuthentication,
) -> None:
    at = server(host, accepts_metadata_documents=True, token_authentications=offered)

    found = await client_of(http, at, keys=keys)

    assert found == OAuthClientIdentity(
        url,
        ClientKind.METADATA_DOCUMENT,
        authentication,
        document={"client_id": url, "redirect_uris": [REDIRECT_URI]},
    )
    assert host.seen == []


@pytest.mark.parametrize(
    ("keys", "named"),
    [(KEYS, {"jwks_uri": JWKS_URI}), (ClientKeys(JWKS), {"jwks": JWKS})],
    ids=["public", "not public"],
)
async def test_keys_are_registered_where_clients_must_authenticate_by_them(
    http: OAuthHttp, host: Documents, keys: ClientKeys, named: JsonObject
) -> None:
    answered = {"client_id": "new", "client_secret": "unused"}
    host.answers["/register"] = answered | {"token_endpoint_auth_method": "private_key_jwt"}
    at = server(host, token_authentications=("private_key_jwt", "tls_client_auth"))

    found = await client_of(http, at, metadata_url=None, keys=keys)

    asked = json.loads(host.bodies[0])
    members = ("token_endpoint_auth_method", "token_endpoint_auth_signing_alg", *named)
    assert [asked[name] for name in members] == ["private_key_jwt", "RS256", *named.values()]
    assert (found.authentication, found.client_secret) == (JWT, None)


async def test_a_document_that_is_not_public_is_not_used(http: OAuthHttp, host: Documents) -> None:
    host.answers["/register"] = {"client_id": "new"}

    found = await client_of(http, server(host, accepts_metadata_documents=True), metadata_url=None)

    assert found.kind is ClientKind.REGISTERED


@pytest.mark.parametrize("answered", [204, 200, 401, 404])
async def test_a_registration_is_deleted_where_it_was_made(
    http: OAuthHttp, host: Documents, answered: int
) -> None:
    managed = {"registration_access_token": "t", "registration_client_uri": f"{host.url}/r/new"}
    host.answers["/register"] = {"client_id": "new", **managed}
    host.answers["/r/new"] = answered
    found = await client_of(http, server(host))

    deleted = await ClientRegistrar(http, keys=None).unregister(found)

    assert deleted is (answered < 400)
    assert host.seen[-1] == "DELETE /r/new"
    assert host.headers[-1]["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "url", ["https://elsewhere.example/r/new", "http://127.0.0.1:1/r", "http://[", 7, None]
)
async def test_nothing_is_sent_to_where_else_a_registration_points(
    http: OAuthHttp, host: Documents, url: Any
) -> None:
    managed = {"registration_access_token": "t", "registration_client_uri": url}
    host.answers["/register"] = {"client_id": "new", **managed}
    found = await client_of(http, server(host))

    assert await ClientRegistrar(http, keys=None).unregister(found) is False
    assert found.document == {"client_id": "new", "scope": "read"}
    assert host.seen == ["POST /register"]


async def test_a_client_is_registered(http: OAuthHttp, host: Documents) -> None:
    host.answers["/register"] = {
        "client_id": "new",
        "client_secret": "s",
        "client_secret_expires_at": 0,
        "token_endpoint_auth_method": "client_secret_post",
        "redirect_uris": [REDIRECT_URI],
        "registration_access_token": "t",
        "registration_client_uri": f"{host.url}/register/new",
        "junk": "x" * 1000,
    }

    found = await client_of(http, server(host))

    assert json.loads(host.bodies[0]) == {
        "client_name": "MCP Gateway Registry",
        "software_id": "mcp-gateway-registry",
        "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "application_type": "web",
        "scope": "read",
    }
    assert host.headers[0]["content-type"] == "application/json"
    assert found == OAuthClientIdentity(
        "new",
        ClientKind.REGISTERED,
        POST,
        "s",
        document={
            "client_id": "new",
            "client_secret": "s",
            "client_secret_expires_at": 0,
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": "client_secret_post",
            "registration_access_token": "t",
            "registration_client_uri": f"{host.url}/register/new",
            "scope": "read",
        },
    )


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (None, "client_secret_basic"),
        (("none", "client_secret_post"), "client_secret_post"),
        (("none",), "none"),
        (("tls_client_auth",), "client_secret_basic"),
    ],
)
async def test_a_registration_wants_what_the_server_offers(
    http: OAuthHttp, host: Documents, offered: tuple[str, ...] | None, wanted: str
) -> None:
    host.answers["/register"] = {"client_id": "new"}

    await client_of(http, server(host, token_authentications=offered), scopes=None)

    sent = json.loads(host.bodies[0])
    assert sent["token_endpoint_auth_method"] == wanted
    assert "scope" not in sent


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (["authorization_code"], ["authorization_code"]),
        (["refresh_token", "implicit"], ["authorization_code", "refresh_token"]),
        ("odd", ["authorization_code", "refresh_token"]),
    ],
)
async def test_a_registration_wants_only_grants_that_the_server_has(
    http: OAuthHttp, host: Documents, offered: object, wanted: list[str]
) -> None:
    host.answers["/register"] = {"client_id": "new"}

    await client_of(http, server(host, document={"grant_types_supported": offered}))

    assert json.loads(host.bodies[0])["grant_types"] == wanted


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"client_id": "c"}, (NONE, None)),
        ({"client_id": "c", "client_secret": ""}, (NONE, None)),
        ({"client_id": "c", "client_secret": None}, (NONE, None)),
        ({"client_id": "c", "client_secret": "s"}, (BASIC, "s")),
        ({"client_id": "c", "client_secret": "a b"}, (BASIC, "a b")),
        (
            {"client_id": "c", "token_endpoint_auth_method": "client_secret_post"},
            (NONE, None),
        ),
        (
            {"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "none"},
            (NONE, "s"),
        ),
        (
            {"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": None},
            (BASIC, "s"),
        ),
    ],
    ids=repr,
)
async def test_a_registered_client_authenticates_as_the_server_says(
    http: OAuthHttp,
    host: Documents,
    answer: dict[str, Any],
    expected: tuple[ClientAuthentication, str | None],
) -> None:
    host.answers["/register"] = answer

    found = await client_of(http, server(host))

    assert (found.authentication, found.client_secret) == expected


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        (None, None, ()),
        (("a", "b"), None, ("a", "b")),
        (("a", "b"), "b c", ("b", "c", "a")),
        (None, "c", ("c",)),
        (("a",), 7, ("a",)),
    ],
)
async def test_a_client_knows_the_scopes_it_was_registered_with(
    http: OAuthHttp,
    host: Documents,
    asked: tuple[str, ...] | None,
    answered: object,
    expected: tuple[str, ...],
) -> None:
    host.answers["/register"] = {"client_id": "c", "scope": answered}

    assert registered_scopes(await client_of(http, server(host), scopes=asked)) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (1893456000, 1893456000),
        ("1893456000", 1893456000),
        (1893456000.5, 1893456000),
        (1893456000000, None),
        (0, None),
        ("0", None),
        (-1, None),
        (None, None),
        (True, None),
        ("never", None),
    ],
    ids=repr,
)
async def test_a_registration_may_have_an_end(
    http: OAuthHttp, host: Documents, told: object, expected: int | None
) -> None:
    host.answers["/register"] = {"client_id": "c", "client_secret_expires_at": told}

    assert (await client_of(http, server(host))).expires_at == expected


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        "<html>",
        201,
        302,
        400,
        401,
        {"client_id": ""},
        {"client_id": 7},
        {"client_id": "a\nb"},
        {"client_id": "c", "client_secret": "a\nb"},
        {"client_id": "c", "client_secret": 7},
        {"client_id": "c", "token_endpoint_auth_method": "tls_client_auth"},
        {"client_id": "c", "token_endpoint_auth_method": ["none"]},
        # No key was registered.
        {"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"},
    ],
    ids=repr,
)
async def test_a_registration_that_cannot_be_used_is_refused(
    http: OAuthHttp, host: Documents, answer: Any
) -> None:
    host.answers["/register"] = answer

    with pytest.raises(OAuthError) as caught:
        await client_of(http, server(host))

    assert type(caught.value) is OAuthError


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_registration_that_failed_for_now_can_be_tried_again(
    http: OAuthHttp, host: Documents, status: int
) -> None:
    host.answers["/register"] = status

    with pytest.raises(AuthorizationServerUnavailableError):
        await client_of(http, server(host))


async def test_a_server_that_registers_no_clients_needs_a_configured_one(
    http: OAuthHttp, host: Documents
) -> None:
    at = AuthorizationServer(host.url, None, f"{host.url}/token")

    with pytest.raises(OAuthError, match="client_id"):
        await client_of(http, at)


@pytest.mark.parametrize(
    ("redirect_uri", "expected"),
    [
        ("https://registry.example.com/callback", "web"),
        ("https://localhost/callback", "web"),
        ("http://localhost:8000/callback", "native"),
        ("http://127.0.0.1/callback", "native"),
        ("http://[::1]:80/callback", "native"),
        ("http://registry.internal/callback", "web"),
    ],
)
def test_local_redirects_are_those_of_native_applications(
    redirect_uri: str, expected: str
) -> None:
    assert application_type(redirect_uri) == expected


def test_the_metadata_document_names_itself() -> None:
    document = client_metadata_document(
        METADATA_URL, REDIRECT_URI, client_uri="https://registry.example.com"
    )

    assert document == {
        "client_id": METADATA_URL,
        "client_name": "MCP Gateway Registry",
        "client_uri": "https://registry.example.com",
        "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "web",
    }


def test_the_other_metadata_document_names_where_the_keys_are() -> None:
    page = "https://registry.example.com"
    plain = client_metadata_document(METADATA_URL, REDIRECT_URI, client_uri=page)

    document = client_metadata_document(SIGNING_URL, REDIRECT_URI, client_uri=page, keys=KEYS)

    assert document == {
        **plain,
        "client_id": SIGNING_URL,
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "RS256",
        "jwks_uri": JWKS_URI,
    }
