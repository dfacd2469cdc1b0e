"""Python names for the names on the wire."""

import keyword

import pytest
from beanie import Document

from packages.models.generator.naming import class_name, field_name, field_names


@pytest.mark.parametrize(
    ("wire_name", "expected"),
    [
        ("serverName", "server_name"),
        ("requiresOAuth", "requires_oauth"),
        ("OAuthURL", "oauth_url"),
        ("oauthMetadata", "oauth_metadata"),
        ("apiKey", "api_key"),
        ("idOnTheSource", "id_on_the_source"),
        ("client_id", "client_id"),
        ("_id", "id_"),
        ("id", "id_"),
        ("HTTPServer2Name", "http_server2_name"),
        ("x-request.id", "x_request_id"),
        ("@@toStringTag", "to_string_tag"),
        ("2fa", "field_2fa"),
        ("$$", "field"),
        ("class", "class_"),
        ("schema", "schema_"),
        ("list", "list_"),
        ("modelName", "model_name_"),
    ],
)
def test_names_of_fields(wire_name: str, expected: str) -> None:
    assert field_name(wire_name) == expected


def test_names_that_would_be_the_same_are_told_apart() -> None:
    assert field_names(["userId", "user_id", "userID"]) == {
        "userID": "user_id",
        "userId": "user_id_2",
        "user_id": "user_id_3",
    }


def test_no_field_hides_what_the_document_or_python_needs() -> None:
    wire_names = [*dir(Document), *keyword.kwlist, "str", "int", "Any", "Literal"]

    names = {field_name(name) for name in wire_names}

    assert names & ({*dir(Document), *keyword.kwlist, "str", "int"}) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate-limit", "RateLimit"),
        ("proxy", "Proxy"),
        ("Record<string,{a:string;}>", "RecordStringAString"),
        ("3d", "Model3d"),
        ("", "Model"),
        ("field", "FieldModel"),
        ("document", "DocumentModel"),
    ],
)
def test_names_of_classes(text: str, expected: str) -> None:
    assert class_name(text) == expected
