"""Every REST route declares who may call it, or is one of the few that are open to all."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from registry.auth.identity import Scope
from registry.main import control_plane
from tests.fakes.rest import rest_settings, running

OPEN = {
    ("GET", "/health/live"),
    ("GET", "/health/gateway"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
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

ASKING = {("POST", "/api/v1/access/explain")}
"""Take a body, and change nothing."""

WRITING = {
    Scope.WRITE_SERVERS,
    Scope.WRITE_ACCESS,
    Scope.WRITE_TOKENS,
    Scope.WRITE_TOOLS,
}


@pytest.fixture
async def routes(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> dict[tuple[str, str], tuple[Scope, ...]]:
    """Return every route with the scopes it demands."""
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        recorder = control_plane(rest.parts)
    app = vars(vars(recorder)["_app"])["_app"]
    assert isinstance(app, FastAPI)
    return {
        (method, route.path): tuple(_scopes(route.dependant))
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


@pytest.mark.wire
@pytest.mark.requirement("R-246")
async def test_every_route_demands_a_scope_or_is_known_to_be_open(
    routes: dict[tuple[str, str], tuple[Scope, ...]],
) -> None:
    assert {key for key, scopes in routes.items() if not scopes} == OPEN


@pytest.mark.wire
async def test_routes_that_change_something_demand_a_scope_for_writing(
    routes: dict[tuple[str, str], tuple[Scope, ...]],
) -> None:
    changing = {
        key: scopes
        for key, scopes in routes.items()
        if key[0] != "GET" and key not in OPEN and key not in ASKING
    }

    assert len(changing) == 31
    assert {key for key, scopes in changing.items() if WRITING.isdisjoint(scopes)} == set()
