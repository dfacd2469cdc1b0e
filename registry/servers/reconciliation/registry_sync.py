"""Registry sync: updates the canonical tool rows of a server to what its upstream offers.

Nothing else reconciles. It writes in the transaction of the operation whose discovery this was, so
that readers see the old set or the new one, and it never reads an upstream itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from packages.database.client import Transaction
from registry.core.json import JsonObject, choice_of
from registry.prompts_and_resources.reconcile import NO_CHANGES, FeatureChanges
from registry.prompts_and_resources.reconcile import reconcile as reconcile_features
from registry.prompts_and_resources.repository import FeatureRepository
from registry.servers.reconciliation.discovery_changes import projection_fields
from registry.servers.values import Discovered, ServerRecord, names_in
from registry.tools.exposure import AutoExpose, ToolOrigin, is_served
from registry.tools.naming import function_name
from registry.tools.projection import project
from registry.tools.reconcile import (
    Changes,
    OnChange,
    Rules,
    changed_names,
    default_on_change,
    reconcile,
)
from registry.tools.repository import ToolRepository
from registry.tools.values import StoredTool, ToolEditor, ToolSnapshot


@dataclass(frozen=True, slots=True)
class _Owner:
    """What the rows belong to.

    Attributes:
        read_at: Time of the last discovery.
        config: The stored config, with what the other application reads of its tools.
        has_features: Whether its prompts and resources were ever read.
    """

    id: str
    name: str
    read_at: datetime | None = None
    config: JsonObject = field(default_factory=dict)
    has_features: bool = False

    def projects(self, stored: Mapping[str, StoredTool]) -> bool:
        """Whether the projection names the served tools."""
        served = {
            name
            for name, row in stored.items()
            if is_served(row.registration_state, row.exposure_state)
        }
        return set(names_in(self.config.get("tools"))) == served


@dataclass(frozen=True, slots=True)
class Synced:
    """What was written.

    projection: Stored fields of the server that repeat its tools for the other application;
        empty if they are up to date.
        waiting: Names of the tools that wait for review, if known.
    """

    tools: Changes
    features: FeatureChanges
    projection: Mapping[str, object]
    waiting: tuple[str, ...] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing changed, and nothing waits for a decision."""
        is_nothing = self.tools.is_nothing and self.features == NO_CHANGES
        return is_nothing and not self.projection and self.waiting == ()


class RegistrySyncService:
    """Writes the results of discoveries."""

    def __init__(self, tools: ToolRepository, features: FeatureRepository) -> None:
        self._tools = tools
        self._features = features

    async def begin(
        self,
        server_id: str,
        server_name: str,
        found: Discovered,
        auto_expose: AutoExpose,
        now: datetime,
        tx: Transaction,
        *,
        reader: ToolEditor,
    ) -> Synced:
        """Write the first rows of a server that is being registered."""
        rules = Rules(auto_expose, ToolOrigin.AT_REGISTRATION)
        return await self._write(_Owner(server_id, server_name), found, {}, rules, now, tx, reader)

    async def synchronise(
        self,
        server: ServerRecord,
        found: Discovered,
        now: datetime,
        tx: Transaction,
        *,
        reader: ToolEditor,
        accept: bool,
    ) -> Synced:
        """Write the changes since the last sync, by the server's own rules.

        Args:
            server: The stored server.
            found: The result of the discovery.
            now: The time of the change.
            tx: The transaction to write in.
            reader: The user who started the discovery.
            accept: Serve new and changed tools at once, because the user has reviewed them.
        """
        stored = await self._tools.stored(server.id, tx)
        stored = await self._tools.with_definitions(
            server.id, stored, changed_names(found.snapshot, stored), tx
        )
        rules = _rules_of_reading(server, stored, accept=accept)
        read_at = server.registry.get("last_synced_at")
        owner = _Owner(
            server.id,
            server.server_name,
            read_at if isinstance(read_at, datetime) else None,
            # A caller who reviews wants everything compared, whatever the digest says.
            {} if accept else server.config,
            has_features="features_read" in server.registry,
        )
        return await self._write(owner, found, stored, rules, now, tx, reader)

    async def follow_described(
        self,
        server: ServerRecord,
        found: ToolSnapshot,
        functions: JsonObject,
        now: datetime,
        tx: Transaction,
        *,
        reader: ToolEditor,
    ) -> Changes:
        """Write the rows of a server that only the other application has described.

        Its first tools are served, as that application serves them; later changes follow the
        server's own rules. What it has from us is no change: functions as we wrote them after a
        decision, and missing functions of tools that are not served.

        Args:
            server: The stored server.
            found: Its described tools.
            functions: What the tools were made from.
            now: The time of the change.
            tx: The transaction to write in.
            reader: The user who started this.
        """
        stored = await self._tools.stored(server.id, tx)
        served = await self._tools.served(server.id, tx) if stored else []
        ours = project(served, server.server_name).functions
        keys = {tool.name: function_name(tool.name, server.server_name) for tool in served}
        # What did not fit into what we wrote is in neither.
        same = {name for name, key in keys.items() if functions.get(key) == ours.get(key)}
        offered = {tool.name for tool in found.tools}
        news = tuple(tool for tool in found.tools if tool.name not in same)
        rows = {
            name: row
            for name, row in stored.items()
            if name not in same
            and (name in offered or is_served(row.registration_state, row.exposure_state))
        }
        snapshot = ToolSnapshot(news, found.rejected)
        rows = await self._tools.with_definitions(
            server.id, rows, changed_names(snapshot, rows), tx
        )
        rules = Rules(auto_expose_of(server), _origin(server, stored), _on_change(server))
        changes = reconcile(snapshot, rows, rules)
        await self._tools.apply(server.id, changes, now, tx, reader=reader)
        return changes

    async def _write(
        self,
        owner: "_Owner",
        found: Discovered,
        stored: Mapping[str, StoredTool],
        rules: Rules,
        now: datetime,
        tx: Transaction,
        reader: ToolEditor,
    ) -> Synced:
        known = await self._features.stored(owner.id, tx) if owner.has_features else []
        features = reconcile_features(found.features, known)
        await self._features.apply(owner.id, features, now, tx)
        tools = reconcile(found.snapshot, stored, rules)
        await self._tools.apply(
            owner.id,
            tools,
            now,
            tx,
            reader=reader,
            seen_at=owner.read_at,
            source_type=found.source_type,
        )
        if tools.is_nothing and owner.projects(stored):
            waiting = tuple(sorted(name for name, row in stored.items() if row.waits))
            return Synced(tools, features, {}, waiting)
        if stored:
            served = await self._tools.served(owner.id, tx)
        else:
            served = [insert.definition for insert in tools.inserts if insert.is_served]
        fields = projection_fields(served, owner.name, found.source_type)
        return Synced(tools, features, fields)


NOTHING_CHANGED = Synced(Changes((), ()), NO_CHANGES, {}, ())
"""The result of a discovery after which nothing had to be done, again."""


def digest_of(server: ServerRecord, found: Discovered) -> str:
    """Return a digest of everything that determines the result of a discovery, except stored rows.

    While no tool is changed, two discoveries with the same digest have the same result.
    """
    offered = [(tool.name, tool.discovery_hash) for tool in found.snapshot.tools]
    rejected = [(tool.name, tool.reason) for tool in found.snapshot.rejected]
    features = [
        (kind.value, [(feature.key, feature.definition) for feature in listed])
        for kind, listed in found.features.lists.items()
    ]
    rules = auto_expose_of(server).value, _on_change(server).value, server.effective_scope.value
    # A discovery also repairs what the other application reads of the tools.
    text = json.dumps([offered, rejected, features, rules, server.config.get("tools")])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def auto_expose_of(server: ServerRecord) -> AutoExpose:
    """Return which new tools of a server are served at once."""
    return choice_of(AutoExpose, server.registry.get("auto_expose")) or AutoExpose.ALL


def _on_change(server: ServerRecord) -> OnChange:
    stored = choice_of(OnChange, server.registry.get("on_change"))
    return stored or default_on_change(is_shared=server.effective_scope.is_shared)


def _rules_of_reading(
    server: ServerRecord, stored: Mapping[str, StoredTool], *, accept: bool
) -> Rules:
    """Return the rules for the result of a discovery.

    The first discovery is the registration, even if there are rows: those were made from the other
    application's, which lacks annotations, titles and references. It is not if anything waits for
    a decision: a discovery must not release that.
    """
    if server.is_described_elsewhere and not any(row.waits for row in stored.values()):
        on_change = choice_of(OnChange, server.registry.get("on_change")) or OnChange.ACCEPT
        return Rules(auto_expose_of(server), ToolOrigin.AT_REGISTRATION, on_change, accept)
    return Rules(auto_expose_of(server), _origin(server, stored), _on_change(server), accept)


def _origin(server: ServerRecord, stored: Mapping[str, object]) -> ToolOrigin:
    # The first successful reading is the registration, even if earlier attempts failed.
    if not stored and "last_synced_at" not in server.registry:
        return ToolOrigin.AT_REGISTRATION
    return (
        ToolOrigin.LATER_ON_SHARED
        if server.effective_scope.is_shared
        else ToolOrigin.LATER_ON_PRIVATE
    )
