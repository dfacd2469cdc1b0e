"""Commands about users and groups."""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from registry.auth.identity import OPERATOR, Role
from registry.cli.names import group_of, user_of
from registry.cli.output import (
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    read_pages,
    show_fields,
    show_rows,
    validated,
)
from registry.cli.running import fail, run, services

if TYPE_CHECKING:
    from registry.users.values import UserChange

users = typer.Typer(help="Users, where no other application keeps them.", no_args_is_help=True)
groups = typer.Typer(help="Groups of users.", no_args_is_help=True)

T = TypeVar("T")

USER_COLUMNS = [
    Column("Address", "email"),
    Column("Username", "username"),
    Column("Name", "name"),
    Column("Role", "role"),
    Column("Disabled", "disabled"),
    Column("Provider", "provider"),
    Column("Id", "id"),
]
GROUP_COLUMNS = [
    Column("Name", "name"),
    Column("Members", "member_count"),
    Column("Source", "source"),
    Column("Description", "description", wraps=True),
    Column("Id", "id"),
]
MEMBER_COLUMNS = [
    Column("Address", "email"),
    Column("Username", "username"),
    Column("Name", "name"),
    Column("Id", "id"),
]

User = Annotated[str, typer.Argument(metavar="USER", help="Id, username or address.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="Id or name.")]
Query = Annotated[str | None, typer.Option(help="Part of a name or address.")]


@users.command("list")
def users_list(*, query: Query = None, limit: Limit = MAX_ROWS, as_json: AsJson = False) -> None:
    """List users by address."""

    async def work() -> None:
        from registry.users.presenter import present_user  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found, total = await read_pages(
                lambda page: built.users.list_users(query, page, OPERATOR), limit
            )
        rows = [present_user(user) for user in found]
        show_rows(rows, USER_COLUMNS, as_json=as_json, total=total)

    run(work)


@users.command("add")
def users_add(
    email: Annotated[str, typer.Argument(help="Address, which is theirs alone.")],
    *,
    name: Annotated[str | None, typer.Option(help="For people to read.")] = None,
    username: Annotated[
        str | None, typer.Option(help="Default: what is before the @ of the address.")
    ] = None,
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.USER,
    as_json: AsJson = False,
) -> None:
    """Add a user. `registry token create --user` gives them a token."""

    async def work() -> None:
        from registry.users.presenter import present_user  # noqa: PLC0415 - heavy imports
        from registry.users.schemas import UserCreate  # noqa: PLC0415

        members = {"email": email, "name": name, "username": username, "role": role}
        request = validated(UserCreate, members)
        async with services(changes=True) as built:
            user = await built.users.add_user(request, OPERATOR)
        show_fields(present_user(user), as_json=as_json)

    run(work)


@users.command("update")
def users_update(
    user: User,
    *,
    name: Annotated[str | None, typer.Option(help="For people to read.")] = None,
    username: Annotated[str | None, typer.Option(help="Another one.")] = None,
    role: Annotated[Role | None, typer.Option(help="What they may do.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the names or the role of a user."""
    _change(user, {"name": name, "username": username, "role": role}, as_json=as_json)


@users.command("disable")
def users_disable(user: User, *, as_json: AsJson = False) -> None:
    """Refuse all tokens of a user, until they are enabled again."""
    _change(user, {"disabled": True}, as_json=as_json)


@users.command("enable")
def users_enable(user: User, *, as_json: AsJson = False) -> None:
    """Accept the tokens of a user again who was disabled."""
    _change(user, {"disabled": False}, as_json=as_json)


def _change(reference: str, members: dict[str, Any], *, as_json: bool) -> None:
    async def work() -> None:
        from registry.users.presenter import present_user  # noqa: PLC0415 - heavy imports

        change = _user_change(members)
        async with services(changes=True) as built:
            found = await user_of(built, reference)
            user = await built.users.change_user(found.id, change, OPERATOR)
        show_fields(present_user(user), as_json=as_json)

    run(work)


def _user_change(members: dict[str, Any]) -> "UserChange":
    from registry.users.schemas import UserUpdate  # noqa: PLC0415 - heavy imports
    from registry.users.values import UserChange  # noqa: PLC0415

    body = validated(UserUpdate, members)
    if not body.model_fields_set:
        fail("say what to change: --name, --username or --role")
    return UserChange(body.name, body.username, body.role, body.disabled)


@groups.command("list")
def groups_list(*, query: Query = None, limit: Limit = MAX_ROWS, as_json: AsJson = False) -> None:
    """List groups by name."""

    async def work() -> None:
        from registry.users.presenter import present_group  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found, total = await read_pages(
                lambda page: built.users.list_groups(query, page, OPERATOR), limit
            )
        rows = [present_group(group) for group in found]
        show_rows(rows, GROUP_COLUMNS, as_json=as_json, total=total)

    run(work)


@groups.command("add")
def groups_add(
    name: Annotated[str, typer.Argument(help="Unique name.")],
    *,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    member: Annotated[
        list[str] | None, typer.Option(help="Id, username or address; repeat for several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a group."""

    async def work() -> None:
        from registry.users.presenter import present_members  # noqa: PLC0415 - heavy imports
        from registry.users.schemas import GroupCreate  # noqa: PLC0415

        async with services(changes=True) as built:
            members = [(await user_of(built, one)).id for one in member or []]
            content = {"name": name, "description": description, "members": members}
            group = await built.users.add_group(validated(GroupCreate, content), OPERATOR)
        presented = present_members(group)
        show_fields({**presented, "members": _names(presented)}, as_json=as_json)

    run(work)


@groups.command("members")
def groups_members(
    group: Group,
    *,
    add: Annotated[
        list[str] | None, typer.Option(help="User to take in; repeat for several.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="User to take out; repeat for several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the members of a group; with --add and --remove, change them first."""

    async def work() -> None:
        from registry.users.presenter import present_members  # noqa: PLC0415 - heavy imports
        from registry.users.values import GroupChange  # noqa: PLC0415

        async with services(changes=bool(add or remove)) as built:
            found = await group_of(built, group)
            if add or remove:
                added = [(await user_of(built, one)).id for one in add or []]
                removed = [(await user_of(built, one)).id for one in remove or []]
                change = GroupChange(added=frozenset(added), removed=frozenset(removed))
                result = await built.users.change_group(found.id, change, OPERATOR)
            else:
                result = await built.users.get_group(found.id, OPERATOR)
        presented = present_members(result)
        show_rows(presented["members"], MEMBER_COLUMNS, as_json=as_json)  # type: ignore[arg-type]  # made above

    run(work)


def _names(presented: dict[str, Any]) -> list[str]:
    return [member["email"] or member["name"] for member in presented["members"]]
