"""Query, bodies and answers of the access API: snake_case, as the records are stored."""

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic import model_validator as validator

from packages.models.states import Effect, SourceType
from registry.access.policies.values import (
    PolicyChange,
    PolicyFilter,
    PolicyTarget,
    Subjects,
    SubjectType,
)
from registry.auth.identity import SCOPE_NAME, Role
from registry.core.text import OBJECT_ID, ObjectIdText
from registry.tools.metadata import COST_TIER, FLAGS
from registry.tools.naming import SEPARATOR
from registry.web.pages import LargePerPage, PageNumber, Pagination

MAX_SUBJECTS = 1_000
MAX_SCOPES = 64
MAX_TOOLS = 100
MAX_TOOL_CHARACTERS = 256
MAX_TIER_CHARACTERS = 64

Line = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", strip_whitespace=True, min_length=1)
]
ToolName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[^\x00-\x1f\x7f]*$", min_length=1, max_length=MAX_TOOL_CHARACTERS
    ),
]
ScopeName = Annotated[str, StringConstraints(pattern=SCOPE_NAME)]


class PolicyQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    owner_id: ObjectIdText | None = Field(
        default=None, description="Id of the server that the policies are about."
    )
    applies_to: ObjectIdText | None = Field(
        default=None, description="Id of a server: policies about it, and those about all."
    )
    subject_type: SubjectType | None = Field(
        default=None, description="Only policies that name callers by this, and *subject_id*."
    )
    subject_id: Annotated[Line | None, Field(max_length=128)] = Field(
        default=None,
        description="ObjectId of the user or group, or name of the role or scope; none for "
        "`everyone`.",
    )
    tool: ToolName | None = Field(
        default=None, description="Only policies about a tool of this name, by wildcards too."
    )
    effect: Effect | None = None
    enabled: bool | None = None
    query: Annotated[Line | None, Field(max_length=200)] = Field(
        default=None, description="Text to look for in names and descriptions."
    )
    page: PageNumber = 1
    per_page: LargePerPage = 50

    @validator(mode="after")
    def _subject_fits(self) -> Self:
        kind, subject_id = self.subject_type, self.subject_id
        if (kind in {None, SubjectType.EVERYONE}) != (subject_id is None):
            raise ValueError("subject_type and subject_id go together; everyone has no id")
        is_id = re.fullmatch(OBJECT_ID, subject_id or "") is not None
        if kind in {SubjectType.USER, SubjectType.GROUP} and not is_id:
            raise ValueError("subject_id must be 24 hexadecimal characters")
        return self

    def narrowed(self) -> PolicyFilter:
        """Return the filter."""
        kind = self.subject_type
        return PolicyFilter(
            owner_id=self.owner_id,
            tool=self.tool,
            effect=self.effect,
            is_enabled=self.enabled,
            text=self.query,
            applies_to=self.applies_to,
            subject=None if kind is None else (kind, self.subject_id or ""),
        )


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TargetBody(_Body):
    """The tools that a policy is about: those of which all of this is true."""

    source_type: SourceType | None = Field(
        default=None,
        description="For tools of all servers: `mcp` for those of MCP servers alone, `openapi` "
        "for operations of REST APIs alone, null for both. With `owner_id` it is that one's.",
    )
    owner_id: ObjectIdText | None = Field(
        default=None, description="Id of the server or API that offers them; null for all."
    )
    tools: Annotated[list[ToolName], Field(max_length=MAX_TOOLS)] = Field(
        default_factory=list,
        description="Names of tools, in which `*` stands for any text; empty for all.",
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        max_length=len(FLAGS) + 1,
        description=f"What is known of their effects: {', '.join(FLAGS)} (true or false), "
        f"{COST_TIER} (text).",
    )

    @field_validator("metadata")
    @classmethod
    def _is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, fact in value.items():
            if name in FLAGS and not isinstance(fact, bool):
                raise ValueError(f"{name}: must be true or false")
            if name == COST_TIER and not (
                isinstance(fact, str) and 0 < len(fact) <= MAX_TIER_CHARACTERS
            ):
                raise ValueError(f"{name}: must be text of 1 to {MAX_TIER_CHARACTERS} characters")
            if name not in {*FLAGS, COST_TIER}:
                raise ValueError(f"there is no {name[:64]!r}: {', '.join((*FLAGS, COST_TIER))}")
        return value

    def value(self) -> PolicyTarget:
        """Return the value."""
        tools = tuple(dict.fromkeys(re.sub(r"\*+", "*", name) for name in self.tools))
        return PolicyTarget(self.source_type, self.owner_id, tools, dict(self.metadata))


class SubjectsBody(_Body):
    """The callers whom a policy names: those of whom any of this is true."""

    users: Annotated[list[ObjectIdText], Field(max_length=MAX_SUBJECTS)] = Field(
        default_factory=list
    )
    groups: Annotated[list[ObjectIdText], Field(max_length=MAX_SUBJECTS)] = Field(
        default_factory=list
    )
    roles: Annotated[list[Role], Field(max_length=len(Role))] = Field(default_factory=list)
    scopes: Annotated[list[ScopeName], Field(max_length=MAX_SCOPES)] = Field(
        default_factory=list,
        description="Scopes of the caller's token (RFC 6749, 3.3), of which one is enough.",
    )
    everyone: Annotated[bool, Field(strict=True)] = False

    @validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.value() == Subjects():
            raise ValueError("name at least one user, group, role or scope, or everyone")
        return self

    def value(self) -> Subjects:
        """Return the value."""
        return Subjects(
            frozenset(self.users),
            frozenset(self.groups),
            frozenset(self.roles),
            frozenset(self.scopes),
            self.everyone,
        )


class PolicyCreate(_Body):
    """A policy to make."""

    name: Annotated[Line, Field(max_length=128)]
    description: Annotated[Line | None, Field(max_length=1024)] = None
    effect: Effect
    is_enabled: Annotated[bool, Field(strict=True)] = True
    target: TargetBody
    subjects: SubjectsBody

    def change(self) -> PolicyChange:
        """Return the requested change."""
        return PolicyChange(
            members=frozenset(PolicyCreate.model_fields),
            name=self.name,
            description=self.description,
            effect=self.effect,
            is_enabled=self.is_enabled,
            target=self.target.value(),
            subjects=self.subjects.value(),
        )


class PolicyUpdate(_Body):
    """What to change; what is left out stays. *target* and *subjects* are replaced as a whole."""

    name: Annotated[Line, Field(max_length=128)] = ""
    description: Annotated[Line | None, Field(max_length=1024)] = Field(
        default=None, description="null removes it."
    )
    effect: Effect = Effect.ALLOW
    is_enabled: Annotated[bool, Field(strict=True)] = True
    target: TargetBody = Field(default_factory=TargetBody)
    subjects: SubjectsBody | None = None

    @validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed")
        if "subjects" in self.model_fields_set and self.subjects is None:
            raise ValueError("subjects: must not be null")
        return self

    def change(self) -> PolicyChange:
        """Return the requested change."""
        return PolicyChange(
            members=frozenset(self.model_fields_set),
            name=self.name,
            description=self.description,
            effect=self.effect,
            is_enabled=self.is_enabled,
            target=self.target.value(),
            subjects=Subjects() if self.subjects is None else self.subjects.value(),
        )


class ExplainRequest(_Body):
    """A caller and a tool. Without anything about a caller it is who asks."""

    server_id: ObjectIdText | None = None
    path: Annotated[Line | None, Field(max_length=256)] = Field(
        default=None,
        description="As `/mcp/weather` or `/mcp/toolsets/agent`, or `/mcp` for all servers.",
    )
    tool: Annotated[
        ToolName,
        Field(description="Its name at that path, or on the combined server, `weather__get`."),
    ]
    user_id: ObjectIdText | None = Field(
        default=None,
        description="Their role and groups are looked up where not given, for administrators.",
    )
    groups: Annotated[list[ObjectIdText] | None, Field(max_length=MAX_SUBJECTS)] = None
    roles: Annotated[list[Role] | None, Field(min_length=1, max_length=1)] = None
    scopes: Annotated[list[ScopeName] | None, Field(max_length=MAX_SCOPES)] = Field(
        default=None, description="Of their token; those of the role where not given."
    )
    toolset: Annotated[Line | None, Field(max_length=64)] = Field(
        default=None, description="The header `Mcp-Toolset` of the call."
    )
    client_name: Annotated[Line | None, Field(max_length=128)] = Field(
        default=None,
        description="What the application calls itself: toolsets may be its by default.",
    )

    @validator(mode="after")
    def _one_server(self) -> Self:
        if self.server_id is not None and self.path is not None:
            raise ValueError("give either server_id or path")
        if self.server_id is None and self.path is None and SEPARATOR not in self.tool:
            raise ValueError("give server_id or path, or the name that tool has at /mcp")
        return self

    @property
    def is_about_the_caller(self) -> bool:
        """Whether the question concerns no other user."""
        about = (self.user_id, self.groups, self.roles, self.scopes)
        return all(value is None for value in about)


class PersonAnswer(BaseModel):
    """Who did something."""

    user_id: str
    username: str


class TargetAnswer(BaseModel):
    """The tools that a policy is about."""

    source_type: str | None
    owner_id: str | None
    tools: list[str]
    metadata: dict[str, Any]


class SubjectsAnswer(BaseModel):
    """The callers whom a policy names."""

    users: list[str]
    groups: list[str]
    roles: list[str]
    scopes: list[str]
    everyone: bool


class PolicyAnswer(BaseModel):
    """One policy."""

    id: str
    name: str
    description: str | None
    effect: Effect
    is_enabled: bool
    target: TargetAnswer
    subjects: SubjectsAnswer
    problem: str | None = Field(
        description="Why the stored policy cannot be read; all it may be about is refused then."
    )
    etag: str = Field(description="What `If-Match` takes.")
    created_at: str | None
    created_by: PersonAnswer | None
    updated_at: str | None
    updated_by: PersonAnswer | None


CONSEQUENCE = (
    "What the change does to the tools there are now, in words; null if that could not be read. "
    "It is in force in any case."
)


class PolicyRemoved(BaseModel):
    """A policy that was just removed."""

    id: str
    consequence: str | None = Field(description=CONSEQUENCE)


class PolicyWithWarnings(PolicyAnswer):
    """A policy that was just written."""

    consequence: str | None = Field(description=CONSEQUENCE)
    warnings: list[str] = Field(description="What may not be as it was meant.")


class PolicyList(BaseModel):
    """One page."""

    policies: list[PolicyAnswer]
    pagination: Pagination


class PolicyReason(BaseModel):
    """A policy about the tool."""

    id: str
    name: str
    effect: Effect
    matched: bool = Field(description="Whether it names the caller.")
    matched_by: list[str] = Field(description="The subjects of the policy that name the caller.")
    decisive: bool = Field(description="Whether the decision follows from it.")


class ReasonAnswer(BaseModel):
    """One step on the way to a tool."""

    step: str = Field(
        description="`quarantine`, `server`, `tool`, `access`, `scope`, `policy`, `toolset`, "
        "`limit`, `budget`, `confirmation` or `approval`."
    )
    passed: bool
    message: str
    retry_after_ms: int | None = Field(
        description="Of a limit or budget that is used up: after how long it no longer is."
    )


class ExplainAnswer(BaseModel):
    """Whether a caller may use a tool, and why."""

    allowed: bool
    message: str
    server_id: str
    tool: str = Field(description="Its name on that server.")
    reasons: list[ReasonAnswer] = Field(description="In the order in which they are looked at.")
    policies: list[PolicyReason]
    warnings: list[str] = Field(
        description="What may surprise: policies that close the tool to all others. For those who "
        "may read the policies."
    )
