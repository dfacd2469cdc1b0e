"""Approved calls at a path that a toolset narrows."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from registry.auth.identity import UserContext
from registry.core.settings import Settings
from tests.gateway.test_toolsets import ERAS, Sets, running
from tests.kit.waiting import until_async

pytestmark = pytest.mark.wire

TOOL = {"server": "code", "tool": "get_*"}


@dataclass(frozen=True)
class Narrowing:
    """What narrows the path for a call: a header, or the default of a client."""

    toolset: str
    connection: dict[str, str]


NARROWINGS = (
    Narrowing("by-header", {"header": "by-header"}),
    Narrowing("by-default", {"name": "ide"}),
)


async def pending(sets: Sets, root: UserContext) -> list[dict[str, Any]]:
    """Return the requests that wait."""
    query = {"state": "pending"}
    answer = await sets.ask(root, "GET", "/approvals", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["approvals"])


@pytest.mark.requirement("R-222")
@pytest.mark.requirement("R-226")
@pytest.mark.parametrize("is_changed", [False, True])
async def test_an_approved_call_is_made_only_while_the_toolset_has_its_tool(
    settings: Settings, root: UserContext, alice: UserContext, *, is_changed: bool
) -> None:
    async with asyncio.timeout(60), running(settings, root, alice) as sets:
        found = (await sets.ask(root, "GET", "/registry/tools")).json()["tools"]
        (row,) = (one for one in found if one["name"] == "get_file")
        demand = {"tool_metadata": {"human_approval_required": True}}
        patched = await sets.ask(root, "PATCH", f"/registry/tools/{row['id']}", json=demand)
        assert patched.status_code == 200, patched.text
        made = {one.toolset: await sets.made(root, one.toolset, TOOL) for one in NARROWINGS}
        for toolset in made.values():
            share = f"/permissions/toolset/{toolset['id']}"
            await sets.ask(root, "PUT", share, json={"public": True})
        default = {"default_for": {"clients": ["ide"]}}
        await sets.ask(root, "PATCH", f"/toolsets/{made['by-default']['id']}", json=default)
        for mode in ERAS:
            for narrowing in NARROWINGS:
                toolset = f"/toolsets/{made[narrowing.toolset]['id']}"
                async with (
                    sets.client(alice, "", mode, **narrowing.connection) as client,
                    asyncio.TaskGroup() as group,
                ):
                    call = group.create_task(
                        client.call_tool("code__get_file", {"path": f"{mode}/{narrowing.toolset}"})
                    )
                    await until_async(lambda: pending(sets, root))
                    (approval,) = await pending(sets, root)
                    if is_changed:
                        entries = {"entries": [{"server": "wiki", "tool": "*"}]}
                        await sets.ask(root, "PATCH", toolset, json=entries)
                    await sets.ask(root, "POST", f"/approvals/{approval['id']}/approve", json={})
                    result = await call
                if is_changed:
                    assert result.is_error
                    assert "not in its requester's toolset any more" in str(result.content)
                    await sets.ask(root, "PATCH", toolset, json={"entries": [TOOL]})
                else:
                    assert not result.is_error, result.content
