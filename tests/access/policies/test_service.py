"""Writes of policies while the database goes away."""

from collections.abc import Collection

from typing_extensions import override

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from packages.models.states import Effect
from registry.access.budgets.repository import BudgetRepository
from registry.access.conditions import CallConditions
from registry.access.policies.service import MAX_COMPARED, PolicyService, PolicyStore
from registry.access.policies.values import EVERYONE, PolicyChange, PolicyTarget
from registry.access.quarantine.repository import QuarantineRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.auth.repository import DirectoryRepository
from registry.core.clock import SystemClock
from registry.servers.adapters import PolicyServerReader
from registry.servers.reconciliation.store import ServerRepositories
from registry.usage.repository import UsageRepository
from registry.wiring.services import NoGateway
from tests.gateway.test_following import raw_tool


class LosesDatabase(PolicyServerReader):
    """Cannot be read once a policy has been written."""

    @override
    async def closed_by_default(self) -> Collection[str]:
        """Fail."""
        raise DatabaseUnavailable


def policy_service(
    database: Database,
    repositories: ServerRepositories,
    audit: AuditTrail,
    clock: SystemClock,
    owners: PolicyServerReader,
    max_compared: int = MAX_COMPARED,
) -> PolicyService:
    store = PolicyStore(
        repositories.policies,
        owners,
        repositories.tools,
        repositories.acl,
        DirectoryRepository(database),
        CallConditions(
            QuarantineRepository(database),
            repositories.limits,
            BudgetRepository(database),
            UsageRepository(database),
            clock,
        ),
    )
    return PolicyService(
        database,
        store,
        audit,
        NoGateway(),
        clock=clock,
        admin_sees_private=True,
        admin_uses_private=False,
        enforces_approvals=True,
        max_compared=max_compared,
    )


async def test_a_consequence_says_that_not_all_tools_were_compared(
    database: Database,
    repositories: ServerRepositories,
    audit: AuditTrail,
    clock: SystemClock,
    root: UserContext,
) -> None:
    owners = PolicyServerReader(repositories.servers, repositories.visible)
    rows = [raw_tool("a" * 24, name) for name in ("first", "second", "third")]
    await database.collection("mcp_tools").insert_many(rows)
    service = policy_service(database, repositories, audit, clock, owners, max_compared=2)
    members = frozenset({"name", "effect", "subjects", "target"})

    def denying(*tools: str) -> PolicyChange:
        target = PolicyTarget(tools=tools)
        return PolicyChange(
            members, name=" ".join(tools), effect=Effect.DENY, subjects=EVERYONE, target=target
        )

    some = await service.create(denying("*"), root)
    exact = await service.create(denying("second", "third"), root)
    await service.delete(some.record.policy.id, root)
    one = await service.create(denying("third"), root)

    assert str(some.consequence).endswith(" Only 2 tools were compared.")
    assert "compared" not in f"{exact.consequence} {one.consequence}"


async def test_a_write_is_answered_although_what_it_did_cannot_be_read(
    database: Database,
    repositories: ServerRepositories,
    audit: AuditTrail,
    clock: SystemClock,
    root: UserContext,
) -> None:
    owners = LosesDatabase(repositories.servers, repositories.visible)
    service = policy_service(database, repositories, audit, clock, owners)
    members = frozenset({"name", "effect", "subjects"})
    change = PolicyChange(members, name="no", effect=Effect.DENY, subjects=EVERYONE)

    made = await service.create(change, root)
    policy_id = made.record.policy.id
    renamed = await service.update(
        policy_id, PolicyChange(frozenset({"name"}), name="never"), root
    )
    kept = await service.get(policy_id, root)
    removed = await service.delete(policy_id, root)

    assert (made.consequence, renamed.consequence, removed) == (None, None, None)
    assert kept.policy.name == "never"
    assert await repositories.policies.get(policy_id) is None
