"""Nobody's change to a server is lost, however many change it at once."""

import asyncio
from typing import Any

import httpx
import pytest

from registry.auth.identity import UserContext
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
RACERS = 100
WRITERS = 8
RIGHTS = ("etag", "updatedAt")


def expecting(kind: str, etag: str, updated_at: str) -> dict[str, Any]:
    """Return the part of a request that says what was read."""
    if kind == "etag":
        return {"headers": {"If-Match": etag}, "json": {}}
    return {"headers": {}, "json": {"updatedAt": updated_at}}


@pytest.mark.requirement("R-130")
@pytest.mark.requirement("R-023")
@pytest.mark.parametrize("kind", RIGHTS)
async def test_of_a_hundred_that_read_the_same_one_writes(
    rest: Rest, alice: UserContext, kind: str
) -> None:
    server = await rest.register(alice, "s", URL)
    read = await rest.call(alice, "GET", f"/{server['id']}")
    told = expecting(kind, read.headers["etag"], read.json()["updatedAt"])

    async def write(number: int) -> httpx.Response:
        body = {**told["json"], "title": f"title {number}"}
        return await rest.call(
            alice, "PATCH", f"/{server['id']}", json=body, headers=told["headers"]
        )

    answers = await asyncio.gather(*(write(number) for number in range(RACERS)))

    won = [answer for answer in answers if answer.status_code == 200]
    lost = [answer for answer in answers if answer.status_code == 409]
    assert (len(won), len(lost)) == (1, RACERS - 1)
    after = (await rest.call(alice, "GET", f"/{server['id']}")).json()
    assert after["title"] == won[0].json()["title"]
    assert {answer.json()["current_updated_at"] for answer in lost} == {after["updatedAt"]}


async def test_what_each_adds_after_reading_again_is_all_there(
    rest: Rest, alice: UserContext
) -> None:
    server = await rest.register(alice, "s", URL)

    async def add(tag: str) -> None:
        while True:
            read = await rest.call(alice, "GET", f"/{server['id']}")
            tags = [*read.json()["tags"], tag]
            answer = await rest.call(
                alice,
                "PATCH",
                f"/{server['id']}",
                json={"tags": tags},
                headers={"If-Match": read.headers["etag"]},
            )
            if answer.status_code == 200:
                return
            assert answer.status_code == 409

    names = [f"t{number}" for number in range(WRITERS)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(add(name) for name in names))

    after = (await rest.call(alice, "GET", f"/{server['id']}")).json()
    assert sorted(after["tags"]) == names
    logs = rest.parts.database.collection("audit_logs")
    assert await logs.count_documents({"action": "update"}) == WRITERS


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("DELETE", "", None), ("POST", "/toggle", {"enabled": False}), ("PUT", "", {"title": "x"})],
)
async def test_an_outdated_etag_stops_every_kind_of_change(
    rest: Rest, alice: UserContext, method: str, path: str, body: dict[str, Any] | None
) -> None:
    server = await rest.register(alice, "s", URL)
    etag = (await rest.call(alice, "GET", f"/{server['id']}")).headers["etag"]
    await rest.call(alice, "PATCH", f"/{server['id']}", json={"title": "moved on"})

    answer = await rest.call(
        alice, method, f"/{server['id']}{path}", json=body, headers={"If-Match": etag}
    )

    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")
    after = (await rest.call(alice, "GET", f"/{server['id']}")).json()
    assert (after["title"], after["status"]) == ("moved on", server["status"])


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", 409),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 200),
        ("yesterday", 422),
    ],
)
async def test_if_unmodified_since_counts_too(
    rest: Rest, alice: UserContext, header: str, status: int
) -> None:
    server = await rest.register(alice, "s", URL)

    answer = await rest.call(
        alice,
        "PATCH",
        f"/{server['id']}",
        json={"title": "x"},
        headers={"If-Unmodified-Since": header},
    )

    assert answer.status_code == status
