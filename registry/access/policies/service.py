"""Policies: who writes them, and the explanation of decisions, each on behalf of a caller.

Owners of a server write its policies, administrators those for all servers. A policy grants only
the use of tools: it gives no right to see or change a server.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from packages.models.states import Effect
from registry.access.policies.authority import RuleAuthority
from registry.access.policies.consequences import (
    ServerTools,
    consequence,
    default_consequence,
)
from registry.access.policies.decisions import (
    NO_RULE,
    WILDCARD,
    PolicyIndex,
    ToolRule,
    decide,
    rules_of,
)
from registry.access.policies.errors import (
    OwnerNotFoundError,
    PolicyForbiddenError,
    PolicyModifiedError,
    PolicyNotFoundError,
    PolicyUnreadableError,
    TooManyPoliciesError,
    UnknownSubjectsError,
)
from registry.access.policies.explaining import Explanation, explain
from registry.access.policies.ports import (
    CallState,
    Conditions,
    PolicyChanges,
    PolicyServer,
    PolicyServers,
    WaitingCall,
)
from registry.access.policies.presenter import present_content
from registry.access.policies.repository import PolicyRepository, new_policy_id
from registry.access.policies.tools import FoundTool, ToolLookup, prefix_of
from registry.access.policies.values import (
    NO_SUBJECTS,
    NarrowedPath,
    Policy,
    PolicyChange,
    PolicyEditor,
    PolicyFilter,
    PolicyRecord,
    PolicyTarget,
    ToolFacts,
)
from registry.access.policy import (
    NO_BITS,
    Permission,
    ServerScope,
)
from registry.access.repository import AclRepository
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.errors import InsufficientScopeError
from registry.auth.identity import Role, Scope, UserContext, default_scopes
from registry.auth.repository import DirectoryRepository
from registry.core.clock import Clock
from registry.core.paging import Page, PageRequest
from registry.tools.call_rules import SERVER_MEMBERS, CallRules, call_rules
from registry.tools.exposure import is_served
from registry.tools.naming import SEPARATOR, public_prefix
from registry.tools.repository import ToolRepository

log = structlog.get_logger()

MAX_PER_SERVER = 200
"""Maximum number of policies for one server, and for all: each replica holds them in memory."""

MAX_WARNINGS = 10
"""Maximum number of tool names in a warning."""

MAX_COMPARED = 5_000
"""Maximum number of tools that are looked at to say what a written policy changes."""

ANONYMOUS_ID = "0" * 24

NOT_LOOKED_UP = (
    "(Only for administrators are others' groups and role looked up; give them as `groups` and "
    "`roles` if they matter.)"
)

COMBINED_PATH = "/mcp"
TOOLSET_PATH = "/mcp/toolsets/"
"""Of the server that offers the tools of all."""


@dataclass(frozen=True, slots=True)
class ExplainQuestion:
    """The caller and the tool of an explanation.

    Attributes:
        tool: Its name on the server, or its name on the aggregate server.
        owner_id: The server; otherwise *path*, or the tool's name on the aggregate server.
        toolset: Name of the toolset in the header of the call.
        client: What the calling application calls itself.
        is_self: Whether it is about the caller; the members below are ignored then.
        groups: None for those of the user, if the caller may know them, else for none.
        role: None for that of the user, under the same condition.
        scopes: None for those of the role.
    """

    tool: str
    owner_id: str | None
    path: str | None
    is_self: bool
    user_id: str | None = None
    groups: frozenset[str] | None = None
    role: Role | None = None
    scopes: frozenset[str] | None = None
    toolset: str | None = None
    client: str | None = None

    @property
    def gateway_path(self) -> str:
        """Return the path without the slash that clients may end it with."""
        return (self.path or COMBINED_PATH).removesuffix("/")

    @property
    def is_combined(self) -> bool:
        """Whether the tool has its name on the aggregate server."""
        return self.owner_id is None and (
            self.gateway_path == COMBINED_PATH or self.gateway_path.startswith(TOOLSET_PATH)
        )

    def narrowed_path(self, server_id: str | None = None) -> NarrowedPath:
        """Return the path, which is that of one server if it is not the combined one."""
        is_of_toolset = self.is_combined and self.gateway_path != COMBINED_PATH
        return NarrowedPath(
            toolset=self.gateway_path.removeprefix(TOOLSET_PATH) if is_of_toolset else None,
            header=self.toolset,
            client=self.client,
            server_id=None if self.is_combined else server_id,
        )


@dataclass(frozen=True, slots=True)
class ExplainResult:
    """An explanation, with the server and the tool's name on it."""

    server_id: str
    tool: str
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class WrittenPolicy:
    """A policy that was just written.

    Attributes:
        consequence: What the change does, in words; None if that could not be read.
        warnings: What may not be as it was meant.
    """

    record: PolicyRecord
    consequence: str | None
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class PolicyStore:
    """The stores of policies, and of what they name."""

    policies: PolicyRepository
    owners: PolicyServers
    tools: ToolRepository
    acl: AclRepository
    directory: DirectoryRepository
    conditions: Conditions


class PolicyService:
    """Reads and writes policies, and explains what they decide."""

    def __init__(  # noqa: PLR0913 - collaborators, by keyword
        self,
        database: Database,
        store: PolicyStore,
        audit: AuditTrail,
        changes: PolicyChanges,
        *,
        clock: Clock,
        admin_sees_private: bool,
        admin_uses_private: bool,
        enforces_approvals: bool,
        state: CallState | None = None,
        max_compared: int = MAX_COMPARED,
    ) -> None:
        self._state = state
        self._max_compared = max_compared
        self._database = database
        self._policies = store.policies
        self._owners = store.owners
        self._tools = store.tools
        self._directory = store.directory
        self._conditions = store.conditions
        self._authority = RuleAuthority(
            store.owners,
            store.acl,
            store.directory,
            clock=clock,
            admin_sees_private=admin_sees_private,
            admin_uses_private=admin_uses_private,
            what="Policies",
        )
        self._audit = audit
        self._changes = changes
        self._clock = clock
        self._enforces_approvals = enforces_approvals

    async def page(
        self, user: UserContext, narrowed: PolicyFilter, page: PageRequest
    ) -> Page[PolicyRecord]:
        """Return one page of the policies that *user* may write."""
        owners = self._authority.owners_of(user)
        return await self._policies.list_page(owners, narrowed, page)

    async def get(self, policy_id: str, user: UserContext) -> PolicyRecord:
        """Return one policy.

        Raises:
            PolicyNotFoundError: The policy does not exist, or *user* may not write it.
        """
        return await self._require(policy_id, user)

    async def create(self, change: PolicyChange, user: UserContext) -> WrittenPolicy:
        """Create a policy.

        Raises:
            PolicyForbiddenError: *user* may not write policies with this target.
            UnknownOwnerError: The server does not exist, or they may not see it.
            UnknownSubjectsError: It names a subject that does not exist.
            PolicyExistsError: The name is taken.
            TooManyPoliciesError: The limit is reached.
        """
        now = self._clock.now()
        person = PolicyEditor(user.user_id, user.username)
        policy_id = new_policy_id()
        blank = Policy(policy_id, "", Effect.ALLOW, PolicyTarget(), NO_SUBJECTS)
        change = replace(change, target=await self._authority.settled(change.target))
        record = _changed(PolicyRecord(blank, None, 0, now, person, now, person), change)
        owner_id = change.target.owner_id
        await self._authority.require_known(change.subjects, NO_SUBJECTS, owner_id, user)

        async def write(tx: Transaction) -> None:
            await self._authority.require_may_write(owner_id, user, tx)
            if await self._policies.count_about(owner_id, tx) >= MAX_PER_SERVER:
                raise TooManyPoliciesError(MAX_PER_SERVER)
            await self._policies.insert(record, tx)
            changes = changes_of(None, present_content(record))
            event = AuditEvent(
                AuditAction.CREATE, EntityType.POLICY, policy_id, changes, server_id=owner_id
            )
            await self._audit.record(user, event, tx)

        await self._database.transaction(write)
        await self._written(policy_id, AuditAction.CREATE, user)
        return await self._told(record, user, None, record.policy)

    async def update(
        self,
        policy_id: str,
        change: PolicyChange,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> WrittenPolicy:
        """Change the given members only; a change without effect writes nothing.

        Raises:
            PolicyNotFoundError: The policy does not exist, or *user* may not write it.
            PolicyForbiddenError: They may not write policies with its new target.
            PolicyModifiedError: *expected_etag* is not the policy's any more.
            PolicyUnreadableError: The stored policy cannot be changed.
            UnknownOwnerError: The server does not exist, or they may not see it.
            UnknownSubjectsError: It would name a subject that does not exist.
            PolicyExistsError: The name is taken.
        """
        seen = await self._require(policy_id, user)
        if "target" in change.members:
            change = replace(change, target=await self._authority.settled(change.target))
        if "subjects" in change.members:
            # Subjects that it named before may stay, although they are gone.
            target = change.target if "target" in change.members else seen.policy.target
            await self._authority.require_known(
                change.subjects, seen.policy.subjects, target.owner_id, user
            )

        async def write(tx: Transaction) -> tuple[PolicyRecord, PolicyRecord]:
            before = await self._require(policy_id, user, tx)
            _require_etag(before, expected_etag)
            if before.policy.problem is not None:
                raise PolicyUnreadableError(before.policy.problem)
            after = _changed(before, change)
            if present_content(after) == present_content(before):
                return before, before
            owner_id = after.policy.target.owner_id
            if owner_id != before.policy.target.owner_id:
                await self._authority.require_may_write(owner_id, user, tx)
                if await self._policies.count_about(owner_id, tx) >= MAX_PER_SERVER:
                    raise TooManyPoliciesError(MAX_PER_SERVER)
            person = PolicyEditor(user.user_id, user.username)
            after = replace(after, updated_at=self._clock.now(), updated_by=person)
            if not await self._policies.update(after, tx):
                raise PolicyModifiedError(before.etag, expected_etag)
            changes = changes_of(present_content(before), present_content(after))
            event = AuditEvent(
                AuditAction.UPDATE, EntityType.POLICY, policy_id, changes, server_id=owner_id
            )
            await self._audit.record(user, event, tx)
            return before, after

        former, record = await self._database.transaction(write)
        if record is not former:
            await self._written(policy_id, AuditAction.UPDATE, user)
        return await self._told(record, user, former.policy, record.policy)

    async def delete(
        self, policy_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> str | None:
        """Remove a policy, even an unreadable one, and return what that does, in words.

        None if that could not be read.

        Raises:
            PolicyNotFoundError: The policy does not exist, or *user* may not write it.
            PolicyModifiedError: *expected_etag* is not the policy's any more.
        """

        async def write(tx: Transaction) -> PolicyRecord:
            record = await self._require(policy_id, user, tx)
            _require_etag(record, expected_etag)
            if not await self._policies.delete(policy_id, tx):
                raise PolicyNotFoundError
            changes = changes_of(present_content(record), None)
            event = AuditEvent(
                AuditAction.DELETE,
                EntityType.POLICY,
                policy_id,
                changes,
                server_id=record.policy.target.owner_id,
            )
            await self._audit.record(user, event, tx)
            return record

        record = await self._database.transaction(write)
        await self._written(policy_id, AuditAction.DELETE, user)
        return (await self._told(record, user, record.policy, None)).consequence

    async def default_of(self, owner_id: str) -> Effect:
        """Return what holds for tools of a server that no policy allows. No access check."""
        is_closed = owner_id in await self._owners.closed_by_default()
        return Effect.DENY if is_closed else Effect.ALLOW

    async def default_consequence(
        self, owner_id: str, former: Effect, user: UserContext
    ) -> str | None:
        """Return in words what followed from another default of a server; None if it is unknown.

        Args:
            owner_id: The server, whose default was just written.
            former: What it was before.
            user: Who wrote it.
        """
        try:
            about = await self._policies.about(owner_id)
            found = await self._tools.effects_among([owner_id], self._max_compared + 1)
            default = await self.default_of(owner_id)
        except DatabaseUnavailable:
            log.warning("default_consequence_unknown", server_id=owner_id)
            return None
        tools = [ToolFacts(one.name, one.effects) for one in found.get(owner_id, ())]
        # Others see no policies about all servers, and are not told that there are any.
        told = [one for one in about if user.is_admin or one.target.owner_id is not None]
        server = ServerTools(default, tools[: self._max_compared])
        said = default_consequence(told, owner_id, server, former)
        is_partial = len(tools) > self._max_compared
        return f"{said} {self._only_compared()}" if is_partial else said

    async def explain(self, asked: ExplainQuestion, user: UserContext) -> ExplainResult:
        """Return whether a user may use a tool, and why.

        Raises:
            OwnerNotFoundError: The server does not exist, or *user* may not see it.
            InsufficientScopeError: It is about another user, and the token does not allow that.
            PolicyForbiddenError: It is about another user, and *user* may not share the server.
            UnknownSubjectsError: The user does not exist.
        """
        if not asked.is_self and user.lacks(Scope.WRITE_ACCESS):
            raise InsufficientScopeError((Scope.WRITE_ACCESS,))
        meant = None
        if self._state is not None and asked.is_combined:
            meant = self._state.toolsets.meant(user, asked.narrowed_path(), asked.tool)
        if meant is None:
            owner = await self._owner(asked, user)
        else:
            owner = await self._owners.policy_owner(meant[0])
        rights = NO_BITS if owner is None else (await self._authority.verdict(owner, user)).bits
        if owner is None or not rights & Permission.VIEW:
            raise OwnerNotFoundError
        if not asked.is_self and not rights & Permission.SHARE:
            raise PolicyForbiddenError("You may not ask about other users: you may not share it.")
        knows_people = user.is_admin or asked.user_id == user.user_id
        caller = (
            user if asked.is_self else await self._caller(asked, user, knows_people=knows_people)
        )
        found = (
            await self._meant(owner, asked)
            if meant is None
            else await self._lookup().named(owner, meant[1])
        )
        state = None if found is None else found.state
        facts = (
            ToolFacts(asked.tool if meant is None else meant[1]) if found is None else found.facts
        )
        toolset = None
        waiting: Sequence[WaitingCall] = ()
        if self._state is not None:
            path = asked.narrowed_path(owner.id)
            name = None if asked.owner_id is not None else asked.tool
            waiting = await self._state.approvals.waiting(caller.user_id, owner.id, facts.name)
            toolset = self._state.toolsets.step(caller, path, owner.id, facts.name, name)
        toolset_steps = () if toolset is None else (toolset,)
        rule = await self._rule(owner, facts)
        rules = await self._call_rules(owner, facts)
        quarantine, *conditions = await self._conditions.reasons(
            *(caller, owner.id, facts, rules, owner.source_type), reveals_why=user.is_admin
        )
        explanation = explain(
            caller,
            owner,
            await self._authority.use(owner, caller),
            state,
            rule,
            rules=rules,
            further=(quarantine, *toolset_steps, *conditions),
            waiting=waiting,
            reveals_states=bool(rights & Permission.EDIT),
            reveals_names=bool(rights & Permission.SHARE) and not user.lacks(Scope.WRITE_ACCESS),
        )
        if not asked.is_self and not knows_people and (asked.groups is None or asked.role is None):
            explanation = replace(explanation, message=f"{explanation.message} {NOT_LOOKED_UP}")
        return ExplainResult(owner.id, facts.name, explanation)

    async def may_use(self, server_id: str, tool: str, user: UserContext) -> bool:
        """Return whether *user* may use a tool, whatever else its calls need."""
        owner = await self._owners.policy_owner(server_id)
        if owner is None or not (await self._authority.use(owner, user)).allowed:
            return False
        found = await self._lookup().named(owner, tool)
        if found is None or not is_served(*found.state):
            return False
        return decide(user, await self._rule(owner, found.facts)).is_allowed

    async def _owner(self, asked: ExplainQuestion, user: UserContext) -> PolicyServer | None:
        """Return the server of *asked*. No access check."""
        if asked.owner_id is not None:
            return await self._owners.policy_owner(asked.owner_id)
        if not asked.is_combined:
            return await self._owners.policy_owner_at(asked.gateway_path, user.tenant_id)
        prefix, separator, _ = asked.tool.partition(SEPARATOR)
        if not separator:
            return None
        if public_prefix(prefix) == prefix:
            return await self._owners.policy_owner_at(f"{COMBINED_PATH}/{prefix}", user.tenant_id)
        # A shortened name cannot be reversed: compare with the servers that they see.
        for server in self._owners.visible(user):
            if prefix_of(server.effective_path) == prefix:
                return await self._owners.policy_owner(server.id)
        return None

    def _lookup(self) -> ToolLookup:
        return ToolLookup(self._owners, self._tools)

    async def _meant(self, owner: PolicyServer, asked: ExplainQuestion) -> FoundTool | None:
        """Return the tool that clients see under this name, its own before an aggregate one."""
        tools = self._lookup()
        found = None if asked.is_combined else await tools.named(owner, asked.tool)
        return await tools.combined(owner, asked.tool) if found is None else found

    async def _rule(self, owner: PolicyServer, tool: ToolFacts) -> ToolRule:
        policies = [*await self._policies.about(owner.id), *await self._conditions.policies()]
        index = PolicyIndex(policies)
        rules = rules_of(index.about(owner.id, owner.source_type), [tool], owner.default_effect)
        return rules.get(tool.name, NO_RULE)

    async def _call_rules(self, owner: PolicyServer, tool: ToolFacts) -> CallRules:
        """Return what is demanded of each call of a tool."""
        defaults = owner.call_rules
        return call_rules(
            await self._tools.stated(owner.id, tool.name),
            tool.facets,
            {name: defaults[name] for name in SERVER_MEMBERS if name in defaults},
            is_shared=owner.scope not in {None, ServerScope.PRIVATE_USER},
            enforces_approvals=self._enforces_approvals,
        )

    async def _caller(
        self, asked: ExplainQuestion, user: UserContext, *, knows_people: bool
    ) -> UserContext:
        """Return the caller that *asked* describes.

        Stored groups and role count only if the caller *knows_people*: otherwise the answer would
        reveal those of any user to every owner of a server.
        """
        entry = None if asked.user_id is None else await self._directory.get(asked.user_id)
        if entry is not None and not user.sees_tenant(entry.tenant_id):
            entry = None
        if asked.user_id is not None and entry is None:
            raise UnknownSubjectsError([f"user:{asked.user_id}"])
        known = entry if knows_people else None
        role = asked.role or Role.parse(None if known is None else known.role)
        scopes = asked.scopes if asked.scopes is not None else default_scopes(role)
        groups = asked.groups
        if groups is None:
            groups = frozenset() if known is None else known.groups
        ours = frozenset(scope for scope in Scope if scope in scopes)
        return UserContext(
            user_id=asked.user_id or ANONYMOUS_ID,
            username=entry.username if entry is not None else "unknown",
            role=role,
            scopes=ours,
            groups=groups,
            role_name=known.role if known is not None and asked.role is None else None,
            custom_scopes=scopes - ours,
            tenant_id=user.tenant_id if entry is None else entry.tenant_id,
        )

    async def _require(
        self, policy_id: str, user: UserContext, tx: Transaction | None = None
    ) -> PolicyRecord:
        """Return a policy that *user* may write.

        Raises:
            PolicyNotFoundError: There is none.
        """
        record = await self._policies.get(policy_id, tx)
        if record is None:
            raise PolicyNotFoundError
        if not await self._authority.may_write(record.policy.target.owner_id, user, tx):
            raise PolicyNotFoundError
        return record

    async def _written(self, policy_id: str, action: AuditAction, user: UserContext) -> None:
        log.info("policy_changed", policy_id=policy_id, action=action, user_id=user.user_id)
        await self._changes.policy_changed(policy_id)

    async def _told(
        self, record: PolicyRecord, user: UserContext, before: Policy | None, after: Policy | None
    ) -> WrittenPolicy:
        """Return a policy with what follows from it. It is written, whatever cannot be read."""
        try:
            said = await self._consequence(before, after, user)
            warnings = [] if after is None else await self._warnings(after, user)
        except DatabaseUnavailable:
            log.warning("policy_consequence_unknown", policy_id=record.policy.id)
            return WrittenPolicy(record, None, [])
        return WrittenPolicy(record, said, warnings)

    async def _consequence(
        self, before: Policy | None, after: Policy | None, user: UserContext
    ) -> str:
        was = [] if before is None else [before]
        now = [] if after is None else [after]
        owners = {policy.target.owner_id for policy in (*was, *now)}
        others: list[Policy]
        if None in owners:
            others = [*(await self._policies.every()).values()]
        else:
            about = [one for owner in owners if owner for one in await self._policies.about(owner)]
            others = [*{one.id: one for one in about}.values()]
        own = {policy.id for policy in (*was, *now)}
        others = [
            other
            for other in others
            if other.id not in own
            # They see no policies about all servers, and are not told that there are any.
            and (user.is_admin or other.target.owner_id is not None)
        ]
        servers, is_partial = await self._compared(owners, [*was, *now], user)
        said = consequence([*others, *was], [*others, *now], servers)
        if is_partial:
            said += f" {self._only_compared()}"
        return said

    def _only_compared(self) -> str:
        return f"Only {self._max_compared:,} tools were compared."

    async def _compared(
        self, owners: Collection[str | None], written: Sequence[Policy], user: UserContext
    ) -> tuple[dict[str, ServerTools], bool]:
        """Return the tools that *written* policies are about, by server; not of hidden servers.

        And whether there are more than were looked at.
        """
        chosen: Collection[str] | None = [owner for owner in owners if owner is not None]
        if None in owners:
            chosen = None if self._owners.sees_everything(user) else self._owners.rights(user)
        named = [name for policy in written for name in policy.target.tools]
        is_exact = all(policy.target.tools for policy in written) and not any(
            WILDCARD in name for name in named
        )
        found = await self._tools.effects_among(
            chosen, self._max_compared + 1, names=named if is_exact else None
        )
        is_partial = sum(map(len, found.values())) > self._max_compared
        closed = await self._owners.closed_by_default()
        index = PolicyIndex(replace(policy, is_enabled=True) for policy in written)
        servers = {}
        for owner_id, stored in found.items():
            tools = [ToolFacts(tool.name, tool.effects) for tool in stored]
            meant = rules_of(index.about(owner_id), tools)
            default = Effect.DENY if owner_id in closed else Effect.ALLOW
            servers[owner_id] = ServerTools(default, [one for one in tools if one.name in meant])
        return servers, is_partial

    async def _warnings(self, policy: Policy, user: UserContext) -> list[str]:
        """Return warnings about possible mistakes."""
        warnings: list[str] = []
        target, subjects = policy.target, policy.subjects
        if policy.is_enabled and not target.tools and not target.metadata:
            where = "this server" if target.owner_id else "all servers"
            if policy.effect is Effect.ALLOW and not subjects.everyone:
                warnings.append(f"Closes all tools of {where} to everyone it does not name.")
            elif policy.effect is Effect.DENY and subjects.everyone:
                warnings.append(f"Closes all tools of {where} to everyone, administrators too.")
        wanted = [name for name in policy.target.tools if WILDCARD not in name]
        if wanted:
            owner_id = policy.target.owner_id
            owners: Collection[str] | None = None if owner_id is None else (owner_id,)
            if owner_id is None and not self._owners.sees_everything(user):
                # A warning must not reveal the tools of servers that they do not see.
                owners = self._owners.rights(user)
            there = await self._tools.names_among(owners, wanted)
            missing = [name for name in wanted if name not in there]
            if missing:
                shown = ", ".join(missing[:MAX_WARNINGS])
                more = len(missing) - MAX_WARNINGS
                rest = f" and {more} more" if more > 0 else ""
                warnings.append(f"No server has these tools now: {shown}{rest}.")
        if policy.effect is Effect.DENY and policy.subjects.scopes:
            warnings.append(
                "Users who may generate tokens can omit a scope, so denying by scope blocks no "
                "user; deny it to users, groups or roles instead."
            )
        return warnings


def _changed(record: PolicyRecord, change: PolicyChange) -> PolicyRecord:
    policy = record.policy

    def chosen(name: str, before: object) -> object:
        return getattr(change, name) if name in change.members else before

    fields = {
        name: chosen(name, getattr(policy, name))
        for name in ("name", "effect", "is_enabled", "target", "subjects")
    }
    description = change.description if "description" in change.members else record.description
    return replace(
        record,
        policy=replace(policy, **fields),  # type: ignore[arg-type]  # each of its own type
        description=description,
        revision=record.revision + 1,
    )


def _require_etag(record: PolicyRecord, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != record.etag:
        raise PolicyModifiedError(record.etag, expected_etag)
