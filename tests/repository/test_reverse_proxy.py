"""deploy/nginx.conf and deploy/Caddyfile: a proxy in front of the registry that disturbs nothing.

nginx is started with the file; of Caddy's the directives are held against what nginx's say.
"""

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.http.server.server import KEEP_ALIVE_SECONDS
from tests.fakes.certificates import certificate_file
from tests.fakes.command import free_port
from tests.fakes.rest import rest_settings, running
from tests.gateway.serving import serve
from tests.npm.programs import require_program
from tests.repository.files import ROOT

NGINX = (ROOT / "deploy/nginx.conf").read_text()
CADDY = (ROOT / "deploy/Caddyfile").read_text()
HOST = "mcp.example.org"
START_SECONDS = 30
MEBIBYTE = 1024 * 1024
PRIVATE_PATHS = ("/metrics", "/health", "/health/live", "/health/ready", "/health/gateway")

AROUND = """
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""


class SlowTool:
    """Answers in two pieces, the second when it is told to; remembers how it was asked."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.requests: list[Scope] = []
        self.taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        self.requests.append(scope)
        more = True
        while more:
            message = await receive()
            self.taken += len(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b": one\n\n", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b": two\n\n"})


@asynccontextmanager
async def behind_nginx(app: ASGIApp, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Serve *app* behind nginx with the example's configuration, and yield a client of it."""
    nginx = shutil.which("nginx", path="/usr/sbin") or require_program("nginx")
    certificate = certificate_file(folder / "certificate.pem", HOST)
    async with serve(app) as url:
        tls, plain = free_port(), free_port()
        site = NGINX
        for written, here in (
            ("server 127.0.0.1:7860;", f"server {url.removeprefix('http://')};"),
            ("listen 80;", f"listen 127.0.0.1:{plain};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{tls} ssl;"),
            ("listen [::]:80;", ""),
            ("listen [::]:443 ssl;", ""),
            ("/etc/ssl/registry/fullchain.pem", str(certificate)),
            ("/etc/ssl/registry/privkey.pem", str(certificate)),
        ):
            assert written in site
            site = site.replace(written, here)
        (folder / "site.conf").write_text(site)
        (folder / "nginx.conf").write_text(AROUND)
        process = await asyncio.create_subprocess_exec(
            nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"
        )
        try:
            await _until_listening(tls, process)
            async with httpx.AsyncClient(
                base_url=f"https://127.0.0.1:{tls}",
                headers={"Host": HOST},
                verify=ssl.create_default_context(cafile=str(certificate)),
                timeout=20,
            ) as client:
                client.event_hooks["request"].append(_named)
                yield client
        finally:
            process.terminate()
            await process.wait()


async def _named(request: httpx.Request) -> None:
    request.extensions = {**request.extensions, "sni_hostname": HOST}


async def _until_listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(START_SECONDS):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await SystemClock().sleep(0.02)
            else:
                writer.close()
                return
    raise AssertionError("nginx did not start; its messages are above")


@pytest.mark.wire
async def test_the_registry_answers_through_it_and_keeps_to_itself_what_is_for_machines(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = rest_settings(mongo_uri, key_files, tmp_path, public_url=f"https://{HOST}")
    folder = tmp_path / "nginx"
    folder.mkdir()
    async with running(settings) as rest, behind_nginx(rest.app, folder) as client:
        api = await client.get("/api/v1/servers")
        gateway = await client.post("/mcp", json={}, headers={"Content-Type": "application/json"})
        large = await client.post("/api/v1/servers", content=b" " * (4 * MEBIBYTE + 1))
        hidden = [(await client.get(path)).status_code for path in PRIVATE_PATHS]
        foreign = await client.get("/api/v1/servers", headers={"Host": "evil.example"})

    assert (api.status_code, api.json()["error"]) == (401, "unauthorized")
    assert gateway.status_code == 401
    assert (large.status_code, large.json()["error"]) == (413, "payload_too_large")
    assert hidden == [404] * len(PRIVATE_PATHS)
    assert foreign.status_code == 421


@pytest.mark.wire
async def test_what_a_tool_streams_comes_at_once_and_headers_pass_as_they_are(
    tmp_path: Path,
) -> None:
    tool = SlowTool()
    sent = {"Authorization": f"Bearer {'x' * 20_000}", "Mcp-Session-Id": "s" * 5_000}
    async with (
        behind_nginx(tool, tmp_path) as client,
        client.stream(
            "POST", "/mcp/weather", content=b" " * (4 * MEBIBYTE), headers=sent
        ) as answer,
    ):
        pieces = answer.aiter_raw()
        first = await anext(pieces)
        tool.go_on.set()
        rest = [piece async for piece in pieces]
        await client.get("/mcp/weather")

    assert (first, b"".join(rest)) == (b": one\n\n", b": two\n\n")
    assert tool.taken == 4 * MEBIBYTE
    asked, again = tool.requests
    headers = dict(asked["headers"])
    assert asked["http_version"] == "1.1"
    assert headers[b"host"] == HOST.encode()
    assert headers[b"authorization"] == sent["Authorization"].encode()
    assert headers[b"mcp-session-id"] == sent["Mcp-Session-Id"].encode()
    assert again["client"] == asked["client"], "the connection to the registry is used again"


def test_both_proxies_are_told_the_same() -> None:
    settings = Settings.model_fields
    longest = settings["gateway_total_timeout_seconds"].default
    largest = settings["gateway_max_body_bytes"].default

    assert _one(r"^\s+proxy_read_timeout (\d+)h;", NGINX) * 3600 > longest
    assert _one(r"^\s+read_timeout (\d+)h$", CADDY) * 3600 > longest
    assert _one(r"^\s+response_header_timeout (\d+)h$", CADDY) * 3600 > longest
    assert _one(r"client_max_body_size (\d+)m;", NGINX) * MEBIBYTE == largest
    assert _one(r"max_size (\d+)MiB$", CADDY) * MEBIBYTE == largest
    assert _one(r"keepalive_timeout (\d+)s;", NGINX) < KEEP_ALIVE_SECONDS
    assert _one(r"keepalive (\d+)s$", CADDY) < KEEP_ALIVE_SECONDS
    assert "flush_interval -1\n" in CADDY
    assert "versions 1.1\n" in CADDY
    assert "header_up" not in CADDY, "Caddy passes Host unless it is told otherwise"
    assert "@inside path /metrics /health /health/*\n\trespond @inside 404\n" in CADDY
    assert CADDY.count("{") == CADDY.count("}")


def _one(pattern: str, text: str) -> int:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return int(found)
