"""Gateways whose tools people must approve, on one database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from packages.database.changes import ChangeStream, HistoryLost
from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState, Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.service import ApprovalService
from registry.approvals.values import Approval, ApprovalFilter
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.building import Approvals
from registry.gateway.edge.approvals import ApprovalTimes
from registry.gateway.values import Route, tool_entry
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.gateway.view.pending import TABLES
from registry.tools.call_rules import CallRules
from registry.workers.peers import SingleWorker
from tests.conftest import ROOT
from tests.fakes.call_counter import CallCounter
from tests.fakes.everything.eras import OneEra
from tests.fakes.everything.old import STREAM_PATH, OldEverything
from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.meeting import Kind, everything_tools, route_to
from tests.gateway.serving import serve
from tests.kit.waiting import in_background, until_async

WAITS = ApprovalTimes(wait_seconds=10.0, round_seconds=2.0, progress_seconds=0.05)


class AllServers:
    """Everybody sees every server."""

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

    async def approve(self, user: UserContext = ROOT) -> Approval:
        """Approve the pending request."""
        approval = await self.pending()
        return await self.service.decide(approval.id, user, Verdict.APPROVE)

    def change(self, **changes: Any) -> None:
        """Let the server have another route from now on."""
        self.route = replace(self.route, **changes)
        for gateway in self.gateways:
            gateway.routes.replace(self.route)


@asynccontextmanager
async def approving(  # noqa: PLR0913 - what tests vary
    kind: Kind,
    start: StartGateway,
    database: Database,
    cipher: Cipher,
    *,
    needed: int = 1,
    gateways: int = 1,
    times: ApprovalTimes = WAITS,
    executes: bool = True,
    lifetime: timedelta = timedelta(hours=1),
    tools: list[Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Approving]:
    """Serve the everything server as one *kind* behind gateways that share a database."""
    state, clock = State(), SystemClock()
    if kind is Kind.OLD:
        server = CallCounter(OldEverything(state))
    else:
        server = CallCounter(OneEra(everything_app(state), is_modern=kind is Kind.MODERN))
    repository = ApprovalRepository(
        database, cipher, clock, lifetime=lifetime, retention=timedelta(days=1)
    )
    keys = AuditKeys(cipher.derive_keys("audit"))
    audit = AuditTrail(AuditRepository(database, keys), clock=clock, metrics=Metrics())
    rules = CallRules(approvals=needed)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(server, lifespan=kind is not Kind.OLD))
        path = STREAM_PATH if kind is Kind.OLD else "/mcp"
        entries = [replace(tool, rules=rules) for tool in tools or everything_tools()]
        route = route_to(kind, url + path, tools=entries, server_id="d" * 24)
        notices = [ApprovalNotices() for _ in range(gateways)]
        service = ApprovalService(
            repository, AllServers(), audit, notices[0].note, allows_own=False
        )
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


def one_tool(definition: str) -> list[Any]:
    """Return the tool of a definition."""
    return [tool_entry("echo", definition)]
