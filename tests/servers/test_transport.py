"""The part of a stored config that says how a server is reached, and its secrets."""

from typing import Any

import pytest

from registry.servers.errors import CredentialUnreadableError
from registry.servers.transport import Secret, TransportConfig, given_back, taken

STORED = f"{'0a' * 16}:{'0b' * 16}"
"""Looks like a ciphertext; the fakes below say what it stands for."""

CONFIG: dict[str, Any] = {
    "title": "Weather",
    "type": "streamable-http",
    "url": "https://weather.example/mcp",
    "apiKey": {"source": "admin", "authorization_type": "bearer", "key": "k"},
    "oauth": {"client_id": "me", "client_secret": "s"},
    "headers": {"X-Api-Key.v2": STORED, "X-Auth": "as it is sent", "Accept-Language": "de"},
    "timeout": 5000,
    "tools": "a, b",
    "toolFunctions": {"a": {}},
    "capabilities": "{}",
    "oauthMetadata": {"resource": "x"},
    "initDuration": 12,
}


def decrypt(stored: str, field: str) -> str:
    """Say what was asked for, so that the test sees the place."""
    return f"{field} {stored}"


def locked(stored: str, field: str) -> str:
    """Open nothing."""
    raise CredentialUnreadableError("mcpservers", "1", field)


def test_what_was_learnt_and_what_people_call_it_are_left_out() -> None:
    assert taken(CONFIG, decrypt).plain == {
        "type": "streamable-http",
        "url": "https://weather.example/mcp",
        "apiKey": {"source": "admin", "authorization_type": "bearer", "key": "***"},
        "oauth": {"client_id": "me", "client_secret": "***"},
        "headers": {"X-Api-Key.v2": "***", "X-Auth": "***", "Accept-Language": "de"},
        "timeout": 5000,
    }


def test_secrets_stand_apart_each_with_its_place_and_the_way_it_was_stored() -> None:
    assert taken(CONFIG, decrypt).secrets == {
        ("apiKey", "key"): Secret("config.apiKey.key k", is_encrypted=True),
        ("oauth", "client_secret"): Secret("config.oauth.client_secret s", is_encrypted=True),
        ("headers", "X-Api-Key.v2"): Secret(
            f"config.headers.X-Api-Key.v2 {STORED}", is_encrypted=True
        ),
        ("headers", "X-Auth"): Secret("as it is sent", is_encrypted=False),
    }


@pytest.mark.requirement("R-050")
def test_environment_and_arguments_of_a_program_are_secrets() -> None:
    config: dict[str, Any] = {
        "type": "stdio",
        "command": "npx",
        "args": ["-y", "server", "--key", "sk"],
        "env": {"TOKEN": "t"},
    }

    found = taken(config, decrypt)

    assert found.plain == {"type": "stdio", "command": "npx", "args": "***", "env": "***"}
    assert given_back(found, {}, TransportConfig({}), str) == config


def test_the_stored_config_is_not_changed() -> None:
    before = repr(CONFIG)

    taken(CONFIG, decrypt)

    assert repr(CONFIG) == before


def test_a_secret_that_was_encrypted_anew_is_no_change() -> None:
    once = taken({"apiKey": {"key": "one"}}, lambda _stored, _field: "same")
    again = taken({"apiKey": {"key": "two"}}, lambda _stored, _field: "same")

    assert once.means_the_same(again)


def test_another_secret_is_a_change_and_shows_in_no_fingerprint() -> None:
    once = taken({"apiKey": {"key": "one"}}, lambda stored, _: stored)
    other = taken({"apiKey": {"key": "two"}}, lambda stored, _: stored)

    assert not once.means_the_same(other)
    assert once.fingerprint == other.fingerprint
    assert "one" not in repr(once)


def test_what_cannot_be_decrypted_is_known_to_be_there() -> None:
    found = taken(CONFIG, locked)

    assert found.unreadable == ("apiKey.key", "oauth.client_secret", "headers.X-Api-Key.v2")
    assert found.secrets["headers", "X-Auth"].value == "as it is sent"


def test_secrets_that_are_still_the_same_stay_as_they_are_stored() -> None:
    config: dict[str, Any] = {"apiKey": {"key": "kept"}, "headers": {"X-Key": STORED}}
    now = taken(config, lambda stored, _: stored)
    wanted = TransportConfig(
        {"apiKey": {"key": "***"}, "headers": {"X-Key": "***", "X-Auth": "***"}},
        {
            ("apiKey", "key"): Secret("kept", is_encrypted=True),
            ("headers", "X-Key"): Secret("other", is_encrypted=True),
            ("headers", "X-Auth"): Secret("clear", is_encrypted=False),
        },
    )

    assert given_back(wanted, config, now, lambda text: f"({text})") == {
        "apiKey": {"key": "kept"},
        "headers": {"X-Key": "(other)", "X-Auth": "clear"},
    }


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"apiKey": None, "headers": None, "env": None},
        {"apiKey": "text", "headers": ["list"], "oauth": 7, "env": "A=1", "args": {"a": 1}},
        {"headers": {"Authorization": 7, "X-Token": None, "Cookie": {"a": 1}}},
        {"url": float("nan"), "timeout": 2**70, "type": b"bytes"},
    ],
)
def test_what_another_program_stored_is_taken_whatever_it_is(config: dict[str, Any]) -> None:
    found = taken(config, decrypt)

    assert len(found.fingerprint) == 64
    assert given_back(found, config, found, str) == {
        name: value for name, value in config.items() if value is not None
    }
