"""Gateways whose tools people must approve, on one database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson
from yarl import URL

from packages.database.changes import ChangeStream, HistoryLost
from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState, Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.service import ApprovalService
from registry.approvals.values import Approval, ApprovalFilter, Decision
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.building import Approvals
from registry.gateway.edge.approvals import APPROVAL_META_KEY, ApprovalTimes
from registry.gateway.edge.error_responses import ERROR_META_KEY
from registry.gateway.values import Route
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.gateway.view.pending import TABLES
from registry.tools.call_rules import CallRules
from registry.workers.peers import SingleWorker
from tests.conftest import CREDS_IV, CREDS_KEY, ROOT
from tests.fakes.call_counter import CallCounter
from tests.fakes.everything.eras import OneEra
from tests.fakes.everything.old import STREAM_PATH, OldEverything
from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.meeting import Kind, everything_tools, route_to
from tests.gateway.serving import serve
from tests.kit.waiting import in_background, until_async

TOOL = "test_simple_text"
HANDED_OUT = ApprovalTimes(wait_seconds=0.0)
"""Calls do not wait."""

WAITS = ApprovalTimes(wait_seconds=10.0, round_seconds=2.0, progress_seconds=0.05)


class AllServers:
    """Everybody sees every server, and may use its tools."""

    def sees_everything(self, user: UserContext) -> bool:
        """Return that they do."""
        del user
        return True

    def sees_private(self, user: UserContext) -> bool:
        """Return that they do."""
        del user
        return True

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return no rights besides."""
        del user
        return {}

    async def may_use(self, server_id: str, tool: str, user: UserContext) -> bool:
        """Return that they may use every tool."""
        del server_id, tool, user
        return True


def error_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a failed result that the gateway made."""
    return dict(result["_meta"][ERROR_META_KEY])


@dataclass
class Approving:
    """Gateways before a server all of whose tools people must approve."""

    database: Database
    repository: ApprovalRepository
    service: ApprovalService
    server: CallCounter
    route: Route
    gateways: list[Gateway] = field(default_factory=list)

    @property
    def gateway(self) -> Gateway:
        """Return the first one."""
        return self.gateways[0]

    async def all(self, state: ApprovalState | None = None) -> list[Approval]:
        """Return the requests, newest first."""
        return await self.repository.page(ApprovalFilter(state=state), None, 100)

    async def pending(self) -> Approval:
        """Return the one that is pending, once there is one."""
        await until_async(lambda: self.all(ApprovalState.PENDING))
        (approval,) = await self.all(ApprovalState.PENDING)
        return approval

    async def only(self) -> Approval:
        """Return the only one."""
        (approval,) = await self.all()
        return approval

    async def reached(self, state: ApprovalState) -> Approval:
        """Return the only one, once it is in a state."""
        await until_async(lambda: self.all(state))
        return await self.only()

    async def reached_among(self, state: ApprovalState) -> None:
        """Return once one of the requests is in a state."""
        await until_async(lambda: self.all(state))

    async def decide(
        self,
        verdict: Verdict = Verdict.APPROVE,
        user: UserContext = ROOT,
        comment: str | None = None,
    ) -> Approval:
        """Decide about the pending request, in another process."""
        approval = await self.pending()
        now = await self.repository.now()
        decision = Decision(user.user_id, user.username, verdict, now, comment)
        decided = await self.repository.decide(approval, decision)
        assert decided is not None
        return decided

    async def call(
        self, user: str = "alice", handle: str | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Call the tool in the era of the handshake, and return the result."""
        params: dict[str, Any] = {"name": TOOL, "arguments": arguments or {"path": "a.txt"}}
        if handle is not None:
            params["_meta"] = {APPROVAL_META_KEY: handle}
        answer = await self.gateway.post(request("tools/call", params), user=user)
        assert answer.status_code == 200, answer.text
        events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        body = orjson.loads(events[-1].removeprefix("data: ") if events else answer.content)
        return dict(body["result"])

    async def handle(self) -> str:
        """Call the tool, and return the id of the request that waits."""
        return str(error_of(await self.call())["approval"])

    async def told(self, handle: str) -> str:
        """Return how a request that is over ended, as its requester is told."""
        result = await self.call(handle=handle)
        assert result["isError"]
        return str(result["content"][0]["text"])

    @asynccontextmanager
    async def executing(self) -> AsyncIterator[None]:
        """Let all gateways execute approved calls within the block."""
        works = (gateway.builder.approved_calls.follow() for gateway in self.gateways)
        async with in_background(*works):
            yield

    def redirect(self, url: str) -> None:
        """Let the server be at another address from now on."""
        self.change(url=url, target=URL(url))

    def change(self, **changes: Any) -> None:
        """Let the server have another route from now on."""
        self.route = replace(self.route, **changes)
        for gateway in self.gateways:
            gateway.routes.replace(self.route)


def approved_tools_route(url: str, kind: Kind = Kind.MODERN) -> Route:
    """Return the route to an everything server all of whose tools people must approve."""
    rules = CallRules(approvals=1)
    tools = [replace(tool, rules=rules) for tool in everything_tools()]
    return route_to(kind, url, tools=tools, server_id="d" * 24)


def approval_service(
    database: Database, repository: ApprovalRepository, notices: ApprovalNotices
) -> ApprovalService:
    """Return the service of requests."""
    keys = AuditKeys(Cipher(CREDS_KEY, CREDS_IV).derive_keys("audit"))
    audit = AuditTrail(AuditRepository(database, keys), clock=SystemClock(), metrics=Metrics())
    return ApprovalService(
        repository, AllServers(), audit, notices.note, use=AllServers(), allows_own=False
    )


@asynccontextmanager
async def approving(
    kind: Kind,
    start: StartGateway,
    database: Database,
    cipher: Cipher,
    *,
    gateways: int = 1,
    times: ApprovalTimes = WAITS,
    executes: bool = True,
    **changes: Any,
) -> AsyncIterator[Approving]:
    """Serve the everything server as one *kind* behind gateways that share a database."""
    state, clock = State(), SystemClock()
    if kind is Kind.OLD:
        server = CallCounter(OldEverything(state))
    else:
        server = CallCounter(OneEra(everything_app(state), is_modern=kind is Kind.MODERN))
    repository = ApprovalRepository(
        database, cipher, clock, lifetime=timedelta(hours=1), retention=timedelta(days=1)
    )
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(server, lifespan=kind is not Kind.OLD))
        path = STREAM_PATH if kind is Kind.OLD else "/mcp"
        route = approved_tools_route(url + path, kind)
        notices = [ApprovalNotices() for _ in range(gateways)]
        service = approval_service(database, repository, notices[0])
        place = Approving(database, repository, service, server, route)
        following = asyncio.Event()
        await stack.enter_async_context(in_background(follow(database, notices, following)))
        await following.wait()
        for number, notice in enumerate(notices):
            gateway = await start(
                route,
                approvals=Approvals(service, repository, notice, times),
                peers=SingleWorker(f"worker{number:02}"),
                **changes,
            )
            place.gateways.append(gateway)
            if executes:
                calls = gateway.builder.approved_calls
                await stack.enter_async_context(in_background(calls.follow()))
        yield place


async def follow(
    database: Database, notices: list[ApprovalNotices], following: asyncio.Event
) -> None:
    """Pass changes of requests on, as the snapshots of replicas do."""
    # The database may go first.
    with suppress(HistoryLost):
        async with aclosing(ChangeStream(database, TABLES).changes(None)) as feed:
            async for item in feed:
                following.set()
                change = item.change
                if change is not None and change.collection == "approvals":
                    for notice in notices:
                        await notice.reload({change.document_id})
