"""Answers about servers and tools say whether they are found by meaning."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.waiting import until_async

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
READY = {"state": "ready", "problem": None}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedding(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return an application with the light model."""
    home = tmp_path_factory.mktemp("home")
    settings = rest_settings(mongo_uri, key_files, home, search_model="wordllama")
    async with running(settings) as rest:
        yield rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def away() -> AsyncIterator[PlainUpstream]:
    async with plain_upstream() as upstream:
        yield upstream


async def answered(rest: Rest, path: str) -> dict[str, Any]:
    answer = await rest.ask(ALICE, "GET", path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.requirement("R-200")
async def test_a_server_and_its_tools_become_ready_and_say_so(
    embedding: Rest, away: PlainUpstream
) -> None:
    server = await embedding.register(ALICE, "mail", away.url)
    path = f"/servers/{server['id']}"

    async def is_ready() -> bool:
        return bool((await answered(embedding, path))["embedding"] == READY)

    await until_async(is_ready)
    listed = (await answered(embedding, "/registry/tools"))["tools"]
    tool = await answered(embedding, f"/registry/tools/{listed[0]['id']}")
    whole = await answered(embedding, path)
    whole["embedding"] = {"state": "pending", "problem": None}
    sent_back = await embedding.ask(ALICE, "PATCH", path, json=whole)
    await embedding.ask(ALICE, "POST", f"{path}/toggle", json={"enabled": False})

    async def is_forgotten() -> bool:
        return (await answered(embedding, path))["embedding"] is None

    assert tool["embedding"] == READY
    assert sent_back.status_code == 200, sent_back.text
    await until_async(is_forgotten)


async def test_without_a_model_the_state_is_off(rest: Rest, away: PlainUpstream) -> None:
    server = await rest.register(ALICE, "mail", away.url)

    assert server["embedding"] == {"state": "off", "problem": None}


@pytest.mark.requirement("R-088")
async def test_tools_of_the_catalog_have_vectors_of_their_own(embedding: Rest) -> None:
    root = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
    body = {
        "name": "io.example/chat",
        "url": "https://chat.example/mcp",
        "tools": [{"name": "post", "description": "Send a message to a channel."}],
    }
    entry = (await embedding.ask(root, "POST", "/catalog/servers", json=body)).json()
    path = f"/catalog/servers/{entry['id']}"

    async def cosine() -> float | None:
        asked = {"query": "a message to a group", "kinds": ["catalog_tool"], "explain": True}
        answer = await embedding.ask(ALICE, "POST", "/search", json=asked)
        hits = answer.json()["hits"]
        return hits[0]["explanation"]["cosine"] if hits else None

    async def has_vector() -> bool:
        return await cosine() is not None

    async def is_gone() -> bool:
        return await cosine() is None

    await until_async(has_vector)
    await embedding.ask(root, "PATCH", path, json={"tools": []})
    await until_async(is_gone)
