"""Commands about calls that people must approve."""

from typing import TYPE_CHECKING, Annotated

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import server_of, user_id_of
from registry.cli.output import (
    AsJson,
    Column,
    Limit,
    read_cursor,
    show_fields,
    show_json,
    show_rows,
    validated,
)
from registry.cli.running import run, services

if TYPE_CHECKING:
    from packages.models.states import Verdict

approvals = typer.Typer(help="Calls that people must approve.", no_args_is_help=True)

COLUMNS = [
    Column("Requested", "created_at"),
    Column("State", "state"),
    Column("Server", "server_name"),
    Column("Tool", "tool"),
    Column("By", lambda row: row["requester"]["username"] or row["requester"]["user_id"]),
    Column("Needs", "needed"),
    Column("Expires", "expires_at"),
    Column("Id", "id"),
]

RequestId = Annotated[str, typer.Argument(metavar="ID", help="Id of the request.")]
Comment = Annotated[str | None, typer.Option(help="Shown to the requester, and recorded.")]


@approvals.command("list")
def approvals_list(
    *,
    state: Annotated[str | None, typer.Option(help="Such as pending or executed.")] = None,
    server: Annotated[str | None, typer.Option(help="Id, name or path.")] = None,
    tool: Annotated[str | None, typer.Option(help="The tool's own name on its server.")] = None,
    user: Annotated[str | None, typer.Option(help="Id, name or address of who called.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List requests for approval, newest first."""

    async def work() -> None:
        from registry.approvals.presenter import present_approval  # noqa: PLC0415 - heavy imports
        from registry.approvals.schemas import ApprovalQuery  # noqa: PLC0415

        async with services() as built:
            query = {
                "state": state,
                "server_id": None if server is None else (await server_of(built, server)).id,
                "tool": tool,
                "requester": None if user is None else await user_id_of(built, user),
            }
            asked = validated(ApprovalQuery, query)
            narrowed = asked.narrowed()
            found, has_more = await read_cursor(
                lambda cursor, count: built.approval_reader.page(
                    OPERATOR, narrowed, asked.server_id, cursor, count
                ),
                limit,
            )
        rows = [present_approval(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, has_more=has_more)

    run(work)


@approvals.command("show")
def approvals_show(request: RequestId, *, as_json: AsJson = False) -> None:
    """Show a request with its arguments, secrets hidden, and the tool's definition."""

    async def work() -> None:
        from registry.approvals.presenter import present_detail  # noqa: PLC0415 - heavy imports

        async with services() as built:
            detail = await built.approval_reader.detail(request, OPERATOR)
        presented = present_detail(detail)
        if as_json:
            show_fields(presented, as_json=True)
            return
        # What is decided about is shown exactly: in a line of a table, a text that holds a comma
        # reads like two arguments.
        exact = {name: presented.pop(name) for name in ("arguments", "definition")}
        show_fields(presented, as_json=False)
        for name, value in exact.items():
            typer.echo(f"\n{name}:")
            show_json(value)

    run(work)


@approvals.command("approve")
def approvals_approve(
    request: RequestId, *, comment: Comment = None, as_json: AsJson = False
) -> None:
    """Approve a call: a serving process makes it, once, when enough people have approved it."""
    from packages.models.states import Verdict  # noqa: PLC0415 - heavy imports

    _decide(request, Verdict.APPROVE, comment, as_json=as_json)


@approvals.command("deny")
def approvals_deny(
    request: RequestId, *, comment: Comment = None, as_json: AsJson = False
) -> None:
    """Deny a call: it is not made."""
    from packages.models.states import Verdict  # noqa: PLC0415 - heavy imports

    _decide(request, Verdict.DENY, comment, as_json=as_json)


def _decide(request: str, verdict: "Verdict", comment: str | None, *, as_json: bool) -> None:
    async def work() -> None:
        from registry.approvals.presenter import present_approval  # noqa: PLC0415 - heavy imports
        from registry.approvals.schemas import ApprovalDecision  # noqa: PLC0415

        said = validated(ApprovalDecision, {"comment": comment})
        async with services(changes=True) as built:
            decided = await built.approvals.decide(
                request, OPERATOR, verdict, said.comment or None
            )
        if as_json:
            show_fields(present_approval(decided), as_json=True)
        else:
            typer.echo(
                f"{decided.server_name} {decided.tool} for {decided.requester.username}: "
                f"{decided.state.value}, {decided.approvals} of {decided.needed} approved"
            )

    run(work)
