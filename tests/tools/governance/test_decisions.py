"""What decisions about a tool mean, whatever its row holds."""

from itertools import product
from typing import Any

import pytest
from bson import ObjectId

from packages.models.states import ExposureState, RegistrationState
from registry.core.errors import RegistryError
from registry.tools.documents import stored_tool
from registry.tools.governance.decisions import ToolDecisionEffects, accepted, rejected
from registry.tools.governance.errors import NothingPendingError, ToolStateError
from registry.tools.values import StoredTool

DEFINITION = '{"name":"t","inputSchema":{"type":"object"}}'


def tool(**fields: Any) -> StoredTool:
    """Return a tool as it is read from a row, which another program may have written."""
    row = {
        "_id": ObjectId(),
        "owner_id": ObjectId(),
        "name": "t",
        "definition": DEFINITION,
        "discovery_hash": "served",
        "registration_state": "selected",
        "exposure_state": "active",
        **fields,
    }
    return stored_tool({name: value for name, value in row.items() if value is not None})


def outcome(decide: Any, decided: StoredTool) -> ToolDecisionEffects | type[RegistryError]:
    try:
        decision: ToolDecisionEffects = decide(decided, decided.decision_hash)
    except RegistryError as exc:
        return type(exc)
    return decision


@pytest.mark.parametrize("decide", [accepted, rejected])
@pytest.mark.parametrize(
    "half", [{"pending_hash": "new"}, {"pending_definition": DEFINITION}], ids=str
)
def test_nobody_can_decide_about_half_a_definition(decide: Any, half: dict[str, str]) -> None:
    assert outcome(decide, tool(**half)) is NothingPendingError


def test_a_definition_that_is_no_json_cannot_be_accepted() -> None:
    waiting = tool(pending_hash="new", pending_definition="[" * 100)

    assert outcome(accepted, waiting) is NothingPendingError


def test_a_definition_that_is_no_tool_cannot_be_accepted() -> None:
    assert outcome(accepted, tool(pending_hash="new", pending_definition="{}")) is ToolStateError


@pytest.mark.parametrize("decide", [accepted, rejected])
def test_every_row_is_decided_about_or_refused_in_words(decide: Any) -> None:
    for state, exposure, half, definition, blocked in product(
        [*RegistrationState, "odd", None],
        [*ExposureState, 5, None],
        ["new", 5, None],
        [DEFINITION, "{}", "no json", 5, None],
        [True, "yes", None],
    ):
        decided = tool(
            registration_state=state,
            exposure_state=exposure,
            pending_hash=half,
            pending_definition=definition,
            is_blocked=blocked,
        )

        assert outcome(decide, decided)
