"""Ports of policies: what they need from other domains. Wiring supplies the implementations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from packages.database.client import Transaction
from packages.models.states import Effect, SourceType
from registry.access.policies.values import NarrowedPath, Policy, Reason, ToolFacts
from registry.access.policy import ServerScope
from registry.auth.identity import UserContext
from registry.core.json import JsonObject
from registry.tools.call_rules import CallRules


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """A server, with the facts that policies need.

    Attributes:
        author: ObjectId of the user who registered it, 24 hexadecimal characters.
        scope: None if the other application created it.
        status: `active`, `inactive` or `error`.
        is_usable: Whether the gateway can build a route from what is stored.
        is_described_elsewhere: Whether only the other application has described its tools.
        tenant_id: Its tenant.
        default_effect: What holds for its tools that no policy allows.
        call_rules: Its defaults for what is demanded of calls.
        source_type: Whether it is an MCP server or a REST API.
    """

    id: str
    name: str
    path: str
    author: str
    scope: ServerScope | None
    status: str
    is_usable: bool
    is_described_elsewhere: bool
    tenant_id: str | None
    default_effect: Effect = Effect.ALLOW
    call_rules: JsonObject = field(default_factory=dict)
    source_type: SourceType = SourceType.MCP


class ServerPath(Protocol):
    """A server with its gateway path."""

    @property
    def id(self) -> str:
        """Return its ObjectId."""

    @property
    def effective_path(self) -> str:
        """Return the path."""


class PolicyServers(Protocol):
    """The servers that offer tools."""

    async def policy_owner(self, owner_id: str) -> PolicyServer | None:
        """Return a server. No access check."""

    async def policy_owner_at(self, path: str, tenant_id: str | None) -> PolicyServer | None:
        """Return the server at a gateway path of a tenant. No access check."""

    async def held_policy_owner(self, owner_id: str, tx: Transaction) -> PolicyServer | None:
        """Return a server, locked against concurrent changes by the transaction."""

    def sees_everything(self, user: UserContext) -> bool:
        """Whether *user* may see every server, and what is left of removed ones."""

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return what *user* may do with each server that they see."""

    def visible(self, user: UserContext) -> Sequence[ServerPath]:
        """Return the servers that *user* sees."""

    async def closed_by_default(self) -> Collection[str]:
        """Return the servers that refuse tools that no policy allows. No access check."""

    async def tool_functions(self, server_id: str) -> JsonObject:
        """Return the tools of a server as the other application describes them."""


class PolicyChanges(Protocol):
    """Notified of committed changes, so that the gateway follows at once on this replica."""

    async def policy_changed(self, policy_id: str) -> None:
        """Handle that a policy was created, changed or removed."""


class ToolsetSteps(Protocol):
    """What toolsets do to paths, as the gateway of this process serves them."""

    def meant(self, user: UserContext, path: NarrowedPath, name: str) -> tuple[str, str] | None:
        """Return server and own name of the tool that *user* finds under a name at a path.

        None if no toolset that they may use gives it that name.
        """

    def step(
        self,
        user: UserContext,
        path: NarrowedPath,
        server_id: str,
        tool: str,
        name: str | None,
    ) -> Reason | None:
        """Return whether toolsets keep a tool from *user*; None if it is not theirs anyway.

        Args:
            user: Whose call it is.
            path: Where.
            server_id: The server.
            tool: The tool's name on the server.
            name: The name by which it is called; None for any.
        """


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A call that waits for people, or for its execution after they approved it.

    Attributes:
        id: Of its request for approval.
        state: `pending`, `approved` or `executing`.
        approvals: How many people have approved it, of those *needed*.
    """

    id: str
    state: str
    approvals: int
    needed: int
    expires_at: datetime


class WaitingCalls(Protocol):
    """Knows the calls that wait for approval. Implemented by `registry.approvals.reading`."""

    async def waiting(self, user_id: str, server_id: str, tool: str) -> Sequence[WaitingCall]:
        """Return those of a user and a tool, newest first. No access check."""


@dataclass(frozen=True, slots=True)
class CallState:
    """What explanations say of this moment: of a serving process, not of a command."""

    toolsets: ToolsetSteps
    approvals: WaitingCalls


class Conditions(Protocol):
    """What calls depend on besides policies. Implemented by `registry.access.conditions`."""

    async def policies(self) -> Sequence[Policy]:
        """Return the policies that stand for quarantined servers and tools."""

    async def reasons(
        self,
        user: UserContext,
        server_id: str,
        tool: ToolFacts,
        rules: CallRules,
        source_type: SourceType | None = None,
        *,
        reveals_why: bool = False,
    ) -> tuple[Reason, ...]:
        """Return the first step of a decision, quarantine, and those after the policies.

        Args:
            user: Who would call.
            server_id: The server.
            tool: The tool.
            rules: What its calls need.
            source_type: What the server is.
            reveals_why: Whether to say why there is a quarantine.
        """
