"""The `registry` command."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from packages.database.client import MongoAddressError, TopologyError
from packages.database.errors import DatabaseUnavailable, MongoLoginError
from packages.models.errors import SchemasNotGeneratedError, SchemaVersionError
from registry.auth.identity import ALL_SCOPES, Role, Scope, UserContext
from registry.auth.jwt import default_scopes
from registry.auth.keys import KeyPairError
from registry.core.clock import SystemClock
from registry.core.errors import RegistryError
from registry.core.logs import configure_logging
from registry.core.settings import Settings, SettingsError
from registry.local.errors import LocalError

app = typer.Typer(
    name="registry",
    help="A registry and gateway for MCP servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
token = typer.Typer(help="Bearer tokens.", no_args_is_help=True)
schemas = typer.Typer(help="The generated models.", no_args_is_help=True)
servers = typer.Typer(help="Registered servers.", no_args_is_help=True)
app.add_typer(token, name="token")
app.add_typer(schemas, name="schemas")
app.add_typer(servers, name="servers")

OPERATOR = UserContext("0" * 24, "operator", Role.ADMIN, ALL_SCOPES)
"""Whoever may run commands on this machine with the settings at hand acts as an administrator."""

EXPECTED = (
    SettingsError,
    KeyPairError,
    LocalError,
    MongoAddressError,
    TopologyError,
    DatabaseUnavailable,
    SchemasNotGeneratedError,
    SchemaVersionError,
    RegistryError,
)


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def serve(
    *, local: Annotated[bool, typer.Option("--local", help="Bring an own database along.")] = False
) -> None:
    """Serve the API and the gateway.

    With --local everything that is needed is started and kept in REGISTRY_HOME; without it
    MONGO_URI, CREDS_KEY, CREDS_IV and a JWT key pair must be set.
    """

    async def work() -> None:
        from registry.serving import serve_local, serve_settings  # noqa: PLC0415 - heavy imports

        await (serve_local() if local else serve_settings())

    _run(work)


@token.command("create")
def token_create(
    user_id: Annotated[str, typer.Option(help="ObjectId of the user, 24 hexadecimal characters.")],
    username: Annotated[str, typer.Option(help="Name shown in records.")] = "",
    role: Annotated[Role, typer.Option(help="Role of the token.")] = Role.USER,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Repeat for several; default: all of the role.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 365, help="Lifetime.")] = 8,
) -> None:
    """Print a bearer token signed with our key."""

    async def work() -> None:
        from registry.wiring import build_issuer, build_keys  # noqa: PLC0415 - heavy imports

        if len(user_id) != len(OPERATOR.user_id) or not _is_hex(user_id):
            _fail("--user-id must be 24 hexadecimal characters")
        settings = _settings()
        issuer = build_issuer(settings, build_keys(settings), SystemClock())
        typer.echo(
            issuer.issue(
                user_id=user_id.lower(),
                username=username,
                role=role,
                scopes=frozenset(scope) if scope else default_scopes(role),
                lifetime=timedelta(hours=hours),
            )
        )

    _run(work)


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
            _fail("give either --jti or --user-id, the latter as 24 hexadecimal characters")
        async with _components() as parts:
            revoked = await parts.sessions.revoke(what, OPERATOR)
        typer.echo("It was revoked before." if revoked.already else "Revoked.")

    _run(work)


@schemas.command("check")
def schemas_check() -> None:
    """Check that the generated models are of the release this program expects."""

    async def work() -> None:
        from packages.models import SCHEMA_VERSION, check_schema_version  # noqa: PLC0415

        check_schema_version()
        typer.echo(f"The models are generated from {SCHEMA_VERSION}.")

    _run(work)


@servers.command("list")
def servers_list(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List all registered servers."""

    async def work() -> None:
        from registry.core.paging import PageRequest  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_summary  # noqa: PLC0415
        from registry.servers.values import ServerFilter  # noqa: PLC0415

        async with _components() as parts:
            rows: list[dict[str, Any]] = []
            number = 1
            while True:
                request = PageRequest(number, 100)
                page = await parts.servers.list_page(OPERATOR, ServerFilter(), request)
                rows += [present_summary(server) for server in page.items]
                if number >= page.total_pages:
                    break
                number += 1
        if as_json:
            typer.echo(json.dumps(rows, indent=2, default=str))
            return
        for row in rows:
            typer.echo(
                f"{row['id']}  {row['status']:<8}  {row['numTools']:>4} tools  "
                f"{row['scope']:<12}  {row['path']:<32}  {row.get('url', '')}"
            )
        typer.echo(f"{len(rows)} servers", err=True)

    _run(work)


@servers.command("add")
def servers_add(
    name: Annotated[str, typer.Argument(help="Unique name.")],
    url: Annotated[str, typer.Argument(help="Address of the MCP endpoint.")],
    *,
    kind: Annotated[
        str, typer.Option("--type", help="streamable-http or sse.")
    ] = "streamable-http",
    scope: Annotated[
        str, typer.Option(help="shared_app, shared_user or private_user.")
    ] = "shared_app",
    author: Annotated[str, typer.Option(help="ObjectId of the owner.")] = OPERATOR.user_id,
    strict: Annotated[bool, typer.Option(help="Refuse a server that cannot be read.")] = False,
) -> None:
    """Register a server."""
    body = {"serverName": name, "url": url, "type": kind, "scope": scope}
    _import(
        lambda: [("the command line", body)],
        author,
        dry_run=False,
        strict=strict,
        must_be_new=True,
    )


@servers.command("import")
def servers_import(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, or folders of them without their subfolders.")
    ],
    *,
    author: Annotated[str, typer.Option(help="ObjectId of the owner.")] = OPERATOR.user_id,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files; contact and store nothing.")
    ] = False,
) -> None:
    """Import server files: the API's create body, or the older file store's form.

    A server that exists is left alone. One whose file names no scope is for everybody, that is
    shared_app.
    """

    def read() -> "list[tuple[str, Any]]":
        from registry.servers.seeding import read_files  # noqa: PLC0415 - heavy imports

        return read_files(files)

    _import(read, author, dry_run=dry_run, strict=False)


@app.command()
def doctor() -> None:
    """Check the database, indexes, schema version, keys and stored credentials."""

    async def work() -> None:
        from registry.doctor import examine  # noqa: PLC0415 - heavy imports

        findings = await examine(_settings())
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.check}: {finding.message}")
        if not all(finding.good for finding in findings):
            raise typer.Exit(1)

    _run(work)


def _import(
    read: "Callable[[], list[tuple[str, Any]]]",
    author: str,
    *,
    dry_run: bool,
    strict: bool,
    must_be_new: bool = False,
) -> None:
    async def work() -> None:
        from registry.servers.seeding import Outcome, import_servers  # noqa: PLC0415 - heavy

        items = read()
        if not items:
            typer.echo("There is nothing to import.", err=True)
        failed = 0
        async with _components() as parts:
            async for report in import_servers(
                parts.servers, items, author, dry_run=dry_run, strict=strict
            ):
                exists = report.outcome is Outcome.EXISTS
                failed += report.outcome.is_failure or (exists and must_be_new)
                typer.echo(f"{report.outcome.value:<9} {report.source}: {report.message}")
        if failed:
            raise typer.Exit(1)

    _run(work)


@asynccontextmanager
async def _components() -> AsyncIterator[Any]:
    from registry.wiring import components  # noqa: PLC0415 - heavy imports

    async with components(_settings()) as parts:
        yield parts


def _settings() -> Settings:
    """Return the settings of the environment, or of the local instance in REGISTRY_HOME."""
    from registry.serving import found_settings  # noqa: PLC0415 - heavy imports

    return found_settings()


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    configure_logging("warning", "console")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    except EXPECTED as exc:
        problems = getattr(exc, "problems", None) or [_sentence(exc)]
        _fail(*problems)
    except BaseExceptionGroup as group:
        expected, rest = group.split(EXPECTED)
        if expected is None or rest is not None:
            raise
        _fail(*(_sentence(exc) for exc in _leaves(expected)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _leaves(group: BaseException) -> list[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        return [leaf for inner in group.exceptions for leaf in _leaves(inner)]
    return [group]


def _sentence(error: BaseException) -> str:
    if isinstance(error, DatabaseUnavailable) and not isinstance(error, MongoLoginError):
        return f"{_database_named_by()}: the database cannot be reached"
    return str(error)


def _database_named_by() -> str:
    from registry.serving import Location  # noqa: PLC0415 - heavy imports

    if Location().mongo_uri is None:
        return "REGISTRY_HOME (is `registry serve --local` running?)"
    return "MONGO_URI"


def _fail(*problems: str) -> NoReturn:
    for problem in problems:
        sys.stderr.write(f"registry: {problem}\n")
    raise typer.Exit(1)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)
