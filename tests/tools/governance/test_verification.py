"""What must hold of tools is checked in the database, whoever wrote them."""

import asyncio
import random
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import WriteError

from packages.database.client import Database
from registry.tools.governance.repository import GovernedTools
from registry.tools.governance.verification import ToolVerifier
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.tools.governance.test_tools_api import OWNER, listed, offered, patch, refresh

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


async def problems(rest: Rest) -> list[str]:
    verifier = ToolVerifier(GovernedTools(rest.parts.database))
    return [problem.reason async for problem in verifier.problems()]


@pytest.mark.requirement("R-068")
async def test_what_was_done_through_the_api_is_in_order(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered("one", "two", "three")
    server = await rest.register(OWNER, "sums", upstream.url)
    by_name = await listed(rest, OWNER)
    await patch(
        rest, by_name["one"], OWNER, display_name="Eins", tool_metadata={"read_only": True}
    )
    await patch(rest, by_name["two"], OWNER, exposure_state="disabled")
    upstream.tools = offered("one", "four", description="Newer.")
    await refresh(rest, server, OWNER)

    assert await problems(rest) == []


@pytest.mark.requirement("R-068")
async def test_changes_at_the_same_time_leave_everything_in_order(
    rest: Rest, upstream: PlainUpstream
) -> None:
    chance = random.Random(68)  # noqa: S311 - a fixed order of things
    upstream.tools = offered("one", "two", "three")
    server = await rest.register(OWNER, "sums", upstream.url)
    tools = list((await listed(rest, OWNER)).values())
    states = [
        {"exposure_state": "active", "registration_state": "selected"},
        {"exposure_state": "disabled"},
        {"registration_state": "unselected"},
    ]

    for names in (("one",), ("two", "three", "four"), ("one", "four")):
        upstream.tools = offered(*names, description="Newer.")
        answers = await asyncio.gather(
            *(patch(rest, tool, OWNER, **chance.choice(states)) for tool in tools * 3),
            rest.call(OWNER, "POST", f"/{server['id']}/refresh"),
            rest.call(OWNER, "POST", f"/{server['id']}/toggle", json={"enabled": True}),
        )

        assert {answer.status_code for answer in answers} <= {200, 409}
        assert await problems(rest) == []


@pytest.mark.requirement("R-063")
@pytest.mark.requirement("R-068")
@pytest.mark.parametrize(
    "states",
    [
        {"registration_state": "unselected", "exposure_state": "active"},
        {"registration_state": "selected", "exposure_state": "deleted"},
        {"registration_state": "chosen"},
        {"exposure_state": "shown"},
    ],
)
async def test_the_database_refuses_states_that_do_not_go_together(
    rest: Rest, upstream: PlainUpstream, states: dict[str, str]
) -> None:
    await rest.register(OWNER, "sums", upstream.url)
    rows = rest.parts.database.collection("mcp_tools")

    with pytest.raises(WriteError):
        await rows.update_one({"name": "echo"}, {"$set": states})


@pytest.mark.parametrize(
    "tags", [[], ["x", "x"], ["x" * 65], [""], [1], "x", list("abcdefghijklmnopqrstu")]
)
async def test_the_database_refuses_tags_that_no_api_would_take(
    rest: Rest, upstream: PlainUpstream, tags: object
) -> None:
    await rest.register(OWNER, "sums", upstream.url)
    rows = rest.parts.database.collection("mcp_tools")

    with pytest.raises(WriteError):
        await rows.update_one({"name": "echo"}, {"$set": {"tags": tags}})


@pytest.mark.requirement("R-068")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"definition": "{"}, "not a JSON object"),
        ({"definition": '{"name":"other"}'}, "does not match its hash"),
        ({"pending_hash": "x"}, "incomplete pending definition"),
        ({"presented": "{}"}, "not presented with"),
        ({"exposure_state": "disabled"}, "config.tools"),
        ({"owner_id": ObjectId("f" * 24)}, "does not exist"),
    ],
)
async def test_what_others_wrote_and_must_not_be_is_found(
    rest: Rest, upstream: PlainUpstream, change: dict[str, Any], told: str
) -> None:
    await rest.register(OWNER, "sums", upstream.url)
    database: Database = rest.parts.database
    await database.collection("mcp_tools").update_one({"name": "echo"}, {"$set": change})

    assert any(told in problem for problem in await problems(rest))
