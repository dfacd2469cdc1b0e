"""Reading of descriptions whose files lead elsewhere: nothing is fetched from where it may not."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from registry.servers.errors import DiscoveryFailedError, UnsafeUrlError
from registry.servers.values import ApiSource, ConnectionSpec, Discovered, Transport
from registry.sync.api_discovery import MAX_FILES, read_api
from registry.upstream.errors import (
    UnsafeAddressError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.values import ReadingLimits
from tests.rest.serving import ScriptedApi, scripted_api

pytestmark = pytest.mark.integration

GUARD = UrlGuard(("127.0.0.1/32",))
LIMITS = ReadingLimits(
    connect_timeout_seconds=2, total_timeout_seconds=10, max_bytes=1_000_000, max_tools=100
)
METADATA = "http://169.254.169.254/latest/meta-data/iam"
PRIVATE = (METADATA, "http://10.0.0.1/a", "http://[fd00:ec2::254]/a", "http://2852039166/a")


@pytest.fixture
async def host() -> AsyncIterator[ScriptedApi]:
    async with scripted_api() as api:
        yield api


def described(**more: Any) -> dict[str, Any]:
    """Return a description of one operation."""
    return {
        "openapi": "3.1.0",
        "info": {},
        "servers": [{"url": "http://127.0.0.1:1"}],
        "paths": {"/x": {"get": {"operationId": "readX"}}},
        **more,
    }


def referring(reference: str) -> dict[str, Any]:
    """Return a description whose parameter has the schema that a reference leads to."""
    parameter = {"name": "q", "in": "query", "schema": {"$ref": reference}}
    return described(paths={"/x": {"get": {"operationId": "readX", "parameters": [parameter]}}})


def serves(host: ScriptedApi, files: Mapping[str, Any]) -> None:
    """Have the host serve files; a string is where it redirects to."""

    async def answer(request: web.Request) -> web.StreamResponse:
        file = files.get(request.path)
        if isinstance(file, str):
            return web.Response(status=302, headers={"Location": file})
        if file is None:
            return web.Response(status=404)
        return web.json_response(file)

    host.answers = answer


async def read(host: ScriptedApi, path: str = "/openapi.json", **source: Any) -> Discovered:
    """Read a description of the host, or the one that is given."""
    source = source or {"url": host.url + path}
    connection = ConnectionSpec(url="", transport=Transport.OPENAPI)
    return await read_api(connection, ApiSource(**source), GUARD, LIMITS, 1_000_000)


async def test_a_description_of_several_files_is_read_whole(host: ScriptedApi) -> None:
    serves(
        host,
        {
            "/openapi.json": referring("parts/one.json#/One"),
            "/parts/one.json": {"One": {"$ref": "two.json"}},
            "/parts/two.json": {"type": "integer", "maximum": 3},
        },
    )

    (tool,) = (await read(host)).snapshot.tools

    assert '"maximum":3' in tool.definition
    assert "one.json" not in tool.definition
    assert [seen.target for seen in host.seen] == [
        "/openapi.json",
        "/parts/one.json",
        "/parts/two.json",
    ]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_reference_to_a_private_address_is_not_followed(
    host: ScriptedApi, address: str
) -> None:
    serves(host, {"/openapi.json": referring(address)})

    with pytest.raises(UnsafeAddressError):
        await read(host)


@pytest.mark.parametrize("address", [METADATA, "file:///etc/passwd", "ftp://127.0.0.1/a"])
@pytest.mark.parametrize("moved", ["/openapi.json", "/part.json"])
async def test_a_redirect_to_where_nothing_may_be_fetched_is_not_followed(
    host: ScriptedApi, moved: str, address: str
) -> None:
    serves(host, {"/openapi.json": referring(f"{host.url}/part.json"), moved: address})

    with pytest.raises(UnsafeAddressError):
        await read(host)


async def test_a_reference_to_a_file_of_this_machine_leads_nowhere(host: ScriptedApi) -> None:
    serves(host, {"/openapi.json": referring("file:///etc/passwd")})

    found = await read(host)

    assert [problem.reason for problem in found.snapshot.rejected] == [
        "refers to nothing: file:///etc/passwd"
    ]
    assert len(host.seen) == 1


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_server_at_a_private_address_is_refused(host: ScriptedApi, address: str) -> None:
    document = json.dumps(described(servers=[{"url": address}])).encode()

    with pytest.raises(UnsafeUrlError, match="baseUrl"):
        await read(host, document=document)


async def test_a_variable_of_a_server_may_not_lead_to_a_private_address(host: ScriptedApi) -> None:
    server = {"url": "http://{host}/v1", "variables": {"host": {"default": "169.254.169.254"}}}

    with pytest.raises(UnsafeUrlError, match="baseUrl"):
        await read(host, document=json.dumps(described(servers=[server])).encode())


async def test_redirects_end(host: ScriptedApi) -> None:
    serves(host, {"/openapi.json": "/openapi.json"})

    with pytest.raises(UpstreamError, match="too many"):
        await read(host)

    assert len(host.seen) <= 10


async def test_the_number_of_files_is_bounded(host: ScriptedApi) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("n", 0))
        return web.json_response(
            {**described(), "next": {"$ref": f"/openapi.json?n={number + 1}"}}
        )

    host.answers = answer

    with pytest.raises(DiscoveryFailedError, match=f"{MAX_FILES} files"):
        await read(host)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_fifty_megabytes_are_not_read_to_their_end(host: ScriptedApi, encoding: str) -> None:
    sent = 0
    piece = b" " * 2**20

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Encoding": encoding})
        await response.prepare(request)
        for _ in range(50):
            await response.write(gzip.compress(piece) if encoding == "gzip" else piece)
            sent += 1
        return response

    host.answers = answer

    with pytest.raises((UpstreamTooLargeError, UpstreamConnectError)):
        await read(host)

    assert encoding == "gzip" or sent < 50
