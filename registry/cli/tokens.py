"""Commands that issue bearer tokens, list those that were issued, and revoke them."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from registry.auth.identity import (
    OPERATOR,
    SCOPE_NAME,
    TOOLS,
    Role,
    Scope,
    default_scopes,
)
from registry.cli.names import is_id, user_id_of, user_of
from registry.cli.output import MAX_ROWS, AsJson, Column, Limit, read_pages, show_rows
from registry.cli.running import NOT_FOUND, fail, run, services

token = typer.Typer(help="Bearer tokens.", no_args_is_help=True)

COLUMNS = [
    Column("JTI", "jti"),
    Column("User", lambda row: row["username"] or row["user_id"]),
    Column("Role", "role"),
    Column("State", lambda row: "revoked" if row["revoked"] else "valid"),
    Column("Token expires", "access_expires_at"),
    Column("Renewable until", lambda row: row["expires_at"] if row["is_renewable"] else None),
    Column("Description", "description", wraps=True),
]


@token.command("create")
def token_create(
    user: Annotated[
        str,
        typer.Option(
            "--user",
            "--user-id",
            help="Id, name or address of a user; an id that no user has stands for an account "
            "that exists only in the token.",
        ),
    ],
    username: Annotated[
        str, typer.Option(help="Name shown in records; default: the stored user's.")
    ] = "",
    role: Annotated[Role, typer.Option(help="Role of the token.")] = Role.USER,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="One of the role's; repeat for several; default: all of the role."),
    ] = None,
    custom_scope: Annotated[
        list[str] | None,
        typer.Option(help="A further scope that access policies name; repeat for several."),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Lifetime; at most TOKEN_MAX_HOURS.")] = 8,
    description: Annotated[
        str | None, typer.Option(help="What it is for, shown in lists and records.")
    ] = None,
    toolset: Annotated[
        str | None,
        typer.Option(help="Name of a toolset: at the gateway, the token has no other tools."),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            help="Which tools clients find at /mcp: all, or search for find_tool and call_tool."
        ),
    ] = None,
) -> None:
    """Issue a bearer token that cannot be renewed, record that, and print it.

    The API's rules hold: no role above the one that the user is stored with, no scope beyond the
    role, and no more hours than TOKEN_MAX_HOURS. Without the database nothing is issued, because
    it could be neither recorded nor listed.
    """

    async def work() -> None:
        from registry.tokens.values import TokenOrder  # noqa: PLC0415 - heavy imports

        if tools is not None and tools not in TOOLS:
            fail(f"--tools: {tools!r} is none of all, search")
        custom = frozenset(custom_scope or ())
        for name in sorted(custom):
            if re.fullmatch(SCOPE_NAME, name) is None or name in set(Scope):
                fail(f"--custom-scope {name!r} is no scope of your own (RFC 6749, 3.3)")
        async with services(changes=True) as built:
            order = TokenOrder(
                user_id=user.lower() if is_id(user) else (await user_of(built, user)).id,
                username=username,
                role=role,
                scopes=(frozenset(scope) if scope else default_scopes(role)) | custom,
                lifetime=timedelta(hours=hours),
                description=description,
                toolset=toolset,
                tools=tools,
            )
            issued = await built.sessions.issue(order, OPERATOR)
        if not issued.is_known_user:
            typer.echo(
                f"registry: no user {order.user_id} is stored; the token stands for an account "
                "that exists only in it",
                err=True,
            )
        typer.echo(issued.access_token)

    run(work)


@token.command("list")
def token_list(
    user: Annotated[
        str | None,
        typer.Option("--user", "--user-id", help="Id, name or address of a user: theirs alone."),
    ] = None,
    *,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List issued tokens that have not expired, newest first."""

    async def work() -> None:
        from registry.core.paging import Page, PageRequest  # noqa: PLC0415 - heavy imports
        from registry.tokens.presenter import present_family  # noqa: PLC0415
        from registry.tokens.values import ListedFamily  # noqa: PLC0415

        async with services() as built:
            wanted = None if user is None else (await user_id_of(built, user)).lower()

            async def read(page: PageRequest) -> Page[ListedFamily]:
                return await built.sessions.list_page(OPERATOR, wanted, page)

            found, total = await read_pages(read, limit)
        rows = [present_family(listed) for listed in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@token.command("revoke")
def token_revoke(
    jti: Annotated[
        str | None, typer.Option("--jti", help="Id of a token: its `jti` claim.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", "--user-id", help="Id, name or address of a user: all theirs."),
    ] = None,
    *,
    unrecorded: Annotated[
        bool,
        typer.Option(
            "--unrecorded",
            help="Refuse the `jti` though no such token is on record: earlier releases kept none.",
        ),
    ] = False,
) -> None:
    """Refuse a token from now on, with all that was issued with it, or all tokens of a user."""

    async def work() -> None:
        from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

        from registry.core.errors import problems_of  # noqa: PLC0415
        from registry.tokens.errors import TokenNotOnRecordError  # noqa: PLC0415
        from registry.tokens.schemas import TokenRevoke  # noqa: PLC0415

        if (jti is None) is (user is None):
            fail("give either --jti or --user")
        async with services(changes=True) as built:
            user_id = None if user is None else await user_id_of(built, user)
            try:
                what = TokenRevoke(jti=jti, user_id=user_id, unrecorded=unrecorded)
            except ValidationError as exc:
                fail(*problems_of(exc))
            try:
                revoked = await built.sessions.revoke(what, OPERATOR)
            except TokenNotOnRecordError:
                fail(
                    f"no issued token with the jti {jti!r} is on record, and nothing was revoked; "
                    "if an earlier release issued it, add --unrecorded",
                    code=NOT_FOUND,
                )
        typer.echo("It was revoked before." if revoked.already else "Revoked.")

    run(work)
