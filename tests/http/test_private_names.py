"""What `registry.http` relies on of uvicorn and aiohttp that their documentation does not name.

A release that drops or changes such a name fails here. The lists are complete: a name that the
code begins to use is missing in them.
"""

import ast
import asyncio
import inspect
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp.client_proto import ResponseHandler
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from yarl import URL

from registry.http.client.connector import CheckedConnector, unix_socket_session
from registry.http.server.connection import ConnectionLimits
from registry.http.server.cycle import Cycle
from registry.http.server.server import configuration

ROOT = Path(__file__).parents[2]
QUARANTINE = ROOT / "registry/http"
LIBRARIES = {"aiohttp", "uvicorn"}
DOCUMENTED = {"aiohttp", "aiohttp.abc", "aiohttp.web", "uvicorn"}
EXTENDED = {"AbstractResolver"}
"""Classes of theirs that are documented as bases."""

IMPORTED = {
    ("aiohttp.client_proto", "ResponseHandler"),
    ("aiohttp.client_reqrep", "ConnectionKey"),
    ("aiohttp.connector", "Connection"),
    ("uvicorn.config", "Config"),
    ("uvicorn.protocols.http.httptools_impl", "HEADER_RE"),
    ("uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol"),
    ("uvicorn.protocols.http.httptools_impl", "RequestResponseCycle"),
    ("uvicorn.protocols.http.httptools_impl", "STATUS_LINE"),
    ("uvicorn.server", "ServerState"),
}

INHERITED = {
    "UpstreamConnection": "_drop_timeout _loop _on_read_timeout _read_timeout _reschedule_timeout"
    " close connection_lost data_received eof_received force_close should_close start_timeout"
    " transport",
    "CheckedConnector": "_factory _loop _resolve_host close",
    "JoiningProtocol": "_start_asgi_task app app_state asgi_version client connection_lost"
    " connection_made cycle data_received expect_100_continue flow headers loop on_header"
    " on_headers_complete on_message_begin on_message_complete on_response_complete on_url parser"
    " pause_writing pipeline resume_writing scheme scope send_400_response server server_state"
    " timeout_keep_alive_handler transport url",
    "Server": "capture_signals config main_loop server_state servers shutdown startup",
}
"""Names that our classes use, call or replace of their bases."""

SET_LATER = {"url", "expect_100_continue", "servers"}
"""Attributes that a base has once a request begins, or once it serves."""

SIGNATURES = {
    "aiohttp.client_proto:ResponseHandler": "loop",
    "aiohttp.client_proto:ResponseHandler._drop_timeout": "self",
    "aiohttp.client_proto:ResponseHandler._on_read_timeout": "self",
    "aiohttp.client_proto:ResponseHandler._reschedule_timeout": "self",
    "aiohttp.client_proto:ResponseHandler.connection_lost": "self exc",
    "aiohttp.client_proto:ResponseHandler.force_close": "self",
    "aiohttp.client_proto:ResponseHandler.start_timeout": "self",
    "aiohttp.connector:BaseConnector.connect": "self req traces timeout",
    "aiohttp.connector:Connection.close": "self",
    "aiohttp.connector:TCPConnector._resolve_host": "self host port traces",
    "aiohttp.connector:TCPConnector.close": "self abort_ssl",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": (
        "config server_state app_state _loop"
    ),
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol._start_asgi_task": "self cycle app",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_header": "self name value",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_headers_complete": "self",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_response_complete": "self",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_url": "self url",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.send_400_response": "self msg",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.timeout_keep_alive_handler": "self",
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi": "self app",
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send": "self message",
    "uvicorn.server:Server.capture_signals": "self",
    "uvicorn.server:Server.main_loop": "self",
    "uvicorn.server:Server.shutdown": "self sockets",
    "uvicorn.server:Server.startup": "self sockets",
}


def trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def library_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import from the two libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if is_theirs(name.name))
        elif isinstance(node, ast.ImportFrom) and is_theirs(node.module or ""):
            yield from ((node.module or "", name.name) for name in node.names)


def is_theirs(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES


def is_documented(module: str, name: str) -> bool:
    public = getattr(import_module(module), "__all__", ()) if module in LIBRARIES else ()
    return (
        module in DOCUMENTED and not name.startswith("_") and (name in {"", *public} or not public)
    )


def names_used(node: ast.ClassDef) -> set[str]:
    """Return what a class uses through `self` and `super()`, and what it replaces."""
    through = {"self", "super()"}
    return {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) in through
    } | {
        each.name
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        if "override" in map(ast.unparse, each.decorator_list)
    }


def resolved(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


async def application(_scope: Any, _receive: Any, _send: Any) -> None:
    """Answer nothing."""


def bare_protocol() -> HttpToolsProtocol:
    config = configuration(application, ConnectionLimits())
    config.load()
    return HttpToolsProtocol(config, ServerState(), {})


@asynccontextmanager
async def bare(name: str) -> AsyncIterator[object]:
    """Yield an object of the class that ours of that name extends."""
    async with aiohttp.TCPConnector() as connector:
        bases: dict[str, object] = {
            "UpstreamConnection": ResponseHandler(asyncio.get_running_loop()),
            "CheckedConnector": connector,
            "JoiningProtocol": bare_protocol(),
            "Server": uvicorn.Server(configuration(application, ConnectionLimits())),
        }
        yield bases[name]


def bare_cycle() -> RequestResponseCycle:
    protocol, logger = bare_protocol(), logging.getLogger("uvicorn.error")
    return RequestResponseCycle(
        protocol.scope,
        protocol.transport,
        protocol.flow,
        logger,
        logger,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=protocol.on_response_complete,
    )


def test_undocumented_parts_are_imported_in_one_package_only() -> None:
    found = {
        (str(path), module, name)
        for folder in ("registry", "packages")
        for path, tree in trees(ROOT / folder)
        for module, name in library_imports(tree)
        if QUARANTINE not in path.parents and not is_documented(module, name)
    }

    assert found == set()


def test_no_class_elsewhere_extends_one_of_the_libraries() -> None:
    found = {
        (path.name, node.name)
        for path, tree in trees(ROOT / "registry")
        if QUARANTINE not in path.parents
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).partition(".")[0]
        in LIBRARIES | {name for _, name in library_imports(tree)} - EXTENDED
    }

    assert found == set()


def test_the_list_of_imported_names_is_complete() -> None:
    found = {
        (module, name)
        for _, tree in trees(QUARANTINE)
        for module, name in library_imports(tree)
        if not is_documented(module, name)
    }

    assert found == IMPORTED


@pytest.mark.parametrize("name", INHERITED)
async def test_the_list_of_inherited_names_is_complete(name: str) -> None:
    listed = set(INHERITED[name].split())
    (node,) = (
        node
        for _, tree in trees(QUARANTINE)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name
    )

    async with bare(name) as base:
        inherited = names_used(node) & (listed | set(dir(base))) - {"__init__"}

    assert inherited == listed


@pytest.mark.parametrize("name", INHERITED)
async def test_a_base_has_the_names_that_our_class_uses(name: str) -> None:
    async with bare(name) as base:
        present = {*dir(base), *SET_LATER}

    assert set(INHERITED[name].split()) - present == set()


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_function_takes_what_it_took(path: str) -> None:
    parameters = inspect.signature(resolved(path)).parameters

    assert list(parameters) == SIGNATURES[path].split()


async def test_a_cycle_has_every_attribute_of_its_base_whose_initialisation_it_replaces() -> None:
    protocol = bare_protocol()

    ours = Cycle(protocol, protocol.transport, keep_alive=True, expect_100_continue=False)  # type: ignore[arg-type]  # not connected

    assert set(vars(ours)) - set(vars(bare_cycle())) == {"_head"}
    assert set(vars(bare_cycle())) - set(vars(ours)) == set()


async def test_a_silent_upstream_is_reported_to_the_handler_after_its_read_timeout() -> None:
    silent = asyncio.Event()

    class Silence(ResponseHandler):
        @override
        def _on_read_timeout(self) -> None:
            silent.set()

    handler = Silence(asyncio.get_running_loop())
    handler.read_timeout = 0.001
    handler.start_timeout()

    async with asyncio.timeout(30):
        await silent.wait()


class RefusedError(OSError):
    """A host that may not be contacted."""


class Nowhere(aiohttp.abc.AbstractResolver):
    """Resolves nothing."""

    def __init__(self) -> None:
        self.is_closed = False

    @override
    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        raise OSError

    @override
    async def close(self) -> None:
        self.is_closed = True


async def test_a_connector_checks_literal_addresses_before_it_connects() -> None:
    checked: list[str] = []

    def check_host(host: str) -> None:
        checked.append(host)
        raise RefusedError

    resolver = Nowhere()
    connector = CheckedConnector(resolver, check_host)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises((aiohttp.ClientConnectorError, RefusedError)):
            await session.get("http://127.0.0.1:9/")

    assert checked == ["127.0.0.1"]
    assert resolver.is_closed


async def test_connections_are_shared_by_addresses_of_one_place_only() -> None:
    loop = asyncio.get_running_loop()

    async with aiohttp.ClientSession() as session:
        one, other, encrypted = (
            aiohttp.ClientRequest("GET", URL(url), loop=loop, session=session).connection_key
            for url in ("http://a.test/1", "http://a.test/2", "https://a.test/1")
        )

    assert one == other
    assert one != encrypted


async def test_a_request_to_another_worker_is_sent_once_though_the_connection_breaks(
    tmp_path: Path,
) -> None:
    seen: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        writer.close()

    path = tmp_path / "worker.sock"
    server = await asyncio.start_unix_server(hang_up, path)
    async with server, unix_socket_session(path, connect_timeout_seconds=5) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.get("http://worker/")

    assert seen == [b"GET / HTTP/1.1\r\n"]


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_releases_that_were_not_tried_are_excluded(library: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()

    assert re.search(rf'^  "{library}>=[\d.]+,<[\d.]+",$', project, re.MULTILINE)
