"""Authorization requests contain what they must, and responses come from whom they should."""

import base64
import hashlib
import re
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from registry.upstream.oauth.authorization import (
    authorization_url,
    challenge_for,
    check_response_issuer,
    new_verifier,
)
from registry.upstream.oauth.errors import OAuthMetadataError
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKind,
    OAuthClientIdentity,
)

REDIRECT_URI = "https://registry.example.com/callback"
CLIENT = OAuthClientIdentity("me", ClientKind.PREREGISTERED, ClientAuthentication.NONE, "s3cret")


def server(endpoint: str | None = "https://as.test/authorize", **more: Any) -> AuthorizationServer:
    settings = {"code_challenge_methods": ("S256",), **more}
    return AuthorizationServer("https://as.test", endpoint, "https://as.test/token", **settings)


def url_at(at: AuthorizationServer, **changes: Any) -> str:
    request: dict[str, Any] = {
        "redirect_uri": REDIRECT_URI,
        "state": "st&ate",
        "verifier": "v" * 64,
        "scopes": ("read", "write"),
        "resource": "https://mcp.test/mcp",
        **changes,
    }
    return authorization_url(at, CLIENT, **request)


def test_a_verifier_is_long_random_and_of_the_right_letters() -> None:
    made = {new_verifier() for _ in range(100)}

    assert len(made) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{64}", one) for one in made)


def test_the_challenge_is_that_of_the_specification() -> None:
    # RFC 7636, appendix B.
    found = challenge_for("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")

    assert found == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_request_contains_the_challenge_and_neither_verifier_nor_secret() -> None:
    url = url_at(server())

    digest = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 64).digest()).decode().rstrip("=")
    assert url.startswith("https://as.test/authorize?")
    assert parse_qsl(urlsplit(url).query, strict_parsing=True) == [
        ("response_type", "code"),
        ("client_id", "me"),
        ("redirect_uri", REDIRECT_URI),
        ("state", "st&ate"),
        ("code_challenge", digest),
        ("code_challenge_method", "S256"),
        ("scope", "read write"),
        ("resource", "https://mcp.test/mcp"),
    ]
    assert "v" * 64 not in url
    assert "s3cret" not in url


@pytest.mark.parametrize("scopes", [None, ()])
def test_what_is_not_asked_for_is_left_out(scopes: tuple[str, ...] | None) -> None:
    sent = parse_qs(urlsplit(url_at(server(), scopes=scopes, resource=None)).query)

    assert sent.keys().isdisjoint({"scope", "resource", "prompt"})


def test_access_without_the_user_needs_their_consent() -> None:
    sent = parse_qs(urlsplit(url_at(server(), scopes=("read", "offline_access"))).query)

    assert sent["prompt"] == ["consent"]


def test_the_query_of_the_endpoint_is_kept_but_replaces_nothing() -> None:
    at = server("https://as.test/a?audience=x%26y&empty=&client_id=evil&state=evil&scope=evil#top")

    url = url_at(at)

    sent = parse_qs(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert (sent["audience"], sent["empty"]) == (["x&y"], [""])
    assert (sent["client_id"], sent["state"], sent["scope"]) == (
        ["me"],
        ["st&ate"],
        ["read write"],
    )
    assert urlsplit(url).fragment == ""


@pytest.mark.parametrize("methods", [None, (), ("plain",), ("s256",)])
def test_a_server_that_does_not_claim_to_support_s256_is_refused(
    methods: tuple[str, ...] | None,
) -> None:
    at = server(code_challenge_methods=methods)

    with pytest.raises(OAuthMetadataError, match="S256"):
        url_at(at)

    assert "code_challenge_method=S256" in url_at(at, skips_challenge_check=True)


def test_a_server_without_an_authorization_endpoint_is_refused() -> None:
    with pytest.raises(OAuthMetadataError, match="authorization endpoint"):
        url_at(server(None))


@pytest.mark.parametrize(
    ("issuer", "sends_issuer", "told"),
    [
        ("https://as.test", True, "https://as.test"),
        ("https://as.test", False, "https://as.test"),
        ("https://as.test", False, None),
        (None, False, None),
        (None, False, "https://any.test"),
    ],
)
def test_responses_of_the_right_issuer_are_accepted(
    issuer: str | None, told: str | None, *, sends_issuer: bool
) -> None:
    at = AuthorizationServer(issuer, None, "https://as.test/token", sends_issuer=sends_issuer)

    check_response_issuer(at, told)


@pytest.mark.parametrize(
    ("told", "sends_issuer"),
    [
        (None, True),
        ("", True),
        ("", False),
        ("https://evil.test", True),
        ("https://evil.test", False),
        # Compared as texts (RFC 9207, 2.4).
        ("https://as.test/", False),
        ("https://AS.test", False),
        ("https://as.test:443", False),
    ],
)
def test_responses_of_another_issuer_are_refused(told: str | None, *, sends_issuer: bool) -> None:
    at = AuthorizationServer(
        "https://as.test", None, "https://as.test/token", sends_issuer=sends_issuer
    )

    with pytest.raises(OAuthMetadataError):
        check_response_issuer(at, told)
