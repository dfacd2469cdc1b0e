"""Closed sets of stored values, shared by documents and domains. Imports no library."""

from enum import StrEnum


class SourceType(StrEnum):
    """What a tool belongs to: an MCP server, or a REST API."""

    MCP = "mcp"
    OPENAPI = "openapi"


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
