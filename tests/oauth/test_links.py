"""Links that start a flow."""

from dataclasses import replace

from registry.oauth.links import LinkSeal
from registry.oauth.values import OAuthServer
from tests.conftest import ALICE
from tests.fakes.clock import NOON, FakeClock

SERVER = OAuthServer("3" * 24, "github", "github", "GitHub", "https://mcp.example", {}, NOON, NOON)


def test_a_job_that_reads_for_a_user_makes_no_link_that_they_get() -> None:
    links = LinkSeal([bytes(32)], "https://registry.example", FakeClock())
    of_a_job = links.link(replace(ALICE, username="", tenant_id="acme"), SERVER)

    link = links.link(ALICE, SERVER)

    assert link.flow_id != of_a_job.flow_id
    ticket = links.open(link.url.partition("ticket=")[2])
    assert ticket is not None
    assert (ticket.username, ticket.tenant_id) == (ALICE.username, ALICE.tenant_id)
    assert links.link(ALICE, SERVER) is link


def test_a_server_that_names_many_scopes_gets_a_link_that_can_be_opened() -> None:
    links = LinkSeal([bytes(32)], "https://registry.example", FakeClock())

    link = links.link(ALICE, SERVER, tuple(f"scope-{number}" for number in range(5_000)))

    assert len(link.url) < 8_000
    ticket = links.open(link.url.partition("ticket=")[2])
    assert ticket is not None
    assert ticket.scopes[:2] == ("scope-0", "scope-1")
