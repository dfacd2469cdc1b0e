"""The `registry` command."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import uvloop

from packages.database.client import MongoAddressError, TopologyError
from packages.database.errors import DatabaseUnavailable, MongoLoginError
from packages.models.errors import SchemasNotGeneratedError, SchemaVersionError
from registry.auth.identity import OPERATOR, SCOPE_NAME, Role, Scope
from registry.auth.jwt import default_scopes
from registry.auth.keys import KeyPairError
from registry.core.clock import SystemClock
from registry.core.errors import RegistryError
from registry.core.logs import configure_logging
from registry.core.settings import Settings, SettingsError
from registry.local.errors import LocalError

if TYPE_CHECKING:
    from packages.database.client import Database
    from packages.database.encryption import Cipher
    from registry.local.home import LocalHome
    from registry.migration.values import Plan, Report, StepPlan, StepReport
    from registry.rotation import Survey
    from registry.sync.report import RoundReport
    from registry.sync.rounds import RoundResult

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
tools = typer.Typer(help="Registered tools.", no_args_is_help=True)
sync = typer.Typer(help="Reading servers anew.", no_args_is_help=True)
audit = typer.Typer(help="The audit trail.", no_args_is_help=True)
creds = typer.Typer(help="The key of stored credentials.", no_args_is_help=True)
app.add_typer(creds, name="creds")
app.add_typer(tools, name="tools")
app.add_typer(sync, name="sync")
app.add_typer(audit, name="audit")
app.add_typer(token, name="token")
app.add_typer(schemas, name="schemas")
app.add_typer(servers, name="servers")

"""Whoever may run commands on this machine with the settings at hand acts as an administrator."""

HASH_CHARACTERS = 64

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
    # A file or socket that took the place of one that was closed would get what is printed.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    app()


@app.command()
def serve(
    *,
    local: Annotated[bool, typer.Option("--local", help="Bring an own database along.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Processes that serve; default: REGISTRY_WORKERS, or 1."
        ),
    ] = None,
) -> None:
    """Serve the API and the gateway.

    With --local everything that is needed is started and kept in REGISTRY_HOME; without it
    MONGO_URI, CREDS_KEY, CREDS_IV and a JWT key pair must be set.

    SIGTERM and Ctrl-C end it once requests in flight are answered; a second one at once.
    """

    async def work() -> None:
        from registry.serving import serve_local, serve_settings  # noqa: PLC0415 - heavy imports
        from registry.workers.supervisor import StartFailedError  # noqa: PLC0415

        try:
            await (serve_local(workers) if local else serve_settings(workers))
        except StartFailedError:
            # The worker has said why.
            raise typer.Exit(1) from None

    _run(work)


@app.command(hidden=True)
def worker(orders: str) -> None:
    """Serve as one of several processes; `serve --workers` starts these."""

    async def work() -> None:
        from registry.serving import serve_worker  # noqa: PLC0415 - heavy imports

        await serve_worker(orders)

    _run(work)


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
        from registry.wiring import build_issuer, build_keys  # noqa: PLC0415 - heavy imports

        if len(user_id) != len(OPERATOR.user_id) or not _is_hex(user_id):
            _fail("--user-id must be 24 hexadecimal characters")
        custom = frozenset(custom_scope or ())
        for name in sorted(custom):
            if re.fullmatch(SCOPE_NAME, name) is None or name in set(Scope):
                _fail(f"--custom-scope {name!r} is no scope of your own (RFC 6749, 3.3)")
        settings = _settings()
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


@app.command()
def migrate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring a database that earlier releases wrote up to date.

    `registry serve` does most of it by itself at start; this looks at everything. May run beside
    everything else, and again after it was interrupted. What cannot be brought up to date is left
    as it is and named; it ends with 1 then.
    """

    async def work() -> None:
        from registry.wiring import migration  # noqa: PLC0415 - heavy imports

        report = None
        async with migration(_settings(), changes=not dry_run) as migrating:
            plan = await migrating.plan(every=True)
            if not dry_run:
                with _progress(plan.total, "Writing") as advanced:
                    report = await migrating.run(plan, OPERATOR, advanced=advanced)
        if as_json:
            typer.echo(json.dumps(_migration_facts(plan, report), indent=2))
        else:
            _tell_migration(plan, report)
        if plan.left if report is None else report.left:
            raise typer.Exit(1)

    _run(work)


def _migration_facts(plan: "Plan", report: "Report | None") -> dict[str, Any]:
    done = {} if report is None else {step.step: step for step in report.steps}
    return {
        "dry_run": report is None,
        "steps": [
            {
                "step": step.step,
                "found": len(step.wanted),
                "done": done[step.step].done if step.step in done else 0,
                **_counted(step, done.get(step.step)),
                "left": [
                    {"document": item.place, "name": item.name, "reason": item.reason}
                    for item in (done[step.step].left if step.step in done else step.left)
                ],
                "examples": list(step.examples),
            }
            for step in plan.steps
        ],
    }


def _counted(planned: "StepPlan", made: "StepReport | None") -> dict[str, Any]:
    """Return how many servers and tools a step has to do with, and how many it did."""
    return {
        "servers": {
            "found": len(planned.count.servers),
            "done": 0 if made is None else len(made.count.servers),
        },
        "tools": {
            "found": planned.count.tools,
            "done": 0 if made is None else made.count.tools,
        },
    }


def _tell_migration(plan: "Plan", report: "Report | None") -> None:
    facts = _migration_facts(plan, report)
    heads = f"{'Servers':>7}  {'Done':>7}  {'Tools':>7}  {'Done':>7}  {'Left':>5}"
    typer.echo(f"{'Step':<16}  {heads}  For example")
    for step in facts["steps"]:
        named = ", ".join(step["examples"])
        cells = [step[kind][what] for kind in ("servers", "tools") for what in ("found", "done")]
        counts = "  ".join(f"{count:>7}" for count in cells)
        line = f"{step['step'].replace('_', ' '):<16}  {counts}  {len(step['left']):>5}"
        typer.echo(f"{line}  {named}".rstrip())
    for step in facts["steps"]:
        for item in step["left"]:
            typer.echo(f"{item['document']} {item['name']}: left as it is: {item['reason']}")
    if report is not None:
        told, count = f"{report.done} documents brought up to date", report.count
    else:
        told, count = f"{plan.total} documents would be brought up to date", plan.count
    told = f"{told} ({len(count.servers)} servers, {count.tools} tools)"
    left = plan.left if report is None else report.left
    typer.echo(f"{told}, {len(left)} left as they are", err=True)


@creds.command("check")
def creds_check() -> None:
    """Say under which keys the stored credentials are.

    Ends with 1 when one needs another key than CREDS_KEY, or cannot be read.
    """

    async def work() -> None:
        from registry.rotation import survey  # noqa: PLC0415 - heavy imports

        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
        _tell_survey(found)
        if not found.is_clean:
            raise typer.Exit(1)

    _run(work)


@creds.command("rotate")
def creds_rotate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be rewritten; change nothing.")
    ] = False,
) -> None:
    """Encrypt what is under a key of CREDS_KEYS_READABLE anew, under CREDS_KEY.

    May run beside everything else, and again after it was interrupted. What no key opens is left
    as it is and named; it ends with 1 then.
    """

    async def work() -> None:
        from registry.rotation import rotate, survey  # noqa: PLC0415 - heavy imports
        from registry.wiring import recorded_rotation  # noqa: PLC0415 - heavy imports

        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
            if dry_run:
                for collection, count in found.older.items():
                    typer.echo(f"{collection}: {count} would be rewritten")
                _tell_survey(found)
                if found.unreadable or found.ambiguous:
                    raise typer.Exit(1)
                return
            async with recorded_rotation(database, cipher, OPERATOR, found.key_id, found.older):
                with _progress(found.total, "Looking at") as advanced:
                    done = await rotate(database, cipher, seen=lambda: advanced(1))
        for collection, count in done.rewritten.items():
            typer.echo(f"{collection}: {count} rewritten")
        for refused in done.refused:
            typer.echo(f"{refused.ref}: left as it is: {refused.reason}")
        _tell_survey(done.after)
        if _new_key_waits():
            typer.echo(
                "A new key waits for a restart of the registry; run this again then.", err=True
            )
        if not done.is_complete:
            raise typer.Exit(1)

    _run(work)


@creds.command("new-key")
def creds_new_key() -> None:
    """Make a new CREDS_KEY for the local registry in REGISTRY_HOME.

    The next start takes it up and goes on reading with the former one.
    """

    async def work() -> None:
        home = _local_home()
        home.add_next_key()
        typer.echo(
            "A new key waits. Restart the registry to take it up, "
            "then run `registry creds rotate` and `registry creds forget-old`."
        )

    _run(work)


@creds.command("forget-old")
def creds_forget_old() -> None:
    """Drop the former keys of the local registry in REGISTRY_HOME, once nothing needs them."""

    async def work() -> None:
        from registry.rotation import survey  # noqa: PLC0415 - heavy imports

        home = _local_home()
        former = home.read_keys().creds_keys_readable
        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
        if found.needs_older_key:
            _tell_survey(found)
            _fail("the former keys are still needed; run `registry creds rotate` first")
        home.forget_readable_keys(former)
        typer.echo(f"Former keys dropped: {len(former)}.")

    _run(work)


def _tell_survey(found: "Survey") -> None:
    for collection, keys in found.by_key.items():
        for key_id, count in keys.items():
            which = "the current key" if key_id == found.key_id else "an older key"
            typer.echo(f"{collection}: {count} under {which} ({key_id})")
    for value in found.ambiguous:
        typer.echo(f"{value.ref}: left as it is: {value.reason}")
    for value in found.unreadable:
        typer.echo(f"{value.ref}: unreadable: {value.reason}")
    counts = {
        "unreadable": len(found.unreadable),
        "ambiguous": len(found.ambiguous),
        "under an older key": found.older.total(),
    }
    bad = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    typer.echo(f"{found.total} stored; " + (bad or "all under the current key"), err=True)
    if found.unreadable:
        typer.echo("Is the key they were written with in CREDS_KEYS_READABLE?", err=True)


@contextmanager
def _progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with typer.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


@asynccontextmanager
async def _stored() -> "AsyncIterator[tuple[Database, Cipher]]":
    from registry.core.metrics import Metrics  # noqa: PLC0415 - heavy imports
    from registry.wiring import build_cipher, build_database  # noqa: PLC0415

    settings = _settings()
    database = build_database(settings, Metrics())
    try:
        yield database, build_cipher(settings)
    finally:
        await database.close()


def _new_key_waits() -> bool:
    settings = _settings()
    if not settings.registry_local:
        return False
    from registry.local.home import LocalHome  # noqa: PLC0415 - heavy imports

    return LocalHome(settings.registry_home).has_next_key()


def _local_home() -> "LocalHome":
    from registry.local.home import LocalHome  # noqa: PLC0415 - heavy imports
    from registry.serving import Location  # noqa: PLC0415

    location = Location()
    if location.mongo_uri is not None:
        _fail("MONGO_URI is set: change CREDS_KEY and CREDS_KEYS_READABLE where they are set")
    return LocalHome(location.registry_home)


@audit.callback()
def audit_group() -> None:
    """Read the audit trail."""


@tools.command("verify")
def tools_verify() -> None:
    """Look for tools in states that must not be; exit code 1 when there are any.

    Checks each tool's states, definition and hash, what clients get of it, and what the other
    application reads of its server. Run it while nothing is being changed: a change that comes
    between two readings looks like a difference.
    """

    async def work() -> None:
        from registry.wiring import tool_verifier  # noqa: PLC0415 - heavy imports

        count = 0
        async with tool_verifier(_settings()) as verifier:
            async for problem in verifier.problems():
                count += 1
                typer.echo(f"{problem.subject} {problem.told}")
        typer.echo(f"{verifier.tools} tools, {verifier.servers} servers, problems: {count}")
        if count:
            raise typer.Exit(1)

    _run(work)


@sync.command("run")
def sync_run(
    names: Annotated[list[str] | None, typer.Argument(help="Names of servers.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Read all servers.")] = False,
    at_once: Annotated[
        int, typer.Option(min=1, max=256, help="Most servers read side by side.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read servers anew and store what changed; exit code 1 when one cannot be read.

    What was changed or is new waits for review where the server's settings say so. A server that
    cannot be read keeps its tools, and is tried again later by `registry serve`. Interrupted, it
    tells what came of the servers that it had read.
    """
    if everything == bool(names):
        _fail("say which servers, or --all")

    async def work() -> None:
        from registry.sync.report import RoundReport  # noqa: PLC0415 - heavy imports
        from registry.sync.rounds import unknown_server  # noqa: PLC0415 - heavy imports
        from registry.wiring import sync_round  # noqa: PLC0415 - heavy imports

        report = RoundReport()
        try:
            async with sync_round(_settings(), at_once) as reading:
                if everything:
                    ids, unknown = await reading.all_ids(), list[str]()
                else:
                    ids, unknown = await reading.ids_of(names or [])
                report.asked = len(ids) + len(unknown)
                for name in unknown:
                    report.add(unknown_server(name))
                with _showing(report, len(ids)) as step:

                    def told(result: "RoundResult") -> None:
                        report.add(result)
                        step()

                    await reading.run(ids, told)
        finally:
            if report.asked:
                for line in report.lines(as_json=as_json):
                    typer.echo(line)
        if report.failed:
            raise typer.Exit(1)

    # What comes of each server is in the table, its failures too.
    _run(work, level="error")


@contextmanager
def _showing(report: "RoundReport", servers: int) -> "Iterator[Callable[[], None]]":
    """Show how far a reading is: as a bar, or in a line now and then where none can be drawn."""
    from registry.sync.report import Milestones  # noqa: PLC0415 - heavy imports

    if sys.stderr.isatty():
        with typer.progressbar(length=servers, label="Reading servers", file=sys.stderr) as bar:
            yield lambda: bar.update(1)
        return
    milestones = Milestones(report, SystemClock())

    def step() -> None:
        line = milestones.line()
        if line is not None:
            sys.stderr.write(f"{line}\n")

    yield step


@audit.command("verify")
def audit_verify(
    expect: Annotated[
        str | None,
        typer.Option(help="SEQ:HASH of a seal noted earlier, which must still be there."),
    ] = None,
) -> None:
    """Look for records that were removed, altered or slipped in; exit code 1 when there are any.

    Each seal's number and hash are logged as `audit_sealed`. Without one of them, noted outside of
    the database, nothing shows that the newest records and their seals were not cut off together.
    """

    async def work() -> None:
        from registry.wiring import audit_verifier  # noqa: PLC0415 - heavy imports

        expected = None if expect is None else _anchor(expect)
        async with audit_verifier(_settings()) as verifier:
            report = await verifier.verify(expected)
        for problem in report.problems:
            typer.echo(f"{problem.finding.value}: {problem.subject}")
        more = report.problem_count - len(report.problems)
        if more:
            typer.echo(f"and {more} more")
        head = "none" if report.head is None else f"{report.head[0]}:{report.head[1]}"
        typer.echo(
            f"{report.records} records, {report.seals} seals, {report.waiting} not sealed yet, "
            f"problems: {report.problem_count}, head: {head}"
        )
        if not report.is_good:
            raise typer.Exit(1)

    _run(work)


def _anchor(text: str) -> tuple[int, str]:
    number, _, hashed = text.partition(":")
    if not number.isdigit() or len(hashed) != HASH_CHARACTERS or not _is_hex(hashed):
        _fail("--expect must be SEQ:HASH, as `registry audit verify` prints it")
    return int(number), hashed.lower()


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


def _run(work: Callable[[], Coroutine[Any, Any, None]], *, level: str = "warning") -> None:
    configure_logging(level, "console")

    async def until_told() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def told() -> None:
            # The second one ends the process at once.
            loop.remove_signal_handler(signal.SIGTERM)
            if task is not None:
                task.cancel()

        # What is under way is given back and told about, as on Ctrl-C. Not in threads of tests.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGTERM, told)
        await work()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_told())
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None
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
