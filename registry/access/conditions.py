"""What else calls of a tool depend on, for explanations: quarantines, limits and budgets.

Read from the database, like everything that is explained.
"""

import math
from collections.abc import Callable, Sequence

from packages.models.states import SourceType
from registry.access.budgets.repository import BudgetRepository
from registry.access.limits.decisions import LimitIndex
from registry.access.limits.ports import LimitUse
from registry.access.limits.repository import LimitRepository
from registry.access.limits.values import Limit, LimitedTool, words_of
from registry.access.policies.values import Policy, Reason, ToolFacts
from registry.access.quarantine.repository import QuarantineRepository
from registry.access.quarantine.table import QuarantineTable
from registry.access.quarantine.values import Quarantine
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.text import timestamp
from registry.tools.call_rules import CallRules
from registry.tools.metadata import COST_TIER
from registry.usage.repository import UsageRepository
from registry.usage.totals import month_after, month_of

MAX_SAID = 5


class CallConditions:
    """Reads what calls depend on besides policies. Implements `policies.ports.Conditions`.

    Args:
        use: Knows what is left of limits; None where nobody asks.
        spent: Returns what this process knows was spent of a budget this month, by its id; its
            own calls are stored a moment later.
    """

    def __init__(
        self,
        quarantines: QuarantineRepository,
        limits: LimitRepository,
        budgets: BudgetRepository,
        usage: UsageRepository,
        clock: Clock,
        use: LimitUse | None = None,
        spent: Callable[[str], int] | None = None,
    ) -> None:
        self._use = use
        self._spent = spent
        self._quarantines = quarantines
        self._limits = limits
        self._budgets = budgets
        self._usage = usage
        self._clock = clock

    async def policies(self) -> Sequence[Policy]:
        """Return the policies that stand for quarantined servers and tools."""
        return (await self._table()).policies()

    async def reasons(
        self,
        user: UserContext,
        server_id: str,
        tool: ToolFacts,
        rules: CallRules,
        source_type: SourceType | None = None,
        *,
        reveals_why: bool = False,
    ) -> tuple[Reason, ...]:
        """Return the first step of a decision, quarantine, and those after the policies.

        There is one about budgets if the tool has a price.
        """
        table = await self._table()
        caller, server = table.of_caller(user), table.of_server(server_id)
        quarantine = Reason("quarantine", True, "Neither they nor the server are in quarantine.")
        if caller is not None:
            said = _quarantined("They, or their token, are", caller, reveals_why=reveals_why)
            quarantine = Reason("quarantine", False, said)
        elif server is not None:
            said = _quarantined("The server is", server, reveals_why=reveals_why)
            quarantine = Reason("quarantine", False, said)
        reasons = (quarantine, await self._of_limits(user, server_id, tool, source_type))
        if rules.price_per_call or rules.price_per_kib:
            return (*reasons, await self._of_budgets(user, rules))
        return reasons

    async def _of_budgets(self, user: UserContext, rules: CallRules) -> Reason:
        """Say whether the gateway would refuse a call: whose budget it is may be confidential."""
        caller = (user.tenant_id, user.user_id, user.role.value, rules.billing_tags)
        covering = [
            one.budget for one in await self._budgets.every() if one.budget.covers(*caller)
        ]
        if not covering:
            return Reason("budget", True, "No budget covers such calls.")
        month = month_of(self._clock.now())
        spending = await self._usage.spending(month)
        for budget in covering:
            spent = budget.spent(spending, month)
            if self._spent is not None:
                spent = max(spent, self._spent(budget.id))
            if spent >= budget.amount or spent + rules.price_per_call > budget.amount:
                why = "is spent" if spent >= budget.amount else "has less left than one costs"
                again_at = month_after(month)
                wait = again_at - self._clock.now()
                return Reason(
                    "budget",
                    False,
                    f"A budget for such calls {why}, this month; it starts again at "
                    f"{timestamp(again_at)}.",
                    max(1, int(wait.total_seconds() * 1000)),
                )
        return Reason("budget", True, "No budget for such calls is spent.")

    async def _of_limits(
        self,
        user: UserContext,
        server_id: str,
        tool: ToolFacts,
        source_type: SourceType | None,
    ) -> Reason:
        tier = next(
            (one.partition(":")[2] for one in tool.facets if one.startswith(f"{COST_TIER}:")), None
        )
        limited = LimitedTool(server_id, tool.name, tool.facets, tier, source_type)
        index = LimitIndex((await self._limits.every()).values())
        found = index.about(limited).applying(user)
        if not found:
            return Reason("limit", True, "No limit applies.")
        if any(limit.problem is not None for limit in found):
            return Reason("limit", False, "A limit cannot be read, and refuses all calls.")
        said = "; ".join(_said(limit) for limit in found[:MAX_SAID])
        more = f"; and {len(found) - MAX_SAID} more" if len(found) > MAX_SAID else ""
        is_closed = any(
            limit.in_flight == 0 or any(rate.count == 0 for rate in limit.rates) for limit in found
        )
        if is_closed or self._use is None:
            return Reason("limit", not is_closed, f"At most {said}{more}.")
        spent = await self._use.spent(user, limited, found)
        if spent is None:
            return Reason("limit", True, f"At most {said}{more}; not used up now.")
        wait = spent.wait_seconds or 0
        return Reason(
            "limit",
            False,
            f"Over the limit of {spent.what}: the next call gets through in {wait:.1f} s.",
            math.ceil(wait * 1000),
        )

    async def _table(self) -> QuarantineTable:
        table = QuarantineTable(self._quarantines, self._clock)
        await table.reload(None)
        return table


def _said(limit: Limit) -> str:
    parts = [words_of(limit, rate) for rate in limit.rates]
    if limit.in_flight is not None:
        parts.append(words_of(limit, None))
    return " and ".join(parts)


def _quarantined(who: str, found: Quarantine, *, reveals_why: bool) -> str:
    until = "" if found.expires_at is None else f" until {timestamp(found.expires_at)}"
    why = f": {found.reason}" if reveals_why else ""
    return f"{who} in quarantine{until}{why}."
