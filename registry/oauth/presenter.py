"""JSON answers of the OAuth API. Pure."""

from datetime import datetime

from packages.models.states import FlowStatus
from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.oauth.values import AuthorizationLink, OAuthFlow

EXPIRED = "The authorization was not completed in time."


def present_link(link: AuthorizationLink, server_id: str) -> JsonObject:
    """Return a flow that waits for a browser."""
    return {
        "success": True,
        "flowId": link.flow_id,
        "serverId": server_id,
        "authorizationUrl": link.url,
        "expiresAt": timestamp(link.expires_at),
    }


def present_flow(flow: OAuthFlow, now: datetime) -> JsonObject:
    """Return the state of a flow; one that has expired has failed."""
    status = flow.status_at(now)
    fields: JsonObject = {
        "flowId": flow.id,
        "serverId": flow.server_id,
        "serverName": flow.server_name,
        "status": status.value,
        "completed": status is FlowStatus.COMPLETED,
        "failed": status in {FlowStatus.FAILED, FlowStatus.CANCELLED},
        "expiresAt": timestamp(flow.expires_at),
    }
    if status is FlowStatus.FAILED:
        fields["error"] = flow.reason or EXPIRED
    return fields
