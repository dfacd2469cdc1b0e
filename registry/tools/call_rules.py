"""Call rules: what a tool's metadata and its server demand of each call. Pure.

Only people state them: members of a tool's `tool_metadata`, and defaults of its server. Upstreams
claim effects, which are shown and never demand anything here. A stored value that is not as it
should be counts as the stricter one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

from registry.openapi.projection import Projection, ProjectionError
from registry.tools.metadata import (
    COST_TIER,
    DESTRUCTIVE,
    FLAGS,
    HUMAN_APPROVAL_REQUIRED,
    facet,
    requires_approval,
)
from registry.usage.values import Charge

VALIDATE = "validate"
VALIDATE_OUTPUT = "validate_output"
CONFIRM = "confirm"
APPROVALS_REQUIRED = "approvals_required"
BILLING_TAGS = "billing_tags"
PRICE_PER_CALL = "price_per_call"
PRICE_PER_KIB = "price_per_kib"
PROJECTION = "projection"

MEMBERS = (
    *(DESTRUCTIVE, HUMAN_APPROVAL_REQUIRED, COST_TIER),
    *(VALIDATE, VALIDATE_OUTPUT, CONFIRM, APPROVALS_REQUIRED),
    *(BILLING_TAGS, PRICE_PER_CALL, PRICE_PER_KIB),
    PROJECTION,
)
"""The members of `tool_metadata` that call rules are made from."""

LIKENESS = 0.75
"""From here on (`difflib`, 0 to 1) a name is taken for a misspelt one: `destructve`,
`humanApprovalRequired` and `readOnlyHint` are, `team` and `owner` are not."""

SERVER_MEMBERS = (VALIDATE, VALIDATE_OUTPUT, CONFIRM)
"""Those that a server has defaults for, in `registry.call_rules`."""

MAX_APPROVALS = 2
MAX_BILLING_TAGS = 20
MAX_BILLING_TAG_CHARACTERS = 64
MILLION = 1_000_000
MAX_PRICE = 1_000_000


class ArgumentValidation(StrEnum):
    """What happens to arguments that do not match the served definition."""

    ON = "on"
    REPORT = "report"
    OFF = "off"


class OutputValidation(StrEnum):
    """What happens to a result that does not match the served output schema."""

    ENFORCE = "enforce"
    REPORT = "report"
    OFF = "off"


class Confirmation(StrEnum):
    """Which calls their user must confirm."""

    ALWAYS = "always"
    WHEN_DESTRUCTIVE = "when_destructive"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class CallRules:
    """What is done about each call of a tool besides forwarding it.

    Attributes:
        is_confirmed: Whether the caller's user must confirm each call.
        approvals: How many people must approve each call; 0 for none.
        price_per_call: Millionths of the currency unit, as is the next.
        price_per_kib: For each KiB of request and response.
        projection: What is left of the answer of a REST API, in JMESPath; None for all.
        charge: What is charged for each call; None for no price, tier or tags.
    """

    validate: ArgumentValidation = ArgumentValidation.ON
    validate_output: OutputValidation = OutputValidation.OFF
    is_confirmed: bool = False
    approvals: int = 0
    cost_tier: str | None = None
    billing_tags: tuple[str, ...] = ()
    price_per_call: int = 0
    price_per_kib: int = 0
    projection: str | None = None
    charge: Charge | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set what follows from the other members, for all calls."""
        charge = None
        if self.price_per_call or self.price_per_kib or self.billing_tags or self.cost_tier:
            charge = Charge(
                self.cost_tier, self.billing_tags, self.price_per_call, self.price_per_kib
            )
        object.__setattr__(self, "charge", charge)


NO_CALL_RULES = CallRules()


def call_rules(
    said: Mapping[str, Any],
    facets: Iterable[str],
    defaults: Mapping[str, Any],
    *,
    is_shared: bool,
    enforces_approvals: bool,
) -> CallRules:
    """Return the rules for calls of one tool.

    Args:
        said: The tool's `tool_metadata`: what people stated.
        facets: Its known effects, as texts `flag:value`.
        defaults: Of its server.
        is_shared: Whether the server is used by others than its author.
        enforces_approvals: Whether `human_approval_required` has an effect.
    """
    facets = tuple(facets)
    approvals = 0
    if enforces_approvals and requires_approval(facets):
        asked = said.get(APPROVALS_REQUIRED, 1)
        approvals = 1 if asked == 1 and asked is not True else MAX_APPROVALS
    tags = said.get(BILLING_TAGS)
    tier = said.get(COST_TIER)
    return CallRules(
        validate=_choice(ArgumentValidation, VALIDATE, said, defaults) or ArgumentValidation.ON,
        validate_output=_choice(OutputValidation, VALIDATE_OUTPUT, said, defaults)
        or OutputValidation.OFF,
        is_confirmed=_is_confirmed(said, facets, defaults, is_shared=is_shared),
        approvals=approvals,
        cost_tier=tier if isinstance(tier, str) else None,
        billing_tags=_tags(tags),
        price_per_call=_price(said.get(PRICE_PER_CALL)),
        price_per_kib=_price(said.get(PRICE_PER_KIB)),
        projection=_projection(said.get(PROJECTION)),
    )


def problem_of(name: str, value: object) -> str | None:
    """Say what is wrong with a member of `tool_metadata` that somebody states; None if nothing.

    Members that call rules are not made from are no problem, and neither is null, which removes
    one.
    """
    if value is None:
        return None
    if name in CHOICES:
        kinds = [kind.value for kind in CHOICES[name]]
        return None if value in kinds else f"must be one of {', '.join(kinds)}, or null"
    if name == APPROVALS_REQUIRED:
        is_number = type(value) is int and 1 <= value <= MAX_APPROVALS
        return None if is_number else f"must be a whole number from 1 to {MAX_APPROVALS}, or null"
    if name in {PRICE_PER_CALL, PRICE_PER_KIB}:
        said = f"must be a number from 0 to {MAX_PRICE} with at most six decimals, or null"
        return None if _is_price(value) else said
    problem: str | None = None
    if name == PROJECTION:
        problem = _problem_of_projection(value)
    elif name == BILLING_TAGS and not _are_tags(value):
        problem = (
            f"must be a list of at most {MAX_BILLING_TAGS} different tags of one line and at most "
            f"{MAX_BILLING_TAG_CHARACTERS} characters each, or null"
        )
    return problem


def misspelt(names: Iterable[str]) -> list[str]:
    """Return which members of `tool_metadata` look like misspelt ones; one sentence each.

    They are kept: the other application and people may use any name.
    """
    effective = (*FLAGS, *MEMBERS)
    found = []
    for name in names:
        if name in effective:
            continue
        like = get_close_matches(name.lower(), effective, n=1, cutoff=LIKENESS)
        if like:
            found.append(f"{name[:64]} has no effect. Did you mean {like[0]}?")
    return found


def warnings_of(
    rules: CallRules,
    said: Mapping[str, Any],
    facets: Iterable[str],
    defaults: Mapping[str, Any],
) -> list[str]:
    """Return where a tool looks more protected than its calls are; one sentence each."""
    found = misspelt(said)
    is_destructive = facet(DESTRUCTIVE, value=True) in facets
    if not rules.is_confirmed and said.get(CONFIRM) is None and defaults.get(CONFIRM) is None:
        if said.get(DESTRUCTIVE) is True:
            found.append(
                "The tool is destructive, and its calls are not confirmed, because its server is "
                "its author's alone. Set confirm to have them confirmed."
            )
        elif is_destructive:
            found.append(
                "Only the server or the tool's name claims that the tool is destructive, which "
                "demands no confirmation. Set destructive or confirm to have its calls confirmed."
            )
    if not rules.is_confirmed and said.get(DESTRUCTIVE) is True and _says_never(said, defaults):
        found.append(
            "The tool is destructive, and its calls are not confirmed, because confirm is never."
        )
    if said.get(CONFIRM) == Confirmation.WHEN_DESTRUCTIVE and not is_destructive:
        found.append("Calls are confirmed when the tool is destructive, which nobody says of it.")
    if said.get(APPROVALS_REQUIRED) is not None and not rules.approvals:
        found.append("approvals_required has no effect without human_approval_required.")
    return found


def _says_never(said: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    return Confirmation.NEVER in (said.get(CONFIRM), defaults.get(CONFIRM))


CHOICES: Mapping[str, type[StrEnum]] = {
    VALIDATE: ArgumentValidation,
    VALIDATE_OUTPUT: OutputValidation,
    CONFIRM: Confirmation,
}


def _problem_of_projection(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be a JMESPath expression, or null"
    try:
        Projection(value)
    except ProjectionError as exc:
        return str(exc)
    return None


def _projection(value: object) -> str | None:
    # What is none is told of by each call: an answer must not be shown whole that should not be.
    return None if value is None else str(value)


def _are_tags(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_BILLING_TAGS
        and all(
            isinstance(tag, str)
            and 0 < len(tag.strip()) == len(tag) <= MAX_BILLING_TAG_CHARACTERS
            and tag.isprintable()
            for tag in value
        )
        and len(set(value)) == len(value)
    )


Choice = TypeVar("Choice", bound=StrEnum)


def _choice(
    kind: type[Choice], name: str, said: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Choice | None:
    """Return the tool's own choice, else its server's; the strictest for an unreadable one."""
    for source in (said, defaults):
        value = source.get(name)
        if value is not None:
            try:
                return kind(value)
            except ValueError:
                return next(iter(kind))
    return None


def _is_confirmed(
    said: Mapping[str, Any],
    facets: tuple[str, ...],
    defaults: Mapping[str, Any],
    *,
    is_shared: bool,
) -> bool:
    chosen = _choice(Confirmation, CONFIRM, said, defaults)
    if chosen is None:
        return is_shared and said.get(DESTRUCTIVE) is True
    if chosen is Confirmation.WHEN_DESTRUCTIVE:
        return facet(DESTRUCTIVE, value=True) in facets
    return chosen is Confirmation.ALWAYS


def _tags(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    tags = {tag for tag in value if isinstance(tag, str) and tag}
    return tuple(sorted(tags)[:MAX_BILLING_TAGS])


def _is_price(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Less than a millionth would be counted as nothing.
    return 0 <= value <= MAX_PRICE and round(value * MILLION) / MILLION == value


def _price(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    if not 0 <= value <= MAX_PRICE:
        return 0
    return round(value * MILLION)
