"""The life of a tool as its history tells it: what happened, when, and by whose hand."""

import json
from typing import Any

import pytest

from registry.auth.identity import UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.tools.governance.test_tools_api import (
    OTHER,
    OWNER,
    ROOT,
    TOOLS,
    do,
    listed,
    offered,
    patch,
    refresh,
)

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

LONG = "MTcwMDAwMDAwMDAwMC4wMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
"""Names a place within a document, as cursors of other lists do."""

BY_ROOT = {"user_id": ROOT.user_id, "username": "root"}


async def life(
    rest: Rest, tool: dict[str, Any], user: UserContext = ROOT, **query: Any
) -> dict[str, Any]:
    """Return the answer about a tool's history."""
    answer = await rest.ask(user, "GET", f"{TOOLS}/{tool['id']}/history", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def happened(rest: Rest, tool: dict[str, Any]) -> list[list[str]]:
    """Return what happened to a tool, oldest first."""
    return [event["types"] for event in reversed((await life(rest, tool))["events"])]


async def only(rest: Rest, name: str = "sum") -> dict[str, Any]:
    """Return a tool in whatever state it is."""
    found = await listed(rest, include_stale="true", include_disabled="true")
    return found[name]


@pytest.mark.requirement("R-072")
@pytest.mark.requirement("R-152")
async def test_all_that_happens_to_a_tool_is_told(rest: Rest, upstream: PlainUpstream) -> None:
    upstream.tools = offered("sum", "rest")
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app", autoExpose="none")
    tool = await only(rest)
    await patch(rest, tool, registration_state="selected")
    await patch(rest, tool, exposure_state="disabled")
    await patch(rest, tool, exposure_state="active", tags=["billing"])
    await patch(rest, tool, registration_state="unselected")
    await do(rest, tool, "accept")
    upstream.tools = offered("sum", "rest", description="Worse.")
    await refresh(rest, server)
    await do(rest, await only(rest), "reject")
    upstream.tools = offered("sum", "rest", description="Better.")
    await refresh(rest, server)
    await do(rest, await only(rest), "accept")
    await do(rest, tool, "rollback", version=1)
    await patch(rest, tool, exposure_state="deleted")
    await patch(rest, tool, exposure_state="draft")
    upstream.tools = offered("rest")
    await refresh(rest, server)
    upstream.tools = offered("sum", "rest")
    await refresh(rest, server)

    told = await life(rest, tool, per_page=100)

    assert [(event["types"], event["actor"]) for event in reversed(told["events"])] == [
        (["discovered"], "sync"),
        (["selected", "exposed"], "operator"),
        (["disabled"], "operator"),
        (["exposed", "edited"], "operator"),
        (["unselected"], "operator"),
        (["accepted", "selected", "exposed"], "operator"),
        (["held"], "sync"),
        (["rejected"], "operator"),
        (["held"], "sync"),
        (["accepted"], "operator"),
        (["rolled_back"], "operator"),
        (["deleted"], "operator"),
        (["restored"], "operator"),
        (["vanished"], "sync"),
        (["returned"], "sync"),
    ]
    assert {json.dumps(event["by"]) for event in told["events"]} == {json.dumps(BY_ROOT)}
    times = [event["at"] for event in told["events"]]
    assert times == sorted(times, reverse=True)
    versions = [event["version"] for event in reversed(told["events"])]
    assert versions[6:11] == [2, 2, 3, 3, 1]
    (edited,) = (event for event in told["events"] if "edited" in event["types"])
    assert (edited["before"]["tags"], edited["after"]["tags"]) == ([], ["billing"])
    assert told["next_events_cursor"] is None


async def test_what_a_policy_does_is_told(rest: Rest, upstream: PlainUpstream) -> None:
    upstream.tools = offered("sum")
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app", onChange="block")
    tool = await only(rest)
    for description in ("Worse.", "Does sum."):
        upstream.tools = offered("sum", description=description)
        await refresh(rest, server)
    await rest.call(ROOT, "PATCH", f"/{server['id']}", json={"onChange": "accept"})
    upstream.tools = offered("sum", description="Newer.")
    await refresh(rest, server)

    assert await happened(rest, tool) == [
        ["discovered"],
        ["held", "blocked"],
        ["withdrawn", "released"],
        ["changed"],
    ]


async def test_older_events_are_on_further_pages(rest: Rest, upstream: PlainUpstream) -> None:
    upstream.tools = offered("sum", "rest")
    server = await rest.register(OWNER, "sums", upstream.url)
    tool = (await listed(rest, OWNER))["sum"]
    for names in (["rest"], ["sum", "rest"], ["rest"]):
        upstream.tools = offered(*names)
        await refresh(rest, server, OWNER)
    for state in ("deleted", "draft"):
        await patch(rest, tool, OWNER, exposure_state=state)
    whole = (await life(rest, tool))["events"]

    first = await life(rest, tool, per_page=2)
    second = await life(rest, tool, per_page=2, events_cursor=first["next_events_cursor"])
    third = await life(rest, tool, per_page=2, events_cursor=second["next_events_cursor"])

    assert len(whole) == 6
    assert first["events"] + second["events"] + third["events"] == whole
    assert third["next_events_cursor"] is None
    assert whole[-1]["by"] == {"user_id": OWNER.user_id, "username": "alice"}


@pytest.mark.parametrize("cursor", ["x", "MTcwMDAwMDAwMDAwMC4wMDAw", LONG])
async def test_a_cursor_that_is_none_is_refused(
    rest: Rest, upstream: PlainUpstream, cursor: str
) -> None:
    await rest.register(OWNER, "sums", upstream.url)
    (tool,) = (await listed(rest, OWNER)).values()

    path = f"{TOOLS}/{tool['id']}/history"
    answer = await rest.ask(OWNER, "GET", path, params={"events_cursor": cursor})

    assert answer.status_code == 422, answer.text
    assert answer.json()["details"][0]["field"] == "events_cursor"


async def test_a_tools_life_is_for_those_who_may_change_its_server(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    (tool,) = (await listed(rest, ROOT)).values()

    answer = await rest.ask(OTHER, "GET", f"{TOOLS}/{tool['id']}/history")

    assert answer.status_code == 403


@pytest.mark.requirement("R-172")
async def test_what_is_new_or_unchanged_writes_no_event_and_the_latest_are_kept(
    rest: Rest, upstream: PlainUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.tools.repository.SYNC_EVENTS_KEPT", 3)
    rows = rest.parts.database.collection("mcp_tools")
    upstream.tools = offered("sum", "rest")
    server = await rest.register(OWNER, "sums", upstream.url)
    await refresh(rest, server, OWNER)
    untouched = await rows.count_documents({"sync_events": {"$exists": True}})
    for names in (["rest"], ["sum", "rest"], ["rest"], ["sum", "rest"]):
        upstream.tools = offered(*names)
        await refresh(rest, server, OWNER)
    tool = (await listed(rest, OWNER))["sum"]

    assert untouched == 0
    assert await happened(rest, tool) == [["discovered"], ["returned"], ["vanished"], ["returned"]]
    assert "sync_events" not in json.dumps(tool)
