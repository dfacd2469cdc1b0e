"""Operations on REST APIs: those on servers, with a description in place of a transport."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.oauth.policy import grant_of
from registry.oauth.values import Grant
from registry.openapi.bundles import bundled, unbundled
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
from registry.servers.described_keys import key_placed
from registry.servers.errors import DiscoveryFailedError
from registry.servers.presenter import present_api_detail
from registry.servers.values import (
    NO_PRECONDITION,
    PLACES_KEY,
    Discovered,
    Precondition,
    ServerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel, JsonValue

    from registry.auth.identity import UserContext
    from registry.servers.apis.schemas import ApiCreate, ApiPreview, ApiUpdate
    from registry.servers.schemas import ApiKeyInput
    from registry.servers.service import ServerService


New = TypeVar("New", "ApiCreate", "ApiPreview")
Asked = TypeVar("Asked", "ApiCreate", "ApiPreview", "ApiUpdate")


@dataclass(frozen=True, slots=True)
class Previewed:
    """What would become of a description.

    Attributes:
        config: As it would be stored.
    """

    found: Discovered
    config: JsonObject


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
        request = await self._with_tokens(request)
        config = await self._config(request)
        return await self.servers.register(request.as_server(), user, strict=strict, config=config)

    async def preview(self, request: ApiPreview) -> Previewed:
        """Read a description and return what would become of it. Nothing is stored.

        Raises:
            ValidationFailedError: The given description cannot be read.
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The description cannot be fetched, or read.
        """
        config = await self._config(await self._with_tokens(request))
        found = await self.servers.try_config(config)
        return Previewed(found, {**config, **key_placed(config, found)})

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
        given: _Given | None = None
        if request.document is not None:
            given = await _given(request, request.document)

        async def work_out(current: ServerRecord) -> FieldChanges:
            nonlocal request
            _refuse_read_only(request, current)
            if _lacks_tokens(request) and not members(current.config.get("oauth")):
                request = _with_source_of_tokens(request, members(current.registry.get("api")))
            has_base_url = bool(request.base_url or current.config.get("url"))
            if given is not None and not has_base_url:
                _require_server(given)
            server = request.as_server()
            changes = update_of(server, current, self._vault)
            self.servers.check_update(server, current, user)
            return _with_source(changes, request, current, given)

        return await self.servers.change(api_id, work_out, user, precondition=precondition)

    async def _with_tokens(self, request: New) -> New:
        """Return the request with where tokens are obtained, if it gives id and secret alone.

        Raises:
            ValidationFailedError: The description does not say it, or cannot be read.
        """
        if not _lacks_tokens(request):
            return request
        bare = request.model_copy(update={"oauth": None, "requires_oauth": None})
        try:
            found = await self.servers.try_config(await self._config(bare))
        except DiscoveryFailedError as exc:
            raise ValidationFailedError(
                "oauth.token_url", f"is needed where the description cannot be read: {exc.message}"
            ) from exc
        assert found.api is not None  # noqa: S101 - what is read is an API
        completed = _with_source_of_tokens(request, found.api.facts)
        if completed.base_url is None:
            completed = completed.model_copy(update={"base_url": found.api.base_url})
            completed.model_fields_set.add("base_url")
        return completed

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
            given = await _given(request, request.document)
            if request.base_url is None:
                _require_server(given)
            source["document"] = given.text
        if request.operations is not None:
            source |= _selection(request.operations)
        if _leaves_place(request.api_key):
            source[PLACES_KEY] = True
        return {**config, "url": request.base_url or "", "openapi": source}


def _with_source(
    changes: FieldChanges, request: ApiUpdate, current: ServerRecord, description: _Given | None
) -> FieldChanges:
    """Return the changes with those of the description's place and of the selection."""
    stored = members(current.config.get("openapi"))
    given = request.model_fields_set
    source = dict(stored)
    if "url" in given and request.url is not None:
        shown = stored.get("description_url")
        if not (isinstance(shown, str) and request.url == masked_url(shown)):
            require_no_secret(request.url, "url")
            source["description_url"] = request.url
    if description is not None:
        source.pop("description_url", None)
        source["document"] = description.text
    if "operations" in given:
        for name in ("include", "exclude"):
            source.pop(name, None)
        if request.operations is not None:
            source |= _selection(request.operations)
    if "api_key" in given:
        source.pop(PLACES_KEY, None)
        if _leaves_place(request.api_key):
            source[PLACES_KEY] = True
    if source == stored:
        return changes
    written = {**changes.changes, "config.openapi": source}
    return replace(changes, changes=written, reconnects=True)


def _leaves_place(api_key: ApiKeyInput | None) -> bool:
    """Whether a key is given, and not how it is sent."""
    said = {"authorization_type", "custom_header", "location"}
    return api_key is not None and not said & api_key.model_fields_set


def _lacks_tokens(request: ApiCreate | ApiPreview | ApiUpdate) -> bool:
    """Whether id and secret of a client are given, and not where it obtains tokens."""
    oauth = request.oauth
    return (
        oauth is not None
        and oauth.client_id is not None
        and oauth.client_secret not in {None, MASK}
        and oauth.token_url is None
        and oauth.authorization_url is None
        and request.requires_oauth is not False
    )


def _with_source_of_tokens(request: Asked, facts: JsonObject) -> Asked:
    """Return the request with what the description says of the client's tokens.

    Raises:
        ValidationFailedError: It does not say where they are obtained.
    """
    oauth = request.oauth
    assert oauth is not None  # noqa: S101 - see _lacks_tokens
    grants = oauth.grant_types_supported
    is_unattended = grants is None or Grant.CLIENT_CREDENTIALS.value in grants
    found = members(facts.get("tokens")) if is_unattended else {}
    if found:
        grants = [Grant.CLIENT_CREDENTIALS.value]
    elif grants is None or Grant.AUTHORIZATION_CODE.value in grants:
        found = members(facts.get("users_tokens"))
    if not found:
        raise ValidationFailedError(
            "oauth.token_url",
            "is needed: no one security scheme of the description says where tokens are obtained",
        )
    token_url = str(found["token_url"])
    filled = {
        "token_url": token_url,
        # The other application refuses a secret without it, and never uses it here.
        "authorization_url": str(found.get("authorization_url", token_url)),
        "grant_types_supported": grants,
    }
    if oauth.scope is None and found.get("scope"):
        filled["scope"] = str(found["scope"])
    filled = {name: value for name, value in filled.items() if value is not None}
    completed = request.model_copy(
        update={
            "oauth": oauth.model_copy(update=filled),
            "requires_oauth": True,
        }
    )
    assert completed.oauth is not None  # noqa: S101 - put there
    completed.oauth.model_fields_set.update(filled)
    completed.model_fields_set.add("requires_oauth")
    return completed


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


@dataclass(frozen=True, slots=True)
class _Given:
    """A description that was given.

    Attributes:
        text: With the other files, if there are any.
        servers: What it names as its servers.
    """

    text: str
    servers: tuple[str, ...]


async def _given(request: ApiCreate | ApiPreview | ApiUpdate, document: str) -> _Given:
    """Return a description that was given with a request.

    Raises:
        ValidationFailedError: It is none, or one of its files cannot be read.
    """
    name, files = request.document_name, request.files or {}
    return await asyncio.to_thread(_taken, document, name, files)


def _taken(document: str, name: str | None, files: Mapping[str, str]) -> _Given:
    field = "document"
    try:
        whole = load(document.encode())
        servers = check(whole)
        unbundled(whole)
        if not files:
            return _Given(document, servers)
        parsed: dict[str, JsonObject] = {}
        for file, text in files.items():
            field = f"files.{file}"
            parsed[file] = load(text.encode())
    except DescriptionError as exc:
        where = f" (at {exc.place})" if exc.place else ""
        raise ValidationFailedError(field, f"{exc.reason}{where}") from exc
    return _Given(bundled(whole, name, parsed), servers)


def _require_server(given: _Given) -> None:
    """Refuse a given description that does not say where calls go.

    Raises:
        ValidationFailedError: It names no server.
    """
    if not given.servers:
        place = "names no server with an absolute URL (at /servers); give baseUrl"
        raise ValidationFailedError("document", place)
