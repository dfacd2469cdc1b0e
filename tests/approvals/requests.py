"""Requests for approval, opened in a running registry as its gateway opens them."""

import hashlib
from typing import Any

from bson import ObjectId

from registry.access.policies.decisions import NO_RULE, version_of
from registry.approvals.values import Approval, RequestedCall
from registry.auth.identity import UserContext
from tests.fakes.rest import Rest


async def requested(
    rest: Rest,
    user: UserContext,
    server_id: str,
    tool: str,
    arguments: dict[str, Any] | None = None,
    *,
    tenant_id: str | None = None,
    needed: int = 1,
) -> Approval:
    """Open a request for a call of *user*, bound to the stored definition."""
    rows = rest.parts.database.collection("mcp_tools")
    row = await rows.find_one({"owner_id": ObjectId(server_id), "name": tool})
    assert row is not None
    text = row.get("presented") or row["definition"]
    call = RequestedCall(
        server_id=server_id,
        server_name="a server",
        tenant_id=tenant_id,
        tool=tool,
        called_as=tool,
        path="/mcp",
        definition_hash=hashlib.sha256(text.encode()).hexdigest(),
        arguments=arguments or {"text": "hello"},
        policy_version=version_of(NO_RULE),
        needed=needed,
    )
    return await rest.parts.approvals.request(call, user)
