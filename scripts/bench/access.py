"""What access decisions, token checks and a user's list cost.

The first two are timed in this process, in microseconds. The list is timed as a client sees it,
against the query that an administrator's list is at the least, made through the bare driver.
"""

import asyncio
import http.client
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from registry.access.policy import Grant, Grants, Permission, ServerFacts, ServerScope, decide
from registry.auth.bearer import BearerAuthenticator
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.auth.jwt import TokenIssuer, TokenVerifier
from registry.auth.keys import SigningKeys, load_signing_keys
from registry.auth.revocation import Revocation, RevocationList
from registry.auth.values import DirectoryEntry
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

ISSUER, AUDIENCE = "mcp-gateway-registry", "mcp-gateway"
REPEATS = 20_000
GRANTS = 200
GROUPS = 20
SERVERS = 10_000
SORT = [("updatedAt", -1), ("_id", 1)]
BATCH = 500
SETTLE_SECONDS = 20.0


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Store ten thousand servers with their grants, and list them for a user."""
    user_id = fill(stage.mongo_uri)
    token = user_token(signing_keys(stage.home), user_id)
    # The registry applies the writes in the meantime.
    time.sleep(SETTLE_SECONDS)
    decisions: list[float] = []
    verifications: list[float] = []
    ours: list[float] = []
    bare: list[float] = []
    total = 0
    for _ in range(plan.rounds):
        decisions.append(decision_microseconds())
        verifications.append(verification_microseconds(stage.home))
        spent, total = list_milliseconds(HOST, stage.port, token)
        ours.append(spent)
        bare.append(bare_milliseconds(stage.mongo_uri))
    report.section("access")
    report.row(f"decision with {GRANTS} grants", decisions, "us", Bar(20))
    report.row("verification of a remembered token", verifications, "us", Bar(15))
    report.section(f"GET /servers, 20 of {total} out of {SERVERS}, a user in {GROUPS} groups")
    report.row("time", ours, "ms")
    report.row("time of an administrator's query through the bare driver", bare, "ms")
    label = f"a user's `GET /servers` out of {SERVERS:,} / an administrator's query"
    report.row(label, [a / b for a, b in zip(ours, bare, strict=True)], bar=Bar(3))


class NoDatabase:
    """Answers one question, and fails when it is asked again: a remembered token asks nothing."""

    def __init__(self) -> None:
        self._asked = False

    async def get(self, _user_id: str) -> DirectoryEntry | None:
        """Return a user without groups, once."""
        if self._asked:
            raise RuntimeError("a remembered token was looked up again")
        self._asked = True
        return DirectoryEntry("USER", "bench", frozenset())

    async def unexpired(self, _now: datetime) -> list[Revocation]:
        """Return nothing that is revoked."""
        return []


def decision_microseconds() -> float:
    """Return the time of one decision about a server with many grants, the last one fitting."""
    groups = frozenset(str(ObjectId()) for _ in range(GROUPS))
    user = UserContext(str(ObjectId()), "bench", Role.USER, USER_SCOPES, groups)
    grants = [Grant("user", str(ObjectId()), Permission.VIEW) for _ in range(GRANTS // 2)]
    grants += [Grant("group", str(ObjectId()), Permission.VIEW) for _ in range(GRANTS // 2 - 1)]
    grants.append(Grant("group", next(iter(groups)), Permission.VIEW))
    server = ServerFacts(str(ObjectId()), ServerScope.SHARED_USER, Grants.of(grants, None))
    if not decide(user, Permission.VIEW, server).allowed:
        raise RuntimeError("the decision is wrong")
    began_at = time.perf_counter()
    for _ in range(REPEATS):
        decide(user, Permission.VIEW, server)
    spent = time.perf_counter() - began_at
    return spent / REPEATS * 1e6


def verification_microseconds(home: Path) -> float:
    """Return the time to find out who a remembered token stands for."""
    return asyncio.run(_verification(signing_keys(home)))


async def _verification(keys: SigningKeys) -> float:
    clock = SystemClock()
    nothing = NoDatabase()
    verifier = TokenVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, shared_secret=None, leeway_seconds=10
    )
    authenticator = BearerAuthenticator(
        verifier,
        nothing,
        RevocationList(nothing, clock),
        clock=clock,
        metrics=Metrics(),
        outage_seconds=60,
        user_cache_seconds=300,
        leeway_seconds=10,
    )
    header = f"Bearer {user_token(keys, str(ObjectId()))}"
    await authenticator.authenticate(header)
    began_at = time.perf_counter()
    for _ in range(REPEATS):
        await authenticator.authenticate(header)
    return (time.perf_counter() - began_at) / REPEATS * 1e6


def signing_keys(home: Path) -> SigningKeys:
    """Return the key pair of a local registry."""
    return load_signing_keys(home / "jwt-private.pem", home / "jwt-public.pem")


def user_token(keys: SigningKeys, user_id: str) -> str:
    """Return a token of a plain user."""
    issuer = TokenIssuer(keys, issuer=ISSUER, audience=AUDIENCE, clock=SystemClock())
    return issuer.issue(
        user_id=user_id,
        username="bench",
        role=Role.USER,
        scopes=USER_SCOPES,
        lifetime=timedelta(hours=1),
    )


def fill(uri: str) -> str:
    """Store servers of all scopes and a user in many groups; return the user's id."""
    user_id = ObjectId()
    groups = [ObjectId() for _ in range(GROUPS)]
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        database = client.get_default_database()
        database["users"].insert_one({"_id": user_id, "username": "bench", "role": "USER"})
        database["groups"].insert_many(
            [
                {"_id": group, "name": f"group {number}", "memberIds": [str(user_id)]}
                for number, group in enumerate(groups)
            ]
        )
        servers = [_server(number) for number in range(SERVERS)]
        entries = [
            {
                "principalType": "group",
                "principalId": groups[number % GROUPS] if number % 2 else ObjectId(),
                "principalModel": "Group",
                "resourceType": "mcpServer",
                "resourceId": server["_id"],
                "permBits": 1,
            }
            for number, server in enumerate(servers)
            if server["scope"] == "shared_user"
        ]
        entries += [
            {
                "principalType": "public",
                "resourceType": "mcpServer",
                "resourceId": server["_id"],
                "permBits": 1,
            }
            for server in servers
            if server["scope"] == "shared_app"
        ]
        for start in range(0, SERVERS, BATCH):
            database["mcpservers"].insert_many(servers[start : start + BATCH])
        for start in range(0, len(entries), BATCH):
            database["aclentries"].insert_many(entries[start : start + BATCH])
    return str(user_id)


def _server(number: int) -> dict[str, Any]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    scope = ("shared_app", "shared_user", "shared_user", "private_user", "private_user")
    return {
        "_id": ObjectId(),
        "serverName": f"access-{number}",
        "normalizedServerName": f"access-{number}",
        "config": {
            "title": f"Server {number}",
            "description": "A server that stands for an ordinary one in a long list.",
            "type": "streamable-http",
            "url": f"https://access-{number}.example.com/mcp",
            "tools": ", ".join(f"tool_{index}" for index in range(10)),
        },
        "author": ObjectId(),
        "scope": scope[number % len(scope)],
        "status": "inactive",
        "path": f"/mcp/access-{number}",
        "tags": ["bench"],
        "numTools": 10,
        "numStars": 0,
        "createdAt": start,
        "updatedAt": start + timedelta(seconds=number * 7919 % SERVERS),
    }


def list_milliseconds(host: str, port: int, token: str) -> tuple[float, int]:
    """Return the time of a user's list of 20, as its client sees it, and how many there are."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    headers = {"Authorization": f"Bearer {token}"}
    began_at = time.perf_counter()
    connection.request("GET", "/api/v1/servers?per_page=20", headers=headers)
    body = connection.getresponse().read()
    spent = (time.perf_counter() - began_at) * 1000
    connection.close()
    total = int(body.rpartition(b'"total":')[2].partition(b",")[0])
    return spent, total


def bare_milliseconds(uri: str) -> float:
    """Return the time of an administrator's query of 20 through the bare driver."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        servers = client.get_default_database()["mcpservers"]
        servers.find_one({})
        began_at = time.perf_counter()
        servers.count_documents({}, hint=SORT)
        list(servers.find({}, {"config.toolFunctions": 0}).sort(SORT).hint(SORT).limit(-20))
        return (time.perf_counter() - began_at) * 1000
