"""Commands `export` and `apply`: the registry's configuration as a declarative file."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import ALL_TENANTS, OPERATOR
from registry.cli.names import acting_for, owner_of, server_of
from registry.cli.output import AsJson, read_pages, show_json, text
from registry.cli.references import referenced
from registry.cli.running import FAILED, fail, run, services
from registry.core.json import members

if TYPE_CHECKING:
    from registry.cli.declared import Names
    from registry.servers.files.declared import Declared
    from registry.servers.service import ServerService
    from registry.servers.values import ServerRecord
    from registry.wiring.commands import CommandServices

FILE_VERSION = 2
MEMBERS = {
    1: {"version", "servers"},
    2: {"version", "groups", "servers", "apis", "policies"},
}
"""What files hold, by their version; the first holds nothing of servers beside themselves."""


def export(
    names: Annotated[
        list[str] | None, typer.Argument(help="Ids, names or paths of servers; all without any.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead.")
    ] = None,
) -> None:
    """Print the set-up as a file that `registry apply` takes.

    That is servers and REST APIs with who has access to them and what was decided about their
    tools, groups where this program keeps them, and policies; of named servers, their policies
    alone. It holds no secrets: each stands there as ${env:NAME}, after which the one who applies
    the file names a variable. People are named, and not in it.
    """

    async def work() -> None:
        from registry.cli.declared import (  # noqa: PLC0415 - heavy imports
            Names,
            exported_groups,
            exported_policies,
            exported_sharing,
            exported_tools,
        )
        from registry.servers.files.declared import exported  # noqa: PLC0415
        from registry.servers.values import ServerFilter  # noqa: PLC0415

        async with services(lists="servers") as built:
            if names:
                found = [await server_of(built, name) for name in names]
            else:
                found = []
                for owners_of_tools in (built.servers, built.apis.servers):
                    some, _ = await read_pages(
                        partial(owners_of_tools.list_page, OPERATOR, ServerFilter()), 0
                    )
                    found += some
            known = await built.directory.known(
                {("user", one.author) for one in found}, ALL_TENANTS
            )
            owners = {key[1]: person.email or person.username for key, person in known.items()}
            known_names = Names(built)
            entries: list[dict[str, Any]] = []
            apis: list[dict[str, Any]] = []
            for one in found:
                document = await _document_of(built, one)
                entry: dict[str, Any] = exported(one, owners.get(one.author), document)
                sharing = await exported_sharing(built, known_names, one.id)
                if sharing is None:
                    warning = f"{one.server_name}: sharing is left out: it has rights of no role"
                    typer.echo(f"registry: warning: {text(warning)}", err=True)
                else:
                    entry["sharing"] = sharing
                if tools := await exported_tools(built, one.id):
                    entry["tools"] = tools
                (apis if one.is_api else entries).append(entry)
            about = {one.id for one in found} if names else None
            policies = await exported_policies(built, known_names, about)
            groups = [] if names else await exported_groups(built, known_names)
        entries.sort(key=lambda entry: str(entry["serverName"]))
        apis.sort(key=lambda entry: str(entry["name"]))
        content = {
            "version": FILE_VERSION,
            "groups": groups,
            "servers": entries,
            # Earlier releases take no file that has the member.
            **({"apis": apis} if apis else {}),
            "policies": policies,
        }
        written = json.dumps(content, indent=2, ensure_ascii=output is None)
        if output is None:
            typer.echo(written)
            return
        try:
            output.write_text(f"{written}\n", encoding="utf-8")
        except OSError as exc:
            fail(f"{output} cannot be written ({exc.strerror})")
        more = f" and {len(apis)} APIs" if apis else ""
        typer.echo(f"{len(entries)} servers{more} written to {output}", err=True)

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
    """Make and change what a file says; doing so twice changes nothing.

    What the file does not name stays, servers too; a list that it names is replaced. A bad entry
    costs only itself; exit code 1 when there is one. A secret that is not at hand stays as it is
    stored.
    """
    resolve = referenced(values)

    async def work() -> None:
        from registry.cli.declared import (  # noqa: PLC0415 - heavy imports
            Names,
            apply_group,
            apply_policy,
        )

        reports: list[dict[str, Any]] = []
        content = _content(file)

        def note(number: int, report: dict[str, Any]) -> None:
            reports.append({"entry": number, **report})
            if not as_json:
                _print_report(reports[-1], dry_run=dry_run)

        async with services(changes=not dry_run) as built:
            known = Names(built)
            # Groups before what names them, servers before policies about them.
            for number, entry in enumerate(content["groups"]):
                done = partial(apply_group, built, known, entry, dry_run=dry_run)
                note(number, await _attempted("group", entry, done))
            seen: set[str] = set()
            for number, entry in enumerate(content["servers"]):
                has_parts = content["version"] > 1
                server = _ServerEntry(entry, has_parts=has_parts, owner=owner, seen=seen)
                note(number, await _applied(built, known, server, resolve, dry_run=dry_run))
            for number, entry in enumerate(content["apis"]):
                server = _ServerEntry(entry, has_parts=True, owner=owner, seen=seen, is_api=True)
                note(number, await _applied(built, known, server, resolve, dry_run=dry_run))
            for number, entry in enumerate(content["policies"]):
                done = partial(apply_policy, built, known, entry, dry_run=dry_run)
                note(number, await _attempted("policy", entry, done))
        if as_json:
            show_json(reports)
        if any(report["outcome"] == "failed" for report in reports):
            raise typer.Exit(FAILED)

    run(work)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        fail(f"{file} cannot be read ({exc.strerror})")
    except (ValueError, RecursionError):
        fail(f"{file} is not JSON")
    if not isinstance(content, dict) or not isinstance(content.get("servers"), list):
        fail(f"{file} holds no list of servers; `registry servers import` reads other forms")
    version = content.get("version")
    known = MEMBERS.get(version) if isinstance(version, int) else None
    if known is None or content.keys() - known:
        fail(
            f"{file} must hold version 1 and servers, or version {FILE_VERSION}, servers, apis, "
            "groups and policies, and nothing else"
        )
    content = {"groups": [], "apis": [], "policies": [], **content}
    for name in ("groups", "apis", "policies"):
        if not isinstance(content[name], list):
            fail(f"{file}: {name} is no list")
    return content


@dataclass(frozen=True, slots=True)
class _ServerEntry:
    """One server or REST API in a file.

    Attributes:
        has_parts: Whether it may say who has access, and what is decided about tools.
        owner: Whose it is where it does not say.
        seen: Names in the file before it.
    """

    entry: Any
    has_parts: bool
    owner: str | None
    seen: set[str]
    is_api: bool = False

    @property
    def kind(self) -> str:
        """Return what reports call it."""
        return "api" if self.is_api else "serverName"


async def _document_of(built: "CommandServices", server: "ServerRecord") -> str | None:
    """Return the description that an API was given; None if there is none, or it has a URL."""
    if not server.is_api or "description_url" in members(server.config.get("openapi")):
        return None
    stored = await built.storage.repositories.servers.description(server.id)
    return None if stored is None else stored.decode(errors="replace")


def _service_of(built: "CommandServices", *, is_api: bool) -> "ServerService":
    return built.apis.servers if is_api else built.servers


async def _attempted(
    kind: str, entry: Any, done: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the report of an entry, which says why where it failed."""
    from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

    from registry.core.errors import RegistryError, problems_of  # noqa: PLC0415

    name = str(entry.get("name") or "") if isinstance(entry, dict) else ""
    report: dict[str, Any] = {kind: name, "changes": []}
    try:
        return {**report, **await done()}
    except ValidationError as exc:
        return {**report, "outcome": "failed", "message": "; ".join(problems_of(exc))}
    except RegistryError as exc:
        return {**report, "outcome": "failed", "message": exc.message}
    except ValueError as exc:
        return {**report, "outcome": "failed", "message": str(exc)}


async def _applied(
    built: "CommandServices",
    known: "Names",
    server: _ServerEntry,
    resolve: Callable[[str, str], str | None],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    entry, seen = server.entry, server.seen
    member = "name" if server.is_api else "serverName"
    named = str(entry.get(member) or "") if isinstance(entry, dict) else ""
    owners = _service_of(built, is_api=server.is_api)

    async def done() -> dict[str, Any]:
        from registry.cli.declared import PARTS  # noqa: PLC0415 - heavy imports
        from registry.servers.files.declared import declared  # noqa: PLC0415

        if not isinstance(entry, dict):
            raise ValueError("is no JSON object")  # noqa: TRY004 - reported like the others
        parts = {name: entry[name] for name in PARTS if name in entry and server.has_parts}
        own = {name: value for name, value in entry.items() if name not in parts}
        wanted = declared(own, resolve, is_api=server.is_api)
        if named in seen:
            raise ValueError("is in the file twice")
        seen.add(named)
        stored = await owners.find_by_name(named, OPERATOR)
        if stored is None:
            report = await _registered(built, wanted, server.owner, dry_run=dry_run)
        else:
            report = await _changed(built, wanted, stored, dry_run=dry_run)
        if dry_run and stored is None:
            report["changes"] = [f"{name}: as the file says" for name in parts]
            return report
        stored = await owners.find_by_name(named, OPERATOR)
        return await _with_parts(built, known, stored, parts, report, dry_run=dry_run)

    report = await _attempted(server.kind, entry, done)
    return {**report, server.kind: named}


async def _with_parts(
    built: "CommandServices",
    known: "Names",
    stored: "ServerRecord | None",
    parts: dict[str, Any],
    report: dict[str, Any],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Bring sharing and tools of a server to what the file says; what fails costs itself."""
    from registry.cli.declared import apply_sharing, apply_tools  # noqa: PLC0415 - heavy imports

    if stored is None or not parts:
        return report
    part_changes: list[str] = []
    problems: list[str] = []

    async def share() -> dict[str, Any]:
        found = await apply_sharing(built, known, stored.id, parts["sharing"], dry_run=dry_run)
        part_changes.extend(found)
        return {"outcome": "unchanged"}

    async def decide() -> dict[str, Any]:
        found = await apply_tools(built, stored.id, parts["tools"], dry_run=dry_run)
        part_changes.extend(found[0])
        problems.extend(found[1])
        return {"outcome": "unchanged"}

    for part, done in (("sharing", share), ("tools", decide)):
        if part in parts:
            attempt = await _attempted(part, None, done)
            if attempt["outcome"] == "failed":
                problems.append(f"{part}: {attempt['message'].removeprefix(f'{part}: ')}")
    changes = [*report.get("changes", []), *part_changes]
    outcome, message = report["outcome"], report["message"]
    if part_changes and outcome == "unchanged":
        outcome = "updated"
    if problems:
        outcome, message = "failed", "; ".join(filter(None, [*problems, message]))
    return {"outcome": outcome, "message": message, "changes": changes}


async def _registered(
    built: "CommandServices", wanted: "Declared", owner: str | None, *, dry_run: bool
) -> dict[str, Any]:
    from registry.servers.apis.schemas import ApiCreate  # noqa: PLC0415 - heavy imports
    from registry.servers.files.declared import require_values  # noqa: PLC0415
    from registry.servers.values import ServerStatus  # noqa: PLC0415

    require_values(wanted.missing)
    user = acting_for(await _owner(built, wanted.owner or owner))
    if not dry_run:
        if isinstance(wanted.body, ApiCreate):
            server = await built.apis.register(wanted.body, user, strict=False)
        else:
            server = await built.servers.register(wanted.body, user, strict=False)
        if wanted.status is ServerStatus.INACTIVE:
            owners = _service_of(built, is_api=server.is_api)
            server = await owners.toggle(server.id, OPERATOR, enabled=False)
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
    from registry.servers.apis.schemas import ApiUpdate  # noqa: PLC0415 - heavy imports
    from registry.servers.files.declared import difference  # noqa: PLC0415
    from registry.servers.schemas import ServerUpdate  # noqa: PLC0415
    from registry.servers.values import Precondition  # noqa: PLC0415

    document = await _document_of(built, stored)
    found = difference(wanted, stored, built.secret_of(stored.id), document)
    if not found.lines:
        return {"outcome": "unchanged", "message": ""}
    kind = ApiUpdate if stored.is_api else ServerUpdate
    request = kind.model_validate(found.update)
    message = ""
    if not dry_run:
        seen = Precondition(updated_at=stored.updated_at)
        if isinstance(request, ApiUpdate):
            server = await built.apis.update(stored.id, request, OPERATOR, precondition=seen)
        else:
            server = await built.servers.update(stored.id, request, OPERATOR, precondition=seen)
        message = server.error_message or ""
    return {"outcome": "updated", "message": message, "changes": list(found.lines)}


def _print_report(report: dict[str, Any], *, dry_run: bool) -> None:
    outcome = report["outcome"]
    if dry_run and outcome in {"created", "updated"}:
        outcome = f"would be {outcome}"
    kind = next(kind for kind in ("serverName", "api", "group", "policy") if kind in report)
    name = report[kind] or f"entry {report['entry']}"
    if kind != "serverName":
        name = f"{kind} {name}"
    typer.echo(text(f"{name}: {outcome} {report['message']}"))
    for change in report["changes"]:
        typer.echo(f"  {text(change)}")
