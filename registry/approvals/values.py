"""Values of the approvals domain. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from packages.database.stored import (
    Projection,
    RequiredTime,
    StoredText,
    TextOrEmpty,
    id_of,
    moment_of,
    text_of,
    texts_of,
)
from packages.models.states import ApprovalState
from packages.models.states import Verdict as Verdict  # noqa: PLC0414 - for the routes
from registry.auth.identity import Role, tenant_of
from registry.core.json import choice_of, dump_text, members

LIVE = frozenset({ApprovalState.PENDING, ApprovalState.APPROVED, ApprovalState.EXECUTING})
"""States from which a request goes on by itself, or by a person."""

UNFETCHED = LIVE | {ApprovalState.EXECUTED, ApprovalState.DENIED, ApprovalState.UNKNOWN}
"""States in which the same call again is the same request, until its requester knows the end."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Who made a call, as they were then.

    Attributes:
        scopes: Of their token, those of their own included.
        session_id: Family of tokens that it belongs to, if any.
        ancestors: Tokens and families that it was generated with.
        is_service_account: Whether the account may exist in the token alone.
        toolset: The toolset that their token is limited to, as its claim says it.
    """

    user_id: str
    username: str
    role: Role
    scopes: tuple[str, ...] = ()
    token_id: str | None = None
    session_id: str | None = None
    ancestors: tuple[str, ...] = ()
    is_service_account: bool = False
    toolset: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one person decided.

    Attributes:
        is_service_account: Whether they may be no stored user.
    """

    user_id: str
    username: str
    verdict: Verdict
    at: datetime
    comment: str | None = None
    is_service_account: bool = False


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A call that people must approve.

    Attributes:
        tool: The tool's own name on its server.
        called_as: The name that the caller used, at *path*.
        toolset: Name of the toolset that the caller's header limits the call to.
        client_name: What the caller's application calls itself, where that is known.
        definition_hash: SHA-256 of the served definition.
        arguments: As they will be sent; only these.
        policy_version: Digest of the policies for the tool.
        needed: How many people must approve.
    """

    server_id: str
    server_name: str
    tenant_id: str | None
    tool: str
    called_as: str
    path: str
    definition_hash: str
    arguments: Mapping[str, Any] = field(repr=False)
    policy_version: str
    needed: int
    toolset: str | None = None
    client_name: str | None = None

    @property
    def arguments_text(self) -> str:
        """Return the arguments as JSON; numbers as exact as they are held."""
        return dump_text(dict(self.arguments)).decode()

    @property
    def arguments_digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of the arguments, in hexadecimal."""
        return digest_of(self.arguments)

    def binding(self, user_id: str) -> str:
        """Return the digest over everything that an approval is bound to."""
        bound = (
            *(user_id, self.server_id, self.tool, self.arguments_digest),
            *(self.definition_hash, self.policy_version, str(self.needed)),
        )
        return hashlib.sha256("\0".join(bound).encode()).hexdigest()


def digest_of(arguments: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of arguments, in hexadecimal."""
    return hashlib.sha256(dump_text(_ordered(dict(arguments)))).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_ordered(part) for part in value]
    return value


def _state(stored: object) -> ApprovalState:
    # A state of another release ends here: nothing is ever sent for it.
    return choice_of(ApprovalState, stored) or ApprovalState.VOID


def _requester(stored: object) -> Requester:
    said = members(stored)
    user_id = text_of(said.get("user_id"))
    if user_id is None:
        raise ValueError("has no user_id")
    return Requester(
        user_id,
        text_of(said.get("username")) or "",
        Role.parse(text_of(said.get("role"))),
        tuple(texts_of(said.get("scopes"))),
        text_of(said.get("token_id")),
        text_of(said.get("session_id")),
        tuple(texts_of(said.get("ancestors"))),
        said.get("is_service_account") is True,
        text_of(said.get("toolset")),
    )


def _decisions(stored: object) -> tuple[Decision, ...]:
    rows = stored if isinstance(stored, list) else []
    return tuple(decision for row in rows if (decision := _decision(members(row))) is not None)


def _decision(row: Mapping[str, Any]) -> Decision | None:
    user_id, at = text_of(row.get("user_id")), moment_of(row.get("at"))
    verdict = choice_of(Verdict, row.get("verdict"))
    if user_id is None or at is None or verdict is None:
        return None
    username, comment = text_of(row.get("username")) or "", text_of(row.get("comment"))
    is_service_account = row.get("is_service_account") is True
    return Decision(user_id, username, verdict, at, comment, is_service_account)


def _id(stored: object) -> str:
    found = id_of(stored)
    if found is None:
        raise ValueError("is no ObjectId")
    return found


def _needed(stored: object) -> int:
    return 1 if stored == 1 and stored is not True else 2


class Approval(Projection):
    """A request for approval, as stored; see `packages.models.approvals` for members.

    Attributes:
        arguments: Sealed.
        result: Sealed.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, arbitrary_types_allowed=True)

    id: Annotated[str, PlainValidator(_id), Field(alias="_id")]
    state: Annotated[ApprovalState, PlainValidator(_state)] = ApprovalState.VOID
    tenant_id: Annotated[str | None, PlainValidator(tenant_of)] = None
    requester: Annotated[Requester, PlainValidator(_requester)]
    server_id: Annotated[str, PlainValidator(_id)]
    server_name: TextOrEmpty = ""
    tool: TextOrEmpty = ""
    called_as: TextOrEmpty = ""
    path: TextOrEmpty = ""
    toolset: StoredText = None
    client_name: StoredText = None
    binding: TextOrEmpty = ""
    definition_hash: TextOrEmpty = ""
    arguments: Annotated[TextOrEmpty, Field(repr=False)] = ""
    arguments_digest: TextOrEmpty = ""
    policy_version: TextOrEmpty = ""
    needed: Annotated[int, PlainValidator(_needed)] = 2
    decisions: Annotated[tuple[Decision, ...], PlainValidator(_decisions)] = ()
    revision: Annotated[
        int, PlainValidator(lambda stored: stored if type(stored) is int else 0)
    ] = 0
    worker: StoredText = None
    started_at: Annotated[datetime | None, PlainValidator(moment_of)] = None
    ended_at: Annotated[datetime | None, PlainValidator(moment_of)] = None
    result: Annotated[StoredText, Field(repr=False)] = None
    is_error: Annotated[bool, PlainValidator(lambda stored: stored is True)] = False
    fetched_at: Annotated[datetime | None, PlainValidator(moment_of)] = None
    reason: StoredText = None
    created_at: RequiredTime
    updated_at: RequiredTime
    expires_at: RequiredTime

    @property
    def is_put_off(self) -> bool:
        """Whether the approved call could not be sent, and is tried when its requester asks."""
        return self.state is ApprovalState.APPROVED and self.ended_at is not None

    @property
    def etag(self) -> str:
        """Return a text that differs after every change."""
        return str(self.revision)

    @property
    def approvals(self) -> int:
        """Return how many people have approved it."""
        return len({one.user_id for one in self.decisions if one.verdict is Verdict.APPROVE})

    def state_at(self, now: datetime) -> ApprovalState:
        """Return the state: what was not executed in time has expired."""
        is_waiting = self.state in {ApprovalState.PENDING, ApprovalState.APPROVED}
        return ApprovalState.EXPIRED if is_waiting and self.expires_at <= now else self.state


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """Filter of a list of requests.

    Attributes:
        requester_id: Only requests of this user.
        server_ids: Only those for tools of these servers.
    """

    state: ApprovalState | None = None
    requester_id: str | None = None
    server_ids: tuple[str, ...] | None = None
    tool: str | None = None
    tenant_id: str | None = None


class Notice(Projection):
    """What the webhook is to be told of a request.

    Attributes:
        id: Of the message, the same each time that it is sent.
        state: Which the request came into.
        at: When.
        attempts: How often it was sent.
        due_at: When it is sent, or sent again.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    approval: Approval
    id: Annotated[str, PlainValidator(_id)]
    state: Annotated[ApprovalState, PlainValidator(ApprovalState)]
    at: RequiredTime
    attempts: int
    due_at: datetime
