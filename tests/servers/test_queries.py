"""What lists cost the database: an index for every query, and a bounded number of commands."""

from typing import Any

import pytest
from bson import ObjectId

from registry.access.policy import ServerScope
from registry.auth.identity import UserContext
from registry.servers.repository import SORT, ServerRepository
from registry.servers.values import ServerFilter, ServerStatus
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
COMMANDS = "mongodb_command_duration_seconds_count"
FILTERS = [
    ServerFilter(),
    ServerFilter(query="text"),
    ServerFilter(scope=ServerScope.SHARED_APP),
    ServerFilter(status=ServerStatus.ACTIVE),
    ServerFilter(author="a" * 24),
    ServerFilter("text", ServerScope.PRIVATE_USER, ServerStatus.ERROR, "a" * 24),
]


def stages(plan: Any) -> set[str]:
    """Return the names of all stages of a plan, at any depth."""
    if isinstance(plan, list):
        return set().union(*(stages(item) for item in plan))
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
    return own.union(*(stages(item) for item in plan.values()))


def commands(rest: Rest, name: str) -> float:
    labels = {"command": name, "outcome": "success"}
    return rest.parts.metrics.registry.get_sample_value(COMMANDS, labels) or 0


async def explained(rest: Rest, command: dict[str, Any]) -> set[str]:
    answer = await rest.parts.database.db.command(
        {"explain": command, "verbosity": "queryPlanner"}
    )
    return stages(answer["queryPlanner"]["winningPlan"])


async def granted_filter(rest: Rest, user: UserContext) -> dict[str, Any]:
    """Return the access rules of a user to whom one server was shared."""
    from registry.access.repository import AclRepository

    now = rest.parts.clock.now()
    acl = AclRepository(rest.parts.database, admin_sees_private=True)
    await rest.parts.database.collection("aclentries").insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(user.user_id),
            "resourceType": "mcpServer",
            "resourceId": ObjectId(),
            "permBits": 1,
        }
    )
    return await acl.visible_filter(user, now)
