"""Discovery of a REST API: reads its description, and makes tools of its operations."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from pydantic import JsonValue

from registry.core.definitions import Rejection
from registry.core.json import JsonObject
from registry.openapi.description import LEFT_OUT, Description, Problem, describe
from registry.openapi.documents import load
from registry.openapi.errors import DescriptionError
from registry.openapi.references import external_references
from registry.openapi.tools import Converted, ConvertedTool, Rule, Selection, tools_of
from registry.servers.errors import DiscoveryFailedError, UnsafeUrlError
from registry.servers.values import ApiFacts, ApiSource, ConnectionSpec, Discovered, Era
from registry.tools.intake import take
from registry.upstream.descriptions import DescriptionFetcher, FetchedDescription, origin_of, reach
from registry.upstream.errors import UnsafeAddressError, UpstreamError
from registry.upstream.guard import UrlGuard
from registry.upstream.values import ReadingLimits

API_VERSION = "2025-11-25"
"""The protocol version that the gateway negotiates first for an API."""

MAX_FILES = 100
"""Files of one description."""

MAX_ORIGINS = 100
"""Other places than the API that are looked up when a description is read."""

NO_SERVER = "The description names no server; give `base_url`."


async def read_api(
    connection: ConnectionSpec,
    source: ApiSource,
    guard: UrlGuard,
    limits: ReadingLimits,
    max_definition_bytes: int,
) -> Discovered:
    """Read the description of an API, and return its operations as tools.

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
    try:
        document = await asyncio.to_thread(load, content)
        files = await _others(document, fetched.url or None, fetcher)
        # Megabytes of description take seconds, during which calls must go on.
        work = partial(_convert, document, fetched.url or None, files, source)
        description, converted = await asyncio.to_thread(work)
    except DescriptionError as exc:
        raise DiscoveryFailedError(exc.message) from exc
    named = _server_of(description)
    target = base_url or named
    if target is None:
        raise DiscoveryFailedError(NO_SERVER)
    try:
        await guard.check(target)
    except UnsafeAddressError as exc:
        told = "" if base_url else f"the description names the server {origin_of(target)}: "
        raise UnsafeUrlError(f"{told}{exc.message}", "baseUrl") from exc
    tools, forbidden = await _allowed(converted.tools, guard, limits.connect_timeout_seconds)
    snapshot = take([tool.definition for tool in tools], None, max_definition_bytes)
    external = {tool.name: tool.external_id for tool in tools}
    problems = [
        Rejection(problem.place or "description", problem.reason)
        for problem in (*description.problems, *converted.problems, *forbidden)
    ]
    if base_url is not None and named is not None and origin_of(named) != origin_of(base_url):
        known = f"names the server {named}; calls go to {base_url}, until `base_url` is changed"
        problems.append(Rejection("servers", known))
    schemes = {
        name: scheme.model_dump(mode="json", exclude_defaults=True)
        for name, scheme in description.security_schemes.items()
    }
    facts: JsonObject = {
        "hash": hashlib.sha256(content).hexdigest(),
        "openapi": description.openapi,
        "operations": len(description.operations),
        "security_schemes": cast("JsonValue", schemes),
    }
    optional = {
        "title": description.title,
        "version": description.version,
        "etag": fetched.etag,
        "last_modified": fetched.last_modified,
        "fetched_from": source.url,
        "server": named,
    }
    facts |= {name: value for name, value in optional.items() if value}
    return Discovered(
        snapshot=replace(
            snapshot,
            tools=tuple(
                replace(tool, external_id=external.get(tool.name)) for tool in snapshot.tools
            ),
            rejected=(*snapshot.rejected, *problems),
        ),
        capabilities={"tools": {}},
        protocol_version=API_VERSION,
        eras=frozenset(Era),
        instructions=None,
        init_duration_ms=int((time.monotonic() - began_at) * 1000),
        title=description.title,
        api=ApiFacts(target, facts, content),
    )


async def reach_api(connection: ConnectionSpec, guard: UrlGuard, limits: ReadingLimits) -> None:
    """Check that an API answers at all, whatever it answers.

    Raises:
        UnsafeAddressError: It may not be contacted.
        UpstreamError: It does not answer.
    """
    await reach(connection.url, guard, limits)


async def _allowed(
    tools: tuple[ConvertedTool, ...], guard: UrlGuard, timeout_seconds: float
) -> tuple[list[ConvertedTool], list[Problem]]:
    """Leave out tools whose operations are at other places than the API, where none may be called.

    What a name leads to is looked at again with each call: of a name that cannot be resolved now
    the tools stay.
    """
    urls = {origin_of(tool.base_url): tool.base_url for tool in tools if tool.base_url}
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
    left, problems = [], []
    for tool in tools:
        reason = refused.get(origin_of(tool.base_url)) if tool.base_url else None
        if reason is None:
            left.append(tool)
        else:
            where = origin_of(tool.base_url or "")
            told = f"is at {where}, where it may not be called: {reason}{LEFT_OUT}"
            problems.append(Problem(tool.place, told))
    return left, problems


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


async def _others(
    document: JsonObject, url: str | None, fetcher: DescriptionFetcher
) -> Mapping[str, JsonObject]:
    """Return the other files of a description, and those that they name, by their URLs."""
    files: dict[str, JsonObject] = {}
    wanted = [(document, url)]
    while wanted:
        one, at = wanted.pop()
        for other in sorted(external_references(one, at)):
            if other in files or other == url:
                continue
            if len(files) >= MAX_FILES:
                raise DiscoveryFailedError(f"The description has more than {MAX_FILES} files.")
            fetched = await fetcher.fetch(other)
            files[other] = await asyncio.to_thread(load, fetched.content or b"")
            wanted.append((files[other], other))
    return files


def _convert(
    document: JsonObject, url: str | None, files: Mapping[str, JsonObject], source: ApiSource
) -> tuple[Description, Converted]:
    description = describe(document, url=url, files=files)
    selection = Selection(
        tuple(Rule.model_validate(one) for one in source.include),
        tuple(Rule.model_validate(one) for one in source.exclude),
    )
    return description, tools_of(description, selection)


def _server_of(description: Description) -> str | None:
    """Return the first server that calls can go to."""
    return next(
        (url for url in description.servers if urlsplit(url).scheme in {"http", "https"}), None
    )
