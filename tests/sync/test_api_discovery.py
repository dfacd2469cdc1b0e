"""Reading of descriptions whose files lead elsewhere: nothing is fetched from where it may not."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web
from typing_extensions import override

from registry.core.json import JsonObject
from registry.openapi.bundles import MAX_FILES, bundled
from registry.servers.errors import DiscoveryFailedError, UnsafeUrlError
from registry.servers.values import ApiSource, ConnectionSpec, Discovered, Transport
from registry.sync.api_discovery import Conversion, Conversions, read_api
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
    return await read_api(connection, ApiSource(**source), GUARD, LIMITS, 1_000_000, Conversions())


class Counted(Conversions):
    """Counts what is converted and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0

    @override
    def keep(self, key: str, conversion: Conversion) -> None:
        self.kept += 1
        super().keep(key, conversion)


async def test_a_description_without_news_is_not_converted_again(host: ScriptedApi) -> None:
    made = Counted()
    exclude = ({"method": "get"},)
    document = json.dumps(described()).encode()
    connection = ConnectionSpec(url="", transport=Transport.OPENAPI)

    async def once(**source: Any) -> Discovered:
        source = {"document": document, **source}
        return await read_api(connection, ApiSource(**source), GUARD, LIMITS, 1_000_000, made)

    first, second = await once(), await once()
    assert made.kept == 1
    nothing = await once(exclude=exclude)
    assert made.kept == 2

    assert first.snapshot == second.snapshot
    assert first.api is not None
    assert second.api is not None
    assert first.api.facts == second.api.facts
    assert [tool.external_id for tool in first.snapshot.tools] == ["readX"]
    assert nothing.snapshot.tools == ()


async def test_a_description_of_fetched_files_is_converted_each_time(host: ScriptedApi) -> None:
    made = Counted()
    serves(host, {"/openapi.json": referring("q.json"), "/q.json": {"type": "string"}})
    source = ApiSource(url=f"{host.url}/openapi.json")
    connection = ConnectionSpec(url="", transport=Transport.OPENAPI)

    found = await read_api(connection, source, GUARD, LIMITS, 1_000_000, made)

    assert made.kept == 0
    assert [tool.name for tool in found.snapshot.tools] == ["readX"]


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

    found = await read(host)

    assert found.snapshot.rejected[0].name == address
    assert found.snapshot.rejected[0].reason.startswith("cannot be fetched: ")
    assert [seen.target for seen in host.seen] == ["/openapi.json"]


@pytest.mark.parametrize("address", [METADATA, "file:///etc/passwd", "ftp://127.0.0.1/a"])
async def test_a_redirect_to_where_nothing_may_be_fetched_is_not_followed(
    host: ScriptedApi, address: str
) -> None:
    serves(host, {"/openapi.json": address})

    with pytest.raises(UnsafeAddressError):
        await read(host)


@pytest.mark.parametrize("address", [METADATA, "file:///etc/passwd", "ftp://127.0.0.1/a"])
async def test_a_file_that_leads_to_where_nothing_may_be_fetched_is_a_problem(
    host: ScriptedApi, address: str
) -> None:
    part = f"{host.url}/part.json"
    serves(host, {"/openapi.json": referring(part), "/part.json": address})

    found = await read(host)

    assert found.snapshot.rejected[0].name == part
    assert [seen.target for seen in host.seen] == ["/openapi.json", "/part.json"]


async def test_a_file_that_does_not_exist_costs_what_needs_it(host: ScriptedApi) -> None:
    needs = {"parameters": [{"$ref": "gone.json#/limit"}]}
    paths = {"/x": {"get": {"operationId": "readX", **needs}}, "/y": {"get": {}}}
    serves(host, {"/openapi.json": described(paths=paths)})

    found = await read(host)

    assert [tool.name for tool in found.snapshot.tools] == ["get_y"]
    problems = {problem.name: problem.reason for problem in found.snapshot.rejected}
    assert "answered 404" in problems[f"{host.url}/gone.json"]
    assert problems["/paths/~1x/get/parameters/0"].endswith("so its operation is left out")


async def test_a_file_that_is_no_description_costs_what_needs_it(host: ScriptedApi) -> None:
    serves(host, {"/openapi.json": referring("odd.json#/x"), "/odd.json": [1]})

    found = await read(host)

    assert [tool.name for tool in found.snapshot.tools] == ["readX"]
    assert found.snapshot.rejected[0].name == f"{host.url}/odd.json"


async def test_a_file_that_is_not_answered_now_is_a_failure_of_the_whole(
    host: ScriptedApi,
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/openapi.json":
            return web.json_response(referring("part.json#/x"))
        return web.Response(status=503)

    host.answers = answer

    with pytest.raises(UpstreamError, match="503"):
        await read(host)


async def test_references_are_relative_to_where_a_redirect_led(host: ScriptedApi) -> None:
    serves(
        host,
        {
            "/latest": "/v2/openapi.json",
            "/v2/openapi.json": referring("parts.json#/One"),
            "/v2/parts.json": "/v2/deep/parts.json",
            "/v2/deep/parts.json": {"One": {"$ref": "more.json#/Two"}},
            "/v2/deep/more.json": {"Two": {"type": "integer", "maximum": 3}},
        },
    )

    found = await read(host, "/latest")

    assert found.snapshot.rejected == ()
    assert '"maximum":3' in found.snapshot.tools[0].definition


GIVEN_FILES: dict[str, JsonObject] = {
    "schemas/one.json": {"One": {"$ref": "../two.yaml#/Two"}},
    "two.yaml": {"Two": {"$ref": "api.json#/components/schemas/Three"}},
}
THREE = {"schemas": {"Three": {"type": "integer", "maximum": 3}}}


async def test_files_that_are_given_together_refer_to_each_other(host: ScriptedApi) -> None:
    document = {**referring("schemas/one.json#/One"), "components": THREE}
    text = bundled(document, "api.json", GIVEN_FILES)

    found = await read(host, document=text.encode())

    assert found.snapshot.rejected == ()
    assert '"maximum":3' in found.snapshot.tools[0].definition
    assert host.seen == []


async def test_a_file_that_was_not_given_is_a_problem_and_fetched_nowhere(
    host: ScriptedApi,
) -> None:
    text = bundled(referring("schemas/none.json#/One"), None, GIVEN_FILES)

    found = await read(host, document=text.encode())

    names = {problem.name: problem.reason for problem in found.snapshot.rejected}
    assert names["schemas/none.json"] == "is not among the given files"
    assert host.seen == []


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
