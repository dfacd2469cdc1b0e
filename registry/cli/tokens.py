"""Commands that issue bearer tokens and refuse them."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from registry.auth.identity import OPERATOR, SCOPE_NAME, Role, Scope
from registry.auth.jwt import default_scopes
from registry.cli.running import fail, is_hex, read_settings, run, services
from registry.core.clock import SystemClock

token = typer.Typer(help="Bearer tokens.", no_args_is_help=True)


@token.command("create")
def token_create(
    user_id: Annotated[str, typer.Option(help="ObjectId of the user, 24 hexadecimal characters.")],
    username: Annotated[str, typer.Option(help="Name shown in records.")] = "",
    role: Annotated[Role, typer.Option(help="Role of the token.")] = Role.USER,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Repeat for several; default: all of the role.")
    ] = None,
    custom_scope: Annotated[
        list[str] | None,
        typer.Option(help="A further scope that access policies name; repeat for several."),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 365, help="Lifetime.")] = 8,
) -> None:
    """Print a bearer token signed with our key."""

    async def work() -> None:
        from registry.wiring.keys import build_issuer, build_keys  # noqa: PLC0415 - heavy imports

        if len(user_id) != len(OPERATOR.user_id) or not is_hex(user_id):
            fail("--user-id must be 24 hexadecimal characters")
        custom = frozenset(custom_scope or ())
        for name in sorted(custom):
            if re.fullmatch(SCOPE_NAME, name) is None or name in set(Scope):
                fail(f"--custom-scope {name!r} is no scope of your own (RFC 6749, 3.3)")
        settings = read_settings()
        issuer = build_issuer(settings, build_keys(settings), SystemClock())
        typer.echo(
            issuer.issue(
                user_id=user_id.lower(),
                username=username,
                role=role,
                scopes=(frozenset(scope) if scope else default_scopes(role)) | custom,
                lifetime=timedelta(hours=hours),
            )
        )

    run(work)


@token.command("revoke")
def token_revoke(
    jti: Annotated[
        str | None, typer.Option("--jti", help="Id of a token: its `jti` claim.")
    ] = None,
    user_id: Annotated[
        str | None, typer.Option("--user-id", help="ObjectId of a user, for all their tokens.")
    ] = None,
) -> None:
    """Refuse a token from now on, with all that was issued with it, or all tokens of a user."""

    async def work() -> None:
        from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

        from registry.tokens.schemas import TokenRevoke  # noqa: PLC0415

        try:
            what = TokenRevoke(jti=jti, user_id=user_id)
        except ValidationError:
            fail("give either --jti or --user-id, the latter as 24 hexadecimal characters")
        async with services(changes=True) as built:
            revoked = await built.sessions.revoke(what, OPERATOR)
        typer.echo("It was revoked before." if revoked.already else "Revoked.")

    run(work)
