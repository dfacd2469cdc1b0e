"""Names on the combined server: unique, stable, and acceptable to every model."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.gateway.values import FeatureEntry, tool_entry
from registry.gateway.view.catalogue import Catalogue, qualified_uri, split_uri
from registry.gateway.view.offering import CombinedOffering
from registry.tools.naming import public_name, public_prefix, public_suffix
from tests.conftest import ALICE
from tests.gateway.fakes import make_route

ACCEPTABLE = re.compile(r"[A-Za-z0-9_-]{1,64}")

# Small alphabets, so that names which could be confused are tried often.
slugs = st.one_of(
    st.text("ab_-.0f", min_size=1, max_size=8).map("s".__add__),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
)
tools = st.one_of(
    st.text("ab_-.0f/", min_size=1, max_size=8),
    st.from_regex(r"[A-Za-z0-9_.\-/]{1,128}", fullmatch=True),
    st.text(min_size=1, max_size=80),
)


@pytest.mark.requirement("R-236")
@given(slugs, tools)
@example("s" * 128, "t" * 128)
def test_a_name_is_acceptable_to_every_model(slug: str, tool: str) -> None:
    assert ACCEPTABLE.fullmatch(public_name(slug, tool))


@pytest.mark.requirement("R-236")
@given(st.sets(st.tuples(slugs, tools), min_size=2, max_size=30))
def test_no_two_tools_have_the_same_name(offered: set[tuple[str, str]]) -> None:
    names = {public_name(slug, tool) for slug, tool in offered}

    assert len(names) == len(offered)


@given(slugs, tools)
def test_what_is_shortened_cannot_be_had_by_asking_for_the_short_name(
    slug: str, tool: str
) -> None:
    prefix = public_prefix(slug)
    short = public_suffix(prefix, tool)

    if short != tool:
        assert public_suffix(prefix, short) != short
    if prefix != slug:
        assert public_prefix(prefix) != prefix


@pytest.mark.requirement("R-236")
@settings(max_examples=50)
@given(
    st.dictionaries(slugs, st.sets(tools, min_size=1, max_size=5), min_size=1, max_size=6),
    st.data(),
)
def test_no_server_that_comes_or_goes_renames_what_another_offers(
    servers: dict[str, set[str]], data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(servers)), min_size=1))
    everything = _names(servers)
    fewer = _names({slug: servers[slug] for slug in kept})

    assert fewer == {key: name for key, name in everything.items() if key[0] in kept}


def _names(servers: dict[str, set[str]]) -> dict[tuple[str, str], str]:
    """Return the name of each tool, checking that it leads back to that tool."""
    routes = {
        slug: make_route(slug=slug, tools=[tool_entry(name, "{}") for name in sorted(names)])
        for slug, names in servers.items()
    }
    offering = CombinedOffering(Catalogue(routes).view(ALICE, admin_uses_private=False))
    found: dict[tuple[str, str], str] = {}
    for slug, names in servers.items():
        for name in names:
            public = public_name(slug, name)
            owned = offering.tool(public)
            assert owned is not None
            assert (owned.route.slug, owned.key) == (slug, name)
            found[slug, name] = public
    return found


@given(slugs, st.text(min_size=1))
def test_a_qualified_uri_says_which_server_is_meant(slug: str, uri: str) -> None:
    assert split_uri(qualified_uri(slug, uri)) == (slug, uri)


@pytest.mark.parametrize("uri", ["file:///x", "mcp.", "mcp.x", "mcp.+", "mcp.x+", "mcp.+x"])
def test_any_other_uri_names_no_server(uri: str) -> None:
    assert split_uri(uri) is None


def test_names_that_need_no_change_stay_readable() -> None:
    assert public_name("github", "create_issue") == "github__create_issue"
    assert public_name("my.server", "a/b").startswith("my-server-")
    assert public_name("github", "x" * 128).startswith("github__xxxx")


def test_a_qualified_uri_leads_to_the_server_it_names_whatever_others_list() -> None:
    taken = "mcp.victim+note://a"
    fake = FeatureEntry(taken, b'{"uri":"mcp.victim+note://a"}')
    greedy = FeatureEntry("{+all}", b'{"uriTemplate":"{+all}"}')
    hostile = make_route(slug="hostile", server_id="0" * 24, resources=[fake], templates=[greedy])
    victim = make_route(slug="victim", server_id="1" * 24)
    view = Catalogue({"hostile": hostile, "victim": victim}).view(ALICE, admin_uses_private=False)

    owned = view.resource(taken)
    own = view.resource(f"mcp.hostile+{taken}")

    assert owned is not None
    assert (owned.route, owned.key) == (victim, "note://a")
    assert own is not None
    assert (own.route, own.key) == (hostile, taken)
    assert view.resource("secret://x") is None
    assert f"mcp.hostile+{taken}".encode() in view.page("resources", None)
