"""The variants of a published configuration."""

from typing import Any

import pytest

from packages.models.generator.errors import GenerationError
from packages.models.generator.transports import transports_of

STRING = {"type": "string"}


def variant(kind: str, *others: str, **own: Any) -> dict[str, Any]:
    properties = {"type": {"enum": [kind, *others]}, "title": STRING, "url": STRING, **own}
    return {"type": "object", "properties": properties, "required": ["type", "url"]}


FOUR = [
    variant("stdio", limits={"type": "object", "properties": {"cpu": STRING}}),
    variant("websocket"),
    variant("sse"),
    variant("http", "streamable-http"),
]


def test_only_what_no_variant_requires_is_shared() -> None:
    found = transports_of("MCPOptions.json", {"anyOf": FOUR})

    assert found.shared == {"title": STRING}
    assert [item.name for item in found.variants] == [
        "StdioTransport",
        "WebSocketTransport",
        "SSETransport",
        "StreamableHTTPTransport",
    ]


def test_a_type_with_one_value_defaults_to_it() -> None:
    found = transports_of("MCPOptions.json", {"anyOf": FOUR})

    defaults = [item.own["type"].get("default") for item in found.variants]
    assert defaults == ["stdio", "websocket", "sse", None]


def test_variants_may_be_composed_of_parts() -> None:
    base = {"type": "object", "properties": {"title": STRING}}
    composed = [{"allOf": [{"$ref": "#/definitions/Base"}, item]} for item in FOUR]

    found = transports_of("MCPOptions.json", {"anyOf": composed, "definitions": {"Base": base}})

    assert found == transports_of("MCPOptions.json", {"anyOf": FOUR})


def test_a_transport_of_a_later_release_gets_a_class_of_its_own() -> None:
    found = transports_of("MCPOptions.json", {"anyOf": [*FOUR, variant("grpc-web")]})

    assert found.variants[-1].name == "GrpcWebTransport"
    assert found.flat["type"]["anyOf"][0]["enum"][-1] == "grpc-web"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object"}, "is no union of transports"),
        ({"anyOf": FOUR[1:]}, "describes no StdioTransport"),
        ({"anyOf": [*FOUR, FOUR[0]]}, "describes a transport twice"),
        ({"anyOf": [*FOUR, {"type": "object"}]}, "has a transport without a type"),
        ({"anyOf": [*FOUR, {"properties": {"type": STRING}}]}, "has a transport without a type"),
        (
            {
                "anyOf": [{"$ref": "#/definitions/A"}],
                "definitions": {"A": {"$ref": "#/definitions/A"}},
            },
            "refers to itself too deeply",
        ),
    ],
)
def test_what_is_not_the_known_union_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        transports_of("MCPOptions.json", schema)
