"""Where keys and tokens go, by the security schemes of a description."""

from typing import Any

import pytest

from registry.core.json import JsonObject, JsonValue
from registry.openapi.description import describe
from registry.openapi.security import DescribedCredentials, described_credentials
from registry.openapi.tools import Selection, tools_of

API = "https://api.example.com/v1"
HEADER = {"type": "apiKey", "in": "header", "name": "X-Key"}
QUERY = {"type": "apiKey", "in": "query", "name": "key"}
COOKIE = {"type": "apiKey", "in": "cookie", "name": "sid"}
BASIC = {"type": "http", "scheme": "Basic"}
BEARER = {"type": "http", "scheme": "bearer"}
CODE = {"authorizationUrl": "/authorize", "tokenUrl": "/token", "scopes": {"r": "", "w": ""}}
OAUTH = {"type": "oauth2", "flows": {"authorizationCode": CODE}}
CLIENT = {
    "type": "oauth2",
    "flows": {"clientCredentials": {"tokenUrl": "/token", "scopes": {"r": "", "w": ""}}},
}


def credentials(
    schemes: dict[str, Any], *securities: Any, swagger: bool = False
) -> DescribedCredentials:
    """Return what schemes say for one operation for each of *securities*."""
    paths: JsonObject = {
        f"/{index}": {"get": {} if security is None else {"security": security}}
        for index, security in enumerate(securities or [None])
    }
    document: JsonObject = {"openapi": "3.1.0", "components": {"securitySchemes": schemes}}
    if swagger:
        document = {"swagger": "2.0", "securityDefinitions": schemes}
    found = describe({**document, "info": {}, "paths": paths}, url=None, files={})
    return described_credentials(found.security_schemes, found.operations, API)


@pytest.mark.parametrize(
    ("schemes", "securities", "place"),
    [
        ({"a": HEADER}, [], "header X-Key"),
        ({"a": QUERY}, [], "query parameter key"),
        ({"a": COOKIE}, [], "cookie sid"),
        ({"a": BASIC}, [], "HTTP basic"),
        ({"a": BEARER}, [], "bearer token"),
        ({"a": OAUTH}, [], "bearer token"),
        ({"a": HEADER, "b": OAUTH}, [], "header X-Key"),
        ({"a": HEADER, "b": HEADER}, [], "header X-Key"),
        ({"a": HEADER, "b": QUERY}, [[{"b": []}]], "query parameter key"),
        ({"a": HEADER, "b": QUERY}, [[{"b": []}], [{"a": []}, {"b": []}]], "query parameter key"),
        ({"a": HEADER, "b": QUERY}, [[{"b": []}], [{}, {"a": []}]], "query parameter key"),
        ({"a": HEADER, "b": QUERY}, [[], [{"a": []}]], "header X-Key"),
    ],
)
def test_a_key_goes_where_the_only_scheme_says(
    schemes: dict[str, Any], securities: list[Any], place: str
) -> None:
    found = credentials(schemes, *securities)

    assert found.key is not None
    assert (found.key.text, found.doubt) == (place, None)


@pytest.mark.parametrize(
    ("schemes", "securities", "doubt"),
    [
        ({"a": HEADER, "b": QUERY}, [], "in several places (header X-Key, query parameter key)"),
        ({"a": HEADER, "b": QUERY}, [[{"a": [], "b": []}]], "in several places"),
        ({"a": HEADER, "b": QUERY}, [[{"a": []}, {"b": []}]], "in several places"),
        ({"a": {**HEADER, "name": "Authorization"}}, [], "whole header Authorization"),
        ({"a": {**HEADER, "name": "Host"}}, [], "which the gateway sets itself"),
        ({"a": {**HEADER, "name": "Mcp-Session-Id"}}, [], "which the gateway sets itself"),
        ({"a": {**HEADER, "name": "X\r\nY"}}, [], "no name for one"),
        ({"a": {**QUERY, "name": "a[b]"}}, [], "no name for one"),
        ({"a": {"type": "apiKey", "in": "body", "name": "k"}}, [], "do not say where"),
    ],
)
def test_what_leaves_doubt_places_no_key(
    schemes: dict[str, Any], securities: list[Any], doubt: str
) -> None:
    found = credentials(schemes, *securities)

    assert found.key is None
    assert doubt in (found.doubt or "")


def test_without_schemes_there_is_neither_a_place_nor_a_doubt() -> None:
    assert credentials({}) == DescribedCredentials()


def test_tokens_come_from_the_flow_with_the_scopes_that_operations_need() -> None:
    needed = credentials({"a": CLIENT}, [{"a": ["r"]}], [{"a": []}]).tokens
    unsaid = credentials({"a": CLIENT}).tokens
    users = credentials({"a": OAUTH}, [{"a": ["w"]}])

    assert needed is not None
    assert unsaid is not None
    assert users.users_tokens is not None
    assert (needed.token_url, needed.scope) == ("https://api.example.com/token", "r")
    assert unsaid.scope == "r w"
    assert users.tokens is None
    assert users.users_tokens.authorization_url == "https://api.example.com/authorize"


@pytest.mark.parametrize(
    "schemes",
    [
        {"a": CLIENT, "b": {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "/u"}}}},
        {"a": {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "file:///etc"}}}},
        {"a": {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "//u:p@host/t"}}}},
        {"a": {"type": "oauth2", "flows": {"clientCredentials": {}}}},
    ],
)
def test_token_urls_that_leave_doubt_are_not_taken(schemes: dict[str, Any]) -> None:
    assert credentials(schemes).tokens is None


def test_swagger_says_the_same_in_its_own_words() -> None:
    flow = {"type": "oauth2", "flow": "application", "tokenUrl": "/token", "scopes": {"r": ""}}

    found = credentials({"key": QUERY, "app": flow}, swagger=True)
    basic = credentials({"a": {"type": "basic"}}, swagger=True)

    assert found.key is not None
    assert found.tokens is not None
    assert basic.key is not None
    assert (found.key.text, basic.key.text) == ("query parameter key", "HTTP basic")
    assert (found.tokens.token_url, found.tokens.scope) == ("https://api.example.com/token", "r")


@pytest.mark.parametrize(
    ("security", "is_public"),
    [([], True), ([{}], True), (None, False), ([{}, {"a": []}], False), ("no list", False)],
)
def test_an_operation_that_says_so_itself_needs_no_credentials(
    security: Any, *, is_public: bool
) -> None:
    operation = {} if security is None else {"security": security}
    document: JsonObject = {"openapi": "3.1.0", "info": {}, "paths": {"/x": {"get": operation}}}

    for whole in (document, {**document, "security": []}):
        (found,) = describe(whole, url=None, files={}).operations
        assert found.is_public is is_public


def test_headers_that_callers_cannot_set_are_no_arguments_and_told_once() -> None:
    names = ["Host", "Cookie", "Transfer-Encoding", "Content-Length", "Connection"]
    negotiated = ["Accept", "Content-Type"]
    parameters: list[JsonValue] = [
        {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
        for name in [*names, *negotiated, "Authorization", "X Y", "X-Own"]
    ]
    paths: JsonObject = {
        "/a": {"get": {"operationId": "a", "parameters": [*parameters]}},
        "/b": {"get": {"operationId": "b", "parameters": [*parameters]}},
    }
    document: JsonObject = {"openapi": "3.1.0", "info": {}, "paths": paths}

    found = tools_of(describe(document, url=None, files={}), Selection())

    schema = found.tools[0].definition["inputSchema"]
    assert isinstance(schema, dict)
    assert schema["required"] == ["X-Own"]
    told = {problem.reason.split()[3]: problem.reason for problem in found.problems}
    assert told.keys() == {*names, "Authorization", "X"}
    assert "and of 1 other operations" in told["Host"]
    assert told["Authorization"].endswith("credentials are sent as they are stored")
