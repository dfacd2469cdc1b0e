"""Commands that write the registered servers to a file and bring them to what a file says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import ALL_TENANTS, OPERATOR
from registry.cli.given import referenced
from registry.cli.names import acting_for, owner_of, server_of
from registry.cli.output import AsJson, read_pages, show_json, text
from registry.cli.running import FAILED, fail, run, services

if TYPE_CHECKING:
    from registry.servers.declared import Declared
    from registry.servers.values import ServerRecord
    from registry.wiring.commands import CommandServices

FILE_VERSION = 1


def export(
    names: Annotated[
        list[str] | None, typer.Argument(help="Ids, names or paths of servers; all without any.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead.")
    ] = None,
) -> None:
    """Print the registered servers as a file that `registry apply` takes.

    It holds no secrets: each stands there as ${env:NAME}, after which the one who applies the
    file names a variable. Tools, policies, users and groups are not in it.
    """

    async def work() -> None:
        from registry.servers.declared import exported  # noqa: PLC0415 - heavy imports
        from registry.servers.values import ServerFilter  # noqa: PLC0415

        async with services(lists="servers") as built:
            if names:
                found = [await server_of(built, name) for name in names]
            else:
                found, _ = await read_pages(
                    lambda page: built.servers.list_page(OPERATOR, ServerFilter(), page), 0
                )
            known = await built.directory.known(
                {("user", one.author) for one in found}, ALL_TENANTS
            )
            owners = {key[1]: person.email or person.username for key, person in known.items()}
            entries = [exported(one, owners.get(one.author)) for one in found]
        entries.sort(key=lambda entry: str(entry["serverName"]))
        content = {"version": FILE_VERSION, "servers": entries}
        written = json.dumps(content, indent=2, ensure_ascii=output is None)
        if output is None:
            typer.echo(written)
            return
        try:
            output.write_text(f"{written}\n", encoding="utf-8")
        except OSError as exc:
            fail(f"{output} cannot be written ({exc.strerror})")
        typer.echo(f"{len(entries)} servers written to {output}", err=True)

    run(work)


def apply(
    file: Annotated[Path, typer.Argument(help="JSON, as `registry export` writes it.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    owner: Annotated[
        str | None,
        typer.Option(help="Whose new servers are that name no owner; default: as servers add."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE for ${env:NAME}, as for servers add --key."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register and change servers until they are as a file says; doing so twice changes nothing.

    What the file does not name stays, servers too. A bad entry costs only itself; exit code 1
    when there is one. A secret that is not at hand stays as it is stored.
    """
    resolve = referenced(values)

    async def work() -> None:
        reports: list[dict[str, Any]] = []
        entries = _entries(file)
        async with services(changes=not dry_run) as built:
            seen: set[str] = set()
            for number, entry in enumerate(entries):
                report = await _applied(built, entry, resolve, owner, seen, dry_run=dry_run)
                reports.append({"entry": number, **report})
                if not as_json:
                    _tell(reports[-1], dry_run=dry_run)
        if as_json:
            show_json(reports)
        if any(report["outcome"] == "failed" for report in reports):
            raise typer.Exit(FAILED)

    run(work)


def _entries(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        fail(f"{file} cannot be read ({exc.strerror})")
    except (ValueError, RecursionError):
        fail(f"{file} is not JSON")
    if not isinstance(content, dict) or not isinstance(content.get("servers"), list):
        fail(f"{file} holds no list of servers; `registry servers import` reads other forms")
    if content.get("version") != FILE_VERSION or content.keys() - {"version", "servers"}:
        fail(f"{file} must hold version {FILE_VERSION} and servers, and nothing else")
    return list(content["servers"])


async def _applied(
    built: "CommandServices",
    entry: Any,
    resolve: Callable[[str, str], str | None],
    owner: str | None,
    seen: set[str],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

    from registry.core.errors import RegistryError, problems_of  # noqa: PLC0415
    from registry.servers.declared import declared  # noqa: PLC0415

    name = str(entry.get("serverName") or "") if isinstance(entry, dict) else ""
    report: dict[str, Any] = {"serverName": name, "changes": []}
    try:
        if not isinstance(entry, dict):
            raise ValueError("is no JSON object")  # noqa: TRY004, TRY301 - told like the others
        wanted = declared(entry, resolve)
        if name in seen:
            raise ValueError("is in the file twice")  # noqa: TRY301 - told like the others
        seen.add(name)
        stored = await built.servers.find_by_name(name, OPERATOR)
        if stored is None:
            return {**report, **await _registered(built, wanted, owner, dry_run=dry_run)}
        return {**report, **await _changed(built, wanted, stored, dry_run=dry_run)}
    except ValidationError as exc:
        return {**report, "outcome": "failed", "message": "; ".join(problems_of(exc))}
    except RegistryError as exc:
        return {**report, "outcome": "failed", "message": exc.message}
    except ValueError as exc:
        return {**report, "outcome": "failed", "message": str(exc)}


async def _registered(
    built: "CommandServices", wanted: "Declared", owner: str | None, *, dry_run: bool
) -> dict[str, Any]:
    from registry.servers.declared import require_values  # noqa: PLC0415 - heavy imports
    from registry.servers.values import ServerStatus  # noqa: PLC0415

    require_values(wanted.missing)
    user = acting_for(await _owner(built, wanted.owner or owner))
    if not dry_run:
        server = await built.servers.register(wanted.body, user, strict=False)
        if wanted.status is ServerStatus.INACTIVE:
            server = await built.servers.toggle(server.id, OPERATOR, enabled=False)
        return {"outcome": "created", "message": server.error_message or ""}
    return {"outcome": "created", "message": ""}


async def _owner(built: "CommandServices", reference: str | None) -> str:
    # Not `owner_of` alone, which would end the command for one entry.
    if reference is not None and not await built.directory.find_users(reference):
        raise ValueError(f"owner: there is no user {reference!r}")
    return await owner_of(built, reference)


async def _changed(
    built: "CommandServices", wanted: "Declared", stored: "ServerRecord", *, dry_run: bool
) -> dict[str, Any]:
    from registry.servers.declared import difference  # noqa: PLC0415 - heavy imports
    from registry.servers.schemas import ServerUpdate  # noqa: PLC0415
    from registry.servers.values import Precondition  # noqa: PLC0415

    found = difference(wanted, stored, built.secret_of(stored.id))
    if not found.told:
        return {"outcome": "unchanged", "message": ""}
    request = ServerUpdate.model_validate(found.update)
    message = ""
    if not dry_run:
        seen = Precondition(updated_at=stored.updated_at)
        server = await built.servers.update(stored.id, request, OPERATOR, precondition=seen)
        message = server.error_message or ""
    return {"outcome": "updated", "message": message, "changes": list(found.told)}


def _tell(report: dict[str, Any], *, dry_run: bool) -> None:
    outcome = report["outcome"]
    if dry_run and outcome in {"created", "updated"}:
        outcome = f"would be {outcome}"
    name = report["serverName"] or f"entry {report['entry']}"
    typer.echo(text(f"{name}: {outcome} {report['message']}"))
    for change in report["changes"]:
        typer.echo(f"  {text(change)}")
