"""A registry of several processes, in front of an upstream of the test's own."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from registry.auth.identity import UserContext
from registry.auth.jwt import TokenIssuer
from registry.auth.keys import load_signing_keys
from registry.core.clock import SystemClock
from tests.fakes.command import RunningRegistry
from tests.fakes.loopback import NO_CERTIFICATES
from tests.gateway.fakes import ScriptedUpstream
from tests.gateway.serving import serve
from tests.kit.waiting import until
from tests.workers.upstream import UNTIL_WOKEN_SECONDS, Naps, takes_a_while

POLL_SECONDS = 0.05
WAIT_SECONDS = 30.0

START_SECONDS = 90.0
"""Workers are new interpreters, started one after the other; a registry that ends is noticed."""


@dataclass
class Fleet:
    """Running workers, and a way to call a tool through them."""

    process: RunningRegistry
    url: str
    headers: dict[str, str]
    workers: int
    naps: Naps
    upstream: ScriptedUpstream

    def events(self, name: str) -> list[dict[str, object]]:
        """Return what was logged under a name so far."""
        lines = [line for line in self.process.output.splitlines() if f'"{name}"' in line]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def pid(self, slot: int) -> int:
        """Return the process that serves in a slot now."""
        started = [each for each in self.events("worker_started") if each["slot"] == slot]
        pid = started[-1]["pid"]
        assert isinstance(pid, int)
        return pid

    def kill(self, slot: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send one worker a signal."""
        os.kill(self.pid(slot), number)

    async def until_ready(self) -> None:
        """Wait until all workers serve."""
        await self.until("registry_ready", 1, START_SECONDS)

    async def until(self, event: str, count: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until something was logged so often."""
        deadline = time.monotonic() + seconds
        while len(self.events(event)) < count:
            assert self.process.is_running, self.process.output
            assert time.monotonic() < deadline, self.process.output
            await SystemClock().sleep(POLL_SECONDS)

    async def until_asleep(self, count: int) -> None:
        """Wait until so many calls that take a while have reached the upstream."""
        await until(lambda: sum(map(takes_a_while, self.upstream.requests)) >= count, WAIT_SECONDS)

    async def nap(self, seconds: float, request_id: object = 1) -> httpx.Response:
        """Call the slow tool over a connection of its own."""
        async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=WAIT_SECONDS) as http:
            return await self.call(http, seconds, request_id)

    async def nap_until_woken(self, request_id: object = 1) -> httpx.Response:
        """Call the slow tool, which answers once `naps.woken` is set."""
        return await self.nap(UNTIL_WOKEN_SECONDS, request_id)

    async def call(
        self, http: httpx.AsyncClient, seconds: float, request_id: object = 1
    ) -> httpx.Response:
        """Call the slow tool."""
        message = {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": "tools/call",
            "params": {"name": "nap", "arguments": {"seconds": seconds}},
        }
        return await http.post(f"{self.url}/mcp/naps", json=message, headers=self.headers)

    async def end(self, number: signal.Signals) -> int:
        """Send the parent a signal and return its exit code."""
        return await asyncio.to_thread(self.process.end, number)


@asynccontextmanager
async def fleet(
    folder: Path,
    environment: Mapping[str, str],
    user: UserContext,
    *,
    workers: int = 2,
    **settings: str,
) -> AsyncIterator[Fleet]:
    """Start workers that serve `/mcp/naps`."""
    keys = load_signing_keys(
        Path(environment["JWT_PRIVATE_KEY_FILE"]), Path(environment["JWT_PUBLIC_KEY_FILE"])
    )
    issuer = TokenIssuer(
        keys, issuer="mcp-gateway-registry", audience="mcp-gateway", clock=SystemClock()
    )
    token = issuer.issue(
        user_id=user.user_id,
        username=user.username,
        role=user.role,
        scopes=user.scopes,
        lifetime=timedelta(hours=1),
        is_service_account=True,
    )
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
    }
    variables = {**environment, "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8", **settings}
    naps = Naps()
    scripted = ScriptedUpstream(naps)
    async with serve(scripted) as upstream:
        with RunningRegistry(folder, variables, "--workers", str(workers)) as process:
            running = Fleet(process, process.url, headers, workers, naps, scripted)
            await running.until_ready()
            async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=WAIT_SECONDS) as http:
                body = {"serverName": "naps", "url": f"{upstream}/mcp"}
                made = await http.post(
                    f"{running.url}/api/v1/servers?strict=true", json=body, headers=headers
                )
                assert made.status_code == 201, made.text
            await _everywhere(running)
            try:
                yield running
            finally:
                # So that the upstream's connections end before its loop does.
                naps.woken.set()


async def _everywhere(running: Fleet) -> None:
    """Wait until every worker knows the server: connections fall on them by chance."""
    deadline = time.monotonic() + WAIT_SECONDS
    in_a_row = 0
    while in_a_row < 10 * running.workers:
        assert time.monotonic() < deadline, running.process.output
        answer = await running.nap(0)
        in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
