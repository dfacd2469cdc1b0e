"""Convert the result of a discovery to changes of stored fields. Pure."""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta
from typing import cast

from packages.models.states import SourceType
from registry.access.policy import ServerScope
from registry.core.json import JsonObject
from registry.servers.presenter import listed_problems
from registry.servers.values import (
    DEFAULT_SYNC_SECONDS,
    SYNC_FIELDS,
    ApiFacts,
    Discovered,
    ServerRecord,
    ServerStatus,
    SyncMode,
    names_in,
)
from registry.tools.intake import LISTED_TWICE
from registry.tools.projection import project
from registry.tools.values import ToolDefinition


@dataclass(frozen=True, slots=True)
class DiscoveryResult:
    """Result of a discovery: it succeeded, it failed, or it was skipped.

    Attributes:
        unread: Why it was skipped.
        needs_oauth: Whether it was skipped because the user has not authorised the registry.
        oauth_metadata: What the server publishes, if it was skipped for that.
        notice: Stored as `errorMessage` of a server that was never read.
        is_callers_own: Whether the caller's own values failed, which says nothing about the
            server.
        began_at: When it began.
        wants_oauth: Whether it failed because the server requires OAuth.
    """

    found: Discovered | None = None
    failure: str | None = None
    unread: str | None = None
    needs_oauth: bool = False
    oauth_metadata: JsonObject | None = None
    notice: str | None = None
    is_callers_own: bool = False
    wants_oauth: bool = False
    began_at: datetime | None = None


OAUTH_MISSING = (
    "Nobody has authorised the registry at this server yet: its tools are not known until a user "
    "does."
)
"""Stored as `errorMessage` of a server whose users authorise the registry, until it is read."""

NOTHING_OFFERED = (
    "None of the known tools were found. They are kept until a second discovery confirms this."
)
MOVED_MEANWHILE = (
    "The server listed a tool twice and omitted known ones, as if its list had changed during the "
    "discovery. They are kept until a second discovery confirms this."
)


@dataclass(frozen=True, slots=True)
class DiscoveryChanges:
    """Stored fields that follow from a discovery."""

    set_fields: dict[str, object]
    removed: tuple[str, ...] = ()


NOT_CONTACTED = frozenset(
    {
        "lastConnected",
        "config.initDuration",
        "registry.protocol_version",
        "registry.eras",
        "registry.last_sync_started_at",
        "registry.last_sync_completed_at",
        "registry.last_sync_status",
        "registry.last_synced_at",
        "registry.features_read",
    }
)
"""What is known only of a server that was contacted."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded of a server that was described by another program, and not contacted.

    Attributes:
        notice: Stored as `errorMessage` until it is read.
    """

    notice: str

    def changes(self, outcome: DiscoveryChanges) -> DiscoveryChanges:
        """Return the fields of a discovery without those that say that there was one."""
        known = {k: v for k, v in outcome.set_fields.items() if k not in NOT_CONTACTED}
        known["errorMessage"] = self.notice
        return DiscoveryChanges(known)


def needs_confirmation(server: ServerRecord, reading: DiscoveryResult) -> str | None:
    """Return why a removal of tools must be confirmed by a second discovery; None if it need not.

    Some servers return no tools while they start. A list that changes between two pages can
    contain one tool twice and omit another.
    """
    found, had = reading.found, names_in(server.config.get("tools"))
    if found is None or not had:
        return None
    tools, rejected = found.snapshot.tools, found.snapshot.rejected
    if not (tools or rejected):
        return NOTHING_OFFERED
    is_twice = any(tool.reason == LISTED_TWICE for tool in rejected)
    listed = {tool.name for tool in tools} | {tool.name for tool in rejected}
    if is_twice and not listed.issuperset(had):
        return MOVED_MEANWHILE
    return None


def with_confirmation(server: ServerRecord, reading: DiscoveryResult) -> DiscoveryResult:
    """Return *reading*, or a failure if it is the first that must be confirmed."""
    doubt = needs_confirmation(server, reading)
    if doubt is None or server.error_message == doubt:
        return reading
    return DiscoveryResult(failure=doubt, began_at=reading.began_at)


def discovery_changes(
    reading: DiscoveryResult,
    now: datetime,
    *,
    failures_before: int,
    failures_until_error: int,
    status: ServerStatus | None,
    was_read: bool = False,
    known: ServerRecord | None = None,
) -> DiscoveryChanges:
    """Return the fields that a discovery changes.

    Args:
        reading: The result.
        now: The time of the change.
        failures_before: Consecutive failed attempts before this one.
        failures_until_error: After this many, an active server becomes one in error.
        status: The server's status; None during its registration.
        was_read: Whether its tools are known from an earlier discovery.
        known: The server as stored; None during its registration.
    """
    synced: dict[str, object] = {
        "registry.last_sync_started_at": reading.began_at or now,
        "registry.last_sync_completed_at": now,
        "registry.last_sync_status": "success" if reading.failure is None else "failure",
    }
    if reading.is_callers_own and status is not None:
        return DiscoveryChanges(synced)
    if reading.failure is not None:
        failures = failures_before + 1
        fields: dict[str, object] = {
            **synced,
            "lastError": now,
            "errorMessage": reading.failure,
            "registry.consecutive_failures": failures,
            **({"registry.wants_oauth": True} if reading.wants_oauth else {}),
        }
        if status is ServerStatus.ACTIVE and failures >= failures_until_error:
            fields["status"] = ServerStatus.ERROR.value
        return DiscoveryChanges(fields)
    fields = {}
    if reading.oauth_metadata is not None:
        fields["config.oauthMetadata"] = reading.oauth_metadata
    if reading.notice is not None and not was_read:
        fields["errorMessage"] = reading.notice
    found = reading.found
    if found is None:
        is_outdated = reading.needs_oauth and reading.oauth_metadata is None
        return DiscoveryChanges(fields, ("config.oauthMetadata",) if is_outdated else ())
    fields |= synced
    fields |= {
        "lastConnected": now,
        "config.capabilities": json.dumps(found.capabilities, separators=(",", ":")),
        "config.initDuration": found.init_duration_ms,
        "registry.protocol_version": found.protocol_version,
        "registry.eras": sorted(era.value for era in found.eras),
        "registry.last_synced_at": now,
        "registry.tool_problems": listed_problems(found.snapshot.rejected),
        "registry.features_read": True,
    }
    removed = [
        "lastError",
        "errorMessage",
        "registry.consecutive_failures",
        "registry.wants_oauth",
    ]
    if status is ServerStatus.ERROR:
        fields["status"] = ServerStatus.ACTIVE.value
    told = _told(found)
    fields |= {name: value for name, value in told.items() if value}
    removed += [name for name, value in told.items() if not value]
    if found.api is not None:
        fields |= _api_fields(found.api, known)
    return DiscoveryChanges(fields, tuple(removed))


def _told(found: Discovered) -> dict[str, object]:
    """Return what an upstream may tell of itself; what it does not tell is removed."""
    return {
        "registry.instructions": found.instructions,
        "registry.title": found.title,
        "registry.feature_problems": listed_problems(found.features.problems),
    }


def _api_fields(api: ApiFacts, known: ServerRecord | None) -> dict[str, object]:
    """Return what a description says beside its operations, as far as it is news.

    Its server is taken once: followed later, a description could send credentials elsewhere.
    """
    fields: dict[str, object] = {}
    if known is None or not known.config.get("url"):
        fields["config.url"] = api.base_url
    if known is None or known.registry.get("api") != api.facts:
        fields["registry.api"] = api.facts
        fields["document"] = zlib.compress(api.document)
    return fields


def schedule_fields(
    before: Mapping[str, object],
    writes: Mapping[str, object],
    gone: Collection[str],
    now: datetime,
) -> DiscoveryChanges:
    """Return when the next sync of a server is due after its schedule changed.

    Args:
        before: Our own stored facts about it.
        writes: Stored fields to set.
        gone: Stored fields to remove.
        now: The time of the change.
    """
    names = ("sync_mode", "sync_interval_seconds")
    if not any(f"registry.{name}" in {*writes, *gone} for name in names):
        return DiscoveryChanges({})
    mode, seconds = (
        writes.get(f"registry.{name}", None if f"registry.{name}" in gone else before.get(name))
        for name in names
    )
    if mode != SyncMode.SCHEDULED.value:
        return DiscoveryChanges({}, ("registry.next_sync_at",) if "next_sync_at" in before else ())
    interval = seconds if isinstance(seconds, int) else DEFAULT_SYNC_SECONDS
    return DiscoveryChanges({"registry.next_sync_at": now + timedelta(seconds=interval)})


def apply_to_new(fields: dict[str, object], outcome: DiscoveryChanges) -> None:
    """Write dotted names into the nested fields of a document that is not stored yet."""
    for name, value in outcome.set_fields.items():
        parent, _, leaf = name.rpartition(".")
        target = cast("dict[str, object]", fields[parent]) if parent else fields
        target[leaf] = value


def projection_fields(
    served: Sequence[ToolDefinition], server_name: str, source_type: SourceType
) -> dict[str, object]:
    """Return the fields of a server that repeat the served tools.

    The other application reads no APIs, whose definitions may be megabytes: only the names.
    """
    if source_type is SourceType.OPENAPI:
        return {
            "config.tools": ", ".join(tool.name for tool in served),
            "numTools": len(served),
        }
    projection = project(served, server_name)
    return {
        "config.tools": projection.tools,
        "config.toolFunctions": projection.functions,
        "numTools": projection.num_tools,
        "registry.functions_omitted": projection.omitted,
    }


OF_A_CONNECTION = frozenset({"lastConnected", "config.initDuration"})
"""Fields that say of an unchanged server only that it was connected to. Health events write them
too, with a delay."""


@dataclass(frozen=True, slots=True)
class StateOnlyWrite:
    """A write that changes only state that is kept apart from the server's document."""

    changes: Mapping[str, object]
    removed: tuple[str, ...]


def state_only_write(
    server: ServerRecord, writes: Mapping[str, object], removed: Collection[str]
) -> StateOnlyWrite | None:
    """Return what to write of *server* if its document can stay unchanged; None if it cannot.

    The document repeats all tools, so each write of it costs the more, the more tools there are.
    """
    current = _current(server)
    changes = {name: value for name, value in writes.items() if name in SYNC_FIELDS}
    if not changes or any(
        current.get(name) != value
        for name, value in writes.items()
        if name not in changes and name not in OF_A_CONNECTION
    ):
        return None
    gone = [name for name in removed if current.get(name) is not None]
    if not SYNC_FIELDS.issuperset(gone):
        return None
    return StateOnlyWrite(changes, tuple(gone))


VOLATILE = frozenset(
    {
        "lastConnected",
        "lastError",
        "errorMessage",
        "config.initDuration",
        "config.toolFunctions",
        "registry.last_synced_at",
        "registry.last_sync_started_at",
        "registry.last_sync_completed_at",
        "registry.last_sync_status",
        "registry.next_sync_at",
        "registry.settled_digest",
        "registry.settled_at",
        "registry.consecutive_failures",
        "registry.functions_omitted",
        "registry.tool_problems",
        "registry.feature_problems",
        "registry.features_read",
        "registry.auto_expose",
        "registry.wants_oauth",
    }
)
"""Fields that change with every discovery; alone they are no modification of the server."""


def is_modification(server: ServerRecord, writes: Mapping[str, object]) -> bool:
    """Whether *writes* change more of *server* than what changes with every discovery.

    Its tool functions are compared by `functions_differ`.
    """
    current = _current(server)
    return any(
        current.get(name) != value
        for name, value in writes.items()
        if name not in VOLATILE and name != "numTools"
    )


def functions_differ(before: JsonObject, writes: Mapping[str, object]) -> bool:
    """Whether *writes* change tool functions that the other application can see in *before*."""
    functions = writes.get("config.toolFunctions")
    return bool(before) and functions is not None and functions != before


def _current(server: ServerRecord) -> dict[str, object]:
    return {
        "status": server.status,
        "lastError": server.last_error,
        "errorMessage": server.error_message,
        **{f"config.{name}": value for name, value in server.config.items()},
        **{f"registry.{name}": value for name, value in server.registry.items()},
    }


ROOT_FIELDS = {
    "scope": "scope",
    "status": "status",
    "path": "path",
    "tags": "tags",
    "lastConnected": "last_connected",
    "lastError": "last_error",
    "errorMessage": "error_message",
    "updatedAt": "updated_at",
}
"""Stored root fields that change, and the attributes of `ServerRecord` that hold them."""


def changed_record(
    server: ServerRecord, writes: Mapping[str, object], removed: tuple[str, ...]
) -> ServerRecord:
    """Return *server* as it is after *writes* and *removed* are applied."""
    config = dict(server.config)
    ours = dict(server.registry)
    attributes: dict[str, object] = {}
    for name, value in {**dict.fromkeys(removed), **writes}.items():
        parent, _, leaf = name.partition(".")
        if parent in {"config", "registry"}:
            target = cast("dict[str, object]", config if parent == "config" else ours)
            if value is None:
                target.pop(leaf, None)
            else:
                target[leaf] = value
        elif name in ROOT_FIELDS:
            attributes[ROOT_FIELDS[name]] = _read(name, value)
    return server.model_copy(update={"config": config, "registry": ours, **attributes})


def _read(name: str, value: object) -> object:
    if name == "scope":
        return None if value is None else ServerScope(str(value))
    if name == "status":
        return None if value is None else ServerStatus(str(value))
    return tuple(cast("list[str]", value)) if name == "tags" else value


def time_after(previous: datetime | None, now: datetime) -> datetime:
    """Return a time after *previous*, even if the clock did not move between two changes."""
    if previous is None or now > previous or previous.year == MAXYEAR:
        # The latest time, which other programs can store, has no successor.
        return now
    return previous + timedelta(milliseconds=1)
