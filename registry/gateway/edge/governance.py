"""Governance of a call: what must hold before it goes upstream, in one place for all paths.

The tool is one that the caller may use; its call rules say what else is demanded. The order is
from the cheapest check to the one that needs a person.
"""

from collections.abc import Mapping
from typing import Any

from registry.auth.identity import UserContext
from registry.gateway.edge.approvals import ApprovalGate
from registry.gateway.edge.arguments import ArgumentChecker
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.confirmation import Confirmations
from registry.gateway.edge.eras import require_arguments
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import ApprovalRequired
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.values import Route, ToolEntry
from registry.tools.call_rules import ArgumentValidation, OutputValidation


class CallGovernance:
    """Checks calls of tools.

    Args:
        arguments: Checks arguments against definitions.
        limits: Keeps limits on calls.
        confirmations: Asks callers' users.
        approvals: Answers calls that people must approve; None refuses them.
        budgets: Refuse calls that would cost too much; None for none.
    """

    def __init__(
        self,
        arguments: ArgumentChecker,
        limits: CallLimits,
        confirmations: Confirmations,
        approvals: ApprovalGate | None,
        budgets: Budgets | None = None,
    ) -> None:
        self._arguments = arguments
        self._budgets = budgets
        self._limits = limits
        self._confirmations = confirmations
        self._approvals = approvals

    def handed_on(self, exchange: GatewayRequest, envelope: Envelope) -> bytes | bytearray:
        """Return the text of an admitted call for another worker, which admits it again."""
        return self._confirmations.handed_on(exchange, envelope)

    async def admit(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route,
        tool: ToolEntry,
    ) -> tuple[Mapping[str, Any], bool]:
        """Check a call, in the order that `docs/governance.md` lists.

        Args:
            exchange: The request.
            envelope: Its message.
            user: Who calls.
            route: The server, as the caller may use it.
            tool: The tool, as the server calls it.

        Returns:
            The arguments, and whether the request has been answered: nothing is to be sent then.

        Raises:
            Refusal: The call may not be made.
            ClientGone: The client disconnected.
        """
        exchange.tool = tool.name
        exchange.tool_entry = tool
        exchange.may_repeat = tool.may_repeat
        arguments = require_arguments(envelope.params)
        rules = tool.rules
        if rules.validate is not ArgumentValidation.OFF or tool.is_behind:
            size = len(envelope.raw)
            if not self._arguments.fits(tool, arguments, size):
                await self._arguments.require_fit(exchange, tool, arguments, size)
        counted = self._limits.take(exchange, user, route, tool)
        if counted is not None:
            await counted
        is_priced = rules.price_per_call or rules.price_per_kib
        # Who comes for the result of a call has confirmed it, and it may have spent the budget.
        is_known = (
            rules.approvals > 0
            and (rules.is_confirmed or is_priced)
            and self._approvals is not None
            and await self._approvals.knows(exchange, envelope, user, route, tool, arguments)
        )
        if is_priced and not is_known and self._budgets is not None:
            self._budgets.check(user, tool)
        if (
            rules.is_confirmed
            and not is_known
            and await self._confirmations.require(exchange, envelope, user, route, tool)
        ):
            self._limits.uncount(exchange)
            return arguments, True
        if rules.validate_output is not OutputValidation.OFF:
            self._arguments.checks_output(exchange, tool)
        if rules.approvals:
            if self._approvals is None:
                raise ApprovalRequired(tool.name)
            await self._approvals.answer(exchange, envelope, user, route, tool, arguments)
            return arguments, True
        return arguments, False
