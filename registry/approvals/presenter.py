"""Requests for approval in the form of responses. Pure."""

from datetime import datetime

from registry.approvals.reading import ApprovalDetail
from registry.approvals.values import Approval
from registry.core.json import JsonObject, load_text, members
from registry.core.text import timestamp


def present_approval(approval: Approval) -> JsonObject:
    """Return a request as lists show it: without arguments."""
    return {
        "id": approval.id,
        "state": approval.state.value,
        "reason": approval.reason,
        "server_id": approval.server_id,
        "server_name": approval.server_name,
        "tool": approval.tool,
        "called_as": approval.called_as,
        "path": approval.path,
        "requester": {
            "user_id": approval.requester.user_id,
            "username": approval.requester.username,
        },
        "needed": approval.needed,
        "decisions": [
            {
                "user_id": one.user_id,
                "username": one.username,
                "verdict": one.verdict.value,
                "comment": one.comment,
                "at": timestamp(one.at),
            }
            for one in approval.decisions
        ],
        "arguments_digest": approval.arguments_digest,
        "definition_hash": approval.definition_hash,
        "created_at": timestamp(approval.created_at),
        "updated_at": timestamp(approval.updated_at),
        "expires_at": timestamp(approval.expires_at),
        "started_at": _moment(approval.started_at),
        "ended_at": _moment(approval.ended_at),
        "fetched_at": _moment(approval.fetched_at),
        "is_error": approval.is_error,
        "etag": approval.etag,
    }


def present_detail(detail: ApprovalDetail) -> JsonObject:
    """Return a request with what people decide by."""
    tool = detail.tool
    definition = None
    if tool is not None and (text := tool.presented or tool.definition) is not None:
        definition = members(load_text(text))
    return {
        **present_approval(detail.approval),
        "arguments": detail.arguments,
        "definition": definition,
        "definition_is_current": detail.is_current,
        "tool_id": None if tool is None else tool.id,
        "tool_version": None if tool is None else tool.served_version,
        "tool_history": None if tool is None else f"/api/v1/registry/tools/{tool.id}/history",
    }


def _moment(value: datetime | None) -> str | None:
    return None if value is None else timestamp(value)
