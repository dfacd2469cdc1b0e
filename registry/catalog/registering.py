"""A remote server of the catalog as a registration: its variables and headers filled in. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from packages.models.states import CatalogStatus
from registry.catalog.errors import MissingInputsError, NotRegistrableError
from registry.catalog.identity import VARIABLE
from registry.catalog.values import CatalogEntry
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members

TRANSPORTS = ("streamable-http", "sse")
"""What the gateway connects to, in the order of preference."""

HOST_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""One label of a host name, or a port: no value moves the rest of the host."""

SLUG_ENDS = "-._"
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class Filled:
    """What a server of the catalog is registered with."""

    transport: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class _Inputs:
    """The given values, and what is wrong with them: names and descriptions, never values."""

    variables: Mapping[str, str]
    headers: Mapping[str, str]
    asked: set[str] = field(default_factory=set)
    missing: dict[str, str | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def value(self, place: str, given: str | None, said: JsonObject) -> str | None:
        """Return the value of one input: what was given, else its default."""
        self.asked.add(place)
        choices = said.get("choices")
        if given is not None and isinstance(choices, list) and choices and given not in choices:
            self.problems[place] = f"must be one of {', '.join(map(str, choices))}"
        default = said.get("default")
        return given if given is not None else default if isinstance(default, str) else None

    def lacks(self, place: str, said: JsonObject) -> None:
        """Note that a required input was not given."""
        description = said.get("description")
        self.missing[place] = description if isinstance(description, str) else None


def default_name(entry: CatalogEntry) -> str:
    """Return the name that a server of the catalog is registered under by default."""
    last = entry.name.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:MAX_NAME].strip(SLUG_ENDS)


def filled(
    entry: CatalogEntry,
    variables: Mapping[str, str],
    headers: Mapping[str, str],
    remote_number: int | None = None,
) -> Filled:
    """Return the URL and headers of a server of the catalog with the given values.

    Args:
        entry: The server.
        variables: By name.
        headers: By name.
        remote_number: Which of its remotes, from 0; None for the first of the best transport.

    Raises:
        NotRegistrableError: It has no URL to connect to, or was deleted.
        ValidationFailedError: It has no such remote, or one that is not connected to.
        MissingInputsError: Values are missing, unknown, or not possible where they stand.
    """
    remote = _remote_of(entry, remote_number)
    lowered = {name.lower(): value for name, value in headers.items()}
    inputs = _Inputs(variables, lowered)
    url = _url(str(remote["url"]).strip(), members(remote.get("variables")), inputs)
    made = _headers(remote, inputs)
    for kind, given in (("variables", variables), ("headers", lowered)):
        for name in given:
            if f"{kind}.{name}" not in inputs.asked:
                inputs.problems[f"{kind}.{name}"] = "is not asked for by this server"
    if inputs.missing or inputs.problems:
        raise MissingInputsError(inputs.missing, inputs.problems)
    return Filled(str(remote["type"]), url, made)


def asked_for(entry: CatalogEntry) -> dict[str, str | None]:
    """Return what a server of the catalog asks for, as `variables.NAME` and `headers.NAME`.

    With `required`, or `required: ` and the description; None for what can be left out.

    Raises:
        NotRegistrableError: It has no URL to connect to, or was deleted.
        ValidationFailedError: It has no such remote.
    """
    remote = _remote_of(entry, None)
    inputs = _Inputs({}, {})
    _url(str(remote["url"]).strip(), members(remote.get("variables")), inputs)
    _headers(remote, inputs)
    return {
        place: None
        if place not in inputs.missing
        else f"required: {inputs.missing[place]}"
        if inputs.missing[place]
        else "required"
        for place in sorted(inputs.asked)
    }


def package_to_record(entry: CatalogEntry, number: int, inputs: Collection[str]) -> JsonObject:
    """Return a package of a server of the catalog, as a registration has it.

    Args:
        entry: The server.
        number: Which of its packages, from 0.
        inputs: Names of values that were given: a package takes none, as it is not started here.

    Raises:
        NotRegistrableError: The server was deleted.
        ValidationFailedError: It has no such package.
        MissingInputsError: Values were given.
    """
    package = _listed(entry, "packages", number)
    if inputs:
        raise MissingInputsError({}, dict.fromkeys(inputs, "is not taken: nothing is started"))
    known = ("registryType", "identifier", "version")
    return {name: package[name] for name in known if package.get(name) is not None}


def _listed(entry: CatalogEntry, member: str, number: int) -> JsonObject:
    if entry.status is CatalogStatus.DELETED:
        raise NotRegistrableError(entry.name)
    listed = entry.server_json.get(member)
    count = len(listed) if isinstance(listed, list) else 0
    if not isinstance(listed, list) or number >= count:
        raise ValidationFailedError(
            member.removesuffix("s"), f"must be below {count}, the number of {member} it has"
        )
    return members(listed[number])


def _remote_of(entry: CatalogEntry, number: int | None) -> JsonObject:
    if number is not None:
        chosen = _listed(entry, "remotes", number)
        if chosen.get("type") not in TRANSPORTS or not isinstance(chosen.get("url"), str):
            raise ValidationFailedError("remote", f"must be one of {' or '.join(TRANSPORTS)}")
        return chosen
    if entry.status is CatalogStatus.DELETED:
        raise NotRegistrableError(entry.name)
    listed = entry.server_json.get("remotes")
    remotes = [members(one) for one in listed] if isinstance(listed, list) else []
    for transport in TRANSPORTS:
        for remote in remotes:
            if remote.get("type") == transport and isinstance(remote.get("url"), str):
                return remote
    raise NotRegistrableError(entry.name)


def _url(template: str, declared: JsonObject, inputs: _Inputs) -> str:
    scheme, separator, rest = template.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = _fill(place, declared, inputs, in_host=True)
    path = _fill(rest[len(place) :], declared, inputs, in_host=False)
    return f"{scheme}{separator}{host}{path}"


def _fill(template: str, declared: JsonObject, inputs: _Inputs, *, in_host: bool) -> str:
    def one(found: re.Match[str]) -> str:
        name = found.group(1)
        said = members(declared.get(name))
        place = f"variables.{name}"
        value = inputs.value(place, inputs.variables.get(name), said)
        if not value:
            inputs.lacks(place, said)
            return ""
        if said.get("isSecret") is True:
            inputs.problems[place] = "is a secret in a URL, which is stored and shown in clear"
        elif in_host and _is_whole_host(template, found):
            if not all(map(HOST_VALUE.fullmatch, value.split("."))):
                inputs.problems[place] = "must be a host name"
        elif in_host and not HOST_VALUE.fullmatch(value):
            inputs.problems[place] = "must be one part of a host name: letters, digits, hyphens"
        elif value in {".", ".."}:
            inputs.problems[place] = "must not be . or .., which change the path"
        return quote(value, safe="")

    return VARIABLE.sub(one, template)


def _is_whole_host(template: str, found: re.Match[str]) -> bool:
    """Whether a variable is all of the host, so that there is nothing that it could move."""
    return found.start() == 0 and template[found.end() :][:1] in {"", ":"}


def _headers(remote: JsonObject, inputs: _Inputs) -> dict[str, str]:
    listed = remote.get("headers")
    made: dict[str, str] = {}
    for said in [members(one) for one in listed] if isinstance(listed, list) else []:
        name = said.get("name")
        if not isinstance(name, str) or not name:
            continue
        value = _header(name, said, inputs)
        if value:
            made[name] = value
    return made


def _header(name: str, said: JsonObject, inputs: _Inputs) -> str | None:
    place, is_required = f"headers.{name.lower()}", said.get("isRequired") is True
    template = said.get("value")
    given = inputs.value(place, inputs.headers.get(name.lower()), said)
    if inputs.headers.get(name.lower()) is not None or not isinstance(template, str):
        if not given and is_required:
            inputs.lacks(place, said)
        return given
    declared = members(said.get("variables"))
    values: dict[str, str] = {}
    lacking: dict[str, JsonObject] = {}
    for variable in VARIABLE.findall(template):
        known = members(declared.get(variable))
        value = inputs.value(f"variables.{variable}", inputs.variables.get(variable), known)
        if value:
            values[variable] = value
        else:
            lacking[variable] = {**said, **known}
    if lacking:
        for variable, known in lacking.items() if is_required or values else ():
            inputs.lacks(f"variables.{variable}", known)
        return None
    return VARIABLE.sub(lambda found: values[found.group(1)], template)
