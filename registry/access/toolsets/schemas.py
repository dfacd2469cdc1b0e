"""Query, bodies and answers of the toolsets API: snake_case, as the records are stored."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic import model_validator as validator
from typing_extensions import override

from registry.access.policies.schemas import MAX_TIER_CHARACTERS
from registry.access.toolsets.values import WILDCARD, DefaultFor, ToolsetChange, ToolsetEntry
from registry.core.text import ObjectIdText
from registry.tools.metadata import COST_TIER, FLAGS
from registry.web.pages import LargePerPage, PageNumber, Pagination

MAX_ENTRIES = 1_000
MAX_PRESETS_BYTES = 16 * 1024
MAX_CALLERS = 1_000
MAX_TEXT = 4_096

Line = Annotated[
    str,
    StringConstraints(
        pattern=r"^[^\x00-\x1f\x7f]*$", strip_whitespace=True, min_length=1, max_length=256
    ),
]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=MAX_TEXT)]
ToolsetName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
]
PublicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


class ToolsetQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    query: Line | None = Field(
        default=None, description="Text to look for in names, titles and descriptions."
    )
    page: PageNumber = 1
    per_page: LargePerPage = 50


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ToolsetEntryBody(_Body):
    """The tools that an entry takes, and how they are served."""

    server: Line | None = Field(
        default=None,
        description="Id, name or path of the server; may be absent with *tag* or *metadata*, and "
        "stands for all servers then.",
    )
    tool: Line | None = Field(
        default=None, description="Name of a tool on the server, in which `*` matches any text."
    )
    tag: Line | None = Field(default=None, description="A tag of the tools.")
    metadata: dict[str, Any] | None = Field(
        default=None,
        min_length=1,
        max_length=len(FLAGS) + 1,
        description=f"What is known of the tools' effects: {', '.join(FLAGS)} (true or false), "
        f"{COST_TIER} (text).",
    )
    name: PublicName | None = Field(default=None, description="What clients call the tool.")
    title: Line | None = None
    description: Text | None = None
    arguments: dict[str, Any] | None = Field(
        default=None,
        description="Arguments that are sent with every call, and that clients neither see nor "
        "can change.",
    )
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None,
        description="Serve the tool only while its served version has this number.",
    )

    @field_validator("metadata")
    @classmethod
    def _is_known(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, fact in (value or {}).items():
            fits = isinstance(fact, bool) if name in FLAGS else isinstance(fact, str)
            if name == COST_TIER and fits and not 0 < len(fact) <= MAX_TIER_CHARACTERS:
                raise ValueError(f"{name}: must be text of 1 to {MAX_TIER_CHARACTERS} characters")
            if (name not in FLAGS and name != COST_TIER) or not fits:
                raise ValueError(
                    f"takes {', '.join(FLAGS)} (true or false) and {COST_TIER} (text)"
                )
        return value

    @field_validator("arguments")
    @classmethod
    def _can_be_sent(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            try:
                text = orjson.dumps(value)
            except TypeError:
                raise ValueError("a number has more than 64 bits") from None
            if len(text) > MAX_PRESETS_BYTES:
                raise ValueError(f"has more than {MAX_PRESETS_BYTES} bytes")
        return value

    @validator(mode="after")
    def _selects(self) -> Self:
        given = [one for one in (self.tool, self.tag, self.metadata) if one is not None]
        if len(given) != 1:
            raise ValueError("give one of tool, tag and metadata")
        if self.tool is not None and self.server is None:
            raise ValueError("tool needs server")
        is_exact = self.tool is not None and WILDCARD not in self.tool
        exact = ("name", "title", "description", "version")
        if not is_exact and any(getattr(self, member) is not None for member in exact):
            raise ValueError(f"{', '.join(exact)} need tool, the name of one tool")
        return self

    def entry(self) -> ToolsetEntry:
        """Return the value; its server is not known yet."""
        return ToolsetEntry(
            tool=self.tool,
            tag=self.tag,
            metadata=tuple(sorted((self.metadata or {}).items())),
            name=self.name,
            title=self.title,
            description=self.description,
            arguments=orjson.dumps(self.arguments).decode() if self.arguments else "",
            version=self.version,
        )


class DefaultForBody(_Body):
    """The callers whose `/mcp` the toolset narrows."""

    users: Annotated[list[ObjectIdText], Field(max_length=MAX_CALLERS)] = Field(
        default_factory=list
    )
    roles: list[Literal["admin", "user"]] = Field(default_factory=list)
    tokens: Annotated[list[Line], Field(max_length=MAX_CALLERS)] = Field(
        default_factory=list, description="The `jti` of tokens of the registry."
    )
    clients: Annotated[list[Line], Field(max_length=MAX_CALLERS)] = Field(
        default_factory=list,
        description="Names that clients give themselves (`clientInfo.name`); no protection.",
    )

    def callers(self) -> DefaultFor:
        """Return the value."""
        return DefaultFor(
            users=tuple(dict.fromkeys(one.lower() for one in self.users)),
            roles=tuple(dict.fromkeys(self.roles)),
            tokens=tuple(dict.fromkeys(self.tokens)),
            clients=tuple(dict.fromkeys(self.clients)),
        )


class ToolsetPatch(_Body):
    """The members to change."""

    name: ToolsetName | None = None
    title: Line | None = None
    description: Text | None = None
    entries: Annotated[list[ToolsetEntryBody], Field(max_length=MAX_ENTRIES)] | None = None
    default_for: DefaultForBody | None = None

    @field_validator("name", "entries", "default_for")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null")
        return value

    @validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.entries or () if entry.name is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"entries: the name {twice[0]!r} is given twice")
        return self

    def change(self) -> ToolsetChange:
        """Return the value."""
        return _change(self, frozenset(self.model_fields_set))


class ToolsetBody(ToolsetPatch):
    """A whole toolset; what is absent is empty."""

    name: ToolsetName
    entries: Annotated[list[ToolsetEntryBody], Field(max_length=MAX_ENTRIES)]

    @override
    def change(self) -> ToolsetChange:
        """Return the value."""
        return _change(self, frozenset(ToolsetPatch.model_fields))


def _change(body: ToolsetPatch, given: frozenset[str]) -> ToolsetChange:
    entries = body.entries or []
    return ToolsetChange(
        members=given,
        name=body.name or "",
        title=body.title,
        description=body.description,
        entries=tuple(entry.entry() for entry in entries),
        servers=tuple(entry.server for entry in entries),
        default_for=DefaultFor() if body.default_for is None else body.default_for.callers(),
    )


class EntryAnswer(BaseModel):
    """An entry as answered: with what was given."""

    server: str | None = Field(default=None, description="Id of the server.")
    tool: str | None = None
    tag: str | None = None
    metadata: dict[str, Any] | None = None
    name: str | None = None
    title: str | None = None
    description: str | None = None
    arguments: dict[str, Any] | None = None
    hidden_arguments: list[str] | None = Field(
        default=None, description="Names alone, for those who may not change the toolset."
    )
    version: int | None = None


class DefaultForAnswer(BaseModel):
    """The callers whose `/mcp` the toolset narrows."""

    users: list[str]
    roles: list[str]
    tokens: list[str]
    clients: list[str]


class ResolvedAnswer(BaseModel):
    """A tool that the toolset serves to the caller now."""

    name: str
    server_id: str
    server_name: str
    tool: str
    entry: int = Field(description="Number of the entry that takes it, from 0.")


class ProblemAnswer(BaseModel):
    """Why an entry, or a tool of it, is withheld."""

    entry: int
    message: str


class PersonAnswer(BaseModel):
    """A user who changed something."""

    user_id: str
    username: str


class ToolsetAnswer(BaseModel):
    """A toolset."""

    id: str
    path: str
    name: str
    title: str | None
    description: str | None
    entries: list[EntryAnswer]
    default_for: DefaultForAnswer
    scope: str
    author: str
    permissions: dict[str, bool]
    tools: list[ResolvedAnswer] | None = Field(
        description="What it serves to the caller now; null in lists."
    )
    problems: list[ProblemAnswer] | None
    etag: str
    created_at: str | None
    created_by: PersonAnswer | None
    updated_at: str | None
    updated_by: PersonAnswer | None


class ToolsetList(BaseModel):
    """A page of toolsets."""

    toolsets: list[ToolsetAnswer]
    pagination: Pagination
