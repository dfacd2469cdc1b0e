"""Seven faults that an earlier program of this kind had, none of which is here.

It matched servers to its registry and found tools by text and vectors, and broke rules that it was
specified by. A test each, under the fault's number.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId

from packages.models.catalog import KEY_INDEX
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.search.ports import Kind
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest
from tests.kit.waiting import until_async
from tests.search.embedding.world import HashModel, Replica, mean_vector, same

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
PACKAGE = {"registryType": "oci", "identifier": "example/mail:1"}
TWO_TOOLS = (
    '[{"name":"echo","inputSchema":{"type":"object"}},'
    '{"name":"shout","inputSchema":{"type":"object"}}]'
)


@pytest_asyncio.fixture(loop_scope="module")
async def away() -> AsyncIterator[PlainUpstream]:
    async with plain_upstream() as upstream:
        yield upstream


async def entry_of(rest: Rest, **body: Any) -> dict[str, Any]:
    answer = await rest.ask(ROOT, "POST", "/catalog/servers", json={"name": "io.ex/mail", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def read_again(rest: Rest, server: dict[str, Any]) -> dict[str, Any]:
    """Read a server's tools again; return the server."""
    answer = await rest.call(ALICE, "POST", f"/{server['id']}/refresh")
    assert answer.status_code == 200, answer.text
    return dict((await rest.call(ALICE, "GET", f"/{server['id']}")).json())


async def found(rest: Rest, query: str, kind: str) -> list[dict[str, Any]]:
    asked = {"query": query, "kinds": [kind]}
    answer = await rest.ask(ALICE, "POST", "/search", json=asked)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["hits"])


@pytest.mark.requirement("R-198")
async def test_fault_1_reading_a_server_links_it_to_no_entry_that_came_later(
    rest: Rest, away: PlainUpstream
) -> None:
    server = await rest.register(ALICE, "mail", away.url)
    await entry_of(rest, url=away.url)
    away.tools = TWO_TOOLS

    seen = await read_again(rest, server)
    renamed = await rest.call(ALICE, "PATCH", f"/{server['id']}", json={"title": "Mail"})

    assert seen["numTools"] == 2
    assert [one.get("registryServerId") for one in (seen, renamed.json())] == [None, None]


@pytest.mark.requirement("R-199")
async def test_fault_2_a_changed_package_is_stored_and_is_no_change_the_next_time(
    rest: Rest,
) -> None:
    made = await rest.call(
        ALICE,
        "POST",
        json={"serverName": "mail", "package": PACKAGE, "status": "inactive"},
    )
    path = f"/{made.json()['id']}"
    other = {"package": {**PACKAGE, "identifier": "example/mail:2"}}

    first = await rest.call(ALICE, "PATCH", path, json=other)
    stored = await rest.parts.database.collection("mcpservers").find_one({})
    again = await rest.call(ALICE, "PATCH", path, json=other)
    stored_again = await rest.parts.database.collection("mcpservers").find_one({})

    assert first.json()["package"] == again.json()["package"] == other["package"]
    assert stored is not None
    assert stored["registry"]["package"]["identifier"] == "example/mail:2"
    assert stored_again == stored


@pytest.mark.requirement("R-197")
async def test_fault_3_an_unlinked_server_keeps_neither_description_nor_vector_of_the_entry(
    rest: Rest, away: PlainUpstream
) -> None:
    entry = await entry_of(rest, url=away.url, description="Letters of all kinds.")
    server = await rest.register(ALICE, "mail", away.url)
    inherited = await found(rest, "mail", "server")
    replica = Replica(rest.parts.database, HashModel())
    replica.add_entry("Mail")
    replica.add_server("one", "send", "read", entry="Mail")
    await replica.settle()

    async def is_unlinked() -> bool:
        seen = (await rest.call(ALICE, "GET", f"/{server['id']}")).json()
        (hit,) = await found(rest, "mail", "server")
        return "registryServerId" not in seen and hit["description"] == "Tools: echo"

    await rest.ask(ROOT, "DELETE", f"/catalog/servers/{entry['id']}")
    await until_async(is_unlinked)
    replica.remove_entry("Mail")
    await replica.settle()

    assert inherited[0]["description"] == "Letters of all kinds."
    left = (await rest.call(ALICE, "GET", f"/{server['id']}")).json()
    assert "registryServerDescription" not in left
    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send", "read"))


@pytest.mark.requirement("R-192")
async def test_fault_4_description_and_mean_of_an_unlinked_server_follow_its_tools(
    rest: Rest, away: PlainUpstream
) -> None:
    server = await rest.register(ALICE, "mail", away.url)
    before = await found(rest, "mail", "server")
    replica = Replica(rest.parts.database, HashModel())
    free = replica.add_server("one", "send")
    await replica.settle()

    away.tools = TWO_TOOLS
    await read_again(rest, server)
    free.tools["read"] = "Does read for you."
    await replica.settle()

    assert before[0]["description"] == "Tools: echo"
    assert (await found(rest, "mail", "server"))[0]["description"] == "Tools: echo, shout"
    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send", "read"))


@pytest.mark.requirement("R-188")
async def test_fault_5_duplicate_entries_refuse_a_server_and_nothing_is_stored(
    rest: Rest, away: PlainUpstream
) -> None:
    entry = await entry_of(rest, url=away.url)
    rows = rest.parts.database.collection("mcpservers_registry")
    await rows.drop_index(KEY_INDEX)
    row = await rows.find_one({"_id": ObjectId(entry["id"])})
    assert row is not None
    await rows.insert_one({**row, "_id": ObjectId(), "name": "io.ex/other"})

    answer = await rest.call(ALICE, "POST", json={"serverName": "mail", "url": away.url})

    await rows.delete_many({})
    await rows.create_index("match_key", name=KEY_INDEX, unique=True)
    assert (answer.status_code, answer.json()["duplicates"]) == (
        409,
        ["io.ex/mail", "io.ex/other"],
    )
    assert await rest.parts.database.collection("mcpservers").count_documents({}) == 0


async def test_fault_6_tools_that_did_not_change_are_not_embedded_again(rest: Rest) -> None:
    model = HashModel()
    replica = Replica(rest.parts.database, model)
    replica.add_server("one", "send", "read")
    await replica.settle()
    model.calls.clear()

    for document in replica.documents().values():
        # As after a restart, or a reading that found the same.
        replica.feeder.note([document.key], [])
    await replica.settle()

    assert model.calls == []


@pytest.mark.requirement("R-201")
async def test_fault_7_tools_of_servers_that_are_off_are_not_found(
    rest: Rest, away: PlainUpstream
) -> None:
    server = await rest.register(ALICE, "mail", away.url)
    on = await found(rest, "echo", "tool")

    await rest.call(ALICE, "POST", f"/{server['id']}/toggle", json={"enabled": False})

    assert [one["name"] for one in on] == ["echo"]
    assert await found(rest, "echo", "tool") == []
