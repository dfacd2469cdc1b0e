"""Closed sets of stored values, shared by documents and domains. Imports no library."""

from enum import StrEnum


class SourceType(StrEnum):
    """What a tool belongs to: an MCP server, or a REST API."""

    MCP = "mcp"
    OPENAPI = "openapi"


class RegistrationState(StrEnum):
    """Whether a person chose the tool, and whether the upstream still offers it."""

    SELECTED = "selected"
    UNSELECTED = "unselected"
    STALE = "stale"


class ExposureState(StrEnum):
    """Whether the tool may be served."""

    DRAFT = "draft"
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


class VersionState(StrEnum):
    """State of a version of a tool."""

    SERVED = "served"
    PENDING = "pending"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


class VersionOrigin(StrEnum):
    """When the upstream offered a version of a tool."""

    DISCOVERY = "discovery"
    SYNC = "sync"


class FeatureKind(StrEnum):
    """What a server offers besides tools."""

    PROMPT = "prompt"
    RESOURCE = "resource"
    TEMPLATE = "resource_template"


class Effect(StrEnum):
    """The effect of a policy on the callers that it names."""

    ALLOW = "allow"
    DENY = "deny"


class AuditOutcome(StrEnum):
    """Whether the recorded action took place."""

    SUCCESS = "success"
    DENIED = "denied"
    FAILED = "failed"


class Trigger(StrEnum):
    """What asks for a synchronisation."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    WEBHOOK = "webhook"
    NOTIFICATION = "notification"
    COMMAND = "command"


class JobState(StrEnum):
    """State of a job. A dead job failed too often and waits for a request to retry it."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether work remains."""
        return self in OPEN_STATES


OPEN_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.RETRYING})


class RunOutcome(StrEnum):
    """How an attempt ended; `lease_lost` means that its worker stopped without finishing it."""

    SUCCESS = "success"
    FAILURE = "failure"
    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"


class SyncStatus(StrEnum):
    """How the last reading of a server ended."""

    SUCCESS = "success"
    FAILURE = "failure"


class ServerVersionState(StrEnum):
    """Whether a version is how the server is reached now."""

    ACTIVE = "active"
    FORMER = "former"


class ServerVersionOrigin(StrEnum):
    """What made a version.

    `found` was there when versions began to be kept, or was written by the other application.
    """

    REGISTRATION = "registration"
    UPDATE = "update"
    ROLLBACK = "rollback"
    FOUND = "found"


class FlowStatus(StrEnum):
    """State of an authorization flow, as stored; one past its expiry counts as `FAILED`."""

    PENDING = "pending"
    EXCHANGING = "exchanging"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ApprovalState(StrEnum):
    """State of a request for approval of one call.

    From `pending` to `approved`, `denied`, `expired`, `cancelled` or `void`; from `approved` to
    `executing`, `expired` or `void`; from `executing` to `executed` or `unknown`.
    """

    PENDING = "pending"
    APPROVED = "approved"
    EXECUTING = "executing"
    EXECUTED = "executed"
    UNKNOWN = "unknown"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    VOID = "void"


class Verdict(StrEnum):
    """What an approver decided."""

    APPROVE = "approve"
    DENY = "deny"


class QuarantineKind(StrEnum):
    """What can be put in quarantine; `client` is a caller application, by its name."""

    SERVER = "server"
    TOOL = "tool"
    USER = "user"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    CLIENT = "client"


class CatalogKind(StrEnum):
    """How a server of the catalog is reached: at a URL, or by starting a package."""

    REMOTE = "remote"
    CONTAINER = "container"


class CatalogStatus(StrEnum):
    """State of a version of a server of the catalog, as in the official registry."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    DELETED = "deleted"
