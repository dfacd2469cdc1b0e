"""A shop for pets on loopback, with a description that tests change, and a whole registry."""

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from registry.auth.identity import UserContext
from tests.fakes.descriptions import PETS, described
from tests.fakes.rest import Rest, rest_settings, running
from tests.rest.serving import ScriptedApi, scripted_api


@dataclass
class Shop:
    """An API with its description.

    Attributes:
        paths: What the description says; tests change it.
        members: Other members of the description.
        status: Of the answer with the description.
        version: Header that tells its version, and the value; it is not sent again under it.
    """

    api: ScriptedApi
    paths: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(PETS))
    members: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    version: tuple[str, str] | None = None

    @property
    def description_url(self) -> str:
        """Return where the description is."""
        return f"{self.api.url}/openapi.json"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if request.path == "/openapi.json":
            document = {**described(self.paths, server=self.api.url), **self.members}
            told = dict([self.version]) if self.version else {}
            asked = request.headers.get("If-None-Match", request.headers.get("If-Modified-Since"))
            if self.version is not None and asked == self.version[1]:
                return web.Response(status=304)
            return web.json_response(document, status=self.status, headers=told)
        if request.method == "DELETE":
            return web.Response(status=204)
        return web.json_response({"path": request.path_qs})

    def called(self) -> list[str]:
        """Return the calls that it got, as method and target."""
        return [
            f"{one.method} {one.target}"
            for one in self.api.seen
            if one.target not in {"/openapi.json", "/"}
        ]


@pytest_asyncio.fixture(loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """Return a shop."""
    async with scripted_api() as api:
        found = Shop(api)
        api.answers = found.answer
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return a registry."""
    settings = rest_settings(
        mongo_uri, key_files, tmp_path_factory.mktemp("apis"), user_directory="registry"
    )
    async with running(settings) as running_rest:
        yield running_rest


async def registered(rest: Rest, user: UserContext, shop: Shop, **body: Any) -> dict[str, Any]:
    """Register the shop and return the answer."""
    sent = {"name": "pets", "url": shop.description_url, **body}
    answer = await rest.ask(user, "POST", "/apis", json=sent)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
