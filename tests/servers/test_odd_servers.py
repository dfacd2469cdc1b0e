"""Servers with any value at any place: none of them costs another.

All are stored together and asked for one after the other.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId, Regex

from tests.conftest import ALICE, ROOT
from tests.fakes.odd_values import ODD_VALUES, insert_odd
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

MADE = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = (
    *("_id", "serverName", "author", "scope", "status", "path", "tags", "numStars", "numTools"),
    *("createdAt", "updatedAt", "lastConnected", "lastError", "errorMessage", "tenantId"),
    *("registry", "registry.eras", "registry.sync_mode", "registry.sync_interval_seconds"),
    *("registry.tool_problems", "registry.consecutive_failures", "registry.on_change"),
    *("registry.title", "registry.webhook_secret", "registry.features_read"),
    *("config", "config.url", "config.type", "config.title", "config.capabilities"),
    *("config.tools", "config.toolFunctions", "config.toolFunctions.one_mcp_odd"),
    *("config.toolFunctions._mcp_odd", "config.toolFunctions.one_mcp_odd.function"),
    *("config.toolFunctions.one_mcp_odd.function.parameters", "config.customUserVars"),
    *("config.headers", "config.headers.X-Token", "config.apiKey", "config.apiKey.key"),
    *("config.apiKey.source", "config.oauth", "config.oauth.client_secret", "config.timeout"),
    *("config.oauthMetadata", "config.initDuration", "config.requiresOAuth"),
)
CHANGED = ("updatedAt", "registry", "config.toolFunctions", "serverName")
"""Places of which it is tried whether such a server can be changed."""

REFERENCES = ("a reference", "an odd reference", "a DBRef")
"""The embedded database itself cannot look into a `config` that is one of these."""

FUNCTION = {"type": "function", "function": {"name": "one_mcp_odd", "parameters": {}}}


def odd_document(place: str, value: object, name: str, author: str) -> dict[str, Any]:
    """Return a server with *value* at *place*."""
    document: dict[str, Any] = {
        "_id": ObjectId(),
        "serverName": name,
        "author": ObjectId(author),
        "createdAt": MADE,
        "updatedAt": MADE,
        "config": {"url": "http://127.0.0.1:9/mcp", "type": "streamable-http"},
    }
    *parents, last = place.split(".")
    inner = document
    for parent in parents:
        inner = inner.setdefault(parent, dict(FUNCTION) if parent == "one_mcp_odd" else {})
    inner[last] = value
    return document


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def odd(module_rest: Rest) -> AsyncIterator[dict[str, list[str]]]:
    """Return ids of the stored servers by the odd place, beside one that is `good`.

    All are listed and loaded. To ask for each takes a minute: a third of a place's values are, and
    each value at a third of the places.
    """
    # Two documents with one value would break unique indexes, and an _id is no array.
    documents = {
        place: [
            odd_document(place, value, f"odd-{place}-{number}", ROOT.user_id)
            for number, (name, value) in enumerate(ODD_VALUES.items())
            if (place != "_id" or not isinstance(value, list | Regex))
            and (place != "config" or name not in REFERENCES)
        ]
        for place in PLACES
    }
    async with plain_upstream() as upstream:
        await module_rest.register(ROOT, "good", upstream.url, scope="shared_app")
        servers = module_rest.parts.database.collection("mcpservers")
        for some in documents.values():
            # Some values the embedded database does not take at some places.
            await insert_odd(servers, some)
        keys = [[str(one["_id"]) for one in some] for some in documents.values()]
        asked = [found[turn % 3 :: 3] for turn, found in enumerate(keys)]
        yield dict(zip(documents, asked, strict=True))


@pytest.mark.requirement("E-22")
async def test_no_value_at_any_place_keeps_another_server_from_being_served_and_listed(
    module_rest: Rest, odd: dict[str, list[str]]
) -> None:
    assert await module_rest.parts.database.collection("mcpservers").count_documents({}) > 1_500
    assert odd.keys() == set(PLACES)

    await module_rest.parts.snapshot.load()

    assert module_rest.parts.snapshot.route("good") is not None
    for user in (ROOT, ALICE):
        found, number, pages = [], 0, 1
        while number < pages:
            number += 1
            listed = await module_rest.call(user, "GET", f"?per_page=100&page={number}")
            assert listed.status_code == 200, listed.text
            page = read(listed.content)
            found += [one["serverName"] for one in page["servers"]]
            pages = page["pagination"]["total_pages"]
        narrowed = read((await module_rest.call(user, "GET", "?query=good")).content)
        assert found.count("good") == 1
        assert "good" in {one["serverName"] for one in narrowed["servers"]}
    stats = await module_rest.call(ROOT, "GET", "/stats")
    assert stats.status_code == 200, stats.text
    read(stats.content)


@pytest.mark.requirement("E-22")
@pytest.mark.parametrize("place", PLACES)
async def test_a_value_of_any_type_at_a_place_is_shown_or_told(
    module_rest: Rest, odd: dict[str, list[str]], place: str
) -> None:
    part = "/tools" if place.startswith(("config.tool", "config.capabilities")) else ""
    details = [await module_rest.call(ROOT, "GET", f"/{key}{part}") for key in odd[place]]
    patched = [
        await module_rest.call(ROOT, "PATCH", f"/{key}", json={"title": "read with care"})
        for key in odd[place]
        if place in CHANGED
    ]

    answers = [*details, *patched]
    assert [(one.url, one.text) for one in answers if one.status_code >= 500] == []
    assert [one.text for one in patched if one.status_code in {409, 412}] == []
    assert place == "_id" or 200 in {one.status_code for one in details}
    for answer in answers:
        read(answer.content)


def read(body: bytes) -> Any:
    """Return what strict JSON says, without NaN and Infinity."""
    return json.loads(body, parse_constant=pytest.fail)
