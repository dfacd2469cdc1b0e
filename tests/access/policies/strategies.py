"""Random policies, callers and tools of a small world, in which they meet often."""

from dataclasses import replace

from hypothesis import strategies as st

from packages.models.states import Effect, SourceType
from registry.access.policies.values import Policy, PolicyTarget, Subjects, ToolFacts
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext

OWNERS = ("1" * 24, "2" * 24)
NAMES = ("echo", "add", "drop_table", "drop_all", "list_*")
PATTERNS = (*NAMES, "*", "drop_*", "*a*", "*_*e", "e*o", "[a]dd", "?dd")
FACETS = ("destructive:true", "read_only:true", "cost_tier:high")
METADATA: tuple[dict[str, bool | str], ...] = (
    {},
    {"destructive": True},
    {"read_only": True, "cost_tier": "high"},
)
USER_IDS = ("a" * 24, "b" * 24)
GROUPS = ("d" * 24, "e" * 24)
CUSTOM = ("finance:read", "ops")


def some(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    """Return a strategy of sets of some of *values*."""
    return st.frozensets(st.sampled_from(values))


subjects = st.builds(
    Subjects,
    users=some(USER_IDS),
    groups=some(GROUPS),
    roles=st.frozensets(st.sampled_from(Role)),
    scopes=some((*CUSTOM, "invoke:tools")),
    everyone=st.booleans(),
)
targets = st.builds(
    PolicyTarget,
    source_type=st.sampled_from([SourceType.MCP, SourceType.MCP, SourceType.OPENAPI]),
    owner_id=st.sampled_from([None, *OWNERS]),
    tools=st.lists(st.sampled_from(PATTERNS), max_size=3).map(tuple),
    metadata=st.sampled_from(METADATA),
)
single = st.builds(
    Policy,
    id=st.just(""),
    name=st.just("policy"),
    effect=st.sampled_from(Effect),
    target=targets,
    subjects=subjects,
    is_enabled=st.sampled_from([True, True, True, False]),
)
policies = st.lists(single, max_size=6).map(
    lambda found: [replace(one, id=f"{number:024x}") for number, one in enumerate(found)]
)
tools = st.builds(
    ToolFacts,
    name=st.sampled_from(NAMES),
    facets=st.frozensets(st.sampled_from(FACETS)).map(lambda found: tuple(sorted(found))),
)
callers = st.builds(
    UserContext,
    user_id=st.sampled_from(USER_IDS),
    username=st.just("somebody"),
    role=st.sampled_from(Role),
    scopes=st.sampled_from([ALL_SCOPES, USER_SCOPES, frozenset()]),
    groups=some(GROUPS),
    custom_scopes=some(CUSTOM),
)
