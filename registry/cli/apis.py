"""Commands about registered REST APIs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import acting_for, owner_of, server_of
from registry.cli.output import (
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    Yes,
    read_pages,
    require_agreed,
    show_fields,
    show_json,
    show_removed,
    show_rows,
    text,
    validated,
)
from registry.cli.references import pairs
from registry.cli.running import NOT_FOUND, fail, run, services
from registry.cli.servers import Owner, api_key_input, print_changes

if TYPE_CHECKING:
    from registry.servers.values import ServerRecord
    from registry.wiring.commands import CommandServices

apis = typer.Typer(help="Registered REST APIs.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Tools", "numTools"),
    Column("Scope", "scope"),
    Column("Path", "path"),
    Column("Base URL", "baseUrl", wraps=True),
    Column("Id", "id"),
]
TOOL_COLUMNS = [
    Column("Tool", "name"),
    Column("Operation", "operation"),
    Column("Description", "description", wraps=True),
]

Api = Annotated[str, typer.Argument(metavar="API", help="Id, name or gateway path.")]
Source = Annotated[str, typer.Argument(help="URL or file of the OpenAPI or Swagger description.")]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="Where calls go; default: the server that the description names."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        help="Only these operations: tag:NAME, path:/pets*, method:get or id:NAME; repeat for "
        "several."
    ),
]
Exclude = Annotated[list[str] | None, typer.Option(help="Not these, said the same way.")]
Key = Annotated[
    str | None, typer.Option(help="API key: env:NAME, file:PATH, - to type or pipe it.")
]
KeyType = Annotated[
    str | None,
    typer.Option(help="bearer, basic or custom; default: as the description says, or bearer."),
]
KeyName = Annotated[
    str | None,
    typer.Option(help="Header, query parameter or cookie that carries a custom key."),
]
KeyIn = Annotated[str | None, typer.Option(help="header, query or cookie.")]
OnChange = Annotated[
    str | None,
    typer.Option(
        help="What becomes of a changed tool: accept, hold or block; default: hold if the API is "
        "shared, accept if it is private."
    ),
]
AutoExpose = Annotated[
    str | None,
    typer.Option(help="Which new tools are served: all, which is the default, read_only or none."),
]
Timeout = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Milliseconds that a call may be silent; default: GATEWAY_IDLE_TIMEOUT_SECONDS.",
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE, the value as for --key; repeat for several."),
]


@apis.command("list")
def apis_list(
    *,
    query: Annotated[str | None, typer.Option(help="Text to look for.")] = None,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List registered REST APIs, last changed first."""

    async def work() -> None:
        from registry.servers.presenter import present_api  # noqa: PLC0415 - heavy imports
        from registry.servers.values import ServerFilter  # noqa: PLC0415

        narrowed = ServerFilter(query)
        async with services(lists="servers") as built:
            found, total = await read_pages(
                lambda page: built.apis.servers.list_page(OPERATOR, narrowed, page), limit
            )
        show_rows([present_api(one) for one in found], COLUMNS, as_json=as_json, total=total)

    run(work)


@apis.command("add")
def apis_add(  # noqa: PLR0913 - options
    name: Annotated[str, typer.Argument(help="Unique name.")],
    source: Source,
    *,
    base_url: BaseUrl = None,
    title: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="shared_app, shared_user or private_user, which is the default."),
    ] = None,
    path: Annotated[str | None, typer.Option(help="Gateway path; default /mcp/NAME.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    key: Key = None,
    key_type: KeyType = None,
    key_name: KeyName = None,
    key_in: KeyIn = None,
    header: Header = None,
    on_change: OnChange = None,
    auto_expose: AutoExpose = None,
    timeout: Timeout = None,
    owner: Owner = None,
    strict: Annotated[bool, typer.Option(help="Refuse an API that cannot be read.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a REST API, and make tools of its operations."""
    body = {
        "name": name,
        **_described(source, base_url, include, exclude),
        "title": title,
        "description": description,
        "tags": tag or None,
        "scope": scope,
        "path": path,
        **_handling(on_change, auto_expose, timeout),
        **_credentials(key, key_type, key_name, key_in, header),
    }

    async def work() -> None:
        from registry.servers.apis.schemas import ApiCreate  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_api_detail  # noqa: PLC0415

        request = validated(ApiCreate, body)
        async with services(changes=True) as built:
            user = acting_for(await owner_of(built, owner))
            api = await built.apis.register(request, user, strict=strict)
        if as_json:
            show_json(present_api_detail(api))
        else:
            _print_state(api)

    run(work)


@apis.command("try")
def apis_try(  # noqa: PLR0913 - options
    source: Source,
    *,
    base_url: BaseUrl = None,
    include: Include = None,
    exclude: Exclude = None,
    key: Key = None,
    key_type: KeyType = None,
    key_name: KeyName = None,
    key_in: KeyIn = None,
    header: Header = None,
    as_json: AsJson = False,
) -> None:
    """Show what would become of a description; nothing is stored."""
    body = {
        **_described(source, base_url, include, exclude),
        **_credentials(key, key_type, key_name, key_in, header),
    }

    async def work() -> None:
        from registry.core.json import load_text  # noqa: PLC0415 - heavy imports
        from registry.openapi.binding import without_binding  # noqa: PLC0415
        from registry.servers.apis.credentials import present_credentials  # noqa: PLC0415
        from registry.servers.apis.schemas import ApiPreview  # noqa: PLC0415

        request = validated(ApiPreview, body)
        async with services(changes=True) as built:
            previewed = await built.apis.preview(request)
        found = previewed.found
        tools = found.snapshot.tools
        if as_json:
            show_json([without_binding(load_text(tool.definition)) for tool in tools])
            return
        rows = [
            {
                "name": tool.name,
                "operation": tool.external_id,
                "description": (tool.title or tool.description or "").split("\n")[0],
            }
            for tool in tools
        ]
        show_rows(rows, TOOL_COLUMNS, as_json=False, total=len(rows))
        for problem in found.snapshot.rejected:
            typer.echo(text(f"{problem.name} {problem.reason}"), err=True)
        if found.api is not None:
            typer.echo(text(f"Calls go to {found.api.base_url}"))
        sent = present_credentials(previewed.config, tools)
        if sent["sentAs"]:
            typer.echo(text(f"Credentials are sent as {', '.join(sent['sentAs'])}"))
        if sent["notSentBy"]:
            typer.echo(text(f"No credentials are sent by {', '.join(sent['notSentBy'])}"))

    run(work)


@apis.command("show")
def apis_show(api: Api, *, as_json: AsJson = False) -> None:
    """Show everything about a REST API but its secrets."""

    async def work() -> None:
        from registry.servers.presenter import present_api_detail  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found = await _api_of(built, api)
            detail = present_api_detail(await built.apis.servers.read(found.id, OPERATOR))
        show_fields(detail, as_json=as_json)

    run(work)


@apis.command("update")
def apis_update(  # noqa: PLR0913 - options
    api: Api,
    *,
    source: Annotated[
        str | None, typer.Option(help="Another URL or file of the description.")
    ] = None,
    base_url: BaseUrl = None,
    title: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="shared_app, shared_user or private_user.")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    key: Key = None,
    key_type: KeyType = None,
    key_name: KeyName = None,
    key_in: KeyIn = None,
    header: Header = None,
    on_change: OnChange = None,
    auto_expose: AutoExpose = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Change a REST API; what is not given stays."""
    body = {
        **({} if source is None else _described(source, None, None, None)),
        "base_url": base_url,
        "operations": _operations(include, exclude),
        "title": title,
        "description": description,
        "tags": tag or None,
        "scope": scope,
        **_handling(on_change, auto_expose, timeout),
        **_credentials(key, key_type, key_name, key_in, header),
    }

    async def work() -> None:
        from registry.servers.apis.schemas import ApiUpdate  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_api_detail  # noqa: PLC0415

        request = validated(ApiUpdate, body)
        if not request.model_fields_set:
            fail("say what to change")
        async with services(changes=True) as built:
            found = await _api_of(built, api)
            changed = await built.apis.update(found.id, request, OPERATOR)
        if as_json:
            show_json(present_api_detail(changed))
        else:
            _print_state(changed)

    run(work)


@apis.command("remove")
def apis_remove(api: Api, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a REST API with its tools and the credentials stored for it."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = await _api_of(built, api)
            require_agreed(f"Remove {found.server_name} with all its tools?", yes=yes)
            await built.apis.servers.delete(found.id, OPERATOR)
        removed = {"id": found.id, "name": found.server_name}
        show_removed(removed, found.server_name, as_json=as_json)

    run(work)


@apis.command("toggle")
def apis_toggle(
    api: Api,
    *,
    enabled: Annotated[
        bool | None, typer.Option("--on/--off", help="Which; default: the other than it is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a REST API on or off."""

    async def work() -> None:
        from registry.servers.presenter import present_api_detail  # noqa: PLC0415 - heavy imports
        from registry.servers.values import ServerStatus  # noqa: PLC0415

        async with services(changes=True) as built:
            found = await _api_of(built, api)
            is_off = found.effective_status is ServerStatus.INACTIVE
            wanted = is_off if enabled is None else enabled
            changed = await built.apis.servers.toggle(found.id, OPERATOR, enabled=wanted)
        if as_json:
            show_json(present_api_detail(changed))
        else:
            _print_state(changed)

    run(work)


@apis.command("refresh")
def apis_refresh(
    api: Api,
    *,
    accept: Annotated[
        bool, typer.Option("--accept", help="Serve new and changed tools at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read a description again and take over what changed; exit code 1 when it cannot be read."""

    async def work() -> None:
        from registry.servers.presenter import (  # noqa: PLC0415 - heavy imports
            present_api_detail,
            present_changes,
        )

        async with services(changes=True) as built:
            found = await _api_of(built, api)
            refreshed = await built.apis.servers.refresh(found.id, OPERATOR, accept=accept)
        problem = refreshed.failure or refreshed.unread
        if as_json:
            detail = present_api_detail(refreshed.server)
            held = list(refreshed.held)
            changes = present_changes(refreshed.changes)
            show_json({**detail, "failure": problem, "heldTools": held, "changes": changes})
        elif problem is None:
            waiting = f"; {len(refreshed.held)} wait for review" if refreshed.held else ""
            _print_state(refreshed.server, waiting)
            print_changes(refreshed.changes)
        if problem is not None:
            fail(f"{found.server_name} cannot be read: {problem}")

    run(work)


async def _api_of(built: "CommandServices", reference: str) -> "ServerRecord":
    found = await server_of(built, reference)
    if not found.is_api:
        fail(
            f"{found.server_name} is an MCP server; see `registry servers --help`", code=NOT_FOUND
        )
    return found


def _described(
    source: str, base_url: str | None, include: list[str] | None, exclude: list[str] | None
) -> dict[str, Any]:
    described: dict[str, Any] = {"base_url": base_url, "operations": _operations(include, exclude)}
    if source.startswith(("http://", "https://")):
        return {**described, "url": source}
    if source.startswith("file:"):
        fail(f"{source} is a URL of a file; give the path of the file alone")
    path = Path(source)
    document = _read(path)
    return {**described, "document": document, **_others_of(path, document)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        fail(f"{path} cannot be read: {exc.strerror or exc}; give a URL, or the path of a file")
    except UnicodeDecodeError:
        fail(f"{path} cannot be read: it is not text in UTF-8")


def _others_of(path: Path, document: str) -> dict[str, Any]:
    """Return the files that a description refers to, in its folder and below it."""
    from registry.openapi.bundles import MAX_FILES, is_name  # noqa: PLC0415 - heavy imports
    from registry.openapi.documents import load  # noqa: PLC0415
    from registry.openapi.errors import DescriptionError  # noqa: PLC0415
    from registry.openapi.references import GIVEN, external_references  # noqa: PLC0415

    folder = path.resolve().parent
    files: dict[str, str] = {}
    wanted = [(document, GIVEN + path.name)]
    while wanted:
        text, url = wanted.pop()
        try:
            references = external_references(load(text.encode()), url)
        except DescriptionError:
            # Told where it is, when the request is looked at.
            continue
        for other in sorted(references):
            name = other.removeprefix(GIVEN)
            if not other.startswith(GIVEN) or not is_name(name) or name in {*files, path.name}:
                continue
            found = (folder / name).resolve()
            # What is not there, or elsewhere by a link, is reported as not given.
            if found.is_relative_to(folder) and found.is_file() and len(files) < MAX_FILES:
                files[name] = _read(found)
                wanted.append((files[name], other))
    return {"files": files, "documentName": path.name} if files else {}


def _operations(include: list[str] | None, exclude: list[str] | None) -> dict[str, Any] | None:
    if not include and not exclude:
        return None
    return {"include": _rules(include), "exclude": _rules(exclude)}


def _rules(given: list[str] | None) -> list[dict[str, str]]:
    rules = []
    for one in given or []:
        kind, separator, value = one.partition(":")
        if not separator or kind not in {"tag", "path", "method", "id"}:
            fail(f"{one!r} selects nothing; write tag:NAME, path:/pets*, method:get or id:NAME")
        rules.append({kind: value})
    return rules


def _handling(
    on_change: str | None, auto_expose: str | None, timeout: int | None
) -> dict[str, Any]:
    return {"onChange": on_change, "autoExpose": auto_expose, "timeout": timeout}


def _credentials(
    key: str | None,
    key_type: str | None,
    key_name: str | None,
    key_in: str | None,
    header: list[str] | None,
) -> dict[str, Any]:
    kind = "custom" if key_name is not None else key_type
    api_key: dict[str, Any] | None = api_key_input(key, kind, key_name, is_users=False)
    if api_key is not None and key_in is not None:
        api_key["location"] = key_in
    return {"apiKey": api_key, "headers": pairs(header, "--header") or None}


def _print_state(api: "ServerRecord", more: str = "") -> None:
    from registry.servers.presenter import present_api  # noqa: PLC0415 - heavy imports

    row = present_api(api)
    why = f": {api.error_message}" if api.error_message else ""
    state = f"{row['name']} is {row['status']}{why}; {row['numTools']} tools"
    typer.echo(text(f"{state} at {row['path']}{more}"))
