"""How a tool's arguments become the request of an operation.

A binding is made with the tool, when the description is read, and kept with its definition. To
make a call nothing else of the description is needed, except the security schemes of the API.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.core.json import JsonObject

OPERATION: Final = "mcp-gateway-registry/operation"
"""Member of a definition's `_meta` that holds the binding. Clients never see it."""


class Location(StrEnum):
    """Where a parameter is sent."""

    PATH = "path"
    QUERY = "query"
    QUERY_STRING = "querystring"
    HEADER = "header"
    COOKIE = "cookie"


NOT_ARGUMENTS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
"""Headers that no argument sets: OpenAPI has `Accept`, `Content-Type` and `Authorization` ignored
as parameters, and the others are the connection's or a proxy's."""

HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What the name of a header may be (RFC 9110, 5.6.2)."""

Style = Literal[
    "simple", "label", "matrix", "form", "spaceDelimited", "pipeDelimited", "deepObject", "cookie"
]


class _Bound(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ParameterBinding(_Bound):
    """One parameter.

    Attributes:
        argument: The member of the tool's arguments.
        name: Its name in the request.
        content_type: How its value is written, instead of by *style*.
        allow_reserved: Whether `:/?#[]@!$&'()*+,;=` are sent as they are.
    """

    argument: str
    name: str
    location: Location
    style: Style = "simple"
    explode: bool = False
    allow_reserved: bool = False
    content_type: str | None = None
    required: bool = False


class PartBinding(_Bound):
    """One property of a form or of a multipart body.

    Attributes:
        content_type: Of the part; None by the value's own type.
        is_file: Whether the value is a file: an object with `content` (base64), `content_type`
            and `filename`, or an array of such.
        style: How a form writes arrays and objects; None as *content_type* says.
    """

    content_type: str | None = None
    is_file: bool = False
    style: Style | None = None
    explode: bool = True
    allow_reserved: bool = False


class BodyBinding(_Bound):
    """The body.

    Attributes:
        content_type: The one that is sent.
        argument: The argument that is the whole body; None if the body is an object whose
            properties are arguments themselves.
        properties: Arguments and the properties that they are; without *argument* only.
        is_open: Whether arguments that are neither parameters nor in *properties* are properties
            of their own names.
        is_file: Whether the whole body is a file, as `PartBinding.is_file` has it.
        parts: Properties of forms and multipart bodies that are not written by their types.
        required: Whether a body is sent even if none of its arguments is given.
    """

    content_type: str
    argument: str | None = None
    properties: Mapping[str, str] = Field(default_factory=dict)
    is_open: bool = False
    is_file: bool = False
    parts: Mapping[str, PartBinding] = Field(default_factory=dict)
    required: bool = False


class OperationBinding(_Bound):
    """How one operation is called.

    Attributes:
        method: In capitals.
        path: With `{name}` for path parameters, beginning with a slash; behind `?` is what the
            query holds in each call.
        base_url: Of the operation, where its description names another than the API's.
        security: Alternatives, each of them the names of the schemes that are needed together,
            with their scopes. Empty: none is needed.
        accepts: Media types of successful answers, the preferred one first.
        idempotency_key: The header parameter that makes repetition safe, if there is one.
        is_public: Whether the description says that no credentials are needed (`security: []`):
            none are sent.
        wraps_result: Whether the tool's output schema is that of `{"result": ...}`, because the
            operation answers something else than an object.
    """

    method: str
    path: str
    base_url: str | None = None
    parameters: tuple[ParameterBinding, ...] = ()
    body: BodyBinding | None = None
    security: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    is_public: bool = False
    accepts: tuple[str, ...] = ()
    idempotency_key: str | None = None
    wraps_result: bool = False


class SecurityScheme(_Bound):
    """One security scheme of a description.

    Attributes:
        kind: `basic` and `bearer` are those of HTTP authentication; `other` cannot be used.
        name: Of the header, query parameter or cookie that an API key is sent in.
        location: Where an API key is sent.
        token_url: Of the client credentials flow of `oauth2`, or else of its authorization code
            flow.
        authorization_url: Of its authorization code flow.
        is_unattended: Whether it has the client credentials flow.
        metadata_url: Of `openIdConnect`, or of `oauth2` in 3.2.
        scopes: Those of the flows.
    """

    kind: Literal["apiKey", "basic", "bearer", "oauth2", "openIdConnect", "other"]
    name: str | None = None
    location: Location | None = None
    token_url: str | None = None
    authorization_url: str | None = None
    metadata_url: str | None = None
    is_unattended: bool = False
    scopes: tuple[str, ...] = ()


def binding_of(definition: JsonObject) -> OperationBinding | None:
    """Return how the tool of a definition is called; None if it is not of an API."""
    meta = definition.get("_meta")
    found = meta.get(OPERATION) if isinstance(meta, dict) else None
    if found is None:
        return None
    try:
        return OperationBinding.model_validate(found)
    except ValidationError:
        return None


def with_binding(definition: JsonObject, binding: OperationBinding) -> JsonObject:
    """Return the definition with its binding."""
    meta = definition.get("_meta")
    members = meta if isinstance(meta, dict) else {}
    value = binding.model_dump(mode="json", exclude_defaults=True)
    return {**definition, "_meta": {**members, OPERATION: value}}


def without_binding(definition: JsonObject) -> JsonObject:
    """Return the definition as clients see it."""
    meta = definition.get("_meta")
    if not isinstance(meta, dict) or OPERATION not in meta:
        return definition
    members = {name: value for name, value in meta.items() if name != OPERATION}
    rest = {name: value for name, value in definition.items() if name != "_meta"}
    return {**rest, "_meta": members} if members else rest
