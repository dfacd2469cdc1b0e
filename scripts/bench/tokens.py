"""What each caller's own access token costs a call, beside a stored API key for all of them."""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

from registry.core.clock import SystemClock
from scripts.bench.calls import BUSY
from scripts.bench.load import Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

KEYED, OWN, EXPIRING = "keyed", "own-token", "expiring"
KEY = "k" * 40
# What the token endpoint takes to answer, and how long its tokens can be used.
ENDPOINT_SECONDS, LIFETIME_SECONDS = 0.05, 1
RENEWALS = 20


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure the same calls to two servers, in turn."""
    url = f"http://{HOST}:{stage.upstream_port}/mcp"
    key = {"key": KEY, "source": "admin", "authorization_type": "bearer"}
    stage.ask("servers", {"serverName": KEYED, "url": url, "apiKey": key})
    origin = f"http://{HOST}:{stage.upstream_port}"
    oauth = {
        "authorization_url": f"{origin}/authorize",
        "token_url": f"{origin}/token",
        "client_id": "bench",
    }
    server = {"serverName": OWN, "url": url, "requiresOAuth": True, "oauth": oauth}
    server_id = stage.ask("servers", server)["id"]
    # Tokens that are older than their server are those of a former one.
    stage.ask(
        "tokens",
        {
            "type": "oauth_access",
            "identifier": OWN,
            "token": KEY,
            "metadata": {"server_name": OWN},
        },
    )
    stage.ask(f"servers/{server_id}/refresh", {})
    spent: dict[str, list[float]] = {KEYED: [], OWN: []}
    errors = 0
    for _ in range(plan.rounds):
        for name, values in spent.items():
            target: Target = stage.gateway(f"/mcp/{name}")
            before = cpu_seconds(stage.pid)
            result = asyncio.run(run(target, BUSY, plan.seconds))
            values.append((cpu_seconds(stage.pid) - before) / requests_of(result, BUSY) * 1000)
            errors += result.errors
    report.section("tools/call with each caller's own access token")
    report.row("CPU of a call with a stored API key", spent[KEYED], "ms")
    report.row("CPU of a call with an access token", spent[OWN], "ms")
    ratios = [own / keyed for own, keyed in zip(spent[OWN], spent[KEYED], strict=True)]
    report.row("CPU with an access token / with an API key", ratios, bar=Bar(1.1))
    report.errors(errors)
    _renewals(report, stage)


def _renewals(report: Report, stage: Stage) -> None:
    """Measure calls that find their token expired, beside calls that find it usable."""
    times: list[float] = []
    with _token_endpoint(times) as token_url:
        url = f"http://{HOST}:{stage.upstream_port}/mcp"
        origin = token_url.removesuffix("/token")
        oauth = {
            "authorization_url": f"{origin}/authorize",
            "token_url": token_url,
            "client_id": "bench",
        }
        server = {"serverName": EXPIRING, "url": url, "requiresOAuth": True, "oauth": oauth}
        server_id = stage.ask("servers", server)["id"]
        soon = SystemClock().now() + timedelta(seconds=LIFETIME_SECONDS)
        for kind, more in (
            ("oauth_refresh", {}),
            ("oauth_access", {"expires_at": soon.isoformat()}),
        ):
            body = {"type": kind, "identifier": EXPIRING, "token": KEY, **more}
            stage.ask("tokens", {**body, "metadata": {"server_name": EXPIRING}})
        stage.ask(f"servers/{server_id}/refresh", {})
        expired: list[float] = []
        usable: list[float] = []
        for _ in range(RENEWALS):
            time.sleep(LIFETIME_SECONDS + 0.5)
            expired.append(_call_seconds(stage))
            usable.append(_call_seconds(stage))
    added = [
        (slow - fast - endpoint) * 1000
        for slow, fast, endpoint in zip(expired, usable, times[-RENEWALS:], strict=True)
    ]
    report.row("renewals at the token endpoint", [float(len(times))], "")
    report.row("what a renewal adds beyond the token endpoint's time", added, "ms", Bar(20))


def _call_seconds(stage: Stage) -> float:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "hi"}},
    }
    request = urllib.request.Request(
        f"http://{HOST}:{stage.port}/mcp/{EXPIRING}",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {stage.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        },
    )
    began_at = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
        text = answer.read().decode()
    seconds = time.perf_counter() - began_at
    if '"result"' not in text or 'isError":true' in text:
        raise RuntimeError(text[:500])
    return seconds


@contextmanager
def _token_endpoint(times: list[float]) -> Iterator[str]:
    """Serve a token endpoint; *times* gets the seconds that each of its answers took."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            began_at = time.perf_counter()
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(ENDPOINT_SECONDS)
            body = json.dumps(
                {
                    "access_token": KEY,
                    "token_type": "Bearer",
                    "refresh_token": KEY,
                    "expires_in": LIFETIME_SECONDS,
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            times.append(time.perf_counter() - began_at)
            self.wfile.write(body)

        @override
        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer((HOST, 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/token"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
