"""Commands about policies: who may use which single tools."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import is_id, only_one, server_of, servers_of
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
from registry.cli.running import fail, run, services

if TYPE_CHECKING:
    from registry.access.policies.values import PolicyRecord
    from registry.wiring.commands import CommandServices

policies = typer.Typer(help="Who may use which single tools.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Effect", "effect"),
    Column("Enabled", "is_enabled"),
    Column("Server", lambda row: servers_of(row["target"])),
    Column("Tools", lambda row: row["target"]["tools"] or "all"),
    Column("Who", lambda row: who_of(row["subjects"]), wraps=True),
    Column("Id", "id"),
]

Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Id or name.")]
File = Annotated[Path, typer.Argument(help="JSON: the body of the request that makes one.")]


@policies.command("list")
def policies_list(
    *,
    server: Annotated[
        str | None, typer.Option(help="Only what applies to this: id, name or path.")
    ] = None,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List policies."""

    async def work() -> None:
        from registry.access.policies.presenter import present_policy  # noqa: PLC0415 - heavy imports
        from registry.access.policies.values import PolicyFilter  # noqa: PLC0415

        async with services() as built:
            about = None if server is None else (await server_of(built, server)).id
            narrowed = PolicyFilter(applies_to=about)
            found, total = await read_pages(
                lambda page: built.policies.page(OPERATOR, narrowed, page), limit
            )
        rows = [present_policy(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@policies.command("show")
def policies_show(policy: Policy, *, as_json: AsJson = False) -> None:
    """Show a policy."""

    async def work() -> None:
        from registry.access.policies.presenter import present_policy  # noqa: PLC0415 - heavy imports

        async with services() as built:
            record = await _policy_of(built, policy)
        show_fields(present_policy(record), as_json=as_json)

    run(work)


@policies.command("add")
def policies_add(file: File, *, as_json: AsJson = False) -> None:
    """Make a policy of a file."""

    async def work() -> None:
        from registry.access.policies.presenter import present_written  # noqa: PLC0415 - heavy imports
        from registry.access.policies.schemas import PolicyCreate  # noqa: PLC0415

        change = validated(PolicyCreate, read_body(file)).change()
        async with services(changes=True) as built:
            written = await built.policies.create(change, OPERATOR)
        told = present_written(written.record, written.consequence, written.warnings)
        show_fields(told, as_json=as_json)

    run(work)


@policies.command("update")
def policies_update(policy: Policy, file: File, *, as_json: AsJson = False) -> None:
    """Change the members of a policy that a file names, and no others."""

    async def work() -> None:
        from registry.access.policies.presenter import present_written  # noqa: PLC0415 - heavy imports
        from registry.access.policies.schemas import PolicyUpdate  # noqa: PLC0415

        change = validated(PolicyUpdate, read_body(file)).change()
        async with services(changes=True) as built:
            found = await _policy_of(built, policy)
            written = await built.policies.update(found.policy.id, change, OPERATOR)
        told = present_written(written.record, written.consequence, written.warnings)
        show_fields(told, as_json=as_json)

    run(work)


@policies.command("remove")
def policies_remove(
    policy: Policy,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a policy."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = (await _policy_of(built, policy)).policy
            require_agreed(f"Remove the policy {found.name}?", yes=yes)
            await built.policies.delete(found.id, OPERATOR)
        removed = {"id": found.id, "name": found.name}
        show_removed(removed, found.name, as_json=as_json)

    run(work)


async def _policy_of(built: "CommandServices", reference: str) -> "PolicyRecord":
    from registry.access.policies.values import PolicyFilter  # noqa: PLC0415 - heavy imports

    if is_id(reference):
        return await built.policies.get(reference.lower(), OPERATOR)
    found, _ = await read_pages(
        lambda page: built.policies.page(OPERATOR, PolicyFilter(text=reference), page), 0
    )
    called = {one.policy.id: one for one in found if one.policy.name == reference}
    return only_one("policy", reference, called)


def who_of(subjects: dict[str, Any]) -> object:
    """Return the callers whom a rule names, for a table."""
    named = [
        f"{kind}: {', '.join(names)}"
        for kind, names in subjects.items()
        if names and names is not True
    ]
    return "everyone" if subjects["everyone"] else named


def read_body(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        fail(f"{file} cannot be read ({exc.strerror})")
    except (ValueError, RecursionError):
        fail(f"{file} is not JSON")
    if not isinstance(content, dict):
        fail(f"{file} holds no JSON object")
    return content
