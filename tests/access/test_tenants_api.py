"""Every route, asked by people of one tenant about what belongs to another one."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from bson import ObjectId

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from registry.core.clock import SystemClock
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from tests.approvals.requests import requested
from tests.fakes.descriptions import document
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.test_routes import OPEN, _routes
from tests.usage.conftest import batch_of, call

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

READING = USER_SCOPES | {Scope.READ_AUDIT}
OPERATOR_ADMIN = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
ALPHA_ADMIN = UserContext("a1" * 12, "alpha-admin", Role.ADMIN, ALL_SCOPES)
ALPHA_USER = UserContext("a2" * 12, "alpha-user", Role.USER, READING)
BRAVO_ADMIN = UserContext("b1" * 12, "bravo-admin", Role.ADMIN, ALL_SCOPES)
BRAVO_USER = UserContext("b2" * 12, "bravo-user", Role.USER, READING)
PEOPLE = {"alpha": (ALPHA_ADMIN, ALPHA_USER), "bravo": (BRAVO_ADMIN, BRAVO_USER)}
UNKNOWN = "5" * 24
HASH = "0" * 64


class Divided(Enum):
    """How what a route is about is divided by tenants."""

    BY_ID = auto()
    """What is another tenant's is answered like what does not exist."""
    LISTED = auto()
    """Another tenant's is left out."""
    COUNTED = auto()
    OWN = auto()
    """It is about the caller's own, or makes something that is of the caller's tenant."""
    OF_ALL = auto()
    """It is about the catalog of what exists, which belongs to no tenant."""


@dataclass(frozen=True)
class Belongings:
    """Ids of what belongs to one tenant, by the names that addresses and bodies have for them."""

    ids: Mapping[str, str]

    def fill(self, text: Any) -> Any:
        """Put the ids in the place of their names in braces."""
        if isinstance(text, str):
            return re.sub(r"\{(\w+)\}", lambda name: self.ids[name[1]], text)
        if isinstance(text, dict):
            return {key: self.fill(value) for key, value in text.items()}
        return [self.fill(item) for item in text] if isinstance(text, list) else text


NOBODYS = Belongings(
    dict.fromkeys(
        (
            *("server_id", "owner_id", "resource_id", "tool_id", "job_id", "policy_id", "user_id"),
            "api_id",
            *("group_id", "token_id", "limit_id", "budget_id", "toolset_id", "approval_id"),
            *("quarantine_id", "entry_id", "import_id"),
        ),
        UNKNOWN,
    )
    | {"jti": "6" * 32, "version": "1", "name": "MCP_API_KEY", "resource_type": "mcpServer"}
)

POLICY = {"name": "p", "effect": "deny", "subjects": {"everyone": True}}
BUDGET = {"name": "b", "amount": 100, "subjects": {"everyone": True}}
LIMIT = {"name": "l", "in_flight": 9}
SEEN = {"tools": [{"id": "{tool_id}", "hash": HASH}]}
V1 = "/api/v1"
SERVER, TOOL = f"{V1}/servers/{{server_id}}", f"{V1}/registry/tools/{{tool_id}}"
API = f"{V1}/apis/{{server_id}}"
TOOLSET = f"{V1}/toolsets/{{toolset_id}}"
CATALOG = f"{V1}/catalog"
SHARED = f"{V1}/permissions/{{resource_type}}/{{resource_id}}"

BODIES: dict[tuple[str, str], list[Any]] = {
    ("PUT", SERVER): [{"title": "Taken"}],
    ("PATCH", SERVER): [{"title": "Taken"}],
    ("POST", f"{SERVER}/toggle"): [{"enabled": False}],
    ("PUT", f"{SERVER}/user-keys"): [{"values": {"MCP_API_KEY": "taken"}}],
    ("PATCH", API): [{"description": "taken"}],
    ("PUT", API): [{"description": "taken"}],
    ("POST", f"{API}/toggle"): [{"enabled": False}],
    ("POST", f"{V1}/registry/tools/bulk"): [{"ids": ["{tool_id}"], "enabled": False}],
    ("POST", f"{V1}/registry/tools/bulk/accept"): [SEEN],
    ("POST", f"{V1}/registry/tools/bulk/reject"): [SEEN],
    ("PATCH", TOOL): [{"enabled": False}],
    ("POST", f"{TOOL}/accept"): [{"hash": HASH}],
    ("POST", f"{TOOL}/reject"): [{"hash": HASH}],
    ("POST", f"{TOOL}/rollback"): [{"version": 1}],
    ("PUT", SHARED): [{"public": True}],
    ("POST", f"{V1}/access/policies"): [
        {**POLICY, "target": {"owner_id": "{owner_id}"}},
        {**POLICY, "subjects": {"users": ["{user_id}"]}, "target": {"owner_id": "{owner_id}"}},
        {**POLICY, "subjects": {"users": ["{user_id}"]}, "target": {"owner_id": "{own}"}},
        {**POLICY, "subjects": {"groups": ["{group_id}"]}, "target": {"owner_id": "{own}"}},
    ],
    ("PATCH", f"{V1}/access/policies/{{policy_id}}"): [{"enabled": False}],
    ("POST", f"{V1}/budgets"): [{**BUDGET, "subjects": {"users": ["{user_id}"]}}],
    ("PATCH", f"{V1}/budgets/{{budget_id}}"): [{"amount": 5}],
    ("POST", f"{V1}/limits"): [
        {**LIMIT, "target": {"owner_id": "{owner_id}"}},
        {**LIMIT, "subjects": {"users": ["{user_id}"]}, "target": {"owner_id": "{own}"}},
    ],
    ("PATCH", f"{V1}/limits/{{limit_id}}"): [{"is_enabled": False}],
    ("POST", f"{V1}/toolsets"): [
        {"name": "taken", "entries": [{"server": "{server_id}", "tool": "echo"}]},
        {"name": "taken", "entries": [], "default_for": {"users": ["{user_id}"]}},
    ],
    ("PATCH", f"{V1}/toolsets/{{toolset_id}}"): [{"title": "Taken"}],
    ("PUT", f"{V1}/toolsets/{{toolset_id}}"): [{"name": "taken", "entries": []}],
    ("POST", f"{V1}/access/quarantine"): [
        {"kind": "server", "subject": "{server_id}", "reason": "r"},
        {"kind": "user", "subject": "{user_id}", "reason": "r"},
    ],
    ("POST", f"{V1}/access/explain"): [
        {"tool": "echo", "server_id": "{server_id}"},
        {"tool": "echo", "server_id": "{own}", "user_id": "{user_id}"},
    ],
    ("POST", f"{V1}/access/simulate"): [
        {"policy_id": "{policy_id}"},
        {"limit_id": "{limit_id}"},
        {"toolset_id": "{toolset_id}"},
        {"policy": {**POLICY, "target": {"owner_id": "{owner_id}"}}},
        {"limit": {**LIMIT, "target": {"owner_id": "{owner_id}"}}},
        {"toolset": {"name": "x", "entries": [{"server": "{server_id}", "tool": "echo"}]}},
        {
            "policy": {
                **POLICY,
                "subjects": {"users": ["{user_id}"]},
                "target": {"owner_id": "{own}"},
            }
        },
    ],
    ("PATCH", f"{V1}/users/{{user_id}}"): [{"disabled": True}],
    ("POST", f"{V1}/users/{{user_id}}/tokens"): [{"expires_in_hours": 1}],
    ("POST", f"{V1}/groups"): [{"name": "mixed", "members": ["{user_id}"]}],
    ("PATCH", f"{V1}/groups/{{group_id}}"): [{"name": "taken"}],
    ("POST", f"{V1}/tokens/revoke"): [
        {"jti": "{jti}"},
        {"jti": "{jti}", "unrecorded": True},
        {"user_id": "{user_id}"},
    ],
    **{("POST", f"{one}/tools/{{name:path}}"): [{"text": "x"}] for one in (SERVER, API, TOOLSET)},
    ("POST", f"{V1}/search"): [{"query": "echo pet"}],
    ("POST", f"{V1}/catalog/match"): [{"serverIds": ["{server_id}"]}],
    ("PUT", f"{V1}/tokens/{{token_id}}/refresh"): [
        {"new_access_token": "t", "new_expires_at": "2099-01-01T00:00:00Z"}
    ],
}
"""What is sent where a body is needed; `{own}` is a server of the caller's tenant."""

QUERIES = {
    f"{V1}/permissions/search-principals": "?q=person",
    # What was refused to somebody says which ids they asked for.
    f"{V1}/audit": "?outcome=success",
}

TABLE: dict[tuple[str, str], Divided] = {
    **dict.fromkeys(
        [
            *BODIES,
            *((method, SERVER) for method in ("GET", "DELETE")),
            *((method, API) for method in ("GET", "DELETE")),
            *(("GET", f"{one}/openapi.json") for one in (SERVER, API, TOOLSET)),
            ("GET", f"{API}/tools"),
            ("POST", f"{API}/refresh"),
            ("GET", f"{SERVER}/tools"),
            ("POST", f"{SERVER}/refresh"),
            ("GET", f"{SERVER}/user-keys"),
            ("DELETE", f"{SERVER}/user-keys"),
            ("DELETE", f"{SERVER}/user-keys/{{name}}"),
            ("GET", f"{V1}/mcp/connection/status/{{server_id}}"),
            ("POST", f"{V1}/mcp/{{server_id}}/reinitialize"),
            ("GET", f"{V1}/mcp/{{server_id}}/oauth/initiate"),
            ("DELETE", f"{V1}/mcp/{{server_id}}/oauth/token"),
            ("GET", f"{SERVER}/versions"),
            ("GET", f"{SERVER}/versions/{{version}}"),
            ("GET", f"{SERVER}/versions/{{version}}/diff"),
            ("POST", f"{SERVER}/versions/{{version}}/rollback"),
            ("GET", TOOL),
            ("GET", f"{TOOL}/history"),
            ("POST", f"{V1}/sync/owners/{{owner_id}}"),
            ("GET", f"{V1}/sync/jobs/{{job_id}}"),
            ("POST", f"{V1}/sync/jobs/{{job_id}}/retry"),
            ("PUT", f"{V1}/sync/owners/{{owner_id}}/webhook"),
            ("DELETE", f"{V1}/sync/owners/{{owner_id}}/webhook"),
            ("GET", SHARED),
            ("GET", f"{V1}/access/policies/{{policy_id}}"),
            ("DELETE", f"{V1}/access/policies/{{policy_id}}"),
            ("GET", f"{V1}/budgets/{{budget_id}}"),
            ("DELETE", f"{V1}/budgets/{{budget_id}}"),
            ("GET", f"{V1}/limits/{{limit_id}}"),
            ("DELETE", f"{V1}/limits/{{limit_id}}"),
            ("GET", f"{V1}/toolsets/{{toolset_id}}"),
            ("DELETE", f"{V1}/toolsets/{{toolset_id}}"),
            ("DELETE", f"{V1}/access/quarantine/{{quarantine_id}}"),
            ("GET", f"{V1}/users/{{user_id}}"),
            ("GET", f"{V1}/groups/{{group_id}}"),
            ("GET", f"{V1}/approvals/{{approval_id}}"),
            *(
                ("POST", f"{V1}/approvals/{{approval_id}}/{step}")
                for step in ("approve", "deny", "cancel")
            ),
            ("GET", f"{V1}/tokens/{{token_id}}"),
            ("DELETE", f"{V1}/tokens/{{token_id}}"),
        ],
        Divided.BY_ID,
    ),
    **dict.fromkeys(
        [
            *(("GET", f"{V1}/{name}") for name in ("servers", "apis", "users", "groups")),
            ("GET", f"{V1}/audit"),
            *(("GET", f"{V1}/{name}") for name in ("usage", "tokens/issued", "registry/tools")),
            ("GET", f"{V1}/sync/jobs"),
            ("GET", f"{V1}/access/policies"),
            ("GET", f"{V1}/budgets"),
            ("GET", f"{V1}/limits"),
            ("GET", f"{V1}/toolsets"),
            ("GET", f"{V1}/approvals"),
            ("GET", f"{V1}/access/quarantine"),
            ("GET", f"{V1}/mcp/connection/status"),
            ("GET", f"{V1}/permissions/search-principals"),
            *(("GET", f"{before}/mcp/openapi/catalog") for before in ("", V1)),
            ("POST", f"{V1}/search"),
            ("GET", "/v0.1/servers"),
        ],
        Divided.LISTED,
    ),
    **dict.fromkeys(
        [
            *((method, f"{CATALOG}/servers") for method in ("GET", "POST")),
            *((one, f"{CATALOG}/servers/{{entry_id}}") for one in ("GET", "PATCH", "DELETE")),
            ("GET", f"{CATALOG}/servers/{{entry_id}}/versions"),
            ("GET", f"{CATALOG}/sources"),
            # What is of a caller's tenant there is tested in `tests/catalog/test_subregistry.py`.
            ("GET", "/v0.1/servers/{server_name:path}/versions"),
            ("GET", "/v0.1/servers/{server_name:path}/versions/{version}"),
            *((method, f"{CATALOG}/imports") for method in ("GET", "POST")),
            ("GET", f"{CATALOG}/imports/{{import_id}}"),
        ],
        Divided.OF_ALL,
    ),
    ("GET", f"{V1}/servers/stats"): Divided.COUNTED,
    **dict.fromkeys(
        [
            ("POST", f"{V1}/servers"),
            ("POST", f"{V1}/servers/connection"),
            ("POST", f"{V1}/apis"),
            ("POST", f"{V1}/apis/preview"),
            ("POST", f"{V1}/users"),
            ("POST", f"{CATALOG}/servers/{{entry_id}}/register"),
            ("POST", f"{V1}/tokens/generate"),
            *((method, f"{V1}/tokens") for method in ("GET", "POST")),
            # Of one user, as tokens are; `tests/oauth/test_flows.py`.
            ("GET", f"{V1}/mcp/oauth/status/{{flow_id}}"),
            ("POST", f"{V1}/mcp/oauth/cancel/{{flow_id}}"),
        ],
        Divided.OWN,
    ),
}
"""What was decided about each route. One that is made later is decided here, or a test fails."""


async def made(
    rest: Rest, user: UserContext, path: str, body: object, method: str = "POST"
) -> dict[str, Any]:
    """Make something and return the answer."""
    answer = await rest.ask(user, method, path, json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


async def belongings(rest: Rest, tenant: str, url: str) -> Belongings:
    """Give a tenant one of everything, all named after it."""
    admin, user = PEOPLE[tenant]
    server = await made(
        rest, admin, "/servers", {"serverName": tenant, "url": url, "scope": "shared_app"}
    )
    tools = (await rest.ask(admin, "GET", "/registry/tools")).json()["tools"]
    api = await made(
        rest,
        admin,
        "/apis",
        {"name": f"{tenant}-api", "document": document(server=url), "scope": "shared_app"},
    )
    approval = await requested(rest, user, server["id"], "echo", tenant_id=tenant)
    # Found void in the background as soon as its tool is in quarantine, unless it is new.
    later = rest.parts.clock.now() + timedelta(hours=1)
    await rest.parts.database.collection("approvals").update_one(
        {"_id": ObjectId(approval.id)}, {"$set": {"created_at": later}}
    )
    job = await made(rest, admin, f"/sync/owners/{server['id']}", None)
    policy = await made(
        rest,
        admin,
        "/access/policies",
        {**POLICY, "name": tenant, "target": {"owner_id": server["id"], "tools": ["none"]}},
    )
    limit = await made(
        rest,
        admin,
        "/limits",
        {**LIMIT, "name": tenant, "target": {"owner_id": server["id"], "tools": ["none"]}},
    )
    toolset = await made(
        rest,
        admin,
        "/toolsets",
        {"name": "same", "title": tenant, "entries": [{"server": server["id"], "tool": "*"}]},
    )
    budget = await made(rest, admin, "/budgets", {**BUDGET, "name": tenant})
    held = await made(
        rest,
        admin,
        "/access/quarantine",
        {"kind": "tool", "subject": server["id"], "tool": "echo", "reason": "r"},
    )
    group = await made(
        rest, admin, "/groups", {"name": f"{tenant} person", "members": [user.user_id]}
    )
    issued = await made(rest, user, "/tokens/generate", {"expires_in_hours": 1})
    token = await made(
        rest,
        user,
        "/tokens",
        {"type": "oauth_access", "identifier": tenant, "token": "t"},
    )
    await rest.job(admin, job["job_id"])
    about = {"user_id": user.user_id, "username": user.username, "slug": tenant}
    batch = batch_of(call(**about, server_id=server["id"]))
    packer, clock = BatchPacker(worker="host:1", retention=timedelta(days=1)), SystemClock()
    usage = UsageRepository(rest.parts.database)
    assert await usage.insert(packer.document(batch, clock.now(), clock.monotonic()))
    return Belongings(
        {
            **NOBODYS.ids,
            **dict.fromkeys(("server_id", "owner_id", "resource_id"), server["id"]),
            "api_id": api["id"],
            "tool_id": tools[0]["id"],
            "job_id": job["job_id"],
            "policy_id": policy["id"],
            "budget_id": budget["id"],
            "limit_id": limit["id"],
            "toolset_id": toolset["id"],
            "approval_id": approval.id,
            "quarantine_id": held["id"],
            "user_id": user.user_id,
            "group_id": group["id"],
            "jti": issued["tokens"]["jti"],
            "token_id": token["id"],
        }
    )


@dataclass(frozen=True)
class TwoTenants:
    """A registry with the belongings of two tenants."""

    rest: Rest
    alpha: Belongings
    bravo: Belongings

    async def ask(
        self, user: UserContext, route: tuple[str, str], about: Belongings, body: Any = None
    ) -> httpx.Response:
        """Call a route about somebody's belongings."""
        named = Belongings({**about.ids, "own": self.alpha.ids["server_id"]})
        method, path = route
        if path.startswith(f"{V1}/apis"):
            named = Belongings({**named.ids, "server_id": about.ids["api_id"]})
        address = named.fill(path).removeprefix(V1) + QUERIES.get(path, "")
        sent = {} if body is None else {"json": named.fill(body)}
        if path.startswith("/v0.1"):
            headers = {"Authorization": f"Bearer {self.rest.token(user)}"}
            return await self.rest.client.request(method, address, headers=headers, **sent)
        return await self.rest.ask(user, method, address, **sent)

    async def stored(self) -> dict[str, list[Any]]:
        """Return all that is stored, but for what says who asked."""
        database = self.rest.parts.database.db
        told = {"audit_logs", "audit_seals"}
        names = set(await database.list_collection_names()) - told
        return {name: await database[name].find({}, sort=[("_id", 1)]).to_list() for name in names}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def two(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TwoTenants]:
    """Return a registry with two tenants; what is asked of it changes nothing."""
    home = tmp_path_factory.mktemp("two")
    settings = rest_settings(mongo_uri, key_files, home, user_directory="registry")
    async with running(settings) as rest, plain_upstream() as upstream:
        await rest.parts.database.collection("users").insert_many(
            [
                {
                    "_id": ObjectId(user.user_id),
                    "name": f"{tenant} person",
                    "username": user.username,
                    "email": f"{user.username}@example.com",
                    "role": user.role.upper(),
                    "tenantId": tenant,
                }
                for tenant, people in PEOPLE.items()
                for user in people
            ]
        )
        yield TwoTenants(
            rest,
            await belongings(rest, "alpha", upstream.url),
            await belongings(rest, "bravo", upstream.url),
        )


async def test_it_is_decided_of_every_route_how_tenants_divide_it(two: TwoTenants) -> None:
    assert set(TABLE) == set(_routes(two.rest)) - OPEN


@pytest.mark.parametrize("user", [ALPHA_ADMIN, ALPHA_USER], ids=lambda user: user.username)
async def test_what_is_of_another_tenant_is_answered_like_what_does_not_exist(
    two: TwoTenants, user: UserContext
) -> None:
    before = await two.stored()
    differing = {}
    for route in (route for route, how in TABLE.items() if how is Divided.BY_ID):
        for body in BODIES.get(route, [None]):
            theirs = await two.ask(user, route, two.bravo, body)
            nobodys = await two.ask(user, route, NOBODYS, body)
            told = theirs.status_code, anonymous(theirs, two.bravo)
            if told != (nobodys.status_code, anonymous(nobodys, NOBODYS)) or (
                # These leave out what they do not find.
                theirs.is_success and "bulk" not in route[1] and "match" not in route[1]
            ):
                differing[(*route, str(body))] = told, nobodys.text

    assert differing == {}
    assert await two.stored() == before


def anonymous(answer: httpx.Response, about: Belongings) -> str:
    """Return an answer without the ids that were asked about, and without the request's."""
    text = re.sub(r'"request_id":\s*"[^"]*"', "", answer.text)
    for found in sorted(set(about.ids.values()) - {"1"}, key=len, reverse=True):
        text = text.replace(found, "ID")
    return text


@pytest.mark.parametrize(
    "route", [route for route, how in TABLE.items() if how is Divided.LISTED], ids=lambda r: r[1]
)
async def test_lists_leave_out_what_is_of_another_tenant(
    two: TwoTenants, route: tuple[str, str]
) -> None:
    body = BODIES.get(route, [None])[0]
    answers = {
        user.username: await two.ask(user, route, two.bravo, body)
        for user in (ALPHA_ADMIN, ALPHA_USER, BRAVO_ADMIN, OPERATOR_ADMIN)
    }
    told = {name: marks(answer, two) for name, answer in answers.items()}

    assert told["alpha-admin"] == {"alpha"}
    assert told["alpha-user"] <= {"alpha"}
    assert told["bravo-admin"] == {"bravo"}
    # Search finds what its caller can call, and who is of no tenant calls nothing of one.
    assert told["root"] == (set() if route[1].endswith("/search") else {"alpha", "bravo"})


def marks(answer: httpx.Response, two: TwoTenants) -> set[str]:
    """Return the tenants of which an answer tells something."""
    signs = {"alpha": two.alpha, "bravo": two.bravo}
    common = set(NOBODYS.ids.values())
    return {
        tenant
        for tenant, owned in signs.items()
        if tenant in answer.text
        or any(key in answer.text for key in set(owned.ids.values()) - common)
    }


async def test_links_to_the_catalog_are_counted_of_the_callers_tenant(two: TwoTenants) -> None:
    server = two.bravo.ids["server_id"]
    row = await two.rest.parts.database.collection("mcpservers").find_one(ObjectId(server))
    assert row is not None
    listed = {"name": "com.example/counted", "url": row["config"]["url"]}
    entry = await made(two.rest, OPERATOR_ADMIN, "/catalog/servers", listed)
    await made(two.rest, BRAVO_ADMIN, "/catalog/match", {"serverIds": [server]})

    counts = [
        (await two.rest.ask(user, "GET", f"/catalog/servers/{entry['id']}")).json()[
            "linkedServers"
        ]
        for user in (ALPHA_ADMIN, BRAVO_ADMIN, BRAVO_USER, OPERATOR_ADMIN)
    ]

    assert counts == [0, 1, 1, 1]


async def test_statistics_count_what_is_of_the_callers_tenant(two: TwoTenants) -> None:
    counts = [
        (await two.rest.ask(user, "GET", "/servers/stats")).json()
        for user in (ALPHA_ADMIN, OPERATOR_ADMIN)
    ]

    names = ("total_servers", "total_tools", "total_tokens", "active_users")
    assert [[count[name] for name in names] for count in counts] == [[1] * 4, [2] * 4]


async def test_an_administrator_without_a_tenant_sees_and_changes_but_does_not_use(
    two: TwoTenants,
) -> None:
    server = f"/servers/{two.bravo.ids['server_id']}"
    headers = {
        "Authorization": f"Bearer {two.rest.token(OPERATOR_ADMIN)}",
        "Accept": "application/json, text/event-stream",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

    seen = await two.rest.ask(OPERATOR_ADMIN, "GET", server)
    changed = await two.rest.ask(OPERATOR_ADMIN, "PATCH", server, json={"title": "Bravo"})
    used = await two.rest.client.post("/mcp/bravo", json=message, headers=headers)
    explained = await two.rest.ask(
        OPERATOR_ADMIN,
        "POST",
        "/access/explain",
        json={"tool": "echo", "server_id": two.bravo.ids["server_id"]},
    )

    assert [seen.status_code, changed.status_code, used.status_code] == [200, 200, 404]
    assert explained.json()["allowed"] is False
    assert "another tenant" in explained.json()["message"]


async def test_policies_about_all_servers_are_not_for_administrators_of_a_tenant(
    two: TwoTenants,
) -> None:
    body = {**POLICY, "name": "all", "target": {"tools": ["no_such_tool"]}}

    refused = await two.rest.ask(ALPHA_ADMIN, "POST", "/access/policies", json=body)
    policy = await made(two.rest, OPERATOR_ADMIN, "/access/policies", body)
    looked = await two.rest.ask(ALPHA_ADMIN, "GET", f"/access/policies/{policy['id']}")
    removed = await two.rest.ask(ALPHA_ADMIN, "DELETE", f"/access/policies/{policy['id']}")
    simulated = await two.rest.ask(ALPHA_ADMIN, "POST", "/access/simulate", json={"policy": body})
    toolset = {"name": "x", "entries": [{"server": "alpha", "tool": "none"}]}
    tried = {
        admin: await made(
            two.rest,
            admin,
            "/access/simulate",
            {"toolset": toolset, "user_ids": [two.bravo.ids["user_id"]]},
        )
        for admin in (ALPHA_ADMIN, OPERATOR_ADMIN)
    }

    assert [answer.status_code for answer in (refused, looked, removed)] == [403, 404, 404]
    assert simulated.status_code == 403
    # Calls of the other tenant's people are no tenant's but theirs.
    assert (tried[ALPHA_ADMIN]["calls"], tried[ALPHA_ADMIN]["groups"]) == (0, [])
    assert [group["server"] for group in tried[OPERATOR_ADMIN]["groups"]] == ["bravo"]


async def test_what_is_made_is_of_the_tenant_of_whoever_makes_it(two: TwoTenants) -> None:
    body = {"email": "new@example.com", "username": "newcomer"}
    user = await made(two.rest, ALPHA_ADMIN, "/users", body)
    # Of another tenant the same names are free.
    other = await made(two.rest, BRAVO_ADMIN, "/users", body)

    database = two.rest.parts.database
    users = database.collection("users")
    tenants = [
        (await users.find_one({"_id": ObjectId(one["id"])}) or {}).get("tenantId")
        for one in (user, other)
    ]
    of_server = {"resourceId": ObjectId(two.bravo.ids["server_id"])}
    entries = await database.collection("aclentries").find(of_server).to_list()

    assert tenants == ["alpha", "bravo"]
    assert {entry.get("tenantId") for entry in entries} == {"bravo"}


async def test_removing_a_server_keeps_what_users_of_another_tenant_stored_for_theirs(
    two: TwoTenants,
) -> None:
    database = two.rest.parts.database
    keys, tokens = database.collection("pluginauths"), database.collection("tokens")
    for user in (ALPHA_USER, BRAVO_USER):
        await keys.insert_one(
            {"userId": user.user_id, "pluginKey": "mcp_twin", "authField": "K", "value": "v"}
        )
        await tokens.insert_one(
            {
                "userId": ObjectId(user.user_id),
                "type": "mcp_oauth",
                "identifier": "mcp:twin",
                "token": "t",
            }
        )
    twin = {"serverName": "twin", "url": "http://127.0.0.1:9/mcp"}
    mine = await made(two.rest, ALPHA_USER, "/servers", twin)
    await made(two.rest, BRAVO_USER, "/servers", twin)

    gone = await two.rest.ask(ALPHA_USER, "DELETE", f"/servers/{mine['id']}")

    left = await keys.find({"pluginKey": "mcp_twin"}).to_list()
    kept = await tokens.find({"identifier": "mcp:twin"}).to_list()
    assert gone.is_success
    assert [row["userId"] for row in left] == [BRAVO_USER.user_id]
    assert [str(row["userId"]) for row in kept] == [BRAVO_USER.user_id]
