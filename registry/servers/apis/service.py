"""Operations on REST APIs: those on servers, with a description in place of a transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.oauth.policy import grant_of
from registry.openapi.description import check
from registry.openapi.documents import load
from registry.openapi.errors import DescriptionError
from registry.servers.changes import MOVING, FieldChanges, config_of, update_of
from registry.servers.credentials import (
    CredentialVault,
    masked_url,
    needs_user_key,
    require_no_secret,
)
from registry.servers.presenter import present_api_detail
from registry.servers.values import NO_PRECONDITION, Discovered, Precondition, ServerRecord

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

    from registry.auth.identity import UserContext
    from registry.servers.apis.schemas import ApiCreate, ApiPreview, ApiUpdate
    from registry.servers.service import ServerService


class ApiService:
    """Registers, changes and previews REST APIs.

    Args:
        servers: Does the same with what is stored of them, for APIs alone.
    """

    def __init__(self, servers: ServerService, vault: CredentialVault) -> None:
        self.servers = servers
        self._vault = vault

    async def register(
        self, request: ApiCreate, user: UserContext, *, strict: bool
    ) -> ServerRecord:
        """Register an API: read its description, then store it with the tools.

        Raises:
            ValidationFailedError: The given description cannot be read.
            RegistryError: As for servers.
        """
        config = await self._config(request)
        return await self.servers.register(request.as_server(), user, strict=strict, config=config)

    async def preview(self, request: ApiPreview) -> Discovered:
        """Read a description and return what would become of it. Nothing is stored.

        Raises:
            ValidationFailedError: The given description cannot be read.
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The description cannot be fetched, or read.
        """
        return await self.servers.try_config(await self._config(request))

    async def update(
        self,
        api_id: str,
        request: ApiUpdate,
        user: UserContext,
        *,
        precondition: Precondition = NO_PRECONDITION,
    ) -> ServerRecord:
        """Change the given fields only.

        Raises:
            ValidationFailedError: A field cannot have that value.
            RegistryError: As for servers.
        """
        if request.updated_at is not None:
            precondition = replace(precondition, updated_at=request.updated_at)
        servers: tuple[str, ...] = ()
        if request.document is not None:
            servers = await _readable(request.document)

        async def work_out(current: ServerRecord) -> FieldChanges:
            _refuse_read_only(request, current)
            has_base_url = bool(request.base_url or current.config.get("url"))
            if request.document is not None and not has_base_url:
                _require_server(servers)
            server = request.as_server()
            changes = update_of(server, current, self._vault)
            self.servers.check_update(server, current, user)
            return _with_source(changes, request, current)

        return await self.servers.change(api_id, work_out, user, precondition=precondition)

    async def _config(self, request: ApiCreate | ApiPreview) -> JsonObject:
        config, _ = config_of(request.as_server(), self._vault)
        if request.base_url is None and (needs_user_key(config) or grant_of(config) is not None):
            raise ValidationFailedError(
                "baseUrl", "is needed where users have credentials of their own"
            )
        if request.url is not None:
            require_no_secret(request.url, "url")
        source: JsonObject = {}
        if request.url is not None:
            source["description_url"] = request.url
        if request.document is not None:
            servers = await _readable(request.document)
            if request.base_url is None:
                _require_server(servers)
            source["document"] = request.document
        if request.operations is not None:
            source |= _selection(request.operations)
        return {**config, "url": request.base_url or "", "openapi": source}


def _with_source(changes: FieldChanges, request: ApiUpdate, current: ServerRecord) -> FieldChanges:
    """Return the changes with those of the description's place and of the selection."""
    stored = members(current.config.get("openapi"))
    given = request.model_fields_set
    source = dict(stored)
    if "url" in given and request.url is not None:
        shown = stored.get("description_url")
        if not (isinstance(shown, str) and request.url == masked_url(shown)):
            require_no_secret(request.url, "url")
            source["description_url"] = request.url
    if "document" in given and request.document is not None:
        source.pop("description_url", None)
        source["document"] = request.document
    if "operations" in given:
        for name in ("include", "exclude"):
            source.pop(name, None)
        if request.operations is not None:
            source |= _selection(request.operations)
    if source == stored:
        return changes
    written = {**changes.changes, "config.openapi": source}
    return replace(changes, changes=written, reconnects=True)


def _selection(operations: BaseModel) -> JsonObject:
    """Return which operations become tools, as it is stored."""
    stored = operations.model_dump(mode="json", exclude_none=True)
    return {name: cast("JsonValue", rules) for name, rules in stored.items() if rules}


def _refuse_read_only(request: ApiUpdate, current: ServerRecord) -> None:
    shown = present_api_detail(current)
    for name, field in type(request).model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("readOnly")):
            continue
        if name not in request.model_fields_set or name in MOVING:
            continue
        wire = field.alias or name
        if getattr(request, name) != shown.get(wire):
            raise ValidationFailedError(wire, "cannot be changed")


async def _readable(document: str) -> tuple[str, ...]:
    """Return the servers that a given description names.

    Raises:
        ValidationFailedError: It is no description.
    """
    try:
        return await asyncio.to_thread(_servers_of, document)
    except DescriptionError as exc:
        where = f" (at {exc.place})" if exc.place else ""
        raise ValidationFailedError("document", f"{exc.reason}{where}") from exc


def _servers_of(document: str) -> tuple[str, ...]:
    return check(load(document.encode()))


def _require_server(servers: tuple[str, ...]) -> None:
    """Refuse a given description that does not say where calls go.

    Raises:
        ValidationFailedError: It names no server.
    """
    if not servers:
        place = "names no server with an absolute URL (at /servers); give baseUrl"
        raise ValidationFailedError("document", place)
