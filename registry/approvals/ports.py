"""Ports of approvals: what they need from access policies. Passed in by wiring."""

from typing import Protocol

from registry.auth.identity import UserContext


class ToolUse(Protocol):
    """Decides who may use a tool, as the gateway does."""

    async def may_use(self, server_id: str, tool: str, user: UserContext) -> bool:
        """Return whether *user* may use a tool, whatever else its calls need."""
