"""Versions of servers' connections: who may read them, and how one is restored.

Only callers who may change a server see its history: it shows where the server was, and what was
wrong with it there.
"""

from dataclasses import dataclass

import structlog

from packages.models.states import ServerVersionOrigin, ServerVersionState
from registry.audit.values import AuditAction
from registry.auth.identity import UserContext
from registry.core.errors import ValidationFailedError
from registry.core.paging import Page, PageRequest
from registry.servers.binding import tokens_stay, users_keys_stay
from registry.servers.changes import FieldChanges
from registry.servers.credentials import CredentialVault
from registry.servers.errors import (
    ServerVersionNotFoundError,
    VersionInUseError,
    VersionUnreadableError,
)
from registry.servers.schemas import NAMES_ENVIRONMENT
from registry.servers.service import ServerService
from registry.servers.storage.version_repository import (
    ServerVersionRecord,
    ServerVersionRepository,
)
from registry.servers.transport import connection_members, environment_places, given_back
from registry.servers.values import NO_PRECONDITION, Precondition, ServerRecord
from registry.servers.versions.differences import MemberDifference, differences

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerVersionPage:
    """One page of a server's versions.

    Attributes:
        active_version: Number of the active version.
        is_changed_elsewhere: Whether another program has changed the connection since.
    """

    server: ServerRecord
    page: Page[ServerVersionRecord]
    active_version: int
    is_changed_elsewhere: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two versions of a server."""

    server: ServerRecord
    version: int
    against: int
    changes: tuple[MemberDifference, ...]


class VersionService:
    """Reads versions of servers and restores them, each on behalf of a caller."""

    def __init__(
        self, servers: ServerService, versions: ServerVersionRepository, vault: CredentialVault
    ) -> None:
        self._servers = servers
        self._versions = versions
        self._vault = vault

    async def history(
        self, server_id: str, user: UserContext, wanted: PageRequest
    ) -> ServerVersionPage:
        """Return one page of a server's versions, newest first.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
        """
        server = await self._servers.require_editable(server_id, user)
        active = await self._active(server)
        page = await self._versions.page(server_id, wanted)
        if not page.total:
            page = Page((active,) if wanted.page == 1 else (), 1, wanted)
        now = self._versions.taken(server_id, server.config)
        is_changed = not active.transport.means_the_same(now)
        return ServerVersionPage(server, page, active.version, is_changed)

    async def get(
        self, server_id: str, version: int, user: UserContext
    ) -> tuple[ServerRecord, ServerVersionRecord]:
        """Return a server and one version of it.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerVersionNotFoundError: It has no such version.
        """
        server = await self._servers.require_editable(server_id, user)
        return server, await self._require(server, version)

    async def compare(
        self, server_id: str, version: int, against: int | None, user: UserContext
    ) -> Comparison:
        """Return the differences from one version to another, by default from the active one.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerVersionNotFoundError: It has no such version.
        """
        server, later = await self.get(server_id, version, user)
        if against is None:
            earlier = await self._active(server)
        else:
            earlier = await self._require(server, against)
        found = differences(earlier.transport, later.transport)
        return Comparison(server, later.version, earlier.version, tuple(found))

    async def roll_back(
        self,
        server_id: str,
        version: int,
        user: UserContext,
        *,
        precondition: Precondition = NO_PRECONDITION,
    ) -> ServerRecord:
        """Restore the connection of one of a server's versions; that makes a new version.

        The upstream is read as for an update. Secrets are restored, too. The values that users
        stored for the server are sent to no other origin.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerModifiedError: It changed since the caller read it.
            ServerVersionNotFoundError: It has no such version.
            VersionInUseError: The connection is already that of the version.
            VersionUnreadableError: A secret of the version cannot be decrypted.
            UnsafeUrlError: The version's URL may not be contacted.
            ValidationFailedError: The version's transport is not supported, or it names a variable
                of the other application's environment.
        """

        async def work_out(current: ServerRecord) -> FieldChanges:
            return self._restoring(current, await self._require(current, version))

        server = await self._servers.change(
            server_id, work_out, user, precondition=precondition, action=AuditAction.ROLLBACK
        )
        log.info("server_rolled_back", server_id=server_id, version=version, user_id=user.user_id)
        return server

    def _restoring(self, current: ServerRecord, wanted: ServerVersionRecord) -> FieldChanges:
        """Return the changes that restore a version."""
        now = self._versions.taken(current.id, current.config)
        if now.means_the_same(wanted.transport):
            raise VersionInUseError(wanted.version)
        if wanted.transport.unreadable:
            raise VersionUnreadableError(wanted.version, wanted.transport.unreadable)
        stored = connection_members(current.config)
        for place in environment_places(wanted.transport):
            raise ValidationFailedError(place, NAMES_ENVIRONMENT)
        members = given_back(wanted.transport, stored, now, self._vault.encrypt)
        return FieldChanges(
            changes={
                f"config.{name}": value
                for name, value in members.items()
                if stored.get(name) != value
            },
            removed=tuple(f"config.{name}" for name in stored if name not in members),
            reconnects=True,
            drops_user_keys=not users_keys_stay(members.get("url"), current),
            drops_tokens=not tokens_stay(members.get("oauth"), current),
            restores=wanted.version,
        )

    async def _active(self, server: ServerRecord) -> ServerVersionRecord:
        return await self._versions.active(server.id) or self._only_version(server)

    async def _require(self, server: ServerRecord, version: int) -> ServerVersionRecord:
        found = await self._versions.get(server.id, version)
        if found is not None:
            return found
        if version == 1 and await self._versions.active(server.id) is None:
            return self._only_version(server)
        raise ServerVersionNotFoundError(version)

    def _only_version(self, server: ServerRecord) -> ServerVersionRecord:
        """Return the present state as the only version of a server without stored ones."""
        return ServerVersionRecord(
            version=1,
            state=ServerVersionState.ACTIVE.value,
            origin=ServerVersionOrigin.FOUND.value,
            transport=self._versions.taken(server.id, server.config),
        )
