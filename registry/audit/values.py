"""Values of the audit domain. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, PlainValidator

from packages.database.stored import (
    Projection,
    RequiredId,
    RequiredTime,
    StoredText,
    TextOrEmpty,
    id_of,
    json_members,
    text_of,
)
from packages.models.states import AuditOutcome
from registry.core.json import JsonObject


class AuditAction(StrEnum):
    """The performed or attempted action."""

    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    DELETE = "delete"
    REFRESH = "refresh"
    SHARE = "share"
    ISSUE = "issue"
    REVOKE = "revoke"
    ROTATE = "rotate"
    ACCEPT = "accept"
    REJECT = "reject"
    ROLLBACK = "rollback"
    CALL = "call"
    AUTHORIZE = "authorize"
    NOTICE = "notice"


class EntityType(StrEnum):
    """Kind of the entity that a record is about."""

    SERVER = "server"
    TOOL = "tool"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    SESSION = "session"
    USER_KEY = "user_key"
    PERMISSION = "permission"
    CREDENTIALS = "credentials"
    AUDIT = "audit"
    USAGE = "usage"
    POLICY = "policy"
    LIMIT = "limit"
    QUARANTINE = "quarantine"
    USER = "user"
    GROUP = "group"
    AUTHORIZATION = "authorization"
    APPROVAL = "approval"
    TOOLSET = "toolset"
    BUDGET = "budget"
    CATALOG_SERVER = "catalog_server"


NAMED_FOR_SERVERS = frozenset(
    {EntityType.SERVER, EntityType.USER_KEY, EntityType.PERMISSION, EntityType.AUTHORIZATION}
)
"""Types whose entity id is that of a server."""

NO_SERVERS = frozenset(
    {
        EntityType.SESSION,
        EntityType.CREDENTIALS,
        EntityType.AUDIT,
        EntityType.USAGE,
        EntityType.USER,
        EntityType.GROUP,
        EntityType.BUDGET,
        EntityType.CATALOG_SERVER,
    }
)
"""Types whose records name no server. Those about stored tokens do."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An event; actor and origin are added when it is recorded.

    Attributes:
        entity_id: 24 hexadecimal characters, or another text id; None for many or none.
        changes: `before`, `after` and `secrets`, without any secret's value; see `changes_of`.
        reason: Why it was refused.
        server_id: The server of a tool or a policy; that of what is named for a server follows.
    """

    action: AuditAction
    entity_type: EntityType
    entity_id: str | None = None
    changes: JsonObject = field(default_factory=dict)
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    reason: str | None = None
    server_id: str | None = None

    @property
    def about_server(self) -> str | None:
        """Return the id of the server concerned, or None."""
        return self.entity_id if self.entity_type in NAMED_FOR_SERVERS else self.server_id


@dataclass(frozen=True, slots=True)
class AuditVisibility:
    """Which records a caller without full access may see: those that match any of these.

    Attributes:
        user_id: It is their own doing.
        server_ids: It is about one of these servers.
        tenant_id: The actor is of this tenant, or of none, and *whole_tenant* holds.
        whole_tenant: All records of the tenant match, or else only those that concern neither a
            server nor a user's token.
    """

    user_id: str
    server_ids: frozenset[str]
    tenant_id: str | None
    whole_tenant: bool


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filter of a list of records. *since* is inclusive, *until* exclusive."""

    action: AuditAction | None = None
    entity_type: EntityType | None = None
    entity_id: str | None = None
    user_id: str | None = None
    outcome: AuditOutcome | None = None
    since: datetime | None = None
    until: datetime | None = None


def _entity(stored: object) -> str | None:
    return text_of(stored) or id_of(stored)


class AuditRecord(Projection):
    """A stored record.

    Attributes:
        action: As stored, like *entity_type* and *outcome*: other releases may know others.
    """

    id: Annotated[RequiredId, Field(alias="_id")]
    timestamp: RequiredTime
    action: TextOrEmpty = ""
    entity_type: TextOrEmpty = ""
    entity_id: Annotated[str | None, PlainValidator(_entity)] = None
    outcome: TextOrEmpty = ""
    reason: StoredText = None
    changes: Annotated[JsonObject, PlainValidator(json_members)] = Field(default_factory=dict)
    user_id: Annotated[str, PlainValidator(lambda stored: id_of(stored) or "")] = ""
    username: TextOrEmpty = ""
    role: TextOrEmpty = ""
    token_id: StoredText = None
    request_id: StoredText = None
    source_address: StoredText = None


def changes_of(
    before: Mapping[str, object] | None,
    after: Mapping[str, object] | None,
    secrets: tuple[str, ...] = (),
) -> JsonObject:
    """Return the differences of two presentations of an entity, in which secrets are masked.

    Args:
        before: None for a thing that is new.
        after: None for a thing that is gone.
        secrets: Names of the secrets that were replaced, which the masks do not show.
    """
    earlier, later = before or {}, after or {}
    names = [name for name in {**earlier, **later} if earlier.get(name) != later.get(name)]
    changes: JsonObject = {}
    if before is not None:
        changes["before"] = {name: earlier[name] for name in names if name in earlier}  # type: ignore[misc]  # presentations are JSON
    if after is not None:
        changes["after"] = {name: later[name] for name in names if name in later}  # type: ignore[misc]  # presentations are JSON
    if secrets:
        changes["secrets"] = [*sorted(secrets)]
    return changes
