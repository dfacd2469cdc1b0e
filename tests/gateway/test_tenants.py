"""Servers of several tenants behind one gateway, some of which have one path."""

import asyncio
from dataclasses import replace

import pytest

from registry.access.policy import ServerFacts, ServerScope, decide_use
from registry.auth.identity import UserContext
from registry.gateway.view.catalogue import Catalogue
from registry.gateway.view.offering import CombinedOffering
from tests.conftest import ALICE, BOB, ROOT
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.fakes import AUTHOR, make_route
from tests.gateway.meeting import Speech, connected

ACME = ServerFacts(AUTHOR, ServerScope.SHARED_APP, tenant_id="acme")
OTHER = ServerFacts(AUTHOR, ServerScope.SHARED_APP, tenant_id="other")
NOBODYS = ServerFacts(AUTHOR, ServerScope.SHARED_APP)


@pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
@pytest.mark.parametrize("user", [ALICE, ROOT], ids=["user", "administrator"])
async def test_a_server_of_another_tenant_does_not_exist(
    start_gateway: StartGateway, user: UserContext, path: str
) -> None:
    gateway: Gateway = await start_gateway(
        make_route(facts=OTHER), make_route(slug="own", facts=ACME), admin_uses_private=True
    )
    gateway.authenticate.change(replace(user, tenant_id="acme"))
    sent = request("tools/call", {"name": "demo__echo" if path == "/mcp" else "echo"})
    unknown = request("tools/call", {"name": "none__echo" if path == "/mcp" else "echo"})
    headers = {
        "authorization": f"Bearer {user.username}",
        "accept": "application/json, text/event-stream",
    }

    theirs = await gateway.http.post(path, json=sent, headers=headers)
    nobodys = await gateway.http.post(path.replace("demo", "none"), json=unknown, headers=headers)

    assert theirs.status_code == nobodys.status_code
    assert theirs.text.replace("demo", "none") == nobodys.text


@pytest.mark.parametrize("speech", Speech)
async def test_the_combined_server_is_that_of_the_callers_tenant(
    start_gateway: StartGateway, speech: Speech
) -> None:
    gateway: Gateway = await start_gateway(
        make_route(slug="theirs", facts=OTHER),
        make_route(slug="own", facts=ACME),
        make_route(slug="nobodys", facts=NOBODYS),
    )
    gateway.authenticate.change(replace(ROOT, tenant_id="acme"))

    async with asyncio.timeout(30), connected(gateway.url, speech, "/mcp", "root") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]

    assert {name.partition("__")[0] for name in names} == {"own"}


def test_members_of_two_tenants_may_have_one_name() -> None:
    own, theirs = make_route(facts=ACME), make_route(facts=OTHER, server_id="9" * 24)
    catalogue = Catalogue({"own": own, "theirs": theirs})
    alice, bob = replace(ALICE, tenant_id="acme"), replace(BOB, tenant_id="other")

    found = [
        CombinedOffering(catalogue.view(user, admin_uses_private=False)).tool("demo__echo")
        for user in (alice, bob, ALICE)
    ]

    assert [one and one.route for one in found] == [own, theirs, None]
    assert decide_use(alice, own.facts).allowed


def test_names_of_what_is_of_a_tenant_are_no_labels() -> None:
    assert make_route(facts=NOBODYS).label == "demo"
    assert make_route(facts=ACME).label == "(not public)"
