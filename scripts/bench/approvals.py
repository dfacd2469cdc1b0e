"""How often an approved call is made, when many people approve it and many processes want it.

Each replica has connections of its own. What is counted is who got through to the next step: of
the approvers, of the processes that would send, and of the requester's calls for the result.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.database.schema import prepare
from packages.models.states import Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Decision, RequestedCall, Requester
from registry.auth.identity import Role
from registry.core.clock import SystemClock
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage

REPLICAS = 3
APPROVERS = 100
FETCHES = 10
MANY_ROUNDS, FEW_ROUNDS = 1_000, 50
REQUESTER = Requester("a" * 24, "requester", Role.USER)


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Let people and replicas race for one approval, many times."""
    rounds = MANY_ROUNDS if plan.is_long else FEW_ROUNDS
    report.section(
        f"{APPROVERS} approvers and {REPLICAS} replicas race on one approval, {rounds:,} rounds"
    )
    parts = urlsplit(stage.mongo_uri)
    # In the registry's own database, it would execute what is approved.
    uri = urlunsplit(parts._replace(path=f"{parts.path or '/'}_race"))
    winners, seconds = asyncio.run(_race(uri, rounds))
    for number, step in enumerate(("decided by", "executed by", "result handed over to")):
        wrong = sum(one[number] != 1 for one in winners)
        report.row(f"rounds not {step} exactly one", [float(wrong)], "", Bar(0))
    report.row("one round", [seconds / rounds * 1000], "ms")


async def _race(uri: str, rounds: int) -> tuple[list[tuple[int, int, int]], float]:
    """Return for each round how many got through each step, and the seconds of all."""
    cipher = Cipher("0f" * 32, "1e" * 16)
    databases = [Database(uri, timeout_ms=5000) for _ in range(REPLICAS)]
    replicas = [
        ApprovalRepository(
            database,
            cipher,
            SystemClock(),
            lifetime=timedelta(hours=1),
            retention=timedelta(hours=1),
        )
        for database in databases
    ]
    await prepare(databases[0], {})
    began_at = time.monotonic()
    winners = [await _round(replicas, number) for number in range(rounds)]
    seconds = time.monotonic() - began_at
    for database in databases:
        await database.close()
    return winners, seconds


async def _round(replicas: Sequence[ApprovalRepository], number: int) -> tuple[int, int, int]:
    call = RequestedCall(
        server_id="d" * 24,
        server_name="raced",
        tenant_id=None,
        tool="pay",
        called_as="pay",
        path="/mcp/raced",
        definition_hash="definition",
        arguments={"number": number},
        policy_version="",
        needed=1,
    )
    approval, _ = await replicas[0].open(call, REQUESTER)
    now = await replicas[0].now()
    decided = await asyncio.gather(
        *(
            replicas[one % REPLICAS].decide(
                approval, Decision(f"{one:024x}", f"approver {one}", Verdict.APPROVE, now)
            )
            for one in range(APPROVERS)
        )
    )
    claimed = await asyncio.gather(
        *(replica.claim(approval.id, f"worker{one}") for one, replica in enumerate(replicas))
    )
    for replica, claim in zip(replicas, claimed, strict=True):
        if claim is not None and claim.worker is not None:
            await replica.store_result(approval.id, claim.worker, "{}", is_error=False)
    taken = await asyncio.gather(
        *(
            replicas[one % REPLICAS].take_result(approval.id, REQUESTER.user_id)
            for one in range(FETCHES)
        )
    )
    return _count(decided), _count(claimed), _count(taken)


def _count(found: Sequence[object]) -> int:
    return sum(one is not None for one in found)
