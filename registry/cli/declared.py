"""Groups, sharing, tool decisions and policies in files of `registry export` and `apply`.

Entries name people, groups and servers by their names, as a person would write them. They are
applied by comparing them with what is stored. A member that the file has is replaced as a whole;
one that it lacks stays unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry.auth.identity import ALL_TENANTS, OPERATOR
from registry.cli.names import is_id
from registry.cli.output import read_pages

if TYPE_CHECKING:
    from registry.access.policies.values import PolicyRecord, PolicyTarget
    from registry.access.sharing import Entry, Principal
    from registry.tools.values import StoredTool
    from registry.wiring.commands import CommandServices

PARTS = ("sharing", "tools")
"""Members of a server's entry beside those of its registration."""

MAX_VALUE_CHARACTERS = 120


class Names:
    """Finds people, groups and servers by name, and names them; each is looked up once."""

    def __init__(self, built: CommandServices) -> None:
        self._built = built
        self._ids: dict[tuple[str, str], str] = {}

    async def id_of(self, kind: str, name: object) -> str:
        """Return the id of a `user`, `group` or `server`; a role is its own.

        Raises:
            ValueError: There is none of that name, or more.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"a {kind} needs a name")
        if kind == "role":
            return name
        if (kind, name) not in self._ids:
            found = await self._found(kind, name)
            if len(found) > 1:
                raise ValueError(f"several {kind}s are called {name!r}; give the id of one")
            if not found and not is_id(name):
                raise ValueError(f"there is no {kind} {name!r}")
            # Who is gone may still be named by id.
            self._ids[kind, name] = found[0] if found else name.lower()
        return self._ids[kind, name]

    async def _found(self, kind: str, name: str) -> list[str]:
        built = self._built
        if kind == "user":
            return [person.id for person in await built.directory.find_users(name)]
        if kind == "group":
            return [group.id for group in await built.users.find_groups(name, OPERATOR)]
        server = await built.find_owner(name, OPERATOR)
        return [] if server is None else [server.id]

    async def name_of(self, kind: str, key: str) -> str:
        """Return what a file calls a user, a group or a server; its id where that is ambiguous."""
        name = key
        if kind in {"user", "group"}:
            found = await self._built.directory.known({(kind, key)}, ALL_TENANTS)
            person = found.get((kind, key))
            if person is not None:
                name = person.email or person.username or person.name or key
        elif kind == "server":
            server = await self._built.find_owner(key, OPERATOR)
            name = key if server is None else server.server_name
        try:
            return name if await self.id_of(kind, name) == key else key
        except ValueError:
            return key


async def exported_sharing(built: CommandServices, names: Names, server_id: str) -> Any:
    """Return who has access; None if a principal has rights of no role, which no file can hold."""
    from registry.core.text import timestamp  # noqa: PLC0415 - heavy imports

    sharing = await built.permissions.get(server_id, OPERATOR)
    principals: list[dict[str, str]] = []
    for entry in sharing.entries:
        key = entry.principal.id
        if key is None:
            continue
        if entry.role is None:
            return None
        kind = entry.principal.type.value
        principal = {
            "type": kind,
            "name": await names.name_of(kind, key),
            "role": entry.role.value,
        }
        if entry.expires_at is not None:
            principal["expiresAt"] = timestamp(entry.expires_at)
        principals.append(principal)
    principals.sort(key=lambda one: (one["type"], one["name"]))
    return {"public": sharing.is_public, "principals": principals}


async def apply_sharing(
    built: CommandServices, names: Names, server_id: str, wanted: Any, *, dry_run: bool
) -> list[str]:
    """Give access as a file says; return a line for each difference.

    Raises:
        ValueError: The file says something that cannot be.
        RegistryError: It is refused.
    """
    from registry.access.schemas import PermissionsUpdate  # noqa: PLC0415 - heavy imports

    content = _members("sharing", wanted, {"public", "principals"})
    body: dict[str, Any] = {}
    if "public" in content:
        body["public"] = content["public"]
    if "principals" in content:
        body["principals"] = [
            await _entry(names, one) for one in _list("sharing.principals", content["principals"])
        ]
    if not body:
        return []
    request = PermissionsUpdate.model_validate(body).request()
    sharing = await built.permissions.get(server_id, OPERATOR)
    changed: list[str] = []
    if request.public is not None and request.public is not sharing.is_public:
        changed.append(f"sharing: public: {sharing.is_public} -> {request.public}")
    if request.principals is not None:
        before = {one.principal: one for one in sharing.entries if one.principal.id is not None}
        after = {one.principal: one for one in request.principals}
        for principal in sorted({*before, *after}, key=lambda one: (one.type.value, str(one.id))):
            old, new = _rights(before.get(principal)), _rights(after.get(principal))
            if old != new:
                changed.append(f"sharing: {await _named(names, principal)}: {old} -> {new}")
    if changed and not dry_run:
        await built.permissions.change(server_id, request, OPERATOR)
    return changed


async def _entry(names: Names, principal: Any) -> dict[str, Any]:
    entry = _members("sharing.principals", principal, {"type", "name", "role", "expiresAt"})
    kind = entry.get("type")
    if kind not in {"user", "group", "role"}:
        raise ValueError("sharing.principals: type must be user, group or role")
    known = await names.id_of(kind, entry.pop("name", None))
    return {**entry, "id": known}


async def _named(names: Names, principal: Principal) -> str:
    kind = principal.type.value
    return f"{kind} {await names.name_of(kind, str(principal.id))}"


def _rights(entry: Entry | None) -> str:
    from registry.core.text import timestamp  # noqa: PLC0415 - heavy imports

    if entry is None:
        return "none"
    role = str(entry.bits) if entry.role is None else entry.role.value
    return role if entry.expires_at is None else f"{role} until {timestamp(entry.expires_at)}"


async def exported_tools(built: CommandServices, server_id: str) -> list[dict[str, Any]]:
    """Return what people decided about the tools that a server offers."""
    stored = await _tools(built, server_id)
    entries = [{"name": name, **_decided(tool)} for name, tool in sorted(stored.items())]
    return [entry for entry in entries if len(entry) > 1]


async def _tools(built: CommandServices, server_id: str) -> dict[str, StoredTool]:
    from registry.tools.governance.repository import GovernedTools  # noqa: PLC0415 - heavy imports

    rows = await built.storage.repositories.tools.stored(server_id)
    found = await GovernedTools(built.database).some([row.id for row in rows.values()])
    return {tool.name: tool for tool in found}


def _decided(tool: StoredTool) -> dict[str, Any]:
    from packages.models.states import RegistrationState  # noqa: PLC0415 - heavy imports

    decided: dict[str, Any] = {}
    is_new = tool.registration_state is RegistrationState.UNSELECTED and not tool.is_reviewed
    if tool.registration_state is RegistrationState.STALE:
        return decided
    # What waits for a decision has none.
    if not is_new:
        decided["registration_state"] = tool.registration_state.value
        decided["exposure_state"] = tool.exposure_state.value
    overrides = tool.overrides
    changed: dict[str, Any] = {
        "display_name": overrides.display_name,
        "description": overrides.description,
        "tags": list(overrides.tags),
        "tool_metadata": dict(overrides.metadata),
    }
    return {**decided, **{name: value for name, value in changed.items() if value}}


async def apply_tools(
    built: CommandServices, server_id: str, wanted: Any, *, dry_run: bool
) -> tuple[list[str], list[str]]:
    """Decide about tools as a file says; return a line for each difference, and the problems."""
    from registry.core.errors import RegistryError  # noqa: PLC0415 - heavy imports

    stored = await _tools(built, server_id)
    changed: list[str] = []
    problems: list[str] = []
    for entry in _list("tools", wanted):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            if not isinstance(name, str) or name not in stored:
                raise ValueError("the server has no such tool")  # noqa: TRY301 - reported like others
            decided = {member: value for member, value in entry.items() if member != "name"}
            changes = _tool_changes(decided, stored[name])
            if changes and not dry_run:
                await _decide(built, stored[name].id, changes)
        except (RegistryError, ValueError) as exc:
            problems.append(f"tool {name}: {_why(exc)}")
            continue
        before = _decided(stored[name])
        changed += [
            f"tool {name}: {member}: {short(before.get(member))} -> {short(decided[member])}"
            for member in sorted(changes)
        ]
    return changed, problems


def _tool_changes(decided: dict[str, Any], tool: StoredTool) -> dict[str, Any]:
    """Return what is to be sent of a tool, in the shape of `PATCH /registry/tools/{id}`."""
    from registry.tools.governance.schemas import ToolUpdate  # noqa: PLC0415 - heavy imports

    wanted = ToolUpdate.model_validate(decided).model_dump(mode="json", exclude_unset=True)
    overrides = tool.overrides
    before: dict[str, Any] = {
        "display_name": overrides.display_name,
        "description": overrides.description,
        "tags": list(overrides.tags),
        "tool_metadata": dict(overrides.metadata),
        "registration_state": tool.registration_state.value,
        "exposure_state": tool.exposure_state.value,
    }
    unknown = sorted(wanted.keys() - before.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: cannot stand in a file")
    changes = {
        name: value for name, value in wanted.items() if (value or None) != (before[name] or None)
    }
    if "tool_metadata" in changes:
        changes["tool_metadata"] = {
            **dict.fromkeys(before["tool_metadata"]),
            **changes["tool_metadata"],
        }
    return changes


async def _decide(built: CommandServices, tool_id: str, changes: Mapping[str, Any]) -> None:
    from registry.tools.governance.schemas import ToolUpdate  # noqa: PLC0415 - heavy imports

    await built.tools.patch(tool_id, ToolUpdate.model_validate(changes).patch(), OPERATOR)


async def exported_groups(built: CommandServices, names: Names) -> list[dict[str, Any]]:
    """Return the groups with their members, where this program keeps them."""
    if built.settings.user_directory != "registry":
        return []
    found, _ = await read_pages(lambda page: built.users.list_groups(None, page, OPERATOR), 0)
    entries: list[dict[str, Any]] = []
    for record in found:
        group = await built.users.get_group(record.id, OPERATOR)
        members = [await names.name_of("user", person.id) for person in group.members]
        entry: dict[str, Any] = {"name": record.name, "members": sorted(members)}
        if record.description:
            entry["description"] = record.description
        entries.append(entry)
    return sorted(entries, key=lambda one: str(one["name"]))


async def apply_group(
    built: CommandServices, names: Names, entry: Any, *, dry_run: bool
) -> dict[str, Any]:
    """Make or change a group as a file says; return what was done."""
    from registry.users.schemas import GroupCreate  # noqa: PLC0415 - heavy imports
    from registry.users.values import GroupChange  # noqa: PLC0415

    content = _members("group", entry, {"name", "description", "members"})
    members = [
        await names.id_of("user", one) for one in _list("members", content.get("members", []))
    ]
    body = GroupCreate.model_validate({**content, "members": members})
    found = [
        one for one in await built.users.find_groups(body.name, OPERATOR) if one.name == body.name
    ]
    if len(found) > 1:
        raise ValueError("several groups have this name")
    if not found:
        if not dry_run:
            await built.users.add_group(body, OPERATOR)
        return {"outcome": "created", "message": ""}
    group = await built.users.get_group(found[0].id, OPERATOR)
    present = {person.id for person in group.members}
    added = set(members) - present
    removed = present - set(members) if "members" in content else set()
    changed = [f"+ {await names.name_of('user', one)}" for one in sorted(added)]
    changed += [f"- {await names.name_of('user', one)}" for one in sorted(removed)]
    description = content.get("description", group.record.description)
    if description != group.record.description:
        changed.append(f"description: {short(group.record.description)} -> {short(description)}")
    if not changed:
        return {"outcome": "unchanged", "message": ""}
    if not dry_run:
        change = GroupChange(
            description=description, added=frozenset(added), removed=frozenset(removed)
        )
        await built.users.change_group(group.record.id, change, OPERATOR)
    return {"outcome": "updated", "message": "", "changes": changed}


async def exported_policies(
    built: CommandServices, names: Names, about: set[str] | None
) -> list[dict[str, Any]]:
    """Return the policies that can be read: all, or those about some servers."""
    entries = [
        await _policy(names, record)
        for record in await _policies(built)
        if record.policy.problem is None
        and (about is None or record.policy.target.owner_id in about)
    ]
    return sorted(entries, key=lambda one: str(one["name"]))


async def _policies(built: CommandServices) -> list[PolicyRecord]:
    from registry.access.policies.values import PolicyFilter  # noqa: PLC0415 - heavy imports

    found, _ = await read_pages(
        lambda page: built.policies.page(OPERATOR, PolicyFilter(), page), 0
    )
    return found


async def _policy(names: Names, record: PolicyRecord) -> dict[str, Any]:
    from registry.access.policies.presenter import present_content  # noqa: PLC0415 - heavy imports

    content: dict[str, Any] = present_content(record)
    target, subjects = content["target"], content["subjects"]
    owner_id = target["owner_id"]
    return {
        **{name: content[name] for name in ("name", "description", "effect", "is_enabled")},
        "target": {
            "server": None if owner_id is None else await names.name_of("server", owner_id),
            "tools": target["tools"],
            "metadata": target["metadata"],
            **_kind_of_all(target),
        },
        "subjects": {
            **subjects,
            "users": [await names.name_of("user", one) for one in subjects["users"]],
            "groups": [await names.name_of("group", one) for one in subjects["groups"]],
        },
    }


def _kind_of_all(target: dict[str, Any]) -> dict[str, Any]:
    """Return the kind of servers, where a target says one: that of a server follows from it."""
    said = target["source_type"] if target["owner_id"] is None else None
    return {} if said is None else {"source_type": said}


def _said_target(target: PolicyTarget) -> PolicyTarget:
    return target if target.owner_id is None else replace(target, source_type=None)


async def apply_policy(
    built: CommandServices, names: Names, entry: Any, *, dry_run: bool
) -> dict[str, Any]:
    """Make or change a policy as a file says; return what was done."""
    from registry.access.policies.schemas import PolicyCreate  # noqa: PLC0415 - heavy imports

    content = _members(
        "policy", entry, {"name", "description", "effect", "is_enabled", "target", "subjects"}
    )
    known = {"server", "source_type", "tools", "metadata"}
    target = _members("target", content.get("target", {}), known)
    server = target.pop("server", None)
    owner_id = None if server is None else await names.id_of("server", server)
    subjects = _members(
        "subjects", content.get("subjects", {}), {"users", "groups", "roles", "scopes", "everyone"}
    )
    for kind in ("user", "group"):
        if f"{kind}s" in subjects:
            subjects[f"{kind}s"] = [
                await names.id_of(kind, one)
                for one in _list(f"subjects.{kind}s", subjects[f"{kind}s"])
            ]
    body = PolicyCreate.model_validate(
        {**content, "target": {**target, "owner_id": owner_id}, "subjects": subjects}
    )
    change = body.change()
    found = [
        one
        for one in await _policies(built)
        if one.policy.name == body.name and one.policy.target.owner_id == owner_id
    ]
    if len(found) > 1:
        raise ValueError("several policies about this have the name")
    if not found:
        if not dry_run:
            await built.policies.create(change, OPERATOR)
        return {"outcome": "created", "message": ""}
    (record,) = found
    policy = record.policy
    was, wanted = _said_target(policy.target), _said_target(change.target)
    before = (record.description, policy.effect, policy.is_enabled, was, policy.subjects)
    after = (change.description, change.effect, change.is_enabled, wanted, change.subjects)
    if before == after:
        return {"outcome": "unchanged", "message": ""}
    shown = await _policy(names, record)
    changed = [
        f"{name}: {short(shown[name])} -> {short(content.get(name))}"
        for name, old, new in zip(
            ("description", "effect", "is_enabled", "target", "subjects"),
            before,
            after,
            strict=True,
        )
        if old != new
    ]
    if not dry_run:
        await built.policies.update(policy.id, change, OPERATOR)
    return {"outcome": "updated", "message": "", "changes": changed}


def _members(place: str, value: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: is no JSON object")  # noqa: TRY004 - reported like the others
    unknown = sorted(map(str, value.keys() - known))
    if unknown:
        raise ValueError(f"{place}: has unknown members: {', '.join(unknown)}")
    return dict(value)


def _list(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place}: is no list")  # noqa: TRY004 - reported like the others
    return value


def _why(error: Exception) -> str:
    from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

    from registry.core.errors import problems_of  # noqa: PLC0415

    return "; ".join(problems_of(error)) if isinstance(error, ValidationError) else str(error)


def short(value: object) -> str:
    """Return a value as a line of a terminal has room for it."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."
