"""Settings from the environment, and the sentences about those that cannot be used."""

from pathlib import Path

import pytest

from registry.core.settings import Settings, SettingsError, load_settings

GOOD = {
    "MONGO_URI": "mongodb://127.0.0.1:27017/jarvis",
    "CREDS_KEY": "0f" * 32,
    "CREDS_IV": "1e" * 16,
    "JWT_PRIVATE_KEY_FILE": "/keys/private.pem",
    "JWT_PUBLIC_KEY_FILE": "/keys/public.pem",
}
SENTINEL = "s3ntinel"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def problems(monkeypatch: pytest.MonkeyPatch, **changed: str) -> list[str]:
    for name, value in {**GOOD, **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return caught.value.problems


def loaded(monkeypatch: pytest.MonkeyPatch, **changed: str) -> Settings:
    for name, value in {**GOOD, **changed}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.requirement("R-300")
def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert [line.partition(" (")[0] for line in caught.value.problems] == [
        f"{name}: is required" for name in GOOD
    ]


@pytest.mark.requirement("R-300")
@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CREDS_KEY", "", "must be 64 hexadecimal characters (32 bytes)"),
        ("CREDS_KEY", "0f" * 31, "must be 64 hexadecimal characters (32 bytes)"),
        ("CREDS_KEY", "0f" * 33, "must be 64 hexadecimal characters (32 bytes)"),
        ("CREDS_KEY", "0g" * 32, "must be 64 hexadecimal characters (32 bytes)"),
        ("CREDS_KEY", "0f" * 32 + "\n", "must be 64 hexadecimal characters (32 bytes)"),
        (
            "CREDS_KEYS_READABLE",
            "0f" * 32 + "," + "0f" * 31,
            "must be 64 hexadecimal characters (32 bytes)",
        ),
        ("CREDS_IV", "1e" * 15, "must be 32 hexadecimal characters (16 bytes)"),
        ("CREDS_IV", "\uff11e" * 16, "must be 32 hexadecimal characters (16 bytes)"),
        ("MONGO_URI", "localhost:27017", "must start with mongodb:// or mongodb+srv://"),
        ("MONGO_URI", "http://127.0.0.1/", "must start with mongodb:// or mongodb+srv://"),
        ("PUBLIC_URL", "ftp://example.com", "must be an http or https address without a query"),
        ("PUBLIC_URL", "https://x.test/?a=1", "must be an http or https address without a query"),
        ("REGISTRY_PORT", "70000", "Input should be less than or equal to 65535"),
        (
            "UPSTREAM_ALLOWED_NETWORKS",
            "127.0.0.0/8,localhost",
            "'localhost' does not appear to be an IPv4 or IPv6 network",
        ),
        ("LOG_FORMAT", "xml", "Input should be 'auto', 'json' or 'console'"),
    ],
)
def test_a_malformed_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    assert problems(monkeypatch, **{name: value}) == [f"{name}: {problem}"]


@pytest.mark.requirement("R-306")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CREDS_KEY", SENTINEL),
        ("CREDS_KEYS_READABLE", "0f" * 32 + "," + SENTINEL),
        ("CREDS_IV", SENTINEL),
        ("MONGO_URI", f"postgres://user:{SENTINEL}@127.0.0.1/"),
        ("MONGO_URI", f"mysql://user:{SENTINEL}\u2100@127.0.0.1/"),
        ("MONGO_URI", f"mysql://user:{SENTINEL}@[127.0.0.1/"),
    ],
)
def test_no_problem_quotes_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (problem,) = problems(monkeypatch, **{name: value})

    assert SENTINEL not in problem


def test_a_bad_bind_is_named_beside_other_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, REGISTRY_HOST="0.0.0.0", CREDS_KEY="short")  # noqa: S104 - refused

    assert [line.partition(":")[0] for line in found] == ["CREDS_KEY", "PUBLIC_URL"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "registry.example"])  # noqa: S104 - refused
def test_other_machines_are_served_only_with_a_public_address(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    found = problems(monkeypatch, REGISTRY_HOST=host)

    assert found == ["PUBLIC_URL: is required when REGISTRY_HOST is not a loopback address"]
    assert loaded(monkeypatch, PUBLIC_URL="https://registry.example/").registry_host == host


def test_local_mode_never_serves_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(
        monkeypatch,
        REGISTRY_HOST="0.0.0.0",  # noqa: S104 - refused
        REGISTRY_LOCAL="true",
        PUBLIC_URL="https://registry.example",
    )

    assert found == [
        (
            "REGISTRY_HOST: local mode listens on loopback only, not 0.0.0.0; "
            "use `registry serve` with real settings for that"
        )
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_public_address(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert loaded(monkeypatch, REGISTRY_HOST=host).registry_host == host


@pytest.mark.parametrize(
    ("changed", "address"),
    [
        ({}, "http://127.0.0.1:7860"),
        ({"REGISTRY_HOST": "::1", "REGISTRY_PORT": "80"}, "http://[::1]:80"),
        ({"PUBLIC_URL": "https://registry.example/base/"}, "https://registry.example/base"),
    ],
)
def test_clients_are_told_the_public_address(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], address: str
) -> None:
    assert loaded(monkeypatch, **changed).base_url == address


@pytest.mark.parametrize(
    ("text", "values"),
    [("", ()), ("a", ("a",)), (" a , b,, c ", ("a", "b", "c")), (",", ())],
)
def test_lists_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, values: tuple[str, ...]
) -> None:
    settings = loaded(monkeypatch, ALLOWED_HOSTS=text)

    assert settings.allowed_hosts == values


def test_secrets_do_not_show_in_the_settings_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(
        monkeypatch,
        MONGO_URI=f"mongodb://user:{SENTINEL}@127.0.0.1/",
        JWT_SECRET=SENTINEL,
        CREDS_KEY="ab" * 32,
    )

    assert SENTINEL not in repr(settings)
    assert "abab" not in repr(settings)


def test_given_values_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)

    assert load_settings(registry_home=Path("/elsewhere")).registry_home == Path("/elsewhere")


@pytest.mark.requirement("R-305")
def test_further_keys_are_separated_by_commas_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = ["ab" * 32, "cd" * 32]

    settings = loaded(monkeypatch, CREDS_KEYS_READABLE=f"{keys[0]}, {keys[1]},")

    assert [key.get_secret_value() for key in settings.creds_keys_readable] == keys
    assert "abab" not in repr(settings)
    assert loaded(monkeypatch, CREDS_KEYS_READABLE="").creds_keys_readable == ()


def test_tool_search_needs_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, GATEWAY_TOOLS="search", SEARCH_ENABLED="false")

    assert found == ["GATEWAY_TOOLS: search needs SEARCH_ENABLED=true"]
