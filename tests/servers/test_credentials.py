"""What counts as a secret in headers, addresses and `oauth`, and what names an environment."""

import pytest
from pydantic import ValidationError

from packages.database.encryption import Cipher
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.servers.credentials import (
    CredentialVault,
    has_secret,
    is_secret_header,
    masked_oauth,
    masked_url,
)
from registry.servers.schemas import (
    ConnectionTest,
    OAuthInput,
    ServerCreate,
    ServerUpdate,
    UserKeysInput,
)

URL = "https://mcp.example.com/mcp"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Authorization", "Bearer abc", True),
        ("X-Zugang", "hunter2", True),
        ("X-Acme", "1", True),
        ("X-Team-Token", "blue", True),
        ("X-Zugang", "geheim-{{NAME}}", True),
        ("Authorization", "Bearer abc{{NAME}}", True),
        ("Authorization", "Bearer {{MCP_API_KEY}}", False),
        ("Authorization", "Basic {{USER}}:{{PASS}}", False),
        ("X-Zugang", "{{NAME}}", False),
        ("X-Team", "blue", False),
        ("X-GitHub-Toolsets", "repos,issues", False),
        ("X-Tenant-Id", "t-1", False),
        ("Accept-Language", "de", False),
        ("X-Client", "registry {{NAME}}", False),
    ],
)
def test_a_header_is_a_secret_unless_its_name_says_otherwise(
    name: str, value: str, *, expected: bool
) -> None:
    assert is_secret_header(name, value) is expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"{URL}?page=1&keyword=x&author=me&max_tokens=9", None),
        (URL, None),
        (f"{URL}?api_key=abc&page=1", f"{URL}?api_key=***&page=1"),
        (f"{URL}?tavilyApiKey=abc", f"{URL}?tavilyApiKey=***"),
        (f"{URL}?api%5Fkey=abc", f"{URL}?api%5Fkey=***"),
        (f"{URL}?access_token=a&sig=b&code=c", f"{URL}?access_token=***&sig=***&code=***"),
        (f"{URL}?sk-0123456789abcdef", f"{URL}?***"),
        (f"{URL}#token=abc", f"{URL}#token=***"),
        ("https://me:pw@mcp.example.com/mcp", URL),
        ("https://[", ""),
    ],
)
def test_secrets_in_addresses_are_masked_and_nothing_else(url: str, shown: str | None) -> None:
    assert masked_url(url) == (url if shown is None else shown)
    assert has_secret(url) is (shown is not None)


def test_secrets_in_oauth_are_masked_whoever_put_them_there() -> None:
    stored = {
        "client_id": "me",
        "client_secret": "a",
        "clientSecret": "b",
        "refresh_token": "c",
        "token_url": "https://as.example.com/token?key=d",
        "token_exchange_method": "default_post",
        "scope": None,
    }

    assert masked_oauth(stored) == {
        "client_id": "me",
        "client_secret": "***",
        "clientSecret": "***",
        "refresh_token": "***",
        "token_url": "https://as.example.com/token?key=***",
        "token_exchange_method": "default_post",
    }


def test_a_template_that_holds_a_text_of_its_own_is_refused(cipher: Cipher) -> None:
    vault = CredentialVault(cipher)

    with pytest.raises(ValidationFailedError, match=r"headers\.X-Zugang: mixes a text"):
        vault.stored_headers({"X-Zugang": "geheim-{{NAME}}"}, None)


def test_an_oddly_named_header_is_stored_encrypted_and_sent_as_it_was(cipher: Cipher) -> None:
    vault = CredentialVault(cipher)
    stored = vault.stored_headers({"X-Zugang": "geheim", "X-Team": "blue"}, None)

    assert "geheim" not in str(stored)
    assert stored["X-Team"] == "blue"
    assert vault.request_headers("s", {"headers": stored}) == {
        "X-Zugang": "geheim",
        "X-Team": "blue",
    }


ENVIRONMENT = "a${CREDS_KEY}"
MEMBERS = [
    {"url": f"https://mcp.example.com/{ENVIRONMENT}"},
    {"headers": {"X-Team": ENVIRONMENT}},
    {"headers": {"Authorization": f"Bearer {ENVIRONMENT}"}},
    {"apiKey": {"key": ENVIRONMENT}},
    *(
        {"oauth": {name: ENVIRONMENT}}
        for name in (
            "authorization_url",
            "token_url",
            "client_id",
            "client_secret",
            "scope",
            "redirect_uri",
            "revocation_endpoint",
        )
    ),
    {"oauth": {"grant_types_supported": [ENVIRONMENT]}},
]


@pytest.mark.parametrize("member", MEMBERS, ids=str)
@pytest.mark.parametrize("body", [ServerCreate, ServerUpdate, ConnectionTest])
def test_names_of_the_environment_are_refused(
    body: type[ServerCreate | ServerUpdate | ConnectionTest], member: dict[str, object]
) -> None:
    named = {"serverName": "weather"} if body is ServerCreate else {}

    with pytest.raises(ValidationError) as refused:
        body.model_validate({"url": URL, **named, **member})

    (error,) = refused.value.errors()
    assert error["loc"][0] in member
    assert "must not hold `${`" in error["msg"]


def test_a_users_own_value_names_no_environment_either() -> None:
    # jarvis-api puts it into a header first, and replaces such names after that.
    with pytest.raises(ValidationError, match=r"must not hold"):
        UserKeysInput.model_validate({"values": {"KEY": "${CREDS_KEY}"}})


def test_what_is_stored_with_such_a_name_is_sent_as_it_stands(cipher: Cipher) -> None:
    headers: JsonObject = {"X-Team": "${HOME}", "X-Odd": "${CREDS_KEY}"}

    sent = CredentialVault(cipher).request_headers("s", {"headers": headers})

    assert sent == headers


TOKEN_URL = {"token_url": "https://as.example.com/token"}
PAGE = {"authorization_url": "https://as.example.com/authorize"}
NO_PERSON = {"grant_types_supported": ["client_credentials"]}


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        (TOKEN_URL, "oauth.client_id"),
        ({**TOKEN_URL, "client_id": "me"}, "oauth.authorization_url"),
        ({**TOKEN_URL, **NO_PERSON}, "oauth.client_id"),
        ({"grant_types_supported": ["password"]}, "oauth.grant_types_supported"),
    ],
)
def test_oauth_that_could_only_fail_later_is_refused(
    cipher: Cipher, given: JsonObject, lacking: str
) -> None:
    vault = CredentialVault(cipher)

    with pytest.raises(ValidationFailedError) as refused:
        vault.stored_oauth(OAuthInput.model_validate(given), None)

    assert refused.value.field == lacking
    # What the other application has stored can be changed otherwise.
    kept = vault.stored_oauth(OAuthInput.model_validate({**given, "scope": "read"}), given)
    assert kept == {**given, "scope": "read"}


@pytest.mark.parametrize(
    "given",
    [
        {"client_id": "me"},
        PAGE,
        {**TOKEN_URL, "client_id": "me", **PAGE},
        {**TOKEN_URL, "client_id": "me", **NO_PERSON},
        {"grant_types_supported": ["authorization_code", "password"]},
        {"grant_types_supported": ["refresh_token"]},
    ],
)
def test_oauth_that_says_enough_is_taken(cipher: Cipher, given: JsonObject) -> None:
    stored = CredentialVault(cipher).stored_oauth(OAuthInput.model_validate(given), None)

    assert stored == given
