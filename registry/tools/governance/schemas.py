"""Query, bodies and answers of the tools API: snake_case, as the records are stored."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from packages.models.states import ExposureState, RegistrationState
from packages.models.tools import MAX_TAGS
from registry.core import search
from registry.core.text import ONE_LINE, ObjectIdText, Tag
from registry.tools.call_rules import problem_of
from registry.tools.exposure import REVIEWS
from registry.tools.governance.values import ToolFilter, ToolPatch
from registry.tools.metadata import COST_TIER, FLAGS
from registry.web.embedding import Embedding
from registry.web.pages import LargePerPage, PageNumber, Pagination, PerPage

MAX_AT_ONCE = 1_000
MAX_DEPTH = 8
"""Nesting of what people say of a tool beside the flags."""

MAX_METADATA_CHARACTERS = 16 * 1024
MAX_TIER_CHARACTERS = 64
MAX_METADATA = 64

Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS)]
Line = Annotated[str, StringConstraints(pattern=ONE_LINE, strip_whitespace=True, min_length=1)]
Text = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$", min_length=1)
]
Hash = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
    Field(description="`pending_hash` of the tool as it was read, else its `discovery_hash`."),
]


class ToolQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    owner_id: ObjectIdText | None = Field(default=None, description="Id of the server.")
    source_type: Literal["mcp", "openapi"] | None = None
    registration_state: RegistrationState | None = None
    exposure_state: ExposureState | None = None
    review: Literal["pending", "new", "change", "drift"] | None = Field(
        default=None,
        description="Only what waits: `new` tools, a `change` of a definition (one that was "
        "blocked and disabled for it too), or both (`pending`). `drift`: tools that are served "
        "with another definition than their server offers, because a person decided so.",
    )
    tag: list[Tag] = Field(
        default_factory=list, max_length=MAX_TAGS, description="Only tools with all of them."
    )
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    sensitive: bool | None = None
    human_approval_required: bool | None = None
    cost_tier: Annotated[Line | None, Field(max_length=64)] = None
    query: Annotated[Line | None, Field(max_length=200)] = Field(
        default=None, description=search.DESCRIPTION
    )
    include_stale: bool = Field(
        default=False,
        description="Also what servers offer no longer. For those who administer them.",
    )
    include_disabled: bool = Field(
        default=False, description="Also what is disabled or deleted. Likewise."
    )
    page: PageNumber = 1
    per_page: LargePerPage = 50

    def narrowed(self) -> ToolFilter:
        """Return the filter."""
        flags = {name: getattr(self, name) for name in (*FLAGS, COST_TIER)}
        return ToolFilter(
            owner_id=self.owner_id,
            source_type=self.source_type,
            registration_state=self.registration_state,
            exposure_state=self.exposure_state,
            reviews=self._reviews(),
            tags=tuple(dict.fromkeys(self.tag)),
            flags={name: value for name, value in flags.items() if value is not None},
            text=self.query,
            with_stale=self.include_stale,
            with_disabled=self.include_disabled,
        )

    def _reviews(self) -> tuple[str, ...]:
        if self.review is None:
            return ()
        return REVIEWS if self.review == "pending" else (self.review,)


class CatalogQuery(BaseModel):
    """Which tools of REST APIs to list."""

    model_config = ConfigDict(extra="forbid")

    owner_id: ObjectIdText | None = Field(default=None, description="Id of the API.")
    tag: list[Tag] = Field(
        default_factory=list, max_length=MAX_TAGS, description="Only tools with all of them."
    )
    query: Annotated[Line | None, Field(max_length=200)] = Field(
        default=None, description=search.DESCRIPTION
    )
    page: PageNumber = 1
    per_page: LargePerPage = 50

    def narrowed(self) -> ToolFilter:
        """Return the filter."""
        return ToolQuery(
            source_type="openapi", **self.model_dump(exclude={"page", "per_page"})
        ).narrowed()


def _is_tier(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TIER_CHARACTERS


def _unstorable(value: object, depth: int) -> str | None:
    """Say why the database could not keep a value as it is."""
    if isinstance(value, list | dict):
        if depth == 0:
            return f"is nested deeper than {MAX_DEPTH} levels"
        if isinstance(value, dict) and not all(_is_name(name) for name in value):
            return "holds a name that is empty, begins with $ or holds ."
        inner = value.values() if isinstance(value, dict) else value
        return next((problem for item in inner if (problem := _unstorable(item, depth - 1))), None)
    if isinstance(value, int) and abs(value) >= 2**63:
        return "holds a number beyond 64 bits"
    return "holds a null character" if isinstance(value, str) and "\x00" in value else None


def _is_name(name: str) -> bool:
    return bool(name) and not ("\x00" in name or name.startswith("$") or "." in name)


class _Patch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    registration_state: Literal["selected", "unselected"] | None = None
    exposure_state: ExposureState | None = None
    tool_metadata: dict[str, Any] | None = Field(
        default=None,
        max_length=MAX_METADATA,
        description=(
            "Members to set, null to remove one: `read_only`, `destructive`, `idempotent`, "
            "`sensitive`, `human_approval_required` (true or false), `cost_tier` (text), "
            "`validate` (on, report, off), `validate_output` (off, report, enforce), `confirm` "
            "(never, when_destructive, always), `approvals_required` (1 or 2), `billing_tags` "
            "(texts), `price_per_call`, `price_per_kib` (numbers), and others, which are kept. "
            "`metadata` is taken as the same member."
        ),
    )
    tags: Tags | None = Field(
        default=None, description="Instead of those there are; null for none."
    )
    add_tags: Tags = Field(default_factory=list)
    remove_tags: Tags = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _named_as_shown(cls, given: object) -> object:
        if isinstance(given, dict) and "metadata" in given and "tool_metadata" not in given:
            return {
                "tool_metadata" if name == "metadata" else name: value
                for name, value in given.items()
            }
        return given

    @field_validator("registration_state", "exposure_state", "tool_metadata")
    @classmethod
    def _is_something(cls, value: object) -> object:
        if value is None:
            raise ValueError("may not be null; leave it out to keep it")
        return value

    @model_validator(mode="after")
    def _tags_are_set_or_changed(self) -> Self:
        if "tags" in self.model_fields_set and (self.add_tags or self.remove_tags):
            raise ValueError("tags: give either all of them, or add_tags and remove_tags")
        if not set(self.add_tags).isdisjoint(self.remove_tags):
            raise ValueError("add_tags: names a tag that remove_tags names too")
        return self

    @model_validator(mode="after")
    def _metadata_means_something(self) -> Self:
        for name, value in (self.tool_metadata or {}).items():
            if not _is_name(name):
                raise ValueError("tool_metadata: a name may not be empty, begin with $ or hold .")
            if name in FLAGS and not isinstance(value, bool | None):
                raise ValueError(f"tool_metadata.{name}: must be true, false or null")
            if name == COST_TIER and not _is_tier(value):
                raise ValueError(f"tool_metadata.{name}: must be a short line of text, or null")
            problem = problem_of(name, value) or _unstorable(value, MAX_DEPTH)
            if problem is not None:
                raise ValueError(f"tool_metadata.{name}: {problem}")
        if len(json.dumps(self.tool_metadata or {})) > MAX_METADATA_CHARACTERS:
            raise ValueError(f"tool_metadata: has more than {MAX_METADATA_CHARACTERS} characters")
        return self

    def patch(self) -> ToolPatch:
        """Return what is changed."""
        given = self.model_fields_set - {"ids"}
        registration = self.registration_state
        return ToolPatch(
            given=frozenset("metadata" if name == "tool_metadata" else name for name in given),
            display_name=getattr(self, "display_name", None),
            description=getattr(self, "description", None),
            metadata=self.tool_metadata or {},
            tags=tuple(self.tags or ()),
            add_tags=tuple(self.add_tags),
            remove_tags=tuple(self.remove_tags),
            registration_state=None if registration is None else RegistrationState(registration),
            exposure_state=self.exposure_state,
        )


class ToolUpdate(_Patch):
    """What to change; what is left out stays, and null takes an override back."""

    display_name: Annotated[Line | None, Field(max_length=256)] = Field(
        default=None, description="Shown to clients as `title`."
    )
    description: Annotated[Text | None, Field(max_length=65536)] = Field(
        default=None, description="Shown to clients instead of the server's own."
    )


class ToolBulk(_Patch):
    """What to change of many tools."""

    ids: list[ObjectIdText] = Field(min_length=1, max_length=MAX_AT_ONCE)


class ToolDecision(BaseModel):
    """What was looked at."""

    model_config = ConfigDict(extra="forbid")

    hash: Hash


class ToolDecisionItem(BaseModel):
    """One tool, and what was looked at of it."""

    model_config = ConfigDict(extra="forbid")

    id: ObjectIdText
    hash: Hash


class ToolDecisions(BaseModel):
    """Which tools to decide about."""

    model_config = ConfigDict(extra="forbid")

    tools: list[ToolDecisionItem] = Field(min_length=1, max_length=MAX_AT_ONCE)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(self.seen()) < len({(tool.id, tool.hash) for tool in self.tools}):
            raise ValueError("tools: names a tool with two hashes")
        return self

    def seen(self) -> dict[str, str]:
        """Return the hashes by the ids of their tools."""
        return {tool.id: tool.hash for tool in self.tools}


class ToolRollback(BaseModel):
    """Which version to serve."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=2**31 - 1, strict=True)


class MetadataAnswer(BaseModel):
    """One flag, and who says it: `manual`, `upstream` or `inferred`."""

    value: bool | str
    source: str


class ChangeAnswer(BaseModel):
    """One difference between two definitions."""

    weight: str = Field(description="`cosmetic`, `widening`, `narrowing` or `risky`.")
    compatibility: str | None = Field(
        description="`breaking` if calls that worked may fail, do another thing or be answered in "
        "another form, else `safe`; null where it was not recorded."
    )
    path: str = Field(description="JSON Pointer into the definition.")
    summary: str = Field(description="The change in a few words.")
    before: str | None
    after: str | None


class OfferedChange(BaseModel):
    """How a definition that the server offers differs from the one that is served."""

    discovery_hash: str | None = Field(description="Of the offered definition.")
    weight: str | None = Field(description="Of the gravest change; null for an unreadable one.")
    compatibility: str | None = Field(description="`breaking` if one of the changes is.")
    changes: list[ChangeAnswer]


class Drift(OfferedChange):
    """A definition that the server offers and that was decided against."""

    is_rejected: bool = Field(description="Whether that definition itself was rejected.")


class ToolSummary(BaseModel):
    """One tool."""

    id: str
    source_type: str
    owner_id: str
    owner_name: str | None = Field(description="Name of the server.")
    name: str = Field(description="At the server, and at `/mcp/<server>`.")
    external_id: str | None = Field(
        description="What the upstream calls it: of an operation, its id or method and path."
    )
    combined_name: str | None = Field(description="What clients see at `/mcp`.")
    display_name: str | None
    title: str | None
    description: str | None
    registration_state: str
    exposure_state: str
    is_exposed: bool = Field(description="Whether it is served while its server is not inactive.")
    review: str | None = Field(
        description="Why it is in the review queue: `new` and `change` wait for a decision; with "
        "`drift` the server offers what was decided against."
    )
    pending_change: OfferedChange | None = Field(description="The change that waits.")
    drift: Drift | None = Field(
        description="What the server offers instead of what is served, since a rejection or a "
        "rollback."
    )
    blocked: bool = Field(
        description="Whether it is disabled until its changed definition is reviewed."
    )
    tags: list[str]
    metadata: dict[str, MetadataAnswer]
    discovery_hash: str
    pending_hash: str | None
    served_version: int
    pending_version: int | None
    versions: int
    sync_error: str | None
    last_discovered_at: str | None
    last_synced_at: str | None
    created_at: str | None
    updated_at: str | None


class CallRulesAnswer(BaseModel):
    """What is done about each call of a tool."""

    validate_: str = Field(alias="validate", description="`on`, `report` or `off`.")
    validate_output: str = Field(description="`off`, `report` or `enforce`.")
    is_confirmed: bool = Field(description="Whether the caller's user must confirm each call.")
    approvals: int = Field(description="How many people must approve each call.")
    cost_tier: str | None
    billing_tags: list[str]
    price_per_call: float
    price_per_kib: float
    projection: str | None = Field(
        description="What is left of the answer of a REST API, in JMESPath."
    )


class ToolDetail(ToolSummary):
    """One tool with all that is known of it."""

    embedding: Embedding = None
    upstream_description: str | None
    tool_metadata: dict[str, Any]
    call_rules: CallRulesAnswer
    warnings: list[str] = Field(
        description="Where the tool looks more protected than its calls are, and members of "
        "`tool_metadata` that look like misspelt ones."
    )
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    definition: dict[str, Any]
    method: str = Field(description="`call` for MCP; the method of HTTP for operations.")
    pending_definition: dict[str, Any] | None
    offered_definition: dict[str, Any] | None = Field(
        description="What the server offers, where that was decided against; see `drift`."
    )


class ToolList(BaseModel):
    """One page."""

    tools: list[ToolSummary]
    pagination: Pagination


class ToolVersionAnswer(BaseModel):
    """One definition that the tool had or was offered with."""

    version: int
    state: str = Field(description="`served`, `pending`, `rejected` or `superseded`.")
    origin: str
    discovery_hash: str
    weight: str | None
    compatibility: str | None
    compared_with: int | None
    changes: list[ChangeAnswer]
    definition: dict[str, Any]
    created_at: str | None
    created_by: dict[str, str] | None
    decided_at: str | None
    decided_by: dict[str, str] | None


class ToolEventAnswer(BaseModel):
    """One moment in the life of a tool."""

    at: str
    types: list[str] = Field(
        description="All that happened at that moment; docs/tool-lifecycle.md lists the types."
    )
    actor: str = Field(description="`operator`, or `sync`: a reading of the server.")
    by: dict[str, str] | None = Field(description="Who decided, or had the server read.")
    version: int | None = Field(description="Number of the definition concerned.")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class HistoryQuery(BaseModel):
    """Which versions and events to list."""

    model_config = ConfigDict(extra="forbid")

    page: PageNumber = 1
    per_page: PerPage = 20
    events_cursor: Annotated[str | None, StringConstraints(max_length=200)] = Field(
        default=None, description="`next_events_cursor` of the answer before."
    )


class ToolHistory(BaseModel):
    """Versions of one tool and what happened to it, newest first."""

    id: str
    name: str
    served_version: int
    pending_version: int | None
    versions: list[ToolVersionAnswer]
    pagination: Pagination = Field(description="Of the versions.")
    events: list[ToolEventAnswer]
    next_events_cursor: str | None = Field(description="For older events; null for none.")


class BulkFailure(BaseModel):
    """What stood in the way of one tool."""

    id: str
    error: str
    message: str


class ToolDecisionFailure(BulkFailure):
    """What stood in the way of a decision about one tool."""

    outcome: str = Field(
        description="`superseded`: another definition is pending now; `nothing_pending`: no "
        "definition is pending; `unknown`: no such tool; `refused`: the message says why."
    )
    current_hash: str | None = Field(
        description="Hash of the definition that is pending now, where it was superseded."
    )


class DecisionsAnswer(BaseModel):
    """What came of it."""

    changed: list[str] = Field(description="Those that were decided about.")
    failed: list[ToolDecisionFailure]


class BulkAnswer(BaseModel):
    """What came of it."""

    changed: list[str]
    unchanged: list[str]
    failed: list[BulkFailure]
    warnings: list[str] = Field(description="Members that look like misspelt ones.")
