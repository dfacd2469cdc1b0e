"""Lookup of servers, tools, users and groups by id, name or path, for commands."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from registry.auth.identity import OPERATOR, UserContext
from registry.cli.running import NOT_FOUND, fail, is_hex
from registry.tools.naming import SEPARATOR, public_name

if TYPE_CHECKING:
    from registry.auth.values import DirectoryPrincipal
    from registry.servers.values import ServerRecord
    from registry.tools.values import StoredTool
    from registry.users.values import GroupRecord
    from registry.wiring.commands import CommandServices

ID_CHARACTERS = 24

T = TypeVar("T")


def is_id(reference: str) -> bool:
    """Say whether this has the form of an ObjectId."""
    return len(reference) == ID_CHARACTERS and is_hex(reference)


def only_one(kind: str, reference: str, called: Mapping[str, T]) -> T:
    """Return the only one of that name, of all by their ids; end the command if it is not one."""
    if not called:
        fail(f"there is no {kind} {reference!r}", code=NOT_FOUND)
    if len(called) > 1:
        ids = ", ".join(called)
        fail(f"more than one {kind} is called {reference!r}; give the id of one: {ids}")
    return next(iter(called.values()))


async def server_of(services: "CommandServices", reference: str) -> "ServerRecord":
    """Return the server or API of that id, name or path; end the command where there is none."""
    found = await services.find_owner(reference, OPERATOR)
    if found is None:
        fail(f"there is no server {reference!r}", code=NOT_FOUND)
    return found


async def user_of(services: "CommandServices", reference: str) -> "DirectoryPrincipal":
    """Return the user of that id, name or address; end the command where there is none or more."""
    found = await services.directory.find_users(reference)
    return only_one("user", reference, {person.id: person for person in found})


async def tool_of(services: "CommandServices", reference: str) -> "StoredTool":
    """Return the tool of that id, or of that name on a server; end the command where none is."""
    if is_id(reference):
        return await services.tools.get(reference.lower(), OPERATOR)
    from registry.tools.naming import slug_of  # noqa: PLC0415 - heavy imports

    server, separator, name = reference.rpartition("/")
    if not separator:
        server, separator, name = reference.partition(SEPARATOR)
    if not server or not name:
        fail(f"{reference!r} names no tool; write SERVER/TOOL, or its id")
    find = services.find_owner
    owner = await find(server, OPERATOR) or await find(f"/mcp/{server}", OPERATOR)
    if owner is None:
        fail(f"there is no server {server!r}", code=NOT_FOUND)
    slug = slug_of(owner.effective_path) or owner.server_name
    stored = await services.storage.repositories.tools.stored(owner.id)
    ids = [
        tool.id
        for own, tool in stored.items()
        if own == name or public_name(slug, own) == reference
    ]
    if not ids:
        fail(f"{owner.server_name} has no tool {name!r}", code=NOT_FOUND)
    return await services.tools.get(ids[0], OPERATOR)


async def user_id_of(services: "CommandServices", reference: str) -> str:
    """Return the id of a user; one that is no user's may stand in old records."""
    return reference if is_id(reference) else (await user_of(services, reference)).id


async def group_of(services: "CommandServices", reference: str) -> "GroupRecord":
    """Return the group of that id or name; end the command where there is none or more."""
    found = await services.users.find_groups(reference, OPERATOR)
    return only_one("group", reference, {group.id: group for group in found})


async def owner_of(services: "CommandServices", reference: str | None) -> str:
    """Return the id of whom a new server shall belong to: a user, by default the administrator."""
    if reference is not None:
        return (await user_of(services, reference)).id
    administrators = await services.directory.administrators()
    if not administrators:
        fail("there is no administrator whose it could be; say whose it is with --owner")
    if len(administrators) > 1:
        fail("there are several administrators; say whose it is with --owner")
    return administrators[0].id


def acting_for(user_id: str) -> UserContext:
    """Return who registers what shall be this user's: the operator, in that user's name."""
    return replace(OPERATOR, user_id=user_id)


ALL_OF: Mapping[str | None, str] = {"mcp": "all MCP servers", "openapi": "all REST APIs"}


def servers_of(target: Mapping[str, Any]) -> str:
    """Return whose tools a policy or a limit is about."""
    return target["owner_id"] or ALL_OF.get(target["source_type"], "all")
