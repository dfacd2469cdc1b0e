"""What token endpoints are asked, and what is made of their answers."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import pytest
from aiohttp import web

from registry.upstream.errors import UnsafeAddressError
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    InvalidClientError,
    InvalidGrantError,
    OAuthError,
    OAuthMetadataError,
)
from registry.upstream.oauth.http import OAuthAnswer, OAuthHttp
from registry.upstream.oauth.token_endpoint import (
    MAX_LIFETIME_SECONDS,
    MAX_TOKEN_CHARACTERS,
    TokenEndpoint,
    error_of,
    tokens_of,
)
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKind,
    OAuthClientIdentity,
    TokenRequest,
    Tokens,
)
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.oauth.documents import Documents

RESOURCE = "https://mcp.example.com/mcp"
REDIRECT_URI = "https://registry.example.com/callback"


def answer(body: object, status: int = 200) -> OAuthAnswer:
    if isinstance(body, str):
        body = body.encode()
    return OAuthAnswer(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {
                "access_token": "a",
                "token_type": "Bearer",
                "expires_in": 60,
                "refresh_token": "r",
                "refresh_token_expires_in": 600,
                "scope": "x y",
            },
            Tokens("a", "r", 60, 600, ("x", "y")),
        ),
        ({"access_token": "a"}, Tokens("a")),
        (
            {"access_token": "a", "token_type": "bEARER", "refresh_expires_in": 9},
            Tokens("a", None, None, 9),
        ),
        # GitHub's form, and its commas.
        (
            "access_token=a&expires_in=28800&refresh_token=r&scope=repo%2Cgist&token_type=bearer",
            Tokens("a", "r", 28800, None, ("repo", "gist")),
        ),
        ("access_token=a&scope=&token_type=bearer\n", Tokens("a")),
        # Slack's token of a user.
        (
            {"ok": True, "authed_user": {"id": "U1", "access_token": "u", "token_type": "user"}},
            Tokens("u"),
        ),
        ({"ok": True, "access_token": "b", "token_type": "bot", "authed_user": {}}, Tokens("b")),
        # Members without a meaning, and with an odd one.
        ({"access_token": "a", "error": None, "x": [1]}, Tokens("a")),
        ({"access_token": "a", "refresh_token": ""}, Tokens("a")),
        ({"access_token": "a", "refresh_token": 7}, Tokens("a")),
        ({"access_token": "a", "refresh_token": "r\n"}, Tokens("a")),
        ({"access_token": "a", "token_type": 7}, Tokens("a")),
        ({"access_token": "a", "scope": ["x", 7, "y z"]}, Tokens("a", scopes=("x", "y", "z"))),
        ({"access_token": "a", "scope": ""}, Tokens("a")),
        ({"access_token": "a", "scope": 7}, Tokens("a")),
        (b'\xef\xbb\xbf{"access_token": "a"}', Tokens("a")),
    ],
)
def test_tokens_are_found_in_answers_of_all_forms(body: object, expected: Tokens) -> None:
    assert tokens_of(answer(body)) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (3600, 3600),
        ("3600", 3600),
        (" 3600 ", 3600),
        (3599.9, 3599),
        ("3.6e3", 3600),
        (0, None),
        (-1, None),
        (0.5, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        (None, None),
        (True, None),
        ([60], None),
        (10**30, MAX_LIFETIME_SECONDS),
        pytest.param(10**400, None, id="huge"),
    ],
    ids=repr,
)
def test_lifetimes_are_numbers_above_zero(told: object, expected: int | None) -> None:
    found = tokens_of(answer({"access_token": "a", "expires_in": told}))

    assert found == Tokens("a", expires_in=expected)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        '"a"',
        "<html>access_token=a</html>",
        {},
        {"access_token": ""},
        {"access_token": None},
        {"access_token": 7},
        {"access_token": ["a"]},
        {"access_token": "a\nSet-Cookie: x"},
        {"access_token": "a b"},
        {"access_token": "a\u00e9"},
        {"access_token": "a\ud800"},
        pytest.param({"access_token": "a" * (MAX_TOKEN_CHARACTERS + 1)}, id="long"),
        {"access_token": "a", "token_type": "DPoP"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": "a", "token_type": "N_A"},
        {"access_token": "a", "error": "invalid_grant"},
        {"access_token": "a", "ok": False},
        # Twice the same member: which of them would another program take?
        '{"access_token": "a", "access_token": "b"}',
        "access_token=a&access_token=b",
        '{"access_token": "a", "expires_in": NaN}',
        '{"access_token": "x=y&access_token=a',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"expires_in": ' + "9" * 5000 + ', "access_token": "a"}', id="digits"),
        b'{"access_token": "\xff"}',
    ],
)
def test_answers_without_a_usable_token_are_errors(body: object) -> None:
    assert tokens_of(answer(body)) is None
    assert isinstance(error_of(answer(body), ()), OAuthError)


def test_an_error_status_holds_no_tokens() -> None:
    assert tokens_of(answer({"access_token": "a"}, 400)) is None


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, {"error": "invalid_grant"}, InvalidGrantError, "invalid_grant"),
        (401, {"error": "invalid_grant"}, InvalidGrantError, "invalid_grant"),
        (200, {"error": "bad_verification_code"}, InvalidGrantError, "bad_verification_code"),
        (200, {"error": "bad_refresh_token"}, InvalidGrantError, "bad_refresh_token"),
        (200, {"ok": False, "error": "token_revoked"}, InvalidGrantError, "token_revoked"),
        (400, "error=invalid_grant&error_description=x", InvalidGrantError, "invalid_grant"),
        (400, {"error": "invalid_client"}, InvalidClientError, "invalid_client"),
        (401, {"error": "invalid_client"}, InvalidClientError, "invalid_client"),
        (401, {"error": "unauthorized_client"}, InvalidClientError, "unauthorized_client"),
        (401, "", InvalidClientError, None),
        (401, "<html>", InvalidClientError, None),
        (
            200,
            {"error": "incorrect_client_credentials"},
            InvalidClientError,
            "incorrect_client_credentials",
        ),
        (500, "", AuthorizationServerUnavailableError, None),
        (503, {"error": "invalid_grant"}, AuthorizationServerUnavailableError, "invalid_grant"),
        (429, "", AuthorizationServerUnavailableError, None),
        (408, "", AuthorizationServerUnavailableError, None),
        (
            400,
            {"error": "temporarily_unavailable"},
            AuthorizationServerUnavailableError,
            "temporarily_unavailable",
        ),
        (
            200,
            {"ok": False, "error": "ratelimited"},
            AuthorizationServerUnavailableError,
            "ratelimited",
        ),
        (400, {"error": "invalid_scope"}, OAuthError, "invalid_scope"),
        (400, {"error": "unauthorized_client"}, OAuthError, "unauthorized_client"),
        (400, {"error": {"code": "x"}}, OAuthError, None),
        (400, {"error": "not a code"}, OAuthError, None),
        (400, "It broke.", OAuthError, None),
        (307, "", OAuthError, None),
        (403, "", OAuthError, None),
    ],
)
def test_errors_say_who_can_help(
    status: int, body: object, expected: type[OAuthError], code: str | None
) -> None:
    found = error_of(answer(body, status), ())

    assert type(found) is expected
    assert found.code == code


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("The token has expired.", "The token has expired."),
        ("refresh_token s3cret/token+x is bad", "refresh_token *** is bad"),
        ("bad: s3cret%2Ftoken%2Bx", "bad: ***"),
        ("bad: 's3cret/to...'", "bad: '***'"),
        ("bad: …/token+x", "bad: …***"),
        ("a\r\nb\x1b[31m\u202e", "a  b [31m "),
        pytest.param("x" * 500, "x" * 200, id="long"),
        pytest.param("x " * 90 + "s3cret/token+x" * 500, "x " * 90 + "*" * 20, id="repeated"),
    ],
)
def test_descriptions_are_short_and_repeat_no_secret(described: str, expected: str) -> None:
    body = {"error": "invalid_grant", "error_description": described}

    message = error_of(answer(body, 400), ["s3cret/token+x", ""]).message

    assert message == f"The authorization server answered invalid_grant: {expected}"


@pytest.mark.parametrize("described", [None, 7, "", ["x"], {"a": "b"}])
def test_descriptions_that_are_no_texts_are_left_out(described: object) -> None:
    body = {"error": "invalid_grant", "error_description": described}

    message = error_of(answer(body, 400), ()).message

    assert message == "The authorization server answered invalid_grant."


@pytest.mark.parametrize("secret", ["e", "ten", "token"])
def test_a_description_with_a_short_secret_is_left_out(secret: str) -> None:
    body = {"error": "invalid_client", "error_description": "forgotten token"}

    message = error_of(answer(body, 400), [secret]).message

    assert message == "The authorization server answered invalid_client."


def test_a_secret_is_no_error_code() -> None:
    found = error_of(answer({"error": "s3cret"}, 400), ["s3cret"])

    assert found.code is None
    assert found.message == "The authorization server answered HTTP 400."


def client(
    authentication: ClientAuthentication = ClientAuthentication.NONE,
    client_id: str = "me",
    secret: str | None = None,
) -> OAuthClientIdentity:
    return OAuthClientIdentity(client_id, ClientKind.PREREGISTERED, authentication, secret)


def server(url: str, **more: Any) -> AuthorizationServer:
    return AuthorizationServer("https://as.example.com", None, f"{url}/token", **more)


@pytest.fixture
def endpoint(http: OAuthHttp, host: Documents) -> TokenEndpoint:
    host.answers["/token"] = {"access_token": "a"}
    return TokenEndpoint(http, FakeClock(), sign)


def sign(claims: Mapping[str, object]) -> str:
    return f"{json.dumps(claims)}.signed"


def form_of(host: Documents) -> dict[str, str]:
    pairs = parse_qsl(host.bodies[-1], strict_parsing=True, keep_blank_values=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


async def test_a_code_is_sent_with_its_verifier_and_the_resource(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    request = TokenRequest(server(host.url), client(), RESOURCE, ("read",))

    await endpoint.exchange_code(request, code="c", verifier="v", redirect_uri=REDIRECT_URI)

    assert host.seen == ["POST /token"]
    assert host.headers[0]["content-type"] == "application/x-www-form-urlencoded"
    assert host.headers[0]["accept"] == "application/json"
    assert "authorization" not in host.headers[0]
    assert form_of(host) == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": "v",
        "resource": RESOURCE,
        "client_id": "me",
    }


async def test_a_refresh_names_the_resource_and_no_scopes(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    request = TokenRequest(server(host.url), client(), RESOURCE, ("read",))

    await endpoint.refresh(request, "r&r=1")

    assert form_of(host) == {
        "grant_type": "refresh_token",
        "refresh_token": "r&r=1",
        "resource": RESOURCE,
        "client_id": "me",
    }


async def test_a_server_without_a_resource_is_sent_none(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    await endpoint.refresh(TokenRequest(server(host.url), client()), "r")

    assert "resource" not in form_of(host)


async def test_the_client_itself_asks_for_scopes(endpoint: TokenEndpoint, host: Documents) -> None:
    identity = client(ClientAuthentication.CLIENT_SECRET_POST, secret="s")

    await endpoint.client_credentials(
        TokenRequest(server(host.url), identity, RESOURCE, ("read", "write"))
    )

    assert form_of(host) == {
        "grant_type": "client_credentials",
        "scope": "read write",
        "resource": RESOURCE,
        "client_id": "me",
        "client_secret": "s",
    }


async def test_a_token_about_a_user_is_exchanged(endpoint: TokenEndpoint, host: Documents) -> None:
    kind = "urn:ietf:params:oauth:token-type:jwt"

    await endpoint.exchange(
        TokenRequest(server(host.url), client(), RESOURCE, ("read",)),
        subject_token="about",
        subject_token_type=kind,
    )

    assert form_of(host) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "about",
        "subject_token_type": kind,
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "scope": "read",
        "resource": RESOURCE,
        "client_id": "me",
    }


async def test_basic_authentication_encodes_id_and_secret_as_forms_do(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    identity = client(ClientAuthentication.CLIENT_SECRET_BASIC, "a:b c", "p%:q+é")

    await endpoint.refresh(TokenRequest(server(host.url), identity), "r")

    encoded = host.headers[0]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(encoded) == b"a%3Ab+c:p%25%3Aq%2B%C3%A9"
    assert form_of(host).keys() == {"grant_type", "refresh_token"}


@pytest.mark.parametrize(
    ("issuer", "audience"),
    [("https://as.example.com", "https://as.example.com"), (None, "{}/token")],
)
async def test_an_assertion_is_for_the_issuer_and_for_a_short_time(
    endpoint: TokenEndpoint, host: Documents, issuer: str | None, audience: str
) -> None:
    identity = client(ClientAuthentication.PRIVATE_KEY_JWT)
    asked = AuthorizationServer(issuer, None, f"{host.url}/token")

    await endpoint.refresh(TokenRequest(asked, identity), "r")
    await endpoint.refresh(TokenRequest(asked, identity), "r")

    forms = [{name: value[0] for name, value in parse_qs(body).items()} for body in host.bodies]
    claims = [json.loads(form["client_assertion"].removesuffix(".signed")) for form in forms]
    assert forms[0]["client_id"] == "me"
    assert forms[0]["client_assertion_type"] == (
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    )
    assert claims[0].pop("jti") != claims[1].pop("jti")
    now = int(NOON.timestamp())
    assert claims[0] == {
        "iss": "me",
        "sub": "me",
        "aud": audience.format(host.url),
        "iat": now,
        "exp": now + 120,
    }


async def test_without_a_key_nothing_is_signed(http: OAuthHttp, host: Documents) -> None:
    identity = client(ClientAuthentication.PRIVATE_KEY_JWT)

    with pytest.raises(InvalidClientError):
        await TokenEndpoint(http, FakeClock(), None).refresh(
            TokenRequest(server(host.url), identity), "r"
        )

    assert host.seen == []


async def test_errors_do_not_repeat_what_was_sent(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    async def echoes(request: web.Request) -> web.StreamResponse:
        said = await request.text()
        return web.json_response({"error": "invalid_grant", "error_description": said}, status=400)

    host.answers["/token"] = echoes
    identity = client(ClientAuthentication.CLIENT_SECRET_POST, secret="the/secret")

    with pytest.raises(InvalidGrantError) as caught:
        await endpoint.exchange_code(
            TokenRequest(server(host.url), identity),
            code="the/code",
            verifier="the/verifier",
            redirect_uri=REDIRECT_URI,
        )

    assert "the" not in caught.value.message.removeprefix("The authorization")
    assert "grant_type" in caught.value.message


@pytest.mark.parametrize(("status", "expected"), [(200, True), (400, False), (404, False)])
async def test_a_revocation_says_whether_it_was_confirmed(
    endpoint: TokenEndpoint, host: Documents, status: int, *, expected: bool
) -> None:
    host.answers["/revoke"] = status
    revoking = server(host.url, revocation_endpoint=f"{host.url}/revoke")
    identity = client(ClientAuthentication.CLIENT_SECRET_POST, secret="s")

    assert await endpoint.revoke(revoking, identity, "t", "refresh_token") is expected

    assert form_of(host) == {
        "token": "t",
        "token_type_hint": "refresh_token",
        "client_id": "me",
        "client_secret": "s",
    }


async def test_without_a_revocation_endpoint_nothing_is_revoked(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    assert not await endpoint.revoke(server(host.url), client(), "t", "access_token")
    assert host.seen == []


async def test_a_revocation_that_failed_for_now_is_reported(
    endpoint: TokenEndpoint, host: Documents
) -> None:
    host.answers["/revoke"] = 503
    revoking = server(host.url, revocation_endpoint=f"{host.url}/revoke")

    with pytest.raises(AuthorizationServerUnavailableError):
        await endpoint.revoke(revoking, client(), "t", "access_token")


async def test_tokens_are_not_sent_along_with_a_redirect(
    endpoint: TokenEndpoint, host: Documents, other_host: Documents
) -> None:
    async def elsewhere(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{other_host.url}/token"})

    host.answers["/token"] = elsewhere

    with pytest.raises(OAuthError):
        await endpoint.refresh(TokenRequest(server(host.url), client()), "r")

    assert other_host.seen == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://8.8.8.8", OAuthMetadataError),
        ("http://10.0.0.1", AuthorizationServerUnavailableError),
        ("https://169.254.169.254", UnsafeAddressError),
        ("https://10.0.0.1", UnsafeAddressError),
        ("file://host", UnsafeAddressError),
    ],
)
async def test_secrets_are_sent_only_where_they_may_go(
    endpoint: TokenEndpoint, url: str, expected: type[Exception]
) -> None:
    with pytest.raises((expected, UnsafeAddressError)):
        await endpoint.refresh(TokenRequest(server(url), client()), "r")


def test_values_do_not_show_secrets() -> None:
    tokens = Tokens("s3cret", "s3cret")
    identity = OAuthClientIdentity(
        "me",
        ClientKind.REGISTERED,
        ClientAuthentication.NONE,
        "s3cret",
        document={"client_secret": "s3cret"},
    )
    request = TokenRequest(server("https://as.example.com"), identity)

    assert "s3cret" not in repr((tokens, request, answer("s3cret")))
