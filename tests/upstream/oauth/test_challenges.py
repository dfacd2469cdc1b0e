"""Challenges are found in headers of all shapes, in a time that grows with their length."""

import time

import pytest

from registry.upstream.oauth.challenges import MAX_HEADER_CHARACTERS, challenge_of
from registry.upstream.oauth.values import Challenge

METADATA = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer", {}),
        ("bearer", {}),
        (f'Bearer resource_metadata="{METADATA}"', {"resource_metadata": METADATA}),
        (f"Bearer resource_metadata={METADATA}", {"resource_metadata": METADATA}),
        (f'BEARER Resource_Metadata = "{METADATA}"', {"resource_metadata": METADATA}),
        # Commas that are missing, are too many, or stand in quotes.
        (
            f'Bearer error="invalid_token" resource_metadata="{METADATA}"',
            {"error": "invalid_token", "resource_metadata": METADATA},
        ),
        (
            f',, Bearer ,error="invalid_token",, resource_metadata="{METADATA}",',
            {"error": "invalid_token", "resource_metadata": METADATA},
        ),
        (
            'Bearer error_description="Basic a, Digest b=c", error="x"',
            {"error_description": "Basic a, Digest b=c", "error": "x"},
        ),
        (r'Bearer realm="a \"quoted\" \\ word"', {"realm": r'a "quoted" \ word'}),
        ('Bearer realm="", error=""', {"realm": "", "error": ""}),
        # The first of a name counts.
        ('Bearer error="a", error="b"', {"error": "a"}),
        # Others before and after.
        ('Basic realm="x", Bearer error="y"', {"error": "y"}),
        ('Negotiate YIIJvwYGKwYBBQUCoIIJszCC==, Bearer error="y"', {"error": "y"}),
        ('Bearer error="y", Basic realm="x", charset="UTF-8"', {"error": "y"}),
        ('DPoP algs="ES256", Bearer error="y", DPoP error="z"', {"error": "y"}),
        # Of several, the one that names metadata.
        (
            f'Bearer realm="a", Bearer resource_metadata="{METADATA}"',
            {"resource_metadata": METADATA},
        ),
        # What is no grammar's.
        ('Bearer (((, error="y"', {"error": "y"}),
        ('Bearer realm="without an end', {}),
        ("Bearer\nerror=y", {"error": "y"}),
    ],
)
def test_the_bearer_challenge_is_found(header: str, expected: dict[str, str]) -> None:
    found = challenge_of(header)

    assert found is not None
    assert found.parameters == expected
    assert found.error == expected.get("error")
    assert found.resource_metadata == expected.get("resource_metadata")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",",
        'Basic realm="Bearer"',
        'Basic realm="x", error="Bearer a"',
        "Bearers a=b",
        "=",
    ],
)
def test_without_a_bearer_challenge_there_is_none(header: str | None) -> None:
    assert challenge_of(header) is None


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("", ()),
        ("read", ("read",)),
        (" read  write read ", ("read", "write")),
    ],
)
def test_scopes_are_told_apart(scope: str, expected: tuple[str, ...]) -> None:
    assert challenge_of(f'Bearer scope="{scope}"') == Challenge(
        scopes=expected, parameters={"scope": scope}
    )


@pytest.mark.parametrize(
    "piece", ["a", "a ", " ", ",", "=", "a=", 'a="', '"', "\\", 'a="\\', "Bearer ", "a=b(", "("]
)
def test_a_hostile_header_takes_no_time(piece: str) -> None:
    began_at = time.process_time()

    challenge_of(f"Bearer {piece * MAX_HEADER_CHARACTERS}")
    challenge_of(f"{piece * (MAX_HEADER_CHARACTERS // len(piece) - 1)}(")

    # Going back over it took more than a second.
    assert time.process_time() - began_at < 0.25
