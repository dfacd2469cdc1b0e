"""Who may write rules about tools: policies and limits.

Owners of a server write those about it, administrators those about all servers.
"""

from dataclasses import replace

from packages.database.client import Transaction
from registry.access.policies.errors import (
    PolicyForbiddenError,
    UnknownOwnerError,
    UnknownSubjectsError,
)
from registry.access.policies.ports import PolicyServer, PolicyServers
from registry.access.policies.values import PolicyTarget, Subjects
from registry.access.policy import (
    AccessDecision,
    AccessRights,
    Grants,
    Permission,
    ServerFacts,
    decide_use,
    evaluate,
)
from registry.access.repository import AclRepository
from registry.auth.identity import Tenants, UserContext
from registry.auth.repository import GROUP, USER, DirectoryRepository
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError


class RuleAuthority:
    """Decides who may write rules about the tools of servers.

    Args:
        what: The kind of rules, for messages: `Policies`.
    """

    def __init__(
        self,
        owners: PolicyServers,
        acl: AclRepository,
        directory: DirectoryRepository,
        *,
        clock: Clock,
        admin_sees_private: bool,
        admin_uses_private: bool,
        what: str,
    ) -> None:
        self._owners = owners
        self._acl = acl
        self._directory = directory
        self._clock = clock
        self._admin_sees_private = admin_sees_private
        self._admin_uses_private = admin_uses_private
        self._what = what

    async def settled(self, target: PolicyTarget) -> PolicyTarget:
        """Return a target with the kind of its server, if it is about one.

        Raises:
            ValidationFailedError: It says another kind.
        """
        owner = None
        if target.owner_id is not None:
            owner = await self._owners.policy_owner(target.owner_id)
        if owner is None:
            return target
        if target.source_type not in {None, owner.source_type}:
            raise ValidationFailedError(
                "target.source_type", f"is {owner.source_type.value} for {owner.name}"
            )
        return replace(target, source_type=owner.source_type)

    def owners_of(self, user: UserContext) -> set[str | None] | None:
        """Return the servers whose rules *user* may write, None among them for all servers.

        Returns:
            None for every rule.
        """
        if self._owners.sees_everything(user):
            return None
        rights = self._owners.rights(user)
        owners: set[str | None] = {
            owner for owner, bits in rights.items() if bits & Permission.SHARE
        }
        if writes_about_all(user):
            owners.add(None)
        return owners

    async def may_write(
        self, owner_id: str | None, user: UserContext, tx: Transaction | None = None
    ) -> bool:
        """Whether *user* may see and change a stored rule about a server, or about all."""
        owner = None
        if owner_id is not None:
            owner = (
                await self._owners.policy_owner(owner_id)
                if tx is None
                else await self._owners.held_policy_owner(owner_id, tx)
            )
        if owner is None:
            # About all servers, or about one that is gone.
            return writes_about_all(user)
        return bool((await self.verdict(owner, user, tx)).bits & Permission.SHARE)

    async def require_may_write(
        self, owner_id: str | None, user: UserContext, tx: Transaction | None = None
    ) -> None:
        """Check that *user* may write rules about a server, or about all.

        Without a transaction nothing is locked: only for what writes nothing.

        Raises:
            PolicyForbiddenError: They may not.
            UnknownOwnerError: The server does not exist, or they may not see it.
        """
        if owner_id is None:
            if not writes_about_all(user):
                raise PolicyForbiddenError(
                    f"{self._what} about all servers are for administrators without a tenant; "
                    "name a server as target.owner_id."
                    if user.is_admin
                    else f"{self._what} about all servers are for administrators; name a server "
                    "as target.owner_id."
                )
            return
        # Locked, so that it is not removed, nor its sharing changed, before this is written.
        owner = (
            await self._owners.policy_owner(owner_id)
            if tx is None
            else await self._owners.held_policy_owner(owner_id, tx)
        )
        if owner is None:
            raise UnknownOwnerError(owner_id)
        bits = (await self.verdict(owner, user, tx)).bits
        if not bits & Permission.VIEW:
            raise UnknownOwnerError(owner_id)
        if not bits & Permission.SHARE:
            raise PolicyForbiddenError(
                f"{self._what} about this server are for those who may share it."
            )

    async def require_known(
        self, subjects: Subjects, before: Subjects, owner_id: str | None, user: UserContext
    ) -> None:
        """Check that the callers whom a rule names exist; those that it named before may be gone.

        Raises:
            UnknownSubjectsError: One does not exist, or not for *user*.
        """
        asked = [
            *((USER, user_id) for user_id in sorted(subjects.users - before.users)),
            *((GROUP, group_id) for group_id in sorted(subjects.groups - before.groups)),
        ]
        if not asked:
            return
        found = await self._directory.known(asked, await self._named(owner_id, user))
        unknown = [f"{kind}:{key}" for kind, key in asked if (kind, key) not in found]
        if unknown:
            raise UnknownSubjectsError(unknown)

    async def verdict(
        self, owner: PolicyServer, user: UserContext, tx: Transaction | None = None
    ) -> AccessRights:
        """Return what *user* may do with a server."""
        facts = await self._facts(owner, tx)
        return evaluate(user, facts, admin_sees_private=self._admin_sees_private)

    async def use(self, owner: PolicyServer, user: UserContext) -> AccessDecision:
        """Return whether *user* may use a server, as the gateway decides it."""
        facts = await self._facts(owner)
        return decide_use(user, facts, admin_uses_private=self._admin_uses_private)

    async def _facts(self, owner: PolicyServer, tx: Transaction | None = None) -> ServerFacts:
        entries = await self._acl.grants_of([owner.id], self._clock.now(), tx)
        return ServerFacts(
            owner.author,
            owner.scope,
            Grants.of(entries.get(owner.id, []), owner.tenant_id),
            tenant_id=owner.tenant_id,
        )

    async def _named(self, owner_id: str | None, user: UserContext) -> Tenants:
        """Return the tenant whose users a rule of *user* may name."""
        owner = None if owner_id is None else await self._owners.policy_owner(owner_id)
        if owner is None or not user.sees_tenant(owner.tenant_id):
            return user.tenants
        return Tenants(owner.tenant_id)


def writes_about_all(user: UserContext) -> bool:
    """Whether *user* may write rules about all servers, which are those of all tenants."""
    return user.is_admin and user.sees_all_tenants
