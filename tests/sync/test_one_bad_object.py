"""An object of a list that cannot be read costs only itself, however the list arrives."""

import asyncio
import gc
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from packages.models.states import FeatureKind
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.values import ConnectionSpec, Discovered, Transport
from registry.sync.discovery import DiscoveryService
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from tests.fakes.listing import Way, listing
from tests.sync.bad_objects import bad_tools, nested

GOOD = [b'{"name":"good%d","inputSchema":{"type":"object"}}' % number for number in range(3)]
GOOD_NAMES = ["good0", "good1", "good2"]
BAD = bad_tools("bad")
SECONDS = 10
"""Far more than any of it takes; what hangs or is refused as a whole fails sooner."""


async def read(
    settings: Settings, way: Way, freed: Callable[[int], None] = lambda _: None, **lists: bytes
) -> Discovered:
    """Return what a real server with these lists is taken for."""
    discovery = DiscoveryService(
        UrlGuard(("127.0.0.0/8",)),
        Instance.of([bytes(32)]),
        settings=settings,
        clock=SystemClock(),
        metrics=Metrics(),
        freed=freed,
    )
    transport = Transport.SSE if way is Way.SSE else Transport.STREAMABLE_HTTP
    async with asyncio.timeout(SECONDS), listing(way, **lists) as (_, url):
        return await discovery.discover(ConnectionSpec(url, transport))


def page(*objects: bytes) -> bytes:
    """Return a list."""
    return b"[" + b" ,\n".join(objects) + b"]"


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("told", list(BAD))
async def test_a_tool_that_cannot_be_read_costs_only_itself(
    settings: Settings, way: Way, told: str
) -> None:
    bad, reason = BAD[told]

    found = await read(settings, way, tools=page(GOOD[0], bad, *GOOD[1:]))

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert [(tool.name, reason in tool.reason) for tool in found.snapshot.rejected] == [
        ("bad", True)
    ]


@pytest.mark.parametrize("way", list(Way))
async def test_all_bad_tools_at_once_cost_only_themselves(settings: Settings, way: Way) -> None:
    # Whatever a page may weigh; each way has a comma in another place.
    bad = [tool for tool, _ in BAD.values() if len(tool) < 100_000]

    found = await read(settings, way, tools=page(*bad, *GOOD, *reversed(bad)))

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert {tool.name for tool in found.snapshot.rejected} == {"bad"}
    assert len(found.snapshot.rejected) == 2 * len(bad)


async def test_a_tool_whose_name_is_broken_is_shown_without_what_is_broken(
    settings: Settings,
) -> None:
    bad = rb'{"name":"a\ud800\nb","inputSchema":{"type":"object"}}'

    found = await read(settings, Way.MODERN_JSON, tools=page(*GOOD, bad))

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert [tool.name for tool in found.snapshot.rejected] == ["a??b"]


@pytest.mark.parametrize("way", list(Way))
async def test_prompts_and_resources_that_cannot_be_read_cost_only_themselves(
    settings: Settings, way: Way
) -> None:
    deep = nested(5_000)

    found = await read(
        settings,
        way,
        tools=page(*GOOD),
        prompts=page(b'{"name":"p","x":%s}' % deep, b'{"name":"q"}'),
        resources=page(b'{"uri":"x:a","name":"a","x":9%s}' % (b"9" * 5_000), b'{"uri":"x:b"}'),
        resourceTemplates=page(b'{"name":"t","uriTemplate":"x:{a}","b":1,"b":2}'),
    )

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert [item.key for item in found.features.lists[FeatureKind.PROMPT]] == ["q"]
    assert [(item.name, item.reason) for item in found.features.problems] == [
        ("prompts/p", "is nested deeper than 64 levels"),
        ("resources/x:a", "contains a number that cannot be stored"),
        ("resources/x:b", "has no name"),
        ("resourceTemplates/x:{a}", "has two members of one name"),
    ]


UNFIT = [
    ("annotations", "x"),
    ("annotations", []),
    ("annotations", {"readOnlyHint": "banana"}),
    ("annotations", {"title": 5}),
    ("_meta", 5),
    ("icons", "x"),
    ("icons", [{}]),
    ("icons", [{"src": "data:,", "theme": 5}]),
    ("execution", {"taskSupport": "banana"}),
]
"""What the SDK's own types do not take, with which its clients refuse the whole list."""


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize(("member", "value"), UNFIT)
async def test_a_tool_that_no_client_could_read_costs_only_itself(
    settings: Settings, member: str, value: object
) -> None:
    bad = {"name": "bad", "inputSchema": {"type": "object"}, member: value}

    found = await read(
        settings, Way.MODERN_JSON, tools=page(GOOD[0], json.dumps(bad).encode(), *GOOD[1:])
    )

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert [(tool.name, member in tool.reason) for tool in found.snapshot.rejected] == [
        ("bad", True)
    ]


async def test_prompts_and_resources_that_no_client_could_read_cost_only_themselves(
    settings: Settings,
) -> None:
    found = await read(
        settings,
        Way.MODERN_JSON,
        tools=page(*GOOD),
        prompts=page(b'{"name":"p","icons":"x"}', b'{"name":"q"}'),
        resources=page(b'{"uri":"x:a","name":"a","size":"big"}', b'{"uri":"x:b","name":"b"}'),
        resourceTemplates=page(b'{"name":"t","uriTemplate":"x:{a}","annotations":[]}'),
    )

    lists = found.features.lists
    assert [item.key for item in lists[FeatureKind.PROMPT]] == ["q"]
    assert [item.key for item in lists[FeatureKind.RESOURCE]] == ["x:b"]
    assert [item.name for item in found.features.problems] == [
        "prompts/p",
        "resources/x:a",
        "resourceTemplates/x:{a}",
    ]


@pytest.mark.parametrize("extra", [b'"_meta":%s', b'"ttlMs":0,"x":%s', b'"nextCursor":"","x":%s'])
async def test_what_stands_beside_the_list_costs_nothing(settings: Settings, extra: bytes) -> None:
    beside = b"%s," % page(*GOOD) + extra % nested(5_000)

    found = await read(settings, Way.LEGACY_JSON, tools=beside)

    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES


ANY_NUMBER = st.one_of(
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.sampled_from(["1e400", "-1e400", "9" * 4301, "1E-999", "-0", "0.1e+1"]),
)
ANY_TEXT = st.text(st.characters(), max_size=8).map(json.dumps) | st.sampled_from(
    [r'"\ud800"', r'"\udc00\ud800"', '"\\u0000"', '"\\/"']
)
KEYS = ANY_TEXT | st.sampled_from(
    ['"name"', '"inputSchema"', '"description"', '"annotations"', '"type"', '"$ref"', '"tools"']
)
ANY_JSON = st.recursive(
    st.sampled_from(["null", "true", "false", '"object"', '"good1"']) | ANY_NUMBER | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(KEYS, inner), max_size=5).map(
            lambda pairs: "{" + ",".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
        | st.tuples(st.integers(60, 1500), inner).map(
            lambda pair: '[{"x":' * pair[0] + pair[1] + "}]" * pair[0]
        )
    ),
    max_leaves=12,
)
"""JSON text of every kind, values included that no program writes."""


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(way=st.sampled_from(list(Way)), bad=ANY_JSON, named=st.booleans())
async def test_whatever_stands_between_two_good_tools_they_are_taken(
    settings: Settings, way: Way, bad: str, *, named: bool
) -> None:
    between = '{"name":"bad","inputSchema":%s}' % bad if named else bad  # noqa: UP031 - JSON text

    found = await read(
        settings,
        way,
        tools=page(GOOD[0], between.encode(), GOOD[1]),
        prompts=page(between.encode(), b'{"name":"p"}'),
        resources=page(b'{"uri":"x:a","name":"a"}', between.encode()),
    )

    features = {kind: {item.key for item in found.features.lists[kind]} for kind in FeatureKind}
    assert "p" in features[FeatureKind.PROMPT]
    assert "x:a" in features[FeatureKind.RESOURCE]
    taken = {tool.name for tool in found.snapshot.tools}
    assert {"good0", "good1"} <= taken
    assert len(found.snapshot.tools) + len(found.snapshot.rejected) == 3
    assert not named or "bad" in taken | {tool.name for tool in found.snapshot.rejected}


async def test_what_does_not_fit_into_the_bytes_of_a_server_costs_only_itself(
    settings: Settings,
) -> None:
    bounded = settings.model_copy(update={"server_max_definition_bytes": 200})
    large = b'{"name":"large","description":"%s","inputSchema":{"type":"object"}}' % (b"x" * 200)
    prompts = page(b'{"name":"p"}', b'{"name":"much","description":"%s"}' % (b"x" * 200))

    found = await read(bounded, Way.LEGACY_JSON, tools=page(large, *GOOD), prompts=prompts)

    told = "does not fit into the 200 bytes of all definitions of its server"
    assert [tool.name for tool in found.snapshot.tools] == GOOD_NAMES
    assert [(one.name, one.reason) for one in found.snapshot.rejected] == [("large", told)]
    assert [one.key for one in found.features.lists[FeatureKind.PROMPT]] == ["p"]
    assert [(one.name, one.reason) for one in found.features.problems] == [("prompts/much", told)]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", list(Way))
async def test_what_was_read_is_dropped_and_its_bytes_are_told(
    settings: Settings, way: Way
) -> None:
    sent: list[int] = []
    tools = page(*GOOD)

    taken = await read(settings, way, sent.append, tools=tools)

    left = [
        item
        for item in gc.get_objects()
        if type(item) is dict and item.get("name") == "good0" and "inputSchema" in item
    ]
    assert len(taken.snapshot.tools) == len(GOOD)
    assert left == []
    assert sum(sent) > len(tools)
