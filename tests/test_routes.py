"""Every REST route declares who may call it, or is one of the few that are open to all."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from registry.auth.identity import ALL_SCOPES, Role, Scope, UserContext
from registry.main import control_plane
from tests.fakes.rest import Rest, rest_settings, running

OPEN = {
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/{name}"),
    # Refuses every caller, in words.
    ("POST", "/register"),
    *(("HEAD", path) for path in ("/", "/docs", "/docs/{name}", "/metrics")),
    *(("HEAD", f"/health{more}") for more in ("", "/live", "/gateway", "/ready")),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/gateway"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    # Opened by browsers: a sealed link or state and a cookie say whose they are.
    ("GET", "/api/v1/mcp/oauth/start"),
    ("POST", "/api/v1/mcp/oauth/start"),
    ("GET", "/api/v1/mcp/oauth/callback"),
    ("GET", "/api/v1/mcp/oauth/client.json"),
    ("GET", "/api/v1/mcp/oauth/signing-client.json"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/.well-known/oauth-protected-resource"),
    ("GET", "/.well-known/oauth-protected-resource/mcp"),
    ("GET", "/.well-known/oauth-protected-resource/mcp/{slug}"),
    # Takes the refresh token in its body for a credential.
    ("POST", "/api/v1/tokens/refresh-session"),
    # Takes a signature over its body for a credential.
    ("POST", "/api/v1/sync/webhooks/{owner_id}"),
}
"""Tell nothing of what is stored. A route is added here by a decision, not by forgetting."""

BY_KIND = {("POST", "/api/v1/search")}
"""Demand the scopes of what is asked for, and a token in any case."""

ASKING = {
    *BY_KIND,
    ("POST", "/api/v1/access/explain"),
    ("POST", "/api/v1/access/simulate"),
    ("POST", "/api/v1/mcp/{server_id}/reinitialize"),
}
"""Change nothing that is stored."""

OPEN_BODIES = {
    ("POST", "/api/v1/servers/{server_id}/tools/{name:path}"),
    ("POST", "/api/v1/apis/{server_id}/tools/{name:path}"),
    ("POST", "/api/v1/toolsets/{toolset_id}/tools/{name:path}"),
}
"""Take the arguments of a tool, which its own schema is about."""

WRITING = {
    Scope.WRITE_SERVERS,
    Scope.WRITE_ACCESS,
    Scope.WRITE_TOKENS,
    Scope.WRITE_TOOLS,
    Scope.WRITE_CATALOG,
    # Decide about calls, and withdraw one's own.
    Scope.APPROVE_TOOLS,
    Scope.INVOKE_TOOLS,
}

FORGIVING = {
    ("POST", "/api/v1/sync/webhooks/{owner_id}"),
    ("GET", "/api/v1/mcp/oauth/start"),
    ("POST", "/api/v1/mcp/oauth/start"),
    ("GET", "/api/v1/mcp/oauth/callback"),
    ("GET", "/api/v1/mcp/oauth/client.json"),
    ("GET", "/api/v1/mcp/oauth/signing-client.json"),
}
"""Called by programs that put what they like into address and body."""

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)


@pytest.fixture
async def routes(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> dict[tuple[str, str], tuple[Scope, ...]]:
    """Return every route with the scopes it demands."""
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        found = _routes(rest)
    return {key: tuple(_scopes(route.dependant)) for key, route in found.items()}


def _routes(rest: Rest) -> dict[tuple[str, str], APIRoute]:
    app = vars(vars(control_plane(rest.parts))["_app"])["_app"]
    assert isinstance(app, FastAPI)
    return {
        (method, route.path): route
        for route in _flat(app.routes)
        for method in route.methods or ()
    }


def _flat(routes: Iterable[object]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif included := getattr(route, "original_router", None):
            yield from _flat(included.routes)


def _scopes(dependant: Dependant) -> Iterator[Scope]:
    yield from getattr(dependant.call, "needed_scopes", ())
    for inner in dependant.dependencies:
        yield from _scopes(inner)


@pytest.mark.requirement("R-334")
@pytest.mark.wire
@pytest.mark.requirement("R-246")
async def test_every_route_demands_a_scope_or_is_known_to_be_open(
    routes: dict[tuple[str, str], tuple[Scope, ...]],
) -> None:
    assert {key for key, scopes in routes.items() if not scopes} == OPEN | BY_KIND


@pytest.mark.wire
async def test_routes_that_change_something_demand_a_scope_for_writing(
    routes: dict[tuple[str, str], tuple[Scope, ...]],
) -> None:
    changing = {
        key: scopes
        for key, scopes in routes.items()
        if key[0] != "GET" and key not in OPEN and key not in ASKING
    }

    assert len(changing) == 69
    assert {key for key, scopes in changing.items() if WRITING.isdisjoint(scopes)} == set()


@pytest.mark.wire
async def test_no_route_ignores_what_it_does_not_know(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        routes = {
            key: route
            for key, route in _routes(rest).items()
            if key[1].startswith("/api/v1/") and key not in FORGIVING
        }
        by_query = {key: await _told(rest, *key, "?unheard_of=1", None) for key in routes}
        by_body = {
            key: await _told(rest, *key, "", {"unheard_of": 1})
            for key in routes
            if key[0] != "GET" and key not in OPEN_BODIES
        }

    unheard_of = {"field": "unheard_of", "message": "is not a known field"}
    assert {key: told for key, told in by_query.items() if told != [unheard_of]} == {}
    assert {key: told for key, told in by_body.items() if unheard_of not in told} == {}


async def _told(rest: Rest, method: str, path: str, query: str, body: object) -> list[object]:
    """Return what a route says is wrong with a request about things that do not exist."""
    filled = re.sub(r"\{[^}]*\}", "0" * 24, path.replace("{resource_type}", "mcpServer"))
    answer = await rest.ask(ROOT, method, filled.removeprefix("/api/v1") + query, json=body)
    return list(answer.json()["details"]) if answer.status_code == 422 else [answer.text]


@pytest.mark.wire
async def test_what_may_be_asked_for_once_is_not_taken_twice(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    twice = {
        "/servers": "?page=1&page=2",
        "/registry/tools": "?review=new&review=change&tag=a&tag=b",
        "/sync/jobs": "?state=dead&state=queued",
        f"/servers/{'0' * 24}/refresh": "?accept=true&accept=false",
    }
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        told = {
            path: await _told(
                rest, "POST" if path.endswith("refresh") else "GET", f"/api/v1{path}", query, None
            )
            for path, query in twice.items()
        }
        tags = await rest.ask(ROOT, "GET", "/registry/tools?tag=a&tag=b")

    assert told == {
        path: [
            {"field": query[1:].partition("=")[0], "message": "is given more than once"},
        ]
        for path, query in twice.items()
    }
    assert tags.status_code == 200


@pytest.mark.wire
async def test_a_body_that_says_nothing_is_taken_where_none_is_needed(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        path = f"/servers/{'0' * 24}/refresh"
        statuses = [
            (await rest.ask(ROOT, "POST", path, content=body)).status_code
            for body in (b"", b"{}", b" {} ", b"null", b"[]", b"{", b"a=b", b'{"a":1}', b"\xff")
        ]

    assert statuses == [404] * 4 + [422] * 5


@pytest.mark.wire
async def test_strangers_are_not_told_what_a_route_takes(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        by_query = await rest.client.get("/api/v1/servers?unheard_of=1")
        by_body = await rest.client.post(f"/api/v1/servers/{'0' * 24}/refresh", json={"a": 1})

    assert [by_query.status_code, by_body.status_code] == [401, 401]
