"""A server that wants OAuth and was not registered so."""

from pathlib import Path

from aiohttp import web

from tests.conftest import ALICE
from tests.fakes.rest import rest_settings, running
from tests.fakes.upstreams import TOOL, mcp, serve, tools

CHALLENGE = 'Bearer resource_metadata="https://idp.example/.well-known/oauth-protected-resource"'


async def test_it_is_shown_as_long_as_the_server_says_so(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    is_open = False

    async def protected(request: web.Request) -> web.StreamResponse:
        if is_open:
            return await mcp(tools(TOOL))(request)
        return web.Response(status=401, headers={"WWW-Authenticate": CHALLENGE})

    async with (
        serve(protected) as url,
        running(rest_settings(mongo_uri, key_files, tmp_path)) as rest,
    ):
        server = await rest.register(ALICE, "protected", url)
        is_open = True
        await rest.call(ALICE, "POST", f"/{server['id']}/refresh")
        opened = (await rest.call(ALICE, "GET", f"/{server['id']}")).json()

    assert server["requiresOAuth"] is True
    assert "it wants OAuth" in server["errorMessage"]
    assert (opened["requiresOAuth"], opened["numTools"]) == (False, 1)
