"""Acceptance scenarios of the catalog, by their numbers: separate collections, matching, upkeep.

Those of story 3 about vectors are in `tests/search/embedding/test_links.py`.
"""

from typing import Any

import pytest
from bson import ObjectId

from packages.models.catalog import KEY_INDEX
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from tests.fakes.plain_upstream import ECHO, PlainUpstream
from tests.fakes.rest import Rest
from tests.kit.waiting import until_async

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
PACKAGE = {"registryType": "oci", "identifier": "mcp/awesome-tool"}
TOOLS = [{"name": "find", "description": "Finds.", "inputSchema": {"type": "object"}}]


async def add(rest: Rest, **body: Any) -> dict[str, Any]:
    body = {"name": "io.example/one", "tools": TOOLS, **body}
    answer = await rest.ask(ROOT, "POST", "/catalog/servers", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def register(rest: Rest, name: str, **body: Any) -> dict[str, Any]:
    answer = await rest.call(ALICE, "POST", json={"serverName": name, **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def server(rest: Rest, made: dict[str, Any]) -> dict[str, Any]:
    return dict((await rest.call(ALICE, "GET", f"/{made['id']}")).json())


async def counts(rest: Rest) -> dict[str, int]:
    names = ("mcpservers_registry", "tools_registry", "mcpservers", "mcp_tools")
    database = rest.parts.database
    return {name: await database.collection(name).count_documents({}) for name in names}


@pytest.mark.requirement("R-351")
@pytest.mark.requirement("R-180")
@pytest.mark.requirement("R-087")
async def test_1_1_a_remote_entry_is_stored_by_its_url_with_its_tools(rest: Rest) -> None:
    entry = await add(rest, url="HTTPS://Example.com:443/mcp")

    (row,) = await rest.parts.database.collection("mcpservers_registry").find({}).to_list()
    (tool,) = await rest.parts.database.collection("tools_registry").find({}).to_list()

    assert isinstance(row["_id"], ObjectId)
    assert (str(row["_id"]), row["match_key"]) == (entry["id"], "remote:https://example.com/mcp")
    assert (tool["server_id"], tool["name"]) == (row["_id"], "find")


@pytest.mark.requirement("R-181")
async def test_1_2_a_container_entry_is_stored_by_its_package_with_its_tools(rest: Rest) -> None:
    entry = await add(rest, package=PACKAGE)

    (row,) = await rest.parts.database.collection("mcpservers_registry").find({}).to_list()

    assert (entry["kind"], row["match_key"]) == ("container", "container:oci:mcp/awesome-tool")
    assert [tool["name"] for tool in entry["tools"]] == ["find"]


@pytest.mark.requirement("R-080")
@pytest.mark.requirement("R-083")
@pytest.mark.requirement("R-182")
async def test_1_3_a_workload_is_stored_by_its_name_with_its_tools(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await register(rest, "workload", url=upstream.url)
    again = await rest.call(
        ALICE, "POST", json={"serverName": "workload", "url": upstream.url + "2"}
    )

    assert again.status_code == 409
    assert await counts(rest) == {
        "mcpservers_registry": 0,
        "tools_registry": 0,
        "mcpservers": 1,
        "mcp_tools": 1,
    }


@pytest.mark.requirement("R-183")
async def test_1_4_deleting_an_entry_removes_it_and_its_tools_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url)
    await add(rest, name="io.example/other", package=PACKAGE)
    await register(rest, "workload", url=upstream.url)

    answer = await rest.ask(ROOT, "DELETE", f"/catalog/servers/{entry['id']}")

    assert answer.status_code == 204
    assert await counts(rest) == {
        "mcpservers_registry": 1,
        "tools_registry": 1,
        "mcpservers": 1,
        "mcp_tools": 1,
    }


@pytest.mark.requirement("R-184")
@pytest.mark.requirement("R-086")
async def test_1_5_deleting_a_workload_removes_it_and_its_tools_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await add(rest, url=upstream.url)
    made = await register(rest, "workload", url=upstream.url)

    answer = await rest.call(ALICE, "DELETE", f"/{made['id']}")

    assert answer.status_code == 204
    assert await counts(rest) == {
        "mcpservers_registry": 1,
        "tools_registry": 1,
        "mcpservers": 0,
        "mcp_tools": 0,
    }


@pytest.mark.requirement("R-351")
@pytest.mark.requirement("R-191")
@pytest.mark.requirement("R-185")
@pytest.mark.requirement("R-085")
async def test_2_1_a_remote_workload_is_linked_by_its_url(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url.replace("http:", "HTTP:"), description="Finds all.")

    made = await register(rest, "workload", url=upstream.url)

    stored = await rest.parts.database.collection("mcpservers").find_one({})
    assert stored is not None
    assert stored["registry"]["registry_server_id"] == ObjectId(entry["id"])
    assert made.get("registryServerId") == entry["id"]
    assert made.get("registryServerName") == "io.example/one"
    assert made.get("registryServerDescription") == "Finds all."


@pytest.mark.requirement("R-186")
async def test_2_2_a_container_workload_is_linked_by_its_package_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, package=PACKAGE)
    remote = await add(rest, name="io.example/remote", url=upstream.url)

    made = await register(rest, "workload", package=PACKAGE, status="inactive")
    both = await register(rest, "both", package=PACKAGE, url=upstream.url)
    other = await register(rest, "other", url="http://127.0.0.1:1/mcp/awesome-tool")

    assert (made.get("registryServerId"), made["status"]) == (entry["id"], "inactive")
    assert made["package"] == PACKAGE
    assert both.get("registryServerId") == entry["id"] != remote["id"]
    assert other.get("registryServerId") is None


@pytest.mark.requirement("R-190")
async def test_2_3_a_workload_that_nothing_matches_is_not_linked(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await add(rest, url=upstream.url + "/other")

    made = await register(rest, "workload", url=upstream.url)

    assert (made.get("registryServerId"), made.get("registryServerName")) == (None, None)


@pytest.mark.requirement("R-189")
async def test_2_4_many_workloads_are_linked_to_one_entry(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url)

    made = [await register(rest, f"workload{n}", url=upstream.url) for n in range(3)]

    seen = (await rest.ask(ALICE, "GET", f"/catalog/servers/{entry['id']}")).json()
    assert {one.get("registryServerId") for one in made} == {entry["id"]}
    assert seen["linkedServers"] == 3


@pytest.mark.requirement("R-188")
async def test_2_5_duplicates_refuse_a_workload_and_are_named(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url)
    rows = rest.parts.database.collection("mcpservers_registry")
    await rows.drop_index(KEY_INDEX)
    row = await rows.find_one({"_id": ObjectId(entry["id"])})
    assert row is not None
    await rows.insert_one({**row, "_id": ObjectId(), "name": "io.example/two"})

    answer = await rest.call(ALICE, "POST", json={"serverName": "workload", "url": upstream.url})

    await rows.delete_many({})
    await rows.create_index("match_key", name=KEY_INDEX, unique=True)
    assert answer.status_code == 409
    assert answer.json()["duplicates"] == ["io.example/one", "io.example/two"]
    assert (await counts(rest))["mcpservers"] == 0
    assert (await counts(rest))["mcp_tools"] == 0


async def test_2_6_a_workload_that_cannot_be_read_is_stored_in_error(rest: Rest) -> None:
    made = await register(rest, "workload", url="http://127.0.0.1:9/mcp")

    assert made["status"] == "error"


@pytest.mark.requirement("R-081")
@pytest.mark.requirement("R-082")
@pytest.mark.parametrize(
    "identity",
    [{"url": "https://example.com"}, {"package": PACKAGE}],
    ids=["url", "package"],
)
async def test_an_identity_is_in_the_catalog_once(rest: Rest, identity: dict[str, Any]) -> None:
    await add(rest, **identity)
    same = {"name": "io.example/two", **identity}
    if "url" in same:
        same["url"] = "HTTPS://EXAMPLE.com:443/"

    answer = await rest.ask(ROOT, "POST", "/catalog/servers", json=same)

    assert answer.status_code == 409
    assert "io.example/one" in answer.json()["message"]


@pytest.mark.requirement("R-084")
@pytest.mark.parametrize(
    "identity",
    [{}, {"url": "https://example.com/mcp", "package": PACKAGE}, {"url": "mailto:a@b.example"}],
    ids=["neither", "both", "no address"],
)
async def test_an_entry_has_a_url_or_a_package(rest: Rest, identity: dict[str, Any]) -> None:
    body = {"name": "io.example/one", **identity}

    answer = await rest.ask(ROOT, "POST", "/catalog/servers", json=body)

    assert answer.status_code == 422


@pytest.mark.requirement("R-193")
async def test_3_1_and_3_2_added_and_removed_tools_leave_link_and_inherited_description(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url, description="Finds all.")
    made = await register(rest, "workload", url=upstream.url)
    shout = '{"name":"shout","inputSchema":{"type":"object"}}'
    seen = []

    for tools in (f"[{ECHO},{shout}]", f"[{shout}]"):
        upstream.tools = tools
        await rest.call(ALICE, "POST", f"/{made['id']}/refresh")
        seen.append(await server(rest, made))

    assert [one["tools"] for one in seen] == ["echo, shout", "shout"]
    for one in seen:
        assert one["registryServerId"] == entry["id"]
        assert one["registryServerDescription"] == "Finds all."


@pytest.mark.requirement("R-198")
async def test_3_4_an_entry_that_comes_later_links_nothing_until_it_is_asked_for(
    rest: Rest, upstream: PlainUpstream
) -> None:
    made = await register(rest, "workload", url=upstream.url)
    entry = await add(rest, url=upstream.url)
    await rest.call(ALICE, "POST", f"/{made['id']}/refresh")
    before = (await server(rest, made)).get("registryServerId")

    answer = await rest.ask(ALICE, "POST", "/catalog/match")
    again = await rest.ask(ALICE, "POST", "/catalog/match", json={"serverIds": [made["id"]]})

    assert before is None
    assert (answer.json()["linked"], again.json()["unchanged"]) == (1, 1)
    assert (await server(rest, made)).get("registryServerId") == entry["id"]


@pytest.mark.requirement("R-199")
async def test_3_7_another_url_or_package_links_relinks_and_unlinks_the_same_record(
    rest: Rest, upstream: PlainUpstream
) -> None:
    first = await add(rest, url=upstream.url)
    second = await add(rest, name="io.example/two", package=PACKAGE)
    made = await register(rest, "workload", url=upstream.url + "?none")
    seen = [made.get("registryServerId")]

    for change in (
        {"url": upstream.url},
        {"package": PACKAGE},
        {"description": "Something else."},
        {"package": {"registryType": "npm", "identifier": "mcp/awesome-tool"}},
    ):
        answer = await rest.call(ALICE, "PATCH", f"/{made['id']}", json=change)
        assert answer.status_code == 200, answer.text
        seen.append(answer.json().get("registryServerId"))

    assert seen == [None, first["id"], second["id"], second["id"], None]
    assert (await server(rest, made))["package"]["registryType"] == "npm"
    assert (await counts(rest))["mcpservers"] == 1


@pytest.mark.requirement("R-351")
@pytest.mark.requirement("R-197")
@pytest.mark.requirement("R-207")
async def test_3_6_and_3_3_a_rename_and_a_removal_reach_all_linked_servers(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry = await add(rest, url=upstream.url, description="Of the entry.")
    made = await register(rest, "workload", url=upstream.url, description="Its own.")
    path = f"/catalog/servers/{entry['id']}"

    async def is_named(name: str | None) -> bool:
        return (await server(rest, made)).get("registryServerName") == name

    renamed = await rest.ask(ROOT, "PATCH", path, json={"name": "io.example/new"})
    await until_async(lambda: is_named("io.example/new"))
    await rest.ask(ROOT, "DELETE", path)
    await until_async(lambda: is_named(None))

    assert renamed.json()["server"]["name"] == "io.example/new"
    left = await server(rest, made)
    assert left.get("registryServerId") is None
    assert (left.get("registryServerDescription"), left["description"]) == (None, "Its own.")


async def test_plain_users_read_the_catalog_and_administrators_of_all_tenants_change_it(
    rest: Rest,
) -> None:
    entry = await add(rest, url="https://example.com/mcp")
    body = {"name": "io.example/two", "package": PACKAGE}

    read = await rest.ask(ALICE, "GET", "/catalog/servers", params={"query": "ONE"})
    made = await rest.ask(ALICE, "POST", "/catalog/servers", json=body)
    removed = await rest.ask(ALICE, "DELETE", f"/catalog/servers/{entry['id']}")

    assert [one["id"] for one in read.json()["servers"]] == [entry["id"]]
    assert (made.status_code, made.json()["error"]) == (403, "insufficient_scope")
    assert removed.status_code == 403


async def test_a_secret_in_a_url_is_refused(rest: Rest) -> None:
    entry = await add(rest, url="https://example.com/mcp")
    secret = {"url": "https://example.com/mcp?api_key=s"}

    new = await rest.ask(ROOT, "POST", "/catalog/servers", json={"name": "io.x/y", **secret})
    changed = await rest.ask(ROOT, "PATCH", f"/catalog/servers/{entry['id']}", json=secret)

    assert [answer.status_code for answer in (new, changed)] == [422, 422]
    assert [answer.json()["details"][0]["field"] for answer in (new, changed)] == ["url", "url"]


@pytest.mark.parametrize(
    "member",
    [
        {"name": "a b"},
        {"name": "io.ex/../../x"},
        {"name": "io.ex/.."},
        {"url": "https://a.example:99999/mcp"},
        {"url": "https://a.example:0/mcp"},
        {"url": "https://a b.example/mcp"},
        {"version": "latest"},
        {"version": "1/2"},
    ],
)
async def test_names_urls_and_versions_of_other_forms_are_refused(
    rest: Rest, member: dict[str, str]
) -> None:
    entry = await add(rest, url="https://example.com/mcp")
    body = {"name": "io.example/two", "url": "https://two.example/mcp", **member}

    new = await rest.ask(ROOT, "POST", "/catalog/servers", json=body)
    changed = await rest.ask(ROOT, "PATCH", f"/catalog/servers/{entry['id']}", json=member)

    assert [answer.status_code for answer in (new, changed)] == [422, 422]
    assert [answer.json()["details"][0]["field"] for answer in (new, changed)] == [
        next(iter(member))
    ] * 2


async def test_an_outdated_etag_is_refused(rest: Rest) -> None:
    entry = await add(rest, url="https://example.com/mcp")
    path = f"/catalog/servers/{entry['id']}"
    etag = (await rest.ask(ROOT, "GET", path)).headers["ETag"]

    first = await rest.ask(ROOT, "PATCH", path, json={"title": "One"}, headers={"If-Match": etag})
    second = await rest.ask(ROOT, "PATCH", path, json={"title": "Two"}, headers={"If-Match": etag})

    assert (first.status_code, first.json()["title"], second.status_code) == (200, "One", 409)


async def test_an_odd_entry_costs_only_itself(rest: Rest) -> None:
    entry = await add(rest, url="https://example.com/mcp")
    rows = rest.parts.database.collection("mcpservers_registry")
    row = await rows.find_one({"_id": ObjectId(entry["id"])})
    assert row is not None
    odd = {**row, "_id": ObjectId(), "name": "io.example/odd", "match_key": "x", "kind": 7}
    await rest.parts.database.db.command(
        "insert", "mcpservers_registry", documents=[odd], bypassDocumentValidation=True
    )
    await rest.follow()

    listed = await rest.ask(ALICE, "GET", "/catalog/servers")

    assert [one["name"] for one in listed.json()["servers"]] == ["io.example/one"]
