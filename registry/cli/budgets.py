"""Commands about budgets: what callers may spend in a calendar month."""

from typing import TYPE_CHECKING, Annotated

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import is_id, only_one
from registry.cli.output import (
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    Yes,
    read_pages,
    require_agreed,
    show_fields,
    show_removed,
    show_rows,
    validated,
)
from registry.cli.policies import File, read_body, who_of
from registry.cli.running import run, services

if TYPE_CHECKING:
    from registry.access.budgets.service import BudgetState
    from registry.core.json import JsonObject
    from registry.wiring.commands import CommandServices

budgets = typer.Typer(help="What callers may spend in a month.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Amount", "amount"),
    Column("Spent", "spent"),
    Column("Month", "month"),
    Column("Tags", lambda row: row["billing_tags"] or "all"),
    Column("Who", lambda row: who_of(row["subjects"]), wraps=True),
    Column("Problem", "problem", wraps=True),
    Column("Id", "id"),
]

BudgetName = Annotated[str, typer.Argument(metavar="BUDGET", help="Id or name.")]


@budgets.command("list")
def budgets_list(*, limit: Limit = MAX_ROWS, as_json: AsJson = False) -> None:
    """List budgets, with what was spent of each this month."""

    async def work() -> None:
        async with services() as built:
            found, total = await read_pages(lambda page: built.budgets.page(OPERATOR, page), limit)
        rows = [_presented(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@budgets.command("show")
def budgets_show(budget: BudgetName, *, as_json: AsJson = False) -> None:
    """Show a budget."""

    async def work() -> None:
        async with services() as built:
            state = await _budget_of(built, budget)
        show_fields(_presented(state), as_json=as_json)

    run(work)


@budgets.command("add")
def budgets_add(file: File, *, as_json: AsJson = False) -> None:
    """Make a budget of a file: the body of POST /api/v1/budgets."""

    async def work() -> None:
        from registry.access.budgets.schemas import BudgetCreate  # noqa: PLC0415 - heavy imports

        change = validated(BudgetCreate, read_body(file)).change()
        async with services(changes=True) as built:
            state = await built.budgets.create(change, OPERATOR)
        show_fields(_presented(state), as_json=as_json)

    run(work)


@budgets.command("update")
def budgets_update(budget: BudgetName, file: File, *, as_json: AsJson = False) -> None:
    """Change the members of a budget that a file names, and no others."""

    async def work() -> None:
        from registry.access.budgets.schemas import BudgetUpdate  # noqa: PLC0415 - heavy imports

        change = validated(BudgetUpdate, read_body(file)).change()
        async with services(changes=True) as built:
            found = await _budget_of(built, budget)
            state = await built.budgets.update(found.record.budget.id, change, OPERATOR)
        show_fields(_presented(state), as_json=as_json)

    run(work)


@budgets.command("remove")
def budgets_remove(
    budget: BudgetName,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a budget."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = (await _budget_of(built, budget)).record.budget
            require_agreed(f"Remove the budget {found.name}?", yes=yes)
            await built.budgets.delete(found.id, OPERATOR)
        removed = {"id": found.id, "name": found.name}
        show_removed(removed, found.name, as_json=as_json)

    run(work)


async def _budget_of(built: "CommandServices", reference: str) -> "BudgetState":
    if is_id(reference):
        return await built.budgets.get(reference.lower(), OPERATOR)
    found, _ = await read_pages(lambda page: built.budgets.page(OPERATOR, page), 0)
    called = {one.record.budget.id: one for one in found if one.record.budget.name == reference}
    return only_one("budget", reference, called)


def _presented(state: "BudgetState") -> "JsonObject":
    from registry.access.budgets.presenter import present_budget  # noqa: PLC0415 - heavy imports

    return present_budget(state.record, state.month, state.spent)
