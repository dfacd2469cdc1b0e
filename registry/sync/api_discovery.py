"""Discovery of a REST API: reads its description, and makes tools of its operations."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from cachetools import LRUCache
from pydantic import JsonValue

from registry.core.definitions import Rejection
from registry.core.json import JsonObject
from registry.openapi.binding import SecurityScheme
from registry.openapi.bundles import MAX_FILES, Bundle, unbundled
from registry.openapi.description import LEFT_OUT, Description, Problem, describe
from registry.openapi.documents import load
from registry.openapi.errors import DescriptionError
from registry.openapi.references import GIVEN, external_references
from registry.openapi.security import (
    DescribedCredentials,
    TokenSource,
    described_credentials,
    is_cookie_value,
)
from registry.openapi.tools import Rule, Selection, tools_of
from registry.servers.errors import DiscoveryFailedError, UnsafeUrlError
from registry.servers.values import ApiFacts, ApiSource, ConnectionSpec, Discovered, Era
from registry.tools.intake import take
from registry.tools.values import ToolSnapshot
from registry.upstream.descriptions import DescriptionFetcher, FetchedDescription, origin_of, reach
from registry.upstream.errors import UnsafeAddressError, UpstreamError, UpstreamMissingError
from registry.upstream.guard import UrlGuard
from registry.upstream.values import ReadingLimits

API_VERSION = "2025-11-25"
"""The protocol version that the gateway negotiates first for an API."""

MAX_ORIGINS = 100
"""Other places than the API that are looked up when a description is read."""

NO_SERVER = "The description names no server; give `base_url`."
KEPT_CHARACTERS = 32 * 1024 * 1024
"""Definitions of conversions that are kept: those of GitHub have 4 million characters."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a description becomes, whoever fetched it.

    Attributes:
        snapshot: The tools, those included that may be called nowhere.
        places: Of the tools whose operations are elsewhere, what that is and where it is said.
        named: The server that it names.
        facts: About it, as far as they are the same each time.
    """

    snapshot: ToolSnapshot
    places: Mapping[str, tuple[str, str]]
    problems: tuple[Problem, ...]
    named: str | None
    credentials: DescribedCredentials
    schemes: Mapping[str, SecurityScheme]
    title: str | None
    facts: JsonObject

    @property
    def characters(self) -> int:
        """Return how long its definitions are."""
        return 1 + sum(len(tool.definition) for tool in self.snapshot.tools)


class Conversions:
    """Conversions that were made, by what was converted and how: most readings find no news.

    Not for descriptions of several fetched files, of which any may have changed.
    """

    def __init__(self) -> None:
        self._made: LRUCache[str, Conversion] = LRUCache(
            KEPT_CHARACTERS, getsizeof=lambda conversion: conversion.characters
        )

    def get(self, key: str) -> Conversion | None:
        """Return what was made; None if it is not known any more."""
        return self._made.get(key)

    def keep(self, key: str, conversion: Conversion) -> None:
        """Keep a conversion, unless it is too large."""
        if conversion.characters <= KEPT_CHARACTERS:
            self._made[key] = conversion


async def read_api(
    connection: ConnectionSpec,
    source: ApiSource,
    guard: UrlGuard,
    limits: ReadingLimits,
    max_definition_bytes: int,
    made: Conversions,
) -> Discovered:
    """Read the description of an API, and return its operations as tools.

    Args:
        connection: How the API is reached.
        source: Its description, and which operations are wanted.
        guard: Says what may be contacted.
        limits: Of the reading.
        max_definition_bytes: Of all definitions together.
        made: Has what was converted before, and gets what is converted.

    Raises:
        UnsafeAddressError: The description may not be contacted.
        UnsafeUrlError: The API may not be contacted.
        UpstreamError: The description cannot be fetched.
        DiscoveryFailedError: It cannot be read.
    """
    began_at = time.monotonic()
    base_url = connection.url or None
    origin = None if base_url is None else origin_of(base_url)
    fetcher = DescriptionFetcher(guard, limits, connection.headers, origin)
    fetched = await _root(source, fetcher)
    content = fetched.content or b""
    url = fetched.url or None
    key = _key(content, url, source, base_url, max_definition_bytes)
    conversion = made.get(key)
    if conversion is None:
        try:
            bundle = await asyncio.to_thread(_loaded, content)
            others = await _others(bundle, url, fetcher)
            # Megabytes of description take seconds, during which calls must go on.
            work = partial(_convert, bundle, url, others, source, base_url, max_definition_bytes)
            conversion = await asyncio.to_thread(work)
        except DescriptionError as exc:
            raise DiscoveryFailedError(exc.message) from exc
        if others.by_url.keys() == bundle.files.keys() and not others.problems:
            made.keep(key, conversion)
    named = conversion.named
    target = base_url or named
    if target is None:
        raise DiscoveryFailedError(NO_SERVER)
    try:
        await guard.check(target)
    except UnsafeAddressError as exc:
        told = "" if base_url else f"the description names the server {origin_of(target)}: "
        raise UnsafeUrlError(f"{told}{exc.message}", "baseUrl") from exc
    refused, forbidden = await _refused(conversion.places, guard, limits.connect_timeout_seconds)
    snapshot = conversion.snapshot
    problems = [
        Rejection(problem.place or "description", problem.reason)
        for problem in (*conversion.problems, *forbidden)
    ]
    if base_url is not None and named is not None and origin_of(named) != origin_of(base_url):
        known = f"names the server {named}; calls go to {base_url}, until `base_url` is changed"
        problems.append(Rejection("servers", known))
    credentials = conversion.credentials
    if source.places_key:
        credentials, misplaced = _usable(credentials, connection.headers)
    else:
        misplaced = _misplaced(conversion.schemes, connection.headers)
    if misplaced is not None:
        problems.append(Rejection("securitySchemes", misplaced))
    optional: dict[str, JsonValue] = {
        "etag": fetched.etag,
        "last_modified": fetched.last_modified,
        "fetched_from": source.url,
        "tokens": _stored(credentials.tokens),
        "users_tokens": _stored(credentials.users_tokens),
    }
    digest = hashlib.sha256(content).hexdigest()
    facts = {**conversion.facts, "hash": digest} | {
        name: value for name, value in optional.items() if value
    }
    return Discovered(
        snapshot=replace(
            snapshot,
            tools=tuple(tool for tool in snapshot.tools if tool.name not in refused),
            rejected=(*snapshot.rejected, *problems),
        ),
        capabilities={"tools": {}},
        protocol_version=API_VERSION,
        eras=frozenset(Era),
        instructions=None,
        init_duration_ms=int((time.monotonic() - began_at) * 1000),
        title=conversion.title,
        api=ApiFacts(target, facts, content, credentials),
    )


def _stored(tokens: TokenSource | None) -> JsonObject | None:
    """Return where tokens are obtained in the words of `oauth`."""
    if tokens is None:
        return None
    stored: JsonObject = {"token_url": tokens.token_url, "scope": tokens.scope}
    if tokens.authorization_url is not None:
        stored["authorization_url"] = tokens.authorization_url
    return stored


async def reach_api(connection: ConnectionSpec, guard: UrlGuard, limits: ReadingLimits) -> None:
    """Check that an API answers at all, whatever it answers.

    Raises:
        UnsafeAddressError: It may not be contacted.
        UpstreamError: It does not answer.
    """
    await reach(connection.url, guard, limits)


def _key(
    content: bytes, url: str | None, source: ApiSource, base_url: str | None, most: int
) -> str:
    """Return what determines the conversion of a description without other files."""
    text = json.dumps([url, source.include, source.exclude, base_url, most], default=str)
    return hashlib.sha256(content).hexdigest() + text


async def _refused(
    places: Mapping[str, tuple[str, str]], guard: UrlGuard, timeout_seconds: float
) -> tuple[frozenset[str], list[Problem]]:
    """Return the tools whose operations are at other places, where none may be called.

    What a name leads to is looked at again with each call: of a name that cannot be resolved now
    the tools stay.
    """
    urls = {origin_of(url): url for url, _ in places.values()}
    refused: dict[str, str] = {}

    async def look(origin: str, url: str) -> None:
        try:
            await guard.check(url)
        except UnsafeAddressError as exc:
            refused[origin] = exc.message
        except UpstreamError:
            return

    checked = list(urls.items())[:MAX_ORIGINS]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds), asyncio.TaskGroup() as group:
            for origin, url in checked:
                group.create_task(look(origin, url))
    names, problems = set(), []
    for name, (url, place) in places.items():
        where = origin_of(url)
        if where in refused:
            names.add(name)
            told = f"is at {where}, where it may not be called: {refused[where]}{LEFT_OUT}"
            problems.append(Problem(place, told))
    return frozenset(names), problems


def _misplaced(described: Mapping[str, SecurityScheme], headers: Iterable[str]) -> str | None:
    """Return how a key must be sent that is stored and is sent otherwise; None if it may be right.

    Args:
        described: The security schemes.
        headers: Names of those that are sent.
    """
    schemes = list(described.values())
    sent = {name.lower() for name in headers}
    if not schemes or "authorization" not in sent or any(one.kind != "apiKey" for one in schemes):
        return None
    if any(one.name is not None and one.name.lower() in sent for one in schemes):
        return None
    places = {f"{one.name} ({one.location and one.location.value})" for one in schemes}
    wanted = " or ".join(sorted(places))
    return (
        f"want a key as {wanted}, and the stored one is sent as Authorization: set "
        "apiKey.authorization_type to custom, custom_header to that name, and location"
    )


def _usable(
    credentials: DescribedCredentials, headers: Mapping[str, str]
) -> tuple[DescribedCredentials, str | None]:
    """Return where the key that is sent can be sent, and why it stays a bearer token.

    Args:
        credentials: What the description says.
        headers: What is sent; the key is a bearer token until its place is known.
    """
    doubt, place = credentials.doubt, credentials.key
    key = headers.get("Authorization", "").removeprefix("Bearer ")
    if key and place is not None and place.location == "cookie" and not is_cookie_value(key):
        doubt = f"want the key as {place.text}, and it holds characters that no cookie can have"
        credentials = replace(credentials, key=None)
    if doubt is None:
        return credentials, None
    return credentials, (
        f"{doubt}; it is sent as a bearer token: say how with apiKey.authorization_type, "
        "custom_header and location"
    )


async def _root(source: ApiSource, fetcher: DescriptionFetcher) -> FetchedDescription:
    if source.url is not None and source.document is not None:
        fetched = await fetcher.fetch(source.url, source.etag, source.last_modified)
        if fetched.content is not None:
            return fetched
        # What a server does not tell again with a 304 is still true.
        return replace(
            fetched,
            content=source.document,
            etag=fetched.etag or source.etag,
            last_modified=fetched.last_modified or source.last_modified,
        )
    if source.url is not None:
        return await fetcher.fetch(source.url)
    if source.document is None:
        raise DiscoveryFailedError("The description is missing; give it again.")
    return FetchedDescription("", source.document, None)


@dataclass(slots=True)
class _Files:
    """The files of a description besides the first.

    Attributes:
        by_url: As they are named.
        bases: Where redirects led to.
        problems: Those that cannot be read, which costs what needs them.
    """

    by_url: dict[str, JsonObject]
    bases: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def _loaded(content: bytes) -> Bundle:
    return unbundled(load(content))


async def _others(bundle: Bundle, url: str | None, fetcher: DescriptionFetcher) -> _Files:
    """Return the other files of a description, and those that they name.

    A file that does not exist, may not be fetched, or is none costs what needs it. All else is a
    failure of the whole: what a server does not answer now would be missing tools.
    """
    found = _Files(dict(bundle.files))
    wanted = [
        (bundle.document, bundle.url or url),
        *((one, at) for at, one in found.by_url.items()),
    ]
    asked = {bundle.url, url, *found.by_url}
    while wanted:
        one, at = wanted.pop()
        for other in sorted(external_references(one, at)):
            if other in asked:
                continue
            asked.add(other)
            if len(asked) > MAX_FILES + 2:
                raise DiscoveryFailedError(f"The description has more than {MAX_FILES} files.")
            if other.startswith(GIVEN):
                name = other.removeprefix(GIVEN)
                found.problems.append(Problem(name, "is not among the given files"))
                continue
            try:
                fetched = await fetcher.fetch(other)
                document = await asyncio.to_thread(load, fetched.content or b"")
            except (UnsafeAddressError, UpstreamMissingError) as exc:
                found.problems.append(Problem(other, f"cannot be fetched: {exc.message}"))
                continue
            except DescriptionError as exc:
                found.problems.append(Problem(other, exc.reason))
                continue
            found.by_url[other] = document
            if fetched.url != other:
                found.bases[other] = fetched.url
            wanted.append((document, fetched.url))
    return found


def _convert(
    bundle: Bundle,
    url: str | None,
    others: _Files,
    source: ApiSource,
    base_url: str | None,
    max_definition_bytes: int,
) -> Conversion:
    description = describe(
        bundle.document,
        url=url,
        files=others.by_url,
        bases=others.bases,
        given_as=bundle.url,
    )
    selection = Selection(
        tuple(Rule.model_validate(one) for one in source.include),
        tuple(Rule.model_validate(one) for one in source.exclude),
    )
    selected = [one for one in description.operations if selection.holds(one)]
    converted = tools_of(description, selection)
    snapshot = take([tool.definition for tool in converted.tools], None, max_definition_bytes)
    external = {tool.name: tool.external_id for tool in converted.tools}
    named = _server_of(description)
    schemes = {
        name: scheme.model_dump(mode="json", exclude_defaults=True)
        for name, scheme in description.security_schemes.items()
    }
    facts: JsonObject = {
        "openapi": description.openapi,
        "operations": len(description.operations),
        "security_schemes": cast("JsonValue", schemes),
    }
    optional = {"title": description.title, "version": description.version, "server": named}
    return Conversion(
        snapshot=replace(
            snapshot,
            tools=tuple(
                replace(tool, external_id=external.get(tool.name)) for tool in snapshot.tools
            ),
        ),
        places={
            tool.name: (tool.base_url, tool.place) for tool in converted.tools if tool.base_url
        },
        problems=(*others.problems, *description.problems, *converted.problems),
        named=named,
        credentials=described_credentials(
            description.security_schemes, selected, base_url or named or ""
        ),
        schemes=description.security_schemes,
        title=description.title,
        facts=facts | {name: value for name, value in optional.items() if value},
    )


def _server_of(description: Description) -> str | None:
    """Return the first server that calls can go to."""
    return next(
        (url for url in description.servers if urlsplit(url).scheme in {"http", "https"}), None
    )
