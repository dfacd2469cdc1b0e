"""Stored documents and input, read and refused as jarvis-api reads and refuses them."""

from typing import Any

import pytest
from bson import ObjectId
from pydantic import ValidationError

from packages.database.encryption import Cipher
from registry.auth.identity import Role
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.servers.changes import config_of
from registry.servers.credentials import CredentialVault, caller_values, is_user_level
from registry.servers.errors import CredentialUnreadableError, CredentialUnusableError
from registry.servers.schemas import ServerCreate
from registry.servers.values import ServerRecord
from registry.tools.naming import default_path
from registry.tools.projection import restore
from tests.conftest import ALICE, CREDS_IV, CREDS_KEY

URL = "https://mcp.example.com/mcp"
CIPHER = Cipher(CREDS_KEY, CREDS_IV)
VAULT = CredentialVault(CIPHER)


def key_sent(stored: str, kind: str = "bearer") -> str:
    api_key: JsonObject = {"source": "admin", "authorization_type": kind, "key": stored}
    return VAULT.request_headers("1", {"apiKey": api_key})["Authorization"]


@pytest.mark.parametrize("stored", ["sk-plain", "0123456789abcdef0123456789abcdef"])
def test_a_key_that_was_stored_in_clear_is_used_as_it_is(stored: str) -> None:
    assert key_sent(stored) == f"Bearer {stored}"


def test_a_stored_ciphertext_is_decrypted_and_one_of_other_keys_is_an_error() -> None:
    foreign = Cipher("ab" * 32, CREDS_IV).encrypt_shared("sk-secret")

    assert key_sent(CIPHER.encrypt_shared("sk-secret")) == "Bearer sk-secret"
    for stored in (foreign, "no:ciphertext"):
        with pytest.raises(CredentialUnreadableError):
            key_sent(stored)


def test_a_key_that_no_header_can_carry_is_named_as_that() -> None:
    with pytest.raises(CredentialUnusableError, match="Authorization has characters"):
        key_sent("schl\u00fcssel")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"title": "snake_case"}, "title"),
        ({"title": "Docs: new"}, "title"),
        ({"oauth": {"authorization_url": "not a url"}}, "oauth.authorization_url"),
        ({"oauth": {"token_url": "ftp://example.com"}}, "oauth.token_url"),
        ({"oauth": {"client_secret": "s"}}, "oauth.client_secret"),
        ({"oauth": {"client_secret": "s", "client_id": "c"}}, "oauth.client_secret"),
        (
            {"oauth": {"client_secret": "s", "client_id": "c", "token_url": URL}},
            "oauth.client_secret: needs oauth.authorization_url",
        ),
        ({"url": "https://{{HOST}}/mcp"}, "url"),
    ],
)
def test_what_is_refused_there_is_refused_here(given: dict[str, Any], told: str) -> None:
    request = ServerCreate.model_validate({"serverName": "one", "url": URL, **given})

    with pytest.raises(ValidationFailedError) as caught:
        config_of(request, VAULT)

    assert caught.value.message.startswith(told)


@pytest.mark.parametrize(
    "title", ["GitHub", "M\u00fcllers Wetter-Dienst", "\u5929\u6c17 2", "O'Hara"]
)
def test_titles_of_any_script_are_taken(title: str) -> None:
    request = ServerCreate.model_validate({"serverName": "one", "url": URL, "title": title})

    assert config_of(request, VAULT)[0]["title"] == title


def test_a_key_of_other_characters_is_refused_unless_it_is_sent_encoded() -> None:
    key = {"key": "n\u00e4me:w\u00f6rt", "authorization_type": "basic"}
    body = {"serverName": "one", "url": URL}

    ServerCreate.model_validate({**body, "apiKey": key})
    with pytest.raises(ValidationError, match="printable ASCII"):
        ServerCreate.model_validate({**body, "apiKey": {**key, "authorization_type": "bearer"}})


def test_headers_tell_who_calls_and_others_are_left_out() -> None:
    config: JsonObject = {
        "headers": {
            "X-Who": "{{LIBRECHAT_USER_ID}}/{{LIBRECHAT_USER_USERNAME}}/{{LIBRECHAT_USER_ROLE}}",
            "X-Mail": "{{LIBRECHAT_USER_EMAIL}}",
        }
    }
    server = ServerRecord.model_validate(
        {"_id": ObjectId(), "serverName": "one", "config": config}
    )

    assert is_user_level(config)
    assert VAULT.request_headers("1", config, caller_values(ALICE)) == {
        "X-Who": f"{ALICE.user_id}/alice/USER"
    }
    assert VAULT.request_headers("1", config) == {}
    assert server.problems[-1] == (
        "config.headers.X-Mail holds {{LIBRECHAT_USER_EMAIL}}, which is not supported here; "
        "the header is not sent"
    )


def test_an_address_with_places_for_values_is_told_of() -> None:
    document = {"_id": ObjectId(), "serverName": "one", "config": {"url": "https://{{HOST}}/mcp"}}

    assert any(
        "config.url holds {{...}}" in told
        for told in ServerRecord.model_validate(document).problems
    )


def test_names_of_other_scripts_have_paths_of_their_own() -> None:
    # By the other application's own hash: node gives the same.
    assert default_path("\u65e5\u672c") == "/mcp/server_835047"
    assert default_path("\u5929\u6c17") == "/mcp/server_735246"
    assert default_path("\U0001f600") == "/mcp/server_1772899"


@pytest.mark.parametrize(
    ("key", "server", "tool"),
    [
        ("search_mcp_a_mcp_b", "a_mcp_b", "search"),
        ("x_mcp_y_mcp_one", "one", "x_mcp_y"),
        ("search_mcp_former", "one", "search"),
        ("search_one", "one", "search"),
        ("search_mcp_two words", "two words", "search"),
    ],
)
def test_names_with_the_delimiter_inside_are_taken_apart(key: str, server: str, tool: str) -> None:
    functions: JsonObject = {key: {"type": "function", "function": {"name": key}}}

    assert [found.name for found in restore(functions, server).tools] == [tool]


@pytest.mark.parametrize(
    ("stored", "role"),
    [("ADMIN", Role.ADMIN), ("Admin", Role.ADMIN), ("USER", Role.USER), (None, Role.USER)],
)
def test_roles_are_read_in_any_case_and_none_is_a_plain_users(
    stored: str | None, role: Role
) -> None:
    assert Role.parse(stored) is role
