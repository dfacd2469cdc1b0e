"""The API of the official registry: `/v0.1/servers`."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from registry.core.text import timestamp
from tests.catalog.test_importing import imported
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import BASE_URL, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
BEN = UserContext("b" * 24, "ben", Role.USER, USER_SCOPES)
OFFICIAL = "io.modelcontextprotocol.registry/official"
OWN = "127.0.0.1/own"
"""Below the namespace of PUBLIC_URL."""


def listed(name: str, url: str, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    remotes = [{"type": "streamable-http", "url": url}]
    return {"server": {"name": name, "version": version, "remotes": remotes, **more}}


async def ask(
    rest: Rest, user: UserContext, path: str = "/servers", **query: Any
) -> httpx.Response:
    sent = {"Authorization": f"Bearer {rest.token(user)}"}
    return await rest.client.get(f"/v0.1{path}", params=query, headers=sent)


def named(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 200, answer.text
    found = [one["server"] for one in answer.json()["servers"]]
    return [(one["name"], one["version"]) for one in found]


@pytest_asyncio.fixture(loop_scope="module")
async def several(rest: Rest) -> Rest:
    """Return an application with servers of several versions, one of them deleted."""
    servers = [
        listed("io.example/a", "https://a.example/mcp"),
        listed("io.example/b", "https://b.example/mcp", "1.0.0"),
        listed("io.example/b", "https://b.example/mcp", "1.1.0"),
        listed("io.example/c", "https://c.example/mcp", status="deleted"),
        listed("org.other/d", "https://d.example/mcp", description="x" * 300),
    ]
    await imported(rest, {"servers": servers})
    return rest


async def test_a_page_has_the_form_of_the_official_registry(several: Rest) -> None:
    answer = await ask(several, ALICE, limit=1)

    (one,) = answer.json()["servers"]
    meta = one["_meta"][OFFICIAL]
    assert one["server"] == {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "io.example/a",
        "version": "1.0.0",
        "description": "io.example/a",
        "remotes": [{"type": "streamable-http", "url": "https://a.example/mcp"}],
    }
    assert (meta["status"], meta["isLatest"]) == ("active", True)
    assert {"publishedAt", "updatedAt", "statusChangedAt"} < meta.keys()
    assert answer.json()["metadata"]["count"] == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_no_page_skips_or_repeats_a_server(rest: Rest, limit: int) -> None:
    names = [f"io.example/{number:02}" for number in range(15)]
    servers = [listed(name, f"https://{name[-2:]}.example/mcp") for name in names]
    await imported(rest, {"servers": servers})

    found: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await ask(rest, ALICE, limit=limit, **({"cursor": cursor} if cursor else {}))
        assert len(named(answer)) <= limit
        found += named(answer)
        cursor = answer.json()["metadata"].get("nextCursor")

    assert [name for name, _ in found] == names


async def test_pages_have_every_version_once(several: Rest) -> None:
    pages: list[list[tuple[str, str]]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await ask(several, ALICE, limit=2, **({"cursor": cursor} if cursor else {}))
        pages.append(named(answer))
        cursor = answer.json()["metadata"].get("nextCursor")

    assert pages == [
        [("io.example/a", "1.0.0"), ("io.example/b", "1.1.0")],
        [("io.example/b", "1.0.0"), ("org.other/d", "1.0.0")],
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"version": "latest"}, ["io.example/a", "io.example/b", "org.other/d"]),
        ({"search": "EXAMPLE/B"}, ["io.example/b", "io.example/b"]),
        ({"search": "nothing"}, []),
        (
            {"version": "latest", "include_deleted": "true"},
            ["io.example/a", "io.example/b", "io.example/c", "org.other/d"],
        ),
    ],
)
async def test_lists_are_narrowed(
    several: Rest, query: dict[str, str], expected: list[str]
) -> None:
    assert [name for name, _ in named(await ask(several, ALICE, **query))] == expected


async def test_what_changed_since_is_listed_with_deleted_servers(several: Rest) -> None:
    now = several.parts.clock.now()
    older = listed("io.example/b", "https://b.example/mcp", "0.9.0")
    before = timestamp(several.parts.clock.now())
    await imported(several, {"servers": [older]})

    changed = await ask(several, ALICE, updated_since=before)
    everything = await ask(several, ALICE, updated_since=timestamp(now - timedelta(hours=1)))
    nothing = await ask(several, ALICE, updated_since=timestamp(now + timedelta(hours=1)))

    assert named(changed) == [("io.example/b", "0.9.0")]
    assert ("io.example/c", "1.0.0") in named(everything)
    assert named(nothing) == []


async def test_what_was_removed_or_renamed_is_listed_as_deleted(several: Rest) -> None:
    listed_ = (await several.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    paths = {one["name"]: f"/catalog/servers/{one['id']}" for one in listed_}
    before = timestamp(several.parts.clock.now())

    await several.ask(ROOT, "DELETE", paths["io.example/a"])
    await several.ask(ROOT, "PATCH", paths["org.other/d"], json={"name": "org.other/e"})

    changed = await ask(several, ALICE, updated_since=before)
    gone = await ask(several, ALICE, "/servers/io.example/a/versions/latest", include_deleted=True)
    assert [
        (one["server"]["name"], one["_meta"][OFFICIAL]["status"])
        for one in changed.json()["servers"]
    ] == [("io.example/a", "deleted"), ("org.other/d", "deleted"), ("org.other/e", "active")]
    assert gone.json()["server"]["remotes"][0]["url"] == "https://a.example/mcp"
    assert ("io.example/a", "1.0.0") not in named(await ask(several, ALICE))


async def test_servers_that_a_caller_cannot_see_any_more_are_deleted_for_them_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    shared = await rest.register(ROOT, "shared", upstream.url, scope="shared_app")
    gone = await rest.register(ROOT, "gone", f"{upstream.url}?a=1", scope="shared_app")
    await rest.register(ALICE, "mine", f"{upstream.url}?b=1", scope="private_user")
    await rest.follow()
    seen = named(await ask(rest, BEN))
    before = timestamp(rest.parts.clock.now())

    await rest.ask(ROOT, "PATCH", f"/servers/{shared['id']}", json={"scope": "private_user"})
    await rest.ask(ROOT, "DELETE", f"/servers/{gone['id']}")
    await rest.follow()
    found = [
        (one["server"]["name"], one["_meta"][OFFICIAL]["status"])
        for one in (await ask(rest, BEN, updated_since=before)).json()["servers"]
    ]
    admins = named(await ask(rest, ROOT))

    assert [name for name, _ in seen] == ["127.0.0.1/gone", "127.0.0.1/shared"]
    assert found == [("127.0.0.1/gone", "deleted"), ("127.0.0.1/shared", "deleted")]
    assert [name for name, _ in admins] == ["127.0.0.1/mine", "127.0.0.1/shared"]


async def test_plain_names_are_served_below_this_registrys_namespace(rest: Rest) -> None:
    docker = {"registry": {"time": {"image": "mcp/time", "description": "Tells the time."}}}
    await imported(rest, docker)

    (one,) = (await ask(rest, ALICE)).json()["servers"]
    again = await ask(rest, ALICE, "/servers/127.0.0.1/time/versions/latest")

    assert one["server"]["name"] == "127.0.0.1/time"
    assert again.json() == one


async def test_versions_of_a_server_are_listed_and_read(several: Rest) -> None:
    versions = await ask(several, ALICE, "/servers/io.example%2Fb/versions")
    latest = await ask(several, ALICE, "/servers/io.example/b/versions/latest")
    first = await ask(several, ALICE, "/servers/io.example%2Fb/versions/1.0.0")

    assert named(versions) == [("io.example/b", "1.1.0"), ("io.example/b", "1.0.0")]
    assert latest.json() == versions.json()["servers"][0]
    assert first.json() == versions.json()["servers"][1]


@pytest.mark.parametrize(
    "path",
    [
        "/servers/io.example%2Fnone/versions",
        "/servers/io.example%2Fnone/versions/latest",
        "/servers/io.example%2Fb/versions/7",
        # Deleted ones are shown when they are asked for.
        "/servers/io.example%2Fc/versions",
    ],
)
async def test_what_is_not_there_is_a_404_in_the_envelope(several: Rest, path: str) -> None:
    answer = await ask(several, ALICE, path)

    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"


async def test_a_description_fits_what_clients_validate(several: Rest) -> None:
    answer = await ask(several, ALICE, search="org.other")

    (one,) = answer.json()["servers"]
    assert len(one["server"]["description"]) == 100


async def test_callers_reach_instances_that_they_see_at_this_gateway(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await imported(rest, {"servers": [listed("io.example/demo", upstream.url)]})
    await rest.register(ALICE, "mine", upstream.url, scope="private_user")
    await rest.register(ALICE, "own", f"{upstream.url}?own=1", scope="private_user")

    hers = (await ask(rest, ALICE)).json()["servers"]
    his = (await ask(rest, BEN)).json()["servers"]
    hidden = await ask(rest, BEN, f"/servers/{OWN}/versions/latest")

    assert {one["server"]["name"]: one["server"]["remotes"][0]["url"] for one in hers} == {
        "io.example/demo": f"{BASE_URL}/mcp/mine",
        OWN: f"{BASE_URL}/mcp/own",
    }
    (header,) = hers[0]["server"]["remotes"][0]["headers"]
    assert (header["name"], header["isSecret"]) == ("Authorization", True)
    assert [(one["server"]["name"], one["server"]["remotes"][0]["url"]) for one in his] == [
        ("io.example/demo", upstream.url)
    ]
    assert hidden.status_code == 404


async def test_a_server_that_is_turned_off_is_not_offered(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ALICE, "mine", upstream.url, scope="private_user")
    await rest.ask(ALICE, "POST", f"/servers/{server['id']}/toggle", json={"enabled": False})
    await rest.follow()

    assert named(await ask(rest, ALICE)) == []


async def test_another_registry_imports_what_this_one_serves(several: Rest) -> None:
    page = (await ask(several, ALICE)).json()

    job = await imported(several, page, source="again", dryRun=True)

    assert job["counts"] == {"duplicates": 4}


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"cursor": "!"},
        {"cursor": "aGVsbG8"},
        {"updated_since": "yesterday"},
        {"updated_since": "2025-01-01T00:00:00"},
        {"updated_since": "0001-01-01T00:00:00+23:00"},
        {"version": "1.0.0"},
        {"search": "a\x00b"},
        {"unknown": 1},
    ],
)
async def test_bad_parameters_are_refused_in_the_envelope(
    rest: Rest, query: dict[str, Any]
) -> None:
    answer = await ask(rest, ALICE, **query)

    assert answer.status_code == 422
    assert answer.json()["details"][0]["field"] == next(iter(query))


async def test_a_caller_needs_a_token_with_both_scopes(rest: Rest) -> None:
    without = await rest.client.get("/v0.1/servers")
    narrow = UserContext("a" * 24, "alice", Role.USER, frozenset({Scope.READ_CATALOG}))
    refused = await ask(rest, narrow)

    assert (without.status_code, "WWW-Authenticate" in without.headers) == (401, True)
    assert refused.status_code == 403
