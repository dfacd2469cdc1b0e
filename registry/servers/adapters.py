"""Adapters: what policies, decisions about tools and connections need of servers."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from packages.database.batch import WriteBatch
from packages.database.client import Transaction
from registry.access.policies.ports import PolicyServer, ServerPath
from registry.access.policy import Grants, Permission, decide_use
from registry.access.repository import AclRepository
from registry.auth.identity import Tenants, UserContext
from registry.connections.values import VisibleServer
from registry.core.clock import Clock
from registry.core.json import JsonObject, members
from registry.core.text import OBJECT_ID
from registry.oauth.values import OAuthServer
from registry.servers.credentials import CredentialVault
from registry.servers.errors import ServerNotFoundError
from registry.servers.ports import ServerChanges
from registry.servers.reconciliation.discovery_changes import projection_fields, time_after
from registry.servers.storage.inventory import Inventory, seen
from registry.servers.storage.repository import ServerRepository
from registry.servers.storage.visible import VisibleServers
from registry.servers.values import ServerRecord, oauth_server
from registry.tools.governance.errors import ToolNotFoundError
from registry.tools.naming import PATH_PREFIX, slug_of
from registry.tools.ports import OwnerRights, OwnersSeen
from registry.tools.values import ListedTool, ToolDefinition


class PolicyServerReader:
    """Implements `policies.ports.Owners`."""

    def __init__(self, servers: ServerRepository, visible: VisibleServers) -> None:
        self._servers = servers
        self._visible = visible

    async def policy_owner(self, owner_id: str) -> PolicyServer | None:
        """Return the facts of a server for policies. No access check."""
        server = await self._servers.record_unchecked(owner_id)
        return None if server is None else _owner(server)

    async def policy_owner_at(self, path: str, tenant_id: str | None) -> PolicyServer | None:
        """Return the facts of the server at a gateway path of a tenant. No access check."""
        server = await self._servers.at_path(path, Tenants(tenant_id))
        return None if server is None else _owner(server)

    async def held_policy_owner(self, owner_id: str, tx: Transaction) -> PolicyServer | None:
        """Return the facts of a server, locked against concurrent changes until *tx* ends."""
        server = await self._servers.touch(owner_id, tx)
        return None if server is None else _owner(server)

    def sees_everything(self, user: UserContext) -> bool:
        """Whether *user* may see every server, and what is left of removed ones."""
        return self._visible.sees_everything(user)

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return what *user* may do with each server that they see."""
        return self._visible.rights(user)

    async def seen_owner(self, named: str, user: UserContext, now: datetime) -> str | None:
        """Return the id of the server with this id, name or path; None if *user* sees none."""
        server = None
        if re.fullmatch(OBJECT_ID, named):
            server = await self._servers.record_unchecked(named.lower())
        if server is None and named.startswith(PATH_PREFIX):
            server = await self._servers.at_path(named, user.tenants)
        if server is None:
            server = await self._servers.by_name(named, user.tenants)
        if server is None:
            server = await self._servers.at_path(PATH_PREFIX + named, user.tenants)
        if server is None or not await self._visible.bits(server, user, now) & Permission.VIEW:
            return None
        return server.id

    def visible(self, user: UserContext) -> Sequence[ServerPath]:
        """Return the servers that *user* sees."""
        return self._visible.listed(user)

    async def closed_by_default(self) -> Collection[str]:
        """Return the servers that refuse tools that no policy allows."""
        return await self._servers.closed_by_default_unchecked()

    async def tool_functions(self, server_id: str) -> JsonObject:
        """Return the tools of a server as the other application describes them."""
        return await self._servers.tool_functions(server_id)


def _owner(server: ServerRecord) -> PolicyServer:
    config = server.config
    is_usable = (
        slug_of(server.effective_path) is not None
        and config.get("type") in {"streamable-http", "http", "sse", "openapi", None}
        and isinstance(config.get("url"), str)
    )
    return PolicyServer(
        id=server.id,
        name=server.server_name,
        path=server.effective_path,
        author=server.author,
        scope=server.scope,
        status=server.effective_status.value,
        is_usable=is_usable,
        is_described_elsewhere=server.is_described_elsewhere,
        tenant_id=server.tenant_id,
        default_effect=server.default_effect,
        call_rules=members(server.registry.get("call_rules")),
        source_type=server.source_type,
    )


class ServerOwners:
    """Implements `tools.ports.ToolOwners`."""

    def __init__(
        self,
        servers: ServerRepository,
        visible: VisibleServers,
        inventory: Inventory,
        changes: ServerChanges,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._visible = visible
        self._inventory = inventory
        self._changes = changes
        self._clock = clock

    def seen(self, user: UserContext) -> OwnersSeen:
        """Return the servers that *user* sees."""
        rights = self._visible.rights(user)
        editable = frozenset(one for one, bits in rights.items() if bits & Permission.EDIT)
        return OwnersSeen(rights.keys(), editable, self._visible.sees_everything(user))

    def tools(self, owner_ids: Collection[str]) -> Sequence[ListedTool]:
        """Return the tools of some servers, oldest first."""
        return self._inventory.tools(owner_ids)

    async def rights(
        self, owner_id: str, user: UserContext, tx: Transaction | None = None
    ) -> OwnerRights:
        """Return what *user* may do with a server, as *tx* sees it."""
        server = await self._servers.record_unchecked(owner_id, tx)
        if server is None:
            return OwnerRights()
        bits = await self._visible.bits(server, user, self._clock.now(), tx)
        return OwnerRights(bool(bits & Permission.VIEW), bool(bits & Permission.EDIT))

    async def write(
        self,
        owner_id: str,
        served: Sequence[ToolDefinition] | None,
        now: datetime,
        batch: WriteBatch,
    ) -> None:
        """Add to a transaction what the document of a server repeats of its tools.

        Raises:
            ToolNotFoundError: The server does not exist, or a concurrent write came first.
        """
        self._servers.unsettle(owner_id, batch)
        if served is None:
            return
        server = await self._servers.record_unchecked(owner_id, batch.tx)
        if server is None:
            raise ToolNotFoundError
        writes = projection_fields(served, server.server_name, server.source_type)
        writes["updatedAt"] = time_after(server.updated_at, now)
        # Read in this transaction: a concurrent write aborts it, and it is started again.
        self._servers.update(
            owner_id, server.updated_at, writes, (), batch, outdated=ToolNotFoundError
        )

    async def changed(self, owner_id: str) -> None:
        """Announce a committed change of a server's tools."""
        await self._changes.server_changed(owner_id)


class VisibleServerDirectory:
    """Implements `connections.ports.ServerDirectory`."""

    def __init__(self, servers: VisibleServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock

    async def visible(self, user: UserContext) -> list[VisibleServer]:
        """Return all servers that *user* may see.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        return [server.seen for server in self._servers.listed(user)]

    async def one(self, server_id: str, user: UserContext) -> VisibleServer:
        """Return one server.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
        """
        server = await self._servers.seen(server_id, user, self._clock.now())
        if server is None:
            raise ServerNotFoundError
        return seen(server)


class OAuthServerReader:
    """Implements `oauth.ports.OAuthServers`.

    Args:
        admin_uses_private: Whether administrators may use others' private servers.
    """

    def __init__(
        self,
        servers: ServerRepository,
        acl: AclRepository,
        vault: CredentialVault,
        clock: Clock,
        *,
        admin_uses_private: bool,
    ) -> None:
        self._servers = servers
        self._acl = acl
        self._vault = vault
        self._clock = clock
        self._admin_uses_private = admin_uses_private

    async def usable(self, server_id: str, user: UserContext) -> OAuthServer:
        """Return a server that *user* may use.

        Raises:
            ServerNotFoundError: There is none.
        """
        record = await self._servers.record_unchecked(server_id)
        if record is None:
            raise ServerNotFoundError
        grants = (await self._acl.grants_of([record.id], self._clock.now())).get(record.id, [])
        facts = record.facts(Grants.of(grants, record.tenant_id))
        if not decide_use(user, facts, admin_uses_private=self._admin_uses_private).allowed:
            raise ServerNotFoundError
        return oauth_server(record)

    async def unchecked(self, server_id: str) -> OAuthServer | None:
        """Return a server without an access check; None if there is none."""
        record = await self._servers.record_unchecked(server_id)
        return None if record is None else oauth_server(record)

    async def all_unchecked(self) -> Sequence[OAuthServer]:
        """Return all servers that take access tokens, without an access check."""
        return [oauth_server(record) for record in await self._servers.with_oauth_unchecked()]

    def client_secret(self, server: OAuthServer) -> str | None:
        """Return the decrypted `oauth.client_secret`; None if there is none.

        Raises:
            CredentialUnreadableError: It cannot be decrypted.
        """
        stored = members(server.config.get("oauth")).get("client_secret")
        if not isinstance(stored, str) or not stored:
            return None
        return self._vault.decrypt(stored, server.id, "config.oauth.client_secret")
