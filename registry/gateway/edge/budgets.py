"""Budgets: refuses calls with a price whose caller spent the month's amount, from memory.

Each process adds what its own calls cost at once, and reads every second what the others wrote.
So at most what calls under way cost, and what other processes spent in about two seconds, is
spent beyond a budget. Source: docs/decisions/0061-cost-and-usage.md.
"""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.access.budgets.repository import BudgetRepository
from registry.access.budgets.values import SPENT_PERCENT, WARNED_PERCENT, Budget, BudgetRecord
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import OPERATOR, UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.text import timestamp
from registry.gateway.errors import BudgetExceeded
from registry.gateway.values import ToolEntry
from registry.usage.presenter import present_cost
from registry.usage.repository import StoredSpending, UsageRepository
from registry.usage.totals import MonthKey, month_after, month_of
from registry.usage.values import Charge

log = structlog.get_logger()

READ_SECONDS = 1.0
"""How often what other processes spent is read, while there are budgets."""

MONTH_SECONDS = 1.0
"""How long it is not looked again whether the wall clock was set into another month."""

MAX_COVERED = 20_000
"""Of how many callers and sets of tags it is kept which budgets cover their calls."""

_Caller = tuple[str | None, str, str, tuple[str, ...]]
"""Tenant, user and role of a call, and the billing tags of its tool."""


@dataclass(slots=True)
class _Account:
    """A budget, and what was spent of it this month as far as this process knows."""

    record: BudgetRecord
    spent: int

    @property
    def budget(self) -> Budget:
        return self.record.budget

    def percent(self) -> int:
        """Return the highest threshold that was reached, or 0."""
        for percent in (SPENT_PERCENT, WARNED_PERCENT):
            if self.spent * 100 >= self.budget.amount * percent:
                return percent
        return 0


class Budgets:
    """The table of budgets, and what is spent."""

    collection = "budgets"

    def __init__(
        self,
        database: Database,
        budgets: BudgetRepository,
        usage: UsageRepository,
        audit: AuditTrail,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._budgets = budgets
        self._usage = usage
        self._audit = audit
        self._clock = clock
        self._notices = metrics.budget_notices
        self._accounts: dict[str, _Account] = {}
        self._by_user: dict[str, list[_Account]] = {}
        self._by_role: dict[str, list[_Account]] = {}
        self._of_everyone: list[_Account] = []
        self._month = month_of(clock.now())
        self._month_lasts_until = 0.0
        self._covered: dict[_Caller, tuple[_Account, ...]] = {}
        self._own: Counter[MonthKey] = Counter()
        self._others = StoredSpending(self._month, usage.writer)

    async def reload(self, ids: AbstractSet[str] | None) -> None:  # noqa: ARG002 - a protocol
        """Read all budgets; there are few.

        Raises:
            DatabaseUnavailable: They stay as they were.
        """
        records = await self._budgets.every()
        if records and not self._accounts:
            await self._usage.refresh(self._others)
        self._accounts = {record.budget.id: _Account(record, 0) for record in records}
        self._count_again()

    def check(self, user: UserContext, tool: ToolEntry) -> None:
        """Check that no budget of the caller is spent, or would be by the price of one call.

        Raises:
            BudgetExceeded: One is.
        """
        rules = tool.rules
        if not self._accounts or not (rules.price_per_call or rules.price_per_kib):
            return
        self._begin_month()
        price = rules.price_per_call
        for account in self._covering(user.tenant_id, user.user_id, user.role, rules.billing_tags):
            amount = account.budget.amount
            if account.spent >= amount or account.spent + price > amount:
                raise self._refusal(account, user)

    def spent_of(self, budget_id: str) -> int:
        """Return what was spent of a budget this month, in millionths, as far as is known here."""
        self._begin_month()
        account = self._accounts.get(budget_id)
        return 0 if account is None else account.spent

    def spent(self, user: UserContext, charge: Charge, size: int) -> None:
        """Add the cost of a call that was sent upstream.

        Args:
            user: Who called.
            charge: Of the tool.
            size: Bytes of request and response.
        """
        cost = charge.cost_of(size)
        if not cost:
            return
        self._begin_month()
        tags = charge.billing_tags
        self._own[self._month, user.tenant_id, user.user_id, str(user.role), tags] += cost
        if self._accounts:
            for account in self._covering(user.tenant_id, user.user_id, user.role, tags):
                account.spent += cost

    async def follow(self) -> None:
        """Read what other processes spend, and report budgets that run out, forever."""
        while True:
            await self._clock.sleep(READ_SECONDS)
            if not self._accounts:
                continue
            try:
                await self.refresh()
            except DatabaseUnavailable:
                # What is known stays; this process's own spending is always known.
                continue
            except Exception:
                log.exception("budgets_not_followed")

    async def refresh(self) -> None:
        """Read what other processes spent, and report budgets that run out.

        Raises:
            DatabaseUnavailable: What is known stays.
        """
        self._begin_month()
        for key, more in await self._usage.refresh(self._others):
            if key[0] == self._month:
                for account in self._covering(*key[1:]):
                    account.spent += more
        for account in [*self._accounts.values()]:
            percent = account.percent()
            if percent and (account.record.noticed or (self._month, 0)) < (self._month, percent):
                await self._report(account, percent)

    def _covering(
        self, tenant_id: str | None, user_id: str, role: str, tags: Sequence[str]
    ) -> tuple[_Account, ...]:
        caller = (tenant_id, user_id, role, tuple(tags))
        found = self._covered.get(caller)
        if found is None:
            if len(self._covered) >= MAX_COVERED:
                self._covered.clear()
            found = self._covered[caller] = self._find_covering(*caller)
        return found

    def _find_covering(
        self, tenant_id: str | None, user_id: str, role: str, tags: tuple[str, ...]
    ) -> tuple[_Account, ...]:
        found: dict[str, _Account] = {}
        for some in (
            self._by_user.get(user_id, ()),
            self._by_role.get(role, ()),
            self._of_everyone,
        ):
            for account in some:
                if account.budget.covers(tenant_id, user_id, role, tags):
                    found[account.budget.id] = account
        return tuple(found.values())

    def _begin_month(self) -> None:
        """Begin another month if the wall clock says so, which may have been set back."""
        monotonic = self._clock.monotonic()
        if monotonic < self._month_lasts_until:
            return
        now = self._clock.now()
        seconds = (month_after(self._month) - now).total_seconds()
        if seconds > 0 and now >= self._month:
            # Calls are many, and to ask for the wall time costs ten times as much.
            self._month_lasts_until = monotonic + min(seconds, MONTH_SECONDS)
            return
        # The month that ends is kept: a clock that jumped ahead may be set back, and what this
        # process spent is read from nowhere else.
        kept = {self._month, month_of(now)}
        self._month = month_of(now)
        self._own = Counter({key: cost for key, cost in self._own.items() if key[0] in kept})
        self._others = StoredSpending(self._month, self._usage.writer)
        self._count_again()

    def _count_again(self) -> None:
        self._by_user, self._by_role, self._of_everyone = {}, {}, []
        self._covered.clear()
        spending = self._others.spending + self._own
        for account in self._accounts.values():
            subjects = account.budget.subjects
            account.spent = account.budget.spent(spending, self._month)
            if subjects.everyone:
                self._of_everyone.append(account)
                continue
            for user_id in subjects.users:
                self._by_user.setdefault(user_id, []).append(account)
            for role in subjects.roles:
                self._by_role.setdefault(role, []).append(account)

    def _refusal(self, account: _Account, user: UserContext) -> BudgetExceeded:
        budget = account.budget
        # Others' budgets are theirs to know: administrators write them, and one of a single user
        # is that user's.
        may_know = (user.is_admin and user.sees_tenant(budget.tenant_id)) or (
            budget.subjects.users == {user.user_id} and not budget.subjects.roles
        )
        starts_again = month_after(self._month)
        seconds = (starts_again - self._clock.now()).total_seconds()
        return BudgetExceeded(
            budget.name if may_know else None,
            timestamp(starts_again),
            max(1, round(seconds)),
            is_spent=account.spent >= budget.amount,
        )

    async def _report(self, account: _Account, percent: int) -> None:
        """Report once, of all processes, that a budget runs out or is spent."""
        record, month = account.record, self._month
        facts: JsonObject = {
            "name": record.budget.name,
            "month": month.strftime("%Y-%m"),
            "percent": percent,
            "spent": present_cost(account.spent),
            "amount": present_cost(record.budget.amount),
        }

        async def write(tx: Transaction) -> bool:
            if not await self._budgets.notice(record, month, percent, tx):
                return False
            event = AuditEvent(
                AuditAction.NOTICE, EntityType.BUDGET, record.budget.id, {"after": facts}
            )
            await self._audit.record(OPERATOR, event, tx)
            return True

        is_first = await self._database.transaction(write)
        account.record = replace(record, noticed=(month, percent))
        if is_first:
            self._notices.labels(str(percent)).inc()
            event = "budget_spent" if percent == SPENT_PERCENT else "budget_nearly_spent"
            log.warning(event, budget_id=record.budget.id, **facts)
